"""Read the results to compare: result folders, or CSV files from elsewhere.

A CSV file has the columns of metrics.csv: category, shots, seed (may be empty or missing), metric,
and value in [0, 1], empty if undefined; commas, semicolons or tabs separate them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.splits import UNKNOWN
from utils.errors import InputError, describe_error
from utils.evaluation.metrics import METRICS
from utils.results.folder import read_finished, read_json
from utils.results.methods import has_maps, method_name
from utils.results.scores import load_arrays
from utils.results.summary import (
    COLUMNS,
    MEAN,
    METRIC_NAMES,
    PERCENT,
    dataset_name,
    published_for,
)

MEANS_LEFT_OUT = "its rows of means were left out; means are computed here"
TYPES = dict(zip(COLUMNS, (str, int, "Int64", str, float), strict=True))


@dataclass(frozen=True)
class ImageScores:
    """The image scores of one category: its labelled images, sorted by name."""

    image: np.ndarray  # (N,) str
    is_anomalous: np.ndarray  # (N,) bool
    shots: np.ndarray  # (R,) int
    seed: np.ndarray  # (R,) int, ascending for each number of shots
    values: np.ndarray  # (R, N) float32


@dataclass(frozen=True)
class Source:
    """One result to compare."""

    name: str
    path: Path
    metrics: pd.DataFrame  # the COLUMNS of metrics.csv; values in [0, 1]
    record: dict  # settings.json; empty for a CSV file
    remarks: list[str]  # on what is unknown, and what was changed in the numbers
    category: str = ""  # given to its only category by `match_single_categories`

    @cached_property
    def scores(self) -> dict[str, ImageScores]:
        """The image scores of each category; empty for a CSV file."""
        files = sorted((self.path / "scores").glob("*.npz")) if self.record else []
        return {self.category or file.stem: read_image_scores(file) for file in files}


def read_image_scores(path: Path) -> ImageScores:
    """Read the image scores in a file of scores/, without the maps."""
    arrays = load_arrays(path, ("image", "label", "shots", "seed", "image_scores"))
    runs = np.lexsort((arrays["seed"], arrays["shots"]))
    order = np.argsort(arrays["image"])
    order = order[arrays["label"][order] != UNKNOWN]
    labels = arrays["label"][order] == 1
    shots, seed, values = (arrays[name][runs] for name in ("shots", "seed", "image_scores"))
    return ImageScores(arrays["image"][order], labels, shots, seed, values[:, order])


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Read two or more results; each is named after its file or folder.

    If the methods differ, result folders are named after their methods instead.
    """
    if len(paths) < 2:
        raise InputError(
            f"{f'only {paths[0]} is' if paths else 'no results are'} given: expected two or more "
            "result folders or CSV files, such as python tools/compare.py result/mvtec theirs.csv",
            status=2,
        )
    paths = [path.expanduser() for path in paths]
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no {path}; give result folders or CSV files")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)}: give each result folder or CSV file only once")
    sources = [read_source(path, name) for path, name in zip(paths, names, strict=True)]
    return name_by_method(sources)


def name_by_method(sources: Sequence[Source]) -> list[Source]:
    """Name each run by its method if they differ; add the folder where several have a method."""
    methods = [method_name(s.record["settings"]) if s.record else "" for s in sources]
    if len(set(filter(None, methods))) < 2:
        return list(sources)
    named = []
    for source, method in zip(sources, methods, strict=True):
        if method:
            name = method if methods.count(method) == 1 else f"{method} ({source.name})"
            remark = f"the run in {source.path}"
            source = replace(source, name=name, remarks=[remark, *source.remarks])
        named.append(source)
    return named


