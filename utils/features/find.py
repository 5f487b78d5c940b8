"""Find the kept features of a run's images; a run without any does not load the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.clip.weights import ClipSource, LoadedClip
from utils.distributed import DistributedContext
from utils.experiment.plan import CategoryTask, Experiment
from utils.experiment.settings import Settings
from utils.files import sha256_of
from utils.results.folder import FEATURES_JSON

if TYPE_CHECKING:
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
    from utils.features.stores import open_features

    return open_features(settings, experiment, source, shards, context)


def may_use_features(settings: Settings) -> bool:
    """Return whether a run keeps or names features, or finds some, or a run that it resumes."""
    files = [folder / FEATURES_JSON for folder in settings.features_folders()]
    files.append(Path(settings.result_dir) / "settings.json")
    return settings.features not in ("auto", "off") or any(file.exists() for file in files)


def describe_model(settings: Settings, source: ClipSource | LoadedClip) -> dict:
    """Return what identifies the model in a fingerprint."""
    model = sha256_of(Path(settings.model)) if settings.model.endswith(".json") else settings.model
    return {
        "model": model,
        "weights": source.weights.sha256 or source.weights.description,
        "normalisation": [source.mean, source.std],
        "quick_gelu": source.quick_gelu,
    }


def images_of(tasks: Sequence[CategoryTask]) -> list[str]:
    """Return the paths of all images of some tasks."""
    return [s.image for task in tasks for s in (*task.references, *task.tests)]
