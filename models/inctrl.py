"""InCTRL: scores from residuals to a few normal images (Zhu and Pang, CVPR 2024, arXiv 2403.06495).

A frozen CLIP embeds an image and its references; trained heads turn the residuals between them into
a score. In the paper's notation, M is the map of patch residuals, psi the adapter, and s_i and s_a
are scores of the image embedding: of its residual, and by the prompts.
Shapes: B images, N patches of width D, E the joint width, M reference images, R reference sets.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.clip.blocks import add_attention, add_mlp, attend_from_class_token, run_block
from models.clip.checkpoints import check_tensors, read_checkpoint
from models.clip.device import without_cudnn_attention
from models.clip.encoder import embed_patches, unsupported_tower
from models.clip.text import encode_states
from models.clip.weights import RANDOM, RANDOM_SEED, LoadedClip, Weights
from models.prompts import prompt_ensemble, spaced_words
from models.winclip import Features, TextBank, VisualBank, nearest_distances
from utils.errors import InputError
from utils.files import user_path

BLOCKS = (7, 9, 11)  # whose patch tokens are compared, counted from 1
TEMPERATURE = 0.01  # of s_a: cosines are multiplied by 100


class InCtrl:
    """A `models.methods.Method` that scores images in few-shot runs; it has no maps.

    In its features, `windows` are the patch tokens of blocks 7 and 9, `patches` those of block 11.
    """

    has_maps, map_blur = False, 0.0

    def __init__(self, clip: LoadedClip, heads: nn.ModuleDict, checkpoint: Weights, note: str = ""):
        self.model, self.tokenizer, self.image_size = clip.model, clip.tokenizer, clip.image_size
        self.device = clip.model.visual.class_embedding.device
        self.heads = heads.to(self.device)
        self.checkpoint, self.notes = checkpoint, (note,) if note else ()

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Features:
        """Embed images (B, 3, S, S), normalised as open_clip's transform does, in float32."""
        visual, layers = self.model.visual, []
        *blocks, last = visual.transformer.resblocks
        with without_cudnn_attention():
            tokens = embed_patches(visual, pixels.to(self.device, visual.class_embedding.dtype))
            for number, block in enumerate(blocks, start=1):
                tokens = run_block(block, tokens)
                if number in BLOCKS:
                    layers.append(tokens[:, 1:].to(torch.float32, copy=True))
            attended = attend_from_class_token(last, tokens)
            classes = add_mlp(last, add_attention(last, tokens[:, 0], attended))
            image = (visual.ln_post(classes) @ visual.proj).float()
        return Features(image, tuple(layers[:-1]), layers[-1], tuple(visual.grid_size), ())

    def text_bank(self, category: str) -> TextBank:
        """Return the embeddings of a category's two states: the paper's prompts of WinCLIP."""
        prompts = prompt_ensemble(spaced_words(category))
        states = encode_states(self.model, self.tokenizer, *prompts)
        return TextBank.from_prompts(*states, TEMPERATURE, normalise_prompts=True)

    def visual_bank(self, references: Features) -> VisualBank:
        """Return adapted image embeddings (M, E), then unit patch tokens per block (M, N, D)."""
        patches = VisualBank.from_features(references).entries
        return VisualBank((self.heads["adapter"](references.image), *patches))

    def score(
        self, features: Features, text: TextBank, visual: VisualBank, sets: Sequence[Tensor]
    ) -> tuple[Tensor, None]:
        """Return scores (R, B) in [0, 1], one per set of one or more rows of `visual`; no maps."""
        adapted, *blocks = visual.entries
        prototypes = torch.stack([adapted[rows].mean(dim=0) for rows in sets])  # (R, E)
        residuals = prototypes[:, None] - self.heads["adapter"](features.image)  # (R, B, E)
        distances = VisualBank(tuple(blocks)).distances(features)  # per block (M, B, N)
        patches = torch.stack(nearest_distances(distances, sets)).mean(dim=0)  # M: (R, B, N)
        scores = self._apply("diff_head_ref", residuals) + text.score(features.image)  # s_i + s_a
        holistic = self._apply("diff_head", patches + scores[..., None])
        return (holistic + patches.amax(dim=-1)) / 2, None

    def _apply(self, head: str, inputs: Tensor) -> Tensor:
        """Apply a head to every row: (R, B, width) to (R, B)."""
        return self.heads[head](inputs.flatten(0, 1)).view(inputs.shape[:2])


