"""Composites of the Royal Netherlands Meteorological Institute: HDF5 with calibration formulas in words."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import RADAR, Reader, decoded, frames_dataset, projected
from convlstm.data.readers.hdf5 import attribute, holds
from convlstm.errors import DataError, reading

if TYPE_CHECKING:
    import h5py
    import xarray as xr

_QUANTITIES = {"REFLECTIVITY": "reflectivity", "ACCUMULATED_PRECIPITATION": "precipitation"}
_FORMULA = re.compile(r"GEO\s*=\s*([-+.\deE]+)\s*\*\s*PV\s*\+\s*([-+.\deE]+)")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Axes of the ellipsoid that newer files round; their pixels and offsets differ by what makes up for it.
_ROUNDED = {"6378.14": "6378.137", "6356.75": "6356.752"}


class KNMI(Reader):
    """Reflectivity or precipitation of the Netherlands; the file says what its codes mean.

    Code 0 is dry, also where the file gives it for missing data, which those of reflectivity do.
    """

    name = "knmi"
    title = "KNMI radar composite (HDF5)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for HDF5 with KNMI's groups."""
        return holds(path, head, lambda file: {"geographic", "overview", "image1"} <= file.keys())

    def read(self, path: Path) -> "xr.Dataset":
        """Reflectivity in dBZ, dry at -32, or precipitation in mm."""
        import h5py

        with reading(path):
            with h5py.File(path) as file:
                image, name = _image(path, file)
                calibration = file[image]["calibration"]
                text = attribute(calibration, "calibration_formulas")
                formula = _FORMULA.search(text)
                if formula is None:
                    raise ValueError(f"the calibration formula {text!r} is not linear")
                gain, offset = float(formula[1]), float(formula[2])
                codes = {
                    int(attribute(calibration, f"calibration_{kind}"))
                    for kind in ("missing_data", "out_of_image")
                }
                time = _time(attribute(file["overview"], "product_datetime_end"))
                attributes = dict(RADAR[name])
                if name == "precipitation":
                    attributes |= _period(file["overview"], time)
                shape = file[image]["image_data"].shape
                grid = _grid(file["geographic"], shape)
            dry = RADAR[name]["dry_value"]
            load = partial(_values, path, f"{image}/image_data", gain, offset, codes - {0}, dry)
            return frames_dataset(name, load, np.array([time]), shape, attributes=attributes, **grid)


def _values(
    path: Path, place: str, gain: float, offset: float, missing: set[int], dry: float, frames: slice
) -> NDArray[np.float32]:
    import h5py

    with reading(path), h5py.File(path) as file:
        stored = file[place][()][None][frames]
        values = decoded(stored, gain, offset, missing)
        values[stored == 0] = dry  # formulas of reflectivity begin at -32 or at -31.5 dBZ
    return values


def _image(path: Path, file: "h5py.File") -> tuple[str, str]:
    """Name of the group of the one image of a quantity known here, and of the quantity."""
    images = [key for key in file if re.fullmatch(r"image\d+", key)]
    found = {key: attribute(file[key], "image_geo_parameter") for key in images}
    known = {
        key: _QUANTITIES[base] for key, text in found.items() if (base := text.split("_[")[0]) in _QUANTITIES
    }
    if len(known) != 1:
        raise DataError(
            f"a KNMI file must hold one image of {' or '.join(_QUANTITIES)}; {path} holds "
            f"{', '.join(found.values())}: write its images into files of one frame"
        )
    return next(iter(known.items()))


def _time(text: str) -> np.datetime64:
    """Time of ``26-AUG-2010;00:05:00.000``."""
    day, month, year, clock = re.split("[-;]", text)
    return np.datetime64(f"{year}-{_MONTHS.index(month.upper()) + 1:02}-{day}T{clock}", "ns")


def _period(overview: "h5py.Group", end: np.datetime64) -> dict[str, float]:
    """The seconds that an amount covers, where the file says so."""
    if "product_datetime_start" not in overview.attrs:
        return {}
    seconds = float((end - _time(attribute(overview, "product_datetime_start"))) / np.timedelta64(1, "s"))
    return {"period_s": seconds} if seconds > 0 else {}


def _grid(group: "h5py.Group", shape: tuple[int, int]) -> dict[str, Any]:
    """Coordinates in metres; the file has kilometres in single precision, and offsets in pixels."""
    unit = attribute(group, "geo_dim_pixel")
    if unit != "KM,KM":
        raise ValueError(f"pixels are in {unit}, not in KM,KM")
    proj4 = attribute(group["map_projection"], "projection_proj4_params")
    proj4 = re.sub(r"\+([ab])=([.\d]+)", lambda axis: f"+{axis[1]}={_metres(axis[2]):.0f}", proj4)
    width, height = (round(float(attribute(group, f"geo_pixel_size_{axis}")), 4) for axis in "xy")
    left = round(float(attribute(group, "geo_column_offset")) * width, 1)
    top = round(float(attribute(group, "geo_row_offset")) * height, 1)
    return projected(proj4, (left * 1000, top * 1000), (width * 1000, -height * 1000), shape)


def _metres(axis: str) -> float:
    return 1000 * float(_ROUNDED.get(axis, axis))
