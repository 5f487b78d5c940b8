"""The ablation: departures from the equations, shares of the switches, and whole runs."""

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states
from models.departures import (
    IMAGE,
    PATCHES,
    Equations,
    arithmetic_aggregation,
    depart_few_shot,
    depart_visual_maps,
    depart_zero_shot,
)
from models.winclip import (
    Features,
    TextBank,
    VisualBank,
    add_visual_maps,
    average_scales,
    nearest_distances,
    score_zero_shot,
)
from models.windows import harmonic_aggregation
from tests.clips import small_clip
from utils.ablation import category, scoring
from utils.ablation.analysis import effects, means
from utils.ablation.run import all_square, open_folder
from utils.ablation.run import run as run_ablation
from utils.ablation.scoring import variant_prompts
from utils.ablation.settings import AblationSettings
from utils.ablation.shares import bootstrap_interval, shapley_shares, walk
from utils.ablation.tables import Ablation, describe, published_means
from utils.ablation.variants import (
    DIFFERENCES,
    MEANINGS,
    PAPER,
    PUBLIC,
    SWITCHES,
    corners,
    departures,
)
from utils.cli import parse_options
from utils.errors import InputError
from utils.evaluation.metrics import METRICS
from utils.experiment.settings import Settings
from utils.features.store import FeatureStore, read_encoding
from utils.report.ablation import markdown_page
from utils.results.folder import alternative_to_another_folder
from utils.results.summary import published_for
from utils.run.benchmark import run

GRID, SCALES = (4, 5), (2, 3)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def features() -> Features:
    """Return the features of three images."""
    return Features(draw(3, 8), (draw(3, 12, 8), draw(3, 6, 8)), draw(3, 20, 12), GRID, SCALES)


@pytest.fixture(scope="module")
def text() -> TextBank:
    return TextBank.from_prompts(draw(5, 8, seed=1), draw(5, 8, seed=2), 0.07, True)


@pytest.fixture(scope="module")
def nearest(features) -> list[torch.Tensor]:
    """Return the distances of two images to the third one."""
    bank = VisualBank.from_features(features)
    return nearest_distances(bank.distances(features), [torch.tensor([2])])


def zero_shot_map(features, text, **changes):
    return depart_zero_shot(features, text, Equations(**changes))[1]


def visual_map(distances, **changes):
    return depart_visual_maps(distances, GRID, SCALES, Equations(**changes))


def test_without_a_departure_the_equations_are_those_of_winclip(features, text, nearest):
    plain = score_zero_shot(features, text)
    departed = depart_zero_shot(features, text, Equations())
    maps = average_scales(nearest, GRID, SCALES)
    pairs = [*zip(plain, departed, strict=True), (maps, visual_map(nearest))]
    few_shot = depart_few_shot(plain, maps, Equations())
    pairs += zip(add_visual_maps(plain, maps), few_shot, strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_scales_can_be_left_out_of_both_maps(features, text, nearest):
    image = text.score(features.image)[:, None, None]
    windows = harmonic_aggregation(text.score(features.windows[0]), GRID, 2)
    alone = zero_shot_map(features, text, zero_shot_scales=(IMAGE,))
    torch.testing.assert_close(alone, image.expand(-1, *GRID))
    alone = zero_shot_map(features, text, zero_shot_scales=(2,))
    torch.testing.assert_close(alone, windows)
    both = zero_shot_map(features, text, zero_shot_scales=(IMAGE, 2))
    torch.testing.assert_close(both, 2 / (1 / image + 1 / windows))
    patches = visual_map(nearest, visual_scales=(PATCHES,))
    torch.testing.assert_close(patches, nearest[-1].unflatten(-1, GRID))


def test_the_kinds_of_averages(features, text, nearest):
    scores = [text.score(windows) for windows in features.windows]
    image = text.score(features.image)[:, None, None].expand(-1, *GRID)
    pairs = list(zip(scores, SCALES, strict=True))
    maps = [image, *(arithmetic_aggregation(values, GRID, size) for values, size in pairs)]
    arithmetic = zero_shot_map(features, text, average="arithmetic")
    torch.testing.assert_close(arithmetic, torch.stack(maps).mean(dim=0))
    maps = [1 - image, *(harmonic_aggregation(1 - values, GRID, size) for values, size in pairs)]
    normality = zero_shot_map(features, text, average="normality")
    torch.testing.assert_close(normality, 1 - 3 / sum(1 / values for values in maps))
    # Averages of distances, which differ: the harmonic mean is the lower one.
    visual = visual_map(nearest, average="arithmetic")
    assert (visual >= visual_map(nearest) - 1e-6).all()
    assert (visual > visual_map(nearest) + 1e-4).any()


def test_scores_without_language_and_sums_of_maps(features, text, nearest):
    zero_shot, maps = score_zero_shot(features, text), average_scales(nearest, GRID, SCALES)
    scores, alone = depart_few_shot(zero_shot, maps, Equations(language=False))
    assert torch.equal(scores, maps.amax(dim=(-2, -1)))
    assert torch.equal(alone, maps)
    scores, total = depart_few_shot(zero_shot, maps, Equations(maps="sum"))
    torch.testing.assert_close(total, zero_shot[1] + maps)
    assert torch.equal(scores, add_visual_maps(zero_shot, maps)[0])


def random_corners(switches) -> dict[frozenset, np.ndarray]:
    generator = np.random.default_rng(0)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(switches, size) for size in range(len(switches) + 1)
    )
    return {frozenset(subset): generator.random(7) for subset in subsets}


