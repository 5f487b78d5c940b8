"""Every (shots, seed) of one category from one encoding of each of its images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.images import ImageDataset, Item, normalise
from datasets.references import Run
from datasets.splits import Sample
from models.encoder import WindowedEncoder
from models.weights import LoadedClip
from models.winclip import Features, TextBank, VisualBank, leave_one_out_scores, winclip
from utils.errors import InputError
from utils.results.scores import Scores
from utils.run.distributed import Ranks
from utils.stopwatch import Stopwatch


@dataclass(frozen=True)
class Plan:
    """What one category needs: its runs, the distinct references of all of them, its test rows."""

    category: str
    runs: list[Run]
    references: list[Sample]
    tests: list[Sample]
    leave_one_out: bool = False  # whether to score each reference against the others


@dataclass(frozen=True)
class Result:
    """What is known of one category once all of its images are encoded."""

    scores: Scores
    masks: list[np.ndarray]  # N of (H_i, W_i) bool, at the evaluation shape
    leave_one_out: list[float]  # image scores of the references, where they were asked for


class Encodings:
    """The images of all plans, in order, decoded ahead by worker processes and encoded once each.

    `batches_of` must be asked for the rows of the plans in their order: references, then tests,
    plan after plan.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        clip: LoadedClip,
        encoder: WindowedEncoder,
        loader: "DataLoader[list[Item]]",
        clock: Stopwatch,
    ):
        self.dataset = dataset
        self.clip = clip
        self.encoder = encoder
        self.batches = iter(loader)
        self.clock = clock
        self.alone = encoder.device.type == "cpu"

    def decoded(self) -> list[Item]:
        """The next batch of decoded images; a bad file ends the run."""
        with self.clock.stage("decode"):
            items = next(self.batches)
        for item in items:
            if item.error:
                raise InputError(item.error)
        return items

    def encode(self, items: list[Item]) -> Features:
        """The features of all tiles of some images; on a CPU, which is faster so, one by one."""
        with self.clock.stage("encode"):
            tiles = torch.cat([item.tiles for item in items]).to(self.encoder.device)
            tiles = normalise(tiles, self.clip.mean, self.clip.std)
            parts = tiles.split(1 if self.alone else len(tiles))
            features = Features.concatenate([self.encoder.encode_images(part) for part in parts])
            if self.encoder.device.type == "cuda":
                torch.cuda.synchronize()  # so that the stage's seconds are its own
        return features

    def batches_of(self, rows: int) -> Iterator[tuple[list[Item], Features]]:
        """The next `rows` images and the features of their tiles, batch by batch.

        On a CPU every image is a batch of its own: its tokens are enough for full speed, and so
        no score depends on the images beside it.
        """
        while rows > 0:
            items = self.decoded()
            rows -= len(items)
            for group in [[item] for item in items] if self.alone else [items]:
                yield group, self.encode(group)


def batch_indices(plans: Iterable[Plan], batch_size: int) -> list[list[int]]:
    """Batches over the rows of all plans, none across references and tests or two plans."""
    batches, start = [], 0
    for plan in plans:
        for rows in (plan.references, plan.tests):
            numbers = range(start, start + len(rows))
            batches += [list(numbers[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
            start += len(rows)
    return batches


def build_visual_bank(
    encodings: Encodings, share: Plan, ranks: Ranks
) -> tuple[VisualBank | None, dict[str, torch.Tensor], list[Features]]:
    """The visual bank of all references, the rows (tiles) of each in it, this share's features."""
    counts, parts = [], []
    for items, features in encodings.batches_of(len(share.references)):
        parts.append(features)
        counts += [(encodings.dataset.samples[item.index].image, len(item.tiles)) for item in items]
    tiles_of, start = {}, 0
    for image, count in chain.from_iterable(ranks.all_gather(counts)):
        tiles_of[image] = torch.arange(start, start + count, device=encodings.encoder.device)
        start += count
    if not tiles_of:
        return None, {}, []
    own = VisualBank.from_features(Features.concatenate(parts)).entries if parts else ()
    scales = len(encodings.encoder.scales) + 1
    entries = (ranks.concatenate(own[scale] if own else None) for scale in range(scales))
    return VisualBank(tuple(entries)), tiles_of, parts


def rows_of(images: Sequence[str], tiles_of: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The rows of the visual bank that a set of references has; None for no references."""
    return torch.cat([tiles_of[image] for image in images]) if images else None


def leave_one_out(
    parts: Sequence[Features],
    images: Sequence[str],
    text: TextBank,
    bank: VisualBank,
    tiles_of: dict[str, torch.Tensor],
) -> list[float]:
    """The score of each of some references against all others; of none where there is only one.

    `parts` are the features of `images`, which are neighbours in the bank.
    """
    if len(tiles_of) < 2 or not images:
        return []
    counts = [len(tiles_of[image]) for image in images]
    first_row = int(tiles_of[images[0]][0])
    features = Features.concatenate(parts)
    return leave_one_out_scores(features, counts, first_row, text, bank).tolist()


def score_category(
    encodings: Encodings,
    plan: Plan,
    share: Plan,
    text: TextBank,
    progress: tqdm,
    clock: Stopwatch,
    ranks: Ranks,
) -> Result | None:
    """Encode this process's share of a category, score every run; the first one gets all of it."""
    bank, tiles_of, parts = build_visual_bank(encodings, share, ranks)
    rows = [rows_of(run.images, tiles_of) for run in plan.runs]
    left_out = []
    if plan.leave_one_out and bank:
        images = [sample.image for sample in share.references]
        left_out = leave_one_out(parts, images, text, bank, tiles_of)
    progress.update(len(plan.references))
    image_scores, maps, tests = [], [], []
    for items, features in encodings.batches_of(len(share.tests)):
        with clock.stage("score"):
            scores, batch_maps = winclip(features, text, bank, rows)
            counts = [len(item.tiles) for item in items]
            image_scores.append(mean_over_tiles(scores.cpu().numpy(), counts))
            maps.append(batch_maps.cpu().numpy())
            tests += [(len(item.tiles), item.size, item.mask.numpy()) for item in items]
        progress.update(len(items))
    gathered = ranks.gather((image_scores, maps, tests, left_out))
    if not gathered:
        return None
    progress.update(len(plan.tests) - len(share.tests))
    image_scores, maps, tests, left_out = (
        list(chain.from_iterable(parts)) for parts in zip(*gathered, strict=True)
    )
    return result_of(plan, image_scores, maps, tests, left_out)


def result_of(
    plan: Plan,
    image_scores: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    tests: Sequence[tuple[int, tuple[int, int], np.ndarray]],
    left_out: list[float],
) -> Result:
    """A category's result from the scores (R, n) and maps (R, m, G_h, G_w) of its batches.

    `tests` has the tiles, the size and the mask of every test image.
    """
    tiles, sizes, masks = zip(*tests, strict=True)
    scores = Scores(
        image=np.array([sample.image for sample in plan.tests]),
        label=np.array([sample.label for sample in plan.tests]),
        shots=np.array([run.shots for run in plan.runs]),
        seed=np.array([run.seed for run in plan.runs]),
        image_scores=np.concatenate(image_scores, axis=1),
        maps=np.concatenate(maps, axis=1),
        tiles=np.array(tiles),
        size=np.array(sizes),
    )
    return Result(scores, list(masks), left_out)


def mean_over_tiles(scores: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Image scores (R, N) from the scores (R, M) of tiles, `counts` of them in each image."""
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(scores, starts, axis=1)
    return (sums / np.array(counts)).astype(np.float32)
