"""Train the demo CLIP from scratch on rendered pictures alone.

    python tools/train_demo_clip.py            # about 50 minutes on 2 cores
    python tools/train_demo_clip.py --steps 50 # a trial

Renders its own training pictures (products of the roles "seen" and "training", never an "unseen"
one) and writes models/demo_clip/demo-clip.safetensors in half precision and training.json. The
model is open_clip's own architecture (models/demo_clip/demo-clip.json) with CLIP's tokenizer.
The loss is contrastive, on captions from WinCLIP's prompt ensemble: of whole pictures without half
of their patches, of windows, and of single patches.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from models.clip import finish_block, project, split_heads
from models.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, words
from models.weights import load_clip
from models.windows import window_indices
from tools.demo_views import (
    IGNORE,
    Pool,
    augmented,
    choose_windows,
    coverage,
    labels_of,
    make_pool,
)
from utils.errors import exit_with_sentence
from utils.files import atomic_path, write_text
from utils.options import parse_options

FOLDER = Path(__file__).resolve().parents[1] / "models" / "demo_clip"
TEMPERATURE = 0.07  # as in WinCLIP's scores
WINDOWS = {2: 4, 3: 4, 6: 2}  # views of each picture: windows of so many patches a side, how many
LEAST_PICTURE, LEAST_WINDOW, LEAST_PATCH = 0.001, 0.04, 0.15  # covered shares that count as damage
WARM_UP = 100  # steps
WHOLE_FROM = 0.85  # share of the training after which pictures keep all their patches
SAVE_EVERY = 500  # steps


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    steps: int = 2600
    """Steps of the optimiser."""
    batch: int = 16
    """Pictures in a step."""
    per_product: int = 240
    """Pictures rendered of each product."""
    rate: float = 1.5e-3
    """Highest learning rate."""
    decay: float = 0.05
    """Weight decay."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    folder: Path = FOLDER
    """Where the weights are written."""


class Captions:
    """Prompts of the ensemble, as tokens: one normal and one anomalous one for each name."""

    def __init__(self, tokenizer, names: tuple[str, ...], rng: np.random.Generator):
        self.tokenizer, self.rng = tokenizer, rng
        self.names = [words(name) for name in names]
        self.vocabulary = [word for word in tokenizer.encoder if word.endswith("</w>")]
        self.vocabulary = [word[:-4] for word in self.vocabulary if word[:-4].isalpha()]

    def draw(self, foreign: bool) -> Tensor:
        """Tokens (2 K, L): normal, then anomalous; `foreign` names are any words there are.

        Foreign names teach the text tower that the state counts, whatever the product is called.
        """
        names = self.names
        if foreign:
            counts = self.rng.integers(1, 3, len(names))
            names = [" ".join(self.rng.choice(self.vocabulary, count)) for count in counts]
        normal = [self.caption(name, NORMAL_STATES) for name in names]
        anomalous = [self.caption(name, ANOMALOUS_STATES) for name in names]
        tokens = self.tokenizer(normal + anomalous)
        return tokens[:, : int(tokens.argmax(dim=1).max()) + 1]

    def caption(self, name: str, states: tuple[str, ...]) -> str:
        """A name in a random state and template."""
        template, state = self.rng.choice(TEMPLATES), self.rng.choice(states)
        return template.format(state.format(name))


def embed_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Prompts (P, L) to embeddings (P, E) of length 1."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x)), tokens.argmax(dim=-1)])
    return F.normalize(x @ model.text_projection, dim=-1)


def embed_patches(visual: nn.Module, pixels: Tensor) -> Tensor:
    """Class token and patches before the blocks: (B, 3, H, W) to (B, 1 + N, D)."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    classes = visual.class_embedding.expand(len(patches), 1, -1)
    return visual.ln_pre(torch.cat([classes, patches], dim=1) + visual.positional_embedding)


def embed_tokens(visual: nn.Module, x: Tensor) -> Tensor:
    """All blocks: (S, T, D) to embeddings (S, T, E) of length 1 of every token."""
    for block in visual.transformer.resblocks:
        heads = block.attn.num_heads
        q, k, v = (split_heads(part, 1, heads) for part in project(block, x))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = finish_block(block, x, attended)
    return F.normalize(visual.ln_post(x) @ visual.proj, dim=-1)


def pick(tokens: Tensor, chosen: Tensor) -> Tensor:
    """The class token and chosen patches: (B, 1 + N, D) and (B, T) to (B, 1 + T, D)."""
    rows = torch.cat([torch.zeros_like(chosen[:, :1]), chosen + 1], dim=1)
    return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))


def state_loss(
    views: Tensor, texts: Tensor, product: Tensor, labels: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy between the normal and the anomalous caption of each view's own product.

    `views` (V, E), `texts` (2 K, E), `product` (V,) in 0..K-1, `labels` (V,) 0, 1 or IGNORE.
    """
    pairs = texts.unflatten(0, (2, -1)).transpose(0, 1)[product]  # (V, 2, E)
    logits = (pairs @ views[..., None])[..., 0] / TEMPERATURE
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE)


