"""A user's own dataset as a benchmark: layouts, CSV files, references, runs of run_folder.py."""

import re
import runpy
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import mvtec
from datasets.decode import read_mask
from datasets.folder import FolderOptions, main
from datasets.prepare import Options, prepare
from datasets.splits import Sample, read_notes, read_root, read_split
from tests.benches import contents
from tests.conftest import PROJECT
from tests.layouts import make_mvtec, save_pair
from utils.errors import InputError
from utils.experiment.settings import FolderSettings, Settings
from utils.run.benchmark import run

SIZE = (48, 64)


def split_of(root: Path | None, splits: Path, **options) -> list[Sample]:
    files = main(FolderOptions("parts", root, splits_folder=splits, **options))
    return read_split(files[0])


def kinds(samples: list[Sample]) -> Counter:
    return Counter((s.class_name, s.split, s.label, s.defect, bool(s.mask)) for s in samples)


def write_mask(path: Path, box: tuple[int, int, int, int] | None) -> None:
    pixels = np.zeros(SIZE, np.uint8)
    if box:
        pixels[box[0] : box[1], box[2] : box[3]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_images(root: Path, *paths: str, seed: int = 0) -> None:
    rng = np.random.default_rng([seed, *map(ord, paths[0])])
    for path in paths:
        save_pair(rng, root / path, None, SIZE)


def test_mvtecs_layout_gives_the_split_of_its_own_script(tmp_path, capsys):
    root = make_mvtec(tmp_path / "raw")
    options = Options(root, splits_folder=tmp_path, allow_incomplete=True)
    official = prepare(mvtec.MVTEC, options)
    capsys.readouterr()
    files = main(FolderOptions("parts", root, splits_folder=tmp_path))
    assert [file.name for file in files] == ["parts.csv", "parts_meta.json"]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in official]
    assert read_root("parts", tmp_path) == root.resolve()
    printed = capsys.readouterr().out
    assert "note:" not in printed and "/209" not in printed
    assert "python run_folder.py --name parts" in printed


def test_one_category_may_lack_the_top_folder(tmp_path):
    root = make_mvtec(tmp_path, ["gear"]) / "gear"
    samples = split_of(root, tmp_path / "splits")
    assert {s.class_name for s in samples} == {"gear"}
    assert samples[0].image == "test/good/000.png"
    samples = split_of(root, tmp_path / "splits", category="gear wheel")
    assert {s.class_name for s in samples} == {"gear wheel"}


def test_the_only_subfolder_is_the_dataset(tmp_path):
    make_mvtec(tmp_path / "raw" / "archive_v2")
    samples = split_of(tmp_path / "raw", tmp_path / "splits")
    assert samples[0].image.startswith("bottle/")
    assert read_root("parts", tmp_path / "splits") == (tmp_path / "raw" / "archive_v2").resolve()


def test_the_layout_of_mvtec_ad_2(tmp_path, capsys):
    can = tmp_path / "raw" / "can"
    write_images(can, "train/good/000_regular.png", "train/good/001_regular.png")
    write_images(can, "validation/good/000_regular.png", "test_private/000_regular.png")
    write_images(can, "test_public/good/000_regular.png", "test_public/bad/000_regular.png")
    write_mask(can / "test_public/ground_truth/bad/000_regular_mask.png", (0, 9, 0, 9))
    assert kinds(split_of(tmp_path / "raw", tmp_path / "splits")) == {
        ("can", "train", 0, "good", False): 2,
        ("can", "test", 0, "good", False): 1,
        ("can", "test", 1, "bad", True): 1,
    }
    printed = capsys.readouterr().out
    assert "files that are not used: 1 in can/test_private/, 1 in can/validation/good/" in printed


def test_the_masks_of_mvtec_loco_ad_are_united(tmp_path):
    root = tmp_path / "raw"
    kind = "logical_anomalies"
    write_images(root, "screw_bag/train/good/000.png", "screw_bag/test/good/000.png")
    write_images(root, f"screw_bag/test/{kind}/000.png", f"screw_bag/test/{kind}/001.png")
    write_images(root, "screw_bag/test/structural_anomalies/000.png")
    truth = root / "screw_bag/ground_truth"
    write_mask(truth / kind / "000/000.png", (0, 8, 0, 8))
    write_mask(truth / kind / "000/001.png", (40, 48, 0, 64))
    write_mask(truth / kind / "001/000.png", (0, 8, 0, 8))
    write_mask(truth / "structural_anomalies/000/000.png", (20, 24, 20, 24))
    samples = split_of(root, tmp_path / "splits")
    assert [s.mask for s in samples if s.label] == [
        f"screw_bag/ground_truth/{kind}/000",
        f"screw_bag/ground_truth/{kind}/001",
        "screw_bag/ground_truth/structural_anomalies/000",
    ]
    mask = read_mask(root / samples[1].mask, SIZE[::-1])
    assert mask.sum() == 8 * 8 + 8 * 64
    assert mask[0, 0] and mask[47, 63] and not mask[20, 20]


