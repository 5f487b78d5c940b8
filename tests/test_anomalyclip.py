"""Check AnomalyCLIP against open_clip, against cases worked by hand, and with bad checkpoints."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import anomalyclip, anomalyclip_weights
from models.anomalyclip import (
    VV_BLOCKS,
    AnomalyClip,
    embed_states,
    resize_positions,
    run_streams,
)
from models.anomalyclip_weights import PROMPTS, LearnedPrompts, checkpoint_shapes, read_prompts
from models.clip.checkpoints import git_blob_id
from models.clip.device import to_device
from models.clip.weights import LoadedClip, Weights
from models.methods import check_checkpoint
from tests.clips import small_clip, write_config
from tests.fake_cuda import CUDA, fake_cuda
from utils.errors import InputError
from utils.files import sha256_of
from utils.results.scores import load_scores
from utils.run.benchmark import run

KIND = "ViT-L-14"  # patches of 14 pixels, as those of the method's backbone
WEIGHTS = Weights("random", "", "random")
WIDTH = 32  # of the small text tower


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> LoadedClip:
    """Build a small CLIP without constant weights; do not build a method on it."""
    clip = small_clip(tmp_path_factory.mktemp("clip"), KIND)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in clip.model.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    return clip


def tensors_of(clip: LoadedClip) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint that was trained with `clip`."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.randn(shape, generator=generator)
        for name, shape in checkpoint_shapes(WIDTH).items()
    }
    embeddings = clip.model.token_embedding(clip.tokenizer(PROMPTS)).detach()[:, None, None]
    for state, tokens in zip(("pos", "neg"), embeddings, strict=True):
        tensors[f"token_suffix_{state}"] = tokens[..., 13:, :].clone()
    return tensors


def random_method(clip: LoadedClip) -> AnomalyClip:
    """Build the method with random prompts, for a tower with fewer than 24 blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anomalyclip, "VV_BLOCKS", len(clip.model.visual.transformer.resblocks) - 1)
        return AnomalyClip(clip, read_prompts(clip, "random", "mvtec"))


def save(folder, tensors, name="epoch_15.pth"):
    folder.mkdir(exist_ok=True)
    torch.save({"prompt_learner": tensors}, folder / name)
    return folder / name


# The vision tower.


def test_the_plain_stream_gives_open_clips_image_embedding(clip, monkeypatch):
    monkeypatch.setattr(anomalyclip, "VV_BLOCKS", 2)  # of the 3
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    visual = clip.model.visual
    with torch.inference_mode():
        x, y = run_streams(visual, pixels)
        embeddings = visual.ln_post(x[:, 0]) @ visual.proj
        expected = clip.model.encode_image(pixels)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert y.shape == x.shape and not torch.allclose(x, y, atol=0.1)


