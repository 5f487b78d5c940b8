"""InCTRL: scores from residuals to a few normal images (Zhu and Pang, CVPR 2024, arXiv 2403.06495).

A frozen CLIP embeds an image and its references; trained heads turn the residuals between them into
a score. In the paper's notation, M is the map of patch residuals, psi the adapter, and s_i and s_a
are scores of the image embedding: of its residual, and by the prompts.
Shapes: B images, N patches of width D, E the joint width, M reference images, R reference sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip.blocks import run_block
from models.clip.device import without_cudnn_attention
from models.clip.encoder import embed_patches, finish_class_tokens
from models.clip.text import encode_states
from models.clip.weights import LoadedClip
from models.inctrl_weights import BLOCKS, TrainedHeads
from models.prompts import prompt_ensemble, spaced_words
from models.winclip import TextBank, VisualBank, nearest_distances, visual_association_score

TEMPERATURE = 0.01  # of s_a: cosines are multiplied by 100


@dataclass(frozen=True)
class InCtrlFeatures:
    """The embeddings of a batch of images, not normalised."""

    image: Tensor  # (B, E) the image embeddings
    blocks: tuple[Tensor, ...]  # (B, N, D) the patch tokens of each of BLOCKS

    @staticmethod
    def concatenate(batches: "Sequence[InCtrlFeatures]") -> "InCtrlFeatures":
        """Join batches (one or more) along B, in their order."""
        blocks = tuple(map(torch.cat, zip(*(batch.blocks for batch in batches), strict=True)))
        return InCtrlFeatures(torch.cat([batch.image for batch in batches]), blocks)


class InCtrl:
    """A `models.methods.Method` that scores images in few-shot runs; it has no maps."""

    has_maps, map_blur = False, 0.0
    bank_leave_one_out = False

    def __init__(self, clip: LoadedClip, trained: TrainedHeads):
        self.model, self.tokenizer, self.image_size = clip.model, clip.tokenizer, clip.image_size
        self.device = clip.model.visual.class_embedding.device
        self.heads = trained.heads.to(self.device)
        self.checkpoint, self.notes = trained.checkpoint, trained.notes

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> InCtrlFeatures:
        """Embed images (B, 3, S, S), normalised as open_clip's transform does, in float32."""
        visual, layers = self.model.visual, []
        with without_cudnn_attention():
            tokens = embed_patches(visual, pixels.to(self.device, visual.class_embedding.dtype))
            for number, block in enumerate(visual.transformer.resblocks[:-1], start=1):
                tokens = run_block(block, tokens)
                if number in BLOCKS:
                    layers.append(tokens[:, 1:].to(torch.float32, copy=True))
            return InCtrlFeatures(finish_class_tokens(visual, tokens), tuple(layers))

    def text_bank(self, category: str) -> TextBank:
        """Return the embeddings of a category's two states: the paper's prompts of WinCLIP."""
        prompts = prompt_ensemble(spaced_words(category))
        states = encode_states(self.model, self.tokenizer, *prompts)
        return TextBank.from_prompts(*states, TEMPERATURE, normalise_prompts=True)

    def visual_bank(self, references: InCtrlFeatures) -> VisualBank:
        """Return adapted image embeddings (M, E), then unit patch tokens per block (M, N, D)."""
        patches = (F.normalize(block, dim=-1) for block in references.blocks)
        return VisualBank((self.heads["adapter"](references.image), *patches))

    def score(
        self,
        features: InCtrlFeatures,
        text: TextBank,
        visual: VisualBank,
        reference_sets: Sequence[Tensor],
    ) -> tuple[Tensor, None]:
        """Return scores (R, B) in [0, 1], one per reference set, in order; no maps."""
        adapted, *blocks = visual.entries
        prototypes = torch.stack([adapted[rows].mean(dim=0) for rows in reference_sets])  # (R, E)
        residuals = prototypes[:, None] - self.heads["adapter"](features.image)  # (R, B, E)
        pairs = zip(features.blocks, blocks, strict=True)
        distances = [visual_association_score(*pair) for pair in pairs]  # per block (M, B, N)
        nearest = nearest_distances(distances, reference_sets)  # per block (R, B, N)
        patches = torch.stack(nearest).mean(dim=0)  # M: (R, B, N)
        scores = self._apply("diff_head_ref", residuals) + text.score(features.image)  # s_i + s_a
        holistic = self._apply("diff_head", patches + scores[..., None])
        return (holistic + patches.amax(dim=-1)) / 2, None

    def _apply(self, head: str, inputs: Tensor) -> Tensor:
        """Apply a head to every row: (R, B, width) to (R, B)."""
        return self.heads[head](inputs.flatten(0, 1)).view(inputs.shape[:2])
