"""Custom images: formats, layouts, faults, and the threshold, through the real script."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.custom.find import CustomImages, find_custom_images
from datasets.custom.tree import CustomRequest
from datasets.decode import read_image
from datasets.splits import UNKNOWN
from tests import scripts
from tests.benches import contents
from tests.clips import write_config
from tests.conftest import PROJECT
from tests.layouts import make_mvtec
from tests.test_custom_images import save
from utils.cli import GIVEN
from utils.errors import ANOTHER_FOLDER, InputError
from utils.experiment.custom import CustomSettings
from utils.files import write_text
from utils.results.scores import load_scores
from utils.run.custom import plan_custom, run_custom
from utils.run.verdicts import count_mistakes, explain_scores


def find(images: Path, references: Path | None = None, masks: Path | None = None) -> CustomImages:
    return find_custom_images(CustomRequest(images, "bottle", references, masks))


def gradient(width=60, height=40) -> Image.Image:
    """Red grows to the right, green downwards: an image whose orientation shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], axis=-1).astype(np.uint8))


def odd_formats(folder: Path) -> dict[str, Image.Image]:
    """Write the same image in many formats; return the RGB that each should give."""
    folder.mkdir(parents=True, exist_ok=True)
    image = gradient()
    expected = {}
    for suffix in ("png", "bmp", "tif", "webp", "JPG"):
        name = f"plain {suffix}.{suffix}"
        image.save(folder / name, lossless=True, quality=95)
        expected[name] = image
    image.convert("L").save(folder / "grey.png")
    expected["grey.png"] = image.convert("L").convert("RGB")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.tiff")
    expected["deep.tiff"] = expected["grey.png"]
    image.convert("CMYK").save(folder / "print.jpg", quality=95)
    expected["print.jpg"] = image
    image.quantize(256).save(folder / "palette.gif")
    expected["palette.gif"] = image
    clear = image.convert("RGBA")
    clear.putalpha(Image.new("L", image.size, 0))
    clear.save(folder / "clear.png")
    expected["clear.png"] = Image.new("RGB", image.size, "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer rotates it by 90 degrees to the right
    image.rotate(90, expand=True).save(folder / "Größe 图.jpg", exif=exif, quality=95)
    expected["Größe 图.jpg"] = image
    return expected


def test_every_format_is_decoded_as_a_viewer_shows_it(tmp_path):
    for name, expected in odd_formats(tmp_path).items():
        image = read_image(tmp_path / name, apply_exif=True)
        assert image.size == expected.size, name
        off = np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int))
        assert off.mean() < 12, name


def test_the_exif_orientation_of_a_benchmark_image_is_ignored(tmp_path):
    odd_formats(tmp_path)
    assert read_image(tmp_path / "Größe 图.jpg").size == (40, 60)


def test_images_of_a_flat_folder_have_no_labels(tmp_path):
    odd_formats(tmp_path / "in")
    custom = find(tmp_path / "in")
    assert len(custom.tests) == 11 and not custom.faults
    assert {sample.label for sample in custom.tests} == {UNKNOWN}


def test_a_folder_named_good_labels_the_others(tmp_path):
    root = make_mvtec(tmp_path, ["bottle"])
    custom = find(root / "bottle/test", masks=root / "bottle/ground_truth")
    assert [s.label for s in custom.tests] == [1, 1, 0, 0, 0, 1, 1]  # crack, good, hole
    assert [bool(s.mask) for s in custom.tests] == [s.label == 1 for s in custom.tests]


def test_masks_label_a_flat_folder(tmp_path):
    root = make_mvtec(tmp_path, ["bottle"])
    flat, masks = tmp_path / "flat", tmp_path / "masks"
    shutil.copytree(root / "bottle/test/crack", flat)
    shutil.copytree(root / "bottle/ground_truth/crack", masks)
    Image.new("L", (96, 96)).save(masks / "000_mask.png")  # blank: a good piece
    custom = find(flat, masks=masks)
    assert [s.label for s in custom.tests] == [0, 1]


