"""Measure the seconds per stage of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Add up the seconds spent in named stages; `seconds` maps each stage to its total."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start = time.perf_counter()

    def add_earlier(self, seconds: dict[str, float], total: float) -> None:
        """Add what earlier runs into the same folder took: per stage, and in total."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self.start -= total

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block to the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Return the seconds since the start, plus those of earlier runs."""
        return time.perf_counter() - self.start

    def table(self) -> str:
        """Return the stages as text, in order of first use, with their share of the total."""
        total = self.total()
        rows = [*self.seconds.items(), ("other", total - sum(self.seconds.values()))]
        lines = [f"{name:12} {value:9.1f} s {value / total:6.1%}" for name, value in rows]
        return "\n".join([*lines, f"{'total':12} {total:9.1f} s"])
