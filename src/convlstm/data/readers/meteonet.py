"""Rain of Meteo-France's MeteoNet: NumPy archives of 5-minute amounts with their dates."""

import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.arrays import npy_header
from convlstm.data.readers.base import RADAR, Reader, decoded, frames_dataset, projected
from convlstm.errors import reading

if TYPE_CHECKING:
    import xarray as xr

_DATA, _DATES, _MISSING = "data.npy", "dates.npy", "miss_dates.npy"
_COORDINATES = "radar_coords_*.npz"
# What a pickled array of dates is made of; files of dates run nothing else.
_PICKLED = {
    ("datetime", "datetime"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class MeteoNet(Reader):
    """Rain of a quarter of France in mm per 5 minutes, in hundredths; -1 is not measured.

    Places are those of the file ``radar_coords_*.npz`` of the same zone beside it, if it is there.
    """

    name = "meteonet"
    title = "MeteoNet radar rain (npz)"
    beside = (_COORDINATES,)

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for an npz archive with data, dates and missing dates."""
        if not head.startswith(b"PK"):
            return False
        try:
            with zipfile.ZipFile(path) as archive:
                return {_DATA, _DATES, _MISSING} <= set(archive.namelist())
        except (OSError, zipfile.BadZipFile):
            return False

    def read(self, path: Path) -> "xr.Dataset":
        """Amounts in mm."""
        with reading(path):
            with zipfile.ZipFile(path) as archive:
                with archive.open(_DATA) as file:
                    (count, *size), columns_first, dtype = npy_header(file)
                times = _dates(archive.read(_DATES))
            height, width = size
            if columns_first:
                raise ValueError("its data are stored column by column")
            if dtype != np.int16:
                raise ValueError(f"its data are {dtype}, not int16")
            if len(times) != count:
                raise ValueError(f"it has {count} frames and {len(times)} dates")
            if not (np.diff(times) > np.timedelta64(0)).all():
                raise ValueError("its dates do not increase")
            return frames_dataset(
                "precipitation",
                partial(_values, path),
                times,
                (height, width),
                attributes=RADAR["precipitation"] | {"period_s": 300.0},
                **_grid(path, (height, width)),
            )


def _values(path: Path, frames: slice) -> NDArray[np.float32]:
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(_DATA) as file:
        (_, height, width), _, dtype = npy_header(file)
        file.seek(frames.start * height * width * dtype.itemsize, 1)
        codes = np.frombuffer(
            file.read((frames.stop - frames.start) * height * width * dtype.itemsize), dtype
        )
        return decoded(codes.reshape(-1, height, width), 0.01, 0.0, [-1])


class _Dates(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(
                f"dates must be made of datetime.datetime; they hold {module}.{name}"
            )
        return super().find_class(module, name)


def _dates(content: bytes) -> NDArray[Any]:
    """Times of an array of `datetime.datetime`, which NumPy pickles, or of datetime64."""
    import io

    file = io.BytesIO(content)
    _, _, dtype = npy_header(file)
    values = _Dates(file).load() if dtype.hasobject else np.frombuffer(file.read(), dtype)
    return np.array(values, "datetime64[us]").astype("datetime64[ns]")


def _grid(path: Path, shape: tuple[int, int]) -> dict[str, Any]:
    """Coordinates of the zone that is in the name, from the file of them in the same folder."""
    for place in sorted(path.parent.glob(_COORDINATES)):
        zone = place.stem.removeprefix("radar_coords_")
        if zone not in path.stem.split("_"):
            continue
        with reading(place), np.load(place) as arrays:
            lat, lon = arrays["lats"], arrays["lons"]
        if lat.shape != shape:
            raise ValueError(f"{place} has the shape {lat.shape}, not {shape}")
        if np.ptp(lat, axis=1).any() or np.ptp(lon, axis=0).any():
            raise ValueError(f"{place} must have a latitude a row and a longitude a column")
        height, width = (round(abs(axis[-1] - axis[0]) / (len(axis) - 1), 6) for axis in (lat[:, 0], lon[0]))
        corner = round(lon[0, 0] - width / 2, 6), round(lat[0, 0] + height / 2, 6)
        return projected("+proj=longlat +ellps=WGS84", corner, (width, height), shape)
    return {}
