"""Arrays as text of a page: quantised, predicted from their neighbours, compressed, in base64."""

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.uint8] | NDArray[np.uint16]
Maps = Mapping[tuple[str, str], Floats]

#: Levels and reduction that maps are packed with: the first with which all channels fit.
LADDER = ((255, 1), (64, 1), (64, 2), (32, 2), (64, 3), (32, 3), (64, 4), (32, 4), (32, 6), (32, 8))
_LEAST_SIDE = 32  # pixels of the longer side of a map, below which none is reduced
_MOST_CHANNELS = 256  # of a value, as people can look at
_SAMPLED = (2, 8)  # steps, and channels, of each value that its size is estimated from


@dataclass(frozen=True)
class Packed:
    """Maps of one value of one layer.

    Attributes:
        steps: a text per step, for `decode` of the page: codes (C, h, w), 255 where not finite.
        channels: index of each channel that is kept, rising.
        low: (C,), value of code 0 of each channel.
        high: (C,), value of the last code.
        size: h and w.
    """

    steps: list[str] = field(repr=False)
    channels: list[int]
    low: list[float]
    high: list[float]
    size: tuple[int, int]


@dataclass(frozen=True)
class Precision:
    """Precision of packed maps.

    Attributes:
        levels: number of codes.
        reduction: side in pixels of the squares that are averaged.
        share: part of the channels that is kept.
    """

    levels: int
    reduction: int
    share: float = 1.0


def encode(codes: Codes) -> str:
    """Unsigned integers (..., h, w), each predicted from the ones left and above, compressed, as base64.

    The prediction is the median of the neighbour at the left, the one above, and their sum less the one
    between them (LOCO-I: Weinberger et al. 2000, IEEE Trans. Image Processing 9). Differences wrap around;
    of 16 bits all high bytes come before all low ones.
    """
    wider = np.int16 if codes.itemsize == 1 else np.int32
    left, above, corner = (np.zeros(codes.shape, wider) for _ in range(3))
    left[..., 1:] = codes[..., :-1]
    above[..., 1:, :] = codes[..., :-1, :]
    corner[..., 1:, 1:] = codes[..., :-1, :-1]
    predicted = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    predicted[..., 0, :], predicted[..., 1:, 0] = left[..., 0, :], above[..., 1:, 0]
    difference = (codes - predicted).astype(codes.dtype)
    planes = difference.astype(f">u{codes.itemsize}").view(np.uint8).reshape(-1, codes.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes())).decode()


def quantise(values: Floats, low: Floats, high: Floats, levels: int, missing: int) -> NDArray[np.int32]:
    """Codes of values from low (0) to high (levels - 1); ``missing`` where they are not finite."""
    width = np.where(high > low, high - low, 1)
    with np.errstate(invalid="ignore"):
        codes = np.rint((values - low) / width * (levels - 1))
    return np.where(np.isfinite(values), codes, missing).astype(np.int32)


def reduce(values: Floats, factor: int) -> Floats:
    """Means of squares of (..., H, W), which are partial at the right and at the bottom."""
    if factor == 1:
        return values
    height, width = values.shape[-2:]
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    with np.errstate(invalid="ignore"):  # of infinite values
        sums = np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)
    counts = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)
    return np.asarray(sums / counts, dtype=values.dtype)


def pack(maps: Maps, limit: int) -> tuple[dict[tuple[str, str], Packed], Precision]:
    """Pack maps into so many characters: with the first entry of `LADDER`, or with fewer channels.

    Args:
        maps: (T, C, h, w) by layer and value.
        limit: characters.

    Returns:
        The packed maps, and with what precision; of fewer channels those are kept that vary most over steps
        and pixels.
    """
    smallest = max((max(values.shape[-2:]) for values in maps.values()), default=1)
    precisions = [Precision(n, r) for n, r in LADDER if r == 1 or smallest / r >= _LEAST_SIDE]
    precision, estimate = precisions[-1], 0.0
    for precision in precisions:
        estimate = sum(_estimates(maps, precision))
        if estimate <= 0.95 * limit:
            break
    share = min(1.0, 0.95 * limit / max(estimate, 1))
    while True:
        precision = Precision(precision.levels, precision.reduction, share)
        packed = {name: _packed(values, precision) for name, values in maps.items()}
        size = sum(len(text) for each in packed.values() for text in each.steps)
        least = all(len(each.channels) == 1 for each in packed.values())
        if size <= limit or least:
            return packed, precision
        share *= min(0.95 * limit / size, 0.9)


def _estimates(maps: Maps, precision: Precision) -> Iterator[float]:
    """Characters that the maps of each value take, from some of its steps and channels."""
    for values in maps.values():
        every = [max(1, -(-n // k)) for n, k in zip(values.shape, _SAMPLED, strict=False)]
        some = values[every[0] // 2 :: every[0], :: every[1]]
        part = _packed(some, precision)
        every_channel = len(values) * min(values.shape[1], _MOST_CHANNELS)
        yield sum(map(len, part.steps)) * every_channel / (len(some) * some.shape[1])


def _packed(values: Floats, precision: Precision) -> Packed:
    """Maps (T, C, h, w) in a precision."""
    steps, count = values.shape[:2]
    kept = max(1, int(min(count, _MOST_CHANNELS) * precision.share + 1e-9))
    channels: Sequence[int] = range(count)
    if kept < count:
        with np.errstate(over="ignore", invalid="ignore"):
            spread = np.nan_to_num(values.std(axis=(0, 2, 3), dtype=np.float64), posinf=0, neginf=0)
        channels = sorted(np.argsort(-spread, kind="stable")[:kept].tolist())
        values = values[:, channels]
    values = reduce(values, precision.reduction)
    finite = np.isfinite(values)
    whole = bool(finite.all())
    shown = values if whole else np.where(finite, values, np.nan)
    axes = (0, 2, 3)
    low = shown.min(axis=axes) if whole else _nan_end(np.fmin, shown)
    high = shown.max(axis=axes) if whole else _nan_end(np.fmax, shown)
    ends = low[:, None, None], high[:, None, None]
    texts = [encode(quantise(shown[t], *ends, precision.levels, 255).astype(np.uint8)) for t in range(steps)]
    size = (int(values.shape[2]), int(values.shape[3]))
    return Packed(texts, list(channels), _short(low), _short(high), size)


def _short(values: Floats) -> list[float]:
    """Numbers with the digits that tell those of 32 bits apart."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _nan_end(ufunc: np.ufunc, values: Floats) -> Floats:
    """Least or greatest finite value of each channel of (T, C, h, w); 0 where none is."""
    ends: Floats = np.nan_to_num(ufunc.reduce(values, axis=(0, 2, 3)), nan=0.0)
    return ends
