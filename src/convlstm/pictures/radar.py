"""Colours of weather radar: classes of rain rate or reflectivity, on a logarithmic scale of the rate."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from convlstm.pictures.colours import Pixels, check_frames

NOT_MEASURED = (128, 128, 128)
DRY = (14, 14, 16)
_COLOURS = (
    *((32, 58, 130), (40, 96, 190), (52, 146, 226), (76, 196, 214), (96, 206, 110)),
    *((226, 224, 70), (248, 164, 44), (232, 78, 44), (196, 36, 116), (246, 190, 250)),
)


class RadarTable(NamedTuple):
    """Classes of values and their colours.

    Attributes:
        unit: of the values.
        bounds: least value of each class, rising; below the first it is dry.
        colours: red, green and blue of each class.
    """

    unit: str
    bounds: tuple[float, ...]
    colours: tuple[tuple[int, int, int], ...] = _COLOURS

    @property
    def logarithmic(self) -> bool:
        """True of values in decibels, whose mean is not that of the rain."""
        return self.unit == "dBZ"


#: Tables by unit; a reflectivity of 7 dBZ is 0.1 mm/h by the relation of Marshall and Palmer.
TABLES: Mapping[str, RadarTable] = {
    "mm/h": RadarTable("mm/h", (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)),
    "dBZ": RadarTable("dBZ", (7, 12, 18, 23, 28, 34, 39, 44, 50, 55)),
}


def paint_radar(frames: ArrayLike, table: RadarTable) -> list[Pixels]:
    """Map rain to the colours of its classes, dark where dry and grey where not measured.

    Args:
        frames: (T, C, H, W), NaN where not measured.
        table: of the unit of the frames.

    Returns:
        (T, H, W, 3), uint8, for each channel.

    Raises:
        ShapeError: ``frames`` is not (T, C, H, W), or is empty.
    """
    x_TCHW = check_frames(frames, "frames").astype(np.float64)
    colours = np.array([DRY, *table.colours, NOT_MEASURED], np.uint8)
    place = np.searchsorted(table.bounds, x_TCHW, side="right")
    place[np.isnan(x_TCHW)] = len(colours) - 1
    return [colours[place[:, c]] for c in range(x_TCHW.shape[1])]
