"""Multi-crop: the crops of an image, their scores, and their kept embeddings."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms import functional as T

from datasets.images import ImageDataset, Item, normalise
from datasets.splits import Sample
from datasets.tiles import CropVariant, distinct_crops, multi_crop
from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states
from models.clip.weights import load_clip
from models.winclip import Features, TextBank, score_zero_shot
from tests.clips import small_clip
from utils.experiment.settings import Settings
from utils.results.scores import Scores, load_scores
from utils.run.benchmark import run
from utils.run.session import compose_prompts

VARIANTS = get_args(CropVariant)
SCALE = {"five": 1 / 0.875, "ten": 1 / 0.875}
SCALE |= {name: float(name.removeprefix("overlap-")) for name in VARIANTS if name not in SCALE}


def crops_by_hand(tile: Image.Image, variant: str, side: int) -> list[Image.Image]:
    """Crop a tile, which has its final size."""
    last = tile.width - side
    if variant in ("five", "ten"):
        middle = round(last / 2)
        places = [(0, 0), (last, 0), (0, last), (last, last), (middle, middle)]  # (left, top)
    else:
        steps = [0, last] if variant != "overlap-2" else [0, last / 2, last]
        places = [(round(left), round(top)) for top, left in product(steps, repeat=2)]
    crops = [tile.crop((left, top, left + side, top + side)) for left, top in places]
    return crops + [ImageOps.mirror(crop) for crop in crops] if variant == "ten" else crops


def pixels_of(crops: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(crop).transpose(2, 0, 1) for crop in crops])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Return a folder with a square and a wide image."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name, shape in {"square": (300, 300, 3), "wide": (200, 360, 3)}.items():
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def load(images: Path, name: str, resize: str, variants) -> Item:
    sample = Sample("a", "test", 0, "good", f"{name}.png", "")
    dataset = ImageDataset(images, [sample], 48, resize, (240,), multi_crops=tuple(variants))
    item = dataset[0]
    assert not item.error
    return item


def crops_of(images: Path, name: str, resize: str, variants) -> np.ndarray:
    """Return the crops of an image, (T, C, 3, 48, 48)."""
    return np.concatenate(load(images, name, resize, variants).crops, axis=1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("name", "resize"), [("square", "tile"), ("wide", "squash")])
def test_crops_are_those_of_the_resized_image(images, name, resize, variant):
    size = round(48 * SCALE[variant])
    image = Image.open(images / f"{name}.png").resize((size, size), Image.Resampling.BICUBIC)
    expected = pixels_of(crops_by_hand(image, variant, 48))
    np.testing.assert_array_equal(crops_of(images, name, resize, [variant])[0], expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tile_is_cropped_from_the_resized_image(images, variant):
    size = round(48 * SCALE[variant])
    image = Image.open(images / "wide.png")
    image = image.resize((int(size * 360 / 200), size), Image.Resampling.BICUBIC)
    lefts = [0, image.width - size]
    tiles = [image.crop((left, 0, left + size, size)) for left in lefts]
    expected = [pixels_of(crops_by_hand(tile, variant, 48)) for tile in tiles]
    np.testing.assert_array_equal(crops_of(images, "wide", "tile", [variant]), expected)


@pytest.mark.parametrize("side", [224, 240, 336])
def test_five_and_ten_crops_are_torchvisions(side):
    size = round(side / 0.875)
    image = torch.arange(3 * size * size).reshape(3, size, size)
    for variant, expected in (("five", T.five_crop(image, side)), ("ten", T.ten_crop(image, side))):
        crops = [
            image[:, top : top + side, left : left + side].flip(-1 if mirrored else ())
            for _, top, left, mirrored in multi_crop(variant, side)
        ]
        assert len(crops) == len(expected)  # the same crops; those of the mirrored image may swap
        assert {tuple(c[0, 0, :2].tolist()) for c in crops} == {
            tuple(c[0, 0, :2].tolist()) for c in expected
        }


def test_variants_share_their_crops_and_none_has_any(images):
    assert distinct_crops(VARIANTS, 240)[:10] == multi_crop("ten", 240)
    assert len(distinct_crops(VARIANTS, 240)) == 10 + 4 + 4 + 9
    assert multi_crop("none", 240) == []
    assert load(images, "wide", "tile", ["none"]).crops == ()
    assert [group.shape[:2] for group in load(images, "wide", "tile", VARIANTS).crops] == [
        *((2, 5), (2, 5), (2, 4), (2, 4), (2, 9))
    ]


def test_crops_are_embedded_as_open_clip_embeds_images(tmp_path):
    clip = small_clip(tmp_path, "ViT-B-32", ls_init_value=0.5)
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = clip.model.encode_image(pixels)
    actual = WindowedEncoder(clip.model.visual).encode_crops(pixels)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_only_the_image_score_depends_on_crops():
    generator = torch.Generator().manual_seed(0)
    image, windows, crops = (torch.randn(2, n, 8, generator=generator) for n in (1, 4, 5))
    text = TextBank(F.normalize(torch.randn(2, 8, generator=generator), dim=-1), 0.07)
    plain = Features(image[:, 0], (windows,), windows, (2, 2), (1,))
    scores, maps = score_zero_shot(plain, text)
    for average in ("embeddings", "scores"):
        cropped, same_maps = score_zero_shot(replace(plain, crops=crops), text, average)
        assert torch.equal(maps, same_maps)
        assert not torch.allclose(scores, cropped)
        alone, _ = score_zero_shot(replace(plain, crops=image), text, average)
        torch.testing.assert_close(alone, scores)
    cropped = replace(plain, crops=crops)
    assert torch.equal(Features.concatenate([cropped, cropped]).crops, torch.cat([crops, crops]))


RUNS = {  # variant, average, and the features that are used
    "five": ("five", "embeddings", "keep"),
    "scores": ("five", "scores", "off"),
    "scores of kept crops": ("five", "scores", "five"),
    "ten": ("ten", "embeddings", "five"),
}


@pytest.fixture(scope="module")
def runs(mvtec_settings, tmp_path_factory) -> dict[str, Settings]:
    """Return the settings of the finished RUNS."""
    changes = {"categories": ("bottle",), "limit": 1, "shots": (0, 1), "seeds": (0,)}
    changes |= {"heatmaps": "none", "features_precision": "fp32"}
    folder, runs = tmp_path_factory.mktemp("multi-crop"), {}
    for name, (variant, average, features) in RUNS.items():
        changes |= {"multi_crop": variant, "multi_crop_average": average}
        changes |= {"features": features, "result_dir": str(folder / name)}
        if features in runs:
            changes["features"] = runs[features].result_dir
        runs[name] = replace(mvtec_settings, **changes)
        with pytest.MonkeyPatch.context() as patch:
            if features in runs:  # no image is encoded again with its windows
                patch.setattr(WindowedEncoder, "encode_all", None)
            run(runs[name])
    return runs


def scores_of(settings: Settings) -> Scores:
    return load_scores(settings.result_folder / "scores" / "bottle.npz")


@pytest.mark.parametrize("name", ["five", "scores", "ten"])
def test_scores_are_those_of_open_clips_embeddings_of_the_crops(runs, name):
    settings, (variant, average, _) = runs[name].resolve(), RUNS[name]
    clip = load_clip(settings.model, settings.pretrained)
    states = encode_states(clip.model, clip.tokenizer, *compose_prompts(settings, "bottle"))
    text = TextBank.from_prompts(*states, settings.temperature, settings.normalise_prompts)
    statistics = torch.tensor([clip.mean, clip.std])[:, :, None, None]
    scores = scores_of(runs[name])
    size, expected = round(240 * SCALE[variant]), []
    for path in scores.image:
        image = Image.open(Path(settings.data_root) / path).convert("RGB")
        image = image.resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(pixels_of(crops_by_hand(image, variant, 240)))
        with torch.inference_mode():
            crops = F.normalize(clip.model.encode_image(normalise(pixels, *statistics)), dim=-1)
        if average == "embeddings":
            crops = crops.mean(dim=0, keepdim=True)
        expected.append(float(text.score(crops).mean()))
    np.testing.assert_allclose(scores.image_scores[0], expected, atol=1e-6)


def test_maps_do_not_depend_on_crops_and_few_shot_scores_follow_equation_5(runs):
    first = scores_of(runs["five"])
    for name in ("scores", "ten"):
        second = scores_of(runs[name])
        np.testing.assert_array_equal(first.maps, second.maps)
        change = first.image_scores - second.image_scores
        assert np.abs(change[0]).min() > 0
        np.testing.assert_allclose(change[1], change[0] / 2, atol=1e-6)


def test_kept_crops_give_the_bits_of_a_plain_run(runs):
    plain, kept = (scores_of(runs[name]) for name in ("scores", "scores of kept crops"))
    np.testing.assert_array_equal(plain.image_scores, kept.image_scores)
    np.testing.assert_array_equal(plain.maps, kept.maps)


def test_missing_crops_are_encoded_and_announced(runs):
    logs = [
        (runs[name].result_folder / "run.log").read_text(encoding="utf-8")
        for name in ("ten", "scores of kept crops")
    ]
    assert "lack crops (ten), which are encoded now" in logs[0]
    assert "lack crops" not in logs[1]


def test_results_say_that_multi_crop_is_a_hypothesis(runs):
    summary = (runs["ten"].result_folder / "summary.md").read_text(encoding="utf-8")
    assert 'MULTI-CROP "ten", averaging embeddings: a hypothesis' in summary


def test_runs_without_crops_continue_folders_from_before_there_were_any(mvtec_settings):
    assert not [name for name in mvtec_settings.resolve().fingerprint() if "crop" in name]
    cropped = replace(mvtec_settings, multi_crop="five").resolve()
    assert cropped.fingerprint()["multi_crop"] == "five"
