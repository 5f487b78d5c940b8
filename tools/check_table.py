"""Compare a 0-shot WinCLIP table from elsewhere with the published numbers, and name faults.

    python tools/check_table.py theirs.csv
    python tools/check_table.py theirs.csv --dataset visa

The CSV file has the columns category, metric and value (percent), or is a run's summary.csv or
metrics.csv. The command prints its means beside the paper's, or the closest public code's where the
paper has none, and names each known fault whose fingerprint the numbers carry.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import pandas as pd
import tyro
from tyro.conf import Positional

from utils.cli import parse_options, run_cli
from utils.compare.sources import describe_row, read_zero_shot, remark_on_categories
from utils.errors import InputError
from utils.evaluation.metrics import METRICS
from utils.report.markdown import UNPUBLISHED, cell, table
from utils.results.summary import MEAN, PERCENT, published_for

KEYS = ["category", "metric"]
NEAR = 5.0  # percent below the published mean: other settings, not a fault


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    table: Positional[Path]
    """CSV file with the columns category, metric and value, or summary.csv of a run."""
    dataset: Literal["mvtec", "visa", "mpdd"] = "mvtec"
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
    """Name values of exactly 0 in metrics that are far from 0 even by chance."""
    is_far = ~checked.rows["metric"].isin(["pixel_aupr", "pixel_f1_max"])  # 0.0 when rounded
    zeros = checked.rows[(checked.rows["value"] == 0) & is_far]
    names = ", ".join(sorted(set(zeros["metric"])))
    text = f"undefined metrics written as 0: {len(zeros)} values of {names} are exactly 0"
    return text if names else None


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
    """Compare rows of category, metric and value with the published ones; return the faults too.

    Raise `InputError` for other metrics, repeated rows and bad values, and if no row is published.
    """
    if unknown := sorted(set(rows["metric"]) - set(METRICS)):
        raise InputError(f'unknown metric "{unknown[0]}"; the metrics are {", ".join(METRICS)}')
    if len(repeated := rows[rows.duplicated(KEYS)]):
        raise InputError(f"two values of {describe_row(repeated.iloc[0])}; keep one")
    if len(wrong := rows[(rows["value"] < 0) | (rows["value"] > PERCENT)]):
        value = f"{wrong.iloc[0]['value']:g}"
        raise InputError(f"{describe_row(wrong.iloc[0])} is {value}: expected 0 to 100 (percent)")
    published = published_for(dataset).query("shots == 0").set_index(KEYS)
    published = published["paper"].fillna(published["public"]).dropna().rename("published")
    both = rows.set_index(KEYS).join(published, how="inner")
    by_category = both.drop(MEAN, level="category", errors="ignore")
    both = both if by_category.empty else by_category
    if both.empty:
        raise InputError(f"no category of the table, nor a mean, is published for {dataset}")
    means = both.dropna().groupby("metric").mean().reindex(METRICS)
    checked = Checked(dataset, rows, means["value"], means["published"])
    rules = RULES if inverted_states(checked) else RULES + SOUND_RULES
    return checked, [text for rule in rules if (text := rule(checked))]


def main(options: Options) -> None:
    """Print the table beside the published one, and the faults."""
    rows, remarks = read_zero_shot(options.table.expanduser())
    checked, faults = check(rows, options.dataset)
    remarks += remark_on_categories(rows, options.dataset)
    columns = checked.theirs, checked.published, checked.theirs - checked.published
    body = [[m, *(cell(column[m]) or UNPUBLISHED for column in columns)] for m in METRICS]
    print("".join(f"{options.table.name}: {remark}.\n\n" for remark in remarks), end="")
    print(table(["metric", "theirs", "published", "difference"], body, text_columns=1))
    print("\n".join(f"\nFault: {text}." for text in faults) or "\nNo known fault found.")


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(tyro.MISSING), __doc__, Path(__file__))))
