"""Storm events of SEVIR (Veillette et al. 2020, NeurIPS 33): vertically integrated liquid in HDF5."""

import csv
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import Reader, decoded
from convlstm.data.readers.hdf5 import holds
from convlstm.data.readers.lazy import FileArray, late
from convlstm.errors import DataError, reading

if TYPE_CHECKING:
    import xarray as xr

_MISSING = 255
_STEP, _APART = np.timedelta64(5, "m"), np.timedelta64(1, "D")
_CATALOGUE = "CATALOG.csv"
_ABOVE = 4  # folders above a file that may hold the catalogue, as of data/vil/2019/file.h5

Events = dict[int, np.datetime64]


class SEVIR(Reader):
    """Events of vertically integrated liquid, integers from 0 to 254 in 5 minutes, a place for each event.

    They overlap in time, so that frames are undated, one event after the other, a day apart. With the
    catalogue (``CATALOG.csv`` in the folder or up to four above it) they are those that it lists once and
    without a missing pixel, as in published comparisons, in the order of their dates, which splits use.
    """

    name = "sevir"
    title = "SEVIR events of vertically integrated liquid (HDF5)"
    beside = (_CATALOGUE,)

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for HDF5 with SEVIR's ids and images of liquid."""
        return holds(path, head, lambda file: "id" in file and file["vil"].ndim == 4)

    def read(self, path: Path) -> "xr.Dataset":
        """One variable, ``vil``; dry at 0."""
        import h5py
        import xarray as xr

        with reading(path):
            with h5py.File(path) as file:
                count, height, width, length = file["vil"].shape
            dates = _dates(path)
            events = list(range(count)) if dates is None else sorted(dates, key=lambda k: (dates[k], k))
            if not events:
                raise DataError(
                    f"a file of SEVIR must hold events; {path} has none that {_CATALOGUE} lists without "
                    "missing pixels: leave it out"
                )
            if max(events) >= count:
                raise ValueError(f"it has {count} events, {_CATALOGUE} lists number {max(events)}")
        shape = (len(events) * length, height, width)
        values = late(FileArray(path, shape, partial(_read, path, events, length)), (length, height, width))
        within = np.arange(length) * _STEP
        starts = np.arange(len(events)) * (within[-1] + _APART)
        coordinates: dict[str, Any] = {"time": (starts[:, None] + within).ravel().astype("timedelta64[ns]")}
        if dates is not None:
            coordinates["event"] = "time", np.repeat([dates[k] for k in events], length)
        attributes = {
            "units": "1",
            "long_name": "vertically integrated liquid, encoded",
            "dtype": "uint8",
            "valid_range": (0, 255),  # which published scales divide by
            "dry_value": 0.0,
        }
        return xr.Dataset({"vil": (("time", "y", "x"), values, attributes)}, coordinates)


def _read(path: Path, events: list[int], length: int, key: Any) -> NDArray[np.float32]:
    """Frames (t, H, W) of the file's sequence of events."""
    import h5py

    frames, *pixels = key
    places = np.arange(len(events) * length)[frames]
    with h5py.File(path) as file:
        codes = {k: np.moveaxis(file["vil"][events[k]], -1, 0) for k in np.unique(places // length)}
    chosen = np.stack([codes[place // length][place % length] for place in places])
    return decoded(chosen[(slice(None), *pixels)], 1.0, 0.0, [_MISSING])


def _dates(path: Path) -> Events | None:
    """Dates of a file's whole events by their number in it; None without a catalogue."""
    found = [place for folder in path.parents[:_ABOVE] if (place := folder / _CATALOGUE).exists()]
    if not found:
        return None
    return _catalogue(found[0], found[0].stat().st_mtime_ns).get(path.name, {})


@lru_cache(maxsize=1)
def _catalogue(path: Path, changed: int) -> dict[str, Events]:
    """Dates of the events that are listed once and have no missing pixel, by file and number."""
    with reading(path, remedy="copy it again"), path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["img_type"] == "vil"]
        whole = [row for row in rows if float(row["pct_missing"]) == 0]
        times = Counter(row["id"] for row in whole)
        dates: dict[str, Events] = {}
        for row in whole:
            if times[row["id"]] == 1:
                events = dates.setdefault(Path(row["file_name"]).name, {})
                events[int(row["file_index"])] = np.datetime64(row["time_utc"], "ns")
    return dates
