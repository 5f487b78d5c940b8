"""The images of the demo benchmark and the training views of the demo CLIP."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import run_demo
from datasets import demo
from datasets.official import GROUPS, OFFICIAL
from datasets.render.catalogue import (
    CATEGORIES,
    MIN_DEFECT_AREA,
    SIZE,
    draw,
    render,
    seeded_generator,
)
from datasets.render.defects import bend
from datasets.render.surface import Look, capture, make_plane
from datasets.splits import RECIPE, read_root, read_split
from models.clip.blocks import project_qkv, split_heads
from models.clip.encoder import embed_patches
from models.clip.weights import LoadedClip, load_clip
from tests.conftest import PROJECT
from tools import train_demo_clip
from tools.demo_clip.losses import attention_loss
from tools.demo_clip.start import position_codes, start_local
from tools.demo_clip.views import IGNORE, choose_windows, coverage, labels_of, make_pool
from utils.errors import InputError
from utils.files import sha256_of

DEFECTS = [(name, defect) for name, product in CATEGORIES.items() for defect in product.defects]
UNSEEN = {name for name, product in CATEGORIES.items() if product.role == "unseen"}


@pytest.mark.parametrize(("name", "defect"), DEFECTS)
def test_a_mask_covers_what_a_defect_changes(name, defect):
    bad, mask = draw(CATEGORIES[name], defect, Look(seeded_generator(name, defect)))
    assert bad.colour.shape == (3, SIZE, SIZE)
    assert mask.any() or defect != "missing_part"
    if not mask.any():  # it missed the object; `render` would draw it again
        pytest.skip("too small to see")
    good, _ = draw(CATEGORIES[name], None, Look(seeded_generator(name, defect)))
    light = [
        capture(surface, Look(seeded_generator("light"))).astype(int) for surface in (good, bad)
    ]
    change = np.abs(light[0] - light[1]).max(axis=-1)
    # A uniform area looks the same after it has moved.
    assert (change[mask] > 5).mean() > (0.3 if defect == "bend" else 0.7)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    reach = (
        12 if defect in ("particle", "missing_piece") else 4
    )  # their shadows are not part of the mask
    seen = change > 26  # a tenth of the range
    assert (seen & (away > reach)).sum() <= 0.01 * mask.sum()


@pytest.mark.parametrize("name", CATEGORIES)
def test_all_surfaces_are_single_precision(name):
    """A float64 array doubles the time of every step after it."""
    for index, defect in enumerate((None, *CATEGORIES[name].defects) * 2):
        surface, _ = draw(CATEGORIES[name], defect, Look(seeded_generator(name, index), spread=2.0))
        arrays = surface.colour, surface.height, surface.gloss, surface.foreground
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_a_bent_mask_is_where_points_moved_by_a_pixel():
    plane, look = make_plane(100), Look(seeded_generator(0))
    moved, mask = bend(look, plane, (50.0, 40.0))
    far = np.hypot(moved.u - plane.u, moved.v - plane.v) / plane.pixel
    assert np.array_equal(mask, far >= 1 - 1e-4)
    assert 5 <= far.max() <= 7.5  # 0.10 to 0.15 of half an image, which is 50 pixels


@pytest.mark.parametrize("name", CATEGORIES)
def test_an_image_depends_only_on_its_seed(name):
    defect = CATEGORIES[name].defects[0]
    first, mask = render(name, defect, seeded_generator(1, name))
    again, same = render(name, defect, seeded_generator(1, name))
    other, _ = render(name, defect, seeded_generator(2, name))
    assert np.array_equal(first, again) and np.array_equal(mask, same)
    assert not np.array_equal(first, other)
    assert mask.mean() >= MIN_DEFECT_AREA
    assert not render(name, None, seeded_generator(1, name))[1].any()


@pytest.mark.parametrize("role", ["seen", "unseen"])
def test_the_official_counts_of_the_demo_match_the_renderer(role):
    official = {name: tuple(OFFICIAL["demo"][name].defects) for name in GROUPS["demo"][role]}
    rendered = {name: kind.defects for name, kind in CATEGORIES.items() if kind.role == role}
    assert official == rendered
    assert len(official) == 6


def test_the_script_writes_images_masks_and_a_split(tmp_path, monkeypatch):
    few = {name: OFFICIAL["demo"][name] for name in ("wood", "capsule")}
    monkeypatch.setitem(OFFICIAL, "demo", few)
    demo.make(demo.Options(tmp_path / "with space", splits_folder=tmp_path / "splits"))
    samples = read_split(tmp_path / "splits" / "demo.csv")
    assert len(samples) == 2 * 32
    assert sum(sample.label for sample in samples) == 2 * 16


def test_images_of_another_seed_or_older_code_are_rendered_again(tmp_path, monkeypatch):
    monkeypatch.setitem(OFFICIAL, "demo", {"capsule": OFFICIAL["demo"]["capsule"]})
    options = demo.Options(tmp_path / "raw", splits_folder=tmp_path / "splits")
    made = []

    def make(_: demo.Options) -> None:
        made.append(demo.SEED)
        make_there(options)

    make_there = demo.make
    monkeypatch.setattr(demo, "make", make)
    monkeypatch.setattr(demo, "SPLITS_FOLDER", tmp_path / "splits")
    monkeypatch.setattr(demo, "read_root", lambda name: read_root(name, tmp_path / "splits"))
    first = tmp_path / "raw/capsule/test/good/000.png"
    demo.render_if_needed("auto")
    pixels = first.read_bytes()
    demo.render_if_needed("auto")
    assert made == [2023]
    monkeypatch.setattr(demo, "SEED", 1)
    demo.render_if_needed("auto")
    assert made == [2023, 1]
    assert first.read_bytes() != pixels
    (tmp_path / "raw" / RECIPE).write_text("of older code\n")
    demo.render_if_needed("auto")
    assert made == [2023, 1, 1]

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo, "render_all", interrupt)
        make_there(options)
    demo.render_if_needed("auto")
    assert made == [2023, 1, 1, 1]
    demo.render_if_needed(str(tmp_path))  # a folder that was named is left alone
    assert made == [2023, 1, 1, 1]


def test_an_unwritable_folder_ends_in_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="cannot write"):
        demo.make(demo.Options(tmp_path / "loop", splits_folder=tmp_path / "splits"))


def test_the_training_pool_has_no_unseen_category():
    pool = make_pool(2, variety=2, seed=0, workers=2)
    assert not UNSEEN & set(pool.names)
    counts = [4 if CATEGORIES[name].varied else 2 for name in pool.names]
    assert np.bincount(pool.category).tolist() == counts
    assert pool.masks.any(axis=(1, 2)).tolist() == [False, True] * (sum(counts) // 2)


def test_the_committed_weights_were_trained_without_the_unseen_categories():
    record = json.loads((PROJECT / "models" / "demo_clip" / "training.json").read_text())
    assert record["weights_sha256"] == sha256_of(Path(run_demo.PRETRAINED))
    assert record["products"]
    assert not UNSEEN & set(record["products"])


@pytest.mark.slow
def test_the_training_tool_writes_the_same_weights_again(tmp_path):
    pool = make_pool(2, variety=2, seed=0, workers=2)

    def trained(folder: Path, seed: int) -> LoadedClip:
        options = train_demo_clip.Options(steps=2, batch=4, seed=seed, folder=folder)
        train_demo_clip.train(options, pool, rendering=0.0)
        assert json.loads((folder / "training.json").read_text())["steps_done"] == 2
        return load_clip(run_demo.MODEL, str(folder / "demo-clip.safetensors"))

    first, again, other = (trained(tmp_path / str(k), seed) for k, seed in enumerate((0, 0, 1)))
    assert first.weights.sha256 == again.weights.sha256 != other.weights.sha256


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"per_category": -1}])
def test_a_training_without_steps_or_pictures_is_one_sentence(wrong):
    with pytest.raises(InputError, match="expected a whole number >= 1"):
        train_demo_clip.Options(**wrong)


def test_before_training_only_near_positions_have_similar_codes():
    codes = position_codes((15, 15), 160, heads=5)
    assert codes.shape == (225, 160)
    alike = (codes[112] @ codes.T / 160).reshape(15, 15)  # of the middle, with every patch
    assert alike[7, 7] == pytest.approx(1)
    rows, columns = np.mgrid[-7:8, -7:8]
    steps = torch.from_numpy(np.abs(rows) + np.abs(columns))
    assert alike[steps == 1].min() > 0.7 > alike[steps > 3].max()


@torch.no_grad()
def test_before_training_every_head_attends_to_the_neighbours_of_a_patch():
    clip = load_clip(str(train_demo_clip.CONFIG), "random")
    visual = clip.model.visual
    start_local(visual, torch.Generator().manual_seed(0))
    image, _ = render("washer", None, seeded_generator(0))
    pixels = torch.from_numpy(image[24:264, 24:264]).permute(2, 0, 1)[None] / 255
    block = visual.transformer.resblocks[0]
    tokens = embed_patches(visual, (pixels - 0.5) / 0.25)
    q, k, _ = project_qkv(block, tokens).chunk(3, dim=-1)
    q, k = (split_heads(part, block.attn.num_heads) for part in (q, k))
    looks = (q[0] @ k[0].transpose(-2, -1) / 32**0.5).softmax(dim=-1)[:, 113, 1:]
    around = looks.reshape(-1, 15, 15)[:, 6:9, 6:9].sum(dim=(1, 2))  # of the middle patch
    assert around.min() > 0.3  # 9 of 225 patches


def test_the_class_token_should_attend_to_damage_and_in_good_images_to_itself():
    looks = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]] * 3).log()  # itself and three patches
    share = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.1], [0.001, 0.0, 0.0]])
    labels = torch.tensor([0, 1, IGNORE])
    expected = -(np.log(0.1) + np.log(0.3 + 0.4)) / 2
    assert attention_loss(looks, share, labels).item() == pytest.approx(expected)


def test_coverage_is_the_share_of_each_patch_under_the_mask():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2] = True  # half of the first of four patches
    mask[0, 2:, 2:] = True  # all of the last
    assert coverage(mask, 2).tolist() == [[0.5, 0, 0, 1]]


def test_a_window_is_damaged_only_where_enough_of_it_is():
    assert labels_of(torch.tensor([0.0, 0.01, 0.5]), 0.1).tolist() == [0, IGNORE, 1]


def test_windows_are_chosen_on_and_off_the_defect():
    windows = torch.arange(16)[:, None]  # sixteen windows of one patch
    share = torch.zeros(2, 16)
    share[0, 5] = 1.0
    generator = torch.Generator().manual_seed(0)
    chosen, shares = choose_windows(windows, share, 6, generator)
    assert chosen.shape == (2, 6, 1)
    assert (
        shares[0].sum() == 1 and 5 in chosen[0]
    )  # the only damaged window is almost always chosen
    assert shares[1].sum() == 0
