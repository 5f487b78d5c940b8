"""The types of settings: check the value of a constant, and say what a value may be."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin


def has_type(value: object, hint: object) -> bool:
    """Return whether a value has the type of a setting.

    >>> has_type((0, 1), tuple[int, ...]), has_type(4, tuple[int, ...])
    (True, False)
    >>> has_type("big", int | Literal["all"])
    False
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(has_type(item, arguments[0]) for item in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def describe_type(hint: object) -> str:
    """Return in words what a constant of a runner may be.

    >>> describe_type(int | Literal["all"])
    'a whole number or "all"'
    >>> describe_type(tuple[int, ...])
    'a tuple, each entry a whole number; a single entry needs a comma: (x,)'
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return one_of([f'"{value}"' for value in arguments])
    if origin in (Union, UnionType):
        return " or ".join(map(describe_type, arguments))
    if origin is tuple:
        entry = describe_type(arguments[0])
        return f"a tuple, each entry {entry}; a single entry needs a comma: (x,)"
    words = {str: "text in quotes", int: "a whole number", float: "a number", bool: "True or False"}
    return words.get(hint, "None")


def describe_option(hint: object) -> str:
    """Return in words what the value of an option may be on the command line.

    A text may have an annotation with a `metavar`, such as "auto|keep|FOLDER", which says more.

    >>> describe_option(int | None)
    'a whole number'
    >>> describe_option(tuple[int, ...])
    'a whole number, or several separated by spaces'
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *details = arguments
        metavars = [detail.metavar for detail in details if getattr(detail, "metavar", None)]
        if kind is str and metavars:
            return one_of(metavars[0].split("|"))
        return describe_option(kind)
    if origin in (Union, UnionType):
        return " or ".join(describe_option(kind) for kind in arguments if kind is not NoneType)
    if origin is tuple:
        return f"{describe_option(arguments[0])}, or several separated by spaces"
    return {str: "text", Path: "a path"}.get(hint) or describe_type(hint)


def alternatives(hint: object) -> list[object]:
    """Return the types that an option may have, without None.

    >>> alternatives(Annotated[int | Literal["all"] | None, "note"])
    [<class 'int'>, typing.Literal['all']]
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return alternatives(arguments[0])
    if origin in (Union, UnionType):
        return [kind for argument in arguments for kind in alternatives(argument)]
    return [] if hint is NoneType else [hint]


def is_text(hint: object) -> bool:
    """Return whether an option takes any text, such as a path."""
    return not {str, Path}.isdisjoint(alternatives(hint))


def is_flag(hint: object) -> bool:
    """Return whether an option takes no value, as in --maps and --no-maps."""
    return (get_args(hint)[0] if get_origin(hint) is Annotated else hint) is bool


def most_values(hint: object) -> float:
    """Return how many values an option takes at most."""
    if any(get_origin(kind) is tuple for kind in alternatives(hint)):
        return math.inf
    return 0 if is_flag(hint) else 1


def one_of(values: Sequence[str]) -> str:
    """Return a list of allowed values in words.

    >>> one_of(["fp16", "fp32"]), one_of(["all", "none", "N"])
    ('fp16 or fp32', 'one of all, none, N')
    """
    return " or ".join(values) if len(values) < 3 else f"one of {', '.join(values)}"
