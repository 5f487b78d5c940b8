"""Log to the console, unless a run is quiet, and to run.log in its result folder.

`log.debug` is for run.log alone: checksums, timings and other details that nobody waits for.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from tqdm import tqdm

from utils.errors import ANOTHER_FOLDER, InputError

PROGRESS_INTERVAL_S = 60.0  # between two states of a progress bar that is written to a file
LINE_FORMAT = "%(asctime)s %(message)s"  # of run.log

log = logging.getLogger("winclip")
log.setLevel(logging.DEBUG)
log.propagate = False


class Console(logging.Handler):
    """Print each message to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message and flush, so that pipes show it at once."""
        print(record.getMessage(), flush=True)


class LogFile(logging.FileHandler):
    """Append messages to a file; raise `InputError` when the file cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Raise `InputError` for a write error, such as a full disk."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        raise InputError(
            f"cannot write {self.baseFilename}: {error.strerror}; free some space or choose "
            f"{ANOTHER_FOLDER}"
        ) from error


def log_results(folder: Path, page: str) -> None:
    """Log where the results are, and the page to open first."""
    log.info(f"\nresults are in {folder.absolute()}; open {folder.absolute() / page}")


def progress_bar(work: Iterable | None = None, **options) -> tqdm:
    """Return a tqdm bar; when standard error is not a terminal, it prints once a minute."""
    if not sys.stderr.isatty():
        options |= {"mininterval": PROGRESS_INTERVAL_S, "maxinterval": PROGRESS_INTERVAL_S}
    return tqdm(work, **options)


@contextmanager
def log_to_console(quiet: bool) -> Iterator[None]:
    """Print the messages that are logged within the block, unless `quiet`."""
    handler = Console(logging.INFO)
    if not quiet:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def suppress_output(quiet: bool) -> Iterator[None]:
    """Discard everything that is printed within the block, if `quiet`."""
    with ExitStack() as stack:
        if quiet:
            devnull = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(devnull))
            stack.enter_context(redirect_stderr(devnull))
        yield


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the messages of the block to the file `path`, and the `InputError` that ends it."""
    try:
        handler = LogFile(path, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose {ANOTHER_FOLDER}"
        ) from error
    handler.setFormatter(logging.Formatter(LINE_FORMAT))
    log.addHandler(handler)
    try:
        yield
    except InputError as error:
        message = f"error: {error}"
        with suppress(InputError):  # the log file itself may be what failed
            handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, message, (), None))
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # a full disk was reported when a message was written
            handler.close()
