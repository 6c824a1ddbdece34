"""Frames in their unit to what a model reads, and its forecast back to labelled frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from convlstm.data.archive_windows import scaled
from convlstm.data.extra_inputs import INPUTS, extra_inputs
from convlstm.data.frame_store import seconds
from convlstm.data.specification import Specification
from convlstm.data.specify import check_fits
from convlstm.data.units import AMOUNTS, check_covered, conversion, time_text, unit_named
from convlstm.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float32]
_CARRIED = ("units", "long_name", "standard_name", "cell_methods", "grid_mapping", "dry_value", "period_s")
_TOLERANCE = 0.1  # of a time step, by which frames may be early or late


@dataclass(frozen=True)
class Past:
    """The last frames of a sequence, as many as a model reads.

    Attributes:
        values: (K, C, H, W), in ``units``, NaN where not measured and in missing frames.
        units: of the values.
        times: (K,), seconds since 1970-01-01; None for frames without dates.
        step_s: seconds between frames.
        period_s: seconds that an amount covers; None for those between frames.
    """

    values: Floats
    units: str
    times: NDArray[np.float64] | None
    step_s: float
    period_s: float | None = None


def last_frames(
    frames: "xr.DataArray",
    specification: Specification,
    *,
    masked: bool = False,
    remedy: str = "give more frames, or --gaps mask",
) -> Past:
    """The last K frames of a labelled sequence; no others are read.

    Args:
        frames: (time, channel, y, x), as `convlstm.data.opening.open_frames` returns them.
        specification: of the data that the model was trained on.
        masked: take missing frames as not measured instead of refusing the sequence.
        remedy: for missing frames, in messages.

    Raises:
        DataError: too few frames, missing ones, or others than the model was trained on.
    """
    check_covered(frames.attrs, specification.units, specification.known_step_s)
    past = specification.past
    between = np.diff(seconds(frames["time"]))
    frames = frames[-past:]
    times = seconds(frames["time"])
    found = float(np.diff(times).min()) if len(times) > 1 else specification.step_s
    if masked and len(between):  # every second frame of the past alone may be missing
        found = min(found, float(np.median(between)))
    dated = frames["time"].dtype.kind == "M"
    # Frames that are only counted are a second apart.
    counted = (not dated and found == 1) or specification.known_step_s is None
    step_s = found if counted else specification.step_s
    check_fits(frames, specification.step_s if counted else found, specification)
    counts, late = steps_between(times, step_s)
    if late.any():
        raise DataError(
            f"frames must be {time_text(step_s)} apart; {_text(frames, int(late.argmax()) + 1)} is "
            f"{time_text(late.max())} off: leave it out"
        )
    places = past - 1 - np.append(np.cumsum(counts[::-1])[::-1], 0).astype(np.int64)
    inside = places >= 0
    if not masked and not (len(frames) == past and inside.all()):
        missing = "" if len(frames) < past else f", but not one every {time_text(step_s)}"
        raise DataError(
            f"the past must hold the {past} frames that the model was trained with, none missing; received "
            f"{len(frames)} from {_text(frames, 0)} to {_text(frames, -1)}{missing}: {remedy}"
        )
    frames, places = frames[inside], places[inside]
    values = np.full((past, *frames.shape[1:]), np.nan, np.float32)
    values[places] = frames.values
    window = times[-1] + step_s * np.arange(1 - past, 1)
    window[places] = times[inside]
    units = str(frames.attrs.get("units", ""))
    return Past(values, units, window if dated else None, step_s, frames.attrs.get("period_s"))


def steps_between(times: NDArray[np.float64], step_s: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Time steps from each frame to the next (T - 1,), and the seconds by which it is early or late.

    Months differ, and many of them are another time than as many time steps; so each is looked at alone.

    Args:
        times: (T,), in seconds.
        step_s: seconds between frames.
    """
    apart = np.diff(times)
    counts = np.maximum(np.rint(apart / step_s), 1).astype(np.int64)
    late = np.abs(apart - counts * step_s)
    return counts, np.where(late > _TOLERANCE * step_s * counts, late, 0)