def test_shapley_shares_are_the_mean_gain_over_all_orders_and_sum_to_the_gap():
    values = random_corners(SWITCHES)
    shares = shapley_shares(values, SWITCHES)
    gains = {switch: [] for switch in SWITCHES}
    for order in itertools.permutations(SWITCHES):
        steps = walk(values, order)
        for switch, before, after in zip(order, steps, steps[1:], strict=False):
            gains[switch].append(after - before)
    for switch in SWITCHES:
        np.testing.assert_allclose(shares[switch], np.mean(gains[switch], axis=0), atol=1e-12)
    gap = values[frozenset(SWITCHES)] - values[frozenset()]
    np.testing.assert_allclose(sum(shares.values()), gap, rtol=0, atol=1e-9)


def test_intervals_are_over_enough_categories_with_a_value():
    low, high = bootstrap_interval(np.array([0.0, 1, 2, 3, 4]))
    assert 0 <= low < 2 < high <= 4
    assert bootstrap_interval(np.full(6, 0.5)) == (0.5, 0.5)
    for values in ([1.0, 2, 3, 4], [1, 2, 3, 4, 5, np.nan]):
        assert np.isnan(bootstrap_interval(np.array(values))).all()


def test_the_corners_are_all_combinations_and_contain_both_presets():
    both, square = corners(("tile", "squash")), corners(("tile",))
    assert (len(both), len(square)) == (2**3 * 2 * 3 * 2, 2**3 * 2 * 3)
    assert tuple(name for name in PAPER if PAPER[name] != PUBLIC[name]) == SWITCHES
    assert {v.name: v.protocol for v in both}["public"] == PUBLIC
    assert {v.name: v.protocol for v in both}["paper"] == PAPER
    assert {v.name: v.protocol for v in square}["public"] == PUBLIC | {"resize": "tile"}
    names = [variant.name for variant in (*both, *departures(SCALES))]
    assert len(set(names)) == len(names)


