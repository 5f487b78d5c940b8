"""What is run: the images, their references, and what a reader must know of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from datasets.official import OFFICIAL, differences
from datasets.references import draw_references, listed_references, read_references
from datasets.splits import (
    SPLITS_FOLDER,
    Sample,
    first_of_each_defect,
    read_recipe,
    read_root,
    read_split,
)
from utils.errors import InputError
from utils.files import sha256_of, user_path
from utils.run.inference import Plan
from utils.run.settings import Settings


@dataclass(frozen=True)
class Job:
    """What is run: which images, where they are, and what a reader must know of them."""

    root: Path
    plans: list[Plan]
    categories: list[str]  # all that the benchmark has; fewer may be planned
    notes: list[str]
    identity: dict  # what the results depend on besides the settings and the weights


def job_of(settings: Settings) -> Job:
    """The job that a benchmark's settings describe."""
    split = SPLITS_FOLDER / f"{settings.dataset}.csv"
    split = split if settings.split == "auto" else user_path(settings.split)
    samples = read_split(split)
    root = find_root(settings)
    identity = {"split_sha256": sha256_of(split)}
    if recipe := read_recipe(root):
        identity["recipe"] = recipe
    return Job(
        root,
        make_plans(settings, samples),
        categories_of(settings.dataset, samples),
        notes_on(settings, samples),
        identity,
    )


def categories_of(dataset: str, samples: Sequence[Sample]) -> list[str]:
    """The benchmark's own categories; those of the split where it has others, one's own data."""
    official, here = list(OFFICIAL[dataset]), {sample.class_name for sample in samples}
    return official if here.issubset(official) else sorted(here)


def find_root(settings: Settings) -> Path:
    """The data root: as given, or as the preparation script recorded it."""
    if settings.data_root == "auto":
        root = read_root(settings.dataset)
    else:
        root = user_path(settings.data_root)
    if not root.is_dir():
        raise InputError(
            f"DATA_ROOT: there is no folder {root}; give the folder of the raw dataset, or run "
            f"python datasets/{settings.dataset}.py --data-root DIR again"
        )
    return root


def make_plans(settings: Settings, samples: Sequence[Sample]) -> list[Plan]:
    """What each wanted category needs; sorted, so that no result depends on a file's order."""
    in_split = sorted({sample.class_name for sample in samples})
    for wanted in settings.named_categories():
        if wanted not in in_split:
            near = " or ".join(f'"{name}"' for name in get_close_matches(wanted, in_split))
            hint = f" (did you mean {near}?)" if near else ""
            raise InputError(
                f'there is no category "{wanted}" in the split{hint}; it has {", ".join(in_split)}'
            )
    given = None
    if settings.references != "draw":
        given = read_references(user_path(settings.references))
    plans = []
    for category in in_split:
        if settings.categories and category not in settings.categories:
            continue
        rows = sorted(sample for sample in samples if sample.class_name == category)
        train = [sample for sample in rows if sample.split == "train" and sample.label == 0]
        tests = [sample for sample in rows if sample.split == "test"]
        if settings.limit is not None:
            tests = [tests[row] for row in first_of_each_defect(tests, settings.limit)]
        if not tests:
            raise InputError(f"{category} has no test images in the split; prepare it again")
        if given is None:
            runs = draw_references(train, settings.shots, settings.seeds)
        else:
            runs = listed_references(given, train, settings.shots, settings.seeds)
        used = {image for one in runs for image in one.images}
        references = [sample for sample in train if sample.image in used]
        plans.append(Plan(category, runs, references, tests))
    return plans


def notes_on(settings: Settings, samples: Sequence[Sample]) -> list[str]:
    """What a reader of any number must know of the data."""
    notes = []
    if settings.dataset == "demo":
        notes.append("RENDERED DATA: not comparable with published results")
    if settings.limit is not None:
        notes.append(f"LIMIT = {settings.limit}: only the first images of each defect were scored")
    _, wrong = differences(settings.dataset, samples)
    if wrong:
        of = f"{len(wrong)} of {len(OFFICIAL[settings.dataset])} categories"
        notes.append(f"NOT THE OFFICIAL DATA: other counts in {of}")
    return notes
