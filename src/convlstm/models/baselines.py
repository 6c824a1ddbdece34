"""Forecasts that need no training: what a model has to beat before it has learned anything."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from convlstm.functional.motion import phase_correlation, translate
from convlstm.models.base import Forecaster, check_past


class Persistence(Forecaster):
    """The last frame stays as it is."""

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Repeat the last frame: (B, K, C, H, W) -> (B, steps, C, H, W)."""
        check_past(past, steps)
        return past[:, -1:].repeat(1, steps, 1, 1, 1)


class MeanFrame(Forecaster):
    """The mean of the past at every pixel, at every step."""

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Repeat the mean frame: (B, K, C, H, W) -> (B, steps, C, H, W)."""
        check_past(past, steps)
        return past.mean(1, keepdim=True).repeat(1, steps, 1, 1, 1)


class Blank(Forecaster):
    """Zeros: on small moving objects this beats persistence in squared error, so every table shows it."""

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Forecast zeros: (B, K, C, H, W) -> (B, steps, C, H, W)."""
        check_past(past, steps)
        return torch.zeros_like(past[:, :1]).repeat(1, steps, 1, 1, 1)


class LinearTrend(Forecaster):
    """The least-squares line through the past of every pixel, continued, within the range of the past.

    The range is that of each case and channel over all its pixels. One frame has no trend: it is repeated.
    """

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Continue every pixel's line: (B, K, C, H, W) -> (B, steps, C, H, W)."""
        check_past(past, steps)
        x_BKCHW = past.to(torch.promote_types(past.dtype, torch.float32))
        count = past.shape[1]
        time_K = torch.arange(count, device=past.device, dtype=x_BKCHW.dtype) - (count - 1) / 2
        slope_BCHW = (x_BKCHW * time_K.view(-1, 1, 1, 1)).sum(1) / time_K.square().sum().clamp(min=0.5)
        lead_L = torch.arange(steps, device=past.device, dtype=x_BKCHW.dtype) + (count + 1) / 2
        line_BLCHW = x_BKCHW.mean(1, keepdim=True) + slope_BCHW[:, None] * lead_L.view(-1, 1, 1, 1)
        low, high = x_BKCHW.amin((1, 3, 4), keepdim=True), x_BKCHW.amax((1, 3, 4), keepdim=True)
        return line_BLCHW.clamp(low, high).to(past.dtype)


class Advection(Forecaster):
    """The last frame moves on at constant velocity, all of it alike; what is at an edge also comes in there.

    The velocity is the displacement between the last two frames, found by phase correlation. One frame shows
    no motion: it is repeated.
    """

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Move the last frame: (B, K, C, H, W) -> (B, steps, C, H, W)."""
        check_past(past, steps)
        velocity_B2 = phase_correlation(past[:, -2:][:, 0], past[:, -1])
        return torch.stack([translate(past[:, -1], k * velocity_B2) for k in range(1, steps + 1)], dim=1)


BASELINES: Mapping[str, Callable[[], Forecaster]] = {
    "persistence": Persistence,
    "mean_frame": MeanFrame,
    "blank": Blank,
    "linear_trend": LinearTrend,
    "advection": Advection,
}
"""The baselines of every table, in its order."""
