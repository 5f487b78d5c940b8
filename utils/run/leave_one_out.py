"""Score the reference images of custom images against each other, which gives a threshold."""

from collections import ChainMap
from dataclasses import replace
from functools import partial

import torch

from models.leave_one_out import ReferenceTiles, lazy_maxima, leave_one_out_distances
from models.winclip import TextBank
from utils.category.result import LeaveOneOut
from utils.log import log, progress_bar
from utils.run.references import References
from utils.run.session import Session


def score_references(references: References, text: TextBank, session: Session) -> LeaveOneOut:
    """Score each of two or more reference images against all others, in the order of `rows`.

    The processes share the work, and all return the same result.
    """
    log.info(f"scoring the {len(references.rows)} reference images against each other")
    if references.zero_shot:
        return score_winclip(references, session)
    return score_features(references, text, session)


def score_features(references: References, text: TextBank, session: Session) -> LeaveOneOut:
    """Score each reference image with the method's own `score`."""
    method, scores = session.method, {}
    with session.clock.stage("score"):
        for item, features in references.features:
            others = references.rows_of([name for name in references.rows if name != item.image])
            score, _ = method.score(features, text, references.bank, [others])
            scores[item.image] = float(score.mean())  # over tiles, as in `split_by_image`
    scores = ChainMap(*session.context.all_gather(scores))
    return LeaveOneOut([scores[image] for image in references.rows])


def score_winclip(references: References, session: Session) -> LeaveOneOut:
    """Score WinCLIP's bank, which is large, by `models.leave_one_out`."""
    scores, maps = references.zero_shot
    counts = torch.tensor([len(rows) for rows in references.rows.values()])
    with session.clock.stage("score"):
        device = references.bank.entries[0].device
        image_of_row = torch.arange(len(counts)).repeat_interleave(counts).to(device)
        scales = session.settings.scales
        tiles = ReferenceTiles(references.bank, maps.to(device), image_of_row, scales)
        highest, peaks = leave_one_out_maxima(tiles, session)
        scores = (scores + highest) / 2
    combine = torch.amax if session.settings.tile > 0 else torch.mean  # as in `split_by_image`
    image_scores = [float(combine(tiles)) for tiles in scores.split(counts.tolist())]
    if not session.method.has_maps:
        return LeaveOneOut(image_scores)
    return LeaveOneOut(image_scores, [float(t.max()) for t in peaks.split(counts.tolist())])


def leave_one_out_maxima(tiles: ReferenceTiles, session: Session) -> torch.Tensor:
    """Return the maxima of the visual and the anomaly map of each tile, on the CPU: (2, M)."""
    context, quiet = session.context, session.progress.disable
    shard = context.rank, context.world_size
    bar = partial(progress_bar, desc="leave-one-out", unit="block", leave=False, disable=quiet)
    shards = context.all_gather(lazy_maxima(tiles, shard, bar).cpu())
    maxima = torch.stack(shards).amax(dim=0)
    missing = maxima[0] < 0
    if missing.any():
        rows = missing.nonzero()[:, 0].tolist()
        distances = leave_one_out_distances(tiles, rows, shard, bar)
        shards = context.all_gather([scale.cpu() for scale in distances])
        distances = [torch.stack(scale).amin(dim=0) for scale in zip(*shards, strict=True)]
        on_cpu = replace(tiles, zero_shot_maps=tiles.zero_shot_maps.cpu())
        maxima = torch.where(missing, on_cpu.maps(distances).amax(dim=-1), maxima)
    return maxima
