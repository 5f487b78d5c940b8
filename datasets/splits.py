"""One row type for every benchmark, and how a split is written, read and checked.

A split is a CSV (`class_name,split,label,defect,image,mask`; POSIX paths relative to the data
root; sorted) and the `meta.json` that the field's other repositories read.
"""

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