class Fields:
    """Values in a unit to the scale of a network, and back.

    Args:
        specification: of the data that the model was trained on.
        units: of the values; that of the specification if empty.
        step_s: seconds between frames; used if training did not know them.
        period_s: seconds that amounts cover; those between frames if None.

    Raises:
        DataError: a unit that does not convert exactly to that of the model.
    """

    def __init__(
        self, specification: Specification, units: str, step_s: float, period_s: float | None = None
    ) -> None:
        self.specification = specification
        self.step_s = step_s = specification.known_step_s or step_s
        self._transform = specification.built_transform()
        relation, own = specification.relation(), specification.units
        units = unit_named(units or own)
        covered_s = (period_s or step_s) if units in AMOUNTS else specification.covered_s
        self._to_own = conversion(units, own, step_s=covered_s, zr=relation)
        self._from_own = conversion(own, units, step_s=covered_s, zr=relation)

    def read(
        self, past: Past, steps: int, static: Floats | None = None
    ) -> tuple[Tensor, Tensor | None, NDArray[np.bool_]]:
        """Input of a model.

        Args:
            past: the frames.
            steps: L.
            static: (S, H, W), fields that do not change, scaled.

        Returns:
            The frames (K, C, H, W) in the scale of the network, 0 where not measured; the extra inputs
            (K + L, E, H, W), None without any; and the mask (K, C, H, W) of the measured pixels.
        """
        times = self.times(past, steps)
        values = self._to_own(past.values)
        frames, valid = scaled(values, times[:-steps], self._transform, self.specification.units)
        if not self.specification.inputs:
            return frames, None, valid.numpy()
        names = [name for name in self.specification.inputs if name in INPUTS]
        static = np.empty((0, *frames.shape[2:]), np.float32) if static is None else static
        future = np.ones((steps, *valid.shape[1:]), bool)
        mask = np.concatenate([valid.numpy(), future])
        extra = extra_inputs(names, times, mask, len(frames), static)
        return frames, torch.from_numpy(extra), valid.numpy()

    def write(self, forecast: Tensor, past: Past, valid: NDArray[np.bool_]) -> Floats:
        """The forecast (L, C, H, W) in the unit of the past, NaN where no frame of the past was measured.

        Args:
            forecast: (L, C, H, W), in the scale of the network.
            past: the frames that it follows.
            valid: (K, C, H, W), measured pixels of the past.
        """
        times = torch.from_numpy(self.times(past, len(forecast))[len(valid) :])
        values = self._from_own(self.specification.to_units(forecast.float().cpu(), times).float().numpy())
        return np.where(valid.any(0), values, np.float32(np.nan))

    def times(self, past: Past, steps: int) -> NDArray[np.float64]:
        """Times (K + L,) of past and future; seconds after the first frame where there are no dates.

        Raises:
            DataError: no dates, and a model that depends on the season or the hour.
        """
        if past.times is not None:
            return np.append(past.times, past.times[-1] + self.step_s * np.arange(1, steps + 1))
        seasonal = [name for name in self.specification.inputs if name in ("hour", "season")]
        if seasonal or self.specification.transform["kind"] == "anomaly":
            raise DataError(
                f"the model reads the {seasonal[0] if seasonal else 'season'}, and frames must have times; "
                "received none: give an xarray.DataArray or files with times"
            )
        return self.step_s * np.arange(len(past.values) + steps, dtype=np.float64)


def labelled_forecast(values: NDArray[Any], frames: "xr.DataArray", step_s: float) -> "xr.DataArray":
    """A forecast with the name, the coordinates and the attributes of the frames that it follows.

    Args:
        values: (L, C, H, W), in the unit of the frames.
        frames: (time, channel, y, x), as `convlstm.data.opening.open_frames` returns them.
        step_s: seconds between frames.

    Returns:
        (time, channel, y, x), with the coordinates ``forecast_reference_time``, the time of the last frame,
        and ``forecast_period`` (time) beside those of the frames.
    """
    import xarray as xr

    last = frames["time"].values[-1]
    periods = np.rint(step_s * 1e9 * np.arange(1, len(values) + 1)).astype("timedelta64[ns]")
    coordinates = {name: axis.variable for name, axis in frames.coords.items() if "time" not in axis.dims}
    coordinates |= {
        "time": xr.Variable("time", last + periods, frames["time"].attrs),
        "forecast_reference_time": xr.Variable((), last),
        "forecast_period": xr.Variable("time", periods),
    }
    attributes = {name: frames.attrs[name] for name in _CARRIED if name in frames.attrs}
    return xr.DataArray(values, coordinates, ("time", "channel", "y", "x"), frames.name, attributes)


def clock_texts(times: NDArray[Any]) -> list[str]:
    """Dates (T,) by ISO 8601, to the minute, or to the second where one of them has some."""
    exact = (times.astype("datetime64[ns]") + np.timedelta64(500, "us")).astype("datetime64[ms]")
    for unit in ("m", "s", "ms"):
        shown = exact.astype(f"datetime64[{unit}]")
        if (shown == exact).all():
            break
    return [str(time) for time in shown]


def as_dtype(values: Floats, dtype: DTypeLike, missing: Sequence[float] = ()) -> NDArray[Any]:
    """Values in another dtype; integers are rounded and clipped to their range.

    Args:
        values: NaN where not measured.
        dtype: the dtype.
        missing: codes of "not measured", of which integers take the first that they can hold; no value that
            is measured becomes one.

    Returns:
        The array; float32 where integers have no code for the NaN that are there.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    absent = np.isnan(values)
    if dtype.kind not in "iu":
        return values
    ends = np.iinfo(dtype)
    codes = [code for code in missing if float(code).is_integer() and ends.min <= code <= ends.max]
    if absent.any() and not codes:
        return values
    rounded = np.clip(np.rint(np.where(absent, 0, values).astype(np.float64)), ends.min, ends.max)
    middle = (int(ends.min) + int(ends.max)) / 2
    for code in sorted(codes, key=lambda code: -abs(code - middle)):  # towards the middle, past neighbours
        rounded[~absent & (rounded == code)] += 1 if code < middle else -1
    return np.where(absent, codes[0] if absent.any() else 0, rounded).astype(dtype)


def _text(frames: "xr.DataArray", index: int) -> str:
    time = frames["time"].values[index]
    return str(time.astype("datetime64[s]" if time.dtype.kind == "M" else "timedelta64[s]"))
