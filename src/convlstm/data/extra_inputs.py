"""Extra input channels that are known for the past and the future alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.gridded import axis_roles, grid_coordinates
from convlstm.data.readers.packing import limit_to_written, open_zarr, valid_limits, within
from convlstm.data.units import same_axis_unit
from convlstm.errors import DataError, reading

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float32]
#: Seconds of a mean year of the calendar.
YEAR_S = 365.2425 * 86400
_DAY_S = 86400.0
#: Inputs by name, and the number of channels of each.
INPUTS = {"mask": 1, "hour": 2, "season": 2}


def extra_inputs(
    names: Sequence[str], times: NDArray[np.float64], valid: NDArray[np.bool_], past: int, static: Floats
) -> Floats:
    """The extra inputs (T, E, H, W) of a window.

    Args:
        names: of `INPUTS`, in their order.
        times: (T,), seconds since 1970-01-01.
        valid: (T, C, H, W), measured pixels. The mask is 1 where all channels are; the future, which is not
            known in a forecast, counts as measured.
        past: K, the frames of the past.
        static: (S, H, W), fields that do not change, the last channels.
    """
    length, _, height, width = valid.shape
    channels: list[Floats] = []
    for name in names:
        if name == "mask":
            mask: Floats = np.asarray(valid.all(1), np.float32)
            mask[past:] = 1
            channels.append(mask)
        else:
            angle = 2 * np.pi * times / (_DAY_S if name == "hour" else YEAR_S)
            for wave in (np.sin(angle), np.cos(angle)):
                plane = wave.astype(np.float32)[:, None, None]
                channels.append(np.broadcast_to(plane, (length, height, width)))
    channels += [np.broadcast_to(field, (length, height, width)) for field in static]
    return np.stack(channels, axis=1) if channels else np.empty((length, 0, height, width), np.float32)


def static_fields(path: Path, frames: "xr.DataArray | None" = None) -> Floats:
    """The variables (S, H, W) of a gridded file that have two axes, NaN where missing.

    Args:
        path: of the file.
        frames: (time, channel, y, x), on whose rows and columns the fields must lie, where both state theirs.

    Raises:
        DataError: unreadable, without such a variable, or with other rows or columns.
    """
    import xarray as xr

    rule, remedy = "be a readable file of static fields", "give NetCDF or Zarr"
    opening = open_zarr if path.is_dir() else xr.open_dataset
    with reading(path, rule, remedy), opening(path, decode_times=False) as opened:
        roles = axis_roles(opened)
        if not path.is_dir():
            limit_to_written(opened)
        fields = [variable.squeeze(drop=True) for variable in opened.data_vars.values()]
        fields = [field for field in fields if field.ndim == 2]
        axes = [roles.get("y"), roles.get("x")]
        on_grid = [field.transpose(*axes) for field in fields if {*axes} == {*field.dims}]  # no bounds
        fields = on_grid or fields
        limits = [valid_limits(field.variable) for field in fields]
        arrays = [field.values.astype(np.float32) for field in fields]
        arrays = [within(array, *ends) for array, ends in zip(arrays, limits, strict=True)]
        places = grid_coordinates(opened, roles)
    if not arrays or len({array.shape for array in arrays}) > 1:
        raise DataError(
            f"static fields must be variables of one shape (rows, columns); {path} has "
            f"{', '.join(str(array.shape) for array in arrays) or 'none of two axes'}: keep those of the grid"
        )
    if frames is not None:
        for axis in ("y", "x"):
            _check_axis(axis, places.get(axis), frames[axis].variable, path)
    return np.stack(arrays)


def _check_axis(axis: str, found: "xr.Variable | None", wanted: "xr.Variable", path: Path) -> None:
    """Refuse other coordinates of the rows or columns than those of the frames, in the same unit."""
    units = wanted.attrs.get("units", "1")
    if found is None or found.size != wanted.size or units == "1":
        return
    if not same_axis_unit(found.attrs.get("units"), units):
        return
    (first, last), (start, end) = ((float(each[0]), float(each[-1])) for each in (found, wanted))
    pixel = abs(end - start) / max(1, wanted.size - 1)
    if not np.allclose(found.values, wanted.values, rtol=0, atol=0.1 * pixel):
        raise DataError(
            f"static fields must lie on the grid of the frames; {axis} of {path} goes from {first:g} to "
            f"{last:g}, that of the frames from {start:g} to {end:g}: bring them to it"
        )


def standardised(fields: Floats, reference: Floats) -> Floats:
    """Static fields (S, H, W) less the mean of those of the training, divided by their standard deviation.

    What is missing becomes 0, the mean.

    Args:
        fields: (S, H, W).
        reference: (S, H', W'), the fields of the training.
    """
    axes = (1, 2)
    spread = np.nanstd(reference, axes, keepdims=True)
    scores = (fields - np.nanmean(reference, axes, keepdims=True)) / np.where(spread > 0, spread, 1)
    found: Floats = np.nan_to_num(scores).astype(np.float32)
    return found
