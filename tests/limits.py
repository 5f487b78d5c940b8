"""A time limit for code that may hang."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

CPU_SECONDS = 5  # for one case
WALL_SECONDS = 60  # a blocked reader uses no CPU time


class Hang(BaseException):
    """Raised after the limit; readers that catch `Exception` do not catch it."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `Hang` after CPU_SECONDS or WALL_SECONDS."""

    def stop(number, frame):
        raise Hang

    timers = (
        (signal.ITIMER_REAL, signal.SIGALRM, WALL_SECONDS),
        (signal.ITIMER_PROF, signal.SIGPROF, CPU_SECONDS),
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
