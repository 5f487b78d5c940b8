"""One row type for every benchmark, and how a split is written, read and checked.

A split is a CSV (`class_name,split,label,defect,image,mask`; POSIX paths relative to the data
root; sorted) and the `meta.json` that the field's other repositories read.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Sample:
    """One image of a benchmark; paths are POSIX and relative to the data root."""

    class_name: str  # as the dataset spells it: "metal_nut"
    split: str  # "train" or "test"
    label: int  # 0 good, 1 anomalous
    defect: str  # "good", or the defect's folder name
    image: str
    mask: str  # "" where there is none


def first_of_each_defect(samples: Sequence[Sample], count: int) -> list[int]:
    """The places of the first `count` samples of each defect ("good" is one), in order."""
    seen: dict[str, int] = {}
    places = []
    for place, sample in enumerate(samples):
        seen[sample.defect] = seen.get(sample.defect, 0) + 1
        if seen[sample.defect] <= count:
            places.append(place)
    return places
