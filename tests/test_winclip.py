import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models import winclip as module
from models.winclip import (
    Features,
    TextBank,
    VisualBank,
    average_scales,
    nearest_distances,
    score_zero_shot,
    visual_association_score,
    winclip,
)

GRID, SCALES = (4, 5), (2, 3)
COUNTS = (3 * 4, 2 * 3)


def make_features(images: int, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    windows = tuple(draw(images, count, 8) for count in COUNTS)
    return Features(draw(images, 8), windows, draw(images, 20, 12), GRID, SCALES)


def select(features: Features, rows: torch.Tensor) -> Features:
    windows = tuple(scale[rows] for scale in features.windows)
    return Features(features.image[rows], windows, features.patches[rows], GRID, SCALES)


def few_shot_map(distances, rows: torch.Tensor) -> torch.Tensor:
    """Return the map of one reference set, (B, G_h, G_w)."""
    return average_scales(nearest_distances(distances, [rows]), GRID, SCALES)[0]


def winclip_plainly(features, text, visual, reference_sets):
    """Score one reference set after another, one reference after another."""
    zero_shot_scores, zero_shot_maps = score_zero_shot(features, text)
    scores, maps = [], []
    for rows in reference_sets:
        if rows is None:
            scores.append(zero_shot_scores)
            maps.append(zero_shot_maps)
            continue
        minima = []
        for queries, entries in zip(
            (*features.windows, features.patches), visual.entries, strict=True
        ):
            vectors = F.normalize(queries, dim=-1).flatten(0, 1)
            distances = [
                ((1 - (vectors @ entries[row].T).amax(dim=-1)) / 2).clamp(min=0) for row in rows
            ]
            minima.append(torch.stack(distances).amin(dim=0).unflatten(0, queries.shape[:2]))
        visual_maps = average_scales(minima, features.grid, features.scales)
        scores.append((zero_shot_scores + visual_maps.amax(dim=(-2, -1))) / 2)
        maps.append((zero_shot_maps + visual_maps) / 2)
    return torch.stack(scores), torch.stack(maps)


def make_text() -> TextBank:
    generator = torch.Generator().manual_seed(9)
    normal, anomalous = (torch.randn(5, 8, generator=generator) for _ in range(2))
    return TextBank.from_prompts(normal, anomalous, 0.07, normalise_prompts=True)


def test_the_anomaly_score_by_hand():
    # Normal state along x, anomalous along y, tau = 0.5. An embedding of cosines 0.6 and 0.8:
    # exp(1.6) / (exp(1.2) + exp(1.6)) = 1 / (1 + exp(-0.4)) = 0.598688.
    bank = TextBank(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), temperature=0.5)
    scores = bank.score(torch.tensor([[0.6, 0.8], [3.0, 4.0], [1.0, 1.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.598688, 0.598688, 0.5]))


def test_prompts_are_normalised_before_averaging_only_if_the_protocol_says_so():
    # Prompts (4, 0) and (0, 1): as they are their mean points to (4, 1), normalised to (1, 1).
    prompts = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    paper = TextBank.from_prompts(prompts, prompts, 0.07, normalise_prompts=True)
    public = TextBank.from_prompts(prompts, prompts, 0.07, normalise_prompts=False)
    torch.testing.assert_close(paper.states[0], torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(public.states[0], torch.tensor([4.0, 1.0]) / 17**0.5)


def test_swapping_the_prompts_mirrors_every_score():
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(4, 8, generator=generator) for _ in range(2))
    features = make_features(6)
    scores = TextBank.from_prompts(first, second, 0.07, True).score(features.image)
    swapped = TextBank.from_prompts(second, first, 0.07, True).score(features.image)
    torch.testing.assert_close(scores + swapped, torch.ones(6))


def test_the_zero_shot_map_is_the_harmonic_mean_over_the_scales():
    features, bank = make_features(2), make_text()
    scores, maps = (run[0] for run in winclip(features, bank, None, [None]))
    assert maps.shape == (2, *GRID)
    # The top left corner lies in the first window of each scale only.
    corner = 3 / (
        1 / bank.score(features.image)
        + 1 / bank.score(features.windows[0][:, 0])
        + 1 / bank.score(features.windows[1][:, 0])
    )
    torch.testing.assert_close(maps[:, 0, 0], corner)
    torch.testing.assert_close(scores, bank.score(features.image))


def test_visual_association_score_on_a_3x3_grid_by_hand():
    # Nine patches along x, except the middle one along y. The reference has x and (0.6, 0.8):
    # x finds itself: 0. The middle's best cosine is 0.8: (1 - 0.8) / 2 = 0.1.
    queries = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    queries[4] = torch.tensor([0.0, 2.0])
    references = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    actual = visual_association_score(queries[None], references).reshape(3, 3)
    expected = torch.zeros(3, 3)
    expected[1, 1] = 0.1
    torch.testing.assert_close(actual, expected, atol=1e-7, rtol=0)


def test_visual_association_score_equals_the_plain_loop():
    queries, references = make_features(3, 1).patches, make_features(2, 2).patches
    actual = visual_association_score(queries, torch.nn.functional.normalize(references, dim=-1))
    for r in range(2):
        for b in range(3):
            for q in (0, 7, 19):
                cosines = torch.cosine_similarity(queries[b, q][None], references[r])
                assert actual[r, b, q] == pytest.approx(((1 - cosines) / 2).min().item(), abs=1e-6)


def test_a_reference_scores_zero_against_itself_at_every_scale():
    references = make_features(3)
    bank = VisualBank.from_features(references)
    for row in range(3):
        chosen = torch.tensor([row])
        distances = bank.distances(select(references, chosen))
        for scale in distances:
            assert scale[row].abs().max() <= 1e-6
        assert few_shot_map(distances, chosen).abs().max() <= 1e-6


def test_more_references_never_raise_a_distance():
    bank = VisualBank.from_features(make_features(4, 5))
    distances = bank.distances(make_features(2, 6))
    maps = [few_shot_map(distances, torch.arange(count)) for count in (1, 2, 4)]
    assert (maps[1] <= maps[0]).all()
    assert (maps[2] <= maps[1]).all()
    assert (maps[2] < maps[0]).any()


def test_every_reference_set_is_a_choice_of_rows_of_one_bank():
    references, queries = make_features(4, 5), make_features(2, 6)
    rows = torch.tensor([3, 1])
    distances = VisualBank.from_features(references).distances(queries)
    separate = VisualBank.from_features(select(references, rows)).distances(queries)
    torch.testing.assert_close(
        few_shot_map(distances, rows),
        few_shot_map(separate, torch.arange(2)),
    )


def test_the_few_shot_map_is_the_mean_over_windows_and_patches():
    # Constant distances 0.3 (patches), 0.1 and 0.2 (windows): the harmonic mean keeps constants.
    distances = [
        torch.full((1, 1, 12), 0.1),
        torch.full((1, 1, 6), 0.2),
        torch.full((1, 1, 20), 0.3),
    ]
    actual = few_shot_map(distances, torch.tensor([0]))
    torch.testing.assert_close(actual, torch.full((1, *GRID), 0.2))


def test_equation_5_and_the_few_shot_map_by_hand():
    # No windows, a 2 x 2 grid. The image is the normal state: softmax(1 / tau, 0) = (0.8, 0.2).
    text = TextBank(torch.eye(2), temperature=1 / math.log(4))
    x = torch.tensor([1.0, 0.0])
    references = Features(x[None], (), x.repeat(1, 4, 1), (2, 2), ())
    patches = x.repeat(1, 4, 1)
    patches[0, 2] = torch.tensor([0.2, 0.96**0.5])  # a cosine of 0.2: a distance of 0.4
    features = Features(x[None], (), patches, (2, 2), ())
    bank = VisualBank.from_features(references)
    scores, maps = winclip(features, text, bank, [None, torch.tensor([0])])
    torch.testing.assert_close(scores, torch.tensor([[0.2], [0.3]]))  # (0.2 + 0.4) / 2
    torch.testing.assert_close(maps[0], torch.full((1, 2, 2), 0.2))
    torch.testing.assert_close(maps[1], torch.tensor([[[0.1, 0.1], [0.3, 0.1]]]))


def test_runs_are_in_the_order_of_their_reference_sets():
    features, text = make_features(3), make_text()
    bank = VisualBank.from_features(make_features(4, 5))
    sets = [torch.tensor([1]), None, torch.tensor([0, 2])]
    scores, maps = winclip(features, text, bank, sets)
    assert scores.shape == (3, 3) and maps.shape == (3, 3, *GRID)
    for run, rows in enumerate(sets):
        alone = winclip(features, text, bank, [rows])
        assert torch.equal(alone[0][0], scores[run]) and torch.equal(alone[1][0], maps[run])


@pytest.mark.parametrize("max_cosines", [1, 3000, 2**24])
def test_scores_and_maps_equal_the_plain_loop_to_the_bit(monkeypatch, max_cosines):
    monkeypatch.setattr(module, "MAX_COSINES", max_cosines)
    features, text = make_features(3), make_text()
    bank = VisualBank.from_features(make_features(7, 5))
    sets = [None, *(torch.tensor(rows) for rows in ([2], [6], [2, 0], [6, 5, 4, 3, 1]))]
    expected = winclip_plainly(features, text, bank, sets)
    assert all(map(torch.equal, winclip(features, text, bank, sets), expected))


class CountKernels(TorchDispatchMode):
    """Count the operations that compute; views of a tensor start no kernel."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        results = result if isinstance(result, (tuple, list)) else [result]
        inputs = [arg for arg in args if isinstance(arg, torch.Tensor)]
        storages = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        outputs = [out for out in results if isinstance(out, torch.Tensor)]
        self.count += any(out.untyped_storage().data_ptr() not in storages for out in outputs)
        return result


def test_the_paper_s_table_needs_few_kernels_a_batch():
    features, text = make_features(8), make_text()
    bank = VisualBank.from_features(make_features(20, 5))
    draws = [torch.randperm(20)[:4] for _ in range(5)]
    sets = [None, *(draw[:count] for count in (1, 2, 4) for draw in draws)]
    with CountKernels() as kernels:
        winclip(features, text, bank, sets)
    assert kernels.count <= 120
    with CountKernels() as plain:
        winclip_plainly(features, text, bank, sets)
    assert plain.count > 5 * kernels.count  # the mode does count


def test_an_image_scores_the_same_alone_and_in_a_batch():
    features, text = make_features(5), make_text()
    bank, sets = VisualBank.from_features(make_features(2, 7)), [None, torch.tensor([0, 1])]
    scores, maps = winclip(features, text, bank, sets)
    single_scores, single_maps = winclip(select(features, torch.tensor([3])), text, bank, sets)
    torch.testing.assert_close(single_scores, scores[:, 3:4], atol=1e-6, rtol=0)
    torch.testing.assert_close(single_maps, maps[:, 3:4], atol=1e-6, rtol=0)


def test_features_are_concatenated_in_order():
    batches = [make_features(2), make_features(3, 1)]
    features = Features.concatenate(batches)
    for batch, rows in zip(batches, (slice(0, 2), slice(2, 5)), strict=True):
        assert torch.equal(features.image[rows], batch.image)
        assert torch.equal(features.patches[rows], batch.patches)
        for joined, windows in zip(features.windows, batch.windows, strict=True):
            assert torch.equal(joined[rows], windows)
    assert (features.grid, features.scales) == (GRID, SCALES)
