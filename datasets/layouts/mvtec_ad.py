"""Scan a benchmark that has MVTec AD's layout."""

from collections.abc import Sequence
from pathlib import Path

from datasets.layouts.walk import list_images
from datasets.splits import Sample


def scan_mvtec_layout(root: Path, names: Sequence[str]) -> tuple[list[Sample], list[str]]:
    """Scan <category>/{train,test,ground_truth}/<defect>/*; return samples and faults.

    The mask of <stem>.* is <stem>_mask.* or <stem>.*; an anomalous image without one is a fault.
    """
    samples, faults = [], []
    for category in names:
        for path in list_images(root / category / "train" / "good"):
            image = path.relative_to(root).as_posix()
            samples.append(Sample(category, "train", 0, "good", image, ""))
        tests = root / category / "test"
        for folder in sorted(tests.iterdir()) if tests.is_dir() else []:
            defect, label = folder.name, int(folder.name != "good")
            masks = {
                path.stem: path for path in list_images(root / category / "ground_truth" / defect)
            }
            for path in list_images(folder):
                mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
                if label and mask is None:
                    faults.append(f"{path}: it has no mask in ground_truth/{defect}")
                    continue
                image = path.relative_to(root).as_posix()
                mask_path = mask.relative_to(root).as_posix() if label else ""
                samples.append(Sample(category, "test", label, defect, image, mask_path))
    return samples, faults
