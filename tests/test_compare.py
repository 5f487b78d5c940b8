"""Test the comparison of results: the bootstrap against scikit-learn and DeLong, and the tables."""

import json
import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from tools import compare as tool
from tools.interval_coverage import coverage
from utils.compare.intervals import (
    compare_category,
    draw_halves,
    interval,
    pair_variance,
    resampled_metrics,
)
from utils.compare.sources import read_sources
from utils.compare.tables import add_statistics, compare
from utils.compare.write import by_result, latex_floats, write_comparison
from utils.errors import InputError
from utils.evaluation.metrics import image_metrics
from utils.results.scores import NO_SEED, Scores, save_scores
from utils.results.summary import COLUMNS

RUNS = ((0, NO_SEED), (1, 0), (1, 1), (1, 2))
CATEGORIES = ("bottle", "grid", "wood")
HOSTILE = "<b>50 %_&"


def write_result(
    folder: Path, shift: float, runs=RUNS, categories=CATEGORIES, notes=(), **settings
) -> Path:
    """Write a result folder; anomalous images have scores higher by `shift`, good ones do not.

    With the setting `maps=False`, it has neither maps nor pixel metrics.
    """
    has_maps = settings.get("maps", True)
    rows = []
    for number, category in enumerate(categories):
        rng = np.random.default_rng(number)
        labels = np.arange(24) >= 10
        values = rng.normal(size=(len(runs), 24)) + shift * labels
        shots, seeds = np.transpose(runs)
        scores = Scores(
            image=np.array([f"{category}/{index:02}.png" for index in range(24)]),
            label=labels.astype(int),
            shots=shots,
            seed=seeds,
            image_scores=values.astype(np.float32),
            maps=np.zeros((len(runs), 24, 1, 1), np.float32) if has_maps else None,
            tiles=np.ones((24, 2), int),
            tile_side=np.full(24, 8),
            size=np.full((24, 2), 8),
        )
        save_scores(folder / "scores" / f"{category}.npz", scores)
        for run, (count, seed) in enumerate(runs):
            metrics = image_metrics(scores.image_scores[run], scores.label)
            metrics |= {"pixel_auroc": 0.5} if has_maps else {}
            seed = None if seed == NO_SEED else seed
            rows += [(category, count, seed, name, value) for name, value in metrics.items()]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"seed": "Int64"})
    table.to_csv(folder / "metrics.csv", index=False)
    record = {
        "settings": {"protocol": "paper", **settings},
        "fingerprint": {"temperature": shift, "split_sha256": "ab" * 32, "scales": [2, 3]},
        "weights": {"description": "the paper's"},
        "versions": {"torch": "2.14"},
        "notes": list(notes),
    }
    (folder / "settings.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[Path]:
    """Return three result folders with the same images and rising scores."""
    folder = tmp_path_factory.mktemp("compare")
    names = {"a": 0.5, "b": 1.0, HOSTILE: 3.0}
    notes = {"b": ["RANDOM WEIGHTS: no meaning"]}
    return [write_result(folder / n, shift, notes=notes.get(n, ())) for n, shift in names.items()]


def write_csv(path: Path, folder: Path, change=lambda rows: rows) -> Path:
    """Write the numbers of a result folder as a CSV file, changed by a function."""
    change(pd.read_csv(folder / "metrics.csv")).to_csv(path, index=False)
    return path


def mean_of(comparison, result: str, metric: str = "image_auroc", shots: int = 1):
    """Return the row of a mean."""
    query = "category == 'mean' and result == @result and metric == @metric and shots == @shots"
    (row,) = comparison.table.query(query).itertuples()
    return row


@pytest.mark.parametrize("levels", [1, 6, 10**6])  # with all scores equal, with ties, without
def test_resampled_metrics_are_those_of_scikit_learn_with_sample_weights(levels):
    rng = np.random.default_rng(levels)
    for _ in range(6):
        sizes = rng.integers(2, 12, 2)
        scores = [np.round(rng.random(n) * levels) / levels for n in sizes]
        counts = [rng.integers(0, 4, (n, 5)) + (np.arange(n) == 0)[:, None] * 1.0 for n in sizes]
        values = resampled_metrics(*scores, *counts)
        labels = np.repeat([0, 1], sizes)
        for index, weights in enumerate(np.concatenate(counts).T):
            arguments = labels, np.concatenate(scores)
            precision, recall, _ = precision_recall_curve(*arguments, sample_weight=weights)
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
            expected = [
                roc_auc_score(*arguments, sample_weight=weights),
                average_precision_score(*arguments, sample_weight=weights),
                f1.max(),
            ]
            np.testing.assert_allclose(values[:, index], expected, rtol=0, atol=1e-12)


def test_the_variance_of_auroc_is_unbiased():
    """Over all samples from a small population, its mean is the variance of AUROC."""
    table = np.array([[0.0, 1.0], [1.0, 0.5]])  # values of pairs of a row and a column
    samples = [
        table[np.ix_(rows, columns)]
        for rows, columns in product(product((0, 1), repeat=3), product((0, 1), repeat=4))
    ]
    estimates, bounds = pair_variance(np.stack(samples))
    assert estimates.mean() == pytest.approx(np.var([np.mean(pairs) for pairs in samples]))
    assert estimates.min() < 0  # which is why the larger of both is used
    vary = [np.ptp(pairs) > 0 for pairs in samples]
    assert ((np.maximum(estimates, bounds) > 0) == vary).all()


def test_a_difference_of_auroc_in_a_small_category_has_a_variance():
    labels = np.array([False, False, True, True])
    one, two = np.array([2.0, 4, 3, 1]), np.array([3.0, 1, 4, 2])
    compared = compare_category(np.stack([one, two])[:, None], labels, np.random.default_rng(0), 2)
    assert compared.means[0, 0] == pytest.approx(0.5)  # row and column means are all 1/2
    assert compared.variances[0, 0, 0] == pytest.approx(1 / 4)


def test_the_variance_of_auroc_is_delongs_but_for_the_pairs():
    rng = np.random.default_rng(0)
    labels = np.arange(100) >= 40
    one, two = rng.normal(size=(2, 100)) + np.outer([1.0, 1.5], labels)
    compared = compare_category(np.stack([one, two])[:, None], labels, rng, 2)
    wins = [scores[labels][:, None] > scores[~labels] for scores in (one, two)]
    difference = wins[1].astype(float) - wins[0]
    means = [difference.mean(axis=axis) for axis in (0, 1)]
    delong = sum(mean.var(ddof=1) / len(mean) for mean in means)
    rest = difference - means[0] - means[1][:, None] + difference.mean()
    pairs = (rest**2).sum() / (39 * 59) / difference.size
    assert compared.variances[0, 0, 0] == pytest.approx(delong - pairs)
    assert compared.means[0, 0] == pytest.approx(difference.mean(), abs=1e-6)
    assert compared.freedoms == [39]


def test_the_variance_between_seeds_is_added_and_equal_rankings_do_not_differ():
    rng = np.random.default_rng(0)
    labels = np.arange(40) >= 20
    scores = rng.normal(size=(1, 3, 40)) + labels
    same = compare_category(np.concatenate([scores, np.exp(scores)]), labels, rng, 200)
    assert not same.means.any()
    assert not same.variances.any()
    perfect = np.repeat(labels[None] * 1.0, 3, axis=0)
    mixed = perfect * np.array([[1], [1], [-1]])  # AUROC 1, 1 and 0, in every resample
    compared = compare_category(np.stack([perfect, mixed]), labels, rng, 20)
    assert compared.variances[:, 0, 0] == pytest.approx([0, 1 / 3 / 3])  # of the mean of the three
    assert compared.freedoms == [19, 2]


def test_half_of_the_images_are_drawn_without_replacement():
    rng = np.random.default_rng(0)
    for size in (2, 5, 6):
        counts = draw_halves(rng, size, 400)
        assert counts[:, 0].tolist() == [1] * size
        halves = counts[:, 1:]
        assert set(halves.ravel()) == {0, 1}
        assert set(halves.sum(axis=0)) == {size // 2, (size + 1) // 2}
        assert halves.mean(axis=1) == pytest.approx(0.5, abs=0.1)


def test_the_interval_has_the_quantiles_of_student_t():
    low, high, p = interval(1.0, np.array([0.25]), [4])  # t of 4 degrees: 2.7764451
    assert (low, high, p) == pytest.approx((-0.3882226, 2.3882226, 0.1161165), abs=1e-6)
    equal = interval(1.0, np.array([0.125, 0.125]), [2, 2])  # together 4 degrees (Satterthwaite)
    assert equal == pytest.approx((low, high, p))
    assert interval(0.0, np.zeros(2), [4, 4]) == (0, 0, 1)
    assert np.isnan(interval(1.0, np.zeros(2), [4, 4])).all()
    assert np.isnan(interval(1.0, np.array([0.25, 0.01]), [2, 30])).all()  # 2.2 degrees


def test_too_few_images_or_seeds_have_no_interval_and_the_page_says_why(results, tmp_path):
    paths = []
    for name, shift in (("few", 1.0), ("fewer", 3.0)):
        paths.append(tmp_path / name)
        write_result(paths[-1], shift, categories=("bottle",), notes=["LIMIT = 2"])
        path = paths[-1] / "scores" / "bottle.npz"
        with np.load(path) as archive:
            arrays = dict(archive)
        rows = {"image", "label", "tiles", "tile_side", "size"}
        arrays |= {key: arrays[key][8:12] for key in rows}  # two good and two anomalous images
        np.savez(path, **arrays | {key: arrays[key][:, 8:12] for key in ("image_scores", "maps")})
    comparison = compare(read_sources(paths))
    assert comparison.notes == ["few, fewer: LIMIT = 2"]
    assert comparison.reasons == [
        "No interval or p-value for fewer: there are 2 good and 2 anomalous images, and an "
        "interval needs at least 10 of each."
    ]
    page = write_comparison(comparison, tmp_path / "out")
    assert comparison.reasons[0] in page
    assert re.search(r"image AUROC +\| fewer +\| [^|]+\| [^|]+\| +n/a \| n/a", page)


def test_seeds_that_vary_too_much_have_no_interval_and_the_reason_is_named(results):
    table = compare(read_sources(results[:2])).table[lambda rows: rows["shots"] == 0]
    table = table.drop(columns=["low", "high", "p", "wins", "ties", "losses"])
    variances = {("b", 0, "image_auroc"): (np.array([0.1, 4.0]), [40, 2])}
    table, reasons = add_statistics(table, variances)
    assert reasons == [
        "No interval or p-value for image AUROC of b at 0-shot: too few images or seeds (2.1 "
        "degrees of freedom, and an interval needs 3)."
    ]
    assert table[["low", "high", "p"]].isna().all(axis=None)


def test_the_coverage_counts_the_intervals_with_the_mean_difference():
    trials = np.array(
        [[[0.0] * 3, [-2.0] * 3, [2.0] * 3]] * 3 + [[[4.0] * 3, [2.0] * 3, [6.0] * 3]]
    )
    assert coverage(trials).tolist() == [0.75] * 3  # the mean is 1


def test_means_differences_and_wins_are_those_of_the_metrics(results):
    comparison = compare(read_sources(results))
    row = mean_of(comparison, "b")
    values = {}
    for folder in results[:2]:
        metrics = pd.read_csv(folder / "metrics.csv").query(
            "metric == 'image_auroc' and shots == 1"
        )
        values[folder.name] = 100 * metrics.groupby("category")["value"].mean()
        seeds = 100 * metrics.groupby("seed")["value"].mean()
    assert row.mean == pytest.approx(values["b"].mean())
    assert row.std == pytest.approx(seeds.std())
    assert row.difference == pytest.approx(values["b"].mean() - values["a"].mean())
    assert (row.wins, row.ties, row.losses) == (3, 0, 0)
    assert row.low < row.difference < row.high
    assert np.isnan(mean_of(comparison, "a").difference)
    assert np.isnan(mean_of(comparison, "b", "pixel_auroc").low)
    assert mean_of(comparison, "b", "pixel_auroc").ties == 3


def test_metrics_are_sorted_by_size_and_unknown_ones_come_last(results, tmp_path):
    names = ["ours", "pixel_aupro@source", "pixel_auroc@400", "mean_of_seven", "image_aupr"]
    paths = []
    for name in "ab":
        rows = [("grid", 0, None, metric, 0.5) for metric in names]
        paths.append(tmp_path / f"{name}.csv")
        pd.DataFrame(rows, columns=COLUMNS).to_csv(paths[-1], index=False)
    table = compare(read_sources(paths)).table
    assert list(dict.fromkeys(table["metric"])) == [
        *("image_aupr", "mean_of_seven", "pixel_auroc@400", "pixel_aupro@source", "ours")
    ]


def test_a_clear_difference_is_significant_and_the_seed_fixes_the_result(results):
    one, two = (compare(read_sources(results)) for _ in range(2))
    assert mean_of(one, HOSTILE).p < 0.001
    pd.testing.assert_frame_equal(one.table, two.table)


def test_differences_and_warnings_come_first(results):
    comparison = compare(read_sources(results[:2]))
    assert ["settings", "temperature", "0.5", "1.0"] in comparison.differences
    assert not [row for row in comparison.differences if row[1] in ("split_sha256", "scales")]
    assert comparison.notes == ["b: RANDOM WEIGHTS: no meaning"]


def test_numbers_from_elsewhere_have_no_interval(results, tmp_path):
    means = pd.DataFrame([("mean", 0, 0, "image_auroc", 50.0)], columns=COLUMNS)
    path = write_csv(
        tmp_path / "theirs.csv",
        results[1],
        lambda rows: pd.concat([rows.assign(value=100 * rows["value"]), means]),
    )
    comparison = compare(read_sources([results[0], path]))
    row = mean_of(comparison, "theirs.csv")
    same = mean_of(compare(read_sources(results[:2])), "b")
    assert (row.mean, row.difference) == pytest.approx((same.mean, same.difference))
    assert np.isnan(row.low)
    page = write_comparison(comparison, tmp_path / "out")
    assert re.search(r"image AUROC +\| theirs.csv +\| [^|]+\| [^|]+\| +n/a \| n/a \|", page)
    assert "No differences are recorded." in page
    text = "\n".join(comparison.remarks + comparison.reasons)
    assert "a CSV file, so its settings, weights and data are unknown" in text
    assert "it holds numbers, not the scores of the images" in text
    assert "values in percent were divided by 100" in text
    assert "its rows of means were left out" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="shots"), "no column shots"),
        (lambda rows: rows.iloc[:0], "no rows"),
        (lambda rows: rows.assign(value="n/a"), "cannot be read as a table"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), "two values of image_auroc of bottle"),
        (lambda rows: rows.assign(value=-rows["value"]), "has the value -0"),
        (lambda rows: rows.assign(value=700 * rows["value"]), "has the value"),
        (
            lambda rows: rows.assign(
                value=rows["value"].where(rows["metric"] != "image_auroc", 90)
            ),
            r"mixes percent \(image_auroc\) and fractions",
        ),
        (lambda rows: rows.iloc[:-4], "not in all of the 3 categories"),
        (
            lambda rows: rows.assign(category="x" + rows["category"]),
            "no category is in all results",
        ),
        (lambda rows: rows.assign(shots=8), "no other result has a number of shots of a"),
    ],
)
def test_a_bad_table_raises_one_sentence(results, tmp_path, change, message):
    path = write_csv(tmp_path / "theirs.csv", results[0], change)
    with pytest.raises(InputError, match=message):
        compare(read_sources([results[0], path]))


