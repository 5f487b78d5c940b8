"""One run from top to bottom: split, CLIP, banks, scores, metrics, heatmaps, tables.

Every image is encoded once; all (shots, seed) pairs are scored from that. A category is the unit
of work: its files are written when it is done, and a run that is started again goes on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.images import ImageDataset
from datasets.official import GROUPS, OFFICIAL, differences
from datasets.references import COLUMNS, draw_runs, given_runs, read_references
from datasets.splits import SPLITS_FOLDER, Sample, first_of_each_defect, read_root, read_split
from models.clip import WindowedEncoder
from models.device import place, resolve_device
from models.prompts import prompt_ensemble, words
from models.weights import LoadedClip, load_clip
from models.winclip import TextBank
from utils.category import write_category
from utils.errors import InputError, exit_with_sentence
from utils.files import sha256_of, user_path, write_text
from utils.folder import ResultFolder, check_writable, held, machine
from utils.log import log, spoken, written
from utils.report import write_report
from utils.results import write_tables
from utils.scoring import Encodings, Plan, batch_indices, score_category
from utils.settings import Settings, settings_from
from utils.stopwatch import Stopwatch


def main(constants: dict, dataset: str, before: Callable[[], None] | None = None) -> None:
    """What a runner calls: `constants` is its globals(); ends the process on a user's mistake.

    `before` is done once the settings are known to be right, before the run.
    """

    def from_settings() -> None:
        settings = settings_from(constants, dataset)
        if before:
            before()
        print(run(settings))

    exit_with_sentence(from_settings)


@dataclass(frozen=True)
class Job:
    """What is run: which images, where they are, and what a reader must know of them."""

    root: Path
    plans: list[Plan]
    categories: list[str]  # all that the benchmark has; fewer may be planned
    notes: list[str]
    identity: dict  # what the results depend on besides the settings and the weights


def run(settings: Settings) -> str:
    """Run a benchmark; returns the summary in Markdown. A user's mistake is an `InputError`."""
    split = SPLITS_FOLDER / f"{settings.dataset}.csv"
    split = split if settings.split == "auto" else user_path(settings.split)
    samples = read_split(split)
    job = Job(
        find_root(settings),
        make_plans(settings, samples),
        list(OFFICIAL[settings.dataset]),
        notes_on(settings, samples),
        {"split_sha256": sha256_of(split)},
    )
    with spoken(settings.quiet):
        return execute(settings, job)


