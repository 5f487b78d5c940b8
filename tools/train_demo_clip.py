"""Train the demo CLIP from scratch, on rendered images only.

    python tools/train_demo_clip.py             # 50 to 60 minutes on two cores
    python tools/train_demo_clip.py --steps 50  # a trial

Renders its training images (categories with the role "seen" or "training", never "unseen") and
writes demo-clip.safetensors, in half precision, and its record training.json to result/demo_clip/.
The architecture is open_clip's (models/demo_clip/demo-clip.json), with CLIP's tokenizer. The loss
contrasts captions from WinCLIP's prompt ensemble, for whole images, windows and single patches.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.clip.encoder import embed_patches
from models.clip.weights import RANDOM, load_clip
from models.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, spaced_words
from models.windows import window_indices
from tools.demo_clip.losses import (
    attention_loss,
    caption_loss,
    embed_text,
    embed_tokens,
    gather_patches,
    spread_loss,
    state_loss,
)
from tools.demo_clip.start import start_local
from tools.demo_clip.views import Pool, augment, choose_windows, coverage, labels_of, make_pool
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.files import PROJECT, atomic_path, sha256_of, write_text
from utils.log import progress_bar
from utils.results.folder import git_revision
from utils.workers import reuse_freed_memory

CONFIG = PROJECT / "models" / "demo_clip" / "demo-clip.json"
CAPTION_WEIGHT, SPREAD_WEIGHT = 0.1, 0.2  # relative to 1 for the states
WHOLE_WEIGHT, ATTENTION_WEIGHT = 2.0, 0.4  # for whole images, relative to 1 for other views
WINDOWS = {2: 3, 3: 3}  # views of each image: side of the window in patches, number of windows
# The smallest share of a view under the mask that makes it a damaged one
IMAGE_THRESHOLD, PATCH_THRESHOLD = 0.001, 0.15
WINDOW_THRESHOLDS = {2: 0.06, 3: 0.04}  # by the side of the window
DAMAGED_WEIGHT = 6.0  # of a damaged patch, since most are good
SPREAD_PATCHES = 512  # per step, in the loss that spreads embeddings
SMALLEST_CROP = (0.3, 0.7)  # at first, and after CROP_GROWTH of the steps
CROP_GROWTH = 0.6
WARM_UP = 50  # steps
SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    steps: int = 3200
    """Steps of training."""
    batch: int = 32
    """Images per step."""
    per_category: int = 200
    """Images rendered of each category."""
    variety: int = 8
    """Factor on --per-category for categories whose images all show different objects."""
    rate: float = 1e-3
    """Highest learning rate."""
    decay: float = 0.05
    """Weight decay."""
    seed: int = 0
    """Seed of the images, of all random draws and of the weights that start_local sets."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    folder: Path = PROJECT / "result" / "demo_clip"
    """Folder that the weights and their record are written to."""

    def __post_init__(self) -> None:
        """Raise InputError for impossible values, before images are rendered."""
        for name in ("steps", "batch", "per_category", "variety"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)}: expected a whole number >= 1")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f"--device {self.device}: torch sees no CUDA device; use cpu")