def test_a_missing_or_repeated_result_raises_one_sentence(results, tmp_path):
    for paths, given in (([], "no results are given"), (results[:1], f"only {results[0]} is")):
        with pytest.raises(InputError, match=f"{given}.*two or more.*python tools") as caught:
            read_sources(paths)
        assert caught.value.status == 2
    with pytest.raises(InputError, match="only once"):
        read_sources([results[0], results[0]])
    with pytest.raises(InputError, match="there is no"):
        read_sources([results[0], tmp_path / "none.csv"])
    with pytest.raises(InputError, match=r"settings\.json"):
        read_sources([results[0], tmp_path])
    trial = write_result(tmp_path / "trial", 2.0)
    (trial / "metrics.csv").unlink()
    with pytest.raises(InputError, match="trial has no metrics, because its run has not finished"):
        read_sources([results[0], trial])
    (trial / "done").mkdir()
    (trial / "done/bottle.json").write_text('{"metrics": [], "references": []}')
    with pytest.raises(InputError, match="trial has no metrics, because its images have no labels"):
        read_sources([results[0], trial])


def test_a_table_may_lack_seeds_and_separate_columns_by_semicolons(results, tmp_path):
    rows = pd.read_csv(results[0] / "metrics.csv").query("seed == 0 and shots == 1")
    path = tmp_path / "theirs.csv"
    rows.drop(columns="seed").to_csv(path, sep=";", index=False)
    row = mean_of(compare(read_sources([results[0], path])), "theirs.csv")
    assert row.mean == pytest.approx(100 * rows.query("metric == @row.metric")["value"].mean())


