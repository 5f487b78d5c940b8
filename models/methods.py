"""The protocol that a method of anomaly detection follows, so that one run can score with any."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.winclip import TextBank, VisualBank


class ImageFeatures(Protocol):
    """What a method computes from a batch of B images."""

    @staticmethod
    def concatenate(batches: "Sequence[ImageFeatures]") -> "ImageFeatures":
        """Join batches (one or more) along B, in their order."""


class Method(Protocol):
    """A frozen model that scores images by text, by reference images, or by both.

    `concatenate` of its features joins batches; rows are tiles, if an image is cut into several.
    """

    device: torch.device  # of the model and of all banks
    image_size: int  # side of the square input in pixels
    has_maps: bool  # False: image scores only

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
