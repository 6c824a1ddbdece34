"""Statistics of frames: range, histogram, wet pixels, and codes that look like missing data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convlstm.data.windows import time_step

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float32]

#: Numbers by which files often say "not measured".
USUAL_CODES = (
    *(255.0, 32767.0, 65535.0, 9999.0, 99999.0, float(np.float32(1e20)), float(np.float32(9.96921e36))),
    *(-1.0, -9.0, -99.0, -999.0, -9999.0, -99999.0, -32767.0, -32768.0),
)
_BINS = 32
_SPAN = 1e5  # largest value over the lower edge of a log scale; the first bin holds the rest
_MOST_READ, _MOST_SORTED = 2**25, 2**21  # pixels; beyond that of every n-th row and column
_FAR, _VERY_FAR = 0.1, 0.5  # distances from the rest, as shares of its range
_MANY = 1e-3  # share of the pixels beyond which a value far from the rest is no outlier
_PILED = (0.01, 20)  # share of the pixels, and times that of the next value


@dataclass(frozen=True)
class Code:
    """Value at the edge of the range that looks like a code for "not measured".

    Attributes:
        value: in the unit of the files.
        share: of the pixels that have a value.
        nearest: the nearest value beyond the codes.
    """

    value: float
    share: float
    nearest: float


@dataclass(frozen=True)
class Histogram:
    """Histogram of values; of large frames of every n-th row and column.

    Attributes:
        edges: of the bins.
        counts: pixels in each bin.
        log_scale: True if the bins are equally wide in the logarithm.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    log_scale: bool


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of one variable; suspicious codes are left out of all but `codes` and the two shares.

    Attributes:
        not_measured: share of all pixels that are not measured.
        never_measured: share of the pixels of the grid that are measured in none of the frames.
        codes: suspicious values.
        low: smallest value; None if nothing is measured.
        high: largest value.
        most_below: value that 99.9 % of the pixels do not exceed.
        histogram: of wet pixels where a value means dry, otherwise of all.
        dry_value: value that means measured and dry; None if there is none.
        wet: share of the measured pixels above the dry value, the smallest of a frame and the largest.
        above: shares of the measured pixels at or above thresholds, by threshold.
        change: mean absolute change of a pixel between neighbouring frames, as a share of the range; None
            without neighbours.
    """

    not_measured: float
    never_measured: float
    codes: tuple[Code, ...]
    low: float | None
    high: float | None
    most_below: float | None
    histogram: Histogram
    dry_value: float | None
    wet: tuple[float, float, float] | None
    above: dict[float, float]
    change: float | None


def sample(
    frames: "xr.DataArray", times: NDArray[np.float64], count: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Read frames spread over an archive, in pairs of neighbours where there are any.

    Args:
        frames: (T, C, H, W).
        times: (T,), seconds.
        count: frames to read, at most.

    Returns:
        (N, C, h, w), of many large frames every n-th row and column; and the places (P,) in it of frames
        whose neighbour follows.
    """
    neighbours = np.flatnonzero(np.diff(times) <= 1.5 * time_step(times))
    if len(times) <= count:
        chosen = np.arange(len(times))
    elif len(neighbours):
        firsts = neighbours[_spread(len(neighbours), count // 2)]
        chosen = np.union1d(firsts, firsts + 1)
    else:
        chosen = _spread(len(times), count)
    stride = _stride((len(chosen), *frames.shape[1:]), _MOST_READ)
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
    values = [frames[run[0] : run[-1] + 1].values[:, :, ::stride, ::stride] for run in runs]
    followed = np.isin(chosen[:-1], neighbours) & (np.diff(chosen) == 1)
    return np.concatenate(values), np.flatnonzero(followed)


def statistics(
    values: Floats,
    pairs: NDArray[np.int64],
    *,
    dry_value: float | None = None,
    log_scale: bool = False,
    thresholds: Sequence[float] = (),
    find_codes: bool = True,
) -> Statistics:
    """Statistics of one variable.

    Args:
        values: (N, C, H, W), NaN where not measured.
        pairs: (P,), places of frames whose neighbour follows.
        dry_value: value that means measured and dry.
        log_scale: bins equally wide in the logarithm, for amounts of rain.
        thresholds: of `Statistics.above`.
        find_codes: look for suspicious codes.
    """
    measured = np.isfinite(values)
    not_measured, never_measured = 1 - measured.mean(), 1 - measured.any((0, 1)).mean()
    stride = _stride(values.shape, _MOST_SORTED)
    thin, kept = values[..., ::stride, ::stride], measured[..., ::stride, ::stride]
    codes: tuple[Code, ...] = ()
    if find_codes and measured.any():
        ends = [values.min(where=measured, initial=np.inf), values.max(where=measured, initial=-np.inf)]
        codes = suspicious_codes(np.sort(np.append(thin[kept], np.array(ends, np.float32))))
        codes = tuple(code for code in codes if code.value != dry_value)
        for code in codes:
            measured &= values != np.float32(code.value)
    pixels, any_left = np.sort(thin[kept]), bool(measured.any())
    low = float(values.min(where=measured, initial=np.inf)) if any_left else None
    high = float(values.max(where=measured, initial=-np.inf)) if any_left else None
    wet = None
    if dry_value is not None and len(pixels):
        axes = (1, 2, 3)
        filled = measured.any(axes)
        share = ((values > dry_value) & measured).sum(axes)[filled] / measured.sum(axes)[filled]
        wet = 1 - _below(pixels, dry_value, "right"), float(share.min()), float(share.max())
    shown = pixels if dry_value is None else pixels[np.searchsorted(pixels, dry_value, "right") :]
    return Statistics(
        not_measured=float(not_measured),
        never_measured=float(never_measured),
        codes=codes,
        low=low,
        high=high,
        most_below=float(pixels[math.ceil(0.999 * len(pixels)) - 1]) if len(pixels) else None,
        histogram=histogram(shown, log_scale=log_scale, high=high),
        dry_value=dry_value,
        wet=wet,
        above={each: 1 - _below(pixels, each, "left") for each in thresholds if len(pixels)},
        change=_change(values, measured, pairs),
    )


def suspicious_codes(values: Floats) -> tuple[Code, ...]:
    """Values at either edge that look like codes for "not measured".

    These are negative numbers of `USUAL_CODES` below values that are not; a few values far from the rest, if
    one of them is such a number or if many pixels have it; and such a number that holds many pixels while the
    next one has few.

    Args:
        values: (N,), finite, sorted.
    """
    found: list[Code] = []
    for sign in (-1, 1):
        # Distinct values from the edge inwards, and the number of pixels of each.
        outward = values if sign < 0 else -values[::-1]
        edge: list[float] = []
        counts: list[int] = []
        place = 0
        while place < len(outward) and len(edge) < 5:
            after = int(np.searchsorted(outward, outward[place], "right"))
            edge.append(-sign * float(outward[place]))
            counts.append(after - place)
            place = after
        innermost = -sign * float(outward[-1]) if len(outward) else 0.0
        for k in range(len(edge) - 1, 0, -1):
            if _are_codes(edge[:k], counts[: k + 1], edge[k], innermost, len(values)):
                found += [
                    Code(each, n / len(values), edge[k]) for each, n in zip(edge[:k], counts, strict=False)
                ]
                break
    if np.isin(values, [code.value for code in found]).all():  # two groups far from each other
        return ()
    return tuple(sorted(found, key=lambda code: code.value))


def _are_codes(codes: list[float], counts: list[int], nearest: float, innermost: float, total: int) -> bool:
    """True if some values at an edge look like codes beside the rest, from ``nearest`` to ``innermost``."""
    usual = any(code in USUAL_CODES for code in codes)
    if usual and max(codes) < 0 <= min(nearest, innermost):
        return True
    distance, spread = abs(codes[-1] - nearest), abs(nearest - innermost)
    if spread == 0:  # black and white is no code beside a constant
        return usual and abs(codes[-1]) > 255
    share = sum(counts[:-1]) / total
    if distance > _FAR * spread and usual:
        return True
    if distance > _VERY_FAR * spread and share > _MANY:
        return True
    return len(codes) == 1 and usual and share > _PILED[0] and counts[0] > _PILED[1] * counts[1]


def histogram(values: Floats, *, log_scale: bool, high: float | None = None) -> Histogram:
    """The histogram in 32 bins; one bin for a single value, none without values.

    Args:
        values: (N,), sorted; above 0 for ``log_scale``.
        log_scale: bins equally wide in the logarithm.
        high: upper edge of the last bin; the largest value if None.
    """
    if not len(values):
        return Histogram((), (), log_scale)
    low, high = float(values[0]), float(values[-1]) if high is None else high
    if low == high:
        return Histogram((low, high), (len(values),), log_scale)
    if log_scale and low > 0:
        edges = np.geomspace(max(low, high / _SPAN), high, _BINS + 1)
    else:
        edges = np.linspace(low, high, _BINS + 1)
    edges[[0, -1]] = low, high
    places = np.searchsorted(values, edges, "left")
    places[-1] = len(values)  # the last bin includes its upper edge
    return Histogram(tuple(edges.tolist()), tuple(np.diff(places).tolist()), log_scale)


def _below(values: Floats, limit: float, side: str) -> float:
    """Share of sorted values below a limit, for side ``right`` at or below it."""
    return float(np.searchsorted(values, np.float32(limit), side) / len(values))  # type: ignore[call-overload]


def _change(values: Floats, measured: NDArray[np.bool_], pairs: NDArray[np.int64]) -> float | None:
    total, count = 0.0, 0
    for k in pairs:
        both = measured[k] & measured[k + 1]
        total += float(np.abs(values[k + 1] - values[k]).sum(where=both, dtype=np.float64))
        count += int(both.sum())
    if not count:
        return None
    spread = values.max(where=measured, initial=-np.inf) - values.min(where=measured, initial=np.inf)
    return total / count / float(spread) if spread else 0.0


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most so many of ``count`` things, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _stride(shape: Sequence[int], most: int) -> int:
    return math.ceil(math.sqrt(math.prod(shape) / most)) if math.prod(shape) > most else 1
