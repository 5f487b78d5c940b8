"""The one error that a user can cause, and how a script ends on it.

Everything a user can get wrong (a missing file, an unknown class, an unwritable folder) is
raised as `InputError` with one sentence: what was given, what is wrong, what to do next.
"""

import signal
import sys
import textwrap
from collections.abc import Callable

ANOTHER_FOLDER = "another folder with RESULT_DIR (--result-dir)"


class InputError(Exception):
    """A user's mistake, in one sentence: what, where, what to do next; and the exit status."""

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


def tell(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def exit_with_sentence(main: Callable[[], None], tell: Callable[[str], None] = tell) -> None:
    """Run a script's `main`; an `InputError` becomes one line on stderr and its exit status.

    Ctrl-C and SIGTERM end it with one line too, and with the status that shells give them. `tell`
    writes the line, where several processes end together.
    """
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except InputError as error:
        tell(f"error: {error}")
        raise SystemExit(error.status) from None
    except KeyboardInterrupt as end:
        tell("interrupted; what was finished is kept")
        raise SystemExit(128 + (end.args[0] if end.args else signal.SIGINT)) from None


def interrupt(number: int, _frame: object) -> None:
    """Handle a signal as Ctrl-C is handled."""
    raise KeyboardInterrupt(number)


def in_short(error: Exception) -> str:
    """The first words of what a library says of an error, on one line."""
    return textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" ...")