def caption_loss(views: Tensor, texts: Tensor, product: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over all captions of the step: the view's product in its state is right."""
    right = torch.where(labels == IGNORE, IGNORE, labels * (len(texts) // 2) + product)
    return F.cross_entropy(views @ texts.T / TEMPERATURE, right, ignore_index=IGNORE)


class Trainer:
    """One training run."""

    def __init__(self, options: Options, pool: Pool):
        self.options, self.pool = options, pool
        torch.manual_seed(options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        clip = load_clip(str(FOLDER / "demo-clip.json"), "random")
        self.model = clip.model.to(options.device).train()
        self.size, self.patch = clip.image_size, self.model.visual.patch_size[0]
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (clip.mean, clip.std))
        self.captions = Captions(clip.tokenizer, pool.names, self.rng)
        grid = self.model.visual.grid_size
        self.windows = [(window_indices(grid, side), n) for side, n in WINDOWS.items()]
        grouped = [[], []]
        for value in self.model.parameters():
            grouped[value.ndim < 2].append(value)
        groups = [{"params": grouped[0], "weight_decay": options.decay}]
        groups += [{"params": grouped[1], "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, 3, H, W), covered shares of patches (B, N), products (B,)."""
        rows = self.rng.integers(0, len(self.pool.pictures), self.options.batch)
        views = [
            augmented(self.pool.pictures[row], self.pool.masks[row], self.size, self.rng)
            for row in rows
        ]
        pixels = torch.from_numpy(np.stack([picture for picture, _ in views])).permute(0, 3, 1, 2)
        masks = torch.from_numpy(np.stack([mask for _, mask in views]))
        share = coverage(masks, self.patch)
        return (pixels - self.mean) / self.std, share, torch.from_numpy(self.pool.product[rows])

    def loss(self, whole: bool) -> Tensor:
        """The loss of one batch; `whole` pictures keep all their patches."""
        device = self.options.device
        pixels, share, product = self.batch()
        named = embed_text(self.model, self.captions.draw(foreign=False).to(device))
        foreign = embed_text(self.model, self.captions.draw(foreign=True).to(device))
        tokens = embed_patches(self.model.visual, pixels.to(device))
        count = share.shape[1] if whole else share.shape[1] // 2
        kept = torch.multinomial(torch.ones_like(share), count, generator=self.generator)
        found = embed_tokens(self.model.visual, pick(tokens, kept.to(device)))
        left = share.gather(1, kept)
        total = self.view_loss(
            found[:, 0], (named, foreign), product, labels_of(left.mean(1), LEAST_PICTURE)
        )
        dense = labels_of(left, LEAST_PATCH).flatten().to(device)
        own = product.repeat_interleave(count).to(device)
        rare = torch.tensor([1.0, 6.0], device=device)  # most patches are good
        total = total + state_loss(found[:, 1:].flatten(0, 1), named, own, dense, rare)
        for windows, each in self.windows:
            chosen, covered = choose_windows(windows, share, each, self.generator)
            spread = tokens.repeat_interleave(each, dim=0)
            seen = embed_tokens(self.model.visual, pick(spread, chosen.flatten(0, 1).to(device)))
            total = total + self.view_loss(
                seen[:, 0],
                (named, foreign),
                product.repeat_interleave(each),
                labels_of(covered.flatten(), LEAST_WINDOW),
            )
        return total

    def view_loss(
        self, views: Tensor, texts: tuple[Tensor, Tensor], product: Tensor, labels: Tensor
    ) -> Tensor:
        """Both contrasts for a group of views: with the product's name, and with foreign ones."""
        product, labels = product.to(views.device), labels.to(views.device)
        named, foreign = texts
        loss = 0.1 * caption_loss(views, named, product, labels)
        loss = loss + 0.5 * state_loss(views, named, product, labels)
        return loss + 0.5 * state_loss(views, foreign, product, labels)

    def train(self, save: Callable[[list[float]], None]) -> None:
        """All steps; `save` gets the losses so far, now and then and at the end."""
        steps, losses = self.options.steps, []
        progress = tqdm(range(steps), unit="step")
        for step in progress:
            warm = min(1.0, (step + 1) / WARM_UP)
            rate = self.options.rate * warm * 0.5 * (1 + np.cos(np.pi * step / steps))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss = self.loss(step >= WHOLE_FROM * steps)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            losses.append(loss.item())
            progress.set_description(f"loss {np.mean(losses[-50:]):.3f}")
            if len(losses) % SAVE_EVERY == 0 or len(losses) == steps:
                save(losses)


def write_weights(trainer: Trainer, losses: list[float], seconds: dict[str, float]) -> None:
    """The weights in half precision, and how they came about."""
    options = trainer.options
    state = {name: value.half().contiguous() for name, value in trainer.model.state_dict().items()}
    with atomic_path(options.folder / "demo-clip.safetensors") as temporary:
        save_file(state, temporary)
    record = {
        "steps_done": len(losses),
        "options": {k: v for k, v in asdict(options).items() if k != "folder"},
        "products": list(trainer.pool.names),
        "pictures": len(trainer.pool.pictures),
        "seconds": {stage: round(value) for stage, value in seconds.items()},
        "loss_first_50": float(np.mean(losses[:50])),
        "loss_last_50": float(np.mean(losses[-50:])),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "date": date.today().isoformat(),
    }
    write_text(options.folder / "training.json", json.dumps(record, indent=2) + "\n")


def main(options: Options) -> None:
    """Render, train, write."""
    start = time.perf_counter()
    pool = make_pool(options.per_product, options.seed, workers=torch.get_num_threads())
    rendered = time.perf_counter()
    print(f"rendered {len(pool.pictures)} pictures in {rendered - start:.0f} s", flush=True)
    trainer = Trainer(options, pool)

    def save(losses: list[float]) -> None:
        seconds = {"render": rendered - start, "train": time.perf_counter() - rendered}
        write_weights(trainer, losses, seconds)

    trainer.train(save)
    print(f"written to {options.folder}")


if __name__ == "__main__":
    exit_with_sentence(lambda: main(parse_options(Options(), __doc__, Path(__file__))))
