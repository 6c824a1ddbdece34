"""What stands between the layers of a stack: normalisation, dropout, projections, pooling."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from convlstm.errors import check_name

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOL: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_RESIZE = {1: "linear", 2: "bilinear", 3: "trilinear"}

NormFactory = Callable[[int], nn.Module]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel (Ba et al. 2016, arXiv:1607.06450), at any size."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (N, C, *S)."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def norm_factory(norm: str | NormFactory) -> NormFactory:
    """``group`` (of up to 16 channels, Wu and He 2018, arXiv:1803.08494), ``layer``, or one's own."""
    if not isinstance(norm, str):
        return norm
    if check_name(norm, ("group", "layer"), "norm") == "layer":
        return ChannelNorm
    return _group_norm


class _GroupNorm(nn.GroupNorm):
    """Group normalisation that takes a single value too, as a stream of small frames needs it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _group_norm(channels: int) -> nn.Module:
    groups = next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
    return _GroupNorm(groups, channels)


def has_batch_statistics(module: nn.Module) -> bool:
    """True if a module in training mode normalises by statistics of the batch, or keeps such statistics."""
    return any(
        isinstance(part, _NormBase)
        and part.training
        and (isinstance(part, _BatchNorm) or bool(part.track_running_stats))
        for part in module.modules()
    )


@contextmanager
def spare_statistics(module: nn.Module) -> Iterator[None]:
    """Let a module's normalisations track their statistics in buffers that are dropped at the end."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({k: None if b is None else b.clone() for k, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def projection(inputs: int, outputs: int, axes: int) -> nn.Module:
    """A 1x1 convolution."""
    module: nn.Module = _CONV[axes](inputs, outputs, 1, bias=False)
    return module


def by_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of frames (N, C, *S) to a sequence (B, T, C, *S)."""
    y = function(x.flatten(0, 1))
    return y.view(*x.shape[:2], *y.shape[1:])


def pool(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average each frame of (B, T, C, *S) to a size."""
    return by_frame(lambda frames: _POOL[len(size)](frames, size), x)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate each frame of (B, T, C, *S) linearly to a size."""
    return by_frame(lambda f: F.interpolate(f, size, mode=_RESIZE[len(size)], align_corners=False), x)


def dropout_mask(x: Tensor, channels: int, probability: float) -> Tensor:
    """What drops channels of (B, T, channels, *S), the same at all times (Gal and Ghahramani 2016).

    Zero or 1 / (1 - probability), (B, 1, channels, 1, ...), with the batch, dtype and device of ``x``.
    """
    shape = (x.shape[0], 1, channels, *(1,) * (x.ndim - 3))
    return (torch.rand(shape, device=x.device) >= probability).to(x.dtype) / (1 - probability)


def spread(flags_BT: Tensor, x: Tensor) -> Tensor:
    """Flags of frames (B, T), in the rank of a sequence (B, T, C, *S)."""
    return flags_BT[(..., *(None,) * (x.ndim - 2))]


def fill_forward(
    x: Tensor, valid: Tensor, starts: Tensor | None = None, before: Tensor | None = None
) -> Tensor:
    """In place of each missing frame of (B, T, C, *S) the last of its sequence that was there.

    Args:
        x: the frames.
        valid: (B, T) bool, which of them are there.
        starts: (B, T) bool, which begin a new sequence.
        before: (B, 1, C, *S), what was there before the first; None for zeros.
    """
    if before is not None:
        there = valid.new_ones(len(valid), 1)
        starts = None if starts is None else torch.cat([~there, starts], dim=1)
        x, valid = torch.cat([before, x], dim=1), torch.cat([there, valid], dim=1)
        return fill_forward(x, valid, starts)[:, 1:]
    steps = torch.arange(x.shape[1], device=x.device)
    last = torch.where(valid, steps, -1).cummax(dim=1).values
    if starts is not None:
        last = torch.where(last < torch.where(starts, steps, 0).cummax(dim=1).values, -1, last)
    filled = x[torch.arange(len(x), device=x.device)[:, None], last.clamp(min=0)]
    return torch.where(spread(last >= 0, x), filled, 0)
