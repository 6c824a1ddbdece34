"""Functions of single frames applied to sequences: pooling to a size and interpolation to a size."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_POOL: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}


def map_frames(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of frames (N, C, *S) to a sequence (B, T, C, *S)."""
    y = function(x.flatten(0, 1))
    return y.view(*x.shape[:2], *y.shape[1:])


def pool(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average each frame of (B, T, C, *S) to a size."""
    return map_frames(lambda frames: _POOL[len(size)](frames, size), x)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate each frame of (B, T, C, *S) linearly to a size."""
    return map_frames(lambda f: F.interpolate(f, size, mode=_MODE[len(size)], align_corners=False), x)