def test_the_layout_of_btad(tmp_path):
    root = tmp_path / "raw" / "BTech_Dataset_transformed"
    for category, suffix in (("01", "bmp"), ("02", "png")):
        names = ("train/ok/0000", "test/ok/0001", "test/ko/0000")
        write_images(root / category, *(f"{name}.{suffix}" for name in names))
        write_mask(root / category / "ground_truth/ko/0000.png", (0, 9, 0, 9))
    write_mask(root / "01/ground_truth/ok/0001.png", None)
    assert kinds(split_of(tmp_path / "raw", tmp_path / "splits")) == {
        (category, *kind): 1
        for category in ("01", "02")
        for kind in (
            ("train", 0, "good", False),
            ("test", 0, "good", False),
            ("test", 1, "ko", True),
        )
    }


def test_the_layout_of_kolektorsdd2(tmp_path, capsys):
    root = tmp_path / "KolektorSDD2"
    boxes = {"train/10000": None, "train/10301": (0, 9, 0, 9), "test/20000": None}
    boxes |= {"test/20003": (5, 9, 5, 9), "test/20004": None}
    for index, (stem, box) in enumerate(boxes.items()):
        write_images(root, f"{stem}.png", seed=index)
        write_mask(root / f"{stem}_GT.png", box)
    samples = split_of(root, tmp_path / "splits", category="commutator surface")
    assert kinds(samples) == {
        ("commutator surface", "train", 0, "good", False): 1,
        ("commutator surface", "train", 1, "anomaly", True): 1,
        ("commutator surface", "test", 0, "good", False): 2,
        ("commutator surface", "test", 1, "anomaly", True): 1,
    }
    printed = capsys.readouterr().out
    assert "anomalous train images of commutator surface, which are not used: 1" in printed
    assert "files that are not used" not in printed


def palette_mask(colours: list[int], marked: bool) -> Image.Image:
    """Return a palette mask whose pixels of index 1 are `marked`; the others have index 0."""
    indices = np.zeros(SIZE, np.uint8)
    indices[2:9, 2:9] = marked
    mask = Image.fromarray(indices).convert("P")
    mask.putpalette(colours)
    mask.putdata(indices.ravel().tolist())
    return mask


BLACK, RED, WHITE = [0, 0, 0], [255, 0, 0], [255, 255, 255]


@pytest.mark.parametrize(
    ("mask", "blank"),
    [
        (Image.new("RGBA", SIZE[::-1], (0, 0, 0, 255)), True),
        (Image.new("RGBA", SIZE[::-1], (0, 0, 9, 0)), False),
        (Image.new("LA", SIZE[::-1], (0, 255)), True),
        (Image.new("LA", SIZE[::-1], (1, 255)), False),
        (palette_mask(RED + BLACK, marked=False), False),
        (palette_mask(WHITE + BLACK, marked=True), False),
        (palette_mask(BLACK + BLACK, marked=True), True),
        (palette_mask(BLACK + RED, marked=True), False),
    ],
)
def test_a_mask_is_blank_if_its_colours_are_black(tmp_path, mask, blank):
    root = tmp_path / "gear"
    write_images(root, "train/0.png", "test/1.png", "test/2.png")
    write_mask(root / "test/2_mask.png", (0, 9, 0, 9))
    mask.save(root / "test/1_mask.png")
    samples = {s.image: s for s in split_of(root, tmp_path / "splits")}
    assert samples["test/1.png"].label == int(not blank)
    rows = [("image", "label", "mask"), ("train/0.png", "good", ""), ("test/2.png", "good", "")]
    file = write_csv(root / "list.csv", [*rows, ("test/1.png", "good", "test/1_mask.png")])
    if blank:
        split_of(None, tmp_path / "splits", csv=file)
    else:
        with pytest.raises(InputError, match=r"and its mask .* is not blank"):
            split_of(None, tmp_path / "splits", csv=file)


