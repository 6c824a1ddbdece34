"""Anomalies to a daily climatology: the yearly cycle of every pixel as a few harmonics."""

import base64
import math
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.extra_inputs import YEAR_S
from convlstm.data.transforms import Transform
from convlstm.errors import DataError
from convlstm.validation import check_number

_HARMONICS = 3
_TERMS = 2 * _HARMONICS + 1


class Anomaly(Transform):
    """``(x - climatology) / scale`` with a climatology of the day of the year at every pixel.

    Made by `fit_anomaly`; frames must have the grid that it was fitted on.

    Args:
        coefficients: mean, then cosine and sine of one to three cycles a year, (7, C, H, W), as `packed`
            gives them.
        shape: (C, H, W).
        scale: standard deviation of the anomalies.
    """

    def __init__(self, coefficients: str, shape: tuple[int, int, int], scale: float) -> None:
        self.scale = check_number(scale, "scale", above=0)
        self._coefficients = unpacked(coefficients, (_TERMS, *shape))

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """``(x - climatology) / scale``; times are needed."""
        return (x - self.climatology(times, x)) / self.scale

    def inverse(self, y: Tensor, times: Tensor | None = None) -> Tensor:
        """``y scale + climatology``; times are needed."""
        return y * self.scale + self.climatology(times, y)

    def climatology(self, times: Tensor | None, like: Tensor) -> Tensor:
        """The climatology (..., T, C, H, W) at times (..., T), dtype and device of another tensor."""
        if times is None:
            raise DataError("anomalies need the time of every frame; received none: give labelled frames")
        if like.shape[-3:] != self._coefficients.shape[1:]:
            raise DataError(
                "anomalies need frames on the grid of their climatology, "
                f"{tuple(self._coefficients.shape[1:])}; received {tuple(like.shape[-3:])}: give the same "
                "region, without crops"
            )
        terms = torch.from_numpy(_terms(times.double().cpu().numpy()).astype(np.float32)).to(like)
        found: Tensor = torch.tensordot(terms, self._coefficients.to(like), dims=1)
        return found


def fit_anomaly(frames: NDArray[np.float32], times: NDArray[np.float64]) -> Anomaly:
    """The anomaly transform of frames by least squares.

    Args:
        frames: (T, C, H, W), NaN where not measured.
        times: (T,), seconds since 1970-01-01.

    Raises:
        DataError: less than a year of frames.
    """
    if len(times) < 2 or times[-1] - times[0] < 0.99 * YEAR_S:
        raise DataError(
            "a daily climatology needs at least a year of training frames; received "
            f"{(times[-1] - times[0]) / 86400 if len(times) else 0:.0f} days: use --data.transform standard"
        )
    terms = _terms(times)
    valid = np.isfinite(frames)
    # As matrix products, which are far faster than sums over pixels.
    pairs = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    flat, weight = (x.reshape(len(terms), -1) for x in (np.where(valid, frames, 0), valid.astype(np.float64)))
    products = (weight.T @ pairs).reshape(*frames.shape[1:], _TERMS, _TERMS)
    sums = (flat.T @ terms).reshape(*frames.shape[1:], _TERMS)
    # The ridge keeps pixels that were never measured, or in one season only, solvable.
    solved = np.linalg.solve(products + 1e-3 * np.eye(_TERMS), sums[..., None])[..., 0]
    coefficients = np.moveaxis(solved, -1, 0).astype(np.float32)
    fitted = np.tensordot(terms, coefficients, 1)
    scale = float(np.sqrt(np.mean(np.square(frames - fitted), where=valid)))
    return Anomaly(packed(coefficients), tuple(frames.shape[1:]), scale or 1.0)


def packed(array: NDArray[np.float32]) -> str:
    """An array as text that JSON holds: compressed, in base 64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array, "<f4").tobytes())).decode()


def unpacked(text: str, shape: tuple[int, ...]) -> Tensor:
    """The array that `packed` turned into text.

    Raises:
        DataError: damaged, or of another shape.
    """
    try:
        stretched = zlib.decompressobj()
        content = stretched.decompress(base64.b64decode(text, validate=True), 4 * math.prod(shape) + 1)
        return torch.from_numpy(np.frombuffer(content, "<f4").reshape(shape).astype(np.float32))
    except (ValueError, TypeError, zlib.error) as error:
        raise DataError(
            f"a stored array must be whole and {shape}; '{error}': copy the folder again"
        ) from None


def _terms(times: NDArray[np.generic]) -> NDArray[np.float64]:
    """Constant, cosines and sines (..., 7) of times (...) in seconds."""
    angle = 2 * np.pi * np.asarray(times, np.float64) / YEAR_S
    waves = [wave(k * angle) for k in range(1, _HARMONICS + 1) for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(angle), *waves], axis=-1)