class Captions:
    """Random prompts of the ensemble, as tokens: one normal and one anomalous for each name."""

    def __init__(self, tokenizer, names: tuple[str, ...], rng: np.random.Generator):
        self.tokenizer, self.rng = tokenizer, rng
        self.names = [spaced_words(name) for name in names]
        self.vocabulary = [word for word in tokenizer.encoder if word.endswith("</w>")]
        # An array, because NumPy copies a list each time it draws from it.
        self.vocabulary = np.array([w[:-4] for w in self.vocabulary if w[:-4].isalpha()])

    def draw(self, foreign: bool) -> Tensor:
        """Return tokens (2 K, L), normal, then anomalous; `foreign` replaces names by random words.

        Foreign names teach the text tower that the state counts, whatever the object is called.
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
        """Put a name into a random state and template."""
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
        values = list(self.model.parameters())
        groups = [
            {"params": [v for v in values if v.ndim >= 2], "weight_decay": options.decay},
            {"params": [v for v in values if v.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))

    def batch(self, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """Draw pixels (B, 3, H, W), covered shares of patches (B, N), categories (B,).

        `progress` is the share of the training that is done; it starts with close-ups of defects.
        """
        rows = self.rng.integers(0, len(self.pool.images), self.options.batch)
        smallest = float(np.interp(progress, (0, CROP_GROWTH), SMALLEST_CROP))
        images, masks = self.pool.images, self.pool.masks
        views = [augment(images[row], masks[row], self.size, smallest, self.rng) for row in rows]
        pixels = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2)
        masks = torch.from_numpy(np.stack([mask for _, mask in views]))
        covered = coverage(masks, self.patch)
        return (pixels - self.mean) / self.std, covered, torch.from_numpy(self.pool.category[rows])

    def loss(self, progress: float) -> Tensor:
        """Compute the loss of one batch; `progress` as in `batch`."""
        device, visual = self.options.device, self.model.visual
        pixels, covered, category = self.batch(progress)
        named = embed_text(self.model, self.captions.draw(foreign=False).to(device))
        foreign = embed_text(self.model, self.captions.draw(foreign=True).to(device))
        tokens = embed_patches(visual, pixels.to(device))
        embeddings, attention = embed_tokens(visual, tokens)
        labels = labels_of(covered.mean(1), IMAGE_THRESHOLD)
        total = WHOLE_WEIGHT * self.view_loss(embeddings[:, 0], (named, foreign), category, labels)
        on_defect = attention_loss(attention, covered.to(device), labels.to(device))
        total = total + ATTENTION_WEIGHT * on_defect
        patches = embeddings[:, 1:].flatten(0, 1)
        labels = labels_of(covered, PATCH_THRESHOLD).flatten().to(device)
        categories = category.repeat_interleave(covered.shape[1]).to(device)
        weights = torch.tensor([1.0, DAMAGED_WEIGHT]).to(device)
        total = total + state_loss(patches, named, categories, labels, weights)
        sample = torch.randperm(len(patches), generator=self.generator)[:SPREAD_PATCHES]
        total = total + SPREAD_WEIGHT * spread_loss(patches[sample.to(device)])
        for side, count in WINDOWS.items():
            windows, shares = choose_windows(self.windows[side], covered, count, self.generator)
            repeated = tokens.repeat_interleave(count, dim=0)
            views = gather_patches(repeated, windows.flatten(0, 1).to(device))
            views = embed_tokens(visual, views)[0][:, 0]
            labels = labels_of(shares.flatten(), WINDOW_THRESHOLDS[side])
            categories = category.repeat_interleave(count)
            total = total + self.view_loss(views, (named, foreign), categories, labels)
            total = total + SPREAD_WEIGHT * spread_loss(views)
        return total

    def view_loss(
        self, views: Tensor, texts: tuple[Tensor, Tensor], category: Tensor, labels: Tensor
    ) -> Tensor:
        """Contrast captions, and states with the category's name and with foreign names."""
        category, labels = category.to(views.device), labels.to(views.device)
        named, foreign = texts
        loss = CAPTION_WEIGHT * caption_loss(views, named, category, labels)
        loss = loss + 0.5 * state_loss(views, named, category, labels)
        return loss + 0.5 * state_loss(views, foreign, category, labels)

    def train(self, save: Callable[[list[float]], None]) -> None:
        """Run all steps; call `save` with the losses so far every SAVE_EVERY steps and last."""
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
    """Write the weights in half precision, and the record of their training."""
    options = trainer.options
    state = {name: value.half().contiguous() for name, value in trainer.model.state_dict().items()}
    with atomic_path(options.folder / "demo-clip.safetensors") as temporary:
        save_file(state, temporary)
    record = {
        "steps_done": len(losses),
        "options": {k: v for k, v in asdict(options).items() if k != "folder"},
        "products": list(trainer.pool.names),
        "pictures": len(trainer.pool.images),
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
    """Train and write the weights; `rendering` is the seconds that the pool took."""
    trainer = Trainer(options, pool)
    start = time.perf_counter()

    def save(losses: list[float]) -> None:
        seconds = {"render": rendering, "train": time.perf_counter() - start}
        write_weights(trainer, losses, seconds)

    trainer.train(save)
    print(f"written to {options.folder}")


def main(options: Options) -> None:
    """Render the images, train, write the weights."""
    reuse_freed_memory()
    start = time.perf_counter()
    pool = make_pool(
        options.per_category, options.variety, options.seed, workers=os.cpu_count() or 1
    )
    rendering = time.perf_counter() - start
    print(f"rendered {len(pool.images)} images in {rendering:.0f} s", flush=True)
    train(options, pool, rendering)


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(), __doc__, Path(__file__))))
