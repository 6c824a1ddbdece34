"""Batches of windows in reverse time, or with another share of past and future."""

import torch
from torch import Tensor

from convlstm.data.base import LabelledWindow


def reversed_in_time(batch: LabelledWindow) -> LabelledWindow:
    """Windows whose last frame is the first; past and future stay as long as they are."""
    length = batch.past.shape[1]
    frames = _joined(batch.past, batch.future).flip(1)
    valid = _joined_valid(batch)
    valid = None if valid is None else valid.flip(1)
    return batch._replace(
        past=frames[:, :length],
        future=frames[:, length:],
        past_valid=None if valid is None else valid[:, :length],
        future_valid=None if valid is None else valid[:, length:],
        inputs=None if batch.inputs is None else batch.inputs.flip(1),
        times=None if batch.times is None else batch.times.flip(1),
    )


def split_after(batch: LabelledWindow, frames: int) -> LabelledWindow:
    """The same windows with so many frames as the past, and all later ones as the future."""
    whole, valid = _joined(batch.past, batch.future), _joined_valid(batch)
    return batch._replace(
        past=whole[:, :frames],
        future=whole[:, frames:],
        past_valid=None if valid is None else valid[:, :frames],
        future_valid=None if valid is None else valid[:, frames:],
    )


def _joined(past: Tensor, future: Tensor) -> Tensor:
    return torch.cat([past, future], dim=1)


def _joined_valid(batch: LabelledWindow) -> Tensor | None:
    """The masks of past and future, true where there is none; None if there are none at all."""
    if batch.past_valid is None and batch.future_valid is None:
        return None
    pairs = ((batch.past_valid, batch.past), (batch.future_valid, batch.future))
    masks = [torch.ones_like(x, dtype=torch.bool) if valid is None else valid for valid, x in pairs]
    return torch.cat(masks, dim=1)
