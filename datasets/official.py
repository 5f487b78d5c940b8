"""The official contents of each benchmark: categories, and images per category and defect.

MVTec AD and MPDD: the tables of their papers; VisA: its split 1cls.csv; the demo: its renderer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from datasets.splits import Sample


@dataclass(frozen=True)
class Counts:
    """Images of one category; `defects` by name, {} where only their sum is on record."""

    train: int
    good: int  # test images without a defect
    anomalous: int
    defects: dict[str, int] = field(default_factory=dict)


def _by_defect(train: int, good: int, **defects: int) -> Counts:
    return Counts(train, good, sum(defects.values()), defects)


def _demo(*defects: str) -> Counts:
    return _by_defect(6, 10, **dict.fromkeys(defects, 4))


# fmt: off
_MVTEC = {
    "bottle": _by_defect(209, 20, broken_large=20, broken_small=22, contamination=21),
    "cable": _by_defect(224, 58, bent_wire=13, cable_swap=12, combined=11, cut_inner_insulation=14,
        cut_outer_insulation=10, missing_cable=12, missing_wire=10, poke_insulation=10),
    "capsule": _by_defect(219, 23, crack=23, faulty_imprint=22, poke=21, scratch=23, squeeze=20),
    "carpet": _by_defect(280, 28, color=19, cut=17, hole=17, metal_contamination=17, thread=19),
    "grid": _by_defect(264, 21, bent=12, broken=12, glue=11, metal_contamination=11, thread=11),
    "hazelnut": _by_defect(391, 40, crack=18, cut=17, hole=18, print=17),
    "leather": _by_defect(245, 32, color=19, cut=19, fold=17, glue=19, poke=18),
    "metal_nut": _by_defect(220, 22, bent=25, color=22, flip=23, scratch=23),
    "pill": _by_defect(267, 26, color=25, combined=17, contamination=21, crack=26,
        faulty_imprint=19, pill_type=9, scratch=24),
    "screw": _by_defect(320, 41, manipulated_front=24, scratch_head=24, scratch_neck=25,
        thread_side=23, thread_top=23),
    "tile": _by_defect(230, 33, crack=17, glue_strip=18, gray_stroke=16, oil=18, rough=15),
    "toothbrush": _by_defect(60, 12, defective=30),
    "transistor": _by_defect(213, 60, bent_lead=10, cut_lead=10, damaged_case=10, misplaced=10),
    "wood": _by_defect(247, 19, color=8, combined=11, hole=10, liquid=10, scratch=21),
    "zipper": _by_defect(240, 32, broken_teeth=19, combined=16, fabric_border=17,
        fabric_interior=16, rough=18, split_teeth=18, squeezed_teeth=15),
}
# fmt: on
_VISA = {
    "candle": Counts(900, 100, 100),
    "capsules": Counts(542, 60, 100),
    "cashew": Counts(450, 50, 100),
    "chewinggum": Counts(453, 50, 100),
    "fryum": Counts(450, 50, 100),
    "macaroni1": Counts(900, 100, 100),
    "macaroni2": Counts(900, 100, 100),
    "pcb1": Counts(904, 100, 100),
    "pcb2": Counts(901, 100, 100),
    "pcb3": Counts(905, 101, 100),
    "pcb4": Counts(904, 101, 100),
    "pipe_fryum": Counts(450, 50, 100),
}
_MPDD = {
    "bracket_black": Counts(289, 32, 47),
    "bracket_brown": Counts(185, 26, 51),
    "bracket_white": Counts(110, 30, 30),
    "connector": Counts(128, 30, 14),
    "metal_plate": Counts(54, 26, 71),
    "tubes": Counts(122, 32, 69),
}
_DEMO_SEEN = {
    "woven_fabric": _demo("hole", "stain", "particle", "bend"),
    "wood": _demo("scratch", "stain", "hole", "crack"),
    "stone_tile": _demo("crack", "stain", "glue", "hole"),
    "hex_nut": _demo("scratch", "stain", "missing_piece", "particle"),
    "bottle_mouth": _demo("missing_piece", "particle", "crack", "stain"),
    "circuit_board": _demo("missing_part", "scratch", "particle", "glue"),
}
_DEMO_UNSEEN = {
    "leather": _demo("scratch", "stain", "hole", "glue"),
    "wire_mesh": _demo("hole", "particle", "bend", "glue"),
    "brushed_metal": _demo("scratch", "stain", "particle", "dent"),
    "washer": _demo("scratch", "stain", "missing_piece", "dent"),
    "capsule": _demo("crack", "stain", "dent", "scratch"),
    "cable": _demo("missing_part", "crack", "particle", "bend"),
}
OFFICIAL: dict[str, dict[str, Counts]] = {
    "mvtec": _MVTEC,
    "visa": _VISA,
    "mpdd": _MPDD,
    "demo": _DEMO_SEEN | _DEMO_UNSEEN,
}
# Groups of categories that get a mean of their own, besides the mean over all.
GROUPS: dict[str, dict[str, list[str]]] = {
    "demo": {"seen": list(_DEMO_SEEN), "unseen": list(_DEMO_UNSEEN)},
}


def count_images(samples: Sequence[Sample]) -> dict[str, Counts]:
    """Count the images of a split per category, in the order of their first samples."""
    tallies: dict[str, Counter] = {}
    for sample in samples:
        kind = "train" if sample.split == "train" else sample.defect
        tallies.setdefault(sample.class_name, Counter())[kind] += 1
    counts = {}
    for category, tally in tallies.items():
        train, good = tally.pop("train", 0), tally.pop("good", 0)
        counts[category] = Counts(train, good, tally.total(), dict(sorted(tally.items())))
    return counts


def count_mismatches(dataset: str, samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """Return the categories missing from a split, and those with other counts than the official."""
    actual, official = count_images(samples), OFFICIAL[dataset]
    missing = [category for category in official if category not in actual]
    wrong = [
        name for name, counts in actual.items() if not matches_official(counts, official.get(name))
    ]
    return missing, wrong


def matches_official(actual: Counts, official: Counts | None) -> bool:
    """Return whether a category has exactly its official images."""
    if official is not None and not official.defects:
        official = replace(official, defects=actual.defects)
    return actual == official
