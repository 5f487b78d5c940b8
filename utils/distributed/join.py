"""Join the processes of a run before it starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from utils.distributed.context import SINGLE_PROCESS, DistributedContext


@contextmanager
def init_distributed() -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, if any, and leave them after the block."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "LOCAL_RANK" not in os.environ:
        yield SINGLE_PROCESS
        return
    # Late, because some builds of torch lack torch.distributed.
    from utils.distributed.torchrun import join_processes

    with join_processes() as context:
        yield context