def test_undefined_stays_undefined(results, tmp_path):
    path = write_csv(
        tmp_path / "theirs.csv",
        results[0],
        lambda rows: rows.assign(
            value=rows["value"].where(
                (rows["category"] != "grid") | (rows["metric"] != "image_aupr")
            )
        ),
    )
    comparison = compare(read_sources([results[0], path]))
    row = mean_of(comparison, "theirs.csv", "image_aupr")
    assert np.isnan(row.mean)
    assert np.isnan(row.difference)
    text = write_comparison(comparison, tmp_path / "out")
    assert re.search(r"image AUPR +\| theirs.csv +\| +n/a \| +n/a", text)


def test_only_common_categories_and_shots_are_compared(results, tmp_path):
    other = write_result(tmp_path / "c", 2.0, (*RUNS, (8, 0)), (*CATEGORIES, "cable"))
    comparison = compare(read_sources([results[0], other]))
    assert comparison.categories == list(CATEGORIES)
    assert "Left out, because not all results have them: cable." in comparison.remarks
    remark = "Left out, because the first result and the others do not share them: 8-shot."
    assert remark in comparison.remarks
    assert mean_of(comparison, "c").high > 0


def rename_category(folder: Path, name: str) -> None:
    """Give the only category of a result folder another name."""
    path = folder / "metrics.csv"
    pd.read_csv(path).assign(category=name).to_csv(path, index=False)
    (scores,) = (folder / "scores").iterdir()
    scores.rename(scores.with_stem(name))


