"""Test report.html in headless Chromium: it renders, sorts, filters and responds to keys."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from datasets.splits import UNKNOWN
from tests.reports import HOSTILE, add_category, embedded, make_result, new_folder, session_of
from utils.report.gallery import script_json
from utils.run.benchmark import finish


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    return make_result(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(result) -> str:
    return (result / "report.html").read_text(encoding="utf-8")


def find_browser() -> str:
    """Return the path of Chromium; without one, skip the test, or fail it in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop(f"browser tests need one of {', '.join(names)} on the PATH")
    return program


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_a_missing_browser_fails_in_ci_and_skips_elsewhere(monkeypatch, ci, outcome):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="browser tests need one of chromium"):
        find_browser()


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Return a function that loads an address and returns the document its scripts leave."""
    program = find_browser()

    def load(address: str) -> str:
        profile = tmp_path_factory.mktemp("profile")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        options += [f"--user-data-dir={profile}", "--window-size=1280,900"]
        options += ["--virtual-time-budget=5000", "--dump-dom", address]
        process = subprocess.run(
            [program, *options], capture_output=True, text=True, encoding="utf-8", timeout=120
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return load


class Cards(HTMLParser):
    """Collect the cards of a document: image, outcome and alt text."""

    def __init__(self, document: str):
        super().__init__()
        self.cards: list[dict] = []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "li" and "data-image" in attributes:
            card = {"image": attributes["data-image"], "outcome": attributes["data-outcome"]}
            self.cards.append(card)
        elif tag == "img" and attributes.get("alt") and self.cards:
            self.cards[-1].setdefault("alt", attributes["alt"])


def cards(document: str) -> list[dict]:
    return Cards(document).cards


def scripted(page: str, path: Path, script: str) -> str:
    """Write a copy of the page that stores the return value of `script`; return its address."""
    call = f"document.body.dataset.returned = JSON.stringify((() => {{ {script} }})());"
    extended = page.replace("</body>", f"<script>{call}</script></body>")
    path.write_text(extended, encoding="utf-8")
    return path.as_uri()


def returned(document: str):
    return json.loads(html.unescape(re.search(r'data-returned="([^"]*)"', document)[1]))


def test_the_browser_shows_all_images_the_worst_mistakes_first(browse, result):
    shown = cards(browse((result / "report.html").as_uri()))
    assert len(shown) == 14
    assert [card["outcome"] for card in shown] == ["false alarm"] * 2 + ["correct"] * 12
    assert {card["image"] for card in shown[:2]} == {
        "bottle/test/2 a.png",
        f"grid/test/2 {HOSTILE}.png",
    }
    assert shown[0]["alt"] == "bottle/test/2 a.png: good, score 0.6000, false alarm"


def test_the_address_filters_and_sorts(browse, result):
    address = (result / "report.html").as_uri()
    shown = cards(browse(f"{address}#category=bottle&outcome=mistakes&shots=1"))
    assert [card["image"] for card in shown] == ["bottle/test/3 a.png"]
    assert shown[0]["outcome"] == "missed"
    shown = cards(browse(f"{address}#category=bottle&defect=crack&sort=score&shots=1"))
    assert [card["image"][12:13] for card in shown] == ["6", "4"]


def test_a_gallery_without_maps_shows_images_and_scores(browse, tmp_path):
    folder = new_folder(tmp_path / "result", maps=False)
    add_category(folder, tmp_path / "raw", "bottle")
    finish(session_of(folder))
    address = (folder.path / "report.html").as_uri()
    document = browse(f"{address}#shots=1&sort=name&image=bottle/test/3 a.png")
    assert len(cards(document)) == 7
    assert document.count("<canvas") == 1 and 'class="ramp" hidden' in document
    assert "1-shot seed 3, patch tokens: score 0.0500, threshold 0.7000" in document
    assert "colours from" not in document.split("<dialog")[1].split("</dialog>")[0]
    assert "ground truth</figcaption>" in document and ">no mask<" not in document
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    without_masks = tmp_path / "page.html"
    without_masks.write_text(re.sub('"outline":"[^"]*"', '"outline":""', page), encoding="utf-8")
    document = browse(f"{without_masks.as_uri()}#sort=name&image=bottle/test/3 a.png")
    assert len(cards(document)) == 7
    assert "ground truth</figcaption>" not in document and ">no mask<" not in document


def test_hostile_names_stay_text_in_the_browser(browse, result):
    document = browse((result / "report.html").as_uri() + "#category=grid&sort=name")
    assert "<title>WinCLIP on MVTec AD</title>" in document
    assert [card["image"] for card in cards(document)] == [
        f"grid/test/{number} {HOSTILE}.png" for number in range(7)
    ]


def test_controls_and_keys_work(browse, page, tmp_path):
    script = """
        const cards = () => [...document.querySelectorAll("#cards li")];
        const scores = () => cards().map((card) => card.dataset.score);
        const set = (id, value) => {
          byId(id).value = value;
          byId(id).dispatchEvent(new Event("change"));
        };
        set("category", "=bottle");
        set("sort", "score-up");
        const sorted = scores();
        set("shots", "1");
        const table = [...document.querySelectorAll("#results [data-shots]")]
          .map((table) => table.checkVisibility());
        document.querySelector("#cards button").click();
        const opened = [byId("large").open, byId("large-title").textContent];
        byId("large").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        const second = byId("large-title").textContent;
        const images = byId("large-images").children.length;
        byId("close").click();
        const closed = byId("large").open;
        set("outcome", "false alarm");
        const none = byId("count").textContent;
        byId("filters").dispatchEvent(new Event("reset", { cancelable: true }));
        return { sorted, table, opened, second, images, closed, none, all: scores().length };
    """
    values = returned(browse(scripted(page, tmp_path / "page.html", script)))
    assert values["sorted"] == [f"{score:.4f}" for score in (0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9)]
    assert values["table"] == [False, True]
    assert values["opened"] == [True, "bottle/test/3 a.png"]
    assert values["second"] == "bottle/test/0 a.png"
    assert values["images"] == 2 + 2  # image, ground truth, and a heatmap for each number of shots
    assert values["closed"] is False
    assert values["none"] == "None of the 14 images match; reset the filters"
    assert values["all"] == 14


def test_a_heatmap_is_bright_where_the_map_is_high(browse, page, tmp_path):
    script = """
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 100;
        const levels = Array(25).fill(0);
        levels[8] = 255; // row 1, column 3 of 5
        paint(canvas, { rows: 5, columns: 5, levels: btoa(String.fromCharCode(...levels)) });
        const at = (x, y) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        return [at(70, 30), at(60, 30), at(30, 70)];
    """
    high, between, low = returned(browse(scripted(page, tmp_path / "page.html", script)))
    assert sum(high) > sum(between) > sum(low)
    assert high[3] == 255 and max(low[:3]) < 10


def test_custom_images_open_on_the_verdicts_of_the_references(browse, tmp_path):
    folder = new_folder(tmp_path / "custom")
    folder.record["draws_references"] = False
    add_category(folder, tmp_path / "raw", "bottle", labels=[UNKNOWN] * 7)
    leave_one_out = {"leave_one_out": [0.4, 0.75], "leave_one_out_peaks": [1.5, 1.2]}
    folder.finish("bottle", folder.finished()["bottle"] | leave_one_out)
    (folder.path / "defects/bottle.jsonl").unlink()  # written without the references
    finish(session_of(folder))
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    script = """
        const alts = () => [...document.querySelectorAll("#cards img[alt$=threshold]")]
          .map((image) => image.alt);
        const all = [byId("shots").value, location.hash, alts().length, alts()[0], alts()[2]];
        byId("outcome").value = "above";
        byId("outcome").dispatchEvent(new Event("change"));
        const above = alts().length;
        enlarge(0);
        const path = document.querySelector("#large-images .detected .core").getAttribute("d");
        const text = byId("large-images").textContent;
        byId("close").click();
        byId("shots").value = "0";
        byId("shots").dispatchEvent(new Event("change"));
        return { all, above, path, text, none: byId("cards").children.length };
    """
    values = returned(browse(scripted(page, tmp_path / "page.html", script)))
    assert values["all"] == [
        *("1", "", 7),
        "bottle/test/6 a.png: unlabelled, score 0.9000, above the threshold",
        "bottle/test/4 a.png: unlabelled, score 0.7000, not above the threshold",
    ]
    assert values["above"] == 2 and values["none"] == 0  # 0-shot has no threshold
    assert values["path"].startswith("M")
    assert "detected; 1-shot seed 3, map threshold 1.5000" in values["text"]
    assert "score 0.9000, threshold 0.7500, above the threshold" in values["text"]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_scrolls_sideways(browse, page, tmp_path, width):
    # In a frame, since a headless window cannot be as narrow as a phone.
    frame = f'<iframe width="{width}" height="800" srcdoc="{html.escape(page)}"></iframe>'
    script = """document.querySelector("iframe").onload = (event) => {
        const { innerWidth, document: inner } = event.target.contentWindow;
        const { scrollWidth, clientWidth } = inner.documentElement;
        document.body.dataset.returned = JSON.stringify([innerWidth, scrollWidth - clientWidth]);
    };"""
    path = tmp_path / "frame.html"
    path.write_text(f"<body>{frame}<script>{script}</script></body>", encoding="utf-8")
    assert returned(browse(path.as_uri())) == [width, 0]


def test_hundreds_of_cards_come_a_few_at_a_time(browse, page, tmp_path):
    (index,) = embedded(page, 'id="index"')
    index["images"] = index["images"] * 10
    many = re.sub(
        r'(id="index">).*?(</script>)',
        lambda match: match[1] + str(script_json(index)) + match[2],
        page,
        flags=re.S,
    )
    script = """
        const shown = [document.querySelectorAll("#cards li").length];
        for (let press = 0; press < 9 && !byId("more").hidden; press++) {
          byId("more").click();
          shown.push(document.querySelectorAll("#cards li").length);
        }
        return [shown, document.activeElement === byId("cards").children[120].firstChild];
    """
    assert returned(browse(scripted(many, tmp_path / "page.html", script))) == [
        [60, 120, 140],
        True,
    ]
