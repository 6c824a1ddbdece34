"""Forecasts that need no training: what a model has to beat before it has learned anything."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from convlstm.functional.motion import advect, motion_field
from convlstm.models.base import Forecaster, check_past
from convlstm.validation import check_bool

#: Usual values (B, T, C, H, W) at times (B, T), or None if unknown, and a tensor of that shape.
ClimatologyAt = Callable[[Tensor | None, Tensor], Tensor]


class Persistence(Forecaster):
    """The last frame stays as it is; where it was not measured, the last measured value does."""

    def forward(self, past: Tensor, steps: int, *, valid: Tensor | None = None) -> Tensor:
        """Repeat the last frame: (B, K, C, H, W) -> (B, steps, C, H, W).

        Args:
            past: (B, K, C, H, W).
            steps: L.
            valid: (B, K, C, H, W), bool, true where measured; everywhere if None.
        """
        check_past(past, steps)
        return measured_so_far(past, valid)[:, -1:].repeat(1, steps, 1, 1, 1)


class MeanFrame(Forecaster):
    """The mean of the past at every pixel, of its measured values, at every step."""

    def forward(self, past: Tensor, steps: int, *, valid: Tensor | None = None) -> Tensor:
        """Repeat the mean frame: (B, K, C, H, W) -> (B, steps, C, H, W), arguments as of `Persistence`."""
        check_past(past, steps)
        if valid is None:
            return past.mean(1, keepdim=True).repeat(1, steps, 1, 1, 1)
        total, count = (past * valid).sum(1, keepdim=True), valid.sum(1, keepdim=True)
        return (total / count.clamp(min=1)).repeat(1, steps, 1, 1, 1)


class Blank(Forecaster):
    """Zeros: on small moving objects this beats persistence in squared error, so every table shows it."""

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Forecast zeros: (B, K, C, H, W) -> (B, steps, C, H, W)."""
        check_past(past, steps)
        return torch.zeros_like(past[:, :1]).repeat(1, steps, 1, 1, 1)


class LinearTrend(Forecaster):
    """The least-squares line through the past of every pixel, continued, within the range of the past.

    Only measured values count. The range is that of each case and channel over all its pixels. One value has
    no trend: it is repeated.
    """

    def forward(self, past: Tensor, steps: int, *, valid: Tensor | None = None) -> Tensor:
        """Continue the lines: (B, K, C, H, W) -> (B, steps, C, H, W), arguments as of `Persistence`."""
        check_past(past, steps)
        x_BKCHW = past.to(torch.promote_types(past.dtype, torch.float32))
        valid = torch.ones_like(past, dtype=torch.bool) if valid is None else valid
        count_BCHW = valid.sum(1).clamp(min=1)
        mean_BCHW = (x_BKCHW * valid).sum(1) / count_BCHW
        time_K111 = torch.arange(past.shape[1], device=past.device, dtype=x_BKCHW.dtype).view(-1, 1, 1, 1)
        middle_BCHW = (time_K111 * valid).sum(1) / count_BCHW
        since_BKCHW = (time_K111 - middle_BCHW[:, None]) * valid
        slope_BCHW = (x_BKCHW * since_BKCHW).sum(1) / since_BKCHW.square().sum(1).clamp(min=0.5)
        lead_L111 = past.shape[1] + torch.arange(steps, device=past.device).view(-1, 1, 1, 1)
        line_BLCHW = mean_BCHW[:, None] + slope_BCHW[:, None] * (lead_L111 - middle_BCHW[:, None])
        low = torch.where(valid, x_BKCHW, torch.inf).amin((1, 3, 4), keepdim=True)
        high = torch.where(valid, x_BKCHW, -torch.inf).amax((1, 3, 4), keepdim=True)
        return torch.where(valid.any(1, keepdim=True), line_BLCHW.clamp(low, high), 0).to(past.dtype)


