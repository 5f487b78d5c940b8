"""Summarise a benchmark: the metrics of every run, their means over seeds, and published results.

`write_tables` writes two files into a result folder: `metrics.csv` (every category, shots, seed and
metric; values in [0, 1]) and `summary.csv` (mean and deviation over seeds beside the published
numbers, in percent). Both keep full precision; an undefined value is an empty field, never 0.

Published numbers come from `published.csv` beside this file: percent, one row per source, which
`published_sources.csv` describes. Some sources print no deviation, and not every metric of every
category. The tables show the number of the method's paper and, for WinCLIP, that of the CLOSEST
public code, and count the others.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from utils.errors import InputError
from utils.evaluation.metrics import metric_order
from utils.files import write_text
from utils.results.methods import WINCLIP, method_of, variant_of

PUBLISHED_FILE = Path(__file__).with_name("published.csv")
SOURCES_FILE = Path(__file__).with_name("published_sources.csv")
PAPERS = {  # the source shown as "paper" for each method; any other source is shown by its name
    WINCLIP: "winclip_paper",
    "anomalyclip": "anomalyclip_paper",
    "inctrl": "inctrl_paper",
}
CLOSEST = {  # the source shown as "public" for each dataset, of WinCLIP
    "mvtec": "accurate_winclip",
    "visa": "accurate_winclip",
    "mpdd": "winclip_by_anomalyclip_paper",
}
MEAN = "mean"  # stands in the column `category` for the mean over all categories
MEAN_OF = "mean of "  # starts the name of the mean over a group of categories
KEYS = ["category", "shots", "metric"]  # identify one number of a dataset
COLUMNS = ["category", "shots", "seed", "metric", "value"]  # of metrics.csv, in this order
SUMMARY_COLUMNS = [  # of summary.csv
    *(*KEYS, "mean", "std", "runs"),
    *("paper", "paper_std", "public", "public_source", "other_sources"),
]
PERCENT = 100.0  # metrics are in [0, 1], published numbers and summaries in percent
METRIC_NAMES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AUPR",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AUPR",
    "pixel_f1_max": "pixel F1-max",
    "pixel_aupro": "AUPRO",
    "pixel_aupro_005": "AUPRO to FPR 0.05",
    "pixel_iou_max": "pixel IoU-max",
    "mean_of_seven": "mean of seven",
}


@lru_cache
def load_published() -> pd.DataFrame:
    """Return all published numbers: source, dataset, shots, category, metric, value, std (percent).

    The table is read once; callers must not change it.
    """
    return pd.read_csv(PUBLISHED_FILE)


@lru_cache
def load_sources() -> dict[str, dict[str, str]]:
    """Return method, description, link and known departures from the paper, by source."""
    table = pd.read_csv(SOURCES_FILE, keep_default_na=False)
    return table.set_index("source").to_dict(orient="index")


@lru_cache
def published_for(dataset: str, method: str = WINCLIP) -> pd.DataFrame:
    """Return the published numbers of a method on a dataset ("mvtec", "visa"), one row per KEYS.

    The table is made once; callers must not change it.

    Columns besides KEYS: paper, paper_std, public, public_source, empty if not published, and
    other_sources: how many further sources have this number of the method.
    """
    rows = load_published().query("dataset == @dataset")
    paper, closest = shown_sources(dataset, method)
    paper = rows[rows["source"] == paper].rename(columns={"value": "paper", "std": "paper_std"})
    public = rows[rows["source"] == closest].rename(
        columns={"value": "public", "source": "public_source"}
    )
    others = other_results(dataset, method).query("method == @method")
    others = others.groupby(KEYS).size().rename("other_sources").reset_index()
    numbers = paper[[*KEYS, "paper", "paper_std"]]
    for table in (public[[*KEYS, "public", "public_source"]], others):
        numbers = numbers.merge(table, on=KEYS, how="outer", validate="1:1")
    return numbers.fillna({"other_sources": 0}).astype({"other_sources": "Int64"})


def published_zero_shot(dataset: str, categories: Collection[str]) -> pd.Series:
    """Return the published 0-shot numbers of WinCLIP by category and metric, in percent.

    They are the paper's, or else those of the closest public code. Raise `InputError` if there are
    none, or if only means are published and `categories` has others.
    """
    numbers = published_for(dataset).query("shots == 0").set_index(["category", "metric"])
    numbers = numbers["paper"].fillna(numbers["public"]).dropna().rename("published")
    if numbers.empty:
        raise InputError(
            f"no 0-shot numbers of WinCLIP are published for {dataset}, so there is nothing to "
            "compare the table with"
        )
    if set(numbers.index.get_level_values("category")) == {MEAN} and set(categories) != {MEAN}:
        raise InputError(
            f"no value of the table is in a category published for {dataset}: only means are; give "
            f'a table of means alone, with the category "{MEAN}"'
        )
    return numbers


def published_beside(settings: Mapping) -> pd.DataFrame:
    """Return the published numbers to show beside those of a run, from its settings.

    A variant of the method has only those of zero-shot: its other scores are not the paper's.
    """
    published = published_for(dataset_name(settings), method_of(settings))
    return published[published["shots"] == 0] if variant_of(settings) else published


def shown_sources(dataset: str, method: str) -> tuple[str, str | None]:
    """Return the sources that are shown as "paper" and "public"; None if there is no public one."""
    return PAPERS[method], CLOSEST.get(dataset) if method == WINCLIP else None


def dataset_name(settings: Mapping) -> str:
    """Return the name of a run's dataset in `published.csv`, from its settings (settings.json).

    A user's own benchmark has the numbers of the dataset that it is named after, such as "btad".
    """
    return (settings.get("name") or settings["dataset"]).lower()


def other_results(dataset: str, method: str = WINCLIP) -> pd.DataFrame:
    """Return the means in `load_published` of all sources but the `shown_sources`.

    The column `method` is added, because these sources include those of other methods.
    """
    rows = load_published().query("dataset == @dataset and category == @MEAN")
    rows = rows[~rows["source"].isin(shown_sources(dataset, method))]
    return rows.assign(method=[load_sources()[source]["method"] for source in rows["source"]])


def others_beside(settings: Mapping, shots: Collection[int]) -> pd.DataFrame:
    """Return the `other_results` to list beside a run with these numbers of shots.

    A variant of the method has only those of zero-shot, as in `published_beside`.
    """
    others = other_results(dataset_name(settings), method_of(settings))
    return others[others["shots"].isin({0} & set(shots) if variant_of(settings) else shots)]


def write_tables(
    folder: Path,
    metrics: pd.DataFrame,
    published: pd.DataFrame,
    categories: Sequence[str],
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write `metrics.csv` and `summary.csv` into `folder`, each atomically.

    `metrics` has the COLUMNS of `metrics.csv`; the other arguments are those of `summarise`. The
    same arguments write the same bytes, whatever the order of the rows.
    """
    tables = {
        "metrics.csv": sort_metrics(metrics),
        "summary.csv": summarise(metrics, published, categories, groups),
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
    """Return the COLUMNS of `metrics`, sorted by category, shots, seed and `metric_order`."""
    rows = metrics[COLUMNS].astype({"shots": int, "seed": "Int64", "value": float})
    rank = {metric: index for index, metric in enumerate(metrics_of(rows))}
    rows["order"] = rows["metric"].map(rank)
    rows = rows.sort_values(["category", "shots", "seed", "order"])
    return rows.drop(columns="order").reset_index(drop=True)


def metrics_of(rows: pd.DataFrame) -> list[str]:
    """Return the distinct metrics in the column `metric`, in the order of `metric_order`."""
    return sorted(set(rows["metric"]), key=metric_order)


def metric_title(metric: str) -> str:
    """Return the name of a metric for the head of a table; an unknown one is returned as it is.

    >>> metric_title("pixel_auroc@400"), metric_title("pixel_aupro_005"), metric_title("ours")
    ('pixel AUROC@400', 'AUPRO to FPR 0.05', 'ours')
    """
    name, at, size = metric.partition("@")
    return METRIC_NAMES.get(name, name) + at + size


def summarise(
    metrics: pd.DataFrame,
    published: pd.DataFrame,
    categories: Sequence[str],
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Compute mean and sample standard deviation over seeds, beside the published numbers.

    `published` is that of `published_beside`; `categories` is the full official list of the
    dataset; `groups` maps the name of a group to its categories. Numbers are percent, NaN if
    undefined.

    Columns: SUMMARY_COLUMNS; `runs` is the number of seeds averaged over (1 for 0 shots). Rows are
    sorted by shots, then in the order of `categories` and of the metrics.

    The category "mean" is the mean over the finished categories within each seed, then the mean and
    deviation of these over seeds, as in the paper. A published mean stands beside it only if all
    `categories` are finished, and all published ones. A metric that is undefined in one category
    has no mean. The mean over a finished group is the category "mean of <group>".
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
    if finished != set(categories) or not finished.issuperset(set(published["category"]) - {MEAN}):
        published = published[published["category"] != MEAN]
    summary = summary.merge(published, on=KEYS, how="left", validate="1:1")
    mean_names = [MEAN, *(f"{MEAN_OF}{name}" for name in groups)]
    order = [*categories, *mean_names, *metrics_of(summary)]
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
