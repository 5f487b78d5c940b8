import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import mpdd, mvtec, visa
from datasets.official import OFFICIAL, count_images, count_mismatches
from datasets.prepare import DEFAULT_SHOTS, Options, default_root, prepare
from datasets.splits import read_depths, read_notes, read_root, read_split
from tests.conftest import PROJECT
from tests.layouts import make_mvtec, make_visa
from utils.errors import InputError
from utils.experiment.options import DataOptions


def prepare_mvtec(root: Path, splits: Path, **options) -> list[Path]:
    return prepare(mvtec.MVTEC, Options(root, splits_folder=splits, **options))


def test_the_official_counts_add_up_to_the_papers_totals():
    sums = {
        name: tuple(
            sum(getattr(counts, kind) for counts in table.values())
            for kind in ("train", "good", "anomalous")
        )
        for name, table in OFFICIAL.items()
    }
    assert sums["mvtec"] == (3629, 467, 1258)
    assert sums["visa"] == (8659, 962, 1200)
    assert sums["mpdd"] == (888, 176, 282)
    assert [len(table) for table in OFFICIAL.values()] == [15, 12, 6, 12]


def test_an_incomplete_dataset_is_refused_with_the_missing_categories(tmp_path, capsys):
    root = make_mvtec(tmp_path / "data")
    with pytest.raises(InputError) as caught:
        prepare_mvtec(root, tmp_path / "splits")
    assert "missing: cable, capsule" in str(caught.value)
    assert "not the official counts: bottle, metal_nut" in str(caught.value)
    assert "--allow-incomplete" in str(caught.value)
    assert not (tmp_path / "splits").exists()
    printed = capsys.readouterr().out
    assert "4/209" in printed
    assert "crack 2, hole 2" in printed


def test_an_incomplete_dataset_is_written_if_allowed(tmp_path, capsys):
    root = make_mvtec(tmp_path / "data")
    files = prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    samples = read_split(files[0])
    assert len(samples) == 2 * (4 + 3 + 4)
    printed = capsys.readouterr().out
    assert "incomplete, as allowed (missing: cable" in printed
    words = f"--data-root {root.resolve()} --split {files[0]}"
    assert f"to run it: python run_winclip.py {words}\n" in printed
    assert DataOptions.shots == DEFAULT_SHOTS  # which the command leaves out
    assert read_root("mvtec", tmp_path / "splits") == root.resolve()


def test_a_rerun_writes_the_same_bytes(tmp_path):
    root = make_mvtec(tmp_path / "data")
    files = prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    before = [file.read_bytes() for file in files]
    prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    assert [file.read_bytes() for file in files] == before


def test_a_complete_dataset_is_reported_as_complete(tmp_path, capsys, monkeypatch):
    root = make_mvtec(tmp_path / "data", ["bottle"])
    files = prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    official = count_images(read_split(files[0]))
    monkeypatch.setitem(OFFICIAL, "mvtec", official)
    prepare_mvtec(root, tmp_path / "splits")
    assert "complete: all counts are the official ones" in capsys.readouterr().out
    assert count_mismatches("mvtec", read_split(files[0])) == ([], [])


@pytest.mark.parametrize("suffix", ["_mask", ""])
def test_masks_are_paired_by_stem_and_never_by_position(tmp_path, suffix):
    root = make_mvtec(tmp_path / "data", ["bottle"], each=3, mask_suffix=suffix)
    (root / "bottle" / "ground_truth" / "crack" / "0.png").write_bytes(
        b""
    )  # a stray, first by name
    files = prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    for sample in read_split(files[0]):
        if sample.label:
            image, mask = Path(sample.image), Path(sample.mask)
            assert mask.stem.removesuffix("_mask") == image.stem
            assert mask.parent.name == image.parent.name == sample.defect


