"""Check InCTRL against open_clip, against cases worked by hand, and with bad checkpoints."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.clip import int8
from models.clip.device import to_device
from models.clip.text import encode_states
from models.clip.weights import LoadedClip, Weights, load_clip
from models.inctrl import InCtrl, InCtrlFeatures
from models.inctrl_weights import TrainedHeads, build_heads, describe_training, score_head
from models.methods import load_method as load_any
from models.prompts import prompt_ensemble
from models.winclip import TextBank, VisualBank
from tests.clips import write_config
from tests.fake_cuda import CUDA, computed, fake_cuda
from tests.layouts import make_mvtec
from tests.test_int8 import exact_products
from utils.errors import InputError
from utils.experiment.custom import CustomSettings
from utils.files import sha256_of
from utils.run.custom import run_custom

RANDOM = Weights("random", "", "random")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    """Return the config of a small model with 12 blocks and a grid of 3 x 3."""
    folder = tmp_path_factory.mktemp("clip")
    return str(write_config(folder, "small-inctrl", 48, 16, layers=12, width=32))


@pytest.fixture(scope="module")
def clip(config) -> LoadedClip:
    """Build a small CLIP without constant weights; do not change it."""
    clip = load_clip(config, "random")
    shift(clip.model, seed=1)
    return clip


@pytest.fixture(scope="module")
def method(clip) -> InCtrl:
    """Return InCTRL with heads without constant weights; do not change it."""
    heads = build_heads(clip)
    shift(heads, seed=2)
    return InCtrl(clip, TrainedHeads(heads, RANDOM))


def shift(module: nn.Module, seed: int) -> None:
    """Add noise to all weights, and to the statistics of batch norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand(value.shape, generator=generator)


def load_method(clip: LoadedClip, checkpoint: str, dataset: str, **options) -> InCtrl:
    """Load InCTRL as a run does."""
    return load_any("inctrl", clip, checkpoint, dataset, **options)


def draw_images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def released(clip: LoadedClip, heads: nn.Module) -> dict[str, torch.Tensor]:
    """Return tensors as the authors save them: all but `logit_scale`, with unused batch norms."""
    tensors = clip.model.state_dict() | heads.state_dict()
    for head, width in (("diff_head", 9), ("diff_head_ref", 48)):
        unused = nn.BatchNorm1d(width).state_dict()
        tensors |= {f"{head}.bn1.{name}": tensor for name, tensor in unused.items()}
    del tensors["logit_scale"]
    return tensors


# The backbone.


def test_embeddings_and_tokens_are_those_of_open_clip(clip, method):
    images, outputs = draw_images(2), {}
    blocks = clip.model.visual.transformer.resblocks
    for number in (7, 9, 11):
        blocks[number - 1].register_forward_hook(
            lambda block, args, tokens, number=number: outputs.__setitem__(number, tokens)
        )
    with torch.inference_mode():
        embeddings = clip.model.encode_image(images)
    for number in (7, 9, 11):
        blocks[number - 1]._forward_hooks.clear()
    features = method.encode_images(images)
    torch.testing.assert_close(features.image, embeddings, atol=1e-5, rtol=0)
    for ours, number in zip(features.blocks, (7, 9, 11), strict=True):
        torch.testing.assert_close(ours, outputs[number][:, 1:])


def test_states_average_the_unit_embeddings_of_winclips_prompts(clip, method):
    prompts = prompt_ensemble("metal nut")
    assert list(map(len, prompts)) == [7 * 22, 4 * 22]
    states = [
        F.normalize(F.normalize(embeddings, dim=-1).mean(dim=0), dim=0)
        for embeddings in encode_states(clip.model, clip.tokenizer, *prompts)
    ]
    bank = method.text_bank("metal_nut")
    torch.testing.assert_close(bank.states, torch.stack(states))
    normal, anomalous = (100 * embedding @ bank.states[1] for embedding in bank.states)
    assert bank.temperature == 0.01 and normal < anomalous


def test_a_model_with_too_few_blocks_is_refused(tmp_path):
    config = write_config(tmp_path, "shallow", 48, 16, layers=11, width=32)
    with pytest.raises(InputError, match="no block after block 11; InCTRL needs ViT-B"):
        load_method(load_clip(str(config), "random"), "random", "mvtec")


