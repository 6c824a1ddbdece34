"""Archives of forecasts from many initial times: one Zarr store that processes write at the same time."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.atomic_write import replacing, writing
from convlstm.data.frame_store import seconds
from convlstm.data.windows import time_step, window_frames
from convlstm.errors import DataError, RunError, reading
from convlstm.forecasting.cf import cf_dataset, check_replaceable, time_encoding
from convlstm.forecasting.fields import labelled_forecast, steps_between
from convlstm.forecasting.rollout import forecast_labelled, masks_gaps, past_of, specification_of
from convlstm.models.base import Forecaster

if TYPE_CHECKING:
    import xarray as xr

_START, _LEAD = "forecast_reference_time", "forecast_period"
_log = logging.getLogger("convlstm")


def fill_archive(
    path: Path,
    model: Forecaster,
    frames: "xr.DataArray",
    steps: int,
    every: int,
    *,
    source: str = "",
    history: str = "",
    overwrite: bool = False,
    masked: bool | None = None,
    **options: Any,
) -> None:
    """Forecast from every so many frames of a sequence into an archive, which is made if missing.

    Forecasts that are there already are not made again, so that a call that was killed is repeated, and
    processes share the work by the same call.

    Args:
        path: folder of the Zarr store.
        model: the forecaster.
        frames: (time, channel, y, x), as of `convlstm.forecasting.rollout.forecast_labelled`.
        steps: L.
        every: time steps between initial times, from the first frame on that has a full past; those without
            one, or with one whose frames are early or late, are left out.
        source: the model and its version.
        history: when and by which command it was made.
        overwrite: replace a Zarr store.
        masked: take missing frames of a past as not measured, but for its first and its last; as in training
            if None.
        options: as of `convlstm.forecasting.rollout.forecast_labelled`.

    Raises:
        DataError: frames without dates, or too few in a row.
        RunError: what is there are not forecasts by this model from these times.
    """
    source = source or "convlstm"  # as files without one say
    times, past, masked = seconds(frames["time"]), past_of(model, frames), masks_gaps(model, masked)
    specification = specification_of(model)
    known_s = None if specification is None else specification.known_step_s
    windows = window_frames(times, past, masked=masked, step=known_s)
    if not len(windows):  # frames of another time step are refused as such below
        windows = window_frames(times, past, masked=masked)
    if not len(windows):
        masks = specification and len(window_frames(times, past, masked=True, step=known_s))
        raise DataError(
            f"the past must hold the {past} frames that the model was trained with, none missing; received "
            f"{len(times)}, but not so many in a row: give more frames{', or --gaps mask' * bool(masks)}"
        )
    if frames["time"].dtype.kind != "M":
        raise DataError(
            f"forecasts from many initial times need frames with dates; received {len(times)} without: give "
            "them dates, or leave --every out"
        )
    counts, late = steps_between(times, known_s or time_step(times))
    # Of each frame the time steps before it, and the frames that are early or late.
    places, uneven = (np.append(0, np.cumsum(each)) for each in (counts, late > 0))
    even = uneven[windows[:, 0]] == uneven[windows[:, -1]]
    ends = windows[even if even.any() else slice(None), -1]
    ends = ends[(places[ends] - places[ends[0]]) % every == 0]
    starts = frames["time"].values[ends]
    if overwrite or not path.exists():
        # What is refused is refused before anything is made or replaced.
        values, read, _ = forecast_labelled(model, frames[: ends[0] + 1], steps, masked=masked, **options)
        nothing = labelled_forecast(np.full_like(values, np.nan), frames, read.step_s)
        try:
            create_archive(path, nothing, starts, source=source, history=history, overwrite=overwrite)
        except RunError:
            if overwrite or not path.exists():  # otherwise another process was the first
                raise
    missing = [int(k) for k in np.flatnonzero(~_written(path, starts, source, steps))]
    several = "s" * (len(starts) > 1)
    _log.info("%d forecast%s, %d of them there already", len(starts), several, len(starts) - len(missing))
    begin = random.randrange(len(missing)) if missing else 0  # so that processes meet seldom
    for k in [*missing[begin:], *missing[:begin]]:
        if not _written(path, starts, source, steps, [k])[0]:
            known = frames[: ends[k] + 1]
            values, read, _ = forecast_labelled(model, known, steps, masked=masked, **options)
            write_to_archive(path, labelled_forecast(values, known, read.step_s))


def _written(
    path: Path,
    starts: NDArray[np.datetime64],
    source: str,
    steps: int,
    places: Sequence[int] | None = None,
) -> NDArray[np.bool_]:
    """True for each initial time (of some places) whose forecast is in an archive, by its masks."""
    import xarray as xr

    with (
        reading(path, "be an archive of forecasts", "choose another name", RunError),
        xr.open_zarr(path, consolidated=False, chunks=None, decode_timedelta=False) as archive,
    ):
        known = archive[_START].values if _START in archive.dims else starts[:0]
        there = archive.attrs.get("source")
        leads = archive.sizes.get(_LEAD, 0)
        same = np.array_equal(known, starts) and (there, leads) == (source, steps)
        masks = [values for values in archive.data_vars.values() if values.dtype.kind != "f"]
        wanted = range(len(starts)) if places is None else places
        found = [all(bool(mask[k].values.any()) for mask in masks) for k in wanted] if same else []
    if not same:
        raise RunError(
            f"an archive to go on with must hold forecasts by {source} from {len(starts)} times, {starts[0]} "
            f"to {starts[-1]}, of {steps} steps; {path} holds {len(known)} by {there}, of {leads}: choose "
            "another name or pass overwrite"
        )
    return np.array(found)


def create_archive(
    path: Path,
    forecast: "xr.DataArray",
    times: Sequence[np.datetime64] | NDArray[np.datetime64],
    *,
    source: str = "",
    history: str = "",
    overwrite: bool = False,
) -> Path:
    """Make a Zarr store for forecasts from many initial times; `write_to_archive` fills it.

    The variables are (forecast_reference_time, forecast_period, [realization,] y, x), with the valid time in
    the auxiliary coordinate ``time`` of the first two; a frame is a chunk. What is not written yet is NaN.

    Args:
        path: folder of the store.
        forecast: one of them, as of `convlstm.forecasting.cf.cf_dataset`, for its labels.
        times: the initial times, in ascending order.
        source: the model and its version.
        history: when and by which command it was made.
        overwrite: replace a Zarr store.

    Raises:
        DataError: frames without dates, or times that do not ascend.
        RunError: it exists and ``overwrite`` is off, or it cannot be written.
    """
    check_replaceable(path, overwrite=overwrite)
    starts = np.asarray(times, "datetime64[ns]")
    if forecast[_START].dtype.kind != "M" or not len(starts) or (np.diff(starts).astype(np.int64) <= 0).any():
        raise DataError(
            f"an archive needs forecasts with dates, and ascending initial times; received {starts.size} of "
            f"{starts.dtype} and forecasts with {forecast[_START].dtype}: sort the times"
        )
    dataset = _of_starts(cf_dataset(forecast, source=source, history=history), starts)
    with replacing(path, overwrite=overwrite) as scratch:
        dataset.to_zarr(scratch, mode="w-", consolidated=False, compute=False)
    return path


def write_to_archive(path: Path, forecast: "xr.DataArray") -> None:
    """Write a forecast in its place in an archive; processes may write those of other times meanwhile.

    Args:
        path: folder of the store.
        forecast: as that which `create_archive` was given.

    Raises:
        DataError: another initial time, lead times or grid than those of the archive.
        RunError: no archive, or it cannot be written.
    """
    import xarray as xr

    one = cf_dataset(forecast)
    with (
        reading(path, "be an archive of forecasts", "make one with create_archive", RunError),
        xr.open_zarr(path, consolidated=False, chunks=None, decode_timedelta=False) as archive,
    ):
        starts, leads = archive[_START].values, archive[_LEAD].values
        sizes = {name: variable.sizes for name, variable in archive.data_vars.items()}
    start = forecast[_START].values
    places = np.flatnonzero(starts == start)
    alike = np.array_equal(leads, one[_LEAD].values) and one.data_vars.keys() == sizes.keys()
    if not (
        len(places) and alike and all(sizes[name][a] == one.sizes[a] for name in sizes for a in ("y", "x"))
    ):
        raise DataError(
            f"a forecast must be of the initial times, lead times, variables and grid of the archive {path}, "
            f"from {starts[0]} to {starts[-1]}; received {start}, {dict(one.sizes)}: make another archive"
        )
    along = {name: _along(values) for name, values in one.data_vars.items()}
    place = {_START: slice(int(places[0]), int(places[0]) + 1)}
    with writing(path):
        for masks in (False, True):  # last, as they tell that a forecast is complete
            part = {name: values for name, values in along.items() if (values.dtype.kind != "f") == masks}
            xr.Dataset(part).to_zarr(path, region=place, consolidated=False)


def _of_starts(forecast: "xr.Dataset", starts: NDArray[np.datetime64]) -> "xr.Dataset":
    """Data set of many initial times with the labels of one forecast and no values yet."""
    import xarray as xr
    from dask.array import full

    variables = {}
    for name, values in forecast.data_vars.items():
        like = _along(values)
        empty = full(  # type: ignore[no-untyped-call]
            (len(starts), *like.shape[1:]),
            np.nan if like.dtype.kind == "f" else 0,
            dtype=like.dtype,
            chunks=(1,) * (like.ndim - 2) + like.shape[-2:],
        )
        filling = {"_FillValue": like.encoding.get("_FillValue")}
        if like.dtype.kind == "f":
            filling["fill_value"] = np.nan  # of chunks that are not written yet; xarray's own is 0
        variables[name] = xr.Variable(like.dims, empty, like.attrs, filling)
    replaced = ("time", _START, _LEAD)
    kept = {name: axis.variable for name, axis in forecast.coords.items() if name not in replaced}
    periods = (forecast["time"].values - forecast[_START].values)[None]
    times = starts[:, None] + periods
    encoding, valid = time_encoding(times), {"standard_name": "time", "long_name": "valid time"}
    coordinates = kept | {
        _START: xr.Variable(_START, starts, forecast[_START].attrs, encoding),
        _LEAD: xr.Variable(_LEAD, forecast[_LEAD].values, forecast[_LEAD].attrs, {"_FillValue": None}),
        "time": xr.Variable((_START, _LEAD), times, valid, encoding),
    }
    return xr.Dataset(variables, coordinates, forecast.attrs)


def _along(values: "xr.DataArray") -> "xr.Variable":
    """A variable of one forecast with the axes of an archive."""
    import xarray as xr

    values = (
        values.transpose("time", ...) if "time" in values.dims else values
    )  # members after the lead times
    dims = (_START, *(_LEAD if axis == "time" else axis for axis in values.dims))
    return xr.Variable(dims, values.values[None], values.attrs, values.encoding)
