"""Contract of a reader, the files of one format as labelled frames, and what readers share."""

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.lazy import delayed_frames
from convlstm.errors import DataError
from convlstm.extras import load_pyproj

if TYPE_CHECKING:
    import xarray as xr

_DATE = r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)"
_CLOCK = r"[-_.T ]?(\d\d)[-_.:]?(\d\d)(?:[-_.:]?(\d\d)(\d{3})?)?"  # and milliseconds, without a point
_TIME = re.compile(rf"{_DATE}(?:{_CLOCK}|T?(\d\d))?(?!\d)")

_OFFSET = re.compile(r"[+-]\d\d:?\d\d$")  # from UTC
_COORDINATES = ("time", "channel", "y", "x", "crs", "lat", "lon", "event")
_AT_ONCE = 8  # frames that are read together

RADAR: dict[str, dict[str, Any]] = {
    "reflectivity": {
        "units": "dBZ",
        "long_name": "radar reflectivity",
        "standard_name": "equivalent_reflectivity_factor",
        "dry_value": -32.0,
    },
    "rainfall_rate": {
        "units": "mm/h",
        "long_name": "rainfall rate",
        "standard_name": "rainfall_rate",
        "dry_value": 0.0,
    },
    "precipitation": {
        "units": "mm",
        "long_name": "precipitation amount",
        "standard_name": "lwe_thickness_of_precipitation_amount",
        "cell_methods": "time: sum",
        "dry_value": 0.0,
    },
}
"""Names and attributes of the quantities that radar composites hold, the same in all formats."""


class Reader(ABC):
    """Reader of one file format; a final subclass a format, without state, chosen by the content of a file.

    Attributes:
        name: in lower case, as ``--data.reader`` takes it.
        title: the format in one line, for ``convlstm describe``.
        beside: patterns of the names of files that accompany the data and hold no frames.
    """

    name: str
    title: str
    beside: tuple[str, ...] = ()

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """True if a file is of this format.

        Args:
            path: a file or a folder; its name may help, but only the content decides where it can.
            head: the first 4096 bytes; empty for a folder.
        """

    @abstractmethod
    def read(self, path: Path) -> "xr.Dataset":
        """Read the labels of a file; its values are read when they are asked for.

        Returns:
            Variables (time, y, x) or (time, channel, y, x), or (y, x) if they do not change with time beside
            others that do: floats backed by dask, at most a few frames a chunk, NaN exactly where not
            measured, with the attributes ``units``, ``long_name`` and, where the format has a value for
            "measured, nothing there", ``dry_value`` (in the variable's unit); ``dtype``, of the values in the
            file, ``valid_range``, and ``period_s``, the seconds that an amount covers, or ``periods_s``, the
            least and the most, where they differ; where they are known.
            Coordinates: ``time`` (datetime64[ns], or timedelta64[ns] since the first frame where the format
            has no dates), ``y``, ``x`` with ``standard_name`` and ``units`` where known, from north to south
            and from west to east if the file has them so; ``crs``, a scalar with the CF attributes of the
            grid mapping, where known. Events of several places whose times overlap stand one after the other,
            a day apart and undated; ``event`` (time,), datetime64[ns], is then the date of each frame's
            event. A variable's ``cell_methods`` says "time: sum" for accumulations.

        Raises:
            DataError: damaged, truncated, or without frames.
        """


def decoded(
    codes: NDArray[Any], gain: float, offset: float, missing: Iterable[float] = ()
) -> NDArray[np.float32]:
    """Values ``gain * codes + offset``, NaN where a code is one of those for "not measured"."""
    with np.errstate(over="ignore"):  # codes of floats may be beyond single precision
        values = (codes * np.float64(gain) + offset).astype(np.float32)
        for code in missing:
            values[codes == code] = np.nan
    return values


def frames_dataset(
    name: str,
    load: Callable[[slice], NDArray[np.float32]],
    times: NDArray[Any],
    shape: tuple[int, int],
    *,
    attributes: Mapping[str, Any],
    y: "xr.Variable | None" = None,
    x: "xr.Variable | None" = None,
    crs: Mapping[str, Any] | None = None,
) -> "xr.Dataset":
    """Dataset of one variable (time, y, x) whose values are loaded late, a few frames at once.

    Args:
        name: of the variable.
        load: reads the values of some frames (t, H, W), float32, NaN where not measured, given a slice of
            the T frames; a function of a module or a `functools.partial` of one, so that workers can have it.
        times: (T,), datetime64 or timedelta64.
        shape: (H, W).
        attributes: of the variable.
        y: coordinate of the rows; numbered if None.
        x: coordinate of the columns.
        crs: CF attributes of the grid mapping.
    """
    import xarray as xr

    slices = [slice(k, min(k + _AT_ONCE, len(times))) for k in range(0, len(times), _AT_ONCE)]
    values = delayed_frames([(partial(load, part), part.stop - part.start) for part in slices], shape)
    attributes = dict(attributes)
    coordinates: dict[str, Any] = {"time": np.asarray(times, f"{np.asarray(times).dtype.kind}8[ns]")}
    coordinates |= {} if y is None else {"y": y}
    coordinates |= {} if x is None else {"x": x}
    if crs is not None:
        coordinates["crs"] = xr.Variable((), np.int32(0), dict(crs))
        attributes["grid_mapping"] = "crs"
    return xr.Dataset({name: (("time", "y", "x"), values, attributes)}, coordinates)