PROMPTS = {  # the number of normal prompts and the last anomalous one
    "paper": (7 * 22, "a photo of the metal nut with damage for anomaly detection."),
    "two-class prompts": (1, "anomalous metal nut"),
    "without states": (22, "a photo of the anomalous metal nut for anomaly detection."),
    "without templates": (7, "metal nut with damage"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompts_of_a_variant(name):
    variants = {variant.name: variant for variant in (*corners(("tile",)), *departures(SCALES))}
    normal, anomalous = variant_prompts(variants[name], "metal_nut", Settings("mvtec"))
    assert (len(normal), anomalous[-1]) == PROMPTS[name]


FULL = sorted(set(published_for("mvtec")["category"]) - {"mean"})  # the 15 categories


def fixed_ablation(**changes) -> Ablation:
    """Return an ablation of MVTec AD with two switches; `changes` are those of its record."""
    steps = [  # switch, value, gain, share, low, high
        ("public", 80.0, *[np.nan] * 4),
        ("templates", 81.0, 1.0, 2.0, -0.04, 3.25),
        ("resize", 84.0, 3.0, 2.0, np.nan, np.nan),
    ]
    columns = ["shots", "metric", "switch", "value", "gain", "share", "low", "high"]
    walks = pd.DataFrame([(0, m, *step) for m in METRICS for step in steps], columns=columns)
    values = {"paper": 84.0, "two-class prompts": 70.5, "arithmetic averaging": 84.02}
    values["without states"] = 84.0
    rows = [("departure", name, 0, m, value) for name, value in values.items() for m in METRICS]
    table = pd.DataFrame(rows, columns=["kind", "variant", "shots", "metric", "mean"])
    variants = [variant for variant in departures(SCALES) if variant.name in values]
    settings = {"dataset": "mvtec", "limit": None, "order": ["templates", "resize"]}
    record = {"title": "MVTec AD", "categories": FULL, "finished": FULL, "notes": []}
    record |= {"settings": settings | changes.pop("settings", {})} | changes
    return Ablation(record, walks, table, variants)


def markdown(ablation: Ablation) -> str:
    """Return ablation.md with single spaces."""
    return re.sub(" +", " ", markdown_page(describe(ablation)))


def test_the_lines_of_a_page():
    page = markdown(fixed_ablation())
    metrics = len(METRICS)
    for line in (
        "- image AUROC from 80.0 (public) to 84.0 (paper): +4.0; pixel AUROC from 80.0 (public) to "
        "84.0 (paper): +4.0",
        "- prompt templates: +2.0 image AUROC, 95 % interval [0.0, 3.2] over categories; +2.0 "
        "pixel AUROC, 95 % interval [0.0, 3.2] over categories",
        "- resizing: +2.0 image AUROC, interval n/a; +2.0 pixel AUROC, interval n/a",
        "| resizing | resize | images squashed to a square | images cut into overlapping square",
        "| prompt templates |" + " +2.0 [0.0, 3.2] |" * metrics,
        "| + prompt templates |" + " 81.0 |" * metrics,
        "| two-class prompts | ours |" + " 70.5 (−13.5) |" * metrics,
        "| two-class prompts | paper | 74.0 |",
        "| arithmetic averaging | ours |" + " n/a |" * 3 + " 84.0 (0.0) |" * 4,
        "| paper | ours |" + " 84.0 |" * metrics,
        "| paper | paper | 90.8 |",
    ):
        assert f"\n{line}" in page
    assert " These change no metric: without states. n/a: the change does not enter" in page
    assert "| without states |" not in page


def test_an_undefined_mean_is_not_explained_as_unaffected():
    ablation = fixed_ablation()
    means, metric = ablation.means, ablation.means["metric"] == "pixel_aupro"
    kept = means["variant"].isin(["paper", "two-class prompts"])
    means = means.assign(mean=means["mean"].mask(metric))[kept]
    variants = [variant for variant in ablation.variants if variant.name == "two-class prompts"]
    page = markdown(ablation._replace(means=means, variants=variants))
    (row,) = (line for line in page.splitlines() if line.startswith("| two-class prompts | ours"))
    assert row.count("n/a") == 1 and "n/a (" not in row
    assert "does not enter" not in page


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"limit": 3}},
        {"settings": {"dataset": "folder"}},
        {"finished": FULL[1:]},
        {"categories": FULL[1:], "finished": FULL[1:]},
    ],
    ids=["limit", "dataset", "unfinished", "split"],
)
def test_the_numbers_of_the_paper_are_beside_those_of_all_images_only(changes):
    ablation = fixed_ablation(**changes)
    assert "| two-class prompts | ours" not in markdown(ablation)
    assert published_means(fixed_ablation(), 0, METRICS[0])[1] > 90
    assert np.isnan(published_means(ablation, 0, METRICS[0])).all()


@pytest.fixture(scope="module")
def ablation_settings(visa_settings) -> AblationSettings:
    """Return the settings of an ablation of images that are not square."""
    names = ("dataset", "data_root", "split", "model", "pretrained", "batch_size", "num_workers")
    shared = {name: getattr(visa_settings, name) for name in names}
    folder = str(Path(visa_settings.result_dir).parent / "ablation")
    return AblationSettings(**shared, shots=(0, 1), seeds=(0,), limit=2, result_dir=folder)


