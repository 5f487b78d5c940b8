"""Small datasets in the layouts of MVTec AD, VisA and MPDD."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def make_image(rng: np.random.Generator, height: int, width: int, spot: tuple | None) -> np.ndarray:
    """Make a smooth texture (H, W, 3); `spot` (top, left, side) is a bright square on it."""
    coarse = rng.integers(60, 160, (6, 6, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    if spot:
        top, left, side = spot
        image[top : top + side, left : left + side] = 250
    return image


def save_pair(rng, image: Path, mask: Path | None, size: tuple[int, int], value: int = 255) -> None:
    """Write an image and, if it is anomalous, its mask; create their folders."""
    height, width = size
    side = min(size) // 4
    spot = (rng.integers(height - side), rng.integers(width - side), side) if mask else None
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_image(rng, height, width, spot)).save(image)
    if mask:
        top, left, _ = spot
        pixels = np.zeros(size, np.uint8)
        pixels[top : top + side, left : left + side] = value
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(mask)


def make_mvtec(
    root: Path,
    categories: Sequence[str] = ("bottle", "metal_nut"),
    train: int = 4,
    good: int = 3,
    defects: Sequence[str] = ("crack", "hole"),
    each: int = 2,
    size: tuple[int, int] = (96, 96),
    mask_suffix: str = "_mask",
) -> Path:
    """Write <category>/{train,test,ground_truth}, `each` images per defect; return `root`."""
    rng = np.random.default_rng(0)
    for category in categories:
        for kind, count in (("train", train), ("test", good)):
            for number in range(count):
                path = root / category / kind / "good" / f"{number:03}.png"
                save_pair(rng, path, None, size)
        for defect in defects:
            for number in range(each):
                image = root / category / "test" / defect / f"{number:03}.png"
                name = f"{number:03}{mask_suffix}.png"
                save_pair(rng, image, root / category / "ground_truth" / defect / name, size)
    return root


def make_visa(
    root: Path,
    objects: Sequence[str] = ("capsules", "pcb1"),
    train: int = 4,
    test: int = 3,
    size: tuple[int, int] = (96, 144),
) -> Path:
    """Write VisA's folders and split_csv/1cls.csv; masks have small defect ids, names overlap."""
    rng = np.random.default_rng(1)
    lines = ["object,split,label,image,mask"]
    for name in objects:
        data = f"{name}/Data"
        for number in range(train + test):
            image = f"{data}/Images/Normal/{number:03}.JPG"
            save_pair(rng, root / image, None, size)
            lines.append(f"{name},{'train' if number < train else 'test'},normal,{image},")
        for number in range(test):
            image = f"{data}/Images/Anomaly/{number:03}.JPG"
            mask = f"{data}/Masks/Anomaly/{number:03}.png"
            save_pair(rng, root / image, root / mask, size, value=number + 1)
            lines.append(f"{name},test,anomaly,{image},{mask}")
    (root / "split_csv").mkdir(parents=True, exist_ok=True)
    (root / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    return root
