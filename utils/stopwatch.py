"""Seconds per stage of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds spent in named stages; `seconds` maps a stage to its total."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start = time.perf_counter()

    def go_on_from(self, seconds: dict[str, float], total: float) -> None:
        """Add what an earlier run measured: its stages, and its total."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self.start -= total

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the stopwatch was made, and those of earlier runs."""
        return time.perf_counter() - self.start

    def share(self, name: str) -> float:
        """The share of the total spent in a stage so far, 0 to 1."""
        return self.seconds.get(name, 0.0) / self.total()

    def table(self) -> str:
        """The stages in their order, with their share of the total."""
        total = self.total()
        rows = [*self.seconds.items(), ("other", total - sum(self.seconds.values()))]
        lines = [f"{name:12} {value:9.1f} s {value / total:6.1%}" for name, value in rows]
        return "\n".join([*lines, f"{'total':12} {total:9.1f} s"])
