"""Values to colours: one rule for film strips, animations, reports and TensorBoard.

Values are grey between limits that nearly all of them lie within; differences are blue below zero, orange
above and dark at zero; three channels within [0, 1] are red, green and blue, any other channel is a picture
of its own.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import ShapeError
from convlstm.scores.digits import short, short_ends

Pixels = NDArray[np.uint8]
Stops = tuple[tuple[float, tuple[int, int, int]], ...]

MISSING = (109, 92, 128)
GREY: Stops = ((0.0, (0, 0, 0)), (1.0, (255, 255, 255)))
# Dark at zero, so that a black frame without error stays black beside a frame with a black background. Blue
# and orange differ for every kind of colour vision, and their lightness grows equally on both sides.
DIVERGING: Stops = (
    (-1.0, (184, 218, 255)),
    (-0.5, (54, 128, 214)),
    (0.0, (14, 14, 16)),
    (0.5, (214, 96, 30)),
    (1.0, (255, 214, 165)),
)
_MAX_SAMPLES = 1_000_000  # values that limits are estimated from


class Scale(NamedTuple):
    """Values of the two ends of a colour map; values beyond an end take its colour.

    Attributes:
        low: value of the first colour.
        high: value of the last colour.
        root: grey is the square root of the position between the ends, which separates small values;
            otherwise it is linear.
    """

    low: float
    high: float
    root: bool = False


UNIT = Scale(0.0, 1.0)
BYTES = Scale(0.0, 255.0)


def value_scale(*frames: ArrayLike) -> Scale:
    """Scale of values, robust against outliers such as clutter in radar data.

    The limits are the 0.5th percentile and the 99.5th percentile of the values above it, so that a large
    constant background (a dry field) does not count.

    Args:
        frames: arrays of any shape; values that are not finite are ignored.

    Returns:
        [0, 255] for uint8 frames; otherwise the limits, with a square root if half of the values above the
        lower limit lie in the lowest eighth; [0, 1] if the limits lie within it, cover two fifths of it and
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
    """Scale of differences, symmetric about zero.

    Args:
        errors: differences of any shape.
        values: the data of which these are the errors. The ends are two standard deviations of the values
            above the background, clipped to `value_scale`, so that a colour means the same for a good and for
            a bad forecast. Without ``values``, or if they are constant, the ends are the 99.5th percentile of
            ``|errors|``.

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


def channel_scales(*frames: NDArray[Any], unit: str = "") -> list[Scale]:
    """Scales of the pictures of a frame: one for red, green and blue together, otherwise one per channel.

    Args:
        frames: (T, C, H, W) each.
        unit: of the values. Three channels of pure numbers ("1") from 0 to 255 are those of images.
    """
    if frames[0].shape[1] == 3:
        known = _finite(frames)
        if unit == "1" and known.size and known.min() >= 0 and 1 < known.max() <= 255:
            return [BYTES]
        whole = value_scale(*frames)
        if whole == BYTES or (whole.low >= 0 and whole.high <= 1):
            return [BYTES if whole == BYTES else UNIT]
    return [value_scale(*(f[:, c] for f in frames)) for c in range(frames[0].shape[1])]


def error_scales(errors: Sequence[NDArray[Any]], values: Sequence[NDArray[Any]], count: int) -> list[Scale]:
    """Scales of the differences, one for each of the ``count`` scales that `channel_scales` returned.

    Args:
        errors: (T, C, H, W) each.
        values: (T, C, H, W) each, or none, as in `error_scale`.
        count: number of pictures of a frame.
    """
    if count == 1:
        return [error_scale(errors, values)]
    return [error_scale([e[:, c] for e in errors], [v[:, c] for v in values]) for c in range(count)]


def paint(frames: ArrayLike, scales: Sequence[Scale], *, signed: bool = False) -> list[Pixels]:
    """Map values to colours; NaN has a colour of its own (``MISSING``).

    Args:
        frames: (T, C, H, W).
        scales: one per channel, from `channel_scales` or `error_scales`; a single scale for three channels
            means red, green and blue, or the mean of their differences.
        signed: use the colours of differences.

    Returns:
        (T, H, W, 3), uint8, for each scale.

    Raises:
        ShapeError: ``frames`` is not (T, C, H, W), is empty, or does not fit the number of scales.
    """
    x_TCHW = check_frames(frames, "frames").astype(np.float64)
    if len(scales) == 1 and x_TCHW.shape[1] == 3:
        if not signed:
            colours = np.stack([_unit(x_TCHW[:, c], scales[0]) for c in range(3)], axis=-1) * 255
            return [_to_pixels(colours, x_TCHW)]
        x_TCHW = x_TCHW.mean(axis=1, keepdims=True)
    if len(scales) != x_TCHW.shape[1]:
        raise ShapeError(
            f"frames must have a channel for each of the {len(scales)} scales; received {x_TCHW.shape[1]}"
        )
    stops = DIVERGING if signed else GREY
    first, last = stops[0][0], stops[-1][0]
    positions = [(position - first) / (last - first) for position, _ in stops]
    painted = []
    for c, scale in enumerate(scales):
        unit_THW = _unit(x_TCHW[:, c], scale)
        rgb = [np.interp(unit_THW, positions, [colour[k] for _, colour in stops]) for k in range(3)]
        painted.append(_to_pixels(np.stack(rgb, axis=-1), x_TCHW[:, c : c + 1]))
    return painted


def channel_names(name: str, count: int) -> list[str]:
    """Names of the pictures of one sequence: its own, or one per channel, counted from 1."""
    return [name] if count == 1 else [f"{name}, channel {k}" for k in range(1, count + 1)]


def legend(values: Sequence[Scale], errors: Sequence[Scale] = ()) -> list[str]:
    """Lines that explain the colours; none for values from 0 to 1 or 255, the usual range of images."""
    lines = [
        "{}: black {}, white {}".format(name, *_ends(scale)) + ", square-root scale" * scale.root
        for name, scale in zip(channel_names("values", len(values)), values, strict=True)
        if scale not in (UNIT, BYTES)
    ]
    lines += [
        f"{name}: blue {short(scale.low)}, dark 0, orange {short(scale.high)}"
        for name, scale in zip(channel_names("differences", len(errors)), errors, strict=True)
    ]
    return [line.replace("−", "-") for line in lines]  # Pillow's font has no minus sign


def _ends(scale: Scale) -> tuple[str, str]:
    """The ends of a scale; what rounding leaves of 0 is 0."""
    low, high = (0.0 if abs(end) < 1e-6 * (scale.high - scale.low) else end for end in scale[:2])
    return short_ends(low, high)


def check_frames(frames: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``frames``, an array or a tensor, as an array (T, C, H, W).

    Raises:
        ShapeError: no numbers, another rank, or an axis of length 0.
    """
    if (detach := getattr(frames, "detach", None)) is not None:
        frames = detach().cpu()
    try:
        array = np.asarray(frames)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{name} must be an array (T, C, H, W); {error}: convert it") from error
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} must be an array (T, C, H, W) of numbers; received {array.dtype}")
    if array.ndim != 4 or 0 in array.shape:
        raise ShapeError(f"{name} must be (T, C, H, W) with no empty axis; received shape {array.shape}")
    return array


def _finite(arrays: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Finite values of all arrays; a regular sample of at most ``_MAX_SAMPLES``."""
    flat = [np.asarray(a, dtype=np.float64).ravel() for a in arrays]
    # An odd step does not hit the same columns of every frame.
    step = sum(f.size for f in flat) // _MAX_SAMPLES | 1
    values = np.concatenate([np.zeros(0), *(f[::step] for f in flat)])
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def _unit(x: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Position between the ends of the scale, in [0, 1]."""
    unit: NDArray[np.float64] = np.nan_to_num(np.clip((x - scale.low) / (scale.high - scale.low), 0, 1))
    return np.asarray(np.sqrt(unit)) if scale.root else unit


def _to_pixels(colours: NDArray[np.float64], x_TCHW: NDArray[np.float64]) -> Pixels:
    pixels = np.rint(colours).astype(np.uint8)
    pixels[np.isnan(x_TCHW).any(axis=1)] = MISSING
    return pixels
