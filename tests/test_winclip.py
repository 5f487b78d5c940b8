import pytest
import torch

from models.winclip import (
    Features,
    TextBank,
    VisualBank,
    few_shot,
    few_shot_map,
    visual_association_score,
    zero_shot,
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


def test_prompts_are_normalised_before_averaging_only_where_the_protocol_says_so():
    # Prompts (4, 0) and (0, 1): as they are their mean points to (4, 1), normalised to (1, 1).
    prompts = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    paper = TextBank.from_prompts(prompts, prompts, 0.07, normalise_prompts=True)
    public = TextBank.from_prompts(prompts, prompts, 0.07, normalise_prompts=False)
    torch.testing.assert_close(paper.states[0], torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(public.states[0], torch.tensor([4.0, 1.0]) / 17**0.5)


def test_swapping_the_prompts_turns_every_score_around():
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(4, 8, generator=generator) for _ in range(2))
    features = make_features(6)
    scores = TextBank.from_prompts(one, other, 0.07, True).score(features.image)
    swapped = TextBank.from_prompts(other, one, 0.07, True).score(features.image)
    torch.testing.assert_close(scores + swapped, torch.ones(6))


def test_the_zero_shot_map_is_the_harmonic_mean_over_the_scales():
    features, bank = make_features(2), make_text()
    scores, maps = zero_shot(features, bank)
    assert maps.shape == (2, *GRID)
    # The top left corner lies in the first window of each scale only.
    corner = 3 / (
        1 / bank.score(features.image)
        + 1 / bank.score(features.windows[0][:, 0])
        + 1 / bank.score(features.windows[1][:, 0])
    )
    torch.testing.assert_close(maps[:, 0, 0], corner)
    torch.testing.assert_close(scores, bank.score(features.image))


def test_association_on_a_3x3_grid_by_hand():
    # Nine patches along x but for the middle one, along y. The reference has x and (0.6, 0.8):
    # x finds itself: 0. The middle's best cosine is 0.8: (1 - 0.8) / 2 = 0.1.
    queries = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    queries[4] = torch.tensor([0.0, 2.0])
    references = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    found = visual_association_score(queries[None], references).reshape(3, 3)
    wanted = torch.zeros(3, 3)
    wanted[1, 1] = 0.1
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=0)


def test_association_equals_the_plain_loop():
    queries, references = make_features(3, 1).patches, make_features(2, 2).patches
    found = visual_association_score(queries, torch.nn.functional.normalize(references, dim=-1))
    for r in range(2):
        for b in range(3):
            for q in (0, 7, 19):
                cosines = torch.cosine_similarity(queries[b, q][None], references[r])
                assert found[r, b, q] == pytest.approx(((1 - cosines) / 2).min().item(), abs=1e-6)


def test_a_reference_scores_zero_against_itself_at_every_scale():
    references = make_features(3)
    bank = VisualBank.from_features(references)
    for row in range(3):
        chosen = torch.tensor([row])
        distances = bank.distances(select(references, chosen))
        for scale in distances:
            assert scale[row].abs().max() <= 1e-6
        assert few_shot_map(distances, chosen, GRID, SCALES).abs().max() <= 1e-6


def test_more_references_never_raise_a_distance():
    bank = VisualBank.from_features(make_features(4, 5))
    distances = bank.distances(make_features(2, 6))
    maps = [few_shot_map(distances, torch.arange(count), GRID, SCALES) for count in (1, 2, 4)]
    assert (maps[1] <= maps[0]).all()
    assert (maps[2] <= maps[1]).all()
    assert (maps[2] < maps[0]).any()


def test_every_reference_set_is_a_choice_of_rows_of_one_bank():
    references, queries = make_features(4, 5), make_features(2, 6)
    rows = torch.tensor([3, 1])
    one_bank = few_shot_map(
        VisualBank.from_features(references).distances(queries), rows, GRID, SCALES
    )
    own_bank = VisualBank.from_features(select(references, rows)).distances(queries)
    torch.testing.assert_close(one_bank, few_shot_map(own_bank, torch.arange(2), GRID, SCALES))


def test_the_few_shot_map_is_the_mean_over_windows_and_patches():
    # Constant distances 0.3 (patches), 0.1 and 0.2 (windows): the harmonic mean keeps constants.
    distances = [
        torch.full((1, 1, 12), 0.1),
        torch.full((1, 1, 6), 0.2),
        torch.full((1, 1, 20), 0.3),
    ]
    found = few_shot_map(distances, torch.tensor([0]), GRID, SCALES)
    torch.testing.assert_close(found, torch.full((1, *GRID), 0.2))


def test_equation_5_and_the_few_shot_map_by_hand():
    visual = torch.zeros(1, 2, 2)
    visual[0, 1, 0] = 0.4
    zero_maps = torch.full((1, 2, 2), 0.6)
    scores, maps = few_shot(torch.tensor([0.2]), zero_maps, visual)
    torch.testing.assert_close(scores, torch.tensor([0.3]))  # (0.2 + 0.4) / 2
    torch.testing.assert_close(maps, torch.tensor([[[0.3, 0.3], [0.5, 0.3]]]))


def test_one_image_scores_the_same_alone_and_among_others():
    features, bank = make_features(5), make_text()
    visual = VisualBank.from_features(make_features(2, 7))
    scores, maps = zero_shot(features, bank)
    alone = select(features, torch.tensor([3]))
    torch.testing.assert_close(zero_shot(alone, bank)[0], scores[3:4], atol=1e-6, rtol=0)
    torch.testing.assert_close(zero_shot(alone, bank)[1], maps[3:4], atol=1e-6, rtol=0)
    for many, one in zip(visual.distances(features), visual.distances(alone), strict=True):
        torch.testing.assert_close(many[:, 3:4], one, atol=1e-6, rtol=0)
