"""Test the notes of a preparation on its files: masks, sizes and bit depths."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from datasets import mvtec
from datasets.check import covers_most, notes_on_sizes
from datasets.decode import White, read_image
from datasets.folder import FolderOptions, main
from datasets.images import ImageDataset
from datasets.prepare import Options, prepare
from datasets.splits import read_depths, read_notes
from tests.layouts import make_mvtec
from utils.experiment.plan import plan_benchmark
from utils.experiment.settings import FolderSettings


def prepare_folder(root: Path, splits: Path) -> Path:
    return main(FolderOptions("parts", root, splits_folder=splits))[0]


def plan(split: Path, root: Path):
    settings = FolderSettings(name="parts", split=str(split), data_root=str(root))
    return plan_benchmark(settings)


def test_inverted_masks_are_noted_beside_all_results(tmp_path, capsys):
    root = make_mvtec(tmp_path / "raw")
    assert read_notes(prepare_folder(root, tmp_path)) == []
    for path in (root / "bottle/ground_truth/crack").iterdir():
        ImageOps.invert(Image.open(path)).save(path)
    split = prepare_folder(root, tmp_path)
    options = Options(root, splits_folder=tmp_path / "official", allow_incomplete=True)
    official, _ = prepare(mvtec.MVTEC, options)
    (note,) = read_notes(split)
    assert note.startswith("MASKS THAT MAY BE INVERTED: 2 of 4 masks of bottle cover most of")
    assert "bottle/ground_truth/crack/000_mask.png" in note
    assert capsys.readouterr().out.count(f"note: {note}") == 2
    assert read_notes(official) == [note]
    assert note in plan(split, root).notes


def test_a_large_defect_is_no_inverted_mask():
    mask = np.zeros((100, 100), bool)
    mask[5:95, 5:95] = True  # 81 % of the image
    assert not covers_most(mask)
    mask[:5] = mask[:60, :5] = True  # less than half of the border
    assert not covers_most(mask)
    assert covers_most(np.ones((3, 3), bool))


def to_deep(path: Path, shift: int) -> np.ndarray:
    """Replace an 8-bit image by a 16-bit one of 8 + `shift` bits; return its 8-bit pixels."""
    shallow = np.asarray(Image.open(path)).copy()
    shallow[0, 0] = 255
    assert cv2.imwrite(str(path), shallow[..., ::-1].astype(np.uint16) << shift)
    return shallow


def test_each_category_is_read_at_its_bit_depth(tmp_path, capsys):
    root = make_mvtec(tmp_path / "raw", ["coin", "gear", "nut"])
    expected = {path: to_deep(path, 4) for path in (root / "gear").glob("t*/*/*.png")}
    expected |= {path: to_deep(path, 8) for path in (root / "nut").glob("t*/*/*.png")}
    split = prepare_folder(root, tmp_path)
    assert read_depths(split) == {"gear": White(12), "nut": White(16)}
    assert "note: gear: 4095 is white in 16-bit files (12 bits)" in capsys.readouterr().out
    experiment = plan(split, root)
    assert experiment.messages == [
        "gear: 4095 is white in 16-bit files (12 bits)",
        "nut: 65535 is white in 16-bit files (16 bits)",
    ]
    assert experiment.fingerprint["depth"] == {"gear": {"bits": 12, "real": 0.0}}
    samples = [sample for task in experiment.tasks for sample in (*task.tests, *task.references)]
    dataset = ImageDataset(root, samples, 96, "tile", (96,), white=experiment.white)
    for sample, item in zip(samples, dataset, strict=True):
        pixels = expected.get(root / sample.image)
        pixels = np.asarray(read_image(root / sample.image)) if pixels is None else pixels
        np.testing.assert_array_equal(item.tiles[0], pixels.transpose(2, 0, 1))
    for path in expected:
        Image.fromarray(expected[path]).save(path)
    assert read_depths(prepare_folder(root, tmp_path)) == {}
    assert "depth" not in plan(split, root).fingerprint


@pytest.mark.parametrize(
    ("tests", "references", "words"),
    [
        ([(100, 100)], [(200, 200)], "1 image, 0 (100 x 100), reference images such as 200 x 200"),
        ([(150, 100), (300, 200)], [(150, 100)], "1 image, 1 (300 x 200)"),
        ([(100, 100), (90, 150)], [(50, 50)], "2 images, such as 0 (100 x 100)"),
        ([(100, 100), (110, 160)], [(200, 200), (100, 300)], ""),  # the shorter side decides
        ([(100, 100)], [], ""),
    ],
)
def test_images_of_another_size_than_all_references_are_noted(tests, references, words):
    sizes = [{str(i): size for i, size in enumerate(group)} for group in (tests, references)]
    notes = notes_on_sizes(*sizes)
    assert len(notes) == bool(words)
    assert all(note.startswith("DIFFERENT SIZE FROM THE REFERENCE IMAGES: ") for note in notes)
    assert all(words in note for note in notes)


def test_sizes_are_noted_for_each_category(tmp_path):
    root = make_mvtec(tmp_path / "raw", ["gear"])
    make_mvtec(root, ["nut"], size=(20, 40))
    make_mvtec(tmp_path / "other", ["gear"], size=(48, 48))
    for path in (tmp_path / "other/gear/train/good").iterdir():
        path.replace(root / "gear/train/good" / path.name)
    first, second = read_notes(prepare_folder(root, tmp_path))
    assert first.startswith(
        "gear: DIFFERENT SIZE FROM THE REFERENCE IMAGES: 7 images, such as gear/"
    )
    assert second.startswith("nut: SMALLER THAN 32 PIXELS: 11 images, such as nut/test/")
