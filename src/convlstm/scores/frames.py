"""Frames as scores take them: values, weights, and what several scores derive from them, computed once."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from convlstm.errors import DataError, ShapeError

T = TypeVar("T")
_ROUNDING = 2e-6  # of a value, by single precision in and out of a scale


class Frames:
    """Forecast or true frames of a batch, which keep what scores derive from them.

    A verification passes the same true frames to all scores of all forecasters, so that what depends on the
    truth alone is computed once.

    Attributes:
        values: (B, L, C, H, W), float32 or better.
        weight: as ``values``: 0 where the truth was not measured, elsewhere 1, or the share of the area on
            grids whose pixels differ.
        valid: as ``values``, bool, true where the weight is more than 0.
    """

    def __init__(self, values: Tensor, weight: Tensor, valid: Tensor | None = None) -> None:
        self.values = values.to(torch.promote_types(values.dtype, torch.float32))
        self.weight = weight
        self.valid = weight > 0 if valid is None else valid
        self._derived: dict[Any, Any] = {}

    def cached(self, function: Callable[..., T], *arguments: float) -> T:
        """``function(self, *arguments)``, computed at the first call."""
        key = function, *arguments
        if key not in self._derived:
            self._derived[key] = function(self, *arguments)
        found: T = self._derived[key]
        return found


def paired(forecast: Tensor, truth: Tensor, weight: Tensor | None = None) -> tuple[Frames, Frames]:
    """Forecast and true frames with the same weights.

    Args:
        forecast: (B, L, C, H, W).
        truth: as ``forecast``.
        weight: at least 0, of a shape that expands to that of ``truth``; 1 everywhere if None.
    """
    true = Frames(truth, weights_of(truth, weight))
    return Frames(forecast, true.weight, true.valid), true


def weights_of(truth: Tensor, weight: Tensor | None) -> Tensor:
    """Weights of all true values, of the shape of these, float32 or better.

    Raises:
        ShapeError: weights that do not expand to the shape of the truth.
    """
    weight = torch.ones((), device=truth.device) if weight is None else weight
    sizes = tuple(weight.shape)
    fits = all(size in (1, of) for size, of in zip(reversed(sizes), reversed(truth.shape), strict=False))
    if len(sizes) > truth.ndim or not fits:
        raise ShapeError(
            f"weight must expand to the truth's shape {tuple(truth.shape)}; received {sizes}: give a weight "
            "for every value, or 1 along an axis"
        )
    dtype = torch.promote_types(torch.promote_types(truth.dtype, weight.dtype), torch.float32)
    return weight.to(dtype).expand(truth.shape)


def check_weight(weight: Tensor) -> None:
    """Check that weights are finite and at least 0.

    Raises:
        DataError: one is not.
    """
    if not bool(((weight >= 0) & weight.isfinite()).all()):
        low, high = (float(end) for end in weight.aminmax())
        raise DataError(
            f"weights must be finite and at least 0; received {low:g} to {high:g}: give 0 where nothing was "
            "measured"
        )


def total_weight(frames: Frames) -> Tensor:
    """Sum of the weights of every frame, (B, L)."""
    return frames.weight.sum((2, 3, 4))


def measured(frames: Frames) -> Tensor:
    """True (B, L) for frames with a pixel of weight."""
    return frames.cached(total_weight) > 0


def finite(frames: Frames) -> Tensor:
    """True (B, L) for frames of which every value, and their sum, is finite."""
    return frames.values.sum((2, 3, 4)).isfinite()


def events(frames: Frames, threshold: float, rounding: float = 0.0) -> Tensor:
    """True (B, L, C, H, W) where a value of at least a threshold was measured.

    A value that is less by rounding alone counts: quantised data, such as those of radars, often hold the
    threshold itself, and come back from the scale of a network some units in the last place below it.

    Args:
        frames: the values.
        threshold: least value of an event.
        rounding: by which values may be off; at least two millionths of the threshold are allowed for.
    """
    return (frames.values >= least_event(threshold, rounding)) & frames.valid


def least_event(threshold: float, rounding: float = 0.0) -> float:
    """Least value that counts as an event of a threshold, see `events`."""
    return threshold - max(_ROUNDING * abs(threshold), rounding)
