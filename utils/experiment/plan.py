"""Plan a run before it starts: categories, reference images and test images."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from datasets.decode import SIXTEEN_BITS, White, describe_white
from datasets.images import MaskReader
from datasets.official import GROUPS, OFFICIAL, count_mismatches
from datasets.references import (
    ShotSetting,
    draw_references,
    find_copies,
    listed_references,
    read_references,
)
from datasets.splits import (
    Sample,
    first_of_each_defect,
    preparation_command,
    read_depths,
    read_notes,
    read_recipe,
    read_split,
)
from utils.cli import label
from utils.distributed.context import DistributedContext
from utils.errors import ANOTHER_FOLDER, InputError
from utils.experiment.settings import Settings
from utils.files import real_path, sha256_of

TITLES = {"mvtec": "MVTec AD", "visa": "VisA", "mpdd": "MPDD", "demo": "the demo benchmark"}


@dataclass(frozen=True)
class CategoryTask:
    """The runs and images of one category.

    In a benchmark, images are in the order of `Sample`: good ones first, then by defect and path.
    """

    category: str
    shot_settings: list[ShotSetting]  # one per run
    references: list[Sample]  # the distinct reference images of all runs
    tests: list[Sample]
    leave_one_out: bool = False  # also score each reference image against the others

    def images_with_panel(self, heatmaps: int | str) -> list[Sample]:
        """Return the test images that get a heatmap panel; `heatmaps` is the setting."""
        count = {"all": len(self.tests), "none": 0}.get(heatmaps, heatmaps)
        return [self.tests[row] for row in first_of_each_defect(self.tests, count)]

    def shard(self, context: DistributedContext) -> "CategoryTask":
        """Return the task with only the images that this process encodes."""
        return replace(
            self, references=context.shard(self.references), tests=context.shard(self.tests)
        )

    def __len__(self) -> int:
        return len(self.references) + len(self.tests)


@dataclass(frozen=True)
class Experiment:
    """A benchmark, or one category of custom images, ready to be scored."""

    title: str
    root: Path  # image paths are relative to it
    tasks: list[CategoryTask]
    categories: list[str]  # all categories of the benchmark; tasks may cover fewer
    notes: list[str]  # warnings to show beside every result
    fingerprint: dict  # what results depend on besides settings and weights
    groups: dict[str, list[str]] = field(default_factory=dict)  # categories with their own mean
    draws_references: bool = True  # with seeds; False: they are given, and there is one category
    apply_exif: bool = False  # rotate images as their EXIF data says
    white: Mapping[str, White] = field(default_factory=dict)  # by category; see `ImageDataset`
    mask_reader: MaskReader | None = None  # see `ImageDataset`
    messages: list[str] = field(default_factory=list)  # logged once when the run starts
    after_run: Callable[[Path], None] = lambda folder: None  # called with the finished folder
    faults: str = ""  # files that had to be left out: an error once all results are written


def images_of(tasks: Sequence[CategoryTask]) -> list[str]:
    """Return the paths of all images of some tasks."""
    return [s.image for task in tasks for s in (*task.references, *task.tests)]


def plan_benchmark(settings: Settings) -> Experiment:
    """Return the experiment that resolved settings describe.

    Raises `InputError` for a missing split or data root, unknown categories, and reference images
    that the split cannot provide.
    """
    samples = read_split(Path(settings.split))
    root = Path(settings.data_root)
    if not root.is_dir():
        raise InputError(
            f"{label('data_root')}: there is no folder {root}; give the folder of the raw dataset, "
            f"or run {preparation_command(settings.benchmark)} again"
        )
    if real_path(Path(settings.result_dir)) == real_path(root):
        raise InputError(f"{label('result_dir')}: {root} is the data root; choose {ANOTHER_FOLDER}")
    tasks = plan_categories(settings, samples)
    fingerprint = {"split_sha256": sha256_of(Path(settings.split)), "references": "draw"}
    if settings.references != "draw":
        fingerprint["references"] = sha256_of(Path(settings.references))
    if recipe := read_recipe(root):
        fingerprint["recipe"] = recipe
    depths = read_depths(Path(settings.split))
    if changed := {c: asdict(white) for c, white in depths.items() if white != SIXTEEN_BITS}:
        fingerprint["depth"] = changed
    official = list(OFFICIAL.get(settings.dataset, ()))
    in_split = categories_of(samples)
    return Experiment(
        title=TITLES.get(settings.dataset, settings.benchmark),
        root=root,
        tasks=tasks,
        categories=official if set(in_split).issubset(official) else in_split,
        notes=[
            *notes_on_data(settings, samples),
            *read_notes(Path(settings.split)),
            *notes_on_masks([sample for task in tasks for sample in task.tests]),
            *notes_on_references(settings, root, tasks),
            *notes_on_seeds(tasks),
        ],
        fingerprint=fingerprint,
        groups=GROUPS.get(settings.dataset, {}),
        white=depths,
        messages=[f"{category}: {describe_white(white)}" for category, white in depths.items()],
    )


def plan_categories(settings: Settings, samples: Sequence[Sample]) -> list[CategoryTask]:
    """Return the tasks of the selected categories, sorted by name."""
    in_split = categories_of(samples)
    for category in settings.mentioned_categories():
        if category not in in_split:
            near = " or ".join(f'"{name}"' for name in get_close_matches(category, in_split))
            hint = f" (did you mean {near}?)" if near else ""
            if "," in category:
                hint = "; separate names by spaces"
            if category in OFFICIAL.get(settings.dataset, ()):
                hint = ": it is an official category that the prepared data lack"
            raise InputError(
                f'there is no category "{category}" in the split {settings.split}{hint}; its '
                f"categories are {', '.join(in_split)}"
            )
    listed = None
    if settings.references != "draw":
        listed = read_references(Path(settings.references))
    tasks = []
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
        if listed is None:
            shot_settings = draw_references(train, settings.shots, settings.seeds)
        else:
            shot_settings = listed_references(listed, train, settings.shots, settings.seeds)
        used = {image for setting in shot_settings for image in setting.images}
        references = [sample for sample in train if sample.image in used]
        tasks.append(CategoryTask(category, shot_settings, references, tests))
    return tasks


def categories_of(samples: Sequence[Sample]) -> list[str]:
    """Return the categories of a split, sorted by name."""
    return sorted({sample.class_name for sample in samples})


def notes_on_data(settings: Settings, samples: Sequence[Sample]) -> list[str]:
    """Return the warnings about the data to show beside every result."""
    notes = []
    if settings.dataset == "demo":
        notes.append("RENDERED DATA: not comparable with published results")
    if settings.limit is not None:
        limit = settings.limit
        notes.append(
            f"LIMIT = {limit}: at most {limit} of the good images and {limit} of each defect"
        )
    if official := OFFICIAL.get(settings.dataset):
        missing, wrong = count_mismatches(settings.dataset, samples)
        foreign = [category for category in wrong if category not in official]
        faults = {"with other image counts": len(wrong) - len(foreign)}
        faults |= {"missing": len(missing), "foreign": len(foreign)}
        text = ", ".join(f"{count} {fault}" for fault, count in faults.items() if count)
        if text:
            notes.append(f"NOT THE OFFICIAL DATA: of {len(official)} categories, {text}")
    return notes


def notes_on_masks(tests: Sequence[Sample]) -> list[str]:
    """Return a warning if some anomalous images have a mask and others have none."""
    masks = [bool(sample.mask) for sample in tests if sample.label == 1]
    if all(masks) or not any(masks):
        return []
    return [
        f"PIXEL METRICS WITHOUT {masks.count(False)} of {len(masks)} anomalous images, which have "
        "no mask that can be used"
    ]


def notes_on_references(settings: Settings, root: Path, tasks: Sequence[CategoryTask]) -> list[str]:
    """Return a warning if reference images are also test images, by the content of their files.

    They are compared with themselves, so their scores are too low. Raise `InputError` if the user
    listed the references.
    """
    copies = []
    for task in tasks:
        tests, drawn = ([s.image for s in samples] for samples in (task.tests, task.references))
        copies += find_copies(root, tests, drawn)
    if not copies:
        return []
    count = f"test images that are also reference images: {len(copies)}, such as {copies[0]}"
    if settings.references != "draw":
        raise InputError(
            f"{label('references')}: {count}; they would be compared with themselves and score too "
            "low; list other images"
        )
    return [f"REFERENCES AMONG THE TEST IMAGES: {count}; their scores are too low"]


def notes_on_seeds(tasks: Sequence[CategoryTask]) -> list[str]:
    """Return a warning for each number of shots at which all seeds have the same references."""
    same = defaultdict(list)
    for task in tasks:
        references = defaultdict(list)
        for setting in task.shot_settings:
            references[setting.shots].append(frozenset(setting.images))
        for shots, sets in references.items():
            if len(sets) > 1 and len(set(sets)) == 1:
                same[shots].append(task.category)
    notes = []
    for shots, names in sorted(same.items()):
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(
            f"SAME REFERENCES FOR ALL SEEDS in {shots}-shot runs of {', '.join(names[:3])}{others}:"
            " the deviation over seeds is too low"
        )
    return notes