@pytest.mark.parametrize("folder", ["ground_truth", "mask", "Masks", "label", "labels", "GT"])
@pytest.mark.parametrize("name", ["dent/000.png", "dent/000_mask.png", "000_GT.bmp"])
def test_masks_lie_in_folders_of_several_names(tmp_path, folder, name):
    root = tmp_path / "raw"
    write_images(root, "gear/train/good/0.png", "gear/test/good/000.png", "gear/test/dent/000.png")
    write_mask(root / "gear" / folder / name, (0, 9, 0, 9))
    samples = split_of(root, tmp_path / "splits")
    assert [s.mask for s in samples if s.label] == [f"gear/{folder}/{name}"]


def test_a_mask_beside_its_image_is_no_image(tmp_path):
    root = tmp_path / "raw"
    write_images(root, "gear/train/good/0.png", "gear/test/good/0_mask.png", "gear/test/dent/1.png")
    write_mask(root / "gear/test/dent/1.mask.png", (0, 9, 0, 9))
    samples = split_of(root, tmp_path / "splits")
    assert [(s.image, s.mask) for s in samples if s.split == "test"] == [
        ("gear/test/good/0_mask.png", ""),  # there is no image 0.png
        ("gear/test/dent/1.png", "gear/test/dent/1.mask.png"),
    ]


@pytest.mark.parametrize("folder", ["ground_truth/dent", "test/dent"])
def test_two_masks_of_one_image_need_a_folder(tmp_path, folder):
    root = tmp_path / "raw"
    write_images(root, "gear/train/good/0.png", "gear/test/good/1.png", "gear/test/dent/2.png")
    for number in (1, 2):
        write_mask(root / "gear" / folder / f"2_mask_{number}.png", (0, 9, 0, 9))
    with pytest.raises(InputError, match=r"2_mask_2\.png are masks of one image.* a folder 2/"):
        split_of(root, tmp_path / "splits")


@pytest.mark.parametrize("word", ["label", "labels", "mask", "GT"])
@pytest.mark.parametrize("masks", ["ground_truth", "masks"])
def test_a_defect_may_be_named_like_a_mask_folder_if_there_is_another_one(tmp_path, word, masks):
    root = make_mvtec(tmp_path / "raw", ["gear"], defects=("scratch", word), each=1)
    (root / "gear/ground_truth").rename(root / "gear" / masks)
    samples = split_of(root, tmp_path / "splits")
    assert {(s.image, s.mask) for s in samples if s.label} == {
        (f"gear/test/{name}/000.png", f"gear/{masks}/{name}/000_mask.png")
        for name in ("scratch", word)
    }


def test_mask_folders_in_test_public_always_count(tmp_path):
    can = tmp_path / "raw" / "can"
    write_images(can, "train/good/0.png", "test_public/good/0.png", "test_public/good/2.png")
    write_images(can, "test_public/bad/1.png")
    write_mask(can / "test_public/ground_truth/bad/1_mask.png", (0, 9, 0, 9))
    (can / "masks").mkdir()
    samples = split_of(tmp_path / "raw", tmp_path / "splits")
    assert [s.mask for s in samples if s.label] == ["can/test_public/ground_truth/bad/1_mask.png"]
    shutil.rmtree(can / "masks")
    alone = split_of(can / "test_public", tmp_path / "others")
    assert [s.mask for s in alone if s.label] == ["ground_truth/bad/1_mask.png"]


@pytest.mark.parametrize(
    "others", ["gear/label/000.png", "gear/masks/crack/000_GT.png", "gear/test/crack/000_mask.png"]
)
def test_masks_of_one_image_in_two_folders_are_refused(tmp_path, others):
    root = make_mvtec(tmp_path / "raw", ["gear"], defects=["crack"], each=1)
    write_mask(root / others, (0, 9, 0, 9))
    with pytest.raises(
        InputError, match=r"are masks of one image, .*crack/000\.png; keep one"
    ) as e:
        split_of(root, tmp_path / "splits")
    assert others in str(e.value) and "ground_truth/crack/000_mask.png" in str(e.value)


