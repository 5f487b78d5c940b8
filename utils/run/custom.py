"""One's own pictures, through the same pipeline: scores, heatmaps, a threshold from references."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from datasets.custom import CustomImages, find_custom_images
from datasets.references import NO_SEED, ShotSetting
from datasets.splits import UNKNOWN
from utils.cli import run_cli
from utils.errors import InputError
from utils.files import PROJECT, real_path, sha256_of, user_path, write_text
from utils.log import log, log_to_console, log_to_file
from utils.results.folder import read_json
from utils.results.scores import Scores, load_scores
from utils.run.benchmark import execute
from utils.run.distributed import ALONE, Ranks, joined
from utils.run.inference import Plan
from utils.run.plan import Job
from utils.run.settings import Settings, settings_from

SHOWN = 20  # highest scores listed in the console


@dataclass(frozen=True)
class CustomSettings(Settings):
    """The settings of one's own pictures: `Settings`, with folders in place of a split."""

    images: str = ""
    """A picture, or a folder of them; with a subfolder "good", subfolders are labels."""
    class_name: str = ""
    """What the pictures show, in a word or two of English: "metal nut"."""
    references: str = ""
    """Folder of pictures of good pieces, for WinCLIP+; "" for zero-shot alone."""
    masks: str = ""
    """Folder of masks, named like the pictures; "" for none."""
    data_root: tyro.conf.Suppress[str] = "auto"
    split: tyro.conf.Suppress[str] = "auto"
    categories: tyro.conf.Suppress[tuple[str, ...]] = ()
    shots: tyro.conf.Suppress[tuple[int, ...]] = (0,)
    seeds: tyro.conf.Suppress[tuple[int, ...]] = (0,)
    limit: tyro.conf.Suppress[int | None] = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a class name."""
        super().__post_init__()
        if set(self.class_name) & set('/\\:*?"<>|{}') or self.class_name.startswith("."):
            raise InputError(
                f'CLASS_NAME = "{self.class_name}": give a word or two, such as "metal nut"'
            )

    @property
    def result_folder(self) -> Path:
        """Where results are written: named after the pictures' folder; few-shot beside 0-shot."""
        if self.result_dir == "auto":
            images = real_path(user_path(self.images))
            name = images.stem if images.is_file() else images.name
            suffix = "-with-references" if self.references else ""
            return PROJECT / "result" / "custom" / f"{name}{suffix}"
        return user_path(self.result_dir)


def main(constants: dict) -> None:
    """What run_custom.py calls: `constants` is its globals()."""
    with joined() as ranks:
        run_cli(
            lambda: run(settings_from(constants, "custom", CustomSettings), ranks),
            ranks.print_stderr,
        )


def run(settings: CustomSettings, ranks: Ranks = ALONE) -> None:
    """Score one's own pictures; files that could not be read are an `InputError` at the end."""
    for option, value in (("IMAGES", settings.images), ("CLASS_NAME", settings.class_name)):
        if not value.strip():
            raise InputError(
                f"{option} is not set; edit it at the top of run_custom.py, or run python "
                f'run_custom.py --images DIR --class-name "metal nut"'
            )
    pictures = find_custom_images(
        user_path(settings.images),
        settings.class_name,
        *(user_path(at) if at else None for at in (settings.references, settings.masks)),
    )
    with log_to_console(settings.quiet or not ranks.first):
        execute(settings, job_of(settings, pictures), ranks)
        if ranks.first:
            with log_to_file(settings.result_folder / "run.log"):
                report(settings, pictures)
                refuse(pictures)  # within, so that run.log has it
        refuse(pictures)


def refuse(pictures: CustomImages) -> None:
    """Name the files that could not be used, and end with an `InputError` if there are any."""
    for fault in pictures.faults:
        log.info(f"left out: {fault}")
    if pictures.faults:
        total = len(pictures.faults) + len(pictures.tests) + len(pictures.references)
        raise InputError(
            f"{len(pictures.faults)} of {total} pictures could not be used, the others were "
            f"scored; first: {pictures.faults[0]}"
        )


def job_of(settings: CustomSettings, pictures: CustomImages) -> Job:
    """One category: zero-shot, and WinCLIP+ with all references."""
    for named in settings.named_categories():
        if named != settings.class_name:
            raise InputError(
                f'EXTRA_..._STATES: "{named}" is not the class name "{settings.class_name}"'
            )
    images = tuple(sample.image for sample in pictures.references)
    runs = [ShotSetting(0, NO_SEED, ())] + ([ShotSetting(len(images), 0, images)] if images else [])
    plan = Plan(settings.class_name, runs, pictures.references, pictures.tests, bool(images))
    files = [
        sha256_of(pictures.root / name)
        for sample in (*pictures.tests, *pictures.references)
        for name in (sample.image, sample.mask)
        if name
    ]
    names = [sample.image for sample in pictures.tests]
    labels = [sample.label for sample in pictures.tests]
    identity = {"pictures": names, "labels": labels, "files": files, "references": len(images)}
    return Job(pictures.root, [plan], [settings.class_name], [], identity)


def report(settings: CustomSettings, pictures: CustomImages) -> None:
    """Write scores.csv and scores.json, and say the highest scores and what they mean."""
    folder, name = settings.result_folder, settings.class_name
    scores = load_scores(folder / "scores" / f"{name}.npz")
    left_out = read_json(folder / "done" / f"{name}.json").get("leave_one_out", [])
    threshold = max(left_out) if left_out else None
    rows = score_rows(scores, threshold)
    write_text(folder / "scores.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    last = scores.run_names()[-1]
    log.info(f"highest of {len(rows)} scores ({last})")
    for row in sorted(rows, key=lambda row: -row[last])[:SHOWN]:
        mark = "  above the threshold" if row.get("above_threshold") else ""
        log.info(f"  {row[last]:.3f}  {row['image']}{mark}")
    log.info(f"\n{meaning(len(pictures.references), threshold)}")
    log.info(f"\nscores.json, scores/{name}.csv, heatmaps/ and report.html are in {folder}")


def score_rows(scores: Scores, threshold: float | None) -> list[dict]:
    """One record per picture: its scores by run, its label where known, and the verdict."""
    rows = []
    for index, image in enumerate(scores.image.tolist()):
        row = {"image": image}
        if scores.label[index] != UNKNOWN:
            row["anomalous"] = bool(scores.label[index])
        for run, title in enumerate(scores.run_names()):
            row[title] = float(scores.image_scores[run, index])
        if threshold is not None:
            row["threshold"] = threshold
            row["above_threshold"] = bool(scores.image_scores[-1, index] > threshold)
        rows.append(row)
    return rows


def meaning(references: int, threshold: float | None) -> str:
    """What the scores say, and what they do not."""
    if threshold is not None:
        return (
            f"threshold: {threshold:.3f}, the highest score of a reference against the other "
            f"{references - 1}. A good piece like them is above it about once in "
            f"{references + 1}; more references make it sharper."
        )
    text = (
        "The scores rank the pictures; they are not calibrated: 0.5 is no limit between good and "
        "damaged, and scores of two classes cannot be compared."
    )
    if references == 1:
        return f"{text} With two references or more a threshold is offered."
    return f"{text} With references (REFERENCES) there is a threshold."
