"""Random crops of windows, more often where something happens, with the weights that undo the preference."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Crop(NamedTuple):
    """Crop of a window.

    Attributes:
        window: index of the window.
        row: first row.
        column: first column.
        weight: probability under uniform sampling divided by that under which it was drawn.
    """

    window: int
    row: int
    column: int
    weight: float


class CropSampler:
    """Draws crops by importance sampling.

    A crop is drawn from cells of (window, row, column) with probability ``(1 - importance) / cells +
    importance interest / sum of interest`` and placed at random within its cell, so that ``weight`` makes
    every weighted mean that of uniform sampling.

    Args:
        interest: (W, Y, X), at least 0, of a crop in each cell; see `interest_of_crops`.
        places: number of first rows and first columns that a crop may have.
        importance: 0 for uniform sampling, up to 1.
    """

    def __init__(self, interest: NDArray[np.float64], places: tuple[int, int], importance: float) -> None:
        flat = interest.reshape(-1)
        uniform = np.full(flat.shape, 1 / flat.size)
        total = flat.sum()
        preferred = flat / total if total > 0 else uniform
        self._probability = (1 - importance) * uniform + importance * preferred
        self._bounds = np.cumsum(self._probability)
        self._shape, self._places = interest.shape, places

    def draw(self, random: np.random.Generator) -> Crop:
        """One crop."""
        cell = int(np.searchsorted(self._bounds, random.random() * self._bounds[-1], side="right"))
        cell = min(cell, len(self._bounds) - 1)
        window, y, x = (int(index) for index in np.unravel_index(cell, self._shape))
        row, column = (
            int(_inside(index, count, places, random.random()))
            for index, count, places in zip((y, x), self._shape[1:], self._places, strict=True)
        )
        return Crop(window, row, column, float(1 / (self._probability[cell] * len(self._bounds))))


def cells_of(places: int, crop: int) -> int:
    """Number of cells along an axis with so many first positions: one for every half crop."""
    return max(1, round(places / max(1, crop // 2)))


def interest_of_crops(
    pixels: NDArray[np.float32], crop: tuple[int, int], cells: tuple[int, int]
) -> NDArray[np.float64]:
    """Mean interest of the pixels of a crop at the middle of each cell.

    Args:
        pixels: (H, W), at least 0.
        crop: height and width.
        cells: Y and X, as `cells_of` gives them.

    Returns:
        (Y, X).
    """
    height, width = pixels.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = pixels.cumsum(0, dtype=np.float64).cumsum(1)
    places = height - crop[0] + 1, width - crop[1] + 1
    rows, columns = (
        np.array([int(_inside(k, count, free, 0.5)) for k in range(count)])
        for count, free in zip(cells, places, strict=True)
    )
    low, high = rows[:, None], rows[:, None] + crop[0]
    left, right = columns[None], columns[None] + crop[1]
    box = sums[high, right] - sums[low, right] - sums[high, left] + sums[low, left]
    mean: NDArray[np.float64] = np.maximum(box, 0) / (crop[0] * crop[1])
    return mean


def _inside(cell: int, cells: int, places: int, part: float) -> float:
    """Position at a part of the way through a cell of an axis."""
    return min((cell + part) * places / cells, places - 1)