def test_a_class_name_of_too_many_tokens_is_refused(config, tmp_path):
    root = make_mvtec(tmp_path, ["bottle"], train=1, size=(40, 60)) / "bottle"
    settings = CustomSettings(
        images=str(root / "test/hole"),
        class_name="x y " * 45 + "x",
        references=str(root / "train/good"),
        model=config,
        method="inctrl",
        checkpoint="random",
        num_workers=0,
        result_dir=str(tmp_path / "result"),
    )
    with pytest.raises(InputError, match="more tokens than CLIP reads"):
        run_custom(settings)


# The heads and the score, by hand.


def test_a_score_head_applies_relu_before_batch_norm():
    head = score_head(2).eval().requires_grad_(False)
    for parameter in head.parameters():
        parameter.zero_()
    head.projection1.weight[0] = torch.tensor([1.0, -1.0])
    for norm, mean, scale, bias, deviation in ((head.bn2, 1, 3, 0.5, 2), (head.bn3, 1, 1, 0, 1)):
        norm.running_mean[0], norm.weight[0], norm.bias[0] = mean, scale, bias
        norm.running_var[0] = deviation**2 - norm.eps
    head.projection2.weight[0, 0], head.projection2.bias[0] = 2, -1
    head.projection3.weight[0, 0], head.projection3.bias[0] = 1, -2
    # 3 - 1 = 2; (2 - 1) / 2 * 3 + 0.5 = 2; 2 * 2 - 1 = 3; 3 - 1 = 2; 2 - 2 = 0.
    # 1 - 3 = -2, relu 0; (0 - 1) / 2 * 3 + 0.5 = -1; 2 * -1 - 1, relu 0; 0 - 1 = -1; -1 - 2 = -3.
    scores = head(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    torch.testing.assert_close(scores[:, 0], torch.tensor([0.0, -3.0]).sigmoid())


def test_the_adapter_is_two_linear_layers_each_followed_by_relu(clip):
    adapter = build_heads(clip)["adapter"]
    down, up = (adapter.fc[index].weight.zero_() for index in (0, 2))
    assert (down.shape, up.shape) == ((12, 48), (48, 12))
    down[0, 0], down[1, 0], up[0, 0], up[1, 0], up[2, 1] = 2, -2, 3, -3, 1
    inputs = torch.zeros(2, 48)
    inputs[:, 0] = torch.tensor([1.0, -1.0])
    expected = torch.zeros(2, 48)
    expected[0, 0] = 6  # 2 * 3; the other outputs are negative, or 0
    expected[1, 2] = 2
    assert torch.equal(adapter(inputs), expected)


def sum_head(*weights: float) -> nn.Linear:
    """Return a head that weighs its inputs and adds them."""
    head = nn.Linear(len(weights), 1, bias=False).requires_grad_(False)
    head.weight[:] = torch.tensor([weights])
    return head


def test_scores_of_reference_sets_worked_by_hand(clip):
    heads = {"adapter": nn.ReLU(), "diff_head_ref": sum_head(1, 1), "diff_head": sum_head(1, 10)}
    method = InCtrl(clip, TrainedHeads(nn.ModuleDict(heads), RANDOM))
    x, y, minus_x = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]

    def features(image, *blocks):
        return InCtrlFeatures(torch.tensor([image]), tuple(torch.tensor([b]) for b in blocks))

    # Two patches in each of three blocks; patch tokens may have any length.
    query = features([3.0, -1.0], [x, y], [x, x], [y, [0.0, 5.0]])
    first = features([0.0, 2.0], [x, x], [[2.0, 0.0], y], [y, x])
    second = features([4.0, -1.0], [y, y], [minus_x, minus_x], [y, minus_x])
    visual = method.visual_bank(InCtrlFeatures.concatenate([first, second]))
    # psi is 3, 0 of the query; 0, 2 and 4, 0 of the references. Half the cosine distances:
    #   block 7: 0, 1/2 to the first and 1/2, 0 to the second; block 9: 0, 0 and 1, 1; block 11: 0.
    # The cosines of the query with the two states are -1 / sqrt(10) and 1 / sqrt(10).
    text = TextBank(torch.tensor([y, [0.6, 0.8]]), 0.5)
    anomaly = 1 / (1 + math.exp(-2 / math.sqrt(10) / 0.5))
    sets = [torch.tensor(rows) for rows in ([0], [1], [0, 1])]
    scores, maps = method.score(query, text, visual, sets)
    assert maps is None and scores.shape == (3, 1)
    for score, residual, patches in zip(
        scores[:, 0].tolist(),
        (0 - 3 + 2 - 0, 4 - 3 + 0 - 0, 2 - 3 + 1 - 0),
        ((0, 1 / 6), (1 / 2, 1 / 3), (0, 0)),
        strict=True,
    ):
        added = residual + anomaly
        holistic = (patches[0] + added) + 10 * (patches[1] + added)
        assert score == pytest.approx((holistic + max(patches)) / 2, abs=1e-5)