def read_source(path: Path, name: str) -> Source:
    """Read a result folder or a CSV file; raise `InputError` if it is neither."""
    record, remarks, file = {}, [], path
    if path.is_dir():
        record = read_json(path / "settings.json", "settings", "fingerprint", "versions", "notes")
        file = path / "metrics.csv"
        if not file.exists():
            raise InputError(f"{path} has no metrics, because {explain_no_metrics(path)}")
        if not has_maps(record["settings"]):
            remarks.append("run without maps, so it has no pixel metrics")
    else:
        remarks.append("a CSV file, so its settings, weights and data are unknown")
    rows = read_columns(file, optional=("seed",))
    if "seed" not in rows:
        rows["seed"] = pd.array([pd.NA] * len(rows), "Int64")
    is_mean = rows["category"] == MEAN
    if is_mean.any():
        remarks.append(MEANS_LEFT_OUT)
    rows = rows[~is_mean].reset_index(drop=True)
    if is_percent(rows, file):
        remarks.append("values in percent were divided by 100")
        rows["value"] /= PERCENT
    return Source(name, path, rows, record, remarks)


def explain_no_metrics(path: Path) -> str:
    """Return why the run in a result folder has no metrics.csv, and what to do."""
    if read_finished(path):
        return "its images have no labels; give results of labelled images (docs/own-data.md)"
    return "its run has not finished any category; start it again"


