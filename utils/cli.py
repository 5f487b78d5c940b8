"""The command line of every script: options from a frozen dataclass, and one-line errors."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar, get_type_hints

import tyro

from utils.errors import InputError
from utils.types import describe_option

Options = TypeVar("Options")
TYRO_FRAME = "│╭╮╰╯─"  # the characters that tyro draws around its messages
EMPTY = ("", "''", "None")  # tyro's words for the defaults (), "" and None
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
    hints = get_type_hints(type(default))
    OFFERED.clear()
    OFFERED.update(hints)
    record_options(sys.argv[1:])
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                type(default), default=default, description=description, prog=script.name
            )
    except SystemExit as end:
        if end.code:
            raise InputError(usage_error(messages.getvalue(), script, hints), status=2) from None
        raise  # --help


def usage_error(message: str, script: Path, hints: Mapping[str, object]) -> str:
    """Return one sentence about a wrong command line from tyro's error message.

    `hints` maps the names of the options, with underscores, to their types. A value that is refused
    is quoted with what is allowed; options that resemble a misspelt one are suggested.
    """
    lines = [line.strip(TYRO_FRAME + " ") for line in message.splitlines()[1:]]
    paragraph = lines[: lines.index("")] if "" in lines else lines
    text = " ".join(paragraph).rstrip(".")
    if name := refused_option(text, hints):
        option = name.replace("_", "-")
        flags = f"--{option} or --no-{option}, without a value"
        expected = flags if hints[name] is bool else describe_option(hints[name])
        text = f"{spell(name, None)}: expected {expected}"
    else:
        options = [f"--{name.replace('_', '-')}" for name in hints]
        given = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("--")]
        near = [get_close_matches(word, options, n=1) for word in given if word not in options]
        text += "".join(f" (did you mean {match}?)" for matches in near for match in matches)
    return f"{text}; python {script.name} --help lists all options"


def refused_option(text: str, names: Iterable[str]) -> str | None:
    """Return the option that tyro's error message names, or whose value it calls unrecognized.

    None for an option that does not exist, or that was not given.
    """
    if option := re.search(r"--([\w-]+)", text):
        name = option[1].replace("-", "_")
        return name if name in GIVEN and name in names else None
    value = text.rpartition(" ")[2]
    for name, (option, *values) in GIVEN.items():
        if name in names and value in (*values, option.partition("=")[2]):
            return name
    return None


def record_options(words: Sequence[str]) -> None:
    """Record the options among the words of a command line in GIVEN; --no-maps as "maps"."""
    GIVEN.clear()
    current: list[str] = []
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--").replace("-", "_").removeprefix("no_")
            current = GIVEN[name] = []
        current.append(word)


def offers(name: str) -> bool:
    """Return whether the script has this option; an ablation offers only some of a runner's."""
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