def test_the_batch_does_not_matter(method):
    images, text = draw_images(4), method.text_bank("bottle")
    visual = method.visual_bank(method.encode_images(draw_images(3, seed=1)))
    sets = [torch.tensor(rows) for rows in ([0, 1], [2], [0, 1, 2])]
    together, _ = method.score(method.encode_images(images), text, visual, sets)
    assert together.std(dim=1).min() > 1e-5  # otherwise the images could be mixed unnoticed
    for row, rows in enumerate(sets):
        references = VisualBank(tuple(entry[rows] for entry in visual.entries))
        for column in range(4):
            features = method.encode_images(images[column : column + 1])
            score, _ = method.score(features, text, references, [torch.arange(len(rows))])
            assert score.item() == pytest.approx(together[row, column].item(), abs=1e-6)


# Checkpoints.


def test_the_trained_tensors_are_named_and_shaped_as_released(clip):
    sizes = {"diff_head": 9, "diff_head_ref": 48}
    expected = {"adapter.fc.0.weight": (12, 48), "adapter.fc.2.weight": (48, 12)}
    for head, width in sizes.items():
        for layer, shape in (("1", (128, width)), ("2", (64, 128)), ("3", (1, 64))):
            expected[f"{head}.projection{layer}.weight"] = shape
            expected[f"{head}.projection{layer}.bias"] = shape[:1]
        for layer, shape in (("bn2", (128,)), ("bn3", (64,))):
            expected |= {f"{head}.{layer}.{name}": shape for name in NORM[:-1]}
            expected[f"{head}.{layer}.{NORM[-1]}"] = ()
    heads = build_heads(clip).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in heads.items()} == expected


def test_a_released_file_replaces_the_backbone_and_the_heads(config, clip, method, tmp_path):
    file = tmp_path / "8" / "checkpoint.pyth"
    file.parent.mkdir()
    torch.save(released(clip, method.heads), file)
    other = load_clip(config, "random")
    loaded = load_method(other, str(file), "visa")
    assert loaded.checkpoint == Weights(str(file), sha256_of(file), "InCTRL (checkpoint.pyth)")
    assert loaded.notes == ("CHECKPOINT TRAINED ON UNKNOWN DATA FOR 8 SHOTS",)
    features = method.encode_images(draw_images(2))
    scores = [
        m.score(features, m.text_bank("nut"), m.visual_bank(features), [torch.arange(2)])[0]
        for m in (method, loaded)
    ]
    assert torch.equal(*scores)
    assert torch.equal(loaded.encode_images(draw_images(2)).image, features.image)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_backbone_of_a_file_is_the_one_that_is_rounded(
    config, clip, method, tmp_path, precision, monkeypatch
):
    monkeypatch.setattr(int8, "pack", lambda weight: weight)  # also where products saturate
    monkeypatch.setattr(int8, "multiply", exact_products)
    file = tmp_path / "checkpoint.pyth"
    torch.save(released(clip, method.heads), file)
    other = load_clip(config, "random")
    prepare = partial(to_device, other.model, torch.device("cpu"), precision)
    rounded = load_method(other, str(file), "visa", prepare=prepare)
    if precision == "bf16":
        assert torch.equal(other.model.visual.proj, clip.model.visual.proj.bfloat16())
    images = draw_images(2)
    expected, actual = (m.encode_images(images).image for m in (method, rounded))
    assert not torch.equal(actual, expected)
    assert F.cosine_similarity(actual, expected).min() > 0.99


def test_wrong_tensors_are_named_in_one_sentence(clip, method, tmp_path):
    tensors = released(clip, method.heads)
    del tensors["adapter.fc.2.weight"]
    tensors["decoder.bias"] = torch.zeros(1)
    tensors["visual.proj"] = torch.zeros(896, 640)
    file = tmp_path / "checkpoint.pyth"
    torch.save(tensors, file)
    before = clip.model.visual.proj.clone()
    with pytest.raises(InputError) as error:
        load_method(clip, str(file), "visa")
    for words in (
        str(file),
        "missing: adapter.fc.2.weight",
        "unexpected: decoder.bias",
        "visual.proj (896, 640), expected (32, 48)",
    ):
        assert words in str(error.value)
    assert torch.equal(clip.model.visual.proj, before)