class HandBlock(nn.Module):
    """A block whose queries and keys are 0, values are its tokens, and MLP is the constant 1."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2, self.ls_1, self.ls_2 = (nn.Identity() for _ in range(4))
        self.attn = nn.MultiheadAttention(2, 1)
        self.mlp = nn.Sequential(nn.Linear(2, 2))
        with torch.no_grad():
            for weight in self.parameters():
                weight.zero_()
            self.attn.in_proj_weight[4:] = self.attn.out_proj.weight[:] = torch.eye(2)
            self.mlp[0].bias.fill_(1)


@pytest.mark.parametrize(
    ("vv_blocks", "expected"),
    [
        # Block 1: tokens (1, 0), (0, 1) are the values; softmax(1 / sqrt(2), 0) = (0.6698, 0.3302),
        # so y = x + (0.6698, 0.3302) = (1.6698, 0.3302). In x, the mean (0.5, 0.5) and the MLP's 1
        # are added: (2.5, 1.5), (1.5, 2.5). Block 2: inner products 8.5 and 7.5 give the same
        # weights: 0.6698 (2.5, 1.5) + 0.3302 (1.5, 2.5) = (2.1698, 1.8302) is added to y.
        (2, (3.8396, 2.1604)),
        # Only block 2: (2.1698, 1.8302) is added to x after block 1.
        (1, (4.6698, 3.3302)),
    ],
)
def test_the_vv_stream_of_two_blocks_is_as_worked_by_hand(monkeypatch, vv_blocks, expected):
    monkeypatch.setattr(anomalyclip, "VV_BLOCKS", vv_blocks)
    monkeypatch.setattr(anomalyclip, "embed_patches", lambda visual, pixels: pixels)
    tower = SimpleNamespace(transformer=SimpleNamespace(resblocks=[HandBlock(), HandBlock()]))
    x, y = run_streams(tower, torch.eye(2)[None])
    torch.testing.assert_close(y[0, 0], torch.tensor(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(x[0], torch.tensor([[5.5, 4.5], [4.5, 5.5]]))


def test_the_vv_stream_starts_at_the_sixth_of_24_blocks():
    assert list(range(1, 25))[-VV_BLOCKS] == 6


def test_positions_are_resized_bilinearly_and_the_class_token_keeps_its_own():
    resized = resize_positions(torch.tensor([[7.0], [0], [0], [1], [1]]), (4, 4))
    rows = torch.tensor([0, 0.25, 0.75, 1])  # the centres of 4 pixels in 2: 1/4, 3/4, 5/4, 7/4
    assert resized[0] == 7
    torch.testing.assert_close(resized[1:, 0].reshape(4, 4), rows[:, None].expand(4, 4))
    torch.testing.assert_close(resize_positions(resized, (4, 4)), resized, atol=0, rtol=0)


# The prompts.


def test_without_learned_vectors_the_states_are_open_clips_text_embeddings(clip):
    tokens = clip.tokenizer(PROMPTS)
    words = clip.model.token_embedding(tokens).detach()[:, 1:13]
    states = embed_states(
        clip.model, tokens, LearnedPrompts(words, torch.empty(0, 4, WIDTH), WEIGHTS)
    )
    with torch.inference_mode():
        expected = clip.model.encode_text(tokens)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


def test_learned_vectors_overwrite_tokens_as_worked_by_hand(monkeypatch):
    inputs = []

    def add_one(block, x, mask):
        inputs.append(x[0, :, 0].tolist())
        return x + 1

    monkeypatch.setattr(anomalyclip, "run_block", add_one)
    text = SimpleNamespace(
        token_embedding=nn.Embedding.from_pretrained(torch.arange(10.0)[:, None]),
        positional_embedding=100 * torch.arange(7.0)[:, None],
        transformer=SimpleNamespace(resblocks=[None] * 4),
        attn_mask=None,
        ln_final=nn.Identity(),
        text_projection=torch.tensor([[2.0]]),
    )
    context = torch.tensor([[10.0, 20, 30], [40, 50, 60]])[..., None]
    deep = torch.tensor([[0.1, 0.2], [0.3, 0.4]])[..., None]
    # Start, three tokens to replace, a word, end, padding.
    tokens = torch.tensor([[8, 1, 1, 1, 5, 9, 0]] * 2)
    states = embed_states(text, tokens, LearnedPrompts(context, deep, WEIGHTS))
    tenths = torch.tensor([0.1, 0.2, 0.3, 0.4]).half().tolist()  # 0.0999756, 0.199951, ...
    expected = [
        [8, 110, 220, 330, 405, 509, 600],  # context and positions
        [9, *tenths[:2], 331, 406, 510, 601],  # the vectors have no position
        [10, *tenths[2:], 332, 407, 511, 602],
        [11, tenths[2] + 1, tenths[3] + 1, 333, 408, 512, 603],  # no vectors left
    ]
    assert inputs == expected
    assert states.tolist() == [[2 * 513], [2 * 513]]  # the end token, projected


# The method.


@pytest.fixture(scope="module")
def method(tmp_path_factory) -> AnomalyClip:
    return random_method(small_clip(tmp_path_factory.mktemp("clip"), KIND))


@pytest.fixture(scope="module")
def features(method):
    pixels = torch.randn(2, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    return pixels, method.encode_images(pixels)


def test_images_and_patches_come_from_different_streams(method, features):
    pixels, actual = features
    visual = method.visual
    with torch.inference_mode():
        x, y = run_streams(visual, pixels)
        image, patches = x[:, 0] @ visual.proj, visual.ln_post(y[:, 1:]) @ visual.proj
    torch.testing.assert_close(actual.image, image)
    torch.testing.assert_close(actual.patches, patches)
    assert (method.grid, actual.grid) == ((37, 37), (37, 37))


def test_scores_and_maps_are_probabilities_at_temperature_7_percent(method, features):
    _, features = features
    text = method.text_bank("bottle")
    assert method.text_bank("screw") is text
    scores, maps = method.score(features, text, None, [None, None])
    assert (scores.shape, maps.shape) == ((2, 2), (2, 2, 37, 37))
    for values, embeddings in ((scores, features.image), (maps.flatten(2), features.patches)):
        cosines = F.cosine_similarity(embeddings[..., None, :], text.states, dim=-1)
        torch.testing.assert_close(values[0], (cosines / 0.07).softmax(-1)[..., 1])
        assert torch.equal(values[0], values[1])
    assert maps.std() > 0 and method.map_blur * 14 == 4


def test_half_precision_gives_float32_features_near_those_of_float32(tmp_path, method, features):
    clip = small_clip(tmp_path, KIND)
    to_device(clip.model, torch.device("cpu"), "bf16")
    half = random_method(clip)
    assert half.visual.positional_embedding.dtype == torch.bfloat16
    encoded = half.encode_images(features[0][:1])
    assert encoded.image.dtype == encoded.patches.dtype == torch.float32
    assert torch.equal(half.bank.states, method.bank.states)
    cosines = F.cosine_similarity(encoded.patches, features[1].patches[:1], dim=-1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_everything_is_computed_on_cuda(tmp_path, precision):
    with fake_cuda():
        clip = small_clip(tmp_path, KIND)
        to_device(clip.model, CUDA, precision)
        method = random_method(clip)
        features = method.encode_images(torch.zeros(2, 3, 518, 518))
        scores, maps = method.score(features, method.text_bank("bottle"), None, [None])
        assert (method.device, scores.device, maps.device) == (CUDA,) * 3
        assert maps.shape == (1, 2, 37, 37) and scores.dtype == maps.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("ViT-B-16-plus-240", "patches of 16 pixels do not divide 518"), ("pooled", "not the class")],
)
def test_another_model_is_refused(tmp_path, kind, reason):
    clip = small_clip(tmp_path, "ViT-L-14" if kind == "pooled" else kind)
    if kind == "pooled":
        clip.model.visual.pool_type = "avg"
    with pytest.raises(InputError, match=f"MODEL: .*{reason}.*needs ViT-L-14-336"):
        random_method(clip)


def test_a_tower_with_too_few_blocks_is_refused(clip):
    with pytest.raises(InputError, match="no more than 19 blocks; AnomalyCLIP needs ViT-L-14-336"):
        AnomalyClip(clip, read_prompts(clip, "random", "mvtec"))


# Checkpoints.


def test_a_checkpoint_gives_its_vectors_its_checksum_and_a_note(clip, tmp_path):
    tensors = tensors_of(clip)
    file = save(tmp_path, tensors)
    prompts = read_prompts(clip, str(file), "mvtec")
    assert torch.equal(prompts.context[0], tensors["ctx_pos"][0, 0])
    assert torch.equal(prompts.context[1], tensors["ctx_neg"][0, 0])
    assert torch.equal(prompts.deep[7], tensors["compound_prompts_text.7"])
    assert prompts.checkpoint.sha256 == sha256_of(file) and not prompts.checkpoint.random
    assert prompts.checkpoint.description == "UNKNOWN TRAINING DATA (epoch_15.pth)"
    assert prompts.notes == (
        "UNKNOWN TRAINING DATA OF THE CHECKPOINT: it may include these images",
    )


def test_random_prompts_are_the_same_every_time_and_say_so(clip):
    first, second = (read_prompts(clip, "random", "visa") for _ in range(2))
    assert torch.equal(first.context, second.context) and torch.equal(first.deep, second.deep)
    assert first.context.std() > 0.01
    assert first.checkpoint == Weights("random", "", "random prompts (seed 0)")


def test_the_tensors_of_a_released_checkpoint_have_the_size_of_the_file():
    numbers = sum(torch.Size(shape).numel() for shape in checkpoint_shapes(768).values())
    assert round(4 * numbers / 1e6, 1) == 22.6  # MB


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("ctx_neg"), "(missing: ctx_neg)"),
        (lambda t: t.update(ctx_mid=torch.zeros(1)), "(unexpected: ctx_mid)"),
        (
            lambda t: t.update(ctx_pos=torch.zeros(1, 1, 16, WIDTH)),
            f"(of another shape: ctx_pos (1, 1, 16, {WIDTH}), expected (1, 1, 12, {WIDTH}))",
        ),
        (lambda t: t.update(ctx_pos="a"), "(of another shape: ctx_pos of type str, expected"),
        (lambda t: t.update(ctx_pos=t["ctx_pos"].to_sparse()), "ctx_pos of type a sparse or"),
        (dict.clear, "(missing: ctx_pos, token_prefix_pos, token_suffix_pos, tokenized_prompts_pos"
         " and 28 more)"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_a_checkpoint_of_another_method_is_refused_and_its_tensors_are_named(
    clip, tmp_path, change, named
):
    tensors = tensors_of(clip)
    change(tensors)
    file = save(tmp_path, tensors)
    with pytest.raises(InputError) as caught:
        read_prompts(clip, str(file), "mvtec")
    assert str(file) in str(caught.value) and named in str(caught.value)


class Hostile:
    """Pickled code that would write a file."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("content", "zipped", "reason"),
    [
        (Hostile(), True, "it contains pickled code, which is never executed"),
        (Hostile(), False, "not a zip archive"),
        ([1], True, "it holds a list, expected a dictionary"),
        ({"prompt_learner": torch.zeros(3)}, True, "holds a Tensor instead of"),
        ({"prompt_learner": None}, True, "holds a NoneType instead of"),
        (b"<html>", None, "it is damaged"),
        (None, None, "does not exist"),
    ],
)
def test_an_unreadable_checkpoint_ends_in_one_sentence(clip, folder, content, zipped, reason):
    file = folder / "epoch_15.pth"
    if zipped is not None:
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    elif content:
        file.write_bytes(content)
    with pytest.raises(InputError, match=f"CHECKPOINT: .*epoch_15.pth.*{reason}"):
        read_prompts(clip, str(file), "mvtec")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"hello\n"])
