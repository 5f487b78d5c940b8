"""One run from top to bottom: split, CLIP, banks, scores, metrics, heatmaps, tables.

Every image is encoded once; all (shots, seed) pairs are scored from that. A category is the unit
of work: its files are written when it is done, and a run that is started again goes on from there.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
import torch
from torch.utils.data import DataLoader

from datasets.images import ImageDataset
from datasets.official import GROUPS
from datasets.references import COLUMNS
from models.device import check_precision, resolve_device, to_device
from models.encoder import WindowedEncoder
from models.prompts import prompt_ensemble, words
from models.text import encode_states
from models.weights import LoadedClip, load_clip
from models.winclip import TextBank
from utils.cli import run_cli
from utils.files import sha256_of, user_path, write_text
from utils.log import log, log_to_console, log_to_file, progress_bar, suppress_output
from utils.report.page import write_report
from utils.results.folder import ResultFolder, check_writable, describe_device, lock_folder
from utils.results.summary import write_tables
from utils.run.category import write_category
from utils.run.distributed import ALONE, Ranks, joined
from utils.run.inference import Encodings, Plan, batch_indices, score_category
from utils.run.plan import Job, job_of
from utils.run.process import exit_with_parent, reuse_freed_memory
from utils.run.settings import Settings, settings_from
from utils.stopwatch import Stopwatch

# Of a run's time; what writing tables and report after each category may take, since both cover all
# categories so far. The last one is always written.
REPORT_SHARE = 0.05


def main(constants: dict, dataset: str, before: Callable[[str], None] | None = None) -> None:
    """What a runner calls: `constants` is its globals(); ends the process on a user's mistake.

    `before` gets DATA_ROOT once the settings are known to be right, before the run.
    """
    with joined() as ranks:

        def from_settings() -> None:
            settings = settings_from(constants, dataset)
            if before and ranks.first:
                with suppress_output(settings.quiet):
                    before(settings.data_root)
            ranks.wait()
            run(settings, ranks)

        run_cli(from_settings, ranks.print_stderr)


def run(settings: Settings, ranks: Ranks = ALONE) -> str:
    """Run a benchmark; returns the summary in Markdown, "" where this process is not the first.

    A user's mistake is an `InputError`.
    """
    job = job_of(settings)
    with log_to_console(settings.quiet or not ranks.first):
        return execute(settings, job, ranks)


def execute(settings: Settings, job: Job, ranks: Ranks = ALONE) -> str:
    """Load the model, run what is not finished yet, write everything; returns the summary."""
    with ExitStack() as stack:
        if ranks.first:
            check_writable(settings.result_folder)
            stack.enter_context(lock_folder(settings.result_folder))
            stack.enter_context(log_to_file(settings.result_folder / "run.log"))
        reuse_freed_memory()
        clock = Stopwatch()
        log.info(f"loading {settings.model}, {settings.pretrained}")
        with clock.stage("start-up"):
            ranks.check_device(settings.device)
            device = resolve_device(settings.device, settings.deterministic)
            if warning := check_precision(device, settings.precision):
                log.info(f"note: {warning}")
            clip = load_clip(settings.model, settings.pretrained)
            to_device(clip.model, device, settings.precision)
            encoder = WindowedEncoder(
                clip.model.visual,
                settings.scales,
                settings.method.patch_tokens,
                tf32=settings.precision == "tf32",
            )
        folder = open_folder(settings, job, clip, device, ranks) if ranks.first else None
        if folder:
            clock.go_on_from(*folder.earlier_times())
        finished = ranks.broadcast(list(folder.finished()) if folder else [])
        for plan in job.plans:
            if plan.category in finished:
                log.info(f"{plan.category}: done before, skipped")
        pending = [plan for plan in job.plans if plan.category not in finished]
        if pending:
            run_categories(settings, job, pending, clip, encoder, folder, clock, ranks)
        if folder is None:
            return ""
        folder.write_times(clock)  # the report tells them
        with clock.stage("report"):
            summary = publish(folder, settings.dataset, job.categories)
        folder.write_times(clock)
        log.info(f"\nseconds per stage\n{clock.table()}\n\nwritten to {folder.path}\n")
        log.info(summary)
        return summary


def open_folder(
    settings: Settings, job: Job, clip: LoadedClip, device: torch.device, ranks: Ranks
) -> ResultFolder:
    """The result folder, with everything in its record that is known before the run; says it."""
    notes = notes_on_weights(clip) + job.notes
    identity = make_identity(settings, clip, device) | job.identity
    folder = ResultFolder(settings.result_folder, settings, identity, notes)
    folder.write_settings(
        weights={"sha256": clip.weights.sha256, "description": clip.weights.description},
        device=describe_device(device),
        processes=ranks.world,
    )
    announce(settings, clip, device, notes)
    return folder


def notes_on_weights(clip: LoadedClip) -> list[str]:
    """What a reader of any number must know of the model."""
    if clip.weights.random:
        return ["RANDOM WEIGHTS: these numbers measure nothing but the plumbing"]
    if clip.weights.demo:
        return ["DEMO MODEL: trained on rendered pictures alone, to try the program out with"]
    return []


def make_identity(settings: Settings, clip: LoadedClip, device: torch.device) -> dict:
    """What results depend on: settings, and checksums of the files that they name."""
    references, model = settings.references, settings.model
    if settings.dataset != "custom" and references != "draw":
        references = sha256_of(user_path(references))
    if model.endswith(".json"):
        model = sha256_of(user_path(model))
    return settings.identity() | {
        "model": model,
        "weights": clip.weights.sha256 or clip.weights.description,
        "references": references,
        "normalisation": [clip.mean, clip.std],
        "quick_gelu": clip.quick_gelu,
        "device": device.type,
    }


def announce(
    settings: Settings, clip: LoadedClip, device: torch.device, notes: Sequence[str]
) -> None:
    """Say what is run, before it runs."""
    log.info(f"weights: {clip.weights.description}")
    if clip.weights.sha256:
        log.info(f"weights' sha256: {clip.weights.sha256}")
    log.info(f"images normalised by mean {clip.mean}, deviation {clip.std}")
    log.info(f"protocol: {settings.protocol}, {settings.precision} on {describe_device(device)}")
    for note in notes:
        log.info(f"note: {note}")


def run_categories(
    settings: Settings,
    job: Job,
    plans: list[Plan],
    clip: LoadedClip,
    encoder: WindowedEncoder,
    folder: ResultFolder | None,
    clock: Stopwatch,
    ranks: Ranks,
) -> None:
    """Score every category, and write it where this is the first process; decoding runs ahead."""
    shares = [share_of(plan, ranks) for plan in plans]
    rows = [sample for share in shares for sample in (*share.references, *share.tests)]
    dataset = ImageDataset(
        job.root,
        rows,
        clip.image_size,
        settings.method.resize,
        settings.eval_size,
        apply_exif=settings.dataset == "custom",
    )
    loader = DataLoader(
        dataset,
        batch_sampler=batch_indices(shares, settings.batch_size),
        num_workers=settings.num_workers,
        collate_fn=list,
        worker_init_fn=exit_with_parent,
    )
    encodings = Encodings(dataset, clip, encoder, loader, clock)
    total = sum(len(plan.references) + len(plan.tests) for plan in plans)
    hidden = settings.quiet or not ranks.first
    with progress_bar(total=total, unit="image", smoothing=0.1, disable=hidden) as progress:
        for plan, share in zip(plans, shares, strict=True):
            progress.set_description(plan.category, refresh=False)
            with clock.stage("text"):
                text = text_bank(settings, clip, plan.category)
            result = score_category(encodings, plan, share, text, progress, clock, ranks)
            if folder is None or result is None:
                continue
            write_category(folder, plan, result, settings, dataset, clock)
            folder.write_times(clock)
            if plan is not plans[-1] and clock.share("report") < REPORT_SHARE:
                with clock.stage("report"):
                    publish(folder, settings.dataset, job.categories)


def share_of(plan: Plan, ranks: Ranks) -> Plan:
    """The images of a plan that this process encodes."""
    return replace(plan, references=ranks.share(plan.references), tests=ranks.share(plan.tests))


def text_bank(settings: Settings, clip: LoadedClip, category: str) -> TextBank:
    """The two directions of one category, from its prompt ensemble."""
    method = settings.method
    name = words(category) if method.class_words else category
    ensemble = prompt_ensemble(name, method.templates, *settings.extra_states(category))
    normal, anomalous = encode_states(clip.model, clip.tokenizer, *ensemble)
    return TextBank.from_prompts(normal, anomalous, method.temperature, method.normalise_prompts)


def publish(folder: ResultFolder, dataset: str, categories: Sequence[str]) -> str:
    """Tables and report of the finished categories; returns the summary in Markdown."""
    summary = write_summary(folder, dataset, categories)
    write_report(folder.path, categories)
    return summary


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
