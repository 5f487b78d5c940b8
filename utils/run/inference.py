"""Score a category for every (shots, seed), encoding each image once."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

import torch

from datasets.images import Item
from utils.category.result import CategoryResult, ImageResult, collect_results, split_by_image
from utils.experiment.plan import CategoryTask
from utils.results.methods import variant_of
from utils.run.references import encode_references
from utils.run.session import Session
from utils.run.stream import HostCopy


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
    return collect_results(task, results, leave_one_out, tile, method.map_blur, variant)


def read_results(items: Sequence[Item], copy: HostCopy, session: Session) -> list[ImageResult]:
    """Wait for the scores and maps of a batch, and split them by image."""
    with session.clock.stage("score" if copy.event is None else "wait for GPU"):
        return split_by_image(items, *copy.read(), maximum=session.settings.tile > 0)
