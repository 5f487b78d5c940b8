"""What the benchmarks officially hold: categories, and images per category and defect.

MVTec AD and MPDD: counted from their papers' tables; VisA: its split 1cls.csv; the demo: as it is
rendered.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from datasets.render.catalogue import PRODUCTS
from datasets.splits import Sample


@dataclass(frozen=True)
class Counts:
    """Images of one category. `defects` is by name; {} where only their sum is on record."""

    train: int
    good: int  # of the test images
    anomalous: int
    defects: dict[str, int]


def _mvtec(train: int, good: int, **defects: int) -> Counts:
    return Counts(train, good, sum(defects.values()), defects)


def _demo(role: str) -> dict[str, Counts]:
    kinds = {name: product.defects for name, product in PRODUCTS.items() if product.role == role}
    return {name: _mvtec(6, 10, **dict.fromkeys(four, 4)) for name, four in kinds.items()}


def _sums(train: int, good: int, anomalous: int) -> Counts:
    return Counts(train, good, anomalous, {})


OFFICIAL: dict[str, dict[str, Counts]] = {
    "mvtec": {
        "bottle": _mvtec(209, 20, broken_large=20, broken_small=22, contamination=21),
        "cable": _mvtec(
            *(224, 58),
            **{"bent_wire": 13, "cable_swap": 12, "combined": 11, "cut_inner_insulation": 14},
            **{"cut_outer_insulation": 10, "missing_cable": 12, "missing_wire": 10},
            poke_insulation=10,
        ),
        "capsule": _mvtec(219, 23, crack=23, faulty_imprint=22, poke=21, scratch=23, squeeze=20),
        "carpet": _mvtec(280, 28, color=19, cut=17, hole=17, metal_contamination=17, thread=19),
        "grid": _mvtec(264, 21, bent=12, broken=12, glue=11, metal_contamination=11, thread=11),
        "hazelnut": _mvtec(391, 40, crack=18, cut=17, hole=18, print=17),
        "leather": _mvtec(245, 32, color=19, cut=19, fold=17, glue=19, poke=18),
        "metal_nut": _mvtec(220, 22, bent=25, color=22, flip=23, scratch=23),
        "pill": _mvtec(
            *(267, 26),
            **{"color": 25, "combined": 17, "contamination": 21, "crack": 26},
            **{"faulty_imprint": 19, "pill_type": 9, "scratch": 24},
        ),
        "screw": _mvtec(
            *(320, 41),
            **{"manipulated_front": 24, "scratch_head": 24, "scratch_neck": 25},
            **{"thread_side": 23, "thread_top": 23},
        ),
        "tile": _mvtec(230, 33, crack=17, glue_strip=18, gray_stroke=16, oil=18, rough=15),
        "toothbrush": _mvtec(60, 12, defective=30),
        "transistor": _mvtec(213, 60, bent_lead=10, cut_lead=10, damaged_case=10, misplaced=10),
        "wood": _mvtec(247, 19, color=8, combined=11, hole=10, liquid=10, scratch=21),
        "zipper": _mvtec(
            *(240, 32),
            **{"broken_teeth": 19, "combined": 16, "fabric_border": 17, "fabric_interior": 16},
            **{"rough": 18, "split_teeth": 18, "squeezed_teeth": 15},
        ),
    },
    "visa": {
        "candle": _sums(900, 100, 100),
        "capsules": _sums(542, 60, 100),
        "cashew": _sums(450, 50, 100),
        "chewinggum": _sums(453, 50, 100),
        "fryum": _sums(450, 50, 100),
        "macaroni1": _sums(900, 100, 100),
        "macaroni2": _sums(900, 100, 100),
        "pcb1": _sums(904, 100, 100),
        "pcb2": _sums(901, 100, 100),
        "pcb3": _sums(905, 101, 100),
        "pcb4": _sums(904, 101, 100),
        "pipe_fryum": _sums(450, 50, 100),
    },
    "mpdd": {
        "bracket_black": _sums(289, 32, 47),
        "bracket_brown": _sums(185, 26, 51),
        "bracket_white": _sums(110, 30, 30),
        "connector": _sums(128, 30, 14),
        "metal_plate": _sums(54, 26, 71),
        "tubes": _sums(122, 32, 69),
    },
    "demo": _demo("seen") | _demo("unseen"),
}
# Categories whose means stand by themselves, besides the mean over all.
GROUPS: dict[str, dict[str, list[str]]] = {
    "demo": {role: list(_demo(role)) for role in ("seen", "unseen")},
}


def counted(samples: Sequence[Sample]) -> dict[str, Counts]:
    """What a split holds, per category."""
    tallies: dict[str, Counter] = {}
    for sample in samples:
        kind = "train" if sample.split == "train" else sample.defect
        tallies.setdefault(sample.class_name, Counter())[kind] += 1
    found = {}
    for category, tally in tallies.items():
        train, good = tally.pop("train", 0), tally.pop("good", 0)
        found[category] = Counts(train, good, tally.total(), dict(sorted(tally.items())))
    return found


def differences(dataset: str, samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """The categories that are missing from a split, and those whose counts are not official."""
    found, official = counted(samples), OFFICIAL[dataset]
    missing = [category for category in official if category not in found]
    wrong = [name for name, here in found.items() if not agrees(here, official.get(name))]
    return missing, wrong


def agrees(here: Counts, official: Counts | None) -> bool:
    """Whether a category has exactly its official images."""
    if official is None:
        return False
    sums = (here.train, here.good, here.anomalous)
    if sums != (official.train, official.good, official.anomalous):
        return False
    return not official.defects or here.defects == official.defects