@pytest.mark.parametrize(
    ("images", "references", "masks", "message"),
    [
        ("nowhere", None, None, "IMAGES"),
        ("empty", None, None, "no images"),
        ("nowhere", None, None, "does not exist; give an image or a folder of images"),
        ("bottle/test/crack", None, "nowhere", "give a mask or a folder of masks"),
        ("bottle", None, None, "give one of them"),
        ("bottle/test/crack", "nowhere", None, "REFERENCES"),
        ("bottle/test/crack", "empty", None, "REFERENCES"),
        ("bottle/test/crack", None, "bottle/test/good", "MASKS"),
    ],
)
def test_a_wrong_folder_ends_in_one_sentence(tmp_path, images, references, masks, message):
    make_mvtec(tmp_path, ["bottle"])
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "bottle/test/good").iterdir():
        path.rename(path.with_stem(f"other{path.stem}"))
    folders = [tmp_path / name if name else None for name in (references, masks)]
    with pytest.raises(InputError, match=message):
        find(tmp_path / images, *folders)


def test_symlink_loops_are_reported_and_left_out(tmp_path):
    root = make_mvtec(tmp_path, ["bottle"])
    mask = sorted((root / "bottle/ground_truth/crack").iterdir())[0]
    reference = sorted((root / "bottle/train/good").iterdir())[0]
    for path in (mask, reference):
        path.unlink()
        path.symlink_to(path)
    folders = root / "bottle/train/good", root / "bottle/ground_truth"
    custom = find(root / "bottle/test", *folders)
    (fault,) = custom.faults
    assert str(reference) in fault
    assert any("MASKS: not used" in line and str(mask) in line for line in custom.messages)
    assert len(custom.tests) == len(list((root / "bottle/test").rglob("*.png")))


def score_custom(settings: CustomSettings) -> None:
    run_custom(settings)


def settings(folder: Path, **changes) -> CustomSettings:
    """Settings with a small random CLIP."""
    values = {
        "dataset": "custom",
        "class_name": "metal nut",
        "model": str(write_config(folder, "small-custom", 240, 16, layers=2, width=32)),
        "pretrained": "random",
        "num_workers": 0,
        "result_dir": str(folder / "result"),
    }
    return CustomSettings(**values | changes)


def test_runs_with_references_or_random_weights_have_folders_of_their_own(tmp_path):
    random = settings(tmp_path, images=str(tmp_path / "bolts"), result_dir="auto")
    plain = replace(random, pretrained="w.pt")
    with_references = replace(plain, references=str(tmp_path / "good"))
    folders = [s.result_folder.name for s in (random, plain, with_references)]
    assert folders == ["bolts-random", "bolts", "bolts-with-references"]
    assert plain.result_folder.parent == PROJECT / "result/custom"


def test_a_result_folder_is_named_after_the_folder_or_the_stem_of_the_image(tmp_path):
    (tmp_path / "cam.1").mkdir()
    (tmp_path / "bolt.v2.png").touch()
    for images, name in (("cam.1", "cam.1"), ("bolt.v2.png", "bolt.v2")):
        changes = {"images": str(tmp_path / images), "result_dir": "auto", "pretrained": "w.pt"}
        assert settings(tmp_path, **changes).result_folder.name == name


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """Run on labelled images with masks and three references; return the result folder."""
    folder = tmp_path_factory.mktemp("custom")
    root = make_mvtec(folder, ["bottle"], train=3) / "bottle"
    score_custom(
        settings(
            folder,
            images=str(root / "test"),
            references=str(root / "train" / "good"),
            masks=str(root / "ground_truth"),
        )
    )
    return folder / "result"


@pytest.mark.parametrize("option", ["images", "references"])
def test_results_are_not_written_beside_the_images(tmp_path, option):
    save(tmp_path, "in/0.png", "good/1.png")
    folders = {"images": str(tmp_path / "in"), "references": str(tmp_path / "good")}
    with pytest.raises(InputError, match=rf"RESULT_DIR: .* is the folder of {option.upper()}"):
        run_custom(settings(tmp_path, **folders, result_dir=folders[option]))


def test_scores_are_written_as_json_csv_and_heatmaps(done):
    rows = json.loads((done / "scores.json").read_text())
    scores = load_scores(done / "scores" / "metal nut.npz")
    assert [row["image"] for row in rows] == scores.image.tolist()
    assert [row["3-shot"] for row in rows] == scores.image_scores[1].tolist()
    assert [row["anomalous"] for row in rows] == [True] * 2 + [False] * 3 + [True] * 2
    assert len(list((done / "heatmaps").rglob("*.png"))) == 7
    assert (done / "scores" / "metal nut.csv").read_text().startswith("image,label,defect,0-shot")


