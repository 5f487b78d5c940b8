"""Write scored categories, in worker processes while the next one is encoded.

done/<category>.json comes last and marks the category as finished.
"""

import pickle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from utils.category.files import category_calls
from utils.category.panels import Target, panel_paths
from utils.category.result import CategoryResult
from utils.experiment.plan import CategoryTask
from utils.files import atomic_path
from utils.results.methods import has_maps
from utils.run.session import Session
from utils.stopwatch import WORKERS, Stopwatch

MAX_WAITING = 4  # scored categories whose data waits in files; bounds the disk space


class CategoryWriter:
    """Write scored categories, in the session's worker processes if it has any.

    A category that all workers have written is marked as finished, in the main process;
    `after_category` is then called. On exit, wait for all scored categories, even after an error,
    but not if the run is interrupted. The first error is raised.
    """

    def __init__(self, session: Session, after_category: Callable[[], object]):
        self.session = session
        self.after_category = after_category
        self.waiting: deque[tuple[CategoryTask, list[Future]]] = deque()

    def __enter__(self) -> "CategoryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            return
        errors = []
        while self.waiting:
            try:
                self.finish_written(0)
            except Exception as error:  # the other categories may have been written
                errors.append(error)
        if errors and kind is None:
            raise errors[0]

    def write(self, task: CategoryTask, result: CategoryResult) -> None:
        """Write a category, or have the workers write it; then `finish_written`."""
        target = target_of(self.session)
        settings = self.session.settings
        panels = panel_paths(task, settings.heatmaps) if has_maps(vars(settings)) else {}
        calls = category_calls(task, result, panels, target)
        if self.session.pool is None:
            record, *_ = [call(*arguments, self.session.clock) for call, *arguments in calls]
            self._finish(task, record)
            return
        futures = []
        for index, call in enumerate(calls):
            path = target.folder / f".{task.category}-{index}.part"
            store_call(path, call)
            futures.append(self.session.pool.submit(call_stored, path))
        self.waiting.append((task, futures))
        self.finish_written()

    def finish_written(self, limit: int = MAX_WAITING) -> None:
        """Finish written categories; block while more than `limit` are pending.

        Raises the error of a worker process; its category is no longer pending.
        """
        while self.waiting:
            task, futures = self.waiting[0]
            if len(self.waiting) <= limit and not all(future.done() for future in futures):
                return
            self.waiting.popleft()
            with self.session.clock.stage("wait for workers"):
                (record, seconds), *others = [future.result() for future in futures]
            for times in (seconds, *(times for _, times in others)):
                self.session.clock.add(times, WORKERS)
            self._finish(task, record)

    def _finish(self, task: CategoryTask, record: dict) -> None:
        self.session.folder.finish(task.category, record)
        self.session.folder.write_times(self.session.clock)
        self.after_category()


def target_of(session: Session) -> Target:
    """Return the target of a session's files."""
    settings, experiment, folder = session.settings, session.experiment, session.folder
    return Target(
        folder=folder.path,
        notes=folder.record["notes"],
        root=experiment.root,
        apply_exif=experiment.apply_exif,
        white=experiment.white,
        heatmap_size=settings.heatmap_size,
        false_alarms=getattr(settings, "false_alarms", None),
        extra_metrics=settings.extra_metrics,
    )


def store_call(path: Path, call: tuple) -> None:
    """Write a function and its arguments to a file for `call_stored`.

    Sending them through the queue of the process pool could hang: if a worker dies, nobody reads
    the rest.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        pickle.dump(call, stream, pickle.HIGHEST_PROTOCOL)


def call_stored(path: Path) -> tuple[object, dict[str, float]]:
    """Run a stored call in a worker; return its result and its seconds by stage."""
    with path.open("rb") as stream:
        function, *arguments = pickle.load(stream)
    path.unlink()
    clock = Stopwatch()
    return function(*arguments, clock), clock.seconds
