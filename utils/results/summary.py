"""Summarise a benchmark: the metrics of every run, their means over seeds, and published results.

`write_tables` writes two files into a result folder: `metrics.csv` (every category, shots, seed and
metric; values in [0, 1]) and `summary.csv` (mean and deviation over seeds beside the published
numbers, in percent). Both keep full precision; an undefined value is an empty field, never 0.

Published numbers come from `published.csv` beside this file: percent, as printed in their SOURCES.
Some sources print no deviation, and not every metric of every category.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from utils.evaluation.metrics import METRICS
from utils.files import write_text

PUBLISHED_FILE = Path(__file__).with_name("published.csv")
PAPER = "winclip_paper"  # the source shown as "paper"; any other source is shown by its name
SOURCES = {
    PAPER: "Jeong et al., WinCLIP (CVPR 2023), arXiv 2303.14814.",
    "accurate_winclip": "the closest public reimplementation, evaluated at 240x240.",
    "winclip_by_anomalyclip_paper": "WinCLIP as run for the AnomalyCLIP paper; "
    "the only published WinCLIP result on MPDD.",
}
MEAN = "mean"  # stands in the column `category` for the mean over all categories
MEAN_OF = "mean of "  # starts the name of the mean over a group of categories
KEYS = ["category", "shots", "metric"]  # identify one number of a dataset
COLUMNS = ["category", "shots", "seed", "metric", "value"]  # of metrics.csv, in this order
SUMMARY_COLUMNS = [  # of summary.csv
    *(*KEYS, "mean", "std", "runs"),
    *("paper", "paper_std", "public", "public_source"),
]
PERCENT = 100.0  # metrics are in [0, 1], published numbers and summaries in percent


@lru_cache
def load_published() -> pd.DataFrame:
    """Return all published numbers: source, dataset, shots, category, metric, value, std (percent).

    The table is read once; callers must not change it.
    """
    return pd.read_csv(PUBLISHED_FILE)


def published_for(dataset: str) -> pd.DataFrame:
    """Return the published numbers of one dataset ("mvtec", "visa", "mpdd"), one row per KEYS.

    Columns besides KEYS: paper, paper_std, public, public_source; empty if not published.
    """
    rows = load_published().query("dataset == @dataset")
    paper = rows[rows["source"] == PAPER].rename(columns={"value": "paper", "std": "paper_std"})
    public = rows[rows["source"] != PAPER].rename(
        columns={"value": "public", "source": "public_source"}
    )
    return paper[[*KEYS, "paper", "paper_std"]].merge(
        public[[*KEYS, "public", "public_source"]], on=KEYS, how="outer", validate="1:1"
    )


def write_tables(
    folder: Path,
    metrics: pd.DataFrame,
    dataset: str,
    categories: Sequence[str],
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write `metrics.csv` and `summary.csv` into `folder`, each atomically.

    `metrics` has the COLUMNS of `metrics.csv`; `categories` and `groups` as in `summarise`. The
    same arguments write the same bytes, whatever the order of the rows.
    """
    tables = {
        "metrics.csv": sort_metrics(metrics),
        "summary.csv": summarise(metrics, dataset, categories, groups),
    }
    for name, table in tables.items():
        write_text(folder / name, table.to_csv(index=False, lineterminator="\n"))


def read_summary(folder: Path) -> pd.DataFrame:
    """Read `summary.csv` of a result folder, bit for bit; empty if no image has a label."""
    path = folder / "summary.csv"
    if path.exists():
        text = dict(dtype={"category": str}, keep_default_na=False)  # a category may be named "NA"
        return pd.read_csv(path, engine="python", na_values=[""], **text)  # C rounds floats
    return pd.DataFrame(columns=SUMMARY_COLUMNS)


def sort_metrics(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the COLUMNS of `metrics`, sorted by category, shots, seed and the order of METRICS."""
    rows = metrics[COLUMNS].astype({"shots": int, "seed": "Int64", "value": float})
    rows["order"] = rows["metric"].map(METRICS.index)
    rows = rows.sort_values(["category", "shots", "seed", "order"])
    return rows.drop(columns="order").reset_index(drop=True)


def summarise(
    metrics: pd.DataFrame,
    dataset: str,
    categories: Sequence[str],
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Compute mean and sample standard deviation over seeds, beside the published numbers.

    `categories` is the full official list of the dataset; `groups` maps the name of a group to its
    categories. Numbers are percent, NaN if undefined.

    Columns: SUMMARY_COLUMNS; `runs` is the number of seeds averaged over (1 for 0 shots). Rows are
    sorted by shots, then in the order of `categories` and METRICS.

    The category "mean" is the mean over the finished categories within each seed, then the mean and
    deviation of these over seeds, as in the paper. A published mean stands beside it only if every
    one of `categories` is finished, and every published one. A metric that is undefined in one
    category has no mean. A finished group has its mean as the category "mean of <group>".
    """
    rows = sort_metrics(metrics)
    finished = set(rows["category"])
    means = [category_means(rows, MEAN)]
    for name, members in groups.items():
        if finished.issuperset(members):
            means.append(category_means(rows[rows["category"].isin(members)], f"{MEAN_OF}{name}"))
    rows = pd.concat([rows, *means], ignore_index=True)
    rows["value"] *= PERCENT
    summary = rows.groupby(KEYS)["value"].agg(mean=mean_or_nan, std=std_or_nan, runs="size")
    summary = summary.reset_index()
    published = published_for(dataset)
    if finished != set(categories) or not finished.issuperset(set(published["category"]) - {MEAN}):
        published = published[published["category"] != MEAN]
    summary = summary.merge(published, on=KEYS, how="left", validate="1:1")
    order = [*categories, MEAN, *(f"{MEAN_OF}{name}" for name in groups), *METRICS]
    rank = {name: index for index, name in enumerate(order)}
    summary = summary.sort_values(
        ["shots", "category", "metric"], key=lambda column: column.map(lambda v: rank.get(v, v))
    )
    return summary.reset_index(drop=True)


def category_means(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Average `rows` over their categories within each seed; the result is the category `name`."""
    by_seed = rows.groupby(["shots", "seed", "metric"], dropna=False)["value"]
    return by_seed.agg(mean_or_nan).reset_index().assign(category=name)


def mean_or_nan(values: pd.Series) -> float:
    """Return the mean, or NaN if any value is NaN."""
    return values.mean(skipna=False)


def std_or_nan(values: pd.Series) -> float:
    """Return the sample standard deviation, or NaN if any value is NaN or there is only one."""
    return values.std(ddof=1, skipna=False)
