"""Test report.html: its numbers, safety, size and colours."""

import base64
import html
import json
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.decode import make_thumbnail
from datasets.splits import UNKNOWN
from tests.conftest import PROJECT
from tests.reports import (
    HOSTILE,
    IMAGE_SCORES,
    add_category,
    embedded,
    make_result,
    new_folder,
    session_of,
)
from utils.errors import InputError
from utils.report.charts import histogram
from utils.report.data import outline, small_map
from utils.report.gallery import script_json
from utils.report.page import difference, write_report
from utils.run.benchmark import finish


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    return make_result(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(result) -> str:
    return (result / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """Return the visible text: no styles, scripts or tags, and single spaces."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_page_says_what_was_run_and_warns_first(page):
    text = text_of(page)
    assert text.index("LIMIT = 3: <only> three") < text.index("What was run")
    facts = ("2 of 15", "6 good, 8 anomalous", "Shots 0, 1 Seeds 3, 4", "4.0 s", "75.0 %")
    for fact in (*facts, "f65b", "5af1"):
        assert fact in text
    assert "Colours are relative" not in text  # labels show which images are good
    assert "<label>Category" in page and "<label>Defect" in page


def test_our_numbers_stand_beside_the_published_ones_with_the_difference(page):
    text = text_of(page)
    # AUROC 11/12 against the paper's 99.2 and the public 98.6 of bottle at 0 shots.
    assert "91.7 paper 99.2 (−7.5) public 98.6 (−6.9)" in text
    # 1-shot: seeds 75.0 and 100.0.
    assert "87.5 ± 17.7 paper 98.2 ± 0.9 (−10.7)" in text


def test_the_sources_of_published_numbers_are_listed_with_links_and_departures(page):
    text = text_of(page)
    assert "winclip_defect_detection WinCLIP 0 90.4 - - 81.2 - - -" in text
    assert "winclip_defect_detection WinCLIP 1 92.6" in text
    assert "winclip_defect_detection WinCLIP 2" not in text  # 2-shot was not run
    assert "anomalyclip_paper AnomalyCLIP 0 91.5 96.2 - 91.1 - - 81.4" in text
    assert "saa_plus_paper SAA+ 0 - - - - - 39.4 -" in text
    assert "known departures from the paper: centre crop; pixel metrics on anomalous" in text
    assert '<a href="https://github.com/7HHHHH/VisualAD">' in page


def test_difference_has_a_sign_and_undefined_is_not_zero():
    values = (0.44, -1.26, -0.04, float("nan"))
    assert [difference(value) for value in values] == ["+0.4", "−1.3", "0.0", "n/a"]


def test_threshold_mistakes_and_areas_are_those_of_the_first_seed(page):
    text = text_of(page)
    assert "0-shot 0.3000 88.9 6 0 1" in text  # threshold, F1-max, correct, missed, false alarms
    assert "1-shot seed 3 0.7000 85.7 6 1 0" in text
    assert "image AUROC: 0-shot 91.7 1-shot seed 3 75.0" in text
    assert "1-shot seed 4 0" not in text


def test_the_gallery_lists_every_image_with_its_outcomes(page):
    (index,) = embedded(page, 'id="index"')
    bottle = [image for image in index["images"] if image["category"] == 0]
    assert len(index["images"]) == 14
    assert [image["outcomes"] for image in bottle] == [
        ["correct", "correct"],
        ["correct", "correct"],
        ["false alarm", "correct"],
        ["correct", "missed"],
        *[["correct", "correct"]] * 3,
    ]
    assert bottle[3]["scores"] == [0.3, 0.05]


def test_the_gallery_has_a_thumbnail_an_outline_and_small_maps_of_every_image(page):
    bottle, grid = embedded(page, 'class="store"')
    wide = grid[f"grid/test/0 {HOSTILE}.png"]
    thumbnail = Image.open(BytesIO(base64.b64decode(wide["thumbnail"])))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (144, 96))
    assert bottle["bottle/test/0 a.png"]["outline"] == ""
    assert bottle["bottle/test/3 a.png"]["outline"].startswith("M")
    first = wide["maps"][0]
    assert (first["rows"], first["columns"]) == (15, 22)
    assert len(base64.b64decode(first["levels"])) == 15 * 22


def test_a_run_without_maps_has_image_metrics_and_a_gallery_alone(tmp_path):
    folder = new_folder(tmp_path / "result", maps=False)
    add_category(folder, tmp_path / "raw", "bottle")
    finish(session_of(folder))
    written = {path.name for path in folder.path.iterdir()}
    assert {"metrics.csv", "summary.md", "summary.tex", "report.html", "done"} <= written
    assert not {"heatmaps", "defects", "defects.json"} & written
    for name in ("metrics.csv", "summary.csv", "summary.md", "summary.tex"):
        assert "pixel_" not in (folder.path / name).read_text()
    assert "maps" not in np.load(folder.path / "scores/bottle.npz")
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "Method WinCLIP, without maps" in text
    assert "91.7 paper 99.2" in text and "87.5 ± 17.7 paper" not in text
    assert "bottle, by shots" in text and "1, patch tokens 87.5 ± 17.7" in text
    assert "1-shot seed 3, patch tokens 0.7000 85.7 6 1 0" in text
    assert "Image ROC" in text
    for absent in ("Pixel ROC", "overlap", "pixel AUROC by category", "with its heatmap"):
        assert absent not in text
    (index,) = embedded(page, 'id="index"')
    assert [run["scale"] for run in index["categories"][0]["runs"]] == [None, None]
    (store,) = embedded(page, 'class="store"')
    assert {len(image["maps"]) for image in store.values()} == {0}


def test_seeds_are_named_only_if_references_were_drawn(result, tmp_path):
    folder = shutil.copytree(result, tmp_path / "result")
    summary = pd.read_csv(folder / "summary.csv")
    summary[summary["shots"] == 0].to_csv(folder / "summary.csv", index=False)
    write_report(folder)
    text = text_of((folder / "report.html").read_text(encoding="utf-8"))
    assert "Method WinCLIP" in text
    assert "Seeds" not in text and "deviation over seeds." not in text


def test_another_method_names_its_checkpoint_and_stands_beside_the_means_of_winclip(tmp_path):
    folder = new_folder(tmp_path / "result", method="anomalyclip")
    folder.record["checkpoint"] = {"description": "trained on VisA", "sha256": "c0de"}
    add_category(folder, tmp_path / "raw", "bottle")
    finish(session_of(folder))
    text = text_of((folder.path / "report.html").read_text(encoding="utf-8"))
    assert text.startswith("AnomalyCLIP on MVTec AD")
    assert "Checkpoint trained on VisA c0de" in text and "Protocol" not in text
    assert "winclip_paper WinCLIP 0 91.8 96.5 92.9 85.1 - 31.7 64.6" in text
    # One category: its numbers are neither repeated as a mean nor charted beside it.
    assert "bottle, by shots" in text and "1 87.5 ± 17.7" in text
    for absent in ("mean of 1/15", "Means are", "shot, 2 seeds", "image AUROC by category"):
        assert absent not in text


def test_categories_have_the_order_of_the_benchmark_everywhere(result, tmp_path):
    folder = shutil.copytree(result, tmp_path / "result")
    record = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    record["categories"].reverse()
    (folder / "settings.json").write_text(json.dumps(record), encoding="utf-8")
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    (index,) = embedded(page, 'id="index"')
    assert [category["name"] for category in index["categories"]] == ["grid", "bottle"]
    assert re.findall("<summary><b>([^<]*)", page) == ["grid", "bottle"]


def test_charts_of_single_dots_are_left_out(result, tmp_path):
    folder = shutil.copytree(result, tmp_path / "result")
    summary = pd.read_csv(folder / "summary.csv")
    zero_shot = summary[summary["shots"] == 0]
    charts = "image AUROC by category", "The metrics of bottle"
    for rows, has_charts in (
        (zero_shot, True),  # beside published numbers
        (zero_shot.assign(paper=np.nan, public=np.nan), False),
        (summary.assign(paper=np.nan, public=np.nan), True),
    ):
        rows.to_csv(folder / "summary.csv", index=False)
        write_report(folder)
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert [chart in page for chart in charts] == [has_charts] * 2
        assert ('href="#charts"' in page) == has_charts
        assert 'href="#results"' in page


def test_a_histogram_of_few_images_has_few_wide_bars():
    widths = []
    for count in (13, 1000):
        scores = np.linspace(0, 1, count)
        chart = histogram(scores, scores, None, "")
        widths.append(float(re.search(r'class="bar good"[^>]* width="([\d.]+)"', chart)[1]))
    assert widths[0] > 2 * widths[1]


def test_names_cannot_break_the_page(page):
    assert "<script>document.title" not in page
    assert "<i>rot" not in page
    assert "&lt;i&gt;rot&lt;i&gt; &amp; wet 2" in page  # in the table of the data
    (index,) = embedded(page, 'id="index"')
    assert index["images"][-1]["image"] == f"grid/test/6 {HOSTILE}.png"


def test_json_in_the_page_has_no_angle_bracket():
    value = ["</script>", "<!--<script>"]
    assert "<" not in script_json(value)
    assert json.loads(script_json(value)) == value


def test_the_page_needs_nothing_else(page):
    links = re.sub("<a href=[^>]*>", "", page)  # of the sources, followed only by a click
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", links)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)


def test_every_chart_and_table_has_a_text(page):
    charts = re.findall(r"<svg[^>]*>", page)
    assert len(charts) > 20
    assert all('aria-label="' in tag or 'aria-hidden="true"' in tag for tag in charts)
    assert all("aria-label" in tag for tag in re.findall(r'<div class="scroll"[^>]*>', page))


def test_without_good_images_thresholds_and_curves_are_undefined(tmp_path):
    folder = new_folder(tmp_path / "result")
    add_category(folder, tmp_path / "raw", "bottle", labels=[1, 1, 1])
    finish(session_of(folder))
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "0-shot n/a n/a n/a n/a n/a" in text_of(page)
    assert "image AUROC: 0-shot n/a" in text_of(page)
    assert "NaN" not in page and "nan" not in text_of(page).split()
    (index,) = embedded(page, 'id="index"')
    assert {outcome for image in index["images"] for outcome in image["outcomes"]} == {"n/a"}


def test_without_labels_the_page_shows_the_threshold_of_the_references_and_no_outcomes(
    tmp_path,
):
    folder = new_folder(tmp_path / "result")
    add_category(folder, tmp_path / "raw", "bottle", labels=[UNKNOWN] * 7)
    leave_one_out = {"leave_one_out": [0.4, 0.65], "leave_one_out_peaks": [0.5, 1.5]}
    folder.finish("bottle", folder.finished()["bottle"] | leave_one_out)
    finish(session_of(folder))
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "7 unlabelled" in text and "Image scores, 1-shot seed 3" in text
    assert text.count("threshold from the references 0.6500 , exceeded by 3 of 7 images") == 1
    assert page.count('class="threshold"') == 2  # in the histogram and its legend
    assert "<label>Outcome" in page and 'value="above"' in page
    assert "<label hidden>Category" in page and "<label hidden>Defect" in page  # one entry each
    assert "Colours are relative to the category" in text
    assert 'value="mistakes"' not in page and 'value="worst"' not in page
    assert "Expect about 1 in 3 good images to exceed it" in text
    (index,) = embedded(page, 'id="index"')
    assert [image["above"] for image in index["images"]] == [
        [None, score > 0.65] for score in IMAGE_SCORES[1]
    ]
    for word in ("F1", "false alarms", "ground truth", "Image ROC"):
        assert word not in text


def test_damaged_report_data_raises_one_sentence(result, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(result, folder)
    (folder / "report/grid.json").write_text("{")
    with pytest.raises(InputError, match=r"grid\.json is damaged, or was not written"):
        write_report(folder)


def test_a_report_of_1725_noisy_images_stays_under_25_mb(page):
    rng = np.random.default_rng(0)
    weave = 110 + 60 * np.sin(np.arange(1024) / 4)[:, None] * np.sin(np.arange(1024) / 5)
    grain = np.kron(rng.normal(0, 18, (256, 256, 3)), np.ones((4, 4, 1)))  # survives shrinking
    pixels = np.clip(weave[..., None] + grain, 0, 255).astype(np.uint8)
    thumbnail = len(base64.b64encode(make_thumbnail(Image.fromarray(pixels))))
    assert thumbnail > 5000  # as large as those of MVTec AD's carpet and grid
    (index,) = embedded(page, 'id="index"')
    other = len(json.dumps(index["images"])) / 14 + 4 * (300 + 60) + 1500  # maps; a long outline
    frame = len(page.encode())  # two categories of seven small images, and everything else
    assert 1725 * (thumbnail + other) + 8 * frame < 25e6


def test_an_outline_has_holes_and_dots():
    mask = np.zeros((100, 50), bool)
    mask[10:40, 10:40] = True
    mask[20:30, 20:30] = False
    mask[80, 25] = True
    path = outline(mask)
    assert path.count("M") == 3 and "M510 805h0" in path
    assert outline(np.zeros((4, 4), bool)) == ""


def test_a_small_map_spans_the_scale_and_a_flat_one_is_dark():
    values = np.linspace(0.2, 0.6, 225, dtype=np.float32).reshape(15, 15)
    levels = base64.b64decode(small_map(values, (0.2, 0.6))["levels"])
    assert (levels[0], levels[112], levels[-1]) == (0, 128, 255)
    flat = small_map(values * 0, (0.0, 0.0))["levels"]
    assert set(base64.b64decode(flat)) == {0}


def luminance(colour: str) -> float:
    """Return the relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    rgb = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_lines_have_contrast(theme):
    css = (PROJECT / "utils/report/report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, flags=re.S)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", block))
    for name in ("ink", "muted", "accent", "missed", "false-alarm", "correct"):
        assert contrast(colours[name], colours["ground"]) >= 4.5
        assert contrast(colours[name], colours["raised"]) >= 4.5
    assert contrast(colours["warning"], colours["warning-ground"]) >= 4.5
    for number in range(6):
        assert contrast(colours[f"series-{number}"], colours["ground"]) >= 3