def build_heads(clip: LoadedClip) -> nn.ModuleDict:
    """Build the trained layers with seeded random weights, named as in the released files.

    Raises InputError for a backbone without the blocks that InCTRL reads.
    """
    visual = clip.model.visual
    reason = unsupported_tower(visual)
    if not reason and len(visual.transformer.resblocks) <= BLOCKS[-1]:
        reason = f"its vision tower has no block after block {BLOCKS[-1]}"
    if reason:
        raise InputError(f"MODEL: {reason}; InCTRL needs ViT-B-16-plus-240 or a model like it")
    width, patches = visual.output_dim, len(visual.positional_embedding) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        down = nn.Linear(width, width // 4, bias=False)
        up = nn.Linear(width // 4, width, bias=False)
        psi = nn.Sequential(OrderedDict(fc=nn.Sequential(down, nn.ReLU(), up, nn.ReLU())))
        heads = {"diff_head_ref": score_head(width), "diff_head": score_head(patches)}
        return nn.ModuleDict({"adapter": psi} | heads).eval().requires_grad_(False)


def score_head(width: int) -> nn.Sequential:
    """Build a head that maps (B, width) to scores (B, 1) in (0, 1)."""
    layers = OrderedDict(projection1=nn.Linear(width, 128), relu1=nn.ReLU())
    layers |= OrderedDict(bn2=nn.BatchNorm1d(128), projection2=nn.Linear(128, 64), relu2=nn.ReLU())
    layers |= OrderedDict(bn3=nn.BatchNorm1d(64), projection3=nn.Linear(64, 1), last=nn.Sigmoid())
    return nn.Sequential(layers)


def load_method(clip: LoadedClip, checkpoint: str, dataset: str) -> InCtrl:
    """Load a released file, or "random": seeded random heads, and the backbone of `clip`.

    A file also holds the backbone, which replaces that of `clip`. Raises InputError for a file that
    is damaged, has other tensors, or was trained on `dataset`.
    """
    heads = build_heads(clip)
    if checkpoint == RANDOM:
        return InCtrl(clip, heads, Weights(RANDOM, "", f"random weights (seed {RANDOM_SEED})"))
    file = user_path(checkpoint)
    note = describe_training(file.absolute().parent.parts, dataset)
    tensors, sha256 = read_checkpoint(file)
    tensors = {k: t for k, t in tensors.items() if ".bn1." not in str(k)}  # never applied
    expected = clip.model.state_dict() | heads.state_dict()
    del expected["logit_scale"]  # not in the files, because the temperature is fixed
    check_tensors(tensors, {name: tuple(tensor.shape) for name, tensor in expected.items()}, file)
    for module in (clip.model, heads):
        module.load_state_dict(tensors, strict=False)
    return InCtrl(clip, heads, Weights(checkpoint, sha256, f"InCTRL ({file.name})"), note)


def describe_training(folders: Sequence[str], dataset: str) -> str:
    """Return on what and for how many shots a checkpoint was trained, by its folders' names.

    The files do not record it. The authors' folders are called 2, 4 and 8, by shots; a folder
    "trained-on-NAME" names the dataset. Raises InputError if that is `dataset`.
    """
    named = (name[11:] for name in map(str.lower, folders) if name.startswith("trained-on-"))
    if (trained_on := next(named, "UNKNOWN DATA")) == dataset:
        problem = f"trained on {dataset}, by the name of its folder, and so not for testing on it"
        raise InputError(f"CHECKPOINT: {problem}; give one that was trained on other data")
    shots = folders[-1] if {*folders[-1:]} & {"2", "4", "8"} else "AN UNKNOWN NUMBER OF"
    return f"CHECKPOINT TRAINED ON {trained_on} FOR {shots} SHOTS"
