"""Pixel-wise scores."""

import torch
from torch import Tensor

from convlstm.functional.ssim import check_data_range
from convlstm.scores.base import MeanScore

_MAX_DB = 100.0


class MSE(MeanScore):
    """Mean squared error per pixel: ``mean over frames and pixels of (forecast - truth)^2``."""

    name = "mse"
    title = "MSE"
    unit = "per pixel"
    formula = "mean over frames, channels and pixels of (forecast - truth)²"
    higher_is_better = False

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Mean over the pixels of each frame."""
        return (forecast - truth).square().mean((2, 3, 4))[None]


class MAE(MeanScore):
    """Mean absolute error per pixel: ``mean over frames and pixels of |forecast - truth|``."""

    name = "mae"
    title = "MAE"
    unit = "per pixel"
    formula = "mean over frames, channels and pixels of |forecast - truth|"
    higher_is_better = False

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Mean over the pixels of each frame."""
        return (forecast - truth).abs().mean((2, 3, 4))[None]


class SquaredErrorSum(MeanScore):
    """Moving MNIST's "MSE": ``mean over frames of the sum over pixels of (forecast - truth)^2``.

    C H W times ``MSE``.
    """

    name = "mse_sum"
    title = "Squared error"
    unit = "sum per frame"
    formula = "mean over frames of the sum over channels and pixels of (forecast - truth)²"
    higher_is_better = False

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Sum over the pixels of each frame."""
        return (forecast - truth).square().sum((2, 3, 4))[None]


class AbsoluteErrorSum(MeanScore):
    """Moving MNIST's "MAE": ``mean over frames of the sum over pixels of |forecast - truth|``.

    C H W times ``MAE``.
    """

    name = "mae_sum"
    title = "Absolute error"
    unit = "sum per frame"
    formula = "mean over frames of the sum over channels and pixels of |forecast - truth|"
    higher_is_better = False

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Sum over the pixels of each frame."""
        return (forecast - truth).abs().sum((2, 3, 4))[None]


class PSNR(MeanScore):
    """Peak signal-to-noise ratio: ``mean over frames of 10 log10(data_range^2 / MSE of the frame)``, in dB.

    A frame has at most 100 dB, so that a perfect one (infinite) does not dominate the mean.

    Args:
        data_range: largest minus smallest possible value of the data.
    """

    name = "psnr"
    title = "PSNR"
    higher_is_better = True

    def __init__(self, data_range: float = 1.0) -> None:
        self.data_range = check_data_range(data_range)
        self.unit = f"dB, data range {data_range:g}"
        self.formula = (
            f"mean over frames of min({_MAX_DB:g}, 10 log10(R² / MSE of the frame)), "
            f"data range R = {data_range:g}"
        )

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Decibels of each frame."""
        ratio = self.data_range**2 / (forecast - truth).square().mean((2, 3, 4))
        return (10 * torch.log10(ratio)).clamp(max=_MAX_DB)[None]