def test_a_defect_named_like_a_mask_folder_is_refused_if_it_may_be_one(tmp_path):
    for parent in ("gear", "gear/test"):
        root = tmp_path / parent.replace("/", " ") / parent
        write_images(root, "good/0.png", "good/1.png", "scratch/2.png", "label/3.png")
        with pytest.raises(InputError, match=r"label: no file in it is named like an image"):
            split_of(tmp_path / parent.replace("/", " "), tmp_path / "splits")


def test_a_folder_named_like_the_masks_of_another_is_no_defect(tmp_path):
    root = make_mvtec(tmp_path / "raw", ["gear"], each=1)
    (root / "gear/ground_truth/crack").rename(root / "gear/test/crack_mask")
    with pytest.raises(InputError, match=r"test/crack_mask is named like the masks of the images"):
        split_of(root, tmp_path / "splits")


def test_a_mask_of_two_images_is_refused(tmp_path):
    root = make_mvtec(tmp_path / "raw", ["gear"], each=1)
    shutil.rmtree(root / "gear/ground_truth")
    write_mask(root / "gear/ground_truth/000.png", (0, 9, 0, 9))
    with pytest.raises(InputError, match=r"ground_truth/000\.png is the mask of two images"):
        split_of(root, tmp_path / "splits")


def test_masks_are_optional(tmp_path, capsys):
    root = make_mvtec(tmp_path / "raw")
    shutil.rmtree(root / "bottle/ground_truth")
    (root / "metal_nut/ground_truth/crack/001_mask.png").unlink()
    samples = split_of(root, tmp_path / "splits")
    masks = Counter((s.class_name, bool(s.mask)) for s in samples if s.label)
    assert masks == {("bottle", False): 4, ("metal_nut", True): 3, ("metal_nut", False): 1}
    printed = capsys.readouterr().out
    assert "bottle has no masks, so it gets no pixel metrics" in printed
    assert (
        "metal_nut has no mask of 1 of its 4 anomalous images, which pixel metrics leave out"
        in printed
    )


def test_without_train_images_references_are_drawn_and_not_tested(tmp_path, capsys):
    root = make_mvtec(tmp_path / "raw", ["gear", "nut"], train=1, good=9)
    shutil.rmtree(root / "gear/train")
    samples = split_of(root, tmp_path / "a")
    train = [s.image for s in samples if s.split == "train"]
    assert len([image for image in train if image.startswith("gear/")]) == 4
    assert [image for image in train if image.startswith("nut/")] == ["nut/train/good/000.png"]
    tested = [s.image for s in samples if s.class_name == "gear" and s.split == "test"]
    assert len(tested) == 5 + 4
    assert not set(train) & set(tested)
    assert (
        "gear has no train images: 4 of its 9 good test images, drawn with seed 0, serve as "
        "references and are not tested"
    ) in capsys.readouterr().out
    (note,) = read_notes(tmp_path / "a/parts.csv")
    assert note.startswith("NO TRAIN IMAGES in 1 of 2 categories: ")
    (tmp_path / "a/parts.csv").unlink()
    split_of(root / "nut", tmp_path / "a")
    assert read_notes(tmp_path / "a/parts.csv") == []
    assert split_of(root, tmp_path / "b") == samples
    assert sum(s.split == "train" for s in split_of(root, tmp_path / "c", references=8)) == 8 + 1
    for count in (0, 9):
        with pytest.raises(InputError, match=f"expected --references from 1 to 8, got {count}"):
            split_of(root, tmp_path / "d", references=count)
    for path in sorted((root / "gear/test/good").iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="gear has one good image; add another"):
        split_of(root, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_folder_without_a_known_name_for_good_is_named_and_can_be_given(tmp_path, capsys):
    root = tmp_path / "raw"
    write_images(root, "gear/good/0.png", "gear/good/1.png", "gear/dent/2.png")
    for name in ("nut", "pin"):
        write_images(root / name, "Gut-Teile/0.png", "Gut-Teile/1.png", "rost/2.png")
    (root / "docs").mkdir()
    assert {s.class_name for s in split_of(root, tmp_path / "a")} == {"gear"}
    note = "because they have no subfolder called test or good: 2 (nut, pin)"
    assert note in (printed := capsys.readouterr().out) and "--good-folder" in printed
    samples = split_of(root, tmp_path / "b", good_folder="gut teile")
    assert {s.class_name for s in samples} == {"nut", "pin"}
    assert {s.defect for s in samples} == {"good", "rost"}
    assert "called test or good: 1 (gear)" in capsys.readouterr().out
    with pytest.raises(InputError, match="--good-folder has no effect with --csv"):
        split_of(root, tmp_path / "c", good_folder="gut", csv=tmp_path / "list.csv")
    message = (
        r'no folder "ja" with images; its folders with images are: 6 \(gear/dent, gear/good, nut/G'
    )
    with pytest.raises(InputError, match=message):
        split_of(root, tmp_path / "c", good_folder="ja")
    with pytest.raises(InputError, match="holds 2 images, and nothing says which are good; put"):
        split_of(root / "nut/Gut-Teile", tmp_path / "c", good_folder="ja")


@pytest.mark.parametrize("good", ["good", "ok_parts"])
@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["a/b/c/GOOD/0.png", "a/b/c/bad/0.png"],
            "raw holds no category itself, but ROOT/a/b/c is one; give its parent, ROOT/a/b$",
        ),
        (
            ["a/b/c/test/GOOD/0.png", "a/b/d/test/GOOD/0.png"],
            "raw holds no category itself, but ROOT/a/b/c is one; give its parent, ROOT/a/b$",
        ),
        (
            ["gear/GOOD/2024/0.png", "gear/bad/0.png"],
            "^the images in ROOT/gear/GOOD/2024 lie too deep; move them up into ROOT/gear/GOOD$",
        ),
        (
            ["gear/GOOD/2024/0.png", "gear/bad/2024/0.png"],
            "the images in ROOT/gear/GOOD/2024 lie too deep; move them up into ROOT/gear/GOOD$",
        ),
        (
            ["gear/GOOD/0.png", "gear/bad/0.png", "nut/GOOD/x/0.png", "nut/bad/0.png"],
            "^the images in ROOT/nut/GOOD/x lie too deep; move them up into ROOT/nut/GOOD$",
        ),
    ],
)
def test_images_in_too_deep_a_folder_are_one_sentence(tmp_path, good, paths, message):
    root = tmp_path / "raw"
    for path in paths:
        write_images(root, path.replace("GOOD", good))
    option = {} if good == "good" else {"good_folder": good}
    with pytest.raises(InputError, match=message.replace("ROOT", str(root)).replace("GOOD", good)):
        split_of(root, tmp_path / "splits", **option)


