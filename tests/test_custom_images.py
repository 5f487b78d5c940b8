"""Test the search for custom images: folders, labels, masks, bit depths and copies."""

import os
import pickle
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.check import find_white, inspect_image
from datasets.custom.find import CustomImages, find_custom_images
from datasets.custom.read_masks import MaskError, read_custom_masks
from datasets.custom.tree import CustomRequest
from datasets.decode import White, read_image
from datasets.images import ImageDataset
from datasets.layouts.names import GOOD_WORDS
from datasets.splits import UNKNOWN
from tests.layouts import make_image
from utils.errors import InputError
from utils.files import is_printable_name

SIZE = (30, 20)  # width and height
MARKED = np.zeros(SIZE[::-1], bool)
MARKED[4:12, 6:18] = True
MASK = Image.fromarray(MARKED.astype(np.uint8) * 255)


def save(folder: Path, *names: str, image: Image.Image | None = None) -> None:
    """Write images, each with other pixels unless `image` is given."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(name.encode()))
        kind = {".jfif": "JPEG", ".heic": "PNG", ".ppm": "PPM"}.get(path.suffix)
        (image or Image.fromarray(make_image(rng, *SIZE[::-1], None))).save(path, kind)


def find(folder: Path, **changes) -> CustomImages:
    return find_custom_images(CustomRequest(folder, "part", **changes))


def labels(custom: CustomImages) -> dict[str, int]:
    return {sample.image: sample.label for sample in custom.tests}


def masked(custom: CustomImages) -> list[str]:
    return [sample.image for sample in custom.tests if sample.mask]


def said(custom: CustomImages, *words: str) -> bool:
    """Return whether one message has all the words."""
    return any(all(word in line for word in words) for line in custom.messages)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        *(("good", "bad"), ("PASS", "FAIL"), ("ok", "ng"), ("OK", "KO"), ("Normal", "abnormal")),
        *(("non-defective", "defective"), ("正常", "不良"), ("良品", "不良品"), ("合格", "不合格")),
        ("No Defect", "defect"),
        ("i.O.", "n.i.O."),
    ],
)
def test_a_folder_named_like_good_labels_the_others(tmp_path, good, bad):
    save(tmp_path, f"{good}/0.png", f"{bad}/1.png")
    assert labels(find(tmp_path)) == {f"{good}/0.png": 0, f"{bad}/1.png": 1}


def test_a_folder_named_like_the_masks_of_another_is_no_defect(tmp_path):
    save(tmp_path, "in/good/0.png", "in/dent/1.png", "in/face_mask/2.png")
    assert labels(find(tmp_path / "in")) == {"dent/1.png": 1, "face_mask/2.png": 1, "good/0.png": 0}
    save(tmp_path, "in/dent_masks/1.png", image=MASK)
    with pytest.raises(InputError, match=r"dent_masks is named like the masks of .*--masks"):
        find(tmp_path / "in")
    assert masked(find(tmp_path / "in", masks=tmp_path / "in/dent_masks")) == ["dent/1.png"]


def test_no_word_for_bad_counts_as_good():
    assert not {"bad", "ng", "ko", "fail", "abnormal", "defective", "不良", "不合格"} & GOOD_WORDS


def test_another_name_for_good_is_an_option_that_the_error_offers(tmp_path):
    save(tmp_path, "gut/0.png", "schlecht/1.png")
    with pytest.raises(InputError, match=r"gut, schlecht.*--good-folder.*--recursive"):
        find(tmp_path)
    assert labels(find(tmp_path, good_folder="Gut")) == {"gut/0.png": 0, "schlecht/1.png": 1}
    with pytest.raises(InputError, match=r'no folder "bon".*gut, schlecht'):
        find(tmp_path, good_folder="bon")
    with pytest.raises(InputError, match=r"gut has no subfolders .* put the good ones into .*bon "):
        find(tmp_path / "gut", good_folder="bon")


def test_whatever_is_passed_over_is_counted_and_named(tmp_path):
    save(tmp_path, "0.png", "1.jfif", "night/2.png", "day/3.png", ".4.png", ".old/5.png")
    save(tmp_path, "6.heic", "7.ppm")
    custom = find(tmp_path)
    assert list(labels(custom)) == ["0.png", "1.jfif"]
    assert said(custom, "subfolders", "--recursive", "2 (day/3.png, night/2.png)")
    assert said(custom, "hidden", "2 (.4.png, .old)")
    assert said(custom, "other types", "2 (6.heic, 7.ppm)")
    save(tmp_path / "labelled", "good/0.png", "good/deep/1.png", "2.png")
    custom = find(tmp_path / "labelled")
    assert list(labels(custom)) == ["good/0.png"]
    assert said(custom, "beside the labelled folders", "1 (2.png)")
    assert said(custom, "subfolders", "1 (good/deep/1.png)")


def test_recursive_takes_trees_by_date_and_labels_at_any_depth(tmp_path):
    save(tmp_path, "a/2024-01-01/0.png", "a/2024-01-02/0.png", "a/1.png")
    custom = find(tmp_path / "a", recursive=True)
    assert set(labels(custom).values()) == {UNKNOWN} and len(custom.tests) == 3
    save(tmp_path, "b/day1/good/0.png", "b/day1/dent/s1/1.png", "b/day2/2.png", "c/OK/S1/0.png")
    save(tmp_path, "c/NG/AK/S1/1.png")
    custom = find(tmp_path / "b", recursive=True)
    assert labels(custom) == {"day1/dent/s1/1.png": 1, "day1/good/0.png": 0}
    assert [sample.defect for sample in custom.tests] == ["dent", "good"]
    assert said(custom, "beside the labelled folders", "day2/2.png")
    assert list(labels(find(tmp_path / "c", recursive=True)).values()) == [1, 0]


def test_folders_that_link_to_their_parents_end(tmp_path):
    save(tmp_path, "0.png", "a/1.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert list(labels(find(tmp_path, recursive=True))) == ["0.png", "a/1.png"]


@pytest.mark.parametrize("name", ["mask", "Masks", "ground_truth", "Ground Truth", "gt", "labels"])
@pytest.mark.parametrize("place", ["{}/1.png", "{}/bad/1_mask.png", "bad/{}/1.png"])
def test_mask_folders_among_the_images_are_masks(tmp_path, name, place):
    save(tmp_path, "good/0.png", "bad/1.png")
    save(tmp_path, place.format(name), image=MASK)
    custom = find(tmp_path)
    assert labels(custom) == {"good/0.png": 0, "bad/1.png": 1}
    assert masked(custom) == ["bad/1.png"]
    assert said(custom, "MASKS: using those inside IMAGES")


def test_the_folder_given_as_masks_is_no_defect_whatever_its_name(tmp_path):
    save(tmp_path, "good/0.png", "bad/1.png")
    save(tmp_path, "marked/1.png", image=MASK)
    (tmp_path / "marked/2.npy").touch()
    custom = find(tmp_path, masks=tmp_path / "marked")
    assert said(custom, "MASKS: passed over", "1 (2.npy)")
    assert list(labels(custom)) == ["bad/1.png", "good/0.png"]
    assert masked(custom) == ["bad/1.png"]


@pytest.mark.parametrize("name", ["1_mask.png", "1_GT.bmp", "1.mask.png", "1-gt.png", "1_Mask.PNG"])
def test_mask_files_beside_images_are_masks(tmp_path, name):
    save(tmp_path, "1.png", "2.png", "mask_of_paint.png")
    save(tmp_path, name, image=MASK)
    custom = find(tmp_path)
    assert labels(custom) == {"1.png": 1, "2.png": 0, "mask_of_paint.png": 0}
    assert masked(custom) == ["1.png"]
    assert said(custom, "1 anomalous", "2 good")


def test_several_masks_of_an_image_are_united(tmp_path):
    left, right = MARKED.copy(), MARKED.copy()
    left[:, 12:], right[:, :12] = False, False
    for names in (("1_mask_0.png", "1_mask_1.png"), ("1/000.png", "1/001.png")):
        folder = tmp_path / names[0][:3].replace("/", "-")
        save(folder, "images/bad/1.png", "images/good/1.png", "images/bad/000.png")
        for name, half in zip(names, (left, right), strict=True):
            save(folder, f"masks/bad/{name}", image=Image.fromarray(half))
        custom = find(folder / "images", masks=folder / "masks")
        assert masked(custom) == ["bad/1.png"]
        mask = custom.tests[1].mask
        np.testing.assert_array_equal(read_custom_masks(mask, SIZE), MARKED)


def test_masks_whose_meaning_is_certain_are_used(tmp_path):
    number = np.where(MARKED, 3, 0).astype(np.uint8)
    clear = Image.merge("LA", (MASK, MASK))
    painted = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    painted.paste((0, 0, 0, 255), mask=MASK)
    large = MARKED.copy()
    large[2:-2, 2:-2] = True  # more than half, but not the border
    cases = {
        "a.png": (MASK, MARKED),
        "ids.png": (Image.fromarray(number), MARKED),
        "clear.png": (clear, MARKED),
        "painted.png": (painted, MARKED),
        "large.png": (Image.fromarray(large), large),
        "double.png": (MASK.resize((60, 40), 0), MARKED),
        "rounded.png": (MASK.resize((301, 200), 0), None),
    }
    for name, (image, expected) in cases.items():
        save(tmp_path, name, image=image)
        mask = read_custom_masks(str(tmp_path / name), SIZE)
        assert mask.shape == MARKED.shape and mask.any(), name
        if expected is not None:
            np.testing.assert_array_equal(mask, expected, name)


def test_a_jpeg_mask_is_cut_at_half(tmp_path):
    y, x = np.mgrid[:200, :300]
    big = Image.fromarray(((x - 120) ** 2 + (y - 90) ** 2 < 50**2).astype(np.uint8) * 255)
    big.save(tmp_path / "m.jpg", quality=60)
    blurred = Image.open(tmp_path / "m.jpg")
    assert len(np.unique(np.asarray(blurred))) > 16
    save(tmp_path, "png.png", image=blurred.convert("L"))  # a JPEG that was converted
    for name in ("m.jpg", "png.png"):
        mask = read_custom_masks(str(tmp_path / name), (300, 200))
        assert (mask != (np.asarray(big) > 0)).mean() < 0.001


@pytest.mark.parametrize(
    ("image", "reason", "label"),
    [
        (Image.new("L", SIZE), "all black", 0),
        (Image.fromarray(~MARKED), "most of the image", UNKNOWN),
        (MASK.rotate(90, expand=True), "another shape", 1),
        (None, "cannot be read", UNKNOWN),
    ],
)
def test_other_masks_are_named_and_cost_no_image_its_score(tmp_path, image, reason, label):
    """`label` is that of the image in a folder without labels."""
    save(tmp_path, "a/good/0.png", "a/bad/1.png", "a/bad/2.png", "b/0.png", "b/1.png", "b/2.png")
    for folder in ("a/mask/bad", "b/mask"):
        save(tmp_path, f"{folder}/2.png", image=MASK)
        if image:
            save(tmp_path, f"{folder}/1.png", image=image)
        else:
            (tmp_path / folder / "1.png").write_bytes(b"\x89PNG no more")
    custom = find(tmp_path / "a")
    assert labels(custom) == {"bad/1.png": 1, "bad/2.png": 1, "good/0.png": 0}
    assert masked(custom) == ["bad/2.png"] and not custom.faults
    assert said(custom, "not used", "mask/bad/1.png", reason)
    assert said(custom, "anomalous images without one that can be used: 1 (bad/1.png)")
    custom = find(tmp_path / "b")
    assert labels(custom) == {"0.png": 0, "1.png": label, "2.png": 1}
    assert said(custom, "labels by masks", f"{1 + (label == 1)} anomalous")
    assert said(custom, "left out of the metrics") == (label == UNKNOWN)
    assert said(custom, "by a mask that cannot be used for pixel metrics", "its image: 1") == (
        label == 1
    )


def test_a_mask_that_several_images_share_by_name_is_named(tmp_path):
    save(tmp_path, "good/0.png", "dent/0.png", "crack/0.png", "crack/1.png")
    save(tmp_path, "mask/0.png", "mask/1.png", "mask/7.png", image=MASK)
    custom = find(tmp_path)
    assert masked(custom) == ["crack/1.png"]
    assert said(custom, "several images have their name", "1 (mask/0.png)")
    assert said(custom, "without an image", "1 (mask/7.png)")


@pytest.mark.parametrize("mask", ["x/x.png", "x/x_mask.png", "scratch/x/x.png"])
def test_a_mask_that_matches_its_image_by_file_and_folder_is_used_once(tmp_path, mask):
    save(tmp_path, "in/good/0.png", "in/scratch/x.png")
    save(tmp_path, f"masks/{mask}", image=MASK)
    custom = find(tmp_path / "in", masks=tmp_path / "masks")
    assert [sample.mask for sample in custom.tests] == ["", str(tmp_path / "masks" / mask)]
    assert custom.messages == []


def test_a_mask_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(MaskError("the mask is all black", 0)))
    assert (str(error), error.label, error.status) == ("the mask is all black", 0, 1)


@pytest.mark.parametrize("folder", ["label", "day/label"])
@pytest.mark.parametrize("masks", [None, "masks"])
def test_a_defect_named_like_a_mask_folder_is_refused(tmp_path, folder, masks):
    parent = Path("in", folder).parent
    save(tmp_path, f"{parent}/good/0.png", f"{parent}/scratch/1.png", f"in/{folder}/2.png")
    save(tmp_path, "masks/1.png", image=MASK)
    masks = tmp_path / masks if masks else None
    with pytest.raises(InputError, match=r"no file in .*label is named like an image"):
        find(tmp_path / "in", masks=masks, recursive=True)


def test_images_of_a_defect_never_become_masks_beside_others(tmp_path):
    save(tmp_path, "good/0.png", "scratch/1.png", "label/1.png")
    save(tmp_path, "ground_truth/scratch/1_mask.png", "ground_truth/label/1.png", image=MASK)
    with pytest.raises(InputError, match=r"ground_truth and .*label both have a mask of scratch/1"):
        find(tmp_path)


def test_labels_by_folder_or_mask_name_the_defect(tmp_path):
    save(tmp_path, "a/OK/0.png", "a/scratch/1.png", "b/0.png", "b/1.png", "b/2.png", "b/3.png")
    assert [sample.defect for sample in find(tmp_path / "a").tests] == ["good", "scratch"]
    assert {sample.defect for sample in find(tmp_path / "b").tests} == {"images"}
    save(tmp_path, "b/1_mask.png", "b/2_mask.png", image=MASK)
    (tmp_path / "b/3_mask.png").write_bytes(b"")
    custom = find(tmp_path / "b")
    assert [sample.defect for sample in custom.tests] == ["good", "anomaly", "anomaly", "images"]


def test_masks_may_lie_in_the_folder_of_the_images_or_above_it(tmp_path):
    save(tmp_path, "in/1.png", "in/2.png")
    save(tmp_path, "in/1_mask.png", image=MASK)
    for masks in (tmp_path / "in", tmp_path):
        custom = find(tmp_path / "in", masks=masks)
        assert labels(custom) == {"1.png": 1, "2.png": 0}
        assert not said(custom, "passed over")
    save(tmp_path, "masks/2.png", image=MASK)
    custom = find(tmp_path / "in", masks=tmp_path / "masks")
    assert labels(custom) == {"1.png": 0, "2.png": 1}
    assert said(custom, "ignored masks inside IMAGES because --masks was given: 1 (1_mask.png)")


def test_labels_without_masks_say_that_there_are_no_pixel_metrics(tmp_path):
    save(tmp_path, "good/0.png", "bad/1.png")
    assert find(tmp_path).messages == ["no masks, so no pixel metrics"]


def test_a_single_mask_file_belongs_to_a_single_image(tmp_path):
    save(tmp_path, "photo.png")
    save(tmp_path, "any name.png", image=MASK)
    custom = find(tmp_path / "photo.png", masks=tmp_path / "any name.png")
    assert [(sample.label, Path(sample.mask).name) for sample in custom.tests] == [
        (1, "any name.png")
    ]


def write_deep(path: Path, pixels: np.ndarray) -> None:
    """Write uint16 or float32 pixels, RGB if they have three channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if pixels.dtype.kind == "f" else []
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels, plain)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_give_the_pixels_of_8_bit_ones(tmp_path, bits, name, channels):
    shallow = make_image(np.random.default_rng(0), *SIZE[::-1], None)
    shallow = shallow if channels == 3 else shallow[..., 0]
    deep = (shallow.astype(np.uint16) << (bits - 8)) + ((1 << (bits - 8)) - 1)
    write_deep(tmp_path / name, deep)
    dark = deep // 16 if bits > 12 else deep // 2  # of the same set, so scaled by the same depth
    write_deep(tmp_path / f"dark{name}", dark)
    deep[0, 0] = (1 << bits) - 1
    write_deep(tmp_path / f"white{name}", deep)
    custom = find(tmp_path)
    assert custom.white == White(bits)
    assert said(custom, "16-bit files", f"{bits} bits", f"{(1 << bits) - 1} is white")
    expected = np.asarray(Image.fromarray(shallow).convert("RGB"))
    (item,) = ImageDataset(
        tmp_path,
        [custom.tests[0]],
        SIZE[1],
        "squash",
        ("source",),
        white={custom.tests[0].class_name: custom.white},
    )
    read = np.asarray(read_image(tmp_path / name, white=custom.white))
    np.testing.assert_array_equal(read, expected)
    assert abs(np.asarray(item.tiles).mean() - expected.mean()) < 3
    darker = np.asarray(read_image(tmp_path / f"dark{name}", white=custom.white))
    np.testing.assert_array_equal(
        darker[..., 0], (dark >> (bits - 8)).reshape(*SIZE[::-1], -1)[..., 0]
    )