def test_random_heads_are_seeded_and_leave_the_backbone_as_it_is(clip):
    torch.manual_seed(5)
    first, backbone = load_method(clip, "random", "mvtec"), clip.model.visual.proj.clone()
    state = torch.random.get_rng_state()
    second = load_method(clip, "random", "visa")
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in first.heads.state_dict().items():
        assert torch.equal(tensor, second.heads.state_dict()[name])
    assert first.checkpoint.random and torch.equal(clip.model.visual.proj, backbone)


@pytest.mark.parametrize(
    ("folder", "training"),
    [
        ("", "UNKNOWN DATA FOR AN UNKNOWN NUMBER OF SHOTS"),
        ("checkpoints/2", "UNKNOWN DATA FOR 2 SHOTS"),
        ("8/checkpoints", "UNKNOWN DATA FOR AN UNKNOWN NUMBER OF SHOTS"),
        ("checkpoints/48", "UNKNOWN DATA FOR AN UNKNOWN NUMBER OF SHOTS"),
        ("Trained-on-VisA/4", "visa FOR 4 SHOTS"),
        ("visa", "UNKNOWN DATA FOR AN UNKNOWN NUMBER OF SHOTS"),
    ],
)
def test_folders_say_what_a_checkpoint_was_trained_on(folder, training):
    file = Path("/", folder, "checkpoint.pyth")
    notes = (f"CHECKPOINT TRAINED ON {training}",)
    assert describe_training(file, "mvtec") == ("InCTRL (checkpoint.pyth)", notes)


@pytest.mark.parametrize(
    "name", ["Trained-on-MVTec AD", "trained-on-mvtec-ad", "trained_on_mvtec", "trained on mvtec"]
)
def test_a_folder_that_does_not_name_a_known_dataset_is_refused(name):
    with pytest.raises(InputError, match="expected trained-on-mvtec, trained-on-visa"):
        describe_training(Path("/", name, "2", "checkpoint.pyth"), "mvtec")


def test_a_checkpoint_that_was_trained_on_the_dataset_is_refused(clip, tmp_path):
    file = tmp_path / "trained-on-mvtec" / "2" / "checkpoint.pyth"
    with pytest.raises(InputError, match="does not exist"):
        load_method(clip, str(file), "mvtec")
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "link.pyth").symlink_to(file)
    for path in (file, tmp_path / "link.pyth"):
        with pytest.raises(InputError, match=r"was trained on mvtec \(as its folder says\)"):
            load_method(clip, str(path), "mvtec")
        with pytest.raises(InputError, match="it is damaged"):
            load_method(clip, str(path), "visa")


# Devices and precisions.


def test_half_precision_gives_float32_scores_close_to_those_of_float32(config, method):
    clip = load_clip(config, "random")
    shift(clip.model, seed=1)
    to_device(clip.model, torch.device("cpu"), "bf16")
    half = InCtrl(clip, TrainedHeads(method.heads, RANDOM))
    scores = []
    for each in (method, half):
        features = each.encode_images(draw_images(3))
        tensors = (features.image, *features.blocks)
        assert all(tensor.dtype == torch.float32 for tensor in tensors)
        bank = each.visual_bank(each.encode_images(draw_images(1, seed=1)))
        scores.append(each.score(features, each.text_bank("nut"), bank, [torch.arange(1)])[0])
    assert scores[1].dtype == torch.float32
    torch.testing.assert_close(*scores, atol=0.02, rtol=0)


def test_everything_is_computed_on_cuda(config):
    with fake_cuda():
        clip = load_clip(config, "random")
        clip = replace(clip, tokenizer=computed(clip.tokenizer))
        to_device(clip.model, CUDA, "fp16")
        method = load_method(clip, "random", "mvtec")
        features = method.encode_images(torch.zeros(3, 3, 48, 48))
        visual = method.visual_bank(features)
        sets = [torch.arange(count, device=CUDA) for count in (1, 3)]
        scores, _ = method.score(features, method.text_bank("nut"), visual, sets)
        assert (scores.shape, scores.device, scores.dtype) == ((2, 3), CUDA, torch.float32)
