"""A script's options from a frozen dataclass: types, defaults and help come from one place."""

import contextlib
import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

from utils.errors import InputError

Options = TypeVar("Options")
BOX = "│╭╮╰╯─"  # tyro frames its messages; a sentence has no frame


def parse_options(default: Options, description: str, script: Path) -> Options:
    """`default` with what the command line overrides; a wrong option is an `InputError`.

    `default` is an instance of a dataclass whose fields are documented by strings below them.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                type(default), default=default, description=description, prog=script.name
            )
    except SystemExit as end:
        if end.code:
            raise InputError(one_sentence(messages.getvalue(), script), status=2) from None
        raise


def one_sentence(message: str, script: Path) -> str:
    """What tyro says of a wrong option, without its frame and its second thoughts."""
    lines = [line.strip(BOX + " ") for line in message.splitlines()[1:]]
    told = lines[: lines.index("")] if "" in lines else lines
    return f"{' '.join(told).rstrip('.')}; python {script.name} --help lists all options"


def print_stderr(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def run_cli(main: Callable[[], None], report: Callable[[str], None] = print_stderr) -> None:
    """Run a script's `main`; an `InputError` becomes one line on stderr and its exit status.

    Ctrl-C and SIGTERM end it with one line too, and with the status that shells give them. `report`
    writes the line, where several processes end together.
    """
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except InputError as error:
        report(f"error: {error}")
        raise SystemExit(error.status) from None
    except KeyboardInterrupt as end:
        report("interrupted; what was finished is kept")
        raise SystemExit(128 + (end.args[0] if end.args else signal.SIGINT)) from None


def interrupt(number: int, _frame: object) -> None:
    """Handle a signal as Ctrl-C is handled."""
    raise KeyboardInterrupt(number)