@pytest.mark.parametrize(("scale", "white"), [(1 / 255, 1.0), (1.0, 250.0), (16.0, 4000.0)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_floating_point_images_go_from_0_to_1_or_to_their_largest_value(
    tmp_path, scale, white, kind, channels
):
    shallow = make_image(np.random.default_rng(0), *SIZE[::-1], None)
    shallow = shallow if channels == 3 else shallow[..., 0]
    shallow[0, 0] = 250
    write_deep(tmp_path / "a.tif", (shallow * scale).astype(kind))
    custom = find(tmp_path)
    assert custom.white.real == pytest.approx(white)
    assert said(custom, "floating-point files", f"{white:g} is white")
    read = np.asarray(read_image(tmp_path / "a.tif", white=custom.white))
    read = read if channels == 3 else read[..., 0]
    np.testing.assert_allclose(read, shallow * scale / white * 255, atol=0.51)
    with pytest.raises(InputError, match="floating-point"):
        read_image(tmp_path / "a.tif")  # as in a benchmark


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_floating_point_images_of_other_values_are_left_out(tmp_path, value):
    save(tmp_path, "good.png")
    pixels = np.full((20, 30), 0.5, np.float32)
    pixels[3, 4] = value
    write_deep(tmp_path / "a.tif", pixels)
    (fault,) = find(tmp_path).faults
    assert "a.tif" in fault and "below 0 or that are not finite" in fault


def test_the_depth_of_references_and_tests_is_one(tmp_path):
    write_deep(tmp_path / "in/0.png", np.full((20, 30), 900, np.uint16))
    write_deep(tmp_path / "good/1.png", np.full((20, 30), 3000, np.uint16))
    save(tmp_path / "in", "8 bits.png")
    assert find(tmp_path / "in", references=tmp_path / "good").white == White(12)
    assert find(tmp_path / "in").white == White(10)
    assert find_white([None]) == White()  # 8-bit images need nothing


def test_alpha_does_not_hide_the_depth(tmp_path):
    pixels = np.full((20, 30, 4), 65535, np.uint16)
    pixels[..., :3] = 4080
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert inspect_image(tmp_path / "a.png").peak == 4080
    assert (np.asarray(read_image(tmp_path / "a.png", white=White(12))) == 255).all()


def test_a_deep_image_is_turned_by_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 6
    expected = np.rot90(deep >> 4, -1)
    Image.fromarray(deep).save(tmp_path / "grey.tif", exif=exif)
    Image.fromarray(deep).save(tmp_path / "grey.png", exif=exif)
    write_deep(tmp_path / "colour.png", np.dstack([deep] * 3))
    data = (tmp_path / "colour.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    size, crc = len(chunk) - 4, zlib.crc32(chunk)
    chunk = size.to_bytes(4, "big") + chunk + crc.to_bytes(4, "big")
    (tmp_path / "colour.png").write_bytes(data[:33] + chunk + data[33:])
    for path in tmp_path.iterdir():
        turned = np.asarray(read_image(path, True, White(12)))
        np.testing.assert_array_equal(turned[..., 0], expected, path.name)
        assert inspect_image(path).size == (20, 30)


def test_references_among_the_test_images_are_refused_by_their_pixels(tmp_path):
    save(tmp_path, "in/good/0.png", "in/bad/1.png", "refs/2.png")
    with Image.open(tmp_path / "in/good/0.png") as image:
        image.save(tmp_path / "refs/copy.bmp")  # other bytes, the same pixels
    with pytest.raises(InputError, match=r"also test images: 1 \(good/0.png\)"):
        find(tmp_path / "in", references=tmp_path / "refs")
    with pytest.raises(InputError, match=r"also test images: 1 \(good/0.png\)"):
        find(tmp_path / "in", references=tmp_path / "in/good")


def test_copies_among_the_references_are_left_out(tmp_path):
    save(tmp_path, "in/0.png", "refs/1.png", "refs/2.png")
    with Image.open(tmp_path / "refs/1.png") as image:
        image.save(tmp_path / "refs/copy.bmp")
    custom = find(tmp_path / "in", references=tmp_path / "refs")
    assert [Path(sample.image).name for sample in custom.references] == ["1.png", "2.png"]
    assert said(custom, "copies of other references", "copy.bmp")


def test_a_folder_of_references_inside_the_images_is_no_defect(tmp_path):
    save(tmp_path, "good/0.png", "bad/1.png", "refs/2.png")
    custom = find(tmp_path, references=tmp_path / "refs")
    assert list(labels(custom)) == ["bad/1.png", "good/0.png"]


def test_the_result_folder_may_lie_inside_the_images(tmp_path):
    save(tmp_path, "day/0.png", "out/heatmaps/0.png")
    custom = find(tmp_path, recursive=True, results=tmp_path / "out")
    assert list(labels(custom)) == ["day/0.png"]


def test_only_good_images_of_a_labelled_folder_are_references(tmp_path):
    save(tmp_path, "in/0.png", "train/good/1.png", "train/bad/2.png")
    custom = find(tmp_path / "in", references=tmp_path / "train")
    assert [Path(sample.image).name for sample in custom.references] == ["1.png"]
    assert said(custom, "REFERENCES", "not good", "bad/2.png")
    save(tmp_path, "deep/good/day/1.png", "deep/bad/2.png")
    with pytest.raises(InputError, match=r"^REFERENCES: .*deep hold no images themselves; add --r"):
        find(tmp_path / "in", references=tmp_path / "deep")


def test_images_that_cannot_be_scored_are_left_out_by_name(tmp_path):
    save(tmp_path, "0.png")
    save(tmp_path, "strip.png", image=Image.new("L", (4000, 100)))
    save(tmp_path, "new\nline.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "gone.png").symlink_to("nowhere")
    custom = find(tmp_path)
    assert list(labels(custom)) == ["0.png"]
    assert len(custom.faults) == 4
    save(tmp_path, "x" * 249 + ".png")
    assert "has too long a name" in find(tmp_path).faults[-1]
    (tmp_path / ("x" * 249 + ".png")).unlink()
    for word in (
        "broken.png cannot be read",
        "gone.png is a link",
        "new\\nline",
        "square tiles, more than 32",
    ):
        assert sum(word in fault for fault in custom.faults) == 1
    assert len(find(tmp_path, resize="squash").faults) == 3
    assert sum(fault.endswith("; crop it, or set --resize squash") for fault in custom.faults) == 1


def test_images_of_which_none_can_be_scored_are_explained(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(InputError, match=r"^IMAGES: none of the images can be used; the first"):
        find(tmp_path)
    with pytest.raises(
        InputError, match=r"^IMAGES: .*a\.png cannot be read as an image .* another$"
    ):
        find(tmp_path / "a.png")


def test_a_tile_too_small_for_all_images_is_named_with_the_smallest_that_fits(tmp_path):
    save(tmp_path, "0.png", image=Image.new("L", (600, 400)))
    save(tmp_path, "1.png", image=Image.new("L", (640, 480)))
    with pytest.raises(InputError, match=r"^TILE = 9: all images .* give at least 32, the small"):
        find(tmp_path, tile=9)
    assert len(find(tmp_path, tile=32).tests) == 2
    assert "1.png is 640 x 480" in find(tmp_path, tile=31).faults[0]


def test_tiles_larger_than_all_images_are_reported(tmp_path):
    save(tmp_path, "0.png", image=Image.new("L", (60, 40)))
    save(tmp_path, "1.png", image=Image.new("L", (50, 70)))
    assert said(find(tmp_path, tile=50), "--tile 50 has no effect", "at most 50 pixels")
    assert not said(find(tmp_path, tile=49), "--tile")


def test_names_that_cannot_be_printed_are_escaped(tmp_path):
    save(tmp_path, "good/0.png", "bad/1.png", "bad/2.png", "mask/1.png")
    for name in (b"\xff.txt", b"a\nb.txt", b"bad/\xff.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    save(tmp_path, "mask/bad/2\n_mask.png", "mask/\n/2.png")
    custom = find(tmp_path)
    assert said(custom, "other types", "\\udcff.txt")
    for line in (*custom.messages, *custom.faults):
        assert is_printable_name(line)


@pytest.mark.parametrize("name", ["NG", "不良", "Defective"])
def test_a_folder_of_defects_is_no_folder_of_references(tmp_path, name):
    for path in ("OK/0.png", f"{name}/1.png", f"{name}/2.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / path)
    request = CustomRequest(tmp_path, "plate", references=tmp_path / name)
    with pytest.raises(InputError, match="named like a folder of defective images"):
        find_custom_images(request)
