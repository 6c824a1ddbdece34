"""One colour rule for every picture of frames: files, film strips, animations, reports, TensorBoard.

Values are grey, between limits that most of them lie within; differences are blue below zero, orange above
and dark at zero; three channels within [0, 1] are red, green and blue; of others each is a picture.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import ShapeError
from convlstm.scores.digits import number

Pixels = NDArray[np.uint8]

MISSING = (109, 92, 128)
GREY = ((0.0, (0, 0, 0)), (1.0, (255, 255, 255)))
# Dark at zero, so that a black frame without error stays black beside a frame of black ground; blue and
# orange differ for every kind of colour vision, and grow lighter together on both sides.
DIVERGING = (
    (-1.0, (184, 218, 255)),
    (-0.5, (54, 128, 214)),
    (0.0, (14, 14, 16)),
    (0.5, (214, 96, 30)),
    (1.0, (255, 214, 165)),
)
_MOST = 1_000_000  # values that limits are chosen from


class Scale(NamedTuple):
    """Values that become the two ends of the colours.

    Attributes:
        low: becomes the first colour, as does all below it.
        high: becomes the last colour, as does all above it.
        root: grey grows as the square root of the value above ``low``, so that small values can be told
            apart; otherwise in proportion to it.
    """

    low: float
    high: float
    root: bool = False


UNIT = Scale(0.0, 1.0)
BYTES = Scale(0.0, 255.0)


def value_scale(*frames: ArrayLike) -> Scale:
    """The scale of values.

    A few extreme values, such as clutter in radar data, do not count: the limits are the 0.5th percentile and
    the 99.5th of what lies above it, which is all values but the background where that is the least of them.

    Args:
        frames: arrays of any shape; values that are not finite are left out.

    Returns:
        [0, 255] for frames of uint8; else the limits, with a square root where half of the values above the
        lower one lie within the lowest eighth; but [0, 1] for limits within that cover two fifths of it and
        need no square root.
    """
    arrays = [np.asarray(f) for f in frames]
    if arrays and all(a.dtype == np.uint8 for a in arrays):
        return BYTES
    values = _finite(arrays)
    if not values.size:
        return UNIT
    low = float(np.percentile(values, 0.5, method="inverted_cdf"))
    above = values[values > low]
    if not above.size:
        return UNIT if 0 <= low <= 1 else Scale(low - 0.5, low + 0.5)
    high = float(np.percentile(above, 99.5, method="inverted_cdf"))
    root = bool(np.median(above) - low < (high - low) / 8)
    return UNIT if low >= 0 and high <= 1 and high - low >= 0.4 and not root else Scale(low, high, root)


def error_scale(errors: Sequence[ArrayLike], values: Sequence[ArrayLike] = ()) -> Scale:
    """The scale of differences, symmetric about zero.

    Args:
        errors: differences of any shape.
        values: what the differences are errors of: the ends are two standard deviations of those above
            the background, within the limits of `value_scale`, so that colours mean the same for a good and
            for a bad forecast. Without them, or where they do not vary, the ends are the 99.5th percentile
            of the sizes of ``errors``.

    Returns:
        ends rounded up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten.
    """
    end = 0.0
    if values:
        low, high, _ = value_scale(*(np.asarray(v, dtype=np.float64) for v in values))
        above = (finite := _finite(values))[finite > low]
        end = 2 * float(np.clip(above, low, high).std()) if above.size else 0.0
    if end == 0:
        sizes = np.abs(_finite(errors))
        sizes = sizes[sizes > 0]
        end = float(np.percentile(sizes, 99.5, method="inverted_cdf")) if sizes.size else 1.0
    unit = 10.0 ** math.floor(math.log10(end))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    end = next(float(f"{step * unit:.2g}") for step in steps if end <= step * unit * 1.0001)
    return Scale(-end, end)


def channel_scales(*frames: NDArray[Any]) -> list[Scale]:
    """The scale of every picture that a frame becomes: one of red, green and blue, else one a channel.

    Args:
        frames: (T, C, H, W) each.
    """
    if frames[0].shape[1] == 3:
        whole = value_scale(*frames)
        if whole == BYTES or (whole.low >= 0 and whole.high <= 1):
            return [BYTES if whole == BYTES else UNIT]
    return [value_scale(*(f[:, c] for f in frames)) for c in range(frames[0].shape[1])]


def error_scales(errors: Sequence[NDArray[Any]], values: Sequence[NDArray[Any]], count: int) -> list[Scale]:
    """The scale of the differences in every picture that a frame becomes.

    Args:
        errors: (T, C, H, W) each.
        values: (T, C, H, W) each, or none, as for `error_scale`.
        count: of pictures, as `channel_scales` gives.
    """
    if count == 1:
        return [error_scale(errors, values)]
    return [error_scale([e[:, c] for e in errors], [v[:, c] for v in values]) for c in range(count)]


def paint(frames: ArrayLike, scales: Sequence[Scale], *, signed: bool = False) -> list[Pixels]:
    """Colour frames.

    Values beyond the limits take the colour of the nearest end, values that are not numbers a mauve of their
    own.

    Args:
        frames: (T, C, H, W).
        scales: from `channel_scales` or `error_scales`, one a channel; one for three channels stands for red,
            green and blue, or for the mean of their differences.
        signed: take the colours of differences.

    Returns:
        (T, H, W, 3), uint8, for each scale.

    Raises:
        ShapeError: ``frames`` is not (T, C, H, W), is empty, or does not fit the scales.
    """
    x_TCHW = check_frames(frames, "frames").astype(np.float64)
    if len(scales) == 1 and x_TCHW.shape[1] == 3:
        if not signed:
            colours = np.stack([_unit(x_TCHW[:, c], scales[0]) for c in range(3)], axis=-1) * 255
            return [_whole(colours, x_TCHW)]
        x_TCHW = x_TCHW.mean(axis=1, keepdims=True)
    if len(scales) != x_TCHW.shape[1]:
        raise ShapeError(
            f"frames must have a channel for each of the {len(scales)} scales; received {x_TCHW.shape[1]}"
        )
    stops = DIVERGING if signed else GREY
    first, last = stops[0][0], stops[-1][0]
    places = [(place - first) / (last - first) for place, _ in stops]
    painted = []
    for c, scale in enumerate(scales):
        unit_THW = _unit(x_TCHW[:, c], scale)
        rgb = [np.interp(unit_THW, places, [colour[k] for _, colour in stops]) for k in range(3)]
        painted.append(_whole(np.stack(rgb, axis=-1), x_TCHW[:, c : c + 1]))
    return painted


def stacked(pictures: Sequence[Pixels]) -> Pixels:
    """The pictures of all channels below each other, (T, H', W, 3), two grey rows between them."""
    gap = np.full((len(pictures[0]), 2, *pictures[0].shape[2:]), 128, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


def channel_names(name: str, count: int) -> list[str]:
    """The names of the rows of one sequence: of itself, or of each of its channels, counted from 1."""
    return [name] if count == 1 else [f"{name}, channel {k}" for k in range(1, count + 1)]


def legend(values: Sequence[Scale], errors: Sequence[Scale] = ()) -> list[str]:
    """Lines that say what the colours mean; none for values from 0 to 1 or 255, as in every picture."""
    lines = [
        f"{name}: black {number(scale.low)}, white {number(scale.high)}" + ", square-root scale" * scale.root
        for name, scale in zip(channel_names("values", len(values)), values, strict=True)
        if scale not in (UNIT, BYTES)
    ]
    lines += [
        f"{name}: blue {number(scale.low)}, dark 0, orange {number(scale.high)}"
        for name, scale in zip(channel_names("differences", len(errors)), errors, strict=True)
    ]
    return [line.replace("−", "-") for line in lines]  # Pillow's font has no minus


def check_frames(frames: ArrayLike, what: str) -> NDArray[Any]:
    """Return ``frames`` as an array (T, C, H, W).

    Raises:
        ShapeError: another rank, or an axis of length 0.
    """
    array = np.asarray(frames)
    if array.ndim != 4 or 0 in array.shape:
        raise ShapeError(f"{what} must be (T, C, H, W) with no empty axis; received shape {array.shape}")
    return array


def _finite(arrays: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Finite values of all arrays, an even sample where there are very many."""
    flat = [np.asarray(a, dtype=np.float64).ravel() for a in arrays]
    # Odd, so as not to meet the same few columns of every frame.
    step = sum(f.size for f in flat) // _MOST | 1
    values = np.concatenate([np.zeros(0), *(f[::step] for f in flat)])
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def _unit(x: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = np.nan_to_num(np.clip((x - scale.low) / (scale.high - scale.low), 0, 1))
    return np.asarray(np.sqrt(unit)) if scale.root else unit


def _whole(colours: NDArray[np.float64], x_TCHW: NDArray[np.float64]) -> Pixels:
    pixels = np.rint(colours).astype(np.uint8)
    pixels[np.isnan(x_TCHW).any(axis=1)] = MISSING
    return pixels
