"""The command line of every script: options from a frozen dataclass, and one-line errors."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar, get_type_hints

import tyro

from utils.errors import InputError
from utils.files import PROJECT
from utils.option_types import describe_option, is_flag, is_text, most_values

Options = TypeVar("Options")
TYRO_FRAME = "│╭╮╰╯─"  # the characters that tyro draws around its messages
EMPTY = ("", "''", "None")  # tyro's words for the defaults (), "" and None
SIMILARITY = 0.71  # at least, of a suggested option: --root suggests --data-root
GIVEN: dict[str, list[str]] = {}  # the words of the command line for each option, by its name
OFFERED: set[str] = set()  # the names of the script's options; empty without a command line


def default_text(text: str, metavar: str | None = None) -> object:
    """Make --help show `text` as the default of an option whose default is empty.

    Another default, from a runner's constant, is shown as it is.
    """
    return tyro.conf.arg(
        metavar=metavar,
        help_behavior_hint=lambda value: f"(default: {text if value in EMPTY else value})",
    )


def parse_options(default: Options, description: str, script: Path) -> Options:
    """Return `default` with the command line's overrides applied.

    `default` is an instance of a dataclass whose fields are documented by strings below them; tyro
    reads types and help from it. Messages quote the options from now on (`spell`). Raises
    `InputError` (exit status 2) for a wrong option.
    """
    hints = option_types(type(default))
    OFFERED.clear()
    OFFERED.update(hints)
    strays = record_options(sys.argv[1:])
    path = script.resolve()
    program = str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else script.name
    fault = describe_fault(strays, hints)
    if not fault or {"-h", "--help"} & {*sys.argv}:
        messages = io.StringIO()
        try:
            with contextlib.redirect_stderr(messages):
                return tyro.cli(
                    type(default), default=default, description=description, prog=program
                )
        except SystemExit as end:
            if not end.code:
                raise  # --help
        fault = describe_tyro_error(messages.getvalue(), hints)
    raise InputError(f"{fault}; python {program} --help lists all options", status=2)


def option_types(kind: type) -> dict[str, object]:
    """Return the types of the options of a dataclass by name, without those that are hidden."""
    hints = get_type_hints(kind, include_extras=True)
    return {n: hint for n, hint in hints.items() if not has_marker(hint, tyro.conf.Suppress)}


def has_marker(hint: object, marker: object) -> bool:
    """Return whether the annotation of an option contains one of tyro's markers."""
    return marker in getattr(hint, "__metadata__", ())


def record_options(words: Sequence[str]) -> list[str]:
    """Record the options among the words of a command line in GIVEN; --no-maps as "maps".

    Returns the words before the first option.
    """
    GIVEN.clear()
    current = strays = []
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--").replace("-", "_").removeprefix("no_")
            current = GIVEN[name] = []
        current.append(word)
    return strays


def describe_fault(strays: Sequence[str], hints: Mapping[str, object]) -> str | None:
    """Return one sentence about options that do not exist, or words that belong to none.

    `hints` maps the names of the options to their types; options that resemble a misspelt one are
    suggested. None if there is no such fault. Where a script has an option without a name, which
    can follow any other, the words are left to tyro.
    """
    named = {n: hint for n, hint in hints.items() if not has_marker(hint, tyro.conf.Positional)}
    if unknown := [words[0] for name, words in GIVEN.items() if not is_option(name, named)]:
        options = [f"--{name.replace('_', '-')}" for name in named]
        listed = []
        for word in unknown:
            option = word.partition("=")[0]
            near = get_close_matches(option, options, n=1, cutoff=SIMILARITY)
            listed.append(f"{option} (did you mean {near[0]}?)" if near else option)
        return f"Unrecognized options: {', '.join(listed)}"
    if len(named) < len(hints):
        return None
    if strays:
        return f'"{strays[0]}" belongs to no option'
    for name in GIVEN:
        if name in hints and has_surplus(name, hints[name]):
            return describe_value(name, hints[name])
    return None


def is_option(name: str, hints: Mapping[str, object]) -> bool:
    """Return whether a name in GIVEN is that of an option, also of one that tyro adds."""
    negated = GIVEN[name][0].startswith("--no-")
    return name.startswith("tyro_") or (name in hints and (not negated or is_flag(hints[name])))


def has_surplus(name: str, hint: object) -> bool:
    """Return whether an option was given more values than it takes."""
    option, *values = GIVEN[name]
    return len(values) + ("=" in option) > most_values(hint)


def describe_tyro_error(message: str, hints: Mapping[str, object]) -> str:
    """Return one sentence about a value that tyro refuses, from its message."""
    lines = [line.strip(TYRO_FRAME + " ") for line in message.splitlines()[1:]]
    paragraph = lines[: lines.index("")] if "" in lines else lines
    text = " ".join(paragraph).rstrip(".")
    option = re.search(r"--([\w-]+)", text)
    name = option[1].replace("-", "_") if option else ""
    return describe_value(name, hints[name]) if name in GIVEN and name in hints else text


def describe_value(name: str, hint: object) -> str:
    """Return one sentence that quotes a refused option and says what its value may be."""
    if is_flag(hint):
        flag = name.replace("_", "-")
        expected = f"--{flag} or --no-{flag}, without a value"
    elif has_surplus(name, hint) and is_text(hint):
        expected = "one value; put text with spaces in quotes"
    else:
        expected = describe_option(hint)
    return f"{spell(name, None)}: expected {expected}"


def offers(name: str) -> bool:
    """Return whether the running script has this option; True if none was parsed."""
    return not OFFERED or name in OFFERED


def label(name: str) -> str:
    """Return the name of a setting as the user gave it: that of an option, or of a constant."""
    return GIVEN.get(name, [name.upper()])[0].partition("=")[0]


def spell(name: str, value: object) -> str:
    """Return a setting with its value as the user gave it: as an option, or as a constant."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return shlex.join(GIVEN.get(name, [])) or f"{name.upper()} = {text}"


def print_stderr(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_on_error(report: Callable[[str], None] = print_stderr) -> Iterator[None]:
    """End the process with one line on standard error if the block raises an `InputError`.

    Ctrl-C and SIGTERM also end it with one line, and with exit status 128 + signal number.
    `report` writes the line; a distributed run passes one that prints it only once. A reader that
    closes standard output, as `| head` does, ends the process silently.
    """
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by `utils.startup`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            sys.stdout.flush()  # --help ends here, too
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        raise SystemExit(1) from None
    except InputError as error:
        report(f"error: {error}")
        raise SystemExit(error.status) from None
    except KeyboardInterrupt as interrupt:
        report(getattr(interrupt, "sentence", "interrupted; any finished work is kept"))
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        raise SystemExit(128 + number) from None


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main` within `exit_on_error`."""
    with exit_on_error():
        main()


def _raise_interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)
