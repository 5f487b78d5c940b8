"""Find the kept features of a run's images; a run without any does not load the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.clip.weights import ClipSource
from utils.distributed.context import DistributedContext
from utils.experiment.plan import CategoryTask, Experiment
from utils.experiment.settings import Settings
from utils.results.folder import FEATURES_JSON

if TYPE_CHECKING:  # only runs with kept features load it
    from utils.features.kept import KeptFeatures


def find_features(
    settings: Settings,
    experiment: Experiment,
    source: ClipSource,
    shards: Sequence[CategoryTask],
    context: DistributedContext,
) -> "KeptFeatures | None":
    """Find the kept features of this process's images; None if the run has no store.

    Raises `InputError` for features of other settings or images in the run's result folder, or in
    the one that FEATURES names.
    """
    if not context.broadcast(may_use_features(settings)):
        return None
    from utils.features.stores import open_features  # only runs with kept features load it

    return open_features(settings, experiment, source, shards, context)


def may_use_features(settings: Settings) -> bool:
    """Return whether a run keeps or names features, finds some, or resumes an earlier run."""
    files = [folder / FEATURES_JSON for folder in settings.features_folders()]
    files.append(Path(settings.result_dir) / "settings.json")
    return settings.features not in ("auto", "off") or any(file.exists() for file in files)
