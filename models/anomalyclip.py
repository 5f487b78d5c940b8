"""AnomalyCLIP: zero-shot scores and maps with learned prompts (Zhou et al., ICLR 2024).

A frozen CLIP compares an image with two prompts, whose words are mostly learned vectors, and its
patches with the same prompts. The patches come from a second stream of tokens, y, beside CLIP's
own, x: from the 6th of 24 blocks on, each token attends to the tokens with similar values.

This follows the authors' released code and checkpoints, not always their paper (docs/protocol.md).
Shapes: B images, N patches and a class token, D the width of the vision tower, E the joint width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.anomalyclip_weights import PROMPTS, LearnedPrompts
from models.clip.blocks import add_attention, add_mlp, attend, project_qkv, run_block
from models.clip.device import without_cudnn_attention
from models.clip.encoder import embed_patches, project
from models.clip.text import can_share_prefixes, project_ends, text_tower
from models.clip.towers import unsupported_tower
from models.clip.weights import LoadedClip
from models.winclip import Features, TextBank, VisualBank
from utils.cli import label
from utils.errors import InputError

IMAGE_SIZE = 518  # side of the input in pixels: 37 x 37 patches of 14 pixels
TEMPERATURE = 0.07
VV_BLOCKS = 19  # the last blocks of the vision tower, which have a second stream


class AnomalyClip:
    """Score images with CLIP and learned prompts, which are the same for every category.

    The position embedding of the vision tower is resized in place. Raises InputError for a model
    with other towers than CLIP's, with too few blocks, or with patches that do not fill the image.
    """

    image_size = IMAGE_SIZE
    has_maps = True
    bank_leave_one_out = False
    map_blur = 4 / 14  # 4 pixels of the input, in patches

    def __init__(self, clip: LoadedClip, prompts: LearnedPrompts):
        visual, text = clip.model.visual, text_tower(clip.model)
        if reason := unsupported_clip(visual, text):
            raise InputError(f"{label('model')}: {reason}; AnomalyCLIP needs ViT-L-14-336")
        self.visual, self.checkpoint, self.notes = visual, prompts.checkpoint, prompts.notes
        self.grid = (IMAGE_SIZE // visual.patch_size[0],) * 2
        positions = resize_positions(visual.positional_embedding, self.grid)
        visual.positional_embedding = nn.Parameter(positions, requires_grad=False)
        states = embed_states(text, clip.tokenizer(PROMPTS), prompts)
        self.bank = TextBank(F.normalize(states, dim=-1), TEMPERATURE)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.visual.class_embedding.device

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Features:
        """Embed images (B, 3, S, S): features without windows, whose patches are (B, N, E)."""
        visual = self.visual
        with without_cudnn_attention():
            x, y = run_streams(visual, pixels.to(self.device, visual.class_embedding.dtype))
            image = x[:, 0] @ visual.proj  # the released code leaves out ln_post here
            patches = project(visual, y[:, 1:])
        return Features(image.float(), (), patches, self.grid, ())

    def text_bank(self, category: str) -> TextBank:
        """Return the two states, which are the same for every category."""
        return self.bank

    def visual_bank(self, references: Features) -> VisualBank:
        """Raise NotImplementedError: the method has no use for reference images."""
        raise NotImplementedError("AnomalyCLIP is zero-shot")

    def score(
        self,
        features: Features,
        text: TextBank,
        visual: VisualBank | None,
        reference_sets: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Return scores (R, B) and maps (R, B, G_h, G_w), the same for all R reference sets."""
        scores, maps = text.score(features.image), text.score(features.patches)
        runs = len(reference_sets)
        return scores.expand(runs, -1), maps.unflatten(1, self.grid).expand(runs, -1, -1, -1)


def unsupported_clip(visual: nn.Module, text: nn.Module) -> str:
    """Return why AnomalyCLIP cannot use the two towers of a CLIP, "" if it can."""
    if reason := unsupported_tower(visual):
        return reason
    if not can_share_prefixes(text):
        return "its text tower is not like CLIP's"
    patch = visual.patch_size[0]
    if IMAGE_SIZE % patch:
        return f"its patches of {patch} pixels do not divide {IMAGE_SIZE}"
    if len(visual.transformer.resblocks) <= VV_BLOCKS:
        return f"its vision tower has no more than {VV_BLOCKS} blocks"
    return ""


def run_streams(visual: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embed images (B, 3, S, S): CLIP's tokens x, and y of the V-V stream, (B, 1 + N, D) each.

    In the second stream, softmax(V V^T / sqrt(d)) V takes the place of attention, and there is no
    MLP. Its values V are those of the first stream.
    """
    blocks = visual.transformer.resblocks
    x = embed_patches(visual, pixels)
    for block in blocks[:-VV_BLOCKS]:
        x = run_block(block, x)
    y = x
    for block in blocks[-VV_BLOCKS:]:
        queries, keys, values = project_qkv(block, x).chunk(3, dim=-1)
        heads = block.attn.num_heads
        y = add_attention(block, y, attend(values, values, values, heads))
        x = add_mlp(block, add_attention(block, x, attend(queries, keys, values, heads)))
    return x, y


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a position embedding (1 + N, D) bilinearly, without antialiasing, to another grid."""
    side = round((len(positions) - 1) ** 0.5)
    classes, patches = positions.detach().split([1, side * side])
    patches = patches.T.unflatten(1, (side, side))[None].float()
    patches = F.interpolate(patches, grid, mode="bilinear")[0].flatten(1).T
    return torch.cat([classes, patches.to(classes.dtype)])


@torch.inference_mode()
def embed_states(text: nn.Module, tokens: Tensor, prompts: LearnedPrompts) -> Tensor:
    """Embed the two prompts `tokens` (2, 77) with learned vectors: (2, E), not normalised.

    The vectors take the place of the tokens after the first one: the context before the first
    block, and the deep vectors of each later block, rounded to fp16 as the authors do, before it.
    """
    device = text.positional_embedding.device
    tokens = tokens.to(device)
    context, deep = prompts.context.to(device), prompts.deep.to(device).half()
    x = text.token_embedding(tokens)
    x[:, 1 : 1 + context.shape[1]] = context
    x = x + text.positional_embedding
    for index, block in enumerate(text.transformer.resblocks):
        if 1 <= index <= len(deep):
            x[:, 1 : 1 + deep.shape[1]] = deep[index - 1]
        x = run_block(block, x, text.attn_mask)
    ends = tokens.argmax(dim=-1)  # the end token has the highest id
    return project_ends(text, x[torch.arange(len(x), device=device), ends])
