"""Indices of padded frames, as kernels take them."""

from functools import lru_cache

import torch
from torch import Tensor

from convlstm.engines.dry_run import disable_current_modes
from convlstm.functional.conv import pad


@lru_cache(maxsize=256)
def padded_indices(size: int, reach: int, mode: str) -> Tensor:
    """Index of each position of a padded axis in the axis before it is padded; -1 for zero padding."""
    with disable_current_modes():  # the result is kept: it must have elements, in a dry run too
        indices = torch.arange(1, size + 1, dtype=torch.float32, device="cpu").view(1, 1, size)
        return pad(indices, [reach], (mode,)).flatten().int() - 1
