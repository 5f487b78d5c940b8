"""Encode the reference images of a category, and join the banks of all processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from datasets.images import Item
from models.methods import ImageFeatures
from models.winclip import TextBank, VisualBank, score_zero_shot
from utils.experiment.plan import CategoryTask
from utils.run.session import Session


@dataclass(frozen=True)
class References:
    """The reference images of a category, from all processes."""

    bank: VisualBank | None  # None without reference images
    rows: dict[str, torch.Tensor]  # for each image, the bank rows of its tiles
    # For leave-one-out by the bank: scores (M,) and maps (M, G_h, G_w) of its rows.
    zero_shot: tuple[torch.Tensor, ...]
    # For leave-one-out by other methods: the features of this process's images, one by one.
    features: list[tuple[Item, ImageFeatures]]

    def rows_of(self, images: Sequence[str]) -> torch.Tensor | None:
        """Return the rows of a set of reference images; None for no images."""
        return torch.cat([self.rows[image] for image in images]) if images else None


def encode_references(shard: CategoryTask, text: TextBank, session: Session) -> References:
    """Encode this process's reference images and join the banks of all processes."""
    context, method = session.context, session.method
    counts, entries, zero_shot, by_image = [], [], [], []
    keep_features = shard.leave_one_out and not method.bank_leave_one_out
    for items, features in session.stream.take(len(shard.references), one_by_one=keep_features):
        counts += [(item.image, len(item.tiles)) for item in items]
        entries.append(method.visual_bank(features).entries)
        if keep_features:
            by_image.append((*items, features))
        elif shard.leave_one_out:
            zero_shot.append(score_zero_shot(features, text, method.crop_average))
        session.progress.update(len(items))
    entries, zero_shot = (
        [tensor.cpu() for tensor in join(batches)] for batches in (entries, zero_shot)
    )
    shards = context.all_gather((counts, entries, zero_shot))
    rows, start = {}, 0
    for image, count in chain.from_iterable(counts for counts, _, _ in shards):
        rows[image] = torch.arange(start, start + count, device=method.device)
        start += count
    if not rows:
        return References(None, {}, (), [])
    entries = join([entries for _, entries, _ in shards if entries])
    zero_shot = join([zero_shot for _, _, zero_shot in shards if zero_shot])
    visual = VisualBank(tuple(tensor.to(method.device) for tensor in entries))
    return References(visual, rows, zero_shot, by_image)


def join(batches: Sequence[Sequence[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """Concatenate the first tensors of all batches, the second ones, and so on."""
    return tuple(map(torch.cat, zip(*batches, strict=True)))
