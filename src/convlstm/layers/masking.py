"""Masks: of frames that are missing, and of channels that are dropped."""

from collections.abc import Callable

import torch
from torch import Tensor


def expand_flags(flags_BT: Tensor, x: Tensor) -> Tensor:
    """Flags of frames (B, T), as (B, T, 1, ...) in the rank of a sequence (B, T, C, *S)."""
    return flags_BT[(..., *(None,) * (x.ndim - 2))]


def where_samples(flags_B: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of two tensors (B, ...): samples of the first where the flag is set, else of the second."""

    def choose(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(flags_B[(..., *(None,) * (no.ndim - 1))], yes, no)

    return choose


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