def test_good_folders_may_have_several_names(tmp_path, capsys):
    root = tmp_path / "raw"
    write_images(root, "01/Train/Teile/0.png", "01/TEST/teile/1.png", "01/TEST/OK/2.png")
    write_images(root, "01/TEST/NG/3.png")
    assert kinds(split_of(root, tmp_path / "splits")) == {
        ("01", "train", 0, "good", False): 1,
        ("01", "test", 0, "good", False): 2,
        ("01", "test", 1, "NG", False): 1,
    }
    assert "the name 01 becomes part of English prompts" in capsys.readouterr().out


def test_folders_of_good_and_bad_images_are_a_category(tmp_path):
    root = tmp_path / "raw"
    write_images(root, "gear/OK/0.png", "gear/OK/1.png", "gear/scratch/0.png")
    assert kinds(split_of(root, tmp_path / "splits")) == {
        ("gear", "train", 0, "good", False): 1,
        ("gear", "test", 0, "good", False): 1,
        ("gear", "test", 1, "scratch", False): 1,
    }


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["a/b/c/d/0.png"],
            r"has images in 1 \(a/b/c/d\), and no folder .* test or good; name the",
        ),
        (["0.png", "1.png"], "holds 2 images, and nothing says which are good; put them into"),
        (["a/readme"], r"raw holds no images \(\.png, "),
        (
            ["gear/test/a/0.png", "gear/test/b/0.png"],
            "folders a, b; if one .* give its name as --good-folder",
        ),
        (["gear/test/good/0.png", "nut/test/x/2024/0.png"], "nut: no images in test or"),
        (["gear/test/0.png", "gear/test/1.png"], "nothing says which of its 2 images are good"),
        (["gear/train/good/0.png", "gear/test/empty/readme"], "gear has no test images"),
    ],
)
def test_a_folder_that_is_not_understood_is_refused(tmp_path, paths, message):
    for path in paths:
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".png"):
            write_images(tmp_path / "raw", path)
    with pytest.raises(InputError, match=message):
        split_of(tmp_path / "raw", tmp_path / "splits")
    assert not (tmp_path / "splits").exists()


