"""An end to what takes too long."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 5  # of a processor, for one case
BLOCKED = 60  # seconds of the clock: a reader that waits for something uses no processor


class Hang(BaseException):
    """No reader takes this for a fault of its file."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Ends what takes too long."""

    def stop(number, frame):
        raise Hang

    timers = (
        (signal.ITIMER_REAL, signal.SIGALRM, BLOCKED),
        (signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
    )
    before = [(kind, signal.signal(kind, stop)) for _, kind, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for kind, handler in before:
            signal.signal(kind, handler)
