"""Run a benchmark from start to finish: the entry point of the runners.

Each image is encoded once, and all (shots, seed) runs are scored from that encoding. A category is
the unit of work: its files are written when it is finished, and a runner that was stopped continues
with the first unfinished category when it is started again.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from datasets.references import COLUMNS as REFERENCE_COLUMNS
from utils.cli import exit_on_error, offers
from utils.distributed.context import SINGLE_PROCESS, DistributedContext
from utils.distributed.join import init_distributed
from utils.errors import InputError
from utils.experiment.plan import Experiment, plan_benchmark
from utils.experiment.settings import Settings, parse_settings
from utils.files import write_text
from utils.log import log, log_results, suppress_output
from utils.report.markdown import write_summary_page
from utils.report.summary_tex import write_summary_tex
from utils.results.defects import FILE as DEFECTS_FILE
from utils.results.defects import write_defects
from utils.results.folder import FEATURES_FOLDER, FEATURES_JSON
from utils.results.summary import COLUMNS, published_beside, write_tables
from utils.run.inference import score_category
from utils.run.session import Session, open_session
from utils.run.writer import CategoryWriter
from utils.workers import worker_errors

TABLES_INTERVAL_S = 60.0  # shortest time between rewrites of the tables (up to 1 s each)


def main(
    constants: dict,
    dataset: str,
    prepare: Callable[[str], None] | None = None,
    settings_class: type[Settings] = Settings,
) -> None:
    """Run a benchmark as a script; `constants` is the runner's globals().

    `prepare` is called with DATA_ROOT before the run, once the settings are known to be valid. A
    user's mistake ends the process with one sentence.
    """
    with init_distributed() as context, exit_on_error(context.print_stderr):
        settings = parse_settings(constants, dataset, settings_class)
        if prepare and context.is_main:
            with suppress_output(settings.quiet):
                prepare(settings.data_root)
        context.barrier()
        run(settings, context=context)


def run(
    settings: Settings,
    experiment: Experiment | None = None,
    context: DistributedContext = SINGLE_PROCESS,
) -> str:
    """Score, evaluate and write every category; return the summary as Markdown.

    `experiment` is by default the benchmark that the settings name. Raises `InputError` for a
    user's mistake. All processes but the main one return "".
    """
    settings = settings.resolve()
    experiment = experiment or plan_benchmark(settings)
    with open_session(settings, experiment, context) as session:
        writer = CategoryWriter(session, at_most_every(TABLES_INTERVAL_S, write_summary, session))
        with worker_errors(), tables_after_error(session), session.progress, writer:
            for task in session.pending:
                session.progress.set_description(task.category, refresh=False)
                result = score_category(task, session, writer.finish_written)
                if result is not None:  # in the main process
                    writer.write(task, result)
            if context.is_main:
                load_report()
        return finish(session) if context.is_main else ""


def at_most_every(seconds: float, function: Callable, *arguments: object) -> Callable[[], None]:
    """Return a function that calls `function`, but ignores calls within `seconds` of the last."""
    last_call = time.monotonic()

    def call() -> None:
        nonlocal last_call
        if time.monotonic() - last_call >= seconds:
            function(*arguments)
            last_call = time.monotonic()

    return call


@contextmanager
def tables_after_error(session: Session) -> Iterator[None]:
    """Write the tables of the finished categories if the block ends with an error.

    Without an error, `finish` writes them.
    """
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the error of the block is the one to report
            if session.folder and session.folder.finished():
                write_summary(session)
        raise


def write_summary(session: Session) -> str:
    """Write shots.csv and all tables from the finished categories.

    Returns the summary as Markdown, or a sentence where no category has labels.
    """
    folder, experiment = session.folder, session.experiment
    records = folder.finished().values()
    references = [row for record in records for row in record["references"]]
    table = pd.DataFrame(references, columns=REFERENCE_COLUMNS)
    write_text(folder.path / "shots.csv", table.to_csv(index=False, lineterminator="\n"))
    metrics = pd.DataFrame(
        [row for record in records for row in record["metrics"]], columns=COLUMNS
    )
    if metrics.empty:
        return "no labels, so no metrics"
    published = published_beside(folder.record["settings"])
    write_tables(folder.path, metrics, published, experiment.categories, experiment.groups)
    write_summary_tex(folder.path)
    return write_summary_page(folder.path)


def load_report() -> None:
    """Import and compile what the report needs, while workers evaluate the last category."""
    from utils.report.page import template  # Jinja and charts, loaded while the run waits

    template()


def finish(session: Session) -> str:
    """Write the tables and the report, print the scores and the summary, and return the summary.

    Raises `InputError` for the files that the experiment had to leave out.
    """
    from utils.report.page import write_report  # Jinja and charts, only when they are needed

    folder, clock, experiment = session.folder, session.clock, session.experiment
    folder.write_times(clock)  # the report shows them
    with clock.stage("report"):
        summary = write_summary(session)
        without_threshold = write_defects(folder.path)
        write_report(folder.path)
    folder.write_times(clock)
    log.debug(f"seconds per stage\n{clock.table()}")
    experiment.after_run(folder.path)
    if without_threshold:
        log.info(
            f"\nno threshold for {', '.join(without_threshold)}, so no defects in {DEFECTS_FILE}: "
            "a threshold needs labelled good and anomalous images, or two reference images"
        )
    log.info(f"\n{summary.rstrip()}")
    if session.settings.features == "keep" and offers("features"):
        log.info(f"\n{explain_kept_features(session.settings)}")
    log_results(folder.path, "report.html")
    if experiment.faults:
        raise InputError(experiment.faults)
    return summary


def explain_kept_features(settings: Settings) -> str:
    """Explain how to score again the features that a run has kept."""
    folder = Path(settings.result_dir) / FEATURES_FOLDER
    if not (folder / FEATURES_JSON).exists():  # all categories were finished before
        return "no features were kept: all categories were finished; use a new result folder"
    default = folder in settings.default_features()
    option = "" if default else f" --features {shlex.quote(settings.result_dir)}"
    return (
        f"features are kept in {folder}; a run over these images with other prompts, shots or "
        f"seeds reads them instead of encoding again; give it --result-dir NEW_DIR{option}"
    )
