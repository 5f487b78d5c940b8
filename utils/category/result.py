"""The results of one category: of its images, and of all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from datasets.images import EvalSize, Item
from datasets.tiles import tile_side
from utils.experiment.plan import CategoryTask
from utils.results.scores import Scores


class LeaveOneOut(NamedTuple):
    """The reference images, each scored against all others; both become part of done/*.json."""

    leave_one_out: list[float]  # image scores
    leave_one_out_peaks: list[float] | None = None  # the highest value of each image's map


class ImageResult(NamedTuple):
    """The scores and maps of one test image."""

    item: Item  # without its pixels
    scores: np.ndarray  # (R,) float32: the image score of every run
    maps: np.ndarray | None  # (R, T, G_h, G_w) float32: the anomaly maps of its T tiles


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
            item=replace(item, tiles=np.empty(0), crops=()),
            scores=image_scores[:, index],
            maps=None if maps is None else maps[:, ends[index] - counts[index] : ends[index]],
        )
        for index, item in enumerate(items)
    ]


def collect_results(
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
    by_image = {result.item.image: result for result in results}
    ordered = [by_image[sample.image] for sample in task.tests]
    items, maps = [result.item for result in ordered], [result.maps for result in ordered]
    scores = Scores(
        image=np.array([sample.image for sample in task.tests]),
        label=np.array([sample.label for sample in task.tests]),
        shots=np.array([setting.shots for setting in task.shot_settings]),
        seed=np.array([setting.seed for setting in task.shot_settings]),
        image_scores=np.stack([result.scores for result in ordered], axis=1),
        maps=None if maps[0] is None else np.concatenate(maps, axis=1),
        tiles=np.array([item.grid for item in items]),
        tile_side=np.array([tile_side(*item.size, tile) for item in items]),
        size=np.array([item.size for item in items]),
        blur=blur,
        variant=variant,
    )
    return CategoryResult(
        scores=scores,
        masks=[item.mask for item in items],
        thumbnails=[item.thumbnail for item in items],
        leave_one_out=leave_one_out,
        previews={item.image: item.preview for item in items if item.preview is not None},
        further_masks={
            size: [item.further_masks[size] for item in items] for size in items[0].further_masks
        },
    )
