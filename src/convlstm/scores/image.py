"""Scores of frames as images."""

import torch
from torch import Tensor

from convlstm.functional.ssim import check_data_range, ssim
from convlstm.scores.base import MeanScore, Score


class SSIM(MeanScore):
    """Structural similarity: ``mean over frames of ssim(forecast, truth)`` (``functional.ssim``; at most 1).

    Frames must be at least 11 x 11.

    Args:
        data_range: largest minus smallest possible value of the data.
    """

    name = "ssim"
    title = "SSIM"
    higher_is_better = True

    def __init__(self, data_range: float = 1.0) -> None:
        self.data_range = check_data_range(data_range)
        self.unit = f"at most 1, data range {data_range:g}"
        self.formula = (
            "mean over frames of SSIM (Wang et al. 2004), Gaussian window 11 x 11, sigma 1.5, "
            f"data range {data_range:g}"
        )

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Structural similarity of each frame."""
        return ssim(forecast, truth, data_range=self.data_range)[None]


class Sharpness(Score):
    """Sharpness: ``sum over frames and pixels of |grad forecast|``, divided by the same of the truth.

    The gradient is that of forward differences along rows and columns. 1 is as sharp as the truth, less is
    blurred, more is noisy; a blank forecast has 0. NaN if no true frame has a gradient. It does not depend on
    the positions of edges: read it beside an error.
    """

    name = "sharpness"
    title = "Sharpness"
    unit = "ratio, 1 is the truth's"
    formula = "sum over frames and pixels of |∇forecast| / the same of |∇truth|, |∇| from forward differences"
    higher_is_better = None
    count = 2

    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Gradient magnitude of the forecast and of the truth, each frame."""
        return torch.stack([_gradient(forecast), _gradient(truth)])

    def value(self, sums: Tensor, frames: Tensor) -> Tensor:
        """Ratio of the two sums."""
        return torch.where(sums[1] > 0, sums[0] / sums[1], torch.nan)


def _gradient(x_BLCHW: Tensor) -> Tensor:
    """Sum of the gradient magnitude over each frame: (B, L)."""
    down = x_BLCHW[..., 1:, :-1] - x_BLCHW[..., :-1, :-1]
    right = x_BLCHW[..., :-1, 1:] - x_BLCHW[..., :-1, :-1]
    return torch.hypot(down, right).sum((2, 3, 4))
