"""Over 500 odd and bad files: each is read correctly or refused in one sentence with its name."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from datasets.decode import read_image, read_mask
from datasets.download import unpack
from datasets.images import ImageDataset
from datasets.references import read_references
from datasets.splits import Sample, read_split
from models.clip.weights import load_clip, load_file, locate_weights
from tests import corpus, corpus_files, corpus_weights
from tests.corpus import Case
from tests.limits import time_limit
from utils.errors import InputError
from utils.results.scores import load_scores


def check(case: Case, reader, folder: Path) -> None:
    """Read the file of a case and check the pixels or the error message."""
    path = folder / case.name
    case.write(path)
    try:
        with time_limit():
            read = reader(path)
    except InputError as error:
        assert case.outcome != "read", error
        assert case.name in str(error)
        assert len(str(error).splitlines()) == 1
        assert "Traceback" not in str(error)
    else:
        assert case.outcome != "refused", "it was read"
        if case.expected is not None:
            pixels = np.asarray(read)
            assert pixels.shape == case.expected.shape
            assert np.abs(pixels.astype(float) - case.expected).mean() <= case.tolerance
    assert not list(folder.rglob("canary*")), "foreign code was run"


def each(cases: list[Case]):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.label)


@each(corpus.readable_images() + corpus.refused_images())
def test_an_image_is_read_correctly_or_refused(case, folder):
    check(case, lambda path: read_image(path, apply_exif=True), folder)


@each(corpus.masks())
def test_a_mask_is_read_correctly_or_refused(case, folder):
    check(case, lambda path: read_mask(path, corpus.RGB.size), folder)


def test_truncated_images_are_never_accepted():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@each(corpus_files.splits())
def test_a_split_is_read_or_refused(case, folder):
    check(case, read_split, folder)


@each(corpus_files.reference_lists())
def test_a_list_of_references_is_read_or_refused(case, folder):
    check(case, read_references, folder)


@each(corpus_files.score_files())
def test_a_score_file_is_read_or_refused(case, folder):
    check(case, load_scores, folder)


@each(corpus_files.archives())
def test_an_archive_is_unpacked_inside_its_folder_or_refused(case, folder):
    check(case, lambda path: unpack(path, folder / "in" / "data"), folder)
    inside = folder / "in" / "data"
    written = {path for path in folder.rglob("*") if path != folder / case.name}
    assert written <= {folder / "in", inside, *inside.rglob("*")}
    assert not any(path.is_symlink() for path in written)


@each(corpus_weights.weight_files())
def test_a_weight_file_is_read_or_refused(case, folder):
    model = corpus_weights.tiny_clip()
    check(
        case, lambda path: load_file(model, locate_weights("tiny", str(path), {}), "tiny"), folder
    )


@each(corpus_weights.model_configs())
def test_a_model_config_is_read_or_refused(case, folder):
    check(case, lambda path: load_clip(str(path), "random"), folder)


def test_weight_files_are_never_unpickled_with_code(folder, monkeypatch):
    """open_clip would unpickle on a TypeError; older versions of torch then run the code."""
    weights_only = []
    load = torch.load

    def spy(*words, **options):
        weights_only.append(options.get("weights_only"))
        return load(*words, **options)

    monkeypatch.setattr(torch, "load", spy)
    for case in corpus_weights.weight_files():
        check(case, lambda path: load_file(corpus_weights.tiny_clip(), path, "tiny"), folder)
    assert len(weights_only) > 20
    assert set(weights_only) == {True}


def test_there_are_hundreds_of_cases():
    """A corpus without cases would pass too."""
    images = corpus.readable_images() + corpus.refused_images() + corpus.masks()
    tables = corpus_files.splits() + corpus_files.reference_lists() + corpus_files.score_files()
    others = (
        corpus_files.archives() + corpus_weights.weight_files() + corpus_weights.model_configs()
    )
    assert len(images) > 300
    assert len(images + tables + others) > 700


@pytest.mark.parametrize("name", ["mvtec/bottle/test/good", "visa/capsules/Data/Images/Anomaly"])
def test_real_images_are_read_or_refused(shared_data, folder, name):
    source = sorted((shared_data / name).iterdir())[0]
    with Image.open(source) as image:
        small = image.convert("RGB").resize((96, 64))
        stream = io.BytesIO()
        small.save(stream, image.format)
    for case in corpus.broken(source.name, stream.getvalue(), flips=40):
        check(case, read_image, folder)


def test_a_long_strip_is_refused_as_tiles_but_can_be_squashed(folder):
    Image.new("RGB", (20000, 10), "grey").save("strip.png")
    row = Sample("bottle", "test", 0, "good", "strip.png", "")
    error = ImageDataset(folder, [row], 48, "tile", (48,))[0].error
    assert "strip.png is 20000 x 10 pixels" in error and "square tiles, more than 32" in error
    squashed = ImageDataset(folder, [row], 48, "squash", (48,))[0]
    assert (squashed.error, squashed.tiles.shape) == ("", (1, 3, 48, 48))
