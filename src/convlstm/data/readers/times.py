"""Times of gridded files as exact dates, or as times since the first where they have no dates."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import in_nanoseconds, utc_times
from convlstm.errors import DataError

_UNDECODED = re.compile(r"unable to decode time units '([^']*)'")
_SINCE = re.compile(
    r"(day|hour|h|min|minute|s|sec|second|ms|us|ns|(milli|micro|nano)second)s? since \d", re.I
)
_SECONDS = {
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("week", "weeks"), 604800),
    **dict.fromkeys(("", "1"), 1),  # not stated
}


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Say what is wrong with times in a unit that xarray cannot decode.

    Raises:
        DataError: such times.
    """
    try:
        yield
    except ValueError as error:
        found = _UNDECODED.search(str(error))
        if found is None or _SINCE.match(found[1]):  # damaged, if its unit is one that can be decoded
            raise
        raise _no_times(found[1], path) from error


def nanoseconds(values: NDArray[Any], units: str, path: Path | str) -> NDArray[Any]:
    """Times as datetime64[ns], or what is not dated as timedelta64[ns] since the first.

    Args:
        values: (T,), decoded by the CF conventions.
        units: of what is not dated.
        path: where they come from.

    Raises:
        DataError: times that are missing, beyond nanoseconds, of another calendar or of an unknown unit.
    """
    import xarray as xr

    first = next(iter(values), None)
    if values.dtype.kind == "O" and isinstance(first, str):  # as NetCDF of version 3 has it
        values = values.astype(str)
    if values.dtype.kind in "SU" or isinstance(first, datetime):
        values = utc_times(values, path)
    elif isinstance(first, date):
        values = values.astype("datetime64[D]")
    if values.dtype.kind == "O":  # a calendar of climate models
        calendar = getattr(values[0], "calendar", "unknown")
        try:
            index = xr.CFTimeIndex(values)  # type: ignore[no-untyped-call]
            values = index.to_datetimeindex(unsafe=True, time_unit="us").to_numpy()
        except (TypeError, ValueError) as error:
            raise DataError(
                f"times must be dates of the Gregorian calendar; received '{calendar}', {error}: convert "
                "them with xarray's convert_calendar"
            ) from error
    if values.dtype.kind in "iuf":
        seconds = _SECONDS.get(str(units).strip().lower())
        if seconds is None:
            raise _no_times(units, path)
        if not units and _are_days(values):
            raise _no_times("%Y%m%d", path)
        values = values.astype(np.float64)  # small integers do not hold their differences
        values = np.rint((values - values[0]) * (seconds * 1e9)).astype("timedelta64[ns]")
    if (absent := np.isnat(values)).any():
        raise DataError(
            f"every frame must have a time; {absent.sum()} of {len(values)} have none: give them one or "
            "leave these frames out"
        )
    exact = in_nanoseconds(values)
    return exact - exact.min() if exact.dtype.kind == "m" else exact


def _are_days(values: NDArray[Any]) -> bool:
    """True for dates such as 20210131, which are no seconds."""
    years, months, days = values // 10000, values // 100 % 100, values % 100
    inside = (years >= 1800) & (years < 2300) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    return bool(inside.all() and (values == np.rint(values)).all())


def _no_times(units: str, path: Path | str) -> DataError:
    """The error of times whose unit is none that is known."""
    return DataError(
        f"times must be dates, or in a unit from milliseconds to weeks; {path} has them in {units!r}: give "
        "dates, or days or hours since one"
    )