def test_heatmaps_are_counted_by_the_labels_that_masks_give(tmp_path):
    root = make_mvtec(tmp_path, ["bottle"], defects=["crack"], each=3) / "bottle"
    for path in (root / "test/good").iterdir():
        path.rename(root / "test/crack" / f"good {path.name}")
    images, masks = str(root / "test/crack"), str(root / "ground_truth/crack")
    (task,) = plan_custom(settings(tmp_path, images=images, masks=masks)).tasks
    for count in (1, 2):
        assert sorted(s.label for s in task.images_with_panel(count)) == [0] * count + [1] * count


def test_labels_and_masks_give_all_metrics(done):
    assert "n/a" not in (done / "summary.md").read_text()


def test_the_threshold_is_the_highest_score_of_a_reference_against_the_others(done, tmp_path):
    """The same three scores, each from a separate run on one image and two references."""
    record = json.loads((done / "done" / "metal nut.json").read_text())
    root = done.parent / "bottle" / "train" / "good"
    apart = []
    for left in sorted(root.iterdir()):
        others = tmp_path / left.stem
        shutil.copytree(root, others)
        (others / left.name).unlink()
        target = tmp_path / f"out-{left.stem}"
        score_custom(
            settings(tmp_path, images=str(left), references=str(others), result_dir=str(target))
        )
        apart.append(load_scores(target / "scores" / "metal nut.npz").image_scores[-1, 0])
    assert record["leave_one_out"] == pytest.approx(apart, abs=1e-6)
    rows = json.loads((done / "scores.json").read_text())
    assert {row["threshold"] for row in rows} == {max(record["leave_one_out"])}
    for row in rows:
        assert row["above_threshold"] == (row["3-shot"] > row["threshold"])


def test_without_labels_there_are_no_metrics_and_no_verdict(tmp_path):
    odd_formats(tmp_path / "in")
    score_custom(settings(tmp_path, images=str(tmp_path / "in")))
    rows = json.loads((tmp_path / "result" / "scores.json").read_text())
    assert set(rows[0]) == {"image", "0-shot"}
    assert not (tmp_path / "result" / "summary.md").exists()
    page = (tmp_path / "result" / "report.html").read_text(encoding="utf-8")
    assert "11 unlabelled" in " ".join(page.split()) and 'id="numbers"' not in page
    assert "Image scores, 0-shot" in page
    assert "Image ROC" not in page and "false alarms" not in page


def test_mistakes_are_counted_where_there_are_labels(done):
    records = json.loads((done / "scores.json").read_text())
    missed = sum(row["anomalous"] and not row["above_threshold"] for row in records)
    alarms = sum(row["above_threshold"] and not row["anomalous"] for row in records)
    expected = (
        f"missed {missed} of 4 anomalous images; {alarms} of 3 good images above the threshold"
    )
    assert expected in (done / "run.log").read_text(encoding="utf-8")
    assert not count_mistakes([{"above_threshold": True}])


def test_the_meaning_of_scores_is_explained():
    assert "not calibrated" in explain_scores(0)
    assert "Two or more reference images" in explain_scores(1)


def test_a_broken_file_is_reported_and_the_others_are_scored(tmp_path):
    odd_formats(tmp_path / "in put")
    (tmp_path / "in put" / "broken.png").write_bytes(b"\x89PNG no more")
    config = write_config(tmp_path, "small-custom", 240, 16, layers=2, width=32)
    options = ["--images", "in put", "--class-name", "metal nut", "--model", config]
    options += ["--pretrained", "random", "--num-workers", 0, "--result-dir", "out"]
    done = scripts.start("run_custom.py", *options, cwd=tmp_path).finish()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = "error: 1 of 12 images could not be used: "
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "broken.png" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(". After mending them, choose " + ANOTHER_FOLDER)
    out = tmp_path / "out"
    texts = "scores of 11", "no threshold", f"results are in {out}; open {out / 'report.html'}"
    positions = [done.stdout.index(text) for text in texts]
    assert positions == sorted(positions) and "seconds per stage" not in done.stdout
    assert "seconds per stage" in (tmp_path / "out" / "run.log").read_text()
    assert len(json.loads((tmp_path / "out" / "scores.json").read_text())) == 11