def execute(settings: Settings, job: Job) -> str:
    """Load the model, run what is not finished yet, write everything; returns the summary."""
    check_writable(settings.result_folder)
    with held(settings.result_folder), written(settings.result_folder / "run.log"):
        clock = Stopwatch()
        log.info(f"loading {settings.model}, {settings.pretrained}")
        with clock.stage("start-up"):
            device = resolve_device(settings.device)
            clip = load_clip(settings.model, settings.pretrained)
            place(clip, device, settings.precision)
            encoder = WindowedEncoder(
                clip.model, clip.tokenizer, settings.scales, settings.method.patch_tokens
            )
        notes = notes_on_weights(clip) + job.notes
        identity = make_identity(settings, clip, device) | job.identity
        folder = ResultFolder(settings.result_folder, settings, identity, notes)
        folder.write_settings(
            weights={"sha256": clip.weights.sha256, "description": clip.weights.description},
            device=machine(device),
        )
        announce(settings, clip, device, notes)
        finished = folder.finished()
        for plan in job.plans:
            if plan.category in finished:
                log.info(f"{plan.category}: done before, skipped")
        pending = [plan for plan in job.plans if plan.category not in finished]
        if pending:
            run_categories(settings, job, pending, clip, encoder, folder, clock)
        folder.write_settings(seconds=clock.seconds, seconds_total=clock.total())
        log.info(f"\nseconds per stage\n{clock.table()}\n\nwritten to {folder.path}\n")
        summary = write_summary(folder, settings.dataset, job.categories)
        write_report(folder.path, job.categories)
        return summary


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
            raise InputError(
                f'there is no category "{wanted}" in the split; it has {", ".join(in_split)}'
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
            runs = draw_runs(train, settings.shots, settings.seeds)
        else:
            runs = given_runs(given, train, settings.shots, settings.seeds)
        used = {image for one in runs for image in one.images}
        references = [sample for sample in train if sample.image in used]
        plans.append(Plan(category, runs, references, tests))
    return plans


def notes_on_weights(clip: LoadedClip) -> list[str]:
    """What a reader of any number must know of the model."""
    if clip.weights.random:
        return ["RANDOM WEIGHTS: these numbers measure nothing but the plumbing"]
    if clip.weights.demo:
        return ["DEMO MODEL: trained on rendered pictures alone, to try the program out with"]
    return []


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


def make_identity(settings: Settings, clip: LoadedClip, device: torch.device) -> dict:
    """What results depend on: settings, and checksums of the files that they name."""
    references, model = settings.references, settings.model
    if settings.dataset != "custom" and references != "draw":
        references = sha256_of(user_path(references))
    if model.endswith(".json"):
        model = sha256_of(Path(model))
    return settings.identity() | {
        "model": model,
        "weights": clip.weights.sha256 or clip.weights.description,
        "references": references,
        "device": device.type,
    }


def announce(
    settings: Settings, clip: LoadedClip, device: torch.device, notes: Sequence[str]
) -> None:
    """Say what is run, before it runs."""
    log.info(f"weights: {clip.weights.description}")
    if clip.weights.sha256:
        log.info(f"weights' sha256: {clip.weights.sha256}")
    log.info(f"protocol: {settings.protocol}, {settings.precision} on {machine(device)}")
    for note in notes:
        log.info(f"note: {note}")


def run_categories(
    settings: Settings,
    job: Job,
    plans: list[Plan],
    clip: LoadedClip,
    encoder: WindowedEncoder,
    folder: ResultFolder,
    clock: Stopwatch,
) -> None:
    """Score, evaluate and write every category; images are decoded ahead of the encoder."""
    rows = [sample for plan in plans for sample in (*plan.references, *plan.tests)]
    dataset = ImageDataset(
        job.root,
        rows,
        clip.image_size,
        settings.method.resize,
        settings.eval_size,
        upright=settings.dataset == "custom",
    )
    loader = DataLoader(
        dataset,
        batch_sampler=batch_indices(plans, settings.batch_size),
        num_workers=settings.num_workers,
        collate_fn=list,
    )
    encodings = Encodings(dataset, clip, encoder, loader, clock)
    with tqdm(total=len(rows), unit="image", smoothing=0.1, disable=settings.quiet) as progress:
        for plan in plans:
            progress.set_description(plan.category)
            with clock.stage("text"):
                text = text_bank(settings, encoder, plan.category)
            result = score_category(encodings, plan, text, progress, clock)
            write_category(folder, plan, result, settings, dataset, clock)
            write_summary(folder, settings.dataset, job.categories)
            with clock.stage("report"):
                write_report(folder.path, job.categories)


def text_bank(settings: Settings, encoder: WindowedEncoder, category: str) -> TextBank:
    """The two directions of one category, from its prompt ensemble."""
    method = settings.method
    name = words(category) if method.class_words else category
    ensemble = prompt_ensemble(name, method.templates, *settings.extra_states(category))
    normal, anomalous = (encoder.encode_text(prompts) for prompts in ensemble)
    return TextBank.from_prompts(normal, anomalous, method.temperature, method.normalise_prompts)


def write_summary(folder: ResultFolder, dataset: str, categories: Sequence[str]) -> str:
    """All tables from the finished categories; returns the summary in Markdown."""
    finished = folder.finished()
    metrics = pd.DataFrame(
        [row for record in finished.values() for row in record["metrics"]],
        columns=["category", "shots", "seed", "metric", "value"],
    )
    references = pd.DataFrame(
        [row for record in finished.values() for row in record["references"]], columns=COLUMNS
    )
    write_text(folder.path / "shots.csv", references.to_csv(index=False, lineterminator="\n"))
    if metrics.empty:
        return "no labels, so no metrics"
    return write_tables(
        folder.path,
        metrics,
        dataset,
        list(categories),
        folder.record["notes"],
        GROUPS.get(dataset, {}),
    )
