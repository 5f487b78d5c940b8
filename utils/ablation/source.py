"""Read what an encoding run kept of a category: features, tiles, and masks at evaluation size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.decode import read_mask
from datasets.images import EvalSize, Item, eval_shape, resize_mask
from models.clip.features import AllFeatures, PatchTokens
from models.winclip import VisualBank
from utils.ablation.scoring import select_kinds
from utils.experiment.plan import CategoryTask
from utils.experiment.settings import Settings
from utils.features.kept import KeptFeatures
from utils.results.scores import load_arrays


@dataclass(frozen=True)
class StoredCategory:
    """One category of a finished run that kept its features."""

    task: CategoryTask
    settings: Settings  # of the run, resolved
    eval_size: EvalSize
    store: KeptFeatures
    device: torch.device  # of the features that it returns

    @property
    def scores_path(self) -> Path:
        """Return the file of the run's scores."""
        return Path(self.settings.result_dir) / "scores" / f"{self.task.category}.npz"

    def map_values(self) -> int:
        """Return the number of values in the maps of all test images of one (shots, seed) pair."""
        return load_arrays(self.scores_path, ["maps"])["maps"][0].size

    def features(self, image: str) -> AllFeatures:
        """Return the features of an image's T tiles."""
        return self.store.read([image], self.device)

    def tests(self) -> Iterator[tuple[Item, AllFeatures]]:
        """Yield each test image, without its pixels, and its features."""
        settings = self.settings
        arrays = load_arrays(self.scores_path, ["tiles", "size"])  # in the order of the task
        rows = zip(self.task.tests, arrays["tiles"].tolist(), arrays["size"].tolist(), strict=True)
        for sample, grid, (height, width) in rows:
            shape = eval_shape(height, width, self.eval_size, settings.resize)
            mask = np.zeros(shape, bool)
            if sample.mask:
                pixels = read_mask(self.store.root / sample.mask, (width, height))
                mask = resize_mask(pixels, shape)
            pixels = np.empty((grid[0] * grid[1], 0))
            item = Item(sample.image, pixels, tuple(grid), mask, (height, width), b"")
            yield item, self.features(sample.image)

    def visual_banks(self) -> tuple[dict[PatchTokens, VisualBank], list[Tensor | None]]:
        """Return a visual bank for each kind of patch tokens, and the rows of every run.

        The banks are empty without reference images; the rows of a 0-shot run are None.
        """
        rows, banks, start = {}, [], 0
        for sample in self.task.references:
            features = self.features(sample.image)
            count = len(features.image)
            rows[sample.image] = torch.arange(start, start + count, device=self.device)
            kinds = select_kinds(features).items()
            banks.append({kind: VisualBank.from_features(selected) for kind, selected in kinds})
            start += count
        sets = [
            torch.cat([rows[image] for image in setting.images]) if setting.images else None
            for setting in self.task.shot_settings
        ]
        joined = {
            kind: VisualBank(
                tuple(map(torch.cat, zip(*(bank[kind].entries for bank in banks), strict=True)))
            )
            for kind in (banks[0] if banks else ())
        }
        return joined, sets