class Advection(Forecaster):
    """The last frame moves on along the motion of the last frames, which stays as it is.

    Motion is that of `motion_field`: of blocks of 64 pixels, or of small frames as a whole. One frame shows
    none: it is repeated. Values that were not measured are those last measured.

    Args:
        zero_outside: zeros come in from outside, for data whose zero means nothing there, such as rain; the
            values at the border are repeated otherwise.
    """

    def __init__(self, zero_outside: bool = False) -> None:
        super().__init__()
        self.zero_outside = check_bool(zero_outside, "zero_outside")

    def forward(self, past: Tensor, steps: int, *, valid: Tensor | None = None) -> Tensor:
        """Move the last frame: (B, K, C, H, W) -> (B, steps, C, H, W), arguments as of `Persistence`."""
        check_past(past, steps)
        frames = measured_so_far(past, valid)
        return advect(frames[:, -1], motion_field(frames), steps, zero_outside=self.zero_outside)


class Climatology(Forecaster):
    """The usual value of each time of the year.

    Args:
        climatology: values (B, T, C, H, W) at times (B, T) in the scale of the network, such as
            `convlstm.data.climatology.Anomaly.climatology`, called with the times and a tensor of that shape;
            None where the scale is that of anomalies: zeros.
    """

    def __init__(self, climatology: ClimatologyAt | None = None) -> None:
        super().__init__()
        self.climatology = climatology

    def forward(self, past: Tensor, steps: int, *, times: Tensor | None = None) -> Tensor:
        """Forecast the usual values: (B, K, C, H, W) -> (B, steps, C, H, W), by times (B, K + steps)."""
        check_past(past, steps)
        return self._usual(past[:, -1:].repeat(1, steps, 1, 1, 1), past.shape[1], times)

    def _usual(self, like: Tensor, first: int, times: Tensor | None) -> Tensor:
        """Usual values at the times from ``first`` on, of the shape of a tensor."""
        if self.climatology is None:
            return torch.zeros_like(like)
        return self.climatology(None if times is None else times[:, first : first + like.shape[1]], like)


class DampedPersistence(Climatology):
    """The anomaly of the last frame, damped by a factor at every step, on top of the climatology.

    Args:
        damping: factor of a step: one number, or (C, H, W).
        climatology: as of `Climatology`.
    """

    def __init__(self, damping: float | Tensor, climatology: ClimatologyAt | None = None) -> None:
        super().__init__(climatology)
        self.damping = torch.as_tensor(damping)

    def forward(
        self, past: Tensor, steps: int, *, valid: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Damp the last anomaly: (B, K, C, H, W) -> (B, steps, C, H, W).

        Args:
            past: (B, K, C, H, W).
            steps: L.
            valid: (B, K, C, H, W), bool, true where measured; everywhere if None.
            times: (B, K + L), seconds since 1970-01-01.
        """
        check_past(past, steps)
        last = measured_so_far(past, valid)[:, -1:]
        anomaly = last - self._usual(last, past.shape[1] - 1, times)
        lead_L111 = torch.arange(1, steps + 1, device=past.device).view(-1, 1, 1, 1)
        future = self._usual(last.expand(-1, steps, -1, -1, -1), past.shape[1], times)
        return future + anomaly * self.damping.to(past) ** lead_L111


def measured_so_far(past: Tensor, valid: Tensor | None) -> Tensor:
    """Frames (B, K, C, H, W) with the last measured value of each pixel where it was not measured.

    Args:
        past: (B, K, C, H, W).
        valid: (B, K, C, H, W), bool, true where measured; everywhere if None.
    """
    if valid is None:
        return past
    frames = [past[:, 0]]
    for k in range(1, past.shape[1]):
        seen = valid[:, :k].any(1) & ~valid[:, k]
        frames.append(torch.where(seen, frames[-1], past[:, k]))
    return torch.stack(frames, dim=1)


BASELINES: Mapping[str, Callable[[], Forecaster]] = {
    "persistence": Persistence,
    "mean_frame": MeanFrame,
    "blank": Blank,
    "linear_trend": LinearTrend,
    "advection": Advection,
}
"""The baselines of every table, in its order."""
