import pytest
import torch

from models.windows import harmonic_aggregation, harmonic_mean, window_indices


@pytest.mark.parametrize(("size", "count"), [(1, 225), (2, 196), (3, 169), (15, 1)])
def test_the_papers_grid_has_the_expected_windows(size, count):
    indices = window_indices((15, 15), size)
    assert indices.shape == (count, size * size)
    assert indices.unique().tolist() == list(range(225))


def test_windows_of_any_grid_are_rectangles_in_reading_order():
    for row, window in enumerate(window_indices((4, 6), 3)):
        top, left = divmod(row, 4)
        expected = [(top + i) * 6 + left + j for i in range(3) for j in range(3)]
        assert window.tolist() == expected


@pytest.mark.parametrize("size", [0, 4, -1])
def test_a_window_that_does_not_fit_is_a_value_error(size):
    with pytest.raises(ValueError, match="does not fit a grid of 3 x 5"):
        window_indices((3, 5), size)


def test_harmonic_aggregation_equals_the_plain_loop():
    generator = torch.Generator().manual_seed(0)
    for grid, size in [((15, 15), 2), ((15, 15), 3), ((4, 7), 2), ((5, 3), 3)]:
        indices = window_indices(grid, size)
        scores = torch.rand(2, len(indices), generator=generator, dtype=torch.float64) + 0.01
        expected = torch.zeros(2, grid[0] * grid[1], dtype=torch.float64)
        for patch in range(grid[0] * grid[1]):
            covering = (indices == patch).any(dim=1)
            expected[:, patch] = covering.sum() / (1 / scores[:, covering]).sum(dim=1)
        actual = harmonic_aggregation(scores, grid, size)
        torch.testing.assert_close(actual, expected.reshape(2, *grid), atol=1e-12, rtol=1e-12)


def test_a_window_of_score_zero_sets_its_patches_to_zero_and_no_others():
    # The top left of four 2 x 2 windows on a 3 x 3 grid scores 0: its four patches become 0.
    actual = harmonic_aggregation(torch.tensor([0.0, 0.5, 0.5, 0.5]), (3, 3), 2)
    expected = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(actual, expected)


def test_harmonic_mean_by_hand():
    # 2 / (1 / 0.2 + 1 / 0.6) = 2 / (5 + 5 / 3) = 0.3; and one 0 makes the mean 0.
    actual = harmonic_mean(torch.tensor([[0.2, 0.0], [0.6, 0.9]]))
    torch.testing.assert_close(actual, torch.tensor([0.3, 0.0]))
