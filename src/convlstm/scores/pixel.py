"""Pixel-wise scores."""

import torch
from torch import Tensor

from convlstm.functional.ssim import check_data_range
from convlstm.scores.base import FrameScore, MeanScore, Score
from convlstm.scores.frames import Frames, measured, total_weight

_MAX_DB = 100.0


class _PixelScore(MeanScore):
    """Mean over pixels.

    Args:
        unit: of the data.
    """

    unit = "per pixel"

    def __init__(self, unit: str = "") -> None:
        self.unit = unit or "per pixel"


class MSE(_PixelScore):
    """Mean squared error per pixel: ``mean over frames and pixels of (forecast - truth)^2``.

    Args:
        unit: of the data.
    """

    name = "mse"
    title = "MSE"
    formula = "mean over frames, channels and pixels of (forecast - truth)²"
    higher_is_better = False

    def __init__(self, unit: str = "") -> None:
        super().__init__(f"({unit})²" if unit else "")

    def error(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Squared error."""
        return (forecast - truth).square()


class RMSE(_PixelScore):
    """Root of the mean squared error, in the unit of the data.

    Args:
        unit: of the data.
    """

    name = "rmse"
    title = "RMSE"
    formula = "√MSE"
    higher_is_better = False
    terms_key = "mse"

    def error(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Squared error."""
        return (forecast - truth).square()

    def value(self, sums: Tensor) -> Tensor:
        """Root of the mean."""
        return (sums[0] / sums[1]).sqrt()


class MAE(_PixelScore):
    """Mean absolute error per pixel: ``mean over frames and pixels of |forecast - truth|``.

    Args:
        unit: of the data.
    """

    name = "mae"
    title = "MAE"
    formula = "mean over frames, channels and pixels of |forecast - truth|"
    higher_is_better = False

    def error(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Absolute error."""
        return (forecast - truth).abs()


class Bias(_PixelScore):
    """Mean error per pixel: ``mean over frames and pixels of forecast - truth``; 0 is unbiased.

    Args:
        unit: of the data.
    """

    name = "bias"
    title = "Bias"
    formula = "mean over frames, channels and pixels of forecast - truth"
    higher_is_better = None

    def __init__(self, unit: str = "") -> None:
        super().__init__(unit)
        self.unit += ", 0 is unbiased"

    def error(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Signed error."""
        return forecast - truth


class Correlation(Score):
    """Pearson correlation over frames and pixels; undefined where forecast or truth is constant."""

    name = "correlation"
    title = "Correlation"
    unit = "at most 1"
    formula = "covariance of forecast and truth over frames and pixels / product of their deviations"
    higher_is_better = True
    count = 6

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Weighted sums of forecast, truth, their squares and product, and the weights."""
        (x, xx), (y, yy) = forecast.cached(_moments), truth.cached(_moments)
        xy = (truth.cached(_weighted) * forecast.values.double()).sum((2, 3, 4))
        return torch.stack([x, y, xx, yy, xy, truth.cached(_exact_weight)])

    def value(self, sums: Tensor) -> Tensor:
        """Correlation of the sums."""
        x, y, xx, yy, xy = sums[:5] / sums[5]
        variances = (xx - x * x).clamp(min=0), (yy - y * y).clamp(min=0)
        # Below this, a variance is rounding error of its two terms.
        flat = (variances[0] <= 1e-12 * xx) | (variances[1] <= 1e-12 * yy)
        return torch.where(flat, torch.nan, (xy - x * y) / (variances[0] * variances[1]).sqrt())


def _weighted(frames: Frames) -> Tensor:
    """Values times weights, in float64: variances are differences of large sums."""
    return frames.values.double() * frames.weight


def _exact_weight(frames: Frames) -> Tensor:
    """Sum of the weights of every frame, (B, L), in float64, as an error of it changes variances."""
    return frames.weight.sum((2, 3, 4), dtype=torch.float64)


def _moments(frames: Frames) -> tuple[Tensor, Tensor]:
    """Weighted sums of the values of every frame, and of their squares, (B, L)."""
    weighted = frames.cached(_weighted)
    return weighted.sum((2, 3, 4)), (weighted * frames.values.double()).sum((2, 3, 4))


class SquaredErrorSum(FrameScore):
    """Moving MNIST's "MSE": ``mean over frames of the sum over pixels of (forecast - truth)^2``.

    C H W times ``MSE``.
    """

    name = "mse_sum"
    title = "Squared error"
    unit = "sum per frame"
    formula = "mean over frames of the sum over channels and pixels of (forecast - truth)²"
    higher_is_better = False

    def of_frames(self, forecast: Frames, truth: Frames) -> tuple[Tensor, Tensor]:
        """Sum over the pixels of each frame."""
        error = (forecast.values - truth.values).square()
        return (error * truth.weight).sum((2, 3, 4)), truth.cached(measured)


class AbsoluteErrorSum(FrameScore):
    """Moving MNIST's "MAE": ``mean over frames of the sum over pixels of |forecast - truth|``.

    C H W times ``MAE``.
    """

    name = "mae_sum"
    title = "Absolute error"
    unit = "sum per frame"
    formula = "mean over frames of the sum over channels and pixels of |forecast - truth|"
    higher_is_better = False

    def of_frames(self, forecast: Frames, truth: Frames) -> tuple[Tensor, Tensor]:
        """Sum over the pixels of each frame."""
        error = (forecast.values - truth.values).abs()
        return (error * truth.weight).sum((2, 3, 4)), truth.cached(measured)


class PSNR(FrameScore):
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

    def of_frames(self, forecast: Frames, truth: Frames) -> tuple[Tensor, Tensor]:
        """Decibels of each frame."""
        defined = truth.cached(measured)
        size = torch.where(defined, truth.cached(total_weight), 1)
        mse = ((forecast.values - truth.values).square() * truth.weight).sum((2, 3, 4)) / size
        return (10 * torch.log10(self.data_range**2 / mse)).clamp(max=_MAX_DB), defined
