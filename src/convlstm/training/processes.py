"""The processes of a run on several devices or machines."""

import os

# For workflows too: only this folder imports Lightning.
from lightning.pytorch import Callback as Callback
from lightning.pytorch.utilities import rank_zero_only


def is_worker_rank() -> bool:
    """True if another process, of rank 0, writes the files of the run."""
    return getattr(rank_zero_only, "rank", 0) != 0 or os.environ.get("NODE_RANK", "0") != "0"
