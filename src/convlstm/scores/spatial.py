"""Scores of scale: fractions skill score, radially averaged power spectrum, variance."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.scores.base import Score, measured
from convlstm.validation import check_number, check_positive

_BINS = 24
_LONGEST = 512.0  # pixels


class FSS(Score):
    """Fractions skill score (Roberts and Lean 2008, doi:10.1175/2007MWR2123.1).

    ``1 - sum (F - O)^2 / sum (F^2 + O^2)`` with the fractions F and O of pixels of at least a threshold in
    the square window around every pixel. Windows reach over the border, and over pixels that were not
    measured, where they see nothing: fractions are of the whole window.

    Args:
        threshold: least value of an event, in the unit of the data.
        window: side of the window in pixels, odd.
        unit: of the threshold, for titles.
    """

    unit = "at most 1"
    higher_is_better = True
    count = 3
    pooled = True

    def __init__(self, threshold: float, window: int, unit: str = "") -> None:
        self.threshold = check_number(threshold, "threshold")
        self.window = check_positive(window, "window") // 2 * 2 + 1
        self.name = f"fss_{self.threshold:g}_{self.window}"
        self.title = f"FSS at {self.threshold:g} {unit}".rstrip() + f", {self.window} pixels"
        self.formula = "1 - Σ (F - O)² / Σ (F² + O²), fractions of events in a window"

    def terms(self, forecast: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """Squared differences and squares of the fractions, weighted, and the weights."""
        finite = (forecast - forecast + truth - truth + weight).sum((2, 3, 4))
        events = [(x >= self.threshold) & (weight > 0) for x in (forecast, truth)]
        rows, columns = self._reach(events[0] | events[1])
        weight = weight[..., rows, columns]
        said, happened = (self._fraction(x[..., rows, columns].to(forecast)) for x in events)
        difference, size = (said - happened).square(), said.square() + happened.square()
        sums = [(term * weight).sum((2, 3, 4)) for term in (difference, size)]
        return torch.stack([*sums, finite])

    def value(self, sums: Tensor) -> Tensor:
        """Skill of the sums; undefined without an event."""
        return torch.where(sums[1] > 0, 1 - sums[0] / sums[1], torch.nan)

    def _fraction(self, events_BLCHW: Tensor) -> Tensor:
        return self._along(self._along(events_BLCHW, -1), -2) / self.window**2

    def _along(self, x: Tensor, axis: int) -> Tensor:
        """Sums over the window along one axis, from cumulative sums: exact, as these are whole numbers."""
        if self.window == 1:
            return x
        half, length = self.window // 2, x.shape[axis]
        total = F.pad(x, (0, 0) * (-1 - axis) + (half + 1, half)).cumsum(axis)
        return total.narrow(axis, self.window, length) - total.narrow(axis, 0, length)

    def _reach(self, events_BLCHW: Tensor) -> tuple[slice, slice]:
        """Rows and columns whose windows see an event; fractions are 0 elsewhere."""
        height, width = events_BLCHW.shape[-2:]
        flat = events_BLCHW.reshape(-1, height, width).any(0)
        found = []
        for seen in (flat.any(1), flat.any(0)):
            places = seen.nonzero()
            first, last = (int(places[0]), int(places[-1])) if len(places) else (0, 0)
            found.append(slice(max(0, first - self.window // 2), last + self.window // 2 + 1))
        return found[0], found[1]


class VarianceRatio(Score):
    """Variance of the forecast divided by that of the truth, within frames: below 1 is too smooth."""

    name = "variance_ratio"
    title = "Variance"
    unit = "ratio, 1 is the truth's"
    formula = "sum over frames of the variance within the forecast / the same of the truth"
    higher_is_better = None
    count = 3
    samples_of = "frames"

    def terms(self, forecast: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """Variance within each frame, of forecast and truth, and 1 for a frame."""
        defined = measured(weight)
        return torch.stack([*(_variance(x, weight) for x in (forecast, truth)), defined.to(forecast)])

    def value(self, sums: Tensor) -> Tensor:
        """Ratio of the summed variances."""
        return torch.where(sums[1] > 0, sums[0] / sums[1], torch.nan)


class SmallScalePower(Score):
    """Power at wavelengths below a limit, forecast divided by truth: what a blurred forecast has lost.

    From radially averaged power spectra of each frame, pixels that were not measured at the mean of the
    others; ``spectra`` gives these in full.

    Args:
        wavelength: limit in pixels.
    """

    unit = "ratio, 1 is the truth's"
    higher_is_better = None
    count = 2 * _BINS + 1
    samples_of = "frames"
    terms_key = "spectrum"

    def __init__(self, wavelength: float = 16.0) -> None:
        self.wavelength = check_number(wavelength, "wavelength", above=2)
        self.name = f"power_below_{self.wavelength:g}"
        self.title = f"Power below {self.wavelength:g} pixels"
        self.formula = f"power at wavelengths below {self.wavelength:g} pixels, forecast / truth"

    def terms(self, forecast: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """Power of the forecast, then of the truth, in every band, and 1 for a frame."""
        bands = [_band_power(x, weight) for x in (forecast, truth)]
        return torch.cat([*bands, measured(weight).to(bands[0])[None]])

    def value(self, sums: Tensor) -> Tensor:
        """Ratio of the power in the bands below the limit."""
        small = wavelengths().to(sums.device) < self.wavelength
        forecast, truth = sums[:_BINS][small].sum(0), sums[_BINS:-1][small].sum(0)
        return torch.where(truth > 0, forecast / truth, torch.nan)


def spectra(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean power per frame of forecast and truth in every band, (R, ...), from sums of `SmallScalePower`."""
    return sums[:_BINS] / sums[-1], sums[_BINS:-1] / sums[-1]