def projected(
    projection: str, corner: tuple[float, float], pixel: tuple[float, float], shape: tuple[int, int]
) -> dict[str, Any]:
    """Coordinates and grid mapping of a regular grid in a projection, as `frames_dataset` takes them.

    Args:
        projection: in PROJ's notation, in metres, or a geographic one, in degrees; or an EPSG code.
        corner: (x, y) of the outer corner of the upper left pixel.
        pixel: (width, height) of a pixel, both positive.
        shape: (H, W).
    """
    import xarray as xr

    crs, geographic = _grid_mapping(projection)

    def along(axis: str, values: NDArray[Any]) -> xr.Variable:
        named = {"standard_name": f"projection_{axis}_coordinate", "units": "m"}
        if geographic:
            name, units = ("latitude", "degrees_north") if axis == "y" else ("longitude", "degrees_east")
            named = {"standard_name": name, "units": units}
        return xr.Variable((axis,), values, named)

    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    y, x = along("y", corner[1] - rows * pixel[1]), along("x", corner[0] + columns * pixel[0])
    return {"y": y, "x": x, "crs": crs}


@lru_cache(maxsize=16)
def _grid_mapping(projection: str) -> tuple[dict[str, Any], bool]:
    """CF attributes of a projection, True if it is geographic; every file of an archive asks for the same."""
    load_pyproj()
    from pyproj import CRS

    crs = CRS.from_user_input(projection)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what CF has no parameter for: crs_wkt has it
        return crs.to_cf(), crs.is_geographic


def frames_name(name: Any) -> str:
    """Name of a variable of frames, another one where it would be that of a coordinate."""
    return f"{name}_frames" if name in _COORDINATES else str(name)


def not_numbers(name: str, path: Path | str, dtype: np.dtype[Any]) -> str:
    """Sentence on frames of a dtype that is not of integers or floats."""
    complex_ = dtype.kind == "c"
    remedy = "take their magnitude, numpy.abs, or their real part" if complex_ else "convert them to float32"
    return f"frames must be integers or floats; {name} of {path} holds {dtype}: {remedy}"


def utc_times(values: NDArray[Any], path: Path | str) -> NDArray[np.datetime64]:
    """Times, datetime64[ns] in UTC, of ISO 8601 text or datetimes; those without an offset are taken for UTC.

    Raises:
        DataError: other text, or dates that nanoseconds cannot hold.
    """
    texts = values.astype(str) if values.dtype.kind in "SU" else None
    try:
        if texts is not None and not any(_OFFSET.search(text) for text in texts):
            plain = np.char.replace(np.char.rstrip(texts, "Z"), "_", "T")  # as WRF has it
            dates = plain.astype("datetime64")
        else:
            moments = values if texts is None else [datetime.fromisoformat(text) for text in texts]
            naive = [m if m.tzinfo is None else m.astimezone(UTC).replace(tzinfo=None) for m in moments]
            dates = np.array([np.datetime64(moment, "us") for moment in naive])
    except ValueError as error:
        raise DataError(
            "times must be dates or ISO 8601 text such as 2021-02-01T20:05 or 2021-02-01T21:05+01:00; "
            f"{path} holds {str(values[0])!r}: convert them with numpy.datetime64"
        ) from error
    return in_nanoseconds(dates)


def in_nanoseconds(times: NDArray[Any]) -> NDArray[Any]:
    """Dates as datetime64[ns], times since a first frame as timedelta64[ns], in whole microseconds.

    Days and hours in floats are off by less.

    Raises:
        DataError: times that nanoseconds of 64 bits cannot hold.
    """
    exact = times.astype(f"{times.dtype.kind}8[ns]")
    if not ((exact.astype(times.dtype) == times) | np.isnat(times)).all():
        limits = "lie between 1678 and 2262" if exact.dtype.kind == "M" else "span at most 292 years"
        raise DataError(f"times must {limits}; received {times.min()} to {times.max()}: change them")
    whole = ((exact.astype(np.int64) + 500) // 1000 * 1000).astype(exact.dtype)
    return np.where(np.isnat(exact), exact, whole)


def time_in_name(text: str) -> np.datetime64 | None:
    """The date, with hours, minutes and seconds where given, in a name such as ``radar_202102010005.h5``.

    Digits that follow and are no such time belong to something else, as another date does.
    """
    for found in _TIME.finditer(text):
        *numbers, part, hours = found.groups(default="0")
        year, month, day, hour, minute, second = map(int, numbers)
        try:
            time = datetime(year, month, day, hour or int(hours), minute, second, 1000 * int(part))
            return np.datetime64(time.isoformat(), "ns")
        except ValueError:  # other digits
            continue
    return None
