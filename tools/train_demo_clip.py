"""Train the demo CLIP from scratch on rendered pictures alone.

    python tools/train_demo_clip.py             # 50 to 60 minutes on two cores
    python tools/train_demo_clip.py --steps 50  # a trial

Renders its own training pictures (products of the roles "seen" and "training", never an "unseen"
one) and writes demo-clip.safetensors in half precision and training.json, its record, into
result/demo_clip/. The model is open_clip's own architecture (models/demo_clip/demo-clip.json) with
CLIP's tokenizer. The loss is contrastive, on captions from WinCLIP's prompt ensemble: of whole
pictures, of windows, and of single patches.
"""

import json
import os
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
from safetensors.torch import save_file
from torch import Tensor, nn

from models.encoder import embed_patches
from models.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, words
from models.weights import RANDOM, load_clip
from models.windows import window_indices
from tools.demo_losses import (
    attention_loss,
    caption_loss,
    embed_text,
    embed_tokens,
    pick,
    spread_loss,
    state_loss,
)
from tools.demo_start import start_local
from tools.demo_views import Pool, augmented, choose_windows, coverage, labels_of, make_pool
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.files import atomic_path, sha256_of, write_text
from utils.log import progress_bar
from utils.results.folder import git_revision
from utils.run.process import reuse_freed_memory

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = PROJECT / "models" / "demo_clip" / "demo-clip.json"
CAPTION_WEIGHT, SPREAD_WEIGHT = 0.1, 0.2  # beside 1 for the states
WHOLE_WEIGHT, ATTENTION_WEIGHT = 2.0, 0.4  # of whole pictures, beside 1 for windows and patches
WINDOWS = {2: 3, 3: 3}  # views of each picture: windows of so many patches a side, how many
LEAST_PICTURE = 0.001  # covered shares that count as damage: of a picture, windows, a patch
LEAST_WINDOW = {2: 0.06, 3: 0.04}
LEAST_PATCH = 0.15
RARE = 6.0  # weight of a damaged patch; most are good
SPREAD_OVER = 512  # patches of a step that are kept apart
CLOSEST = (0.3, 0.7)  # smallest cut at first, and from CLOSEST_UNTIL of the steps on
CLOSEST_UNTIL = 0.6
WARM_UP = 50  # steps
SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    steps: int = 3200
    """Steps of the optimiser."""
    batch: int = 32
    """Pictures in a step."""
    per_product: int = 200
    """Pictures rendered of each product."""
    variety: int = 8
    """Times as many of the products of random make."""
    rate: float = 1e-3
    """Highest learning rate."""
    decay: float = 0.05
    """Weight decay."""
    seed: int = 0
    """Of the pictures and of all draws; what `start_local` leaves alone starts the same always."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    folder: Path = PROJECT / "result" / "demo_clip"
    """Where the weights are written."""

    def __post_init__(self) -> None:
        """Refuse what no training can have, before the pictures are drawn."""
        for name in ("steps", "batch", "per_product", "variety"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option}: {getattr(self, name)} is below 1; give more")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f'--device: no CUDA for "{self.device}" here; give cpu')


class Captions:
    """Prompts of the ensemble, as tokens: one normal and one anomalous one for each name."""

    def __init__(self, tokenizer, names: tuple[str, ...], rng: np.random.Generator):
        self.tokenizer, self.rng = tokenizer, rng
        self.names = [words(name) for name in names]
        self.vocabulary = [word for word in tokenizer.encoder if word.endswith("</w>")]
        # An array: to choose from a list, NumPy copies all of it every time.
        self.vocabulary = np.array([w[:-4] for w in self.vocabulary if w[:-4].isalpha()])

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


class Trainer:
    """One training run."""

    def __init__(self, options: Options, pool: Pool):
        self.options, self.pool = options, pool
        self.rng = np.random.default_rng(options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        clip = load_clip(str(CONFIG), RANDOM)
        start_local(clip.model.visual, self.generator)
        self.model = clip.model.to(options.device).train()
        self.size, self.patch = clip.image_size, self.model.visual.patch_size[0]
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (clip.mean, clip.std))
        self.captions = Captions(clip.tokenizer, pool.names, self.rng)
        grid = self.model.visual.grid_size
        self.windows = {side: window_indices(grid, side) for side in WINDOWS}
        grouped = [[], []]
        for value in self.model.parameters():
            grouped[value.ndim < 2].append(value)
        groups = [{"params": grouped[0], "weight_decay": options.decay}]
        groups += [{"params": grouped[1], "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))

    def batch(self, done: float) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, 3, H, W), covered shares of patches (B, N), products (B,).

        `done` is the share of the training behind: it starts with close looks at the defects.
        """
        rows = self.rng.integers(0, len(self.pool.pictures), self.options.batch)
        closest = float(np.interp(done, (0, CLOSEST_UNTIL), CLOSEST))
        pictures, masks = self.pool.pictures, self.pool.masks
        views = [augmented(pictures[row], masks[row], self.size, closest, self.rng) for row in rows]
        pixels = torch.from_numpy(np.stack([picture for picture, _ in views])).permute(0, 3, 1, 2)
        masks = torch.from_numpy(np.stack([mask for _, mask in views]))
        share = coverage(masks, self.patch)
        return (pixels - self.mean) / self.std, share, torch.from_numpy(self.pool.product[rows])

    def loss(self, done: float) -> Tensor:
        """The loss of one batch, `done` as in `batch`."""
        device, visual = self.options.device, self.model.visual
        pixels, share, product = self.batch(done)
        named = embed_text(self.model, self.captions.draw(foreign=False).to(device))
        foreign = embed_text(self.model, self.captions.draw(foreign=True).to(device))
        tokens = embed_patches(visual, pixels.to(device))
        found, looks = embed_tokens(visual, tokens)
        whole = labels_of(share.mean(1), LEAST_PICTURE)
        total = WHOLE_WEIGHT * self.view_loss(found[:, 0], (named, foreign), product, whole)
        look = attention_loss(looks, share.to(device), whole.to(device))
        total = total + ATTENTION_WEIGHT * look
        patches = found[:, 1:].flatten(0, 1)
        dense = labels_of(share, LEAST_PATCH).flatten().to(device)
        own = product.repeat_interleave(share.shape[1]).to(device)
        total = total + state_loss(patches, named, own, dense, torch.tensor([1.0, RARE]).to(device))
        some = torch.randperm(len(patches), generator=self.generator)[:SPREAD_OVER]
        total = total + SPREAD_WEIGHT * spread_loss(patches[some.to(device)])
        for side, each in WINDOWS.items():
            chosen, covered = choose_windows(self.windows[side], share, each, self.generator)
            spread = tokens.repeat_interleave(each, dim=0)
            cut = pick(spread, chosen.flatten(0, 1).to(device))
            seen = embed_tokens(visual, cut)[0][:, 0]
            labels = labels_of(covered.flatten(), LEAST_WINDOW[side])
            texts = named, foreign
            total = total + self.view_loss(seen, texts, product.repeat_interleave(each), labels)
            total = total + SPREAD_WEIGHT * spread_loss(seen)
        return total

    def view_loss(
        self, views: Tensor, texts: tuple[Tensor, Tensor], product: Tensor, labels: Tensor
    ) -> Tensor:
        """The contrasts of a group of views: captions, and states with own and foreign names."""
        product, labels = product.to(views.device), labels.to(views.device)
        named, foreign = texts
        loss = CAPTION_WEIGHT * caption_loss(views, named, product, labels)
        loss = loss + 0.5 * state_loss(views, named, product, labels)
        return loss + 0.5 * state_loss(views, foreign, product, labels)

    def train(self, save: Callable[[list[float]], None]) -> None:
        """All steps; `save` gets the losses so far, now and then and at the end."""
        steps, losses = self.options.steps, []
        progress = progress_bar(range(steps), unit="step")
        for step in progress:
            warm = min(1.0, (step + 1) / WARM_UP)
            rate = self.options.rate * warm * 0.5 * (1 + np.cos(np.pi * step / steps))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss = self.loss(step / steps)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            losses.append(loss.item())
            progress.set_description(f"loss {np.mean(losses[-50:]):.3f}", refresh=False)
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
        "weights_sha256": sha256_of(options.folder / "demo-clip.safetensors"),
        "loss_first_50": float(np.mean(losses[:50])),
        "loss_last_50": float(np.mean(losses[-50:])),
        "git_revision": git_revision(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "date": date.today().isoformat(),
    }
    write_text(options.folder / "training.json", json.dumps(record, indent=2) + "\n")


def train(options: Options, pool: Pool, rendering: float) -> None:
    """Train and write; `rendering` is the seconds that the pool took."""
    trainer = Trainer(options, pool)
    start = time.perf_counter()

    def save(losses: list[float]) -> None:
        seconds = {"render": rendering, "train": time.perf_counter() - start}
        write_weights(trainer, losses, seconds)

    trainer.train(save)
    print(f"written to {options.folder}")


def main(options: Options) -> None:
    """Render, train, write."""
    reuse_freed_memory()
    start = time.perf_counter()
    pool = make_pool(
        options.per_product, options.variety, options.seed, workers=os.cpu_count() or 1
    )
    rendering = time.perf_counter() - start
    print(f"rendered {len(pool.pictures)} pictures in {rendering:.0f} s", flush=True)
    train(options, pool, rendering)


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(), __doc__, Path(__file__))))
