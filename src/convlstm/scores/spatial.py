"""Scores of scale: fractions skill score, radially averaged power spectrum, variance."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.scores.base import Score
from convlstm.scores.frames import Frames, events, measured, total_weight
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
        window: side of the window in pixels, odd; an even one is made one pixel larger.
        unit: of the threshold, for titles.
        rounding: by which values may be off, so that one at the threshold is an event.
    """

    unit = "at most 1"
    higher_is_better = True
    count = 3
    pooled = True

    def __init__(self, threshold: float, window: int, unit: str = "", rounding: float = 0.0) -> None:
        self.threshold = check_number(threshold, "threshold")
        self._event = self.threshold, check_number(rounding, "rounding", least=0)
        self.window = check_positive(window, "window") // 2 * 2 + 1
        self.name = f"fss_{self.threshold:g}_{self.window}"
        self.title = f"FSS at {self.threshold:g} {unit}".rstrip() + f", {self.window} pixels"
        self.formula = "1 - Σ (F - O)² / Σ (F² + O²), fractions of events in a window"

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Squared differences and squares of the fractions, weighted, and the weights."""
        event = *self._event, self.window
        predicted, observed = (frames.cached(_fractions, *event) for frames in (forecast, truth))
        rows, columns = predicted.rows.meet(observed.rows), predicted.columns.meet(observed.columns)
        product = _part(predicted.values, predicted.rows, predicted.columns, rows, columns) * _part(
            observed.weighted, observed.rows, observed.columns, rows, columns
        )
        size = predicted.squares + observed.squares
        difference = (size - 2 * product.sum((2, 3, 4)).double()).clamp(min=0)
        return torch.stack([difference, size, truth.cached(total_weight).double()])

    def value(self, sums: Tensor) -> Tensor:
        """Skill of the sums; undefined without an event."""
        return torch.where(sums[1] > 0, 1 - sums[0] / sums[1], torch.nan)


class VarianceRatio(Score):
    """Variance of the forecast divided by that of the truth, within frames: below 1 is too smooth."""

    name = "variance_ratio"
    title = "Variance"
    unit = "ratio, 1 is the truth's"
    formula = "sum over frames of the variance within the forecast / the same of the truth"
    higher_is_better = None
    count = 3
    samples_of = "frames"

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Variance within each frame, of forecast and truth, and 1 for a frame."""
        variances = [frames.cached(_variance) for frames in (forecast, truth)]
        return torch.stack([*variances, truth.cached(measured).to(variances[0])])

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

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Power of the forecast, then of the truth, in every band, and 1 for a frame."""
        bands = [frames.cached(_band_power) for frames in (forecast, truth)]
        return torch.cat([*bands, truth.cached(measured).to(bands[0])[None]])

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


class _Span(NamedTuple):
    """Pixels of an axis, from the first to before the last."""

    first: int
    last: int

    def meet(self, other: "_Span") -> "_Span":
        """Pixels that both hold."""
        first = max(self.first, other.first)
        return _Span(first, max(first, min(self.last, other.last)))


class _Fractions(NamedTuple):
    """Fractions of events in windows, at the rows and columns where they are not 0.

    Attributes:
        rows: of the frames.
        columns: of the frames.
        values: (B, L, C, rows, columns).
        weighted: values times weights.
        squares: weighted sum of their squares for every frame, (B, L), float64.
    """

    rows: _Span
    columns: _Span
    values: Tensor
    weighted: Tensor
    squares: Tensor


def _fractions(frames: Frames, threshold: float, rounding: float, window: int) -> _Fractions:
    """Fractions of events in the window around every pixel from which it reaches one."""
    height, width = frames.values.shape[-2:]
    rows, columns, values = frames.cached(_event_counts, threshold, rounding)
    if values.numel():
        half = window // 2
        # Differences of the counts at the corners of the windows; beyond events, counts stay as they are.
        counts = F.pad(values, (2 * half,) * 4 + (0, 0), mode="replicate")
        down = counts[..., window:, :] - counts[..., :-window, :]
        fractions = (down[..., window:] - down[..., :-window]) / window**2
        near_rows, near_columns = (_Span(span.first - half, span.last + half) for span in (rows, columns))
        rows, columns = near_rows.meet(_Span(0, height)), near_columns.meet(_Span(0, width))
        values = _part(fractions, near_rows, near_columns, rows, columns).contiguous()
    weighted = values * _part(frames.weight, _Span(0, height), _Span(0, width), rows, columns)
    return _Fractions(rows, columns, values, weighted, (values * weighted).sum((2, 3, 4)).double())


def _part(x: Tensor, rows: _Span, columns: _Span, some_rows: _Span, some_columns: _Span) -> Tensor:
    """Some of the rows and columns of a tensor that holds others too."""
    top, left = some_rows.first - rows.first, some_columns.first - columns.first
    height, width = (span.last - span.first for span in (some_rows, some_columns))
    return x[..., top : top + height, left : left + width]


def _event_counts(frames: Frames, threshold: float, rounding: float) -> tuple[_Span, _Span, Tensor]:
    """Rows and columns from the first to the last event, and counts of the events above and left of pixels.

    Returns:
        Rows, columns, and counts (B, L, C, rows + 1, columns + 1); empty ones without an event.
    """
    found = frames.cached(events, threshold, rounding)
    height, width = found.shape[-2:]
    flat = found.view(torch.uint8).reshape(-1, height, width).amax(0)
    spans = []
    for seen in (flat.amax(1), flat.amax(0)):
        places = seen.nonzero()
        spans.append(_Span(int(places[0]), int(places[-1]) + 1) if len(places) else _Span(0, 0))
    rows, columns = spans
    inside = found[..., rows.first : rows.last, columns.first : columns.last]
    # Whole numbers, which differences of float32 give exactly below 2^24.
    dtype = torch.float64 if inside[0, 0, 0].numel() >= 2**24 else frames.values.dtype
    if not inside.numel():
        return rows, columns, inside.to(dtype)
    total = inside.cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)
    return rows, columns, F.pad(total, (1, 0, 1, 0)).to(dtype)


def _band_power(frames: Frames) -> Tensor:
    """Power in bands of wavelength, summed over directions and channels: (R, B, L).

    By Parseval's theorem the sum over bands is the variance within the frame, but for wavelengths beyond 512
    pixels, which count as these, and for those below 2, in the corners of the spectrum, which count as 2.
    """
    transform = torch.fft.rfft2(frames.cached(_centred))
    power = transform.real.square() + transform.imag.square()  # faster than abs()
    band, waves = _bands(*frames.values.shape[-2:], frames.values.device)
    flat = (power * waves).sum(2).flatten(2)
    bands = torch.zeros(*flat.shape[:2], _BINS, dtype=flat.dtype, device=flat.device)
    return bands.index_add_(2, band, flat).movedim(-1, 0)


@lru_cache(maxsize=4)
def _bands(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Band of every coefficient of a transform, flat, and the factor from its square to power."""
    rows = torch.fft.fftfreq(height, device=device, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(width, device=device, dtype=torch.float64)[None]
    wavenumber = torch.hypot(rows, columns)
    # All columns but the first and, of an even width, the last stand for two waves.
    waves = torch.full_like(columns, 2)
    waves[0, 0] = 1
    if width % 2 == 0:
        waves[0, -1] = 1
    step = math.log(_LONGEST / 2) / _BINS
    band = (torch.log(1 / wavenumber.clamp(min=1e-9) / 2) / step).floor().clamp(0, _BINS - 1).long()
    return band.flatten(), waves / (height * width) ** 2


def _centred(frames: Frames) -> Tensor:
    """Deviations from the mean of the measured pixels of each channel, 0 elsewhere, float64."""
    x, seen = frames.values.double(), frames.valid
    mean = (x * seen).sum((-2, -1), keepdim=True) / _pixels(seen)[..., None, None]
    deviation = (x - mean) * seen
    # Below this, a deviation is rounding error of the mean.
    return torch.where(deviation.abs() <= 1e-14 * mean.abs(), 0, deviation)


def _variance(frames: Frames) -> Tensor:
    """Variance within each frame, (B, L)."""
    return (frames.cached(_centred).square().sum((-2, -1)) / _pixels(frames.valid)).sum(2)


def _pixels(valid: Tensor) -> Tensor:
    """Number of measured pixels of each channel, (B, L, C), at least 1."""
    return valid.sum((-2, -1)).clamp(min=1)
