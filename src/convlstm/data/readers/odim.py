"""Composites by EUMETNET's OPERA data information model, ODIM_H5, which most European services write."""

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import (
    RADAR,
    Reader,
    decoded,
    frames_dataset,
    projected,
)
from convlstm.data.readers.hdf5 import attribute, holds
from convlstm.errors import DataError, reading
from convlstm.extras import load_pyproj

if TYPE_CHECKING:
    import h5py
    import xarray as xr

_GRIDDED = ("COMP", "IMAGE")
_FIELD = re.compile(r"dataset\d+(/data\d+|(/data\d+)?/quality\d+)")
_NAMES = {"RATE": "rainfall_rate", "ACRR": "precipitation", "DBZH": "reflectivity", "QIND": "quality"}
_KINDS = _NAMES | dict.fromkeys(("DBZ", "DBZV", "TH", "TV"), "reflectivity")
_ATTRIBUTES = RADAR | {"quality": {"units": "1", "long_name": "quality index from 0 to 1"}}


class ODIM(Reader):
    """Composites, a variable per quantity, quality fields among them.

    Quantities that other formats have too are named as there, others by their ODIM name in lower case and
    without a unit; one that a file holds twice has its place in the file behind its name.
    """

    name = "odim"
    title = "ODIM radar composite (HDF5)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for HDF5 with ODIM's conventions, polar volumes included."""
        return holds(path, head, lambda file: str(attribute(file, "Conventions")).startswith("ODIM_H5"))

    def read(self, path: Path) -> "xr.Dataset":
        """Rates in mm/h, amounts in mm, reflectivities in dBZ: undetected is dry, no data is NaN."""
        import h5py
        import xarray as xr

        with reading(path), h5py.File(path) as file:
            kind = attribute(file["what"], "object")
            if kind not in _GRIDDED:
                raise DataError(
                    f"ODIM data must be on a grid ({' or '.join(_GRIDDED)}); {path} has the object {kind}: "
                    "make a composite of polar data first, as wradlib and BALTRAD do"
                )
            day, clock = (str(attribute(file["what"], name)) for name in ("date", "time"))
            time = _time(day, clock)
            fields, names = _fields(file), dict[str, str]()
            for place, quantity in fields.items():
                name = _NAMES.get(quantity, quantity.lower())
                names[place] = f"{name}_{place.replace('/', '_')}" if name in names.values() else name
            quality = " ".join(names[place] for place in fields if fields[place] == "QIND")
            variables: dict[str, xr.Dataset] = {}
            for place, quantity in fields.items():
                name = names[place]
                attributes = _ATTRIBUTES.get(
                    _KINDS.get(quantity, ""), {"long_name": f"ODIM quantity {quantity}"}
                )
                load = partial(_values, path, place, _codes(file, place), attributes.get("dry_value", np.nan))
                if quantity == "ACRR":
                    attributes = attributes | _period(file, place)
                if quantity != "QIND" and quality:
                    attributes = attributes | {"ancillary_variables": quality}
                shape = file[place]["data"].shape
                variables[name] = frames_dataset(
                    name, load, np.array([time]), shape, attributes=attributes, **_grid(file, place, shape)
                )
            if not variables:
                raise ValueError("it has no datasets")
            return xr.merge(variables.values(), join="exact", compat="identical")


def _values(
    path: Path, place: str, codes: dict[str, float], dry: float, frames: slice
) -> NDArray[np.float32]:
    import h5py

    with reading(path), h5py.File(path) as file:
        stored = file[place]["data"][()][None][frames]
        values = decoded(stored, codes["gain"], codes["offset"])
        values[stored == codes["undetect"]] = dry
        values[stored == codes["nodata"]] = np.nan
    return values


def _fields(file: "h5py.File") -> dict[str, str]:
    """Quantities of the fields of a file by their groups; that of a quality field is QIND."""
    groups: list[str] = []
    file.visit(groups.append)
    fields = [group for group in groups if _FIELD.fullmatch(group) and "data" in file[group]]
    fields.sort(key=lambda group: ("/quality" in group, [int(n) for n in re.findall(r"\d+", group)]))
    return {
        group: "QIND" if "/quality" in group else str(_nearest(file, group, "what", "quantity"))
        for group in fields
    }


def _time(day: str, clock: str) -> np.datetime64:
    """Time of the date 20180824 and the clock 180000."""
    stamp = f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"
    return np.datetime64(stamp, "ns")


def _period(file: "h5py.File", place: str) -> dict[str, float]:
    """The seconds that an amount covers, where the file says so."""
    names = [f"{end}{kind}" for end in ("start", "end") for kind in ("date", "time")]
    found = [str(_nearest(file, place, "what", name, math.nan)) for name in names]
    if "nan" in found:
        return {}
    seconds = float((_time(*found[2:]) - _time(*found[:2])) / np.timedelta64(1, "s"))
    return {"period_s": seconds} if seconds > 0 else {}


def _codes(file: "h5py.File", place: str) -> dict[str, float]:
    defaults = {"gain": 1.0, "offset": 0.0, "nodata": np.nan, "undetect": np.nan}
    if "/quality" in place:  # the codes of the values that it describes are not its own
        own = file[place]["what"].attrs if "what" in file[place] else {}
        return {name: float(np.ravel(own.get(name, value))[0]) for name, value in defaults.items()}
    return {name: float(_nearest(file, place, "what", name, default)) for name, default in defaults.items()}


def _grid(file: "h5py.File", place: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Coordinates from the projection, the pixel's size and the upper left or the lower left corner."""
    load_pyproj()
    from pyproj import Proj

    def where(name: str, default: float | None = None) -> Any:
        return _nearest(file, place, "where", name, default)

    proj4, width, height = where("projdef"), float(where("xscale")), float(where("yscale"))
    if re.search(r"\+units=km\b", proj4):  # pixels are in the unit of the projection
        proj4 = re.sub(r"\+units=km\b", "+units=m", proj4)
        width, height = 1000 * width, 1000 * height
    corner = "UL" if np.isfinite(float(where("UL_lon", np.nan))) else "LL"
    place_of = Proj(proj4)
    x, y = place_of(float(where(f"{corner}_lon")), float(where(f"{corner}_lat")))
    top = y if corner == "UL" else y + shape[0] * height
    digits = 6 if place_of.crs.is_geographic else 1  # corners are angles, rounded
    return projected(proj4, (round(x, digits) + 0.0, round(top, digits) + 0.0), (width, height), shape)


def _nearest(file: "h5py.File", place: str, kind: str, name: str, default: float | None = None) -> Any:
    """An attribute of the group ``kind`` that is nearest: in the group at a place, or in one above it."""
    steps = place.split("/")
    for k in range(len(steps), -1, -1):
        group = file["/" + "/".join(steps[:k])]
        if kind in group and name in group[kind].attrs:
            return attribute(group[kind], name)
    if default is None:
        raise KeyError(f"no attribute {name} in a group {kind} at or above {place}")
    return default
