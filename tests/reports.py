"""Make result folders from fabricated scores with metrics computed by hand, and their pages."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from datasets.decode import make_thumbnail
from datasets.official import OFFICIAL
from datasets.references import NO_SEED, ShotSetting
from datasets.splits import Sample
from utils.category.result import CategoryResult
from utils.distributed.context import SINGLE_PROCESS
from utils.experiment.plan import CategoryTask, Experiment
from utils.experiment.settings import Settings
from utils.results.folder import ResultFolder
from utils.results.methods import variant_of
from utils.results.scores import Scores
from utils.run.benchmark import finish
from utils.run.session import Session
from utils.run.writer import CategoryWriter
from utils.stopwatch import Stopwatch

HOSTILE = "</script><script>document.title='owned'</script>&\"'脏 é"  # a valid file name
RUNS = [ShotSetting(0, NO_SEED, ()), ShotSetting(1, 3, ("a",)), ShotSetting(1, 4, ("b",))]
LABELS = [0, 0, 0, 1, 1, 1, 1]
# 0-shot: F1-max at 0.3 (8/9), so the good 0.6 is a false alarm; AUROC 11/12.
# 1-shot seed 3: F1-max at 0.7 (6/7), so the anomalous 0.05 is missed; AUROC 9/12.
IMAGE_SCORES = [
    [0.1, 0.2, 0.6, 0.3, 0.7, 0.8, 0.9],
    [0.1, 0.5, 0.6, 0.05, 0.7, 0.8, 0.9],
    [0.1, 0.2, 0.3, 0.4, 0.7, 0.8, 0.9],
]


def samples_of(category: str, labels: list[int], stem: str) -> list[Sample]:
    """Return test samples: an anomalous one has one of two defects in turn."""
    samples = []
    for index, label in enumerate(labels):
        kind = 0 if label < 1 else 1 + index % 2
        defect = ("good", "crack", "<i>rot</i> & wet")[kind].replace("/", "")
        image = f"{category}/test/{index} {stem}.png"
        samples.append(Sample(category, "test", label, defect, image, image if label > 0 else ""))
    return samples


def scores_of(tests: list[Sample], size: tuple[int, int], tiles: int) -> Scores:
    """Fabricate scores: maps of noise, high where the masks are."""
    rng = np.random.default_rng(0)
    count = len(tests)
    maps = rng.random((len(RUNS), count * tiles, 15, 15)).astype(np.float32)
    maps[:, :, 4:9, 4:9] += 1
    return Scores(
        image=np.array([sample.image for sample in tests]),
        label=np.array([sample.label for sample in tests]),
        shots=np.array([run.shots for run in RUNS]),
        seed=np.array([run.seed for run in RUNS]),
        image_scores=np.array(IMAGE_SCORES, np.float32)[:, :count],
        maps=maps,
        tiles=np.array([(1, tiles)] * count),
        tile_side=np.full(count, min(size)),
        size=np.array([size] * count),
    )


def add_category(
    folder: ResultFolder, root: Path, category: str, labels=LABELS, stem="a", size=(60, 60), tiles=1
) -> None:
    """Finish a category with fabricated scores and images, without maps if the settings say so."""
    tests = samples_of(category, labels, stem)
    masks = [np.zeros(size, bool) for _ in tests]
    rng = np.random.default_rng(1)
    for sample, mask in zip(tests, masks, strict=True):
        path = root / sample.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        if sample.label == 1:
            mask[20:40, 20:40] = True
    thumbnails = [make_thumbnail(Image.open(root / sample.image)) for sample in tests]
    scores = scores_of(tests, size, tiles)
    if not folder.record["settings"].get("maps", True):
        scores = replace(scores, maps=None, variant=variant_of(folder.record["settings"]))
    result = CategoryResult(scores, masks, thumbnails)
    writer = CategoryWriter(session_of(folder), lambda: None)
    writer.write(CategoryTask(category, RUNS, [], tests), result)


def session_of(folder: ResultFolder) -> Session:
    """Return a session that can write finished categories, but has no model."""
    settings = Settings("mvtec", heatmaps="none")
    experiment = Experiment("MVTec AD", folder.path, [], list(OFFICIAL["mvtec"]), [], {})
    clock, nothing = Stopwatch(), SimpleNamespace()
    clock.seconds, clock.total = {"encode": 3.0, "score": 1.0}, lambda: 4.0
    return Session(
        *(settings, experiment, SINGLE_PROCESS, [], nothing, nothing), *(folder, clock, nothing)
    )


def new_folder(path: Path, **changes) -> ResultFolder:
    """Open an empty result folder with settings, of which some are changed, and a note."""
    settings = Settings("mvtec", shots=(0, 1), seeds=(3, 4), result_dir=str(path))
    record = {
        "title": "MVTec AD",
        "categories": list(OFFICIAL["mvtec"]),
        "draws_references": True,
        "settings": asdict(settings) | changes,
        "notes": ["LIMIT = 3: <only> three"],
        "weights": {"sha256": "f65b", "description": "a file"},
        "device": "CPU",
        "processes": 1,
    }
    return ResultFolder(path, record, {"split_sha256": "5af1"})


def make_result(path: Path) -> Path:
    """Make a result folder of two finished categories; the names of one try to break the page."""
    folder = new_folder(path / "result")
    add_category(folder, path / "raw", "bottle")
    add_category(folder, path / "raw", "grid", stem=HOSTILE, size=(60, 90), tiles=2)
    finish(session_of(folder))
    return folder.path


def embedded(page: str, attribute: str) -> list:
    """Parse the JSON of the data elements of a page with the given attribute."""
    pattern = rf'<script type="application/json" {attribute}>(.*?)</script>'
    return [json.loads(text) for text in re.findall(pattern, page, flags=re.S)]
