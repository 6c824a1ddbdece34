"""Functions of the frames of sequences: applied one by one, missing ones replaced, channels dropped."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def map_frames(function: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Apply a function of frames (N, C, *S) to all frames of a sequence (B, T, C, *S) at once.

    With a mask (B, T) it is applied to the frames that are present, and the others hold nothing of use.
    """
    frames = x.flatten(0, 1)
    if mask is None:
        y = function(frames)
    else:
        present = mask.flatten().nonzero().squeeze(1)
        if not len(present):
            return x
        some = function(frames[present])
        y = some.new_zeros(len(frames), *some.shape[1:]).index_copy(0, present, some)
    return y.view(*x.shape[:2], *y.shape[1:])


def pool(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average each frame of (B, T, C, *S) to a size."""
    average = getattr(F, f"adaptive_avg_pool{len(size)}d")
    return map_frames(lambda frames: average(frames, size), x)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate each frame of (B, T, C, *S) linearly to a size."""
    mode = _INTERPOLATION[len(size)]
    return map_frames(lambda frames: F.interpolate(frames, size, mode=mode, align_corners=False), x)


def pad_to_multiple(x: Tensor, unit: int) -> Tensor:
    """Pad frames (B, T, C, H, W) below and to the right, by repeating the border, to multiples of a unit."""
    bottom, right = (-x.shape[-2] % unit, -x.shape[-1] % unit)
    if not bottom and not right:
        return x
    return map_frames(lambda frames: F.pad(frames, (0, right, 0, bottom), mode="replicate"), x)


def expand_flags(flags: Tensor, x: Tensor) -> Tensor:
    """Flags of samples (B,) or frames (B, T) in the rank of ``x`` (B, ...), to broadcast with it."""
    return flags[(..., *(None,) * (x.ndim - flags.ndim))]


def where_samples(flags_B: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of two tensors (B, ...): samples of the first where the flag is set, else of the second."""
    return lambda yes, no: torch.where(expand_flags(flags_B, no), yes, no)


def fill_forward(
    x: Tensor, mask: Tensor, reset: Tensor | None = None, before: Tensor | None = None
) -> Tensor:
    """Replace each missing frame of (B, T, C, *S) by the last one of its sequence that is present, or zeros.

    Args:
        x: the frames.
        mask: (B, T) bool, which of them are present.
        reset: (B, T) bool, which begin a new sequence.
        before: (B, 1, C, *S), the frame that precedes the first; None for zeros.
    """
    if before is not None:
        present = mask.new_ones(len(mask), 1)
        reset = None if reset is None else torch.cat([~present, reset], dim=1)
        x, mask = torch.cat([before, x], dim=1), torch.cat([present, mask], dim=1)
        return fill_forward(x, mask, reset)[:, 1:]
    steps = torch.arange(x.shape[1], device=x.device)
    last = torch.where(mask, steps, -1).cummax(dim=1).values
    if reset is not None:
        last = torch.where(last < torch.where(reset, steps, 0).cummax(dim=1).values, -1, last)
    filled = x[torch.arange(len(x), device=x.device)[:, None], last.clamp(min=0)]
    return torch.where(expand_flags(last >= 0, x), filled, 0)


def dropout_mask(x: Tensor, channels: int, probability: float) -> Tensor:
    """Variational dropout mask: factors of channels, the same at all times (Gal and Ghahramani 2016).

    Zero or 1 / (1 - probability), (B, 1, channels, 1, ...), with the batch, dtype and device of ``x``.
    """
    shape = (x.shape[0], 1, channels, *(1,) * (x.ndim - 3))
    return (torch.rand(shape, device=x.device) >= probability).to(x.dtype) / (1 - probability)
