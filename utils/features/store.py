"""Keep the features of images, so that the images can be scored again without the encoder.

features.json                   what the features depend on besides the images: the encoding
ln_post.safetensors             weight and bias of the tower's last normalisation
<resize>/<image>.safetensors    the features of one image's T tiles, not normalised:
    image           (T, E) image embeddings
    windows_<scale> (T, W, E) window embeddings
    pre_ln, penultimate     (T, N, D) patch tokens; post_ln is ln_post(pre_ln)
    crops_<variant> (T, C, E) embeddings of crops, for each variant of MULTI_CROP that was encoded

A file's metadata are the image's path, the sha256 of its file, its size in pixels, the grid of
patches, and the sha256 of the encoding. `<resize>` is tile or squash. A square image has the same
pixels with both, so each can use the other's file; so can centre_crop, whose runs keep no features.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datasets.tiles import MultiCrop, Resize
from models.clip.features import AllFeatures
from utils.cli import offers
from utils.errors import ANOTHER_FOLDER, InputError, describe_error
from utils.files import atomic_path, sha256_of, write_text
from utils.results.folder import FEATURES_JSON, describe_changes, read_json, summarise_changes

CROPS = "crops_"  # starts the names of the tensors of crops
LN_POST = "ln_post.safetensors"
METADATA = "features"  # the entry of a file's header that holds them, as JSON
PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
MAX_NAME_BYTES = 255 - len(".safetensors")  # of an image, as file systems allow 255


@dataclass(frozen=True)
class FeatureStore:
    """The features of images in `folder`, one file per image.

    `encoding` is a JSON object: what the features depend on besides the images. Its keys scales
    and features_precision ("fp16" or "fp32") are read here. In a `strict` store, damaged files and
    features of changed images are errors; in others, `match_stores` passes them over.
    """

    folder: Path
    encoding: Mapping
    resize: Resize
    strict: bool = True

    def check_encoding(self) -> None:
        """Raise `InputError` if the features in the folder have another encoding."""
        if changes := describe_changes(read_encoding(self.folder), self.encoding, self.encoding):
            raise InputError(
                f"{summarise_changes(changes)}: choose {ANOTHER_FOLDER}"
                f"{' or --features' if offers('features') else ''}, or to use the features in "
                f"{self.folder}, undo the change"
            )

    def create(self, ln_post: nn.Module) -> None:
        """Create the store if there is none; `ln_post` is the tower's.

        Raises `InputError` if there is one of another encoding.
        """
        if not (self.folder / FEATURES_JSON).exists():
            tensors = {name: value.cpu() for name, value in ln_post.state_dict().items()}
            with atomic_path(self.folder / LN_POST) as path:
                metadata = json.dumps({"eps": getattr(ln_post, "eps", None)})
                path.write_bytes(save(tensors, {METADATA: metadata}))
            text = json.dumps({"encoding": self.encoding}, indent=2) + "\n"
            write_text(self.folder / FEATURES_JSON, text)
        self.check_encoding()

    @property
    def precision(self) -> str:
        """Return the precision of the features, a key of PRECISIONS."""
        return self.encoding["features_precision"]

    @cached_property
    def ln_post(self) -> nn.Module:
        """The tower's last normalisation, on the CPU."""
        tensors, metadata = read_tensors(self.folder / LN_POST)
        if not tensors:
            return nn.Identity()
        weight = tensors["weight"]
        layer = nn.LayerNorm(len(weight), metadata["eps"], dtype=weight.dtype)
        layer.load_state_dict(tensors)
        return layer

    def has(self, image: str, source: Path) -> bool:
        """Return whether the store has the features of an image, whose file is `source`.

        Raises `InputError` for a damaged file and for the features of another image.
        """
        file = self.find(image)
        if file is None or not source.is_file():  # decoding reports the missing file
            return False
        metadata, expected = read_metadata(file), self._metadata(image, sha256_of(source))
        changed = [name for name in expected if metadata.get(name) != expected[name]]
        if changed:
            raise InputError(
                f"{file} does not hold the features of {source} (its {' and '.join(changed)} "
                f"{'differs' if len(changed) == 1 else 'differ'}); delete it to have the image "
                "encoded again, or use another folder"
            )
        return True

    def has_crops(self, image: str, variants: Collection[MultiCrop]) -> bool:
        """Return whether the file of an image has the crops of some variants.

        Raises `InputError` for a missing or damaged file.
        """
        file = self.find(image)
        with damaged_file(file), safe_open(file, "pt") as stream:
            return {f"{CROPS}{name}" for name in variants} <= set(stream.keys())

    def read(
        self,
        image: str,
        variants: Collection[MultiCrop] = (),
        scales: Sequence[int] | None = None,
    ) -> AllFeatures:
        """Return the features of an image's T tiles, on the CPU, in the precision of the store.

        Their crops are those of `variants`, and their windows those of `scales` (None: all). Raises
        `InputError` for a missing or damaged file.
        """
        tensors, metadata = read_tensors(self.find(image) or self._path(image, self.resize))
        scales = tuple(self.encoding["scales"] if scales is None else scales)
        return AllFeatures(
            image=tensors["image"],
            windows=tuple(tensors[f"windows_{scale}"] for scale in scales),
            pre_ln=tensors["pre_ln"],
            penultimate=tensors["penultimate"],
            ln_post=self.ln_post,
            grid=tuple(metadata["grid"]),
            scales=scales,
            crops={name: tensors[f"{CROPS}{name}"] for name in variants},
        )

    def round(self, features: AllFeatures) -> AllFeatures:
        """Return features in the precision of the store; raise `InputError` after an overflow."""
        dtype = PRECISIONS[self.precision]
        rounded = features.map(lambda tensor: tensor.to(dtype))
        tensors = [rounded.image, *rounded.windows, rounded.pre_ln, rounded.penultimate]
        tensors += rounded.crops.values()
        if dtype == torch.float16 and not all(tensor.isfinite().all() for tensor in tensors):
            raise InputError(
                "a feature exceeds 65504, the largest number of fp16; use --features-precision fp32"
            )
        return rounded

    def write(self, image: str, sha256: str, size: tuple[int, int], features: AllFeatures) -> None:
        """Write the features of an image's T tiles, which `round` returned, atomically.

        `sha256` is that of the image's file, and `size` its height and width in pixels.
        """
        tensors = {"image": features.image, "pre_ln": features.pre_ln}
        tensors["penultimate"] = features.penultimate
        windows = zip(features.scales, features.windows, strict=True)
        tensors |= {f"windows_{scale}": tensor for scale, tensor in windows}
        tensors |= {f"{CROPS}{name}": tensor for name, tensor in features.crops.items()}
        metadata = self._metadata(image, sha256)
        metadata |= {"size": size, "grid": features.grid}
        # One entry, because safetensors writes several in random order.
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        data = save(tensors, {METADATA: json.dumps(metadata)})
        with atomic_path(self._path(image, self.resize)) as path:
            path.write_bytes(data)

    def _metadata(self, image: str, sha256: str) -> dict:
        """Return the metadata that identify an image and its encoding."""
        encoding = json.dumps(self.encoding, sort_keys=True).encode()
        checksum = hashlib.sha256(encoding).hexdigest()
        return {"image": image, "sha256": sha256, "encoding": checksum}

    def find(self, image: str) -> Path | None:
        """Return the existing file of an image; None if there is none."""
        path = self._path(image, self.resize)
        if path.exists():
            return path
        for resize in get_args(Resize):
            other = self._path(image, resize)
            if resize != self.resize and other.exists():
                height, width = read_metadata(other)["size"]
                return other if height == width else None
        return None

    def _path(self, image: str, resize: Resize) -> Path:
        """Return the path of an image's file; unsuitable paths are replaced by their checksum."""
        path = PurePosixPath(image)
        if path.is_absolute() or ".." in path.parts or len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            image = hashlib.sha256(os.fsencode(image)).hexdigest()
        return self.folder / resize / f"{image}.safetensors"


def read_encoding(folder: Path) -> dict:
    """Return the encoding of the features in `folder`."""
    return read_json(folder / FEATURES_JSON, "encoding")["encoding"]


def read_metadata(file: Path) -> dict:
    """Return the metadata of a safetensors file; raise `InputError` if it is damaged."""
    with damaged_file(file), safe_open(file, "pt") as stream:
        return json.loads(stream.metadata()[METADATA])


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and metadata of a file; raise `InputError` if it is damaged."""
    with damaged_file(file), safe_open(file, "pt") as stream:
        names = stream.keys()
        tensors = {name: stream.get_tensor(name) for name in names}
        return tensors, json.loads(stream.metadata()[METADATA])


@contextmanager
def damaged_file(file: Path) -> Iterator[None]:
    """Raise `InputError` if the block cannot read a file of the store."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        deleted = file.parent if file.name == LN_POST else file
        raise InputError(
            f"{file} is missing or damaged ({describe_error(error)}); delete {deleted} and start "
            "again: its features are then encoded again"
        ) from error