def test_damaged_files_are_named(tmp_path):
    root = make_mvtec(tmp_path / "raw", ["gear"])
    (root / "gear/test/good/000.png").write_bytes(b"")
    write_mask(root / "gear/ground_truth/crack/001_mask.png", (0, 9, 0, 9))
    with pytest.raises(InputError) as caught:
        split_of(root, tmp_path / "splits")
    assert "before you fix 2 problems" in str(caught.value)
    assert "good/000.png cannot be read" in str(caught.value)
    assert "001_mask.png is 64 x 48 pixels, its image 96 x 96" in str(caught.value)


def test_a_test_image_that_is_a_copy_of_a_train_image_is_refused(tmp_path):
    root = make_mvtec(tmp_path / "raw", ["gear"])
    shutil.copyfile(root / "gear/train/good/001.png", root / "gear/test/good/009.png")
    with pytest.raises(
        InputError, match=r"009\.png is a copy of the train image gear/train/good/001"
    ):
        split_of(root, tmp_path / "splits")


@pytest.fixture
def images(tmp_path) -> Path:
    """Return a folder with three good images, two with a dent and their masks."""
    root = tmp_path / "my images"
    rng = np.random.default_rng(0)
    for number in range(3):
        save_pair(rng, root / f"good {number}.png", None, SIZE)
    for number in range(2):
        save_pair(rng, root / f"dent/{number}.png", root / f"masks/{number}.png", SIZE)
    return root


ROWS = [
    ("image", "Label", "mask", "split"),
    ("good 0.png", "good", "", "train"),
    ("good 1.png", "OK", "", "train"),
    ("good 2.png", "0", "", "Test"),
    ("dent/0.png", "dent", "masks/0.png", "test"),
    ("dent/1.png", "1.0", "masks/1.png", "test"),  # as pandas writes a column with gaps
]


def write_csv(path: Path, rows, separator: str = ",", encoding: str = "utf-8") -> Path:
    path.write_text("\r\n".join(map(separator.join, rows)) + "\r\n", encoding, newline="")
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_of_any_separator_is_read(images, tmp_path, separator, encoding):
    file = write_csv(images / "größe.csv", ROWS, separator, encoding)
    samples = split_of(None, tmp_path / "splits", csv=file)
    assert samples == [
        Sample("parts", "test", 0, "good", "good 2.png", ""),
        Sample("parts", "test", 1, "anomaly", "dent/1.png", "masks/1.png"),
        Sample("parts", "test", 1, "dent", "dent/0.png", "masks/0.png"),
        Sample("parts", "train", 0, "good", "good 0.png", ""),
        Sample("parts", "train", 0, "good", "good 1.png", ""),
    ]
    assert read_root("parts", tmp_path / "splits") == images.resolve()


def test_the_paths_of_a_csv_are_relative_absolute_or_windows_paths(images, tmp_path):
    expected = split_of(None, tmp_path / "a", csv=write_csv(images / "list.csv", ROWS))
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "list.csv"
    absolute = [ROWS[0]]
    for image, label, mask, split in ROWS[1:]:
        absolute.append((str(images / image), label, mask and str(images / mask), split))
    write_csv(file, absolute)
    assert split_of(None, tmp_path / "b", csv=file) == expected
    assert read_root("parts", tmp_path / "b") == images.resolve()
    write_csv(file, [[cell.replace("/", "\\") for cell in row] for row in ROWS])
    assert split_of(images, tmp_path / "c", csv=file) == expected
    up = [[cell and f"../my images/{cell}" if ".png" in cell else cell for cell in r] for r in ROWS]
    write_csv(file, up)
    assert split_of(None, tmp_path / "d", csv=file) == expected


def test_a_csv_with_all_columns_or_the_fewest(images, tmp_path, capsys):
    rows = [("image", "label", "category", "defect", "split", "note")]
    rows += [("good 0.png", "ok", "gear", "", "train", "a")]
    rows += [(f"good {n}.png", "0", "gear", "", s, "") for n, s in ((1, "test"), (2, "val"))]
    rows += [("dent/0.png", "1", "gear", "scratch", "test", ""), ("", "", "", "", "", "")]
    samples = split_of(None, tmp_path / "a", csv=write_csv(images / "a.csv", rows))
    assert kinds(samples) == {
        ("gear", "train", 0, "good", False): 1,
        ("gear", "test", 0, "good", False): 1,
        ("gear", "test", 1, "scratch", False): 1,
    }
    assert "validation images, which are not used: 1" in capsys.readouterr().out
    fewest = write_csv(images / "b.csv", [row[:2] for row in ROWS])
    samples = split_of(None, tmp_path / "b", csv=fewest, category="gear")
    assert kinds(samples) == {
        ("gear", "train", 0, "good", False): 1,
        ("gear", "test", 0, "good", False): 2,
        ("gear", "test", 1, "dent", False): 1,
        ("gear", "test", 1, "anomaly", False): 1,
    }


