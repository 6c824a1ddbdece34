"""A forecast with an inside of plain arrays, whose values follow from their place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.plots.inspector import Inside

Floats = NDArray[np.float32]
K, L = 3, 4  # frames of past and forecast
SIZE = (16, 20)


def maps(steps: int, channels: int, size: Sequence[int], *, signed: bool = True) -> Floats:
    """Maps (steps, channels, h, w), smooth, different at every step and channel."""
    t, c, y, x = np.ogrid[:steps, :channels, : size[0], : size[1]]
    values = np.sin(0.3 * t + c + 0.2 * y) * np.cos(0.25 * x - 0.5 * c + 0.1 * t)
    return (values if signed else 0.5 + 0.5 * values).astype(np.float32)


def inside(
    *, size: tuple[int, int] = SIZE, past: int = K, steps: int = L, channels: int = 1, **changes: Any
) -> Inside:
    """Frames of ``size``, an encoder that runs at every step and a forecaster that runs from t on."""
    frames = maps(past + steps, channels, size, signed=False)
    half = (size[0] // 2, size[1] // 2)
    total = past + steps - 1
    given = {
        "model": "EncoderForecaster",
        "past": frames[:past],
        "forecast": 0.9 * frames[past:],
        "truth": frames[past:],
        "values": {
            ("encoder.0", "h"): maps(total, 5, half),
            ("encoder.0", "f"): maps(total, 5, half, signed=False),
            ("forecaster.0", "h"): maps(steps, 3, half),
        },
        "cells": {"encoder.0": "ConvLSTMCell"},
    }
    return Inside(**(given | changes))
