"""Tables of a benchmark: metrics of every run, their means over seeds, and the published ones.

`write_tables` writes three files into a run's folder: `metrics.csv` (every category, shots, seed
and metric; values in [0, 1]), `summary.csv` (means over seeds beside the published numbers, in
percent) and `summary.md` (the same to read, percent with one decimal). The CSV files hold full
precision. An undefined value is empty in the CSV files and n/a in `summary.md`, never 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from utils.errors import InputError
from utils.evaluation.metrics import METRICS
from utils.files import write_text
from utils.results.markdown import summary_page
from utils.results.published import KEYS, MEAN, MEAN_OF, published_for

COLUMNS = ["category", "shots", "seed", "metric", "value"]  # of metrics.csv, in this order
SUMMARY_COLUMNS = [  # of summary.csv
    *(*KEYS, "mean", "std", "runs"),
    *("paper", "paper_std", "public", "public_source"),
]
PERCENT = 100.0  # metrics are in [0, 1], published numbers and summaries in percent


def write_tables(
    folder: Path,
    metrics: pd.DataFrame,
    dataset: str,
    categories: Sequence[str],
    notes: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Write `metrics.csv`, `summary.csv` and `summary.md` into `folder`; return the Markdown.

    `metrics` has the COLUMNS of `metrics.csv`; `categories` is the dataset's full official list;
    `notes` are sentences for the top of `summary.md`; `groups` names categories that get a mean
    of their own, once all of a group are there. Each file is there whole or not at all, and
    the same arguments write the same bytes.
    """
    summary = summarise(metrics, dataset, categories, groups)
    page = summary_page(summary, dataset, categories, notes)
    write_metrics(folder / "metrics.csv", metrics)
    write_text(folder / "summary.csv", summary.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "summary.md", page)
    return page


def write_metrics(path: Path, metrics: pd.DataFrame) -> None:
    """Write `metrics` (COLUMNS) as CSV: sorted, every digit kept, NaN and no seed left empty."""
    rows = checked(metrics)
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def checked(metrics: pd.DataFrame) -> pd.DataFrame:
    """`metrics` with its COLUMNS only, typed and sorted; `InputError` where a row cannot be.

    Sorted by category, shots and seed, then in the order of METRICS.
    """
    missing = [name for name in COLUMNS if name not in metrics.columns]
    if missing:
        raise InputError(f"metric rows lack the column {missing[0]}; they need {COLUMNS}")
    if not len(metrics):
        raise InputError("there are no metric rows to write; finish at least one category")
    rows = metrics[COLUMNS].astype({"shots": int, "seed": "Int64", "value": float})
    unknown = sorted(set(rows["metric"]) - set(METRICS))
    if unknown:
        raise InputError(f"unknown metric {unknown[0]!r}; known are {', '.join(METRICS)}")
    outside = rows[(rows["value"] < 0) | (rows["value"] > 1)]
    if len(outside):
        raise InputError(f"metric outside [0, 1]: {outside.iloc[0].to_dict()}; give fractions")
    if ((rows["shots"] == 0) != rows["seed"].isna()).any():
        raise InputError("0-shot rows, and only they, have no seed; leave theirs empty")
    twice = rows[rows.duplicated(COLUMNS[:-1])]
    if len(twice):
        raise InputError(f"a metric is given twice: {twice.iloc[0].to_dict()}; keep one row")
    order = rows["metric"].map(METRICS.index)
    rows = rows.assign(order=order).sort_values(["category", "shots", "seed", "order"])
    return rows.drop(columns="order").reset_index(drop=True)


def summarise(
    metrics: pd.DataFrame,
    dataset: str,
    categories: Sequence[str],
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, in percent, beside the published numbers.

    Columns: category, shots, metric, mean, std, runs (seeds averaged over; 1 for 0 shots), paper,
    paper_std, public, public_source. Sorted by shots, then in the order of `categories` and
    METRICS. The category "mean" is the mean over the given categories within each seed, then the
    mean and deviation of these over seeds, as in the paper; published means stand beside it only
    where every one of `categories` is there, and every one that was published. A metric undefined
    in one category has no mean. The mean of a group is the category "mean of <group>".
    """
    rows = checked(metrics)
    check_categories(rows, categories)
    here = set(rows["category"])
    means = [means_of(rows, MEAN)]
    for name, members in groups.items():
        if here.issuperset(members):
            means.append(means_of(rows[rows["category"].isin(members)], f"{MEAN_OF}{name}"))
    rows = pd.concat([rows, *means], ignore_index=True)
    rows["value"] *= PERCENT
    summary = rows.groupby(KEYS)["value"].agg(mean=whole_mean, std=whole_std, runs="size")
    summary = summary.reset_index()
    published = published_for(dataset)
    if here != set(categories) or not here.issuperset(set(published["category"]) - {MEAN}):
        published = published[published["category"] != MEAN]
    summary = summary.merge(published, on=KEYS, how="left", validate="1:1")
    order = [*categories, MEAN, *(f"{MEAN_OF}{name}" for name in groups), *METRICS]
    rank = {name: index for index, name in enumerate(order)}
    summary = summary.sort_values(
        ["shots", "category", "metric"], key=lambda column: column.map(lambda v: rank.get(v, v))
    )
    return summary.reset_index(drop=True)


def means_of(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The mean over the categories of some rows, within each seed, as the category `name`."""
    by_seed = rows.groupby(["shots", "seed", "metric"], dropna=False)["value"]
    return by_seed.agg(whole_mean).reset_index().assign(category=name)


def whole_mean(values: pd.Series) -> float:
    """The mean; NaN if any value is."""
    return values.mean(skipna=False)


def whole_std(values: pd.Series) -> float:
    """The sample standard deviation; NaN if any value is, or there is only one."""
    return values.std(ddof=1, skipna=False)


def check_categories(rows: pd.DataFrame, categories: Sequence[str]) -> None:
    """Every category must be official, and all must have the same runs: a mean needs both."""
    unknown = sorted(set(rows["category"]) - set(categories))
    if unknown:
        raise InputError(f"unknown category {unknown[0]!r}; known are {', '.join(categories)}")
    runs = {
        category: frozenset(
            zip(part["shots"], part["seed"].fillna(-1), part["metric"], strict=True)
        )
        for category, part in rows.groupby("category")
    }
    names = list(runs)
    for name in names[1:]:
        if runs[name] != runs[names[0]]:
            raise InputError(
                f"{name} and {names[0]} have different shots, seeds or metrics, so there is no "
                "mean over them; run the missing ones"
            )