@pytest.fixture(scope="module")
def ablation(ablation_settings) -> Path:
    """Return the result folder of a finished ablation."""
    run_ablation(ablation_settings)
    return Path(ablation_settings.result_dir)


KEYS = ["category", "shots", "seed", "metric"]


def metrics_of_corner(folder: Path, protocol: dict) -> pd.DataFrame:
    table = pd.read_csv(folder / "ablation.csv", engine="python")
    rows = table[(table["kind"] == "corner") | (table["multi_crop"] != "none")]
    for name, value in protocol.items():
        rows = rows[rows[name] == value]
    return rows.set_index(KEYS)["value"]


def test_the_corner_of_paper_equals_the_run_that_encoded_the_images(ablation):
    separate = pd.read_csv(ablation / "tile" / "metrics.csv", engine="python")
    separate = separate.set_index(KEYS)["value"].sort_index()
    corner = metrics_of_corner(ablation, PAPER).sort_index()
    assert len(corner) == 2 * len(METRICS)
    pd.testing.assert_series_equal(corner, separate, check_exact=True)


@pytest.mark.parametrize(
    "changes",
    [
        PUBLIC,
        PAPER | {"templates": "public", "temperature": 0.01, "patch_tokens": "penultimate"},
        PAPER | {"multi_crop": "five", "multi_crop_average": "scores"},
    ],
    ids=["public", "mixed", "multi-crop"],
)
def test_a_corner_equals_a_separate_run_bit_for_bit(ablation, ablation_settings, changes, tmp_path):
    settings = ablation_settings.run_settings("tile")
    settings = replace(settings, **changes, features="off", result_dir=str(tmp_path))
    run(settings)
    separate = pd.read_csv(tmp_path / "metrics.csv", engine="python").set_index(KEYS)["value"]
    corner = metrics_of_corner(ablation, changes).sort_index()
    pd.testing.assert_series_equal(corner, separate.sort_index(), check_exact=True)


def test_the_shares_sum_to_the_gap_and_the_walk_visits_the_corners(ablation):
    table = pd.read_csv(ablation / "ablation.csv", engine="python")
    variants = [*corners(("tile", "squash")), *departures(SCALES)]
    order = SWITCHES[::-1]
    for _, rows in effects(table, variants, order).groupby(["shots", "metric"]):
        assert rows["switch"].tolist() == ["public", *order]
        gap = rows["value"].iloc[-1] - rows["value"].iloc[0]
        assert rows["share"].sum() == pytest.approx(gap, abs=1e-9)
        assert rows["gain"].sum() == pytest.approx(gap, abs=1e-9)
    # After its first switch, patch_tokens is the only one that differs from `public` in `order`.
    first = means(table).set_index(["variant", "shots", "metric"])["mean"]
    walked = effects(table, variants, order).set_index(["shots", "metric", "switch"])["value"]
    for shots, metric in itertools.product((0, 1), METRICS):
        assert walked[shots, metric, "public"] == first["public", shots, metric]
        assert walked[shots, metric, order[-1]] == first["paper", shots, metric]


def test_every_page_shows_the_warnings_and_every_switch(ablation):
    for name in ("ablation.md", "ablation.tex", "ablation.html"):
        page = (ablation / name).read_text(encoding="utf-8")
        assert "RANDOM WEIGHTS" in page
        assert "NOT THE OFFICIAL DATA" in page
        for switch in SWITCHES:
            assert MEANINGS[switch][0] in page


@pytest.fixture
def command_line(monkeypatch):
    """Let messages name the options of run_ablation.py."""
    monkeypatch.setattr("sys.argv", ["run_ablation.py"])
    parse_options(AblationSettings(), "", Path("run_ablation.py"))


def test_a_finished_ablation_is_only_compared_again(ablation, ablation_settings, command_line):
    """Nor does the log of its encoding runs recommend options that it does not have."""
    before = (ablation / "ablation.csv").read_bytes()
    record = ablation / "done" / "capsules.json"
    times = record.stat().st_mtime_ns
    run_ablation(replace(ablation_settings, order=SWITCHES[::-1]))
    assert record.stat().st_mtime_ns == times
    assert (ablation / "ablation.csv").read_bytes() == before
    text = (ablation / "tile/run.log").read_text(encoding="utf-8")
    assert [text.count(f"; {advice}") for advice in ("--tile N", "give it --result-dir")] == [1, 1]


