"""Compare a 0-shot WinCLIP table from elsewhere with the published numbers, and name faults.

    python tools/check_table.py theirs.csv [--dataset visa]

The CSV file has the columns category, metric and value (percent), or is a run's summary.csv or
metrics.csv, whose benchmark is read from settings.json. The command prints its means beside the
paper's, or the closest public code's where the paper has none, and names each known fault that
the numbers point to.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import pandas as pd
import tyro

from utils.cli import default_text, parse_options, run_cli
from utils.compare.sources import dataset_beside, notes_beside, read_zero_shot, remark_on_categories
from utils.errors import InputError
from utils.evaluation.metrics import METRICS
from utils.report.markdown import UNPUBLISHED, cell, table
from utils.results.summary import MEAN, published_zero_shot

NEVER_ZERO = ["image_aupr", "image_f1_max"]  # where defined
RARELY_ZERO = ["image_auroc", "pixel_auroc", "pixel_aupro"]  # if all is ranked wrongly
NEAR = 5.0  # percent below the published mean: other settings, not a fault


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    table: tyro.conf.Positional[Path]
    """CSV file (category, metric, value), or summary.csv or metrics.csv of a run."""
    dataset: Annotated[
        Literal["mvtec", "visa", "mpdd"] | None,
        default_text("that in settings.json beside the table, or else mvtec", "{mvtec,visa,mpdd}"),
    ] = None
    """Benchmark of the table."""


@dataclass(frozen=True)
class Checked:
    """A table beside the published one; means over the categories that both have, in percent."""

    dataset: str
    rows: pd.DataFrame  # category, metric, value as given, NaN if empty
    theirs: pd.Series  # mean by metric
    published: pd.Series  # likewise

    def is_near(self, metric: str) -> bool:
        """Return whether a mean is at most NEAR below the published one; False if unknown."""
        return bool(self.theirs[metric] > self.published[metric] - NEAR)


def fractions(checked: Checked) -> str | None:
    """Name metrics that are fractions: each of their values is at most 1."""
    highest = checked.rows.groupby("metric")["value"].max()
    names = ", ".join(highest.index[(highest <= 1) & (highest > 0)])
    return f"fractions read as percent: no value of {names} is above 1" if names else None


def undefined_as_zero(checked: Checked) -> str | None:
    """Name values of exactly 0; "perhaps" if a few images, all ranked wrongly, explain them."""
    rows = checked.rows.dropna()
    zero = rows["value"] == 0
    levels = rows.groupby(["category", rows["metric"].str.split("_").str[0]])["value"]
    all_zero = (levels.transform("max") == 0) & (levels.transform("size") > 2)  # with an F1-max
    certain = zero & (all_zero | rows["metric"].isin(NEVER_ZERO))
    zeros = rows[certain if certain.any() else zero & rows["metric"].isin(RARELY_ZERO)]
    metrics, categories = (", ".join(zeros[key].unique()) for key in ("metric", "category"))
    text = f"undefined metrics written as 0: {metrics} exactly 0 in {categories}"
    return text if certain.any() else f"perhaps {text}" if metrics else None


def inverted_states(checked: Checked) -> str | None:
    """Recognise an image AUROC below chance: good images have the higher scores."""
    auroc = checked.theirs["image_auroc"]
    text = f"inverted states: image AUROC {auroc:.1f}, and 100 - {auroc:.1f} would be plausible"
    return text if 1 < auroc < 50 - NEAR else None


def constant_windows(checked: Checked) -> str | None:
    """Recognise constant maps beside sound image scores."""
    auroc = checked.theirs["pixel_auroc"]
    text = f"constant windows: pixel AUROC {auroc:.1f} (57 to 67 is typical) beside a sound image "
    text += "AUROC; open_clip 2.26 and newer expects tokens batch first"
    return text if 57 <= auroc <= 67 and checked.is_near("image_auroc") else None


def mean_iou_as_pro(checked: Checked) -> str | None:
    """Recognise an AUPRO near 0 beside a sound pixel AUROC."""
    aupro = checked.theirs["pixel_aupro"]
    text = f"mean IoU reported as PRO: AUPRO {aupro:.1f} beside a sound pixel AUROC"
    return text if 0 < aupro < 20 and checked.theirs["pixel_auroc"] > 70 else None


def squashed(checked: Checked) -> str | None:
    """Recognise VisA's images, which are not square, resized to a square: maps suffer most."""
    gaps = checked.theirs - checked.published
    text = f"squashed VisA: pixel AUROC {gaps['pixel_auroc']:+.1f}, but image AUROC only "
    text += f"{gaps['image_auroc']:+.1f}; the shorter side should become 240 pixels"
    is_lower = -12 < gaps["pixel_auroc"] < -NEAR and checked.is_near("image_auroc")
    return text if checked.dataset == "visa" and is_lower else None


RULES = fractions, inverted_states
# Inverted states look like these; they also give metrics of exactly 0.
SOUND_RULES = undefined_as_zero, constant_windows, mean_iou_as_pro, squashed


def check(rows: pd.DataFrame, dataset: str) -> tuple[Checked, list[str]]:
    """Compare rows with the published ones and find faults; `InputError` if none is published."""
    published = published_zero_shot(dataset, set(rows["category"]))
    both = rows.set_index(["category", "metric"]).join(published, how="inner")
    by_category = both.drop(MEAN, level="category", errors="ignore")
    both = (both if set(rows["category"]) == {MEAN} else by_category).dropna()
    if both.empty:
        text = f"no value of the table is in a category published for {dataset}; "
        raise InputError(f"{text}name its benchmark with --dataset mvtec, visa or mpdd")
    means = both.groupby("metric").mean().reindex(METRICS)
    checked = Checked(dataset, rows, means["value"], means["published"])
    rules = RULES if inverted_states(checked) else RULES + SOUND_RULES
    return checked, [text for rule in rules if (text := rule(checked))]


def main(options: Options) -> None:
    """Print the table beside the published one, and the faults."""
    path = options.table.expanduser()
    rows, remarks = read_zero_shot(path)
    dataset = options.dataset or dataset_beside(path) or "mvtec"
    checked, faults = check(rows, dataset)
    remarks += remark_on_categories(rows, dataset)
    columns = checked.theirs, checked.published, checked.theirs - checked.published
    body = [[m, *(cell(column[m]) or UNPUBLISHED for column in columns)] for m in METRICS]
    print("".join(f"{path.name}: {remark}.\n\n" for remark in remarks), end="")
    print(table(["metric", "theirs", "published", "difference"], body, text_columns=1))
    print("".join(f"\nNote of the run: {note}.\n" for note in notes_beside(path)), end="")
    print("\n".join(f"\nFault: {text}." for text in faults) or "\nNo known fault found.")


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(tyro.MISSING), __doc__, Path(__file__))))