def wavelengths() -> Tensor:
    """Wavelength in pixels in the middle of every band, (R,): 2 to 512, evenly on a logarithmic scale."""
    step = math.log(_LONGEST / 2) / _BINS
    return torch.exp((torch.arange(_BINS, dtype=torch.float64) + 0.5) * step) * 2


def _band_power(x_BLCHW: Tensor, weight: Tensor) -> Tensor:
    """Power in bands of wavelength, summed over directions and channels: (R, B, L).

    By Parseval's theorem the sum over bands is the variance within the frame, but for wavelengths beyond 512
    pixels, which count as these, and for those below 2, in the corners of the spectrum, which count as 2.
    """
    height, width = x_BLCHW.shape[-2:]
    power = torch.fft.rfft2(_centred(x_BLCHW.double(), weight)).abs().square()
    rows = torch.fft.fftfreq(height, device=x_BLCHW.device, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(width, device=x_BLCHW.device, dtype=torch.float64)[None]
    wavenumber = torch.hypot(rows, columns)
    # All columns but the first and, of an even width, the last stand for two waves.
    twice = torch.full_like(columns, 2)
    twice[0, 0] = 1
    if width % 2 == 0:
        twice[0, -1] = 1
    step = math.log(_LONGEST / 2) / _BINS
    place = (torch.log(1 / wavenumber.clamp(min=1e-9) / 2) / step).floor().clamp(0, _BINS - 1).long()
    flat = (power * twice / (height * width) ** 2).sum(2).flatten(2)
    bands = torch.zeros(*flat.shape[:2], _BINS, dtype=flat.dtype, device=flat.device)
    bands.index_add_(2, place.flatten(), flat)
    return bands.movedim(-1, 0)


def _centred(x_BLCHW: Tensor, weight: Tensor) -> Tensor:
    """Deviations from the mean of the measured pixels of each channel, 0 elsewhere."""
    seen = (weight > 0).to(x_BLCHW)
    size = seen.sum((-2, -1), keepdim=True).clamp(min=1)
    return (x_BLCHW - (x_BLCHW * seen).sum((-2, -1), keepdim=True) / size) * seen


def _variance(x_BLCHW: Tensor, weight: Tensor) -> Tensor:
    """Variance within each frame, (B, L)."""
    size = (weight > 0).sum((-2, -1)).clamp(min=1)
    return (_centred(x_BLCHW.double(), weight).square().sum((-2, -1)) / size).sum(2)
