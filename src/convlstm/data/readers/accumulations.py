"""Times that amounts cover, as files state them: bounds of times by the CF conventions, steps of GRIB."""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

#: Seconds of the shortest month; times as long and longer are of a calendar, and differ between frames.
MONTH_S = 28 * 86400
_SUM = re.compile(r"\btime: sum\b")


def covered(seconds: Iterable[float]) -> dict[str, Any]:
    """Attributes of amounts by the times that they cover.

    Args:
        seconds: of each frame.

    Returns:
        ``period_s``, the one time that all cover; ``periods_s``, the shortest and the longest, where they
        differ or are calendar months and longer; nothing where no time is stated.
    """
    found = sorted({float(round(each)) for each in seconds})
    if not found or found[-1] <= 0:
        return {}
    if len(found) == 1 and found[0] < MONTH_S:
        return {"period_s": found[0]}
    return {"periods_s": (found[0], found[-1])}


def covered_by_bounds(
    dataset: "xr.Dataset", variable: "xr.Variable", time: Hashable | None
) -> dict[str, Any]:
    """Attributes of a sum over time whose intervals the bounds of the times state; none if it states its own.

    Args:
        dataset: that holds the bounds.
        variable: of the amounts.
        time: name of the coordinate of the times, if there is one.
    """
    if time is None or {"period_s", "periods_s"} & variable.attrs.keys():
        return {}
    bounds = dataset[time].attrs.get("bounds", dataset[time].encoding.get("bounds"))
    if bounds not in dataset.variables or not _SUM.search(str(variable.attrs.get("cell_methods", ""))):
        return {}
    ends = np.asarray(dataset[bounds].values).reshape(-1, 2)
    if ends.dtype.kind not in "MO":  # times without dates
        return {}
    lengths = (ends[:, 1] - ends[:, 0]).astype("timedelta64[us]") / np.timedelta64(1, "s")
    return covered(np.abs(lengths[np.isfinite(lengths)]))


def covered_by_steps(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Attributes of the accumulations of a GRIB file, by name of the variable and kind of level."""
    from cfgrib.messages import FileStream

    seconds: dict[tuple[str, str], set[float]] = {}
    for _, message in FileStream(str(path)).items():  # noqa: PERF102 - it has no values()
        if message["stepType"] == "accum":
            message["stepUnits"] = "s"
            length = message["endStep:int"] - message["startStep:int"]
            seconds.setdefault((message["cfVarName"], message["typeOfLevel"]), set()).add(length)
    return {key: covered(each) for key, each in seconds.items()}
