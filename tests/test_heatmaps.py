"""Test panels: equal scores have equal colours, hot spots and contours the right position."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import InputError
from utils.files import encode_png, write_png
from utils.results.heatmaps import (
    CONTOUR,
    IMAGE_HEIGHT,
    MARGIN,
    TITLE_LINE,
    TITLE_SIZE,
    colour_range,
    draw_contour,
    draw_panel,
    fit,
    overlay,
    palette,
    shorten_middle,
    wrap_words,
)

GREY = np.full((64, 64, 3), 128, np.uint8)
GOOD = np.zeros((64, 64), bool)  # the mask of a good image


def spot(row, column, size=15):
    values = np.zeros((size, size), np.float32)
    values[row, column] = 1
    return values


def colours(values, scale):
    """Return the colours of a map over a black image."""
    return overlay(np.zeros((*values.shape, 3), np.uint8), values, scale)


def brightness(image):
    return image.astype(int).sum(axis=2)


def test_a_hot_spot_is_brightest_at_its_position():
    drawn = overlay(fit(GREY), spot(2, 11), (0, 1))
    row, column = np.unravel_index(brightness(drawn).argmax(), drawn.shape[:2])
    cell = IMAGE_HEIGHT / 15
    assert abs(row - 2.5 * cell) < 2 and abs(column - 11.5 * cell) < 2


def test_the_overlay_is_the_third_image_of_the_panel():
    with_spot = draw_panel(GREY, GOOD, [("0-shot", spot(2, 11), 0.5, (0, 1))], "a")
    without = draw_panel(GREY, GOOD, [("0-shot", spot(2, 11) * 0, 0.5, (0, 1))], "a")
    rows, columns = np.nonzero(brightness(with_spot) != brightness(without))
    assert columns.min() > 2 * IMAGE_HEIGHT
    assert np.ptp(rows) < 3 * IMAGE_HEIGHT / 15


def test_one_score_has_one_colour_in_every_image_with_the_same_scale():
    first = np.array([[0.2, 0.5]], np.float32)
    second = np.array([[0.5, 0.9]], np.float32)
    scale = colour_range([first, second])
    assert scale == pytest.approx((0.2, 0.9))
    assert (colours(first, scale)[0, 1] == colours(second, scale)[0, 0]).all()
    assert (colours(first, scale)[0, 0] != colours(second, scale)[0, 1]).any()


def test_a_higher_score_is_brighter():
    ramp = palette()[None]
    assert (np.diff(cv2.cvtColor(ramp, cv2.COLOR_RGB2GRAY)[0].astype(int)) >= 0).all()


def test_the_image_stays_visible_under_the_map():
    image = fit(GREY).copy()
    image[:, :100] = 20
    drawn = overlay(image, np.full((15, 15), 0.5), (0, 1))
    assert brightness(drawn)[:, :90].max() < brightness(drawn)[:, 110:].min()


def test_constant_maps_are_drawn_evenly():
    flat = np.full((15, 15), 0.4, np.float32)
    drawn = overlay(fit(GREY), flat, colour_range([flat, flat]))
    assert np.isfinite(drawn).all() and len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_the_contour_is_visible_on_any_background_and_only_on_the_border(shade):
    image = np.full((256, 256, 3), shade, np.uint8)
    mask = np.zeros((512, 512), bool)
    mask[100:300, 200:400] = True
    drawn = draw_contour(image, mask)
    changed = np.abs(drawn.astype(int) - image).max(axis=2)
    assert changed[100, 98:103].max() > 100 and changed[48:53, 150].max() > 100
    assert changed[60:140, 110:190].max() == 0 and changed[:40].max() == 0
    assert (np.abs(drawn.astype(int) - CONTOUR).max(axis=2) < 40).any()
    assert (image == shade).all()


def test_a_defect_of_one_pixel_is_visible():
    mask = np.zeros((2000, 2000), bool)
    mask[1000, 1000] = True
    image = np.full((256, 256, 3), 200, np.uint8)
    assert (draw_contour(image, mask) != image).any()


@pytest.mark.parametrize("shape", [(1000, 1500), (10, 20000), (2000, 100), (1, 1)])
def test_any_aspect_is_preserved_and_drawn(shape):
    image = np.zeros((*shape, 3), np.uint8)
    height, width = fit(image).shape[:2]
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.05) or min(height, width) == 1
    mask = np.ones(shape, bool)
    drawn = draw_panel(image, mask, [("0-shot", spot(0, 0, size=20), 1, (0, 1))], "a")
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3 and max(drawn.shape) < 2500


def test_panels_of_equal_images_have_equal_sizes_however_long_the_name():
    maps = [("4-shot", spot(3, 3), 0.5, (0, 1))]
    short = draw_panel(GREY, GOOD, maps, "bottle/good/000.png")
    long = draw_panel(GREY, GREY[..., 0] > 0, maps, "bottle/" + "very_long_" * 40 + "/000.png")
    assert short.shape == long.shape
    assert (long[:60, -12:] == 255).all()  # the margin stays free


def test_a_long_text_loses_its_middle():
    assert shorten_middle("short", lambda shown: len(shown) <= 5) == "short"
    assert shorten_middle("bottle/good/000.png", lambda shown: len(shown) <= 8) == "bot….png"
    assert shorten_middle("abcdef", lambda shown: False) == "a…f"


def test_a_note_is_written_into_the_panel():
    maps = [("0-shot", spot(3, 3), 0.5, (0, 1))]
    drawn = draw_panel(GREY, GOOD, maps, "a", note="random weights").astype(int)
    assert (drawn[:70, :, 0] - drawn[:70, :, 1] > 100).any()


def test_a_long_note_is_written_in_full_on_further_lines():
    maps = [("0-shot", spot(3, 3), 0.5, (0, 1))]
    note = "DEMO MODEL: trained only on rendered images; FEATURES KEPT IN FP16: rounded; " * 3
    panels = [draw_panel(GREY, GOOD, maps, "a", note=text) for text in ("short", note)]
    lines = wrap_words(note, TITLE_SIZE, panels[0].shape[1] - 2 * MARGIN)
    assert " ".join(lines) == note.strip() and len(lines) > 1
    assert panels[1].shape[0] - panels[0].shape[0] == TITLE_LINE * (len(lines) - 1)
    assert wrap_words("", TITLE_SIZE, 100) == []


def test_rerun_writes_the_same_png(tmp_path):
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, draw_panel(GREY, GOOD, [("x", spot(1, 1), 0.5, (0, 1))], "a"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    read = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert (read == draw_panel(GREY, GOOD, [("x", spot(1, 1), 0.5, (0, 1))], "a")).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (5, 7), (5, 7, 3), (2, 70000), (90, 400, 3)])
def test_opencv_and_pillow_read_the_pixels_of_a_png(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for pixels in (noise, np.sort(noise, axis=0), noise[:, ::-1]):
        data = encode_png(pixels)
        with Image.open(io.BytesIO(data)) as image:
            assert (np.asarray(image) == pixels).all()
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (read == (pixels if pixels.ndim == 2 else pixels[..., ::-1])).all()


def test_a_folder_that_cannot_be_written_raises_one_sentence(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_png(tmp_path / "taken" / "a.png", GREY)


def test_a_larger_panel_has_larger_images():
    maps = [("0-shot", spot(2, 2), 0.5, (0, 1))]
    small, large = (draw_panel(GREY, GOOD, maps, "a", height=size) for size in (128, 512))
    assert large.shape[0] - small.shape[0] == 512 - 128
