"""The one Dataset: an image of a split as tiles for the encoder, and its mask for the metrics.

Decoding, conversion to RGB and resizing are those of open_clip's own transform, bit for bit, for
square RGB and grey images. Everything else is named here: other modes are converted before they
are resized, images that are not square become overlapping tiles or are squashed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from datasets.decode import read_anomalous, read_image
from datasets.splits import Sample
from datasets.tiles import tile_boxes, tile_count
from utils.errors import InputError

Resize = Literal["tile", "squash"]
MAX_TILES = 32  # of one image; a longer strip is no picture for CLIP, and a batch must fit


@dataclass(frozen=True)
class Item:
    """One image, ready to be encoded and evaluated; or the sentence that says why it is not.

    Pixels are tensors, because those go from a worker process through shared memory: through the
    pipe, a worker whose run was killed would wait for ever for somebody to read them.
    """

    index: int  # of its row in the samples
    tiles: Tensor  # (T, 3, S, S) uint8
    mask: Tensor  # (H, W) bool at the evaluation shape; all False for a good image
    size: tuple[int, int]  # height and width of the source image in pixels
    error: str = ""


class ImageDataset(Dataset):
    """The images of some rows of a split.

    `side` is the encoder's input in pixels; `resize` as in `Protocol`; `eval_size` the shorter
    side of maps and masks in the metrics, or "source" for each image's own shape; `apply_exif` turns
    photos as their EXIF says (a benchmark's masks fit the pixels as they are stored).
    """

    def __init__(
        self,
        root: Path,
        samples: list[Sample],
        side: int,
        resize: Literal["tile", "squash"],
        eval_size: int | Literal["source"],
        apply_exif: bool = False,
    ):
        self.root = root
        self.samples = samples
        self.side = side
        self.resize = resize
        self.eval_size = eval_size
        self.apply_exif = apply_exif

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, image: str) -> Image.Image:
        """An image of the samples, decoded."""
        return read_image(self.root / image, self.apply_exif)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        try:
            image = self.read(sample.image)
            if self.resize == "tile" and tile_count(image.height, image.width) > MAX_TILES:
                raise InputError(
                    f"{self.root / sample.image} is {image.width} x {image.height} pixels, more "
                    f"than {MAX_TILES} square tiles; cut it up, or set --resize squash"
                )
            tiles = cut_tiles(image, self.side, self.resize)
            shape = eval_shape(image.height, image.width, self.eval_size, self.resize)
            mask = torch.zeros(shape, dtype=torch.bool)
            if sample.mask:
                mask = torch.tensor(read_mask(self.root / sample.mask, image.size, shape))
            return Item(index, tiles, mask, (image.height, image.width))
        except InputError as error:
            # A worker process cannot raise one clean sentence; it hands it over instead.
            return Item(index, torch.empty(0), torch.empty(0), (0, 0), str(error))


def cut_tiles(image: Image.Image, side: int, resize: Literal["tile", "squash"]) -> Tensor:
    """Resize to the encoder's input and cut square tiles: (T, 3, side, side) uint8.

    "tile": the shorter side to `side`, bicubic, as open_clip's own transform; then as many tiles
    along the longer side as cover it. "squash": both sides to `side`, one tile.
    """
    target = [side, side] if resize == "squash" else [side]
    pixels = T.pil_to_tensor(T.resize(image, target, InterpolationMode.BICUBIC))
    height, width = pixels.shape[-2:]
    boxes = tile_boxes(height, width, tile_count(height, width))
    tiles = [pixels[:, top : top + edge, left : left + edge] for top, left, edge in boxes]
    return torch.stack(tiles)


def normalise(tiles: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 pixels (T, 3, S, S) to open_clip's input, by the steps of its own transform."""
    scaled = tiles.to(torch.float32).div(255)
    return T.normalize(scaled, list(mean), list(std))


def eval_shape(
    height: int,
    width: int,
    eval_size: int | Literal["source"],
    resize: Literal["tile", "squash"],
) -> tuple[int, int]:
    """The (height, width) at which an image's map is compared with its mask.

    A number is the shorter side, the longer in proportion ("tile") or the same ("squash").
    """
    if eval_size == "source":
        return height, width
    if resize == "squash":
        return eval_size, eval_size
    short, long = sorted((height, width))
    longer = int(eval_size * long / short)  # torchvision's own rule for the longer side
    return (eval_size, longer) if height <= width else (longer, eval_size)


def read_mask(path: Path, image_size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Read a mask of an anomalous image: (H, W) bool at `shape`.

    `image_size` is (width, height) of its image, which it must have. Resized bilinearly (with
    Pillow's antialiasing) and cut at one half, as the public implementations do. A defect too
    small to leave any pixel keeps those where it covers most: a mask never vanishes.
    """
    anomalous = read_anomalous(path, image_size)
    if anomalous.shape == shape:
        return anomalous
    coverage = Image.fromarray(anomalous.astype(np.uint8) * 255)
    resized = np.asarray(T.resize(coverage, list(shape), InterpolationMode.BILINEAR)) > 127
    if resized.any():
        return resized
    exact = np.asarray(T.resize(coverage.convert("F"), list(shape), InterpolationMode.BILINEAR))
    return exact == exact.max()