def test_trials_of_class_names_on_the_same_images_are_compared_under_the_first(tmp_path):
    first, trial = (
        write_result(tmp_path / name, shift, categories=["bottle"])
        for name, shift in (("first", 0.5), ("trial", 3.0))
    )
    expected = compare(read_sources([first, trial]))
    rename_category(trial, "glass bottle")
    comparison = compare(read_sources([first, trial]))
    pd.testing.assert_frame_equal(comparison.table, expected.table)
    assert mean_of(comparison, "trial").low > 0
    assert "(bottle, glass bottle) with the same images" in comparison.remarks[-1]
    record = json.loads((trial / "settings.json").read_text())
    record["fingerprint"]["images"] = {"bottle/00.png": "other pixels"}
    (trial / "settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="no category is in all results: first has bottle; trial"):
        compare(read_sources([first, trial]))
    other = write_result(tmp_path / "other", 0.5, categories=["grid"])
    with pytest.raises(InputError, match="no category is in all results: first has bottle; other"):
        compare(read_sources([first, other]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", np.array([f"{index}.png" for index in range(24)]), "its images of bottle"),
        ("label", np.arange(24) % 2, "its labels of bottle"),
        ("shots", np.array([0, 1, 1, 4]), "its seeds of bottle are 0 1, those of a 0 1 2"),
        ("seed", np.array([NO_SEED, 0, 1, 3]), "its seeds of bottle are 0 1 3, those of a 0 1 2"),
    ],
)
def test_other_images_labels_or_seeds_have_no_interval(results, tmp_path, field, value, message):
    other = write_result(tmp_path / "c", 2.0)
    path = other / "scores" / "bottle.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **arrays | {field: value})
    comparison = compare(read_sources([results[0], other]))
    assert message in " ".join(comparison.reasons)
    assert np.isnan(mean_of(comparison, "c").low)


def test_runs_of_different_methods_have_the_names_of_their_methods(results, tmp_path):
    few = write_result(tmp_path / "mvtec-inctrl", 2.0, RUNS[1:], method="inctrl", maps=False)
    comparison = compare(read_sources([results[0], few]))
    assert comparison.names == ["WinCLIP", "InCTRL"]
    assert ["settings", "method", "winclip", "inctrl"] in comparison.differences
    assert ["settings", "maps", "True", "False"] in comparison.differences
    assert f"InCTRL: the run in {few}" in comparison.remarks
    assert "InCTRL: run without maps, so it has no pixel metrics" in comparison.remarks
    assert mean_of(comparison, "InCTRL").low > 0
    text = write_comparison(comparison, tmp_path / "out")
    assert re.search(r"image AUROC +\| InCTRL +\| +\d", text)
    assert re.findall(r"pixel AUROC +\| (\w+)", text) == ["WinCLIP"]
    names = compare(read_sources([*results[:2], few])).names  # two of WinCLIP
    assert names == ["WinCLIP (a)", "WinCLIP (b)", "InCTRL"]


def test_few_shot_scores_from_patch_tokens_have_a_name_of_their_own(results, tmp_path):
    few = write_result(tmp_path / "fast", 2.0, maps=False)
    comparison = compare(read_sources([results[0], few]))
    assert comparison.labels == {0: ["a", "fast"], 1: ["a", "fast, patch tokens"]}
    assert mean_of(comparison, "fast, patch tokens").low > 0
    text = write_comparison(comparison, tmp_path / "out")
    assert re.findall(r"image AUROC +\| (fast[^|]*?) +\|", text) == ["fast", "fast, patch tokens"]
    page, latex, table = (
        (tmp_path / f"out/comparison.{kind}").read_text() for kind in ("html", "tex", "csv")
    )
    assert page.count('<th scope="col">fast, patch tokens</th>') == 4  # a table per metric
    assert latex.count("fast, patch tokens &") == 1 and '"fast, patch tokens"' in table
    reverse = compare(read_sources([few, results[0]]))
    assert np.isnan(mean_of(reverse, "fast, patch tokens").difference)
    assert mean_of(reverse, "a").high < 0


def test_seeds_are_paired_by_value(results, tmp_path):
    reversed_runs = tmp_path / "c"
    shutil.copytree(results[1], reversed_runs)
    for path in (reversed_runs / "scores").iterdir():
        with np.load(path) as archive:
            arrays = dict(archive)
        runs = {name: arrays[name][::-1] for name in ("shots", "seed", "image_scores", "maps")}
        np.savez_compressed(path, **arrays | runs)
    expected, row = (
        mean_of(compare(read_sources([results[0], path])), path.name)
        for path in (results[1], reversed_runs)
    )
    assert (row.low, row.high, row.p) == (expected.low, expected.high, expected.p)


def test_many_images_that_differ_are_counted_and_the_first_are_named(results, tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, start in zip(paths, (0, 5), strict=True):
        shutil.copytree(results[0], path)
        record = json.loads((path / "settings.json").read_text())
        images = {f"{index:03}.png": "ab" * 32 for index in range(start, start + 200)}
        record["fingerprint"] |= {"images": images, "labels": images, "masks": {}, "depth": start}
        (path / "settings.json").write_text(json.dumps(record))
    change = (
        "200 entries: added 200.png, 201.png, 202.png and 2 more, removed 000.png, 001.png, "
        "002.png and 2 more"
    )
    assert compare(read_sources(paths)).differences == [
        ["data", "images", "200 entries", change],
        ["data", "labels", "200 entries", change],
        ["data", "depth", "0", "5"],
    ]


def test_the_best_is_bold_and_the_second_underlined(results):
    text = latex_floats(compare(read_sources(results)), "first")
    assert r"\label{tab:first-a-b" in text
    best = next(line for line in text.splitlines() if "textless" in line)
    assert best.startswith(r"\textless{}b\textgreater{}50 \%\_\& & \textbf{")
    assert r"b & \underline{" in text
    assert "RANDOM WEIGHTS: no meaning." in text
    rows = pd.DataFrame(
        [("x", "m", 50.04, np.nan), ("y", "m", 50.0, np.nan), ("z", "m", 49.0, np.nan)],
        columns=["result", "metric", "mean", "std"],
    )
    cells = by_result(rows, ["x", "y", "z"], "metric")["m"]
    assert [cells[name][1] for name in "xyz"] == [1, 1, 2]  # equal with one decimal


def test_the_command_writes_all_files(results, tmp_path, monkeypatch, capsys):
    words = ["compare.py", *map(str, results), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", words)
    tool.main(tool.parse_options(tool.Options(), "", Path(words[0])))
    text = capsys.readouterr().out
    assert text.index("RANDOM WEIGHTS") < text.index("temperature") < text.index("### 0-shot")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"comparison.{suffix}" for suffix in ("md", "csv", "tex", "html")}
    page = (tmp_path / "out/comparison.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;50 %_&amp;" in page
    assert "<b>50" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    table = pd.read_csv(tmp_path / "out/comparison.csv")
    assert set(table["category"]) == {*CATEGORIES, "mean"}