def test_the_blob_id_is_gits(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    known = {
        b"": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
        b"hello\n": "ce013625030ba8dba906f756967f9e9ca394464a",
    }
    assert git_blob_id(tmp_path / "file") == known[content]


VISA, MVTEC = "9_12_4_multiscale", "9_12_4_multiscale_visa"  # by what they were trained on
VISA_15, MVTEC_15 = "c90f1d9d92d158b436", "72adc786e031b49ea2"  # git's blob ids


@pytest.mark.parametrize(
    ("blob", "folder", "training"),
    [
        (VISA_15, "mine", "trained on VisA, epoch 15"),
        (MVTEC_15, "mine", "trained on MVTec AD, epoch 15"),
        (MVTEC_15, VISA, "trained on MVTec AD, epoch 15"),  # the content decides
        ("0" * 40, VISA, "trained on VisA, going by its folder"),
        ("0" * 40, MVTEC, "trained on MVTec AD, going by its folder"),
    ],
)
def test_a_checkpoint_is_refused_for_the_dataset_that_it_was_trained_on(
    clip, tmp_path, monkeypatch, blob, folder, training
):
    hashed = []
    monkeypatch.setattr(anomalyclip_weights, "git_blob_id", lambda f: hashed.append(f) or blob)
    file = str(save(tmp_path / folder, tensors_of(clip)))
    trained_on, other, instead = "visa", "mvtec", MVTEC
    if "MVTec" in training:
        trained_on, other, instead = "mvtec", "visa", VISA
    for count, dataset in enumerate((other, "mpdd", "custom"), start=1):
        check_checkpoint("anomalyclip", file, dataset)
        prompts = read_prompts(clip, file, dataset)
        assert prompts.checkpoint.description == f"{training} (epoch_15.pth)"
        assert prompts.notes == ()
        assert len(hashed) == count
    with pytest.raises(InputError, match=rf"trained on the test images .* the folder {instead} of"):
        read_prompts(clip, file, trained_on)


def test_a_checkpoint_of_another_clip_is_refused(clip, tmp_path):
    file = str(save(tmp_path, tensors_of(clip)))
    loaded = replace(clip, weights=Weights("openai", "", "weights.bin"), quick_gelu=True)
    read_prompts(loaded, file, "mvtec")
    with pytest.raises(InputError, match=r"OpenAI's CLIP ViT-L-14-336.*weights\.bin"):
        read_prompts(replace(loaded, quick_gelu=False), file, "mvtec")
    tensors = tensors_of(clip)
    tensors["token_suffix_neg"] += 0.001
    with pytest.raises(InputError, match="OpenAI's CLIP ViT-L-14-336"):
        read_prompts(loaded, str(save(tmp_path, tensors)), "mvtec")


@pytest.mark.parametrize(
    ("name", "problem"), [("none.pth", "does not exist"), ("file.bin", "does not end in .pth")]
)
def test_the_file_is_checked_before_the_backbone_is_loaded(tmp_path, visa_settings, name, problem):
    (tmp_path / "file.bin").touch()
    changes = {"method": "anomalyclip", "checkpoint": str(tmp_path / name), "shots": (0,)}
    changes |= {"pretrained": "auto", "result_dir": str(tmp_path / "result")}  # no such tag
    with pytest.raises(InputError, match=f"CHECKPOINT: .*{problem}"):
        run(replace(visa_settings, **changes))


def test_a_whole_run_writes_maps_with_their_blur_and_says_what_is_random(
    tmp_path, visa_settings, monkeypatch
):
    monkeypatch.setattr(anomalyclip, "VV_BLOCKS", 1)
    settings = replace(
        visa_settings,
        method="anomalyclip",
        checkpoint="random",
        model=str(write_config(tmp_path, "small-run-14", 224, 14, layers=2, width=32)),
        shots=(0,),
        limit=1,
        result_dir=str(tmp_path / "result"),
    )
    run(settings)
    scores = load_scores(settings.result_folder / "scores" / "capsules.npz")
    assert scores.maps.shape == (1, len(scores.image), 37, 37)
    assert scores.blur == AnomalyClip.map_blur
    assert set(map(tuple, scores.tiles.tolist())) == {(1, 1)}  # squashed, not tiled
    summary = (settings.result_folder / "summary.md").read_text("utf-8")
    assert summary.startswith("# AnomalyCLIP on VisA") and "RANDOM CHECKPOINT" in summary
