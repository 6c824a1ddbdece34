"""Frames in a size that can be shown."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.pictures.colours import Pixels

MAX_SIDE = 2**14  # pixels that a frame may be enlarged to
MIN_SIDE = 64
"""Pixels of the longer side of a frame; frames of more than three times as many are averaged."""


def resize(
    frames: Mapping[str, NDArray[Any]],
    scale: int | None = None,
    side: int = MIN_SIDE,
    *,
    decibels: Collection[str] = (),
) -> tuple[dict[str, NDArray[Any]], int]:
    """Frames of a size that can be shown, and the factor by which their pixels are to be repeated.

    Args:
        frames: (T, C, H, W) by name, H and W the same for all.
        scale: the factor; None chooses the smallest that makes the longer side at least ``side`` pixels.
        side: frames of more than three times as many pixels are averaged over squares.
        decibels: names of frames whose power is averaged: dry, -32 dBZ, is no power, and not 32 dB less.
    """
    longer = max(next(iter(frames.values())).shape[2:])
    reduction = math.ceil(longer / (3 * side)) if scale is None else 1
    if reduction > 1:
        frames = {name: _reduce(row, reduction, power=name in decibels) for name, row in frames.items()}
    return dict(frames), scale or max(1, math.ceil(side / longer))


def enlarge(pixels: Pixels, times: int) -> Pixels:
    """Repeat every pixel ``times`` times along H and W of (T, H, W, 3)."""
    return pixels.repeat(times, axis=1).repeat(times, axis=2)


def _reduce(frames: NDArray[Any], factor: int, *, power: bool) -> NDArray[Any]:
    """Mean of squares of ``factor`` pixels, which may be partial at the edges; of decibels by power.

    Float32, but bytes stay bytes, which have colours of their own.
    """
    from PIL import Image

    values = np.power(10, frames / 10) if power else frames
    means = np.array(
        [[Image.fromarray(x_HW.astype(np.float32)).reduce(factor) for x_HW in x_CHW] for x_CHW in values]
    )
    if power:
        return np.asarray(10 * np.log10(means))
    return np.rint(means).astype(np.uint8) if frames.dtype == np.uint8 else means