def match_single_categories(sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """Give trials of several class names on the same images one category, the first one's.

    Other results stay as they are. Also return a remark on what was matched.
    """
    names = [source.metrics["category"].unique().tolist() for source in sources]
    if any(len(categories) != 1 for categories in names) or names.count(names[0]) == len(names):
        return list(sources), []
    first, *others = [
        source.scores.get(category) for source, (category,) in zip(sources, names, strict=True)
    ]
    pixels = [source.record.get("fingerprint", {}).get("images") for source in sources]
    if first is None or pixels.count(pixels[0]) < len(pixels):
        return list(sources), []
    if not all(scores and np.array_equal(scores.image, first.image) for scores in others):
        return list(sources), []
    ((category,), *_) = names
    matched = [
        replace(source, metrics=source.metrics.assign(category=category), category=category)
        for source in sources
    ]
    listed = ", ".join(name for (name,) in names)
    return matched, [
        f"The results have one category each ({listed}) with the same images, which are compared "
        f"under the name of the first, {category}."
    ]


def read_zero_shot(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return category, metric and value of the 0-shot rows of a CSV file, and remarks on the rest.

    summary.csv and metrics.csv of a run are read too: with a column `shots`, other rows are left
    out, and with a column `seed`, fractions become percent. Raise `InputError` for other columns or
    metrics, repeated rows, bad values and a table without any value.
    """
    rows, remarks = read_columns(path, optional=("shots", "seed")), []
    if "shots" in rows:
        rows = rows[rows["shots"] == 0]
        if rows.empty:
            raise InputError(f"{path} has no 0-shot rows; the published numbers are 0-shot")
        remarks.append("only its 0-shot rows are checked")
    if "seed" in rows and rows["value"].max() <= 1:
        rows = rows.assign(value=rows["value"] * PERCENT)
        remarks.append("fractions, as in metrics.csv, were multiplied by 100")
    known = rows["metric"].str.partition("@")[0].isin(METRIC_NAMES)
    others = rows["metric"][known & ~rows["metric"].isin(METRICS)]
    if len(others):
        remarks.append(f"not checked, because not published: {', '.join(others.unique())}")
    rows = rows.drop(index=others.index)[["category", "metric", "value"]]
    if rows["value"].isna().all():
        raise InputError(f"{path} has no 0-shot value of {', '.join(METRICS)}; fill in its values")
    if unknown := sorted(set(rows["metric"]) - set(METRICS)):
        raise InputError(f'unknown metric "{unknown[0]}"; the metrics are {", ".join(METRICS)}')
    if len(repeated := rows[rows.duplicated(["category", "metric"])]):
        raise InputError(f"two values of {describe_row(repeated.iloc[0])}; keep one")
    if len(wrong := rows[(rows["value"] < 0) | (rows["value"] > PERCENT)]):
        value = f"{wrong.iloc[0]['value']:g}"
        raise InputError(f"{describe_row(wrong.iloc[0])} is {value}: expected 0 to 100 (percent)")
    return rows, remarks


def dataset_beside(path: Path) -> str | None:
    """Return the dataset of the run whose result folder holds a file; None without a run."""
    record = path.with_name("settings.json")
    return dataset_name(read_json(record, "settings")["settings"]) if record.exists() else None


def notes_beside(path: Path) -> list[str]:
    """Return the warnings of the run whose result folder holds a file; [] without a run."""
    record = path.with_name("settings.json")
    return read_json(record).get("notes", []) if record.exists() else []


def remark_on_categories(rows: pd.DataFrame, dataset: str) -> list[str]:
    """Say how the categories of `rows` differ from those published for `dataset`."""
    given = set(rows["category"]) - {MEAN}
    published = set(published_for(dataset)["category"]) - {MEAN}
    remarks = []
    if given and MEAN in set(rows["category"]):
        remarks.append(MEANS_LEFT_OUT)
    if unknown := sorted(given - published):
        remarks.append(f"not checked, because not published for {dataset}: {', '.join(unknown)}")
    if missing := sorted(published - given) if given else []:
        remarks.append(
            f"it lacks {len(missing)} of {len(published)} categories, such as {missing[0]}; the "
            "published means are over the others"
        )
    return remarks


def read_columns(path: Path, optional: Collection[str] = ()) -> pd.DataFrame:
    """Read the COLUMNS of a CSV file; the `optional` ones may be missing.

    The column `value` may have the name `mean`, as in summary.csv. Raise `InputError` if columns
    are missing or malformed, and for two values in the same category, run and metric.
    """
    required = [name for name in COLUMNS if name not in optional]
    text = dict(dtype={"category": str}, keep_default_na=False)  # a category may be named "NA"
    try:
        with path.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = max(",;\t", key=header.count)
        rows = pd.read_csv(path, sep=separator, na_values=[""], **text)
        if "value" not in rows:
            rows = rows.rename(columns={"mean": "value"})
        missing = [name for name in required if name not in rows]
        if missing or rows.empty:
            raise ValueError(f"no column {missing[0]}" if missing else "no rows")
        if rows[["category", "metric"]].isna().any(axis=None):
            raise ValueError("an empty category or metric")
        types = {name: kind for name, kind in TYPES.items() if name in rows}
        rows = rows[list(types)].astype(types)
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; give a result folder or a CSV file") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as a table ({describe_error(error)}); expected a CSV file with "
            f"the columns {', '.join(required)}, and an empty value where a metric is undefined"
        ) from error
    repeated = rows[rows.drop(columns="value").duplicated()]
    if len(repeated):
        raise InputError(f"{path} has two values of {describe_row(repeated.iloc[0])}; keep one")
    return rows


def is_percent(rows: pd.DataFrame, path: Path) -> bool:
    """Return whether the column `value` is in percent: every metric has a value above 1.

    Raise `InputError` where only some metrics do, and for values that are no metrics.
    """
    highest = rows.groupby("metric")["value"].max().dropna()
    above = highest > 1
    if above.any() and not above.all():
        raise InputError(
            f"{path} mixes percent ({above.idxmax()}) and fractions ({above.idxmin()}): "
            "give all values in [0, 1]"
        )
    limit = PERCENT if above.any() else 1.0
    wrong = rows["value"][(rows["value"] < 0) | (rows["value"] > limit)]
    if len(wrong):
        raise InputError(f"{path} has the value {wrong.iloc[0]:g}: expected values in [0, 1]")
    return bool(above.any())


def describe_row(row: pd.Series) -> str:
    """Name metric, category and, where recorded, run: `image_auroc of grid, 1-shot seed 0`."""
    shots = f", {row['shots']}-shot" if "shots" in row else ""
    seed = "" if pd.isna(row.get("seed")) else f" seed {row['seed']}"
    return f"{row['metric']} of {row['category']}{shots}{seed}"
