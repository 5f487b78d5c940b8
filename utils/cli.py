"""The command line of every script: options from a frozen dataclass, and one-line errors."""

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import tyro

from utils.errors import InputError

Options = TypeVar("Options")
TYRO_FRAME = "│╭╮╰╯─"  # the characters that tyro draws around its messages


def parse_options(default: Options, description: str, script: Path) -> Options:
    """Return `default` with what the command line overrides.

    `default` is an instance of a dataclass whose fields are documented by strings below them; tyro
    reads types and help from it. A wrong option is an `InputError` with exit status 2.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                type(default), default=default, description=description, prog=script.name
            )
    except SystemExit as end:
        if end.code:
            raise InputError(usage_error(messages.getvalue(), script), status=2) from None
        raise  # --help


def usage_error(message: str, script: Path) -> str:
    """Return the first paragraph of tyro's error message as one sentence, without the frame."""
    lines = [line.strip(TYRO_FRAME + " ") for line in message.splitlines()[1:]]
    paragraph = lines[: lines.index("")] if "" in lines else lines
    return f"{' '.join(paragraph).rstrip('.')}; python {script.name} --help lists all options"


def print_stderr(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_on_error(report: Callable[[str], None] = print_stderr) -> Iterator[None]:
    """End the process with one line on standard error if the block raises an `InputError`.

    Ctrl-C and SIGTERM also end it with one line, and with exit status 128 + signal number.
    `report` writes the line; a distributed run passes one that prints it only once.
    """
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    except InputError as error:
        report(f"error: {error}")
        raise SystemExit(error.status) from None
    except KeyboardInterrupt as interrupt:
        report("interrupted; finished work is kept")
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        raise SystemExit(128 + number) from None


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main` within `exit_on_error`."""
    with exit_on_error():
        main()


def _raise_interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)
