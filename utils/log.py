"""What a run says: to the console unless it is quiet, and to run.log in its result folder."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from tqdm import tqdm

from utils.errors import ANOTHER_FOLDER, InputError

SELDOM = 60.0  # seconds between two states of a bar that goes to a file
log = logging.getLogger("winclip")
log.setLevel(logging.INFO)
log.propagate = False
STAMP = "%(asctime)s %(message)s"


class Console(logging.Handler):
    """Prints each message to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message at once, so that a pipe sees it too."""
        print(record.getMessage(), flush=True)


class LogFile(logging.FileHandler):
    """Adds messages to a file; one that takes no more is an `InputError`."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Turn what went wrong into one sentence."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        raise InputError(
            f"cannot write {self.baseFilename}: {error.strerror}; make room there, or choose "
            f"{ANOTHER_FOLDER}"
        ) from error


def progress_bar(work: Iterable | None = None, **options) -> tqdm:
    """A tqdm bar; where standard error is no terminal it tells its state every minute."""
    if not sys.stderr.isatty():
        options |= {"mininterval": SELDOM, "maxinterval": SELDOM}
    return tqdm(work, **options)


@contextmanager
def log_to_console(quiet: bool) -> Iterator[None]:
    """Within the block, messages are printed, unless `quiet`."""
    handler = Console()
    if not quiet:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def suppress_output(quiet: bool) -> Iterator[None]:
    """Within the block, nothing is printed to either stream, if `quiet`."""
    with ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Within the block, messages are added to the file `path`, and what ended it in an error."""
    try:
        handler = LogFile(path, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose {ANOTHER_FOLDER}"
        ) from error
    handler.setFormatter(logging.Formatter(STAMP))
    log.addHandler(handler)
    try:
        yield
    except InputError as error:
        with suppress(InputError):  # of the log itself
            told = f"error: {error}"
            handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, told, (), None))
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # that it is full was said before
            handler.close()
