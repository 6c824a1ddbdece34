"""Losses: forecast and future, both (B, L, C, *S), with weights, to one number.

Pixels of weight 0 were not measured: they change neither a loss nor a gradient. A batch without any measured
pixel has a loss of 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from convlstm.functional.ssim import ssim

#: Loss of a forecast, the future and weights of the future's shape, at least 0; None for 1 everywhere.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of errors (B, L, C, *S) with weights of a shape that expands to theirs; 0 if all weights are."""
    if weight is None:
        return error.mean()
    weight = weight.to(error.dtype).expand(error.shape)
    # Not error * weight alone: an error of infinity times 0 would be NaN.
    total = torch.where(weight > 0, error, 0) * weight
    return total.sum() / weight.sum().clamp(min=torch.finfo(error.dtype).tiny)


def mse(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error per pixel."""
    return weighted_mean((forecast - future).square(), weight)


def mae(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error per pixel."""
    return weighted_mean((forecast - future).abs(), weight)


def mse_mae(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared plus mean absolute error: squares for the bulk, absolutes against blur."""
    return mse(forecast, future, weight) + mae(forecast, future, weight)


def ssim_mix(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error mixed with structure, 0.16 MAE + 0.84 (1 - SSIM).

    The weights are those of Zhao et al. (2017, arXiv:1511.08861), equation 14, with SSIM at one scale, over
    windows that were measured whole. Values are taken to lie in [0, 1].
    """
    valid = None if weight is None else (weight > 0).expand(future.shape).flatten(0, 1)
    similarity = ssim(forecast.flatten(0, 1), future.flatten(0, 1), data_range=1.0, valid=valid)
    # Frames without a whole window have none.
    structure = torch.where(similarity.isnan(), 1.0, similarity) if valid is not None else similarity
    return 0.16 * mae(forecast, future, weight) + 0.84 * (1 - structure.mean())


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "mae": mae,
    "mse+mae": mse_mae,
    "ssim": ssim_mix,
}
