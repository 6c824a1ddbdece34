"""Forecasts of frames in their own unit, with the scale that a model was trained with."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.discovery import as_dataset
from convlstm.data.extra_inputs import static_fields
from convlstm.data.files import check_finite
from convlstm.data.opening import open_frames, without_codes
from convlstm.data.readers.gridded import axis_roles
from convlstm.data.readers.packing import decoded_dtype, without_packing
from convlstm.data.specification import Specification, plain_transform
from convlstm.data.specify import grid_of, static_inputs
from convlstm.data.transforms import Linear
from convlstm.errors import DataError, OptionError
from convlstm.forecasting.fields import (
    Fields,
    Floats,
    Past,
    as_dtype,
    labelled_forecast,
    last_frames,
)
from convlstm.forecasting.tiles import forecast_frames
from convlstm.models.base import Forecaster, evaluation_mode
from convlstm.validation import check_instance, check_positive

if TYPE_CHECKING:
    import xarray as xr

_AT_ONCE = 2**22  # pixels of the frames that are forecast together
_ROLES = ("time", "channel", "y", "x")


def forecast(
    model: Forecaster,
    frames: Any,
    steps: int,
    *,
    units: str | None = None,
    static: Path | None = None,
    masked: bool | None = None,
    tile: int | None = None,
) -> Any:
    """Forecast the frames that follow given ones, in their unit and dtype.

    Args:
        model: a loaded model, on any device; its folder holds the specification of the data that it was
            trained on, by which frames are converted, scaled and filled. One without reads and returns values
            as they are.
        frames: an `xarray.DataArray` with any names of its axes; or an array or a tensor (..., K, C, H, W),
            with any leading axes. The last K frames are read. Not measured is NaN, or one of the codes that
            stood for it in training.
        steps: L.
        units: of frames that state none; the model's if None.
        static: file of the static fields that the model reads, if any.
        masked: take missing frames as not measured instead of refusing the sequence; as in training if None.
        tile: pixels along the sides of the tiles that large frames are forecast by; chosen by the free memory
            if None.

    Returns:
        The same kind as ``frames``, with L frames; pixels that no frame of the past measured are NaN, or the
        code of integers. Labelled frames have their coordinates and attributes, and those of the forecast.

    Raises:
        DataError: frames that are not those that the model was trained on, and do not convert to them.
    """
    import xarray as xr

    check_instance(frames, (xr.DataArray, np.ndarray, Tensor), "frames", "pass an xarray.DataArray")
    check_positive(steps, "steps")
    if isinstance(frames, xr.DataArray):
        return _of_labelled(model, frames, steps, units, static=static, masked=masked, tile=tile)
    if not isinstance(frames, Tensor):
        return _of_array(model, frames, steps, units or "", static, tile)
    given = frames.detach().cpu()
    array = (given.float() if given.is_floating_point() else given).numpy()
    made = torch.from_numpy(_of_array(model, array, steps, units or "", static, tile))
    return made.to(frames) if frames.is_floating_point() else made.to(frames.device)


def _of_labelled(
    model: Forecaster, given: "xr.DataArray", steps: int, units: str | None, **options: Any
) -> "xr.DataArray":
    frames = open_frames(given, units=units)
    missing = codes_of(specification_of(model), frames)
    frames = without_codes(frames, missing)
    values, past, _ = forecast_labelled(model, frames, steps, **options)
    typed = as_dtype(values, decoded_dtype(given), missing)
    return relabelled(labelled_forecast(typed, frames, past.step_s), given)


def codes_of(specification: Specification | None, frames: "xr.DataArray") -> tuple[float, ...]:
    """Codes that stood for not measured in the training on the grid of some frames."""
    return () if specification is None else tuple(specification.on(grid_of(frames))[0].missing)


def relabelled(forecast: "xr.DataArray", frames: "xr.DataArray") -> "xr.DataArray":
    """A forecast (time, channel, y, x) with the axes, the coordinates and the attributes of its past.

    Args:
        forecast: as `convlstm.forecasting.fields.labelled_forecast` gives it.
        frames: the past, its axes under any names and in any order; others of size 1 are dropped.
    """
    import xarray as xr

    roles = axis_roles(as_dataset(frames))
    frames = frames.isel({axis: 0 for axis in frames.dims if axis not in roles.values()})
    names = {role: roles.get(role, role) for role in _ROLES}
    time = names["time"]
    coordinates = {name: axis.variable for name, axis in frames.coords.items() if time not in axis.dims}
    for name in ("time", "forecast_reference_time", "forecast_period"):
        variable = forecast[name].variable
        coordinates[names.get(name, name)] = xr.Variable(
            [names[str(axis)] for axis in variable.dims], variable
        )
    coordinates[time].attrs = frames[time].attrs if time in frames.coords else {}
    attributes = without_packing(frames.attrs)
    made = xr.Variable([names[str(role)] for role in forecast.dims], forecast.values, attributes)
    absent = [names[role] for role in ("channel",) if names[role] not in frames.dims]
    order = [*([] if time in frames.dims else [time]), *frames.dims]
    made = made.isel(dict.fromkeys(absent, 0)).transpose(*order)
    return xr.DataArray(made, coordinates, name=frames.name)


def forecast_labelled(
    model: Forecaster,
    frames: "xr.DataArray",
    steps: int,
    *,
    static: Path | None = None,
    masked: bool | None = None,
    tile: int | None = None,
) -> tuple[Floats, Past, Tensor]:
    """Forecast of labelled frames in their unit.

    Args:
        model: the forecaster.
        frames: (time, channel, y, x), as `open_frames` returns them.
        steps: L.
        static: file of the static fields that the model reads.
        masked: take missing frames as not measured; as in training if None.
        tile: as for `forecast`.

    Returns:
        The forecast (L, C, H, W), NaN where no frame of the past was measured; its past; and this past
        (K, C, H, W) in the scale of the network.

    Raises:
        DataError: as `forecast`.
    """
    specification = specification_of(model)
    unscaled = specification is None
    if specification is None:
        specification = _unscaled(
            model,
            len(frames),
            [str(name) for name in frames["channel"].values],
            str(frames.attrs.get("units", "")),
        )
    specification = specification.on(grid_of(frames))[0]
    remedy = {"remedy": "give more frames"} if unscaled else {}
    past = last_frames(frames, specification, masked=masks_gaps(model, masked), **remedy)
    if unscaled:
        check_finite(past.values, "the past", _ROLES)
    given = None if static is None else static_fields(static, frames)
    ((values, scaled),) = _run(model, specification, [past], steps, given, tile)
    return values, past, scaled


def masks_gaps(model: Forecaster, masked: bool | None) -> bool:
    """True if missing frames are taken as not measured: as asked for, or as in training if None.

    Raises:
        OptionError: asked for, and the model has no value for what was not measured.
    """
    specification = specification_of(model)
    if masked and specification is None:
        raise OptionError(
            "missing frames can be masked for a model that stores the specification of its data; this one "
            "has none: leave --gaps out, and give frames without gaps"
        )
    if masked is None:
        return specification is not None and specification.gaps == "mask"
    return masked


def _of_array(
    model: Forecaster, array: NDArray[Any], steps: int, units: str, static: Path | None, tile: int | None
) -> NDArray[Any]:
    """Forecast of an array (..., K, C, H, W), in its unit and dtype."""
    if array.ndim < 4 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise DataError(
            f"frames must be numbers (..., K, C, H, W) with no empty axis; received {array.dtype} "
            f"{array.shape}: bring them to it"
        )
    specification = specification_of(model)
    values: Floats = np.ma.filled(array.astype(np.float32), np.nan)
    if specification is None:
        specification = _unscaled(model, array.shape[-4], [str(k) for k in range(array.shape[-3])], units)
        check_finite(values, "the past", [f"axis {k}" for k in range(array.ndim)])
    if array.shape[-4] < specification.past or array.shape[-3] != len(specification.variables):
        raise DataError(
            f"frames must be the {specification.past} of the past or more, with the channels "
            f"{', '.join(specification.variables)}; received {array.shape}, (..., K, C, H, W): give these"
        )
    values[np.isin(values, np.array(specification.missing, np.float32))] = np.nan
    cases = values.reshape(-1, *array.shape[-4:])[:, -specification.past :]
    pasts = [Past(case, units, None, specification.step_s) for case in cases]
    given = None if static is None else static_fields(static)
    made = np.stack([values for values, _ in _run(model, specification, pasts, steps, given, tile)])
    made = made.reshape(*array.shape[:-4], *made.shape[1:])
    return as_dtype(made, array.dtype, specification.missing)


def specification_of(model: Forecaster) -> Specification | None:
    """The specification of the data that a model was trained on, from the folder that it was loaded from.

    Raises:
        RunError: it is damaged.
    """
    plain = getattr(model, "_convlstm_notes", {}).get("specification")
    return None if plain is None else Specification.from_dict(plain)


def past_of(model: Forecaster, frames: Sized) -> int:
    """Frames that a model reads; all that there are if it does not say."""
    specification = specification_of(model)
    known = getattr(model, "_convlstm_notes", {}).get("past", len(frames))
    return int(known if specification is None else specification.past)


def _unscaled(model: Forecaster, frames: int, names: list[str], units: str) -> Specification:
    """Specification of frames whose values are in the scale of the network already."""
    return Specification(
        variables=tuple(names),
        units=units,
        transform=plain_transform(Linear()),
        dry_value=None,
        step_s=1.0,
        dated=False,
        grid={},
        missing=(),
        data_range=1.0,
        past=getattr(model, "_convlstm_notes", {}).get("past", frames),
        steps=1,
        splits={},
        fingerprint="",
    )


def _run(
    model: Forecaster,
    specification: Specification,
    pasts: list[Past],
    steps: int,
    static: Floats | None,
    tile: int | None,
) -> list[tuple[Floats, Tensor]]:
    """Forecasts of pasts of one unit and size, with these in the scale of the network.

    Static fields (S, H, W) are in their units, those of the training if None.
    As many are read at once as are about four million pixels.
    """
    first = pasts[0]
    size = first.values.shape[-2:]
    fields = Fields(specification, first.units, first.step_s, first.period_s)
    planes = static_inputs(specification, static, size)
    most = max(1, _AT_ONCE // (size[0] * size[1]))
    found: list[tuple[Floats, Tensor]] = []
    with evaluating(model) as like:
        for start in range(0, len(pasts), most):
            chunk = pasts[start : start + most]
            read = [fields.read(past, steps, planes) for past in chunk]
            inputs = [extra for _, extra, _ in read if extra is not None]
            times = [torch.from_numpy(fields.times(past, steps)) for past in chunk if past.times is not None]
            future = forecast_frames(
                model,
                torch.stack([frames for frames, _, _ in read]).to(like),
                steps,
                torch.stack(inputs).to(like) if inputs else None,
                valid=torch.from_numpy(np.stack([valid for _, _, valid in read])).to(like.device),
                times=torch.stack(times).to(like.device) if times else None,
                tile=tile,
            )
            rows = zip(future, chunk, read, strict=True)
            found += [(fields.write(made, past, valid), frames) for made, past, (frames, _, valid) in rows]
    return found


@contextmanager
def evaluating(model: Forecaster) -> Iterator[Tensor]:
    """Evaluation without gradients; yields a tensor of the device and dtype of the model's weights."""
    with evaluation_mode(model), torch.inference_mode():
        yield next((w for w in model.parameters() if w.is_floating_point()), torch.empty(0))
