"""Losses by name: forecast and future, both (B, L, C, *S), to one number."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from convlstm.functional.ssim import ssim


def mse(forecast: Tensor, future: Tensor) -> Tensor:
    """Mean squared error per pixel."""
    return F.mse_loss(forecast, future)


def mae(forecast: Tensor, future: Tensor) -> Tensor:
    """Mean absolute error per pixel."""
    return F.l1_loss(forecast, future)


def mse_mae(forecast: Tensor, future: Tensor) -> Tensor:
    """Mean squared plus mean absolute error: squares for the bulk, absolutes against blur."""
    return mse(forecast, future) + mae(forecast, future)


def ssim_mix(forecast: Tensor, future: Tensor) -> Tensor:
    """Mean absolute error mixed with structure, 0.16 MAE + 0.84 (1 - SSIM).

    The weights are those of Zhao et al. (2017, arXiv:1511.08861), equation 14, with SSIM at one scale. Values
    are taken to lie in [0, 1].
    """
    frames = forecast.flatten(0, 1), future.flatten(0, 1)
    return 0.16 * mae(forecast, future) + 0.84 * (1 - ssim(*frames, data_range=1.0).mean())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "mae": mae,
    "mse+mae": mse_mae,
    "ssim": ssim_mix,
}