def test_real_images_in_odd_formats_score_as_the_originals(tmp_path, shared_data):
    """Lossless conversions of one image all get its score."""
    source = shared_data / "mvtec" / "bottle" / "test" / "broken_large"
    image = Image.open(sorted(source.iterdir())[0]).convert("RGB")
    folder = tmp_path / "in"
    folder.mkdir()
    image.save(folder / "a.png")
    image.save(folder / "b.bmp")
    image.save(folder / "c.tiff")
    image.save(folder / "d.webp", lossless=True)
    opaque = image.convert("RGBA")
    opaque.save(folder / "e.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    image.transpose(Image.Transpose.ROTATE_270).save(folder / "f.tif", exif=exif)
    score_custom(settings(tmp_path, images=str(folder)))
    scores = load_scores(tmp_path / "result" / "scores" / "metal nut.npz")
    assert len(scores.image) == 6
    assert np.ptp(scores.image_scores[0]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ""}, "IMAGES is not set"),
        ({"class_name": " "}, "CLASS_NAME is not set"),
        ({"class_name": "a/b"}, "CLASS_NAME"),
        ({"extra_normal_states": ("screw: clean {}",)}, '"screw" is not the class name'),
        ({"extra_normal_states": ("{} x {}",)}, 'EXTRA_NORMAL_STATES "{} x {}": expected a state'),
        ({"extra_normal_states": ("clean",)}, '"clean": expected a state with one {} for the cl'),
    ],
)
def test_a_wrong_setting_ends_in_one_sentence(tmp_path, changes, message):
    odd_formats(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        score_custom(settings(tmp_path, **{"images": str(tmp_path / "in")} | changes))


def test_options_for_folders_are_refused_with_one_image(tmp_path, monkeypatch):
    save(tmp_path / "in", "0.png")
    image = tmp_path / "in/0.png"
    monkeypatch.setitem(GIVEN, "recursive", ["--recursive"])
    with pytest.raises(InputError, match="--recursive has no effect without a folder of images"):
        settings(tmp_path, images=str(image), recursive=True).resolve()
    settings(tmp_path, images=str(image.parent), recursive=True).resolve()
    settings(tmp_path, images=str(image), recursive=False).resolve()  # --no-recursive


def test_additional_states_need_no_class_name(tmp_path):
    states = ("{} with a scratch", "metal nut: {} with rust: brown")
    chosen = settings(tmp_path, extra_anomalous_states=states)
    assert chosen.extra_states("metal nut") == ([], ["{} with a scratch", "{} with rust: brown"])
    assert chosen == settings(
        tmp_path, extra_anomalous_states=("metal nut: " + states[0], states[1])
    )


def test_results_of_different_images_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.experiment.custom.PROJECT", tmp_path / "project")
    folders = [tmp_path / name / "test" for name in ("a/nut", "a/bolt", "b/nut")]
    names = []
    for folder in folders:
        folder.mkdir(parents=True)
        for _ in range(2):  # the second run continues in the folder of the first one
            result = settings(tmp_path, images=str(folder), result_dir="auto", pretrained="w.pt")
            names.append(result.result_folder.name)
            write_text(
                result.result_folder / "settings.json",
                json.dumps({"settings": {"images": str(folder)}}),
            )
    assert names[:4] == ["test", "test", "bolt-test", "bolt-test"]
    assert names[4] == names[5] and re.fullmatch(r"test-[0-9a-f]{8}|nut-test", names[4])


def test_changed_images_and_settings_are_named_first(tmp_path):
    save(tmp_path / "in", "a.png", "b.png")
    score_custom(settings(tmp_path, images=str(tmp_path / "in"), heatmaps="none"))
    save(tmp_path / "in", "c.png")
    with pytest.raises(
        InputError,
        match=r"^images: added c.png: choose .* --result-dir.* a folder that holds only them$",
    ):
        score_custom(settings(tmp_path, images=str(tmp_path / "in"), heatmaps="none"))
    (tmp_path / "in/c.png").unlink()
    with pytest.raises(InputError, match=r"^--scales was 2 3, now 2: choose .* --result-dir"):
        score_custom(settings(tmp_path, images=str(tmp_path / "in"), scales=(2,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda:99"}, "DEVICE"),
        ({"precision": "tf32", "device": "cpu"}, "PRECISION"),
        ({"model": "ViT-nothing"}, "MODEL"),
        ({"pretrained": "nothing.pt"}, "PRETRAINED"),
        ({"result_dir": "/proc/results"}, "RESULT_DIR"),
        ({"class_name": "n" * 250}, "too long"),
    ],
)
def test_wrong_settings_are_known_before_any_image_is_decoded(
    tmp_path, monkeypatch, changes, message
):
    save(tmp_path / "in", "a.png")
    monkeypatch.setattr("datasets.custom.find.inspect_image", None)
    with pytest.raises(InputError, match=message):
        score_custom(settings(tmp_path, **{"images": str(tmp_path / "in")} | changes))
    assert not (tmp_path / "result").exists()


def test_a_class_name_of_too_many_tokens_is_refused_before_any_image_is_encoded(tmp_path):
    save(tmp_path / "in", "a.png")
    for name in (
        "x y " * 45,
        "新能源汽车动力电池铝合金外壳激光焊接焊缝区域表面外观检测图像",
    ):
        with pytest.raises(InputError, match="more tokens than CLIP reads"):
            score_custom(settings(tmp_path, images=str(tmp_path / "in"), class_name=name.strip()))
    assert not (tmp_path / "result/scores").exists()


def test_a_class_name_that_is_not_english_gets_a_warning(tmp_path):
    save(tmp_path / "in", "a.png")
    lines = plan_custom(settings(tmp_path, images=str(tmp_path / "in"), class_name="螺母")).messages
    assert any("warning: CLASS_NAME" in line and "English" in line for line in lines)
    assert plan_custom(settings(tmp_path, images=str(tmp_path / "in"))).messages == []


def test_12_bit_images_score_and_look_as_8_bit_ones(tmp_path):
    for number in range(2):
        grey = np.asarray(gradient().convert("L")) // (number + 1)
        for name, pixels in (("8", grey), ("12", grey.astype(np.uint16) * 16)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    for name in ("8", "12"):
        folder = str(tmp_path / f"out{name}")
        score_custom(settings(tmp_path, images=str(tmp_path / name), result_dir=folder))
    first, second = (contents(tmp_path / f"out{name}") for name in ("8", "12"))
    assert {name for name in first if first[name] != second.get(name)} == set()
    assert any(name.startswith("heatmaps/") for name in first)
    assert "images of 12 bits" in (tmp_path / "out12/run.log").read_text()


def test_pixel_metrics_leave_out_images_whose_mask_cannot_be_used(tmp_path):
    root = make_mvtec(tmp_path, ["bottle"]) / "bottle"
    folders = {"images": str(root / "test"), "masks": str(root / "ground_truth")}
    masks = sorted((root / "ground_truth").rglob("*.png"))
    Image.new("L", (96, 96)).save(masks[0])
    score_custom(settings(tmp_path, **folders, heatmaps="none"))
    few = {line.split(",")[3]: line.split(",")[4] for line in metric_lines(tmp_path / "result")}
    assert "PIXEL METRICS WITHOUT 1 of 4" in (tmp_path / "result/summary.md").read_text()
    log = (tmp_path / "result/run.log").read_text()
    assert log.count("is all black") == 1
    masks[0].unlink()
    (root / "test" / masks[0].parent.name / masks[0].name.replace("_mask", "")).unlink()
    changes = {"heatmaps": "none", "result_dir": str(tmp_path / "without")}
    score_custom(settings(tmp_path, **folders, **changes))
    without = {
        line.split(",")[3]: line.split(",")[4] for line in metric_lines(tmp_path / "without")
    }
    for name in ("pixel_auroc", "pixel_aupro"):
        assert few[name] == without[name] != ""
    assert few["image_aupr"] != without["image_aupr"]


def metric_lines(folder: Path) -> list[str]:
    """Return the lines of metrics.csv below its header."""
    return (folder / "metrics.csv").read_text().splitlines()[1:]


def test_images_of_the_same_name_in_folders_by_date_get_a_panel_each(tmp_path):
    save(tmp_path / "in", "day1/0.png", "day2/0.png", "day2/1.png")
    score_custom(settings(tmp_path, images=str(tmp_path / "in"), recursive=True))
    panels = {
        p.relative_to(tmp_path / "result").as_posix() for p in tmp_path.rglob("result/**/*.png")
    }
    folder = "heatmaps/metal nut/images"
    names = ("day1/0.png.png", "day2/0.png.png", "1.png")
    assert panels == {f"{folder}/{name}" for name in names}


def test_help_lists_the_options_of_custom_images_first(tmp_path):
    text = scripts.start("run_custom.py", "--help", cwd=tmp_path).finish().stdout
    options = dict.fromkeys(re.findall(r"--[a-z-]+", text))
    own = ["--images", "--class-name", "--references", "--masks", "--good-folder", "--recursive"]
    assert [option for option in options if option in (*own, "--model")] == [*own, "--model"]
