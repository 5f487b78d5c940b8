"""Measure the seconds per stage of a run."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

GPU, WORKERS = " (GPU)", " (workers)"  # suffixes of stages that run beside the main process


class Stopwatch:
    """Add up the seconds spent in named stages; `seconds` maps each stage to its total.

    The stages of the main process follow one another. A GPU and worker processes work at the same
    time; the names of their stages end in GPU or WORKERS.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start = time.perf_counter()
        self.events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    def add_earlier(self, seconds: dict[str, float], total: float) -> None:
        """Add what earlier runs into the same folder took: per stage, and in total."""
        self.add(seconds)
        self.start -= total

    def add(self, seconds: Mapping[str, float], suffix: str = "") -> None:
        """Add seconds that were measured elsewhere, to the stages with `suffix` in their names."""
        for name, value in seconds.items():
            self.seconds[name + suffix] = self.seconds.get(name + suffix, 0.0) + value

    @contextmanager
    def stage(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the duration of the block to the stage `name`.

        On a CUDA `device`, the block only starts the work; how long the GPU is busy with it is
        measured by events, without waiting, and added to the stage `name` + GPU.
        """
        on_gpu = device is not None and device.type == "cuda"
        if on_gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - start})
            if on_gpu:
                last.record()
                self.events.append((name, first, last))
            self._read_events()

    def _read_events(self) -> None:
        """Add the durations of those blocks that the GPU has finished."""
        while self.events and self.events[0][-1].query():
            name, start, end = self.events.popleft()
            self.add({name: start.elapsed_time(end) / 1000}, GPU)

    def total(self) -> float:
        """Return the seconds since the start, plus those of earlier runs."""
        return time.perf_counter() - self.start

    def table(self) -> str:
        """Return the stages as text, in order of first use, with their share of the total."""
        self._read_events()
        total = self.total()
        beside = {name: s for name, s in self.seconds.items() if name.endswith((GPU, WORKERS))}
        serial = {name: s for name, s in self.seconds.items() if name not in beside}
        serial |= {"other": total - sum(serial.values()), "total": total}
        rows = [*serial.items(), *beside.items()]
        return "\n".join(f"{name:18} {value:9.1f} s {value / total:6.1%}" for name, value in rows)
