"""Forecast files: labelled grids, arrays, animations and film strips, by the ending of the file name."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from convlstm.atomic_write import check_writable, write_atomically
from convlstm.data.files import check_finite, from_unit
from convlstm.data.specification import known_step
from convlstm.data.specify import is_rain
from convlstm.data.units import conversion, unit_named
from convlstm.errors import OptionError, RunError, ShapeError, check_name
from convlstm.extras import check_installed
from convlstm.forecasting.cf import check_replaceable, write_cf
from convlstm.forecasting.fields import clock_texts
from convlstm.pictures.colours import UNIT, Scale, channel_scales
from convlstm.pictures.frames import Limits, animation, film_strip
from convlstm.pictures.radar import TABLES
from convlstm.validation import check_bool, check_instance, check_path

if TYPE_CHECKING:
    import xarray as xr

LABELLED = (".nc", ".zarr")
_MOVING = (".gif", ".mp4")
ENDINGS = (*_MOVING, ".npy", ".npz", ".png", *LABELLED)


def write_frames(
    path: str | Path,
    frames: Tensor | NDArray[Any],
    *,
    dtype: DTypeLike = np.float32,
    past: Tensor | NDArray[Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a forecast in the format that the ending of ``path`` names.

    - ``.npz``: ``frames`` and, if given, ``past``; ``.npy``: the forecast alone. Both (T, C, H, W) in
      ``dtype``.
    - ``.gif`` and ``.mp4``: `animation` of the past followed by the forecast.
    - ``.png``: `film_strip` of the past, labelled t-9 ... t, above the forecast, labelled +1, +2 ...

    The last three are pictures to look at and do not hold the values. [0, 1] is shown from black to white for
    8-bit frames and if most values of the past (without one, of the forecast) lie within it and use it;
    otherwise black and white are limits that nearly all of these values lie within, written below the frames.
    Three channels within [0, 1] are red, green and blue; otherwise every channel is shown.

    Args:
        path: file to write, in an existing folder.
        frames: the forecast (L, C, H, W) as the model returned it.
        dtype: of the values in the file, as in the `ScaledFrames` that were read: integers are scaled
            back to their range.
        past: (K, C, H, W), in the scale of ``frames``.
        overwrite: replace an existing file.

    Returns:
        ``path``.

    Raises:
        OptionError: another ending.
        ShapeError: not (T, C, H, W), or past and forecast differ in channels or size.
        DataError: NaN in the forecast or the past.
        RunError: the file exists or cannot be written; an existing file is unchanged.
    """
    path = check_output(path, overwrite=overwrite)
    if path.suffix.lower() in LABELLED:
        raise OptionError(f"{path.suffix} needs labelled frames; received none: use write_forecast")
    values = {"frames": _to_array(frames, "frames")}
    if past is not None:
        values["past"] = _to_array(past, "past")
    if len({array.shape[1:] for array in values.values()}) > 1:
        raise ShapeError(
            "past and forecast must have the same channels and size; "
            f"received {values['past'].shape} and {values['frames'].shape}"
        )
    ending, file = path.suffix.lower(), io.BytesIO()
    rows, known = {"forecast": values["frames"]}, values.get("past")
    if ending == ".npz":
        arrays: dict[str, Any] = {name: from_unit(array, dtype) for name, array in values.items()}
        np.savez_compressed(file, **arrays)
    elif ending == ".npy":
        np.save(file, from_unit(values["frames"], dtype), allow_pickle=False)
    else:
        limits = _limits(known if known is not None else values["frames"], dtype)
        if ending in _MOVING:
            return animation(rows, path, past=known, limits=limits)
        film_strip(rows, past=known, limits=limits).save(file, format="PNG", optimize=True)
    write_atomically(path, file.getvalue())
    return path


