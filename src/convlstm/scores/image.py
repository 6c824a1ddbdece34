"""Scores of frames as images."""

import torch
from torch import Tensor

from convlstm.functional.ssim import check_data_range, ssim
from convlstm.scores.base import FrameScore, Score
from convlstm.scores.frames import Frames, measured


class SSIM(FrameScore):
    """Structural similarity: ``mean over frames of ssim(forecast, truth)`` (``functional.ssim``; at most 1).

    Frames must be at least 11 x 11. Windows with a pixel that was not measured are left out.

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

    def of_frames(self, forecast: Frames, truth: Frames) -> tuple[Tensor, Tensor]:
        """Structural similarity of each frame, over the windows that were measured whole."""
        x, y, valid = forecast.values, truth.values, truth.valid
        value = ssim(x, y, data_range=self.data_range, valid=None if valid.all() else valid)
        blank = torch.where(valid, x + y, 0).isfinite().all(4).all(3).all(2)
        return value, ~(value.isnan() & blank)


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
    count = 3
    samples_of = "frames"

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Gradient magnitude of the forecast and of the truth, each frame, and 1 for a frame."""
        sums = [frames.cached(_gradient) for frames in (forecast, truth)]
        return torch.stack([*sums, truth.cached(measured).to(sums[0])])

    def value(self, sums: Tensor) -> Tensor:
        """Ratio of the two sums."""
        return torch.where(sums[1] > 0, sums[0] / sums[1], torch.nan)


def _gradient(frames: Frames) -> Tensor:
    """Weighted sum of the gradient magnitude of every frame, (B, L), where all its pixels were measured."""
    x, valid = frames.values, frames.valid
    down = x[..., 1:, :-1] - x[..., :-1, :-1]
    right = x[..., :-1, 1:] - x[..., :-1, :-1]
    inside = frames.weight[..., :-1, :-1] * valid[..., 1:, :-1] * valid[..., :-1, 1:]
    return (torch.hypot(down, right) * inside).sum((2, 3, 4))