def test_messages_name_options_of_the_ablation_alone(ablation, ablation_settings, command_line):
    with pytest.raises(InputError, match=r"^FEATURES_PRECISION: .*; add --features-precision fp32"):
        run_ablation(replace(ablation_settings, features_precision="fp16"))
    for folder in (ablation, ablation / "tile"):
        assert alternative_to_another_folder(folder) == ", or undo the change"  # and not "delete"
    folder = ablation / "tile/features"
    with pytest.raises(InputError, match="with --result-dir, or to use"):
        FeatureStore(folder, read_encoding(folder) | {"scales": [2]}, "tile").check_encoding()


def test_a_variant_that_needs_references_has_no_rows_of_0_shot(ablation):
    table = pd.read_csv(ablation / "ablation.csv", engine="python")
    names = {v.name for v in departures(SCALES) if v.needs_references}
    assert len(names) == 3
    shots = table.groupby("variant")["shots"].agg(set)
    assert all(
        shots[name] == {1} if name in names else shots[name] == {0, 1} for name in shots.index
    )


def test_a_metric_that_a_departure_cannot_change_is_that_of_paper(ablation):
    table = pd.read_csv(ablation / "ablation.csv", engine="python")
    values = table.set_index(["variant", "shots", "metric"])["value"].sort_index(kind="stable")
    fixed = [
        (variant.name, shots, metric)
        for variant in departures(SCALES, ("five",))
        for shots, metrics in ((0, variant.zero_shot_metrics), (1, variant.few_shot_metrics))
        for metric in METRICS
        if metric not in metrics and (shots or not variant.needs_references)
    ]
    assert len({name for name, _, _ in fixed}) == 9
    for name, shots, metric in fixed:
        np.testing.assert_array_equal(values[name, shots, metric], values["paper", shots, metric])


def test_deleted_features_are_encoded_again(ablation, ablation_settings, tmp_path):
    """The ablation was stopped while it scored a category, after the images were encoded."""
    folder = shutil.copytree(ablation, tmp_path / "r")
    (folder / "done" / "capsules.json").unlink()
    files = sorted((folder / "tile/features").rglob("*.JPG.safetensors"))
    files[0].unlink()
    run_ablation(replace(ablation_settings, result_dir=str(folder)))
    assert (folder / "ablation.csv").read_bytes() == (ablation / "ablation.csv").read_bytes()
    assert all(file.exists() for file in files)


def test_other_settings_are_refused_before_images_are_encoded(ablation, ablation_settings):
    with pytest.raises(InputError, match=r"--limit was 2, now 3: .*, or undo the change$"):
        run_ablation(replace(ablation_settings, limit=3))


def test_other_crops_with_a_mistake_delete_nothing(ablation, ablation_settings, tmp_path):
    folder = shutil.copytree(ablation, tmp_path / "r")
    next((folder / "tile/features").rglob("*.JPG.safetensors")).unlink()
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".csv"))
    changes = {"multi_crops": ("ten",), "device": "cuda:9", "result_dir": str(folder)}
    with pytest.raises(InputError, match="DEVICE"):
        run_ablation(replace(ablation_settings, **changes))
    assert all(path.exists() for path in files)


def test_other_variants_are_named_in_one_sentence(ablation, ablation_settings):
    runs = {name: ablation_settings.run_settings(name).resolve() for name in ("tile", "squash")}
    with pytest.raises(
        InputError, match=r"variants: removed 2 x 2 .* and \d+ more: choose"
    ) as caught:
        open_folder(ablation, ablation_settings, runs, corners(("tile", "squash"))[:24])
    assert len(str(caught.value)) < 500


def test_whether_all_images_are_square(ablation_settings, mvtec_result, mvtec_settings, tmp_path):
    assert all_square(mvtec_settings)
    assert not all_square(ablation_settings.run_settings("tile"))
    # A reference image counts as well.
    root = shutil.copytree(mvtec_settings.data_root, tmp_path / "raw")
    for path in (root / "bottle/train/good").iterdir():
        Image.new("RGB", (32, 48)).save(path)
    assert not all_square(replace(mvtec_settings, data_root=str(root)))