def test_stray_files_are_ignored(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"])
    expected = prepare_mvtec(root, tmp_path / "a", allow_incomplete=True)[0].read_bytes()
    for stray in ("license.txt", "bottle/.DS_Store", "bottle/test/readme.txt"):
        (root / stray).write_text("stray")
    (root / "bottle/test/good/Thumbs.db").write_bytes(b"stray")
    (root / "bottle/test/good/._000.png").write_bytes(b"stray")
    assert prepare_mvtec(root, tmp_path / "b", allow_incomplete=True)[0].read_bytes() == expected


def test_every_broken_file_is_reported_by_path(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"], each=5)
    tests, masks = root / "bottle/test", root / "bottle/ground_truth"
    whole = (tests / "good/000.png").read_bytes()
    (tests / "good/000.png").write_bytes(whole[: len(whole) // 2])
    (tests / "good/001.png").write_bytes(b"")
    (masks / "crack/000_mask.png").unlink()
    Image.fromarray(np.ones((96, 95), np.uint8)).save(masks / "crack/001_mask.png")
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(masks / "crack/002_mask.png")
    (masks / "crack/003_mask.png").write_text("no image")
    with pytest.raises(InputError) as caught:
        prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    text = str(caught.value)
    for path in ("good/000.png", "good/001.png", "crack/000.png", "crack/001_mask.png"):
        assert path in text
    assert "crack/002_mask.png of an anomalous image is empty" in text
    assert "crack/003_mask.png cannot be read" in text
    assert text.startswith("the split cannot be written before you fix 6 problems:\n")
    assert not (tmp_path / "splits").exists()


def test_only_the_first_20_faults_are_listed(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"], train=30)
    for path in (root / "bottle/train/good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    assert len(str(caught.value).splitlines()) == 22
    assert "and 10 more" in str(caught.value)


def test_masks_of_other_modes_are_read(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"], each=3)
    folder = root / "bottle/ground_truth/crack"
    for number, mode in enumerate(("1", "P", "RGB")):
        path = folder / f"{number:03}_mask.png"
        Image.open(path).convert(mode).save(path)
    prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)


def test_the_top_folder_of_an_archive_is_found(tmp_path, capsys):
    make_mvtec(tmp_path / "data" / "MPDD", ["connector"], mask_suffix="")
    files = prepare(
        mpdd.MPDD,
        Options(tmp_path / "data", splits_folder=tmp_path / "splits", allow_incomplete=True),
    )
    assert read_split(files[0])[0].image.startswith("connector/")
    assert read_root("mpdd", tmp_path / "splits") == (tmp_path / "data" / "MPDD").resolve()
    assert f"using {tmp_path / 'data' / 'MPDD'}" in capsys.readouterr().out


def test_a_folder_without_the_dataset_is_refused_even_with_allow_incomplete(tmp_path):
    (tmp_path / "animals" / "cat").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for root, message in [
        ("animals", "^--data-root: .*is not MVTec AD: it has no category with images"),
        ("file", "is not a folder"),
        ("gone", "does not exist"),
    ]:
        with pytest.raises(InputError, match=message):
            prepare_mvtec(tmp_path / root, tmp_path / "splits", allow_incomplete=True)


def test_a_missing_default_folder_is_called_the_default_and_download_is_offered(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("datasets.prepare.PROJECT", tmp_path)
    message = r"the default folder .*data/mvtec does not exist; .* To get it, add --download, or d"
    with pytest.raises(InputError, match=message):
        prepare_mvtec(default_root("mvtec"), tmp_path / "splits")
    with pytest.raises(InputError, match=r"To get it, open the README"):
        prepare(mpdd.MPDD, Options(tmp_path / "gone"))


def test_a_symlink_loop_is_not_a_category(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"])
    (root / "cable").symlink_to(root / "cable")
    (root / "bottle/test/loop").symlink_to(root / "bottle/test/loop")
    files = prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    assert {sample.class_name for sample in read_split(files[0])} == {"bottle"}


def test_a_name_that_is_not_utf8_is_reported(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"])
    good = os.fsencode(root / "bottle/test/good")
    os.rename(good + b"/000.png", good + b"/\xff.png")  # noqa: PTH104 (paths as bytes)
    with pytest.raises(InputError, match="not UTF-8"):
        prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)


def test_images_are_never_written(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"])
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    prepare_mvtec(root, tmp_path / "splits", allow_incomplete=True)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def prepare_visa(root: Path, splits: Path) -> list[Path]:
    return prepare(visa.visa("1cls"), Options(root, splits_folder=splits, allow_incomplete=True))


def test_visa_follows_its_split_file_and_warns_if_it_is_not_the_official_one(tmp_path, capsys):
    root = make_visa(tmp_path / "data")
    csv_file, meta_file = prepare_visa(root, tmp_path / "splits")
    samples = read_split(csv_file)
    assert len(samples) == 2 * (4 + 3 + 3)
    assert "1cls.csv is not the official file" in capsys.readouterr().out
    same_name = [s.image for s in samples if s.image.endswith("capsules/000.JPG")]
    assert len({s.image for s in samples}) == len(samples), same_name
    entry = json.loads(meta_file.read_text())["test"]["pcb1"][-1]
    assert entry == {
        "img_path": "pcb1/Data/Images/Anomaly/002.JPG",
        "mask_path": "pcb1/Data/Masks/Anomaly/002.png",
        "cls_name": "pcb1",
        "specie_name": "",
        "anomaly": 1,
    }


def test_visa_without_its_split_or_a_mask_is_refused(tmp_path):
    root = make_visa(tmp_path / "data")
    (root / "pcb1/Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(InputError, match=r"mask pcb1/Data/Masks/Anomaly/001\.png does not exist"):
        prepare_visa(root, tmp_path / "splits")
    table = root / "split_csv/1cls.csv"
    table.write_text("object,split\n")
    with pytest.raises(InputError, match="no column label, image, mask"):
        prepare_visa(root, tmp_path / "splits")
    table.unlink()
    with pytest.raises(InputError, match=r"^--data-root: there is no .*1cls\.csv"):
        prepare_visa(root, tmp_path / "splits")


def run_script(*words, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["mvtec", "visa", "mpdd"])
def test_the_scripts_run_from_any_folder_on_a_path_with_spaces(tmp_path, name):
    make = make_visa if name == "visa" else make_mvtec
    first = next(iter(OFFICIAL[name]))
    root = make(tmp_path / "raw data ü", [first])
    words = ["--data-root", str(root), "--splits-folder", "my splits", "--allow-incomplete"]
    done = run_script(str(PROJECT / "datasets" / f"{name}.py"), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {s.class_name for s in read_split(tmp_path / "my splits" / f"{name}.csv")} == {first}


def test_the_scripts_run_as_modules_and_explain_their_options():
    done = run_script("-m", "datasets.mvtec", "--help", cwd=PROJECT)
    assert done.returncode == 0
    for option in ("--data-root", "--download", "--url", "--sha256", "--allow-incomplete"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--data-root", "nowhere"], 1, "error: --data-root: nowhere does not exist"),
        (["--bogus"], 2, "error: Unrecognized options: --bogus"),
        (["--data-root", ".", "--download"], 1, "MPDD has no archive to download; open the README"),
    ],
)
def test_a_wrong_option_ends_in_one_sentence(tmp_path, words, status, message):
    done = run_script(str(PROJECT / "datasets" / "mpdd.py"), *words, cwd=tmp_path)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert message in line


def test_an_unwritable_folder_ends_in_one_sentence(tmp_path):
    root = make_mvtec(tmp_path / "data", ["bottle"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*choose a folder"):
        prepare_mvtec(root, tmp_path / "file", allow_incomplete=True)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("mvtec", (32, 18, 39)), ("visa", (16, 60, 100)), ("mpdd", (16, 26, 71))],
)
def test_real_images_are_prepared(shared_data, tmp_path, name, counts):
    dataset = {"mvtec": mvtec.MVTEC, "visa": visa.visa("1cls"), "mpdd": mpdd.MPDD}[name]
    options = Options(shared_data / name, splits_folder=tmp_path, allow_incomplete=True)
    csv_file, meta_file = prepare(dataset, options)
    assert read_notes(csv_file) == [] and read_depths(csv_file) == {}  # no false alarm
    samples = read_split(csv_file)
    actual = count_images(samples).values()
    assert (
        tuple(sum(getattr(c, k) for c in actual) for k in ("train", "good", "anomalous")) == counts
    )
    meta = json.loads(meta_file.read_text())
    entries = [e for categories in meta.values() for images in categories.values() for e in images]
    assert sorted((e["img_path"], e["mask_path"], e["anomaly"]) for e in entries) == sorted(
        (s.image, s.mask, s.label) for s in samples
    )


def test_visas_real_split_file_is_the_official_one(shared_data, tmp_path, capsys):
    prepare_visa(shared_data / "visa", tmp_path)
    assert "not the official file" not in capsys.readouterr().out
    with (shared_data / "visa/split_csv/1cls.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["object"] == "capsules"]
    tests = {row["image"]: row["mask"] for row in rows if row["split"] == "test"}
    samples = [s for s in read_split(tmp_path / "visa.csv") if s.split == "test"]
    assert {s.image: s.mask for s in samples} == tests


def convert_visa(root: Path, target: Path) -> Path:
    """Copy VisA into the folders of spot-diff's prepare_data.py."""
    with (root / "split_csv/1cls.csv").open() as stream:
        for row in csv.DictReader(stream):
            folder = target / row["object"]
            label = "bad" if row["mask"] else "good"
            image = folder / row["split"] / label / Path(row["image"]).name
            image.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / row["image"], image)
            if row["mask"]:
                mask = folder / "ground_truth" / label / Path(row["mask"]).name
                mask.parent.mkdir(parents=True, exist_ok=True)
                binary = (np.asarray(Image.open(root / row["mask"])) > 0).astype(np.uint8) * 255
                Image.fromarray(binary).save(mask)
    return target


def test_a_converted_visa_has_the_images_and_masks_of_the_original(tmp_path, capsys):
    root = make_visa(tmp_path / "data")
    original = read_split(prepare_visa(root, tmp_path / "a")[0])
    convert_visa(root, tmp_path / "new" / "1cls")
    converted = read_split(prepare_visa(tmp_path / "new", tmp_path / "b")[0])
    assert "is VisA as converted by spot-diff's prepare_data.py" in capsys.readouterr().out
    assert len(original) == len(converted) == 20
    for before, after in zip(original, converted, strict=True):
        assert replace(before, image="", mask="") == replace(after, image="", mask="")
        copy = tmp_path / "new" / "1cls" / after.image
        assert copy.read_bytes() == (root / before.image).read_bytes()
        if before.mask:
            masks = root / before.mask, tmp_path / "new" / "1cls" / after.mask
            a, b = (np.asarray(Image.open(path)) > 0 for path in masks)
            assert np.array_equal(a, b)


def test_a_visa_converted_for_two_classes_is_refused_by_name(tmp_path):
    converted = convert_visa(make_visa(tmp_path / "data"), tmp_path / "new")
    options = Options(converted, splits_folder=tmp_path, allow_incomplete=True)
    message = r"is VisA as converted by .*; for 2cls_fewshot, give the original folder"
    with pytest.raises(InputError, match=message):
        prepare(visa.visa("2cls_fewshot"), options)
    (converted / "pcb1/ground_truth/test/bad").mkdir(parents=True)
    with pytest.raises(InputError, match=r"is VisA as converted by .*; for 1cls, give"):
        prepare(visa.visa("1cls"), options)
