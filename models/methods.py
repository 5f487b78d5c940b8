"""The protocol that a method of anomaly detection follows, so that one run can score with any."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states
from models.clip.weights import IN_CHECKPOINT, RANDOM, LoadedClip, Weights
from models.winclip import CropAverage, Features, TextBank, VisualBank, winclip

MethodName = Literal["winclip", "anomalyclip", "inctrl"]

# The backbone of each method: open_clip's name of the model, and of its weights.
BACKBONES: dict[MethodName, tuple[str, str]] = {
    "winclip": ("ViT-B-16-plus-240", "laion400m_e31"),
    "anomalyclip": ("ViT-L-14-336", "openai"),
    "inctrl": ("ViT-B-16-plus-240", IN_CHECKPOINT),
}


@dataclass(frozen=True)
class Abilities:
    """The runs that a method can score."""

    zero_shot: bool  # without reference images
    few_shot: bool  # with reference images
    names_category: bool  # in its prompts


ABILITIES: dict[MethodName, Abilities] = {
    "winclip": Abilities(zero_shot=True, few_shot=True, names_category=True),
    "anomalyclip": Abilities(zero_shot=True, few_shot=False, names_category=False),
    "inctrl": Abilities(zero_shot=False, few_shot=True, names_category=True),
}


class ImageFeatures(Protocol):
    """The embeddings that a method computes from a batch of B images.

    A row is an image, or a tile if images are cut into several.
    """

    @staticmethod
    def concatenate(batches: "Sequence[ImageFeatures]") -> "ImageFeatures":
        """Join batches (one or more) along B, in their order."""


class Method(Protocol):
    """A frozen model that scores images by text, by reference images, or by both."""

    device: torch.device  # of the model and of all banks
    image_size: int  # side of the square input in pixels
    has_maps: bool  # False: image scores only
    bank_leave_one_out: bool  # True: `models.leave_one_out` scores references by the bank alone
    map_blur: float  # deviation of a Gaussian on upsampled maps, in patches; 0: none
    checkpoint: Weights | None  # what the method has learned besides the backbone, if anything
    notes: tuple[str, ...]  # warnings to show beside every result

    def encode_images(self, pixels: Tensor) -> ImageFeatures:
        """Embed images (B, 3, S, S), normalised as open_clip's transform does."""

    def text_bank(self, category: str) -> TextBank:
        """Return the embeddings of the normal and the anomalous state of a category."""

    def visual_bank(self, references: ImageFeatures) -> VisualBank:
        """Return the bank of M reference images: entries with M rows each, in their order."""

    def score(
        self,
        features: ImageFeatures,
        text: TextBank,
        visual: VisualBank | None,
        reference_sets: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor | None]:
        """Return scores (R, B) and, with `has_maps`, maps (R, B, G_h, G_w).

        One for each reference set, in order: a tensor of row indices into `visual`, or None for
        zero-shot.
        """


@dataclass(frozen=True)
class WinClip:
    """WinCLIP, and WinCLIP+ for reference sets, as a `Method`.

    Without maps, the encoder must have no scales: zero-shot scores are those of the image
    embedding, which maps do not change, and WinCLIP+ compares patch tokens alone.
    """

    clip: LoadedClip
    encoder: WindowedEncoder | None  # None if no image needs to be encoded
    prompts: Callable[[str], tuple[list[str], list[str]]]  # normal and anomalous, by category
    temperature: float
    normalise_prompts: bool
    crop_average: CropAverage
    has_maps: bool = True
    bank_leave_one_out = True
    map_blur = 0.0
    checkpoint = None
    notes = ()

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.clip.model.parameters()).device

    @property
    def image_size(self) -> int:
        """Return the side of the input in pixels."""
        return self.clip.image_size

    def encode_images(self, pixels: Tensor) -> Features:
        """Embed images and their windows, as `WindowedEncoder.encode_images` does."""
        return self.encoder.encode_images(pixels)

    def text_bank(self, category: str) -> TextBank:
        """Return the text bank of a category, built from its prompt ensemble."""
        prompts = self.prompts(category)
        normal, anomalous = encode_states(self.clip.model, self.clip.tokenizer, *prompts)
        return TextBank.from_prompts(normal, anomalous, self.temperature, self.normalise_prompts)

    def visual_bank(self, references: Features) -> VisualBank:
        """Return the windows and patches of reference images."""
        return VisualBank.from_features(references)

    def score(
        self,
        features: Features,
        text: TextBank,
        visual: VisualBank | None,
        reference_sets: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scores and maps of `winclip`."""
        scores, maps = winclip(features, text, visual, reference_sets, self.crop_average)
        return scores, maps if self.has_maps else None


# The two functions below import in their branches, so that a run loads no method but its own.


def check_checkpoint(name: MethodName, checkpoint: str, dataset: str) -> None:
    """Raise InputError for a missing checkpoint and for one that was trained on `dataset`.

    Its tensors are not read, so that this takes little time before the backbone is loaded.
    """
    if checkpoint in ("", RANDOM):
        return
    from models.clip.checkpoints import find_checkpoint

    if name == "anomalyclip":
        from models.anomalyclip_weights import describe_training
    else:
        from models.inctrl_weights import describe_training
    describe_training(find_checkpoint(checkpoint), dataset)


def load_method(
    name: MethodName,
    clip: LoadedClip,
    checkpoint: str,
    dataset: str,
    prepare: Callable[[], None] = lambda: None,
) -> Method:
    """Build a method other than WinCLIP from its backbone and a checkpoint.

    `checkpoint` is a file, or "random". `clip` is in float32; `prepare` is called once it has all
    weights, and may move it to a device and reduce its precision. Raises InputError if the file is
    damaged, does not fit the backbone, or was trained on `dataset`, the name of a benchmark.
    """
    if name == "anomalyclip":
        from models.anomalyclip import AnomalyClip
        from models.anomalyclip_weights import read_prompts

        read, build = read_prompts, AnomalyClip
    else:
        from models.inctrl import InCtrl
        from models.inctrl_weights import read_heads

        read, build = read_heads, InCtrl
    learned = read(clip, checkpoint, dataset)
    prepare()
    return build(clip, learned)