def test_unknown_crops_are_named_with_the_constant():
    with pytest.raises(InputError, match=r"MULTI_CROPS = \('six',\): expected .*\"five\""):
        AblationSettings(multi_crops=("six",))


def test_a_part_of_the_order_is_completed_and_a_bad_one_refused():
    rest = tuple(switch for switch in SWITCHES if switch != "resize")
    assert AblationSettings(order=("resize",)).order == ("resize", *rest)
    for order in ((*SWITCHES, "templates"), ("temperature",), "resize"):
        with pytest.raises(
            InputError, match=r"ORDER = .*: (give each switch at most once|expected a tuple, each)"
        ):
            AblationSettings(order=order)


def test_names_are_words_and_what_cannot_act_without_references_is_left_out(ablation):
    page = (ablation / "ablation.md").read_text(encoding="utf-8")
    zero, one = page.split("## 0-shot")[1].split("## 1-shot")
    for name in ("patch tokens of the penultimate block", "without language"):
        assert (name in zero, name in one) == (False, True)
    assert "temperature 0.01" in zero
    assert ("patch tokens" in zero, "patch tokens" in one) == (False, True)
    html = (ablation / "ablation.html").read_text(encoding="utf-8")
    assert all(f"All {count} combinations" in html for count in (32, 96))
    assert not re.search(r"\w=\w", page)
    names = {
        f"{name}={value}" for v in corners(("tile", "squash")) for name, value in v.protocol.items()
    }
    same = {f"{name}={value}" for name, value in PAPER.items()}
    assert names - same == DIFFERENCES.keys()


def test_the_page_says_why_an_interval_is_not_available():
    text = "An interval needs at least 5 categories"
    some = fixed_ablation()
    assert f"{text}, each with a defined metric." in (page := markdown(some))
    assert "in brackets" in page
    none = fixed_ablation(finished=FULL[:1])._replace(effects=some.effects.assign(low=np.nan))
    assert f"{text}; this ablation has 1." in (page := markdown(none))
    assert "in brackets" not in page


def test_a_category_is_scored_in_several_passes(ablation, ablation_settings, tmp_path, monkeypatch):
    """Also: without multi-crop, all variants are scored again from the same features."""
    sizes, collect = [], category.collect_results

    def record_size(*arguments):
        result = collect(*arguments)
        sizes.append(result.scores.maps.size)
        return result

    monkeypatch.setattr(category, "MAX_VALUES", 2**14)
    monkeypatch.setattr(category, "collect_results", record_size)
    monkeypatch.setattr(WindowedEncoder, "encode_all", None)  # no image is encoded again
    folder = shutil.copytree(ablation, tmp_path / "r")
    changes = {"result_dir": str(folder), "multi_crops": (), "categories": ("capsules",)}
    run_ablation(replace(ablation_settings, **changes, num_workers=0))
    assert 2**13 < max(sizes) <= 2**14
    before, after = (
        pd.read_csv(path / "ablation.csv", engine="python") for path in (ablation, folder)
    )
    before = before.query("category == 'capsules' and multi_crop == 'none'")
    assert (before["kind"] == "departure").any()
    pd.testing.assert_frame_equal(before.reset_index(drop=True), after, check_exact=True)


def test_all_prompts_of_a_category_are_encoded_in_three_passes(tmp_path, monkeypatch):
    clip, calls = small_clip(tmp_path), []
    encode = scoring.encode_text
    monkeypatch.setattr(scoring, "encode_text", lambda *args: calls.append(args) or encode(*args))
    variants = [*corners(("tile",)), *departures(SCALES)]
    settings = Settings("mvtec")
    banks = scoring.text_banks(variants, "metal_nut", settings, clip)
    assert [len(texts) for *_, texts in calls] == [242, 242, 57]
    public = next(index for index, v in enumerate(variants) if v.name == "public")
    states = encode_states(
        clip.model, clip.tokenizer, *variant_prompts(variants[public], "metal_nut", settings)
    )
    assert torch.equal(banks[public].states, TextBank.from_prompts(*states, 0.07, False).states)
