"""Kept features: what a store gives back, and which files it refuses."""

from pathlib import Path

import pytest
import torch

from models.encoder import AllFeatures, WindowedEncoder
from tests.clips import small_clip
from utils.results.features import FeatureStore

ENCODING = {"model": "small", "precision": "fp32", "scales": (2, 3), "features_precision": "fp32"}
KINDS = ("post_ln", "pre_ln", "penultimate")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> WindowedEncoder:
    """Return a small encoder whose ln_post has weights of its own."""
    visual = small_clip(tmp_path_factory.mktemp("clip"), "ViT-B-32").model.visual
    with torch.no_grad():
        visual.ln_post.weight.mul_(torch.linspace(0.5, 2, 64))
    return WindowedEncoder(visual)


@pytest.fixture(scope="module")
def features(encoder) -> AllFeatures:
    """Return the features of three tiles."""
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return encoder.encode_all(pixels)


@pytest.fixture
def image(tmp_path) -> Path:
    """Return a file that stands for an image."""
    path = tmp_path / "a.png"
    path.write_bytes(b"an image")
    return path


def create(folder: Path, encoder: WindowedEncoder, precision="fp32", resize="tile") -> FeatureStore:
    encoding = ENCODING | {"features_precision": precision}
    return FeatureStore.create(folder / "features", encoding, resize, encoder.visual.ln_post)


@pytest.mark.parametrize("kind", KINDS)
def test_one_forward_gives_every_kind_of_patch_tokens(encoder, kind):
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    alone = WindowedEncoder(encoder.visual, patch_tokens=kind).encode_images(pixels)
    selected = encoder.encode_all(pixels).select(kind)
    assert torch.equal(selected.patches, alone.patches)
    # Without the last block's patches, a product has fewer rows, and its bits may differ.
    tolerance = 1e-5 if kind == "penultimate" else 0
    torch.testing.assert_close(selected.image, alone.image, atol=tolerance, rtol=0)
    torch.testing.assert_close(selected.windows, alone.windows, atol=tolerance, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_store_gives_back_what_it_was_given(encoder, features, image, tmp_path, precision):
    store = create(tmp_path, encoder, precision)
    rounded = store.round(features)
    store.write("a.png", image, (10, 20), rounded)
    again = FeatureStore.open(store.folder, store.encoding, "tile").read("a.png")
    for kind in KINDS:
        expected, actual = rounded.select(kind), again.select(kind)
        assert torch.equal(actual.patches, expected.patches)
        assert torch.equal(actual.image, expected.image)
        assert all(map(torch.equal, actual.windows, expected.windows))
        exact = features.select(kind)
        assert torch.equal(actual.patches, exact.patches) == (precision == "fp32")
        torch.testing.assert_close(actual.patches, exact.patches, atol=1e-2, rtol=1e-2)
    assert (again.grid, again.scales) == ((7, 7), (2, 3))
