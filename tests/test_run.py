"""Whole runs of the real scripts, on small pictures and a small CLIP with random weights."""

SHOTS, SEEDS = (0, 1, 2), (0, 1)
RUNS = 1 + 2 * 2
