from io import BytesIO

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.decode import make_thumbnail, read_image, read_mask, to_rgb
from datasets.images import ImageDataset, eval_shape, normalise, resize_mask
from datasets.splits import Sample
from datasets.tiles import cut_tiles

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
STATISTICS = torch.tensor([MEAN, STD])[:, :, None, None]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("resize", ["tile", "squash"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [100, 240, 331, 1024])
def test_square_images_equal_open_clips_input_bit_for_bit(resize, channels, side):
    image = Image.fromarray(noise(side, side, channels))
    expected = open_clip.image_transform(240, is_train=False)(image)
    tiles, grid = cut_tiles(to_rgb(image), 240, resize)
    assert grid == (1, 1)
    assert tiles.shape == (1, 3, 240, 240)
    assert torch.equal(normalise(torch.from_numpy(tiles), *STATISTICS)[0], expected)


def test_the_middle_tile_of_three_is_open_clips_centre_crop():
    image = Image.fromarray(noise(240, 600))
    tiles, grid = cut_tiles(image, 240, "tile")
    assert (tiles.shape, grid) == ((3, 3, 240, 240), (1, 3))
    expected = open_clip.image_transform(240, is_train=False)(image)
    assert torch.equal(normalise(torch.from_numpy(tiles), *STATISTICS)[1], expected)


@pytest.mark.parametrize("size", [(331, 500), (500, 331), (240, 241)])
def test_a_centre_crop_is_open_clips_input_bit_for_bit(size):
    image = Image.fromarray(noise(*size))
    tiles, grid = cut_tiles(image, 240, "centre_crop")
    expected = open_clip.image_transform(240, is_train=False)(image)
    assert grid == (1, 1)
    assert torch.equal(normalise(torch.from_numpy(tiles), *STATISTICS)[0], expected)


def test_tiles_of_a_fixed_side_are_crops_of_the_resized_image():
    image = Image.fromarray(noise(600, 840))
    tiles, grid = cut_tiles(image, 60, "tile", tile=120)
    assert (tiles.shape, grid) == ((6 * 9, 3, 60, 60), (6, 9))
    half = np.asarray(image.resize((420, 300), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(tiles[0], half[:, :60, :60])
    np.testing.assert_array_equal(tiles[-1], half[:, -60:, -60:])


def test_squashing_makes_one_tile_of_the_whole_image():
    image = Image.fromarray(noise(300, 500))
    tiles, _ = cut_tiles(image, 240, "squash")
    expected = np.asarray(image.resize((240, 240), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(tiles[0], expected)


@pytest.mark.parametrize(
    ("source", "size", "resize", "expected"),
    [
        ((900, 900), 240, "tile", (240, 240)),
        ((1000, 1500), 240, "tile", (240, 360)),
        ((1500, 1000), 240, "tile", (360, 240)),
        ((960, 1562), 240, "tile", (240, 390)),
        ((1000, 1500), 240, "squash", (240, 240)),
        ((1000, 1500), "source", "tile", (1000, 1500)),
        ((1000, 1500), "source", "squash", (1000, 1500)),
    ],
)
def test_the_evaluation_shape_follows_the_size_and_the_resizing(source, size, resize, expected):
    assert eval_shape(*source, size, resize) == expected


def test_the_evaluation_shape_is_the_resized_image_shape():
    for width in range(240, 1600, 13):
        image = Image.new("RGB", (width, 777))
        resized, _ = cut_tiles(image, 240, "tile")
        height, long = eval_shape(777, width, 240, "tile")
        assert min(height, long) == 240
        assert resized.shape[0] >= max(height, long) / 240


def save_mask(path, values) -> None:
    Image.fromarray(np.asarray(values)).save(path)


@pytest.mark.parametrize("value", [True, 1, 9, 255])
def test_any_value_above_zero_is_anomalous(tmp_path, value):
    mask = np.zeros((20, 20), dtype=bool if value is True else np.uint8)
    mask[5:10, 5:15] = value
    save_mask(tmp_path / "mask.png", mask)
    resized = resize_mask(read_mask(tmp_path / "mask.png", (20, 20)), (20, 20))
    assert resized.dtype == bool
    np.testing.assert_array_equal(resized, mask > 0)


def test_a_mask_is_cut_at_half_coverage(tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[:, :20] = 3
    save_mask(tmp_path / "mask.png", mask)
    resized = resize_mask(read_mask(tmp_path / "mask.png", (40, 40)), (10, 10))
    np.testing.assert_array_equal(resized, np.arange(10)[None].repeat(10, 0) < 5)


@pytest.mark.parametrize("side", [1000, 9000])
def test_a_mask_of_one_pixel_never_vanishes(tmp_path, side):
    mask = np.zeros((side, side), np.uint8)
    mask[side // 3, side // 2] = 1
    save_mask(tmp_path / "mask.png", mask)
    resized = resize_mask(read_mask(tmp_path / "mask.png", (side, side)), (24, 24))
    assert resized[8, 12] or resized[8, 11] or resized[7, 12]
    assert 1 <= resized.sum() <= 4


def sample(image: str, mask: str = "") -> Sample:
    return Sample("bottle", "test", int(bool(mask)), "broken" if mask else "good", image, mask)


def test_an_item_has_tiles_and_a_mask_at_the_evaluation_shape(tmp_path):
    Image.fromarray(noise(300, 450)).save(tmp_path / "a.png")
    save_mask(tmp_path / "m.png", np.full((300, 450), 7, np.uint8))
    rows = [sample("a.png"), sample("a.png", "m.png")]
    good, bad = ImageDataset(tmp_path, rows, 240, "tile", (240,))
    assert good.tiles.shape == (2, 3, 240, 240)
    assert not good.mask.any()
    assert bad.mask.all()
    assert good.mask.shape == bad.mask.shape == (240, 360)


def test_items_name_their_image_in_the_order_of_the_samples_with_any_number_of_workers(tmp_path):
    names = [f"{index}.png" for index in range(6)]
    for side, name in enumerate(names, 48):
        Image.fromarray(noise(side, 60)).save(tmp_path / name)
    dataset = ImageDataset(tmp_path, [sample(name) for name in names], 48, "squash", (48,))
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        assert [item.image for item in loader] == names


def test_an_item_has_a_thumbnail_from_the_same_decoding(tmp_path):
    Image.fromarray(noise(300, 450)).save(tmp_path / "a.png")
    (item,) = ImageDataset(tmp_path, [sample("a.png")], 240, "tile", (240,))
    data = item.thumbnail
    assert data == make_thumbnail(read_image(tmp_path / "a.png"))
    thumbnail = Image.open(BytesIO(data))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (144, 96))


def damage(path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_each_bad_file_becomes_one_sentence(tmp_path):
    Image.fromarray(noise(60, 60)).save(tmp_path / "a.png")
    Image.fromarray(noise(60, 60)).save(tmp_path / "cut.png")
    damage(tmp_path / "cut.png")
    save_mask(tmp_path / "other.png", np.ones((60, 61), np.uint8))
    save_mask(tmp_path / "empty.png", np.zeros((60, 60), np.uint8))
    (tmp_path / "text.png").write_text("no image")
    cases = {
        ("cut.png", ""): "cut.png cannot be read as an image",
        ("none.png", ""): "none.png is in the split but does not exist",
        ("text.png", ""): "text.png cannot be read as an image",
        ("a.png", "other.png"): "61 x 60 pixels, its image 60 x 60",
        ("a.png", "empty.png"): "empty.png of an anomalous image is empty",
        ("a.png", "none.png"): "none.png is in the split but does not exist",
        ("a.png", "text.png"): "text.png cannot be read",
    }
    dataset = ImageDataset(tmp_path, [sample(*case) for case in cases], 48, "tile", (48,))
    for item, expected in zip(dataset, cases.values(), strict=True):
        assert expected in item.error
        assert "\n" not in item.error