def test_a_csv_unites_the_masks_of_a_folder(images, tmp_path):
    rows = [ROWS[0], *ROWS[1:4], ("dent/0.png", "dent", "masks", "test")]
    samples = split_of(None, tmp_path / "a", csv=write_csv(images / "a.csv", rows))
    assert [s.mask for s in samples if s.label] == ["masks"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("gone.png", "good", "", "test"), "line 7: there is no image .*gone.png"),
        (("dent/0.png", "", "", "test"), 'line 7: the label is ""; expected 0, 1, good'),
        (("dent/0.png", "-1", "", "test"), 'the label is "-1"'),
        *(
            (("dent/0.png", word, "", "test"), f'the label is "{re.escape(word)}"')
            for word in ("FALSE", "null", "N/A", "Unknown", "un-labeled", "negative", "?", "-")
        ),
        *(
            (("dent/0.png", word, "", "test"), f'the label is "{re.escape(word)}"')
            for word in ("+1", "1e0", "2", "inf", "NaN", "1.5")
        ),
        (("dent/0.png", "dent", "gone.png", "test"), "there is no mask .*gone.png"),
        (("dent/0.png", "dent", "", "later"), 'the split is "later"; expected train, test or val'),
        (("dent/0.png", "dent", "masks/0.png", "test"), "line 7: the image is listed twice"),
        (("my.png", "good", "masks/0.png", "test"), "labelled good, and its mask .* is not blank"),
        (("dent/0.png", "dent"), "has 2 fields in line 7, and 4 columns"),
    ],
)
def test_a_bad_row_of_a_csv_is_named_by_its_line(images, tmp_path, row, message):
    shutil.copyfile(images / "good 0.png", images / "my.png")
    file = write_csv(images / "a.csv", [*ROWS, row])
    with pytest.raises(InputError, match=message):
        split_of(None, tmp_path / "splits", csv=file)
    assert not (tmp_path / "splits").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists no images"),
        (b"image,label\n", "lists no images"),
        (b"file,class\na.png,good\n", "has no column image, label"),
        ("image,label\nä.png,good\n".encode("latin-1"), "is not UTF-8; save it as CSV UTF-8"),
        (None, "there is no file .*gone.csv"),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(tmp_path, content, message):
    file = tmp_path / "gone.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        split_of(None, tmp_path / "splits", csv=file)


def test_the_options_must_name_a_dataset(tmp_path):
    with pytest.raises(InputError, match="--data-root DIR, or --csv FILE"):
        split_of(None, tmp_path)
    with pytest.raises(InputError, match="gone is not a folder; give one, or a list as --csv"):
        split_of(Path("gone"), tmp_path)
    with pytest.raises(InputError, match=r"^NAME = "):
        main(FolderOptions("mvtec", tmp_path))


def folder_settings(settings: Settings, **changes) -> FolderSettings:
    """Return `settings` for the benchmark "parts"."""
    values = {name: value for name, value in vars(settings).items() if name != "dataset"}
    return FolderSettings(name="parts", **values | changes)