def write_forecast(
    path: str | Path,
    forecast: "xr.DataArray",
    past: NDArray[np.float32],
    *,
    source: str = "",
    history: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a labelled forecast in the format that the ending of ``path`` names.

    - ``.nc`` and ``.zarr``: by the CF conventions, see `convlstm.forecasting.cf.write_cf`.
    - ``.npz``: ``frames`` (L, C, H, W) and, where frames have dates, their ``time``; ``.npy``: frames alone.
    - ``.gif``, ``.mp4`` and ``.png``: pictures of the past and the forecast, as of `write_frames`; rain, as
      a rate in mm/h, and reflectivity in the colours of radar, with their classes below the frames.

    Args:
        path: file to write, in an existing folder.
        forecast: (time, channel, y, x), in its unit, NaN where not measured.
        past: (K, C, H, W), the frames that it follows, in the same unit.
        source: the model and its version.
        history: when and by which command it was made.
        overwrite: replace an existing file.

    Returns:
        ``path``.

    Raises:
        OptionError: another ending.
        RunError: the file exists or cannot be written; an existing file is unchanged.
    """
    path = check_output(path, overwrite=overwrite)
    ending, file, values = path.suffix.lower(), io.BytesIO(), forecast.values
    if ending in LABELLED:
        return write_cf(path, forecast, source=source, history=history, overwrite=overwrite)
    if ending in (*_MOVING, ".png"):
        future, past, limits = _coloured(forecast, past)
        rows = {"forecast": future}
        step_s = known_step(_step_s(forecast), dated=forecast["time"].dtype.kind == "M")
        if ending in _MOVING:
            moments = _moments(forecast, len(past))
            return animation(rows, path, past=past, limits=limits, moments=moments, step_s=step_s)
        strip = film_strip(rows, past=past, limits=limits, step_s=step_s)
        strip.save(file, format="PNG", optimize=True)
    elif ending == ".npz":
        # NumPy 1.26 gives computed dates a dtype with empty metadata, of which it warns when it saves them.
        times = forecast["time"].values
        dated: dict[str, Any] = {"time": times.astype(times.dtype.str)} if times.dtype.kind == "M" else {}
        np.savez_compressed(file, frames=values, **dated)
    else:
        np.save(file, values, allow_pickle=False)
    write_atomically(path, file.getvalue())
    return path


def _coloured(
    forecast: "xr.DataArray", past: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], Limits]:
    """Forecast and past as they are shown, and their colours: those of radar for rain and reflectivity."""
    future, unit = forecast.values.astype(np.float32), unit_named(str(forecast.attrs.get("units", "")))
    if is_rain(forecast, unit):
        convert = conversion(unit, "mm/h", step_s=forecast.attrs.get("period_s", _step_s(forecast)))
        future, past, unit = convert(future), convert(past), "mm/h"
    return future, past, TABLES.get(unit) or channel_scales(past, unit=unit)


def _step_s(forecast: "xr.DataArray") -> float:
    return float(forecast["forecast_period"].values[0] / np.timedelta64(1, "s"))


def _moments(forecast: "xr.DataArray", past: int) -> list[str]:
    """Times of the frames of past and forecast as people read them; none where there are no dates."""
    last = forecast["forecast_reference_time"].values
    if last.dtype.kind != "M":
        return []
    step = forecast["forecast_period"].values[0]
    times = last + step * np.arange(1 - past, len(forecast) + 1)
    return [text.replace("T", " ") + " UTC" for text in clock_texts(times)]


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse a path that `write_frames` could not write, before a forecast is made.

    Raises:
        OptionError: an unknown ending, or ``.mp4`` without PyAV.
        RunError: the folder does not exist, or the file exists and ``overwrite`` is off.
    """
    path = check_path(path, "path of a forecast")
    check_bool(overwrite, "overwrite")
    if check_name(path.suffix.lower(), ENDINGS, f"the ending of {path.name or path}") == ".mp4":
        check_installed("av", "MP4 videos need PyAV")
    if not path.parent.is_dir():
        raise RunError(
            f"a forecast must go to an existing folder; {path.parent} is none: make it or choose another"
        )
    check_replaceable(path, overwrite=overwrite)
    check_writable(path.parent)
    return path


def _to_array(frames: Tensor | NDArray[Any], name: str) -> NDArray[np.float32]:
    check_instance(frames, (Tensor, np.ndarray), name, "pass the forecast of one case")
    array: NDArray[np.float32] = torch.as_tensor(frames).detach().float().cpu().numpy()
    if array.ndim != 4 or 0 in array.shape:
        hint = ": take one case, forecast[0]" if array.ndim == 5 else ""
        raise ShapeError(
            f"{name} must be (T, C, H, W) with no empty axis; received shape {array.shape}{hint}"
        )
    check_finite(array, name, ("frame", "channel", "row", "column"))
    return array


def _limits(reference: NDArray[np.float32], dtype: DTypeLike) -> list[Scale]:
    """Scale of every picture of a frame; [0, 1] for 8-bit values."""
    if np.dtype(dtype) == np.uint8:
        return [UNIT] * (1 if reference.shape[1] == 3 else reference.shape[1])
    return channel_scales(reference)
