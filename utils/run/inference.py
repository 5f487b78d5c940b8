"""Score a category for every (shots, seed), encoding each image once."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from datasets.images import EvalSize, Item
from datasets.tiles import tile_side
from utils.experiment.plan import CategoryTask
from utils.results.methods import variant_of
from utils.results.scores import Scores
from utils.run.references import LeaveOneOut, encode_references
from utils.run.session import Session
from utils.run.stream import HostCopy


@dataclass(frozen=True)
class ImageResult:
    """The scores, maps and mask of one test image."""

    image: str  # the path of its sample
    scores: np.ndarray  # (R,) float32: the image score of every run
    maps: np.ndarray | None  # (R, T, G_h, G_w) float32: the anomaly maps of its T tiles
    tiles: tuple[int, int]  # rows and columns of its tiles
    size: tuple[int, int]  # height and width in pixels
    mask: np.ndarray  # (H, W) bool at the first evaluation size
    thumbnail: bytes  # a JPEG file
    preview: np.ndarray | None  # (h, w, 3) uint8 RGB: the image in its heatmap panel
    further_masks: dict[EvalSize, np.ndarray]  # at the other evaluation sizes


@dataclass(frozen=True)
class CategoryResult:
    """The results of a category whose images are all scored."""

    scores: Scores
    masks: list[np.ndarray]  # (H_i, W_i) bool of each image in `scores`, at the first size
    thumbnails: list[bytes]  # a JPEG file of each image in `scores`
    leave_one_out: LeaveOneOut | None = None  # if the task asks for it and has two references
    previews: dict[str, np.ndarray] = field(default_factory=dict)  # of images that get a panel
    further_masks: dict[EvalSize, list[np.ndarray]] = field(default_factory=dict)  # by other sizes

    def panel_rows(self, indices: Sequence[int]) -> "CategoryResult":
        """Return what the panels of some images show: scores, masks, previews and threshold."""
        scores = self.scores.rows(indices)
        previews = {image: self.previews[image] for image in scores.image if image in self.previews}
        masks = [self.masks[i] for i in indices]
        return CategoryResult(scores, masks, [], self.leave_one_out, previews)


@torch.inference_mode()
def score_category(
    task: CategoryTask, session: Session, after_batch: Callable[[], None]
) -> CategoryResult | None:
    """Encode this process's shard of a category and score all of its runs.

    `after_batch` is called after each batch. Returns the result of all processes in the main
    process, None elsewhere.
    """
    method = session.method
    with session.clock.stage("text"):
        text = method.text_bank(task.category)
    shard = task.shard(session.context)
    references = encode_references(shard, text, session)
    leave_one_out = None
    if task.leave_one_out and len(references.rows) > 1:
        from utils.run.leave_one_out import score_references  # only for custom images

        leave_one_out = score_references(references, text, session)
    reference_sets = [references.rows_of(setting.images) for setting in task.shot_settings]
    results, copies = [], deque()
    for items, features in session.stream.take(len(shard.tests)):
        with session.clock.stage("score", method.device):
            scores, maps = method.score(features, text, references.bank, reference_sets)
            copies.append((items, HostCopy(scores, *([maps] if method.has_maps else []))))
        if len(copies) > 1:  # read one batch late, so that a GPU is never idle
            results += read_results(*copies.popleft(), session)
        session.progress.update(len(items))
        after_batch()
    for items, copy in copies:
        results += read_results(items, copy, session)
    session.progress.update(len(task) - len(shard))  # encoded by the other processes
    gathered = session.context.gather(results)
    if not gathered:
        return None
    results, tile = list(chain.from_iterable(gathered)), session.settings.tile
    variant = variant_of(vars(session.settings))
    return collect(task, results, leave_one_out, tile, method.map_blur, variant)


def read_results(items: Sequence[Item], copy: HostCopy, session: Session) -> list[ImageResult]:
    """Wait for the scores and maps of a batch, and split them by image."""
    with session.clock.stage("score" if copy.copied is None else "wait for GPU"):
        return split_by_image(items, *copy.read(), maximum=session.settings.tile > 0)


def split_by_image(
    items: Sequence[Item], scores: np.ndarray, maps: np.ndarray | None = None, maximum: bool = False
) -> list[ImageResult]:
    """Split the scores (R, M) and maps (R, M, G_h, G_w) of M tiles into results of the images.

    The score of an image is the `maximum` over its tiles, or else their mean.
    """
    counts = np.array([len(item.tiles) for item in items])
    ends = counts.cumsum()
    if maximum:
        image_scores = np.maximum.reduceat(scores, ends - counts, axis=1)
    else:
        sums = np.add.reduceat(scores, ends - counts, axis=1)
        image_scores = (sums / counts).astype(np.float32)
    return [
        ImageResult(
            image=item.image,
            scores=image_scores[:, index],
            maps=None if maps is None else maps[:, ends[index] - counts[index] : ends[index]],
            tiles=item.grid,
            size=item.size,
            mask=item.mask,
            thumbnail=item.thumbnail,
            preview=item.preview,
            further_masks=item.further_masks,
        )
        for index, item in enumerate(items)
    ]


def collect(
    task: CategoryTask,
    results: Sequence[ImageResult],
    leave_one_out: LeaveOneOut | None,
    tile: int,
    blur: float = 0.0,
    variant: str = "",
) -> CategoryResult:
    """Collect the results of all images, in the order of the task's test images.

    `tile` is the setting TILE; `blur` and `variant` are those of `Scores`.
    """
    by_image = {result.image: result for result in results}
    ordered = [by_image[sample.image] for sample in task.tests]
    maps = [result.maps for result in ordered]
    scores = Scores(
        image=np.array([sample.image for sample in task.tests]),
        label=np.array([sample.label for sample in task.tests]),
        shots=np.array([setting.shots for setting in task.shot_settings]),
        seed=np.array([setting.seed for setting in task.shot_settings]),
        image_scores=np.stack([result.scores for result in ordered], axis=1),
        maps=None if maps[0] is None else np.concatenate(maps, axis=1),
        tiles=np.array([result.tiles for result in ordered]),
        tile_side=np.array([tile_side(*result.size, tile) for result in ordered]),
        size=np.array([result.size for result in ordered]),
        blur=blur,
        variant=variant,
    )
    masks = [result.mask for result in ordered]
    previews = {result.image: result.preview for result in ordered if result.preview is not None}
    thumbnails = [result.thumbnail for result in ordered]
    further_masks = {
        size: [result.further_masks[size] for result in ordered]
        for size in ordered[0].further_masks
    }
    return CategoryResult(scores, masks, thumbnails, leave_one_out, previews, further_masks)