def test_a_run_without_masks_has_image_metrics_and_the_users_name(mvtec_settings, tmp_path):
    root = make_mvtec(tmp_path / "raw", ["gear"], good=5)
    shutil.rmtree(root / "gear/ground_truth")
    shutil.rmtree(root / "gear/train")
    split_of(root, tmp_path / "splits")
    split = str(tmp_path / "splits/parts.csv")
    changes = {"split": split, "data_root": str(root), "result_dir": str(tmp_path / "result")}
    text = run(folder_settings(mvtec_settings, **changes))
    assert text.startswith("# WinCLIP on parts\n")
    for absent in ("OFFICIAL", "published", "paper", "15"):
        assert absent not in text
    assert "image_auroc" in text
    assert "Without usable masks, there are no pixel metrics." in text and "pixel_" not in text
    page = (tmp_path / "result/report.html").read_text(encoding="utf-8")
    assert "<title>WinCLIP on parts" in page and "Image ROC" in page
    for absent in ("Pixel ROC", "pixel AUROC", "AUPRO"):
        assert absent not in page
    assert "gear/test/good" in (tmp_path / "result/shots.csv").read_text()
    assert "**NO TRAIN IMAGES in 1 of 1 categories: some of their good test images" in text
    official = replace(mvtec_settings, **changes | {"result_dir": str(tmp_path / "other")})
    run(official)  # a split without masks also works with --split of another runner
    name = "scores/gear.npz"
    assert contents(tmp_path / "other")[name] == contents(tmp_path / "result")[name]
    note = "NOT THE OFFICIAL DATA: of 15 categories, 15 missing, 1 foreign"
    assert note in (tmp_path / "other/summary.md").read_text(encoding="utf-8")


def test_settings_follow_the_name(monkeypatch):
    settings = FolderSettings(name="parts", split="s.csv", data_root="raw")
    assert settings.resolve().result_dir == str(PROJECT / "result" / "parts")
    assert replace(settings, pretrained="random").result_folder.name == "parts-random"
    with pytest.raises(InputError, match=r"--name parts first"):
        replace(settings, data_root="auto").resolve()
    for name in ("", "visa", "../x"):
        with pytest.raises(InputError, match=r"^NAME"):
            replace(settings, name=name).resolve()


def test_renamed_categories_of_real_images_get_the_metrics_of_run_winclip(
    shared_data, mvtec_settings, tmp_path, monkeypatch
):
    names = {"bottle": "widget", "hazelnut": "gear"}
    for name, new in names.items():
        for root, folder in ((tmp_path / "raw", name), (tmp_path / "own", new)):
            root.mkdir(exist_ok=True)
            (root / folder).symlink_to(shared_data / "mvtec" / name)
    options = Options(tmp_path / "raw", splits_folder=tmp_path, allow_incomplete=True)
    renamed, _ = prepare(mvtec.MVTEC, options)
    text = renamed.read_text()
    for name, new in names.items():
        text = text.replace(f"{name},", f"{new},").replace(f"{name}/", f"{new}/")
    split_of(tmp_path / "own", tmp_path)
    own = tmp_path / "parts.csv"
    lines = text.splitlines()
    assert own.read_text().splitlines() == [lines[0], *sorted(lines[1:])]
    renamed.write_text(text)
    changes = {"data_root": str(tmp_path / "own"), "split": str(renamed), "limit": 1}
    changes |= {"shots": (0, 1), "seeds": (0,), "heatmaps": "none", "batch_size": 2}
    run(replace(mvtec_settings, **changes, result_dir=str(tmp_path / "official")))
    words = ["--name", "parts", "--data-root", tmp_path / "own", "--split", own, "--limit", 1]
    words += ["--shots", 0, 1, "--seeds", 0, "--heatmaps", "none", "--batch-size", 2]
    words += ["--model", mvtec_settings.model, "--pretrained", "random", "--num-workers", 0]
    words += ["--result-dir", tmp_path / "ours"]
    monkeypatch.setattr(sys, "argv", ["run_folder.py", *map(str, words)])
    runpy.run_path(str(PROJECT / "run_folder.py"), run_name="__main__")
    official, ours = contents(tmp_path / "official"), contents(tmp_path / "ours")
    assert len(ours["metrics.csv"].splitlines()) == 1 + 2 * 2 * 7
    for name in ("metrics.csv", "shots.csv", "scores/widget.npz", "scores/gear.npz"):
        assert official[name] == ours[name]


def test_a_name_stands_for_one_dataset_and_the_command_has_possible_shots(tmp_path, capsys):
    for name in ("a", "b"):
        make_mvtec(tmp_path / name, ["bottle"], train=2)
    options = FolderOptions("parts", tmp_path / "a", splits_folder=tmp_path / "splits")
    main(options)
    assert "--shots 0 1 2  (no more shots: the smallest category has 2 train images)" in (
        capsys.readouterr().out
    )
    main(options)  # again
    with pytest.raises(InputError, match=f'"parts" is the benchmark of the images in .*{"a"}; '):
        main(replace(options, data_root=tmp_path / "b"))
