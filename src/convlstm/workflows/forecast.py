"""Forecasts of the frames that follow given ones."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.files import IMAGES, ScaledFrames, check_finite, from_unit, read_frames, to_unit
from convlstm.data.frame_store import seconds
from convlstm.data.opening import open_frames, without_codes
from convlstm.data.readers.packing import decoded_dtype
from convlstm.data.specification import GAPS, Specification
from convlstm.data.windows import time_step
from convlstm.errors import DataError, OptionError, RunError, check_name
from convlstm.forecasting.archive import fill_archive
from convlstm.forecasting.fields import as_dtype, labelled_forecast
from convlstm.forecasting.files import LABELLED, check_output, write_forecast, write_frames
from convlstm.forecasting.rollout import (
    codes_of,
    evaluating,
    forecast_labelled,
    masks_gaps,
    relabelled,
    specification_of,
)
from convlstm.forecasting.tiles import forecast_frames
from convlstm.hub import read_config
from convlstm.model_folder import weights_digest
from convlstm.models.base import Forecaster
from convlstm.training.run_folder import import_path, run_of
from convlstm.validation import check_bool, check_path, check_positive, check_tensor, received
from convlstm.workflows.evaluate import load_model, table_name
from convlstm.workflows.frames import own_options
from convlstm.workflows.parts import check_parts
from convlstm.workflows.train import trusted_packages

if TYPE_CHECKING:
    import xarray as xr

#: Options by which frames are read.
OPTIONS = ("reader", "variable", "units", "static", "gaps")
_MOST_STEPS = 10**6
_PLAIN = (".npy", ".npz", ".gif")
_CODES = ("arrays", "images", "video", "memory")  # readers whose values are those of the file, not scaled
_log = logging.getLogger("convlstm")


@dataclass(frozen=True)
class Forecast:
    """A forecast in the unit, or the scale, of its past.

    Args:
        frames: (L, C, H, W), dtype of the past that was given; NaN where never measured.
        past: (K, C, H, W), float32, the frames that the model received, in the unit of the input; arrays,
            images and animations for a model without specification in the scale of the model.
        path: the file that was written, if any.
        labelled: the same forecast as an `xarray.DataArray` (time, channel, y, x) with unit, times and
            coordinates; None for arrays, images and animations and a model without specification.
    """

    frames: NDArray[Any] = field(repr=False)
    past: Tensor = field(repr=False)
    path: Path | None = None
    labelled: Any = field(default=None, repr=False)


@import_path()
@own_options(*OPTIONS)
def forecast(
    model: Forecaster | str | os.PathLike[str],
    past: Tensor | NDArray[Any] | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Any,
    steps: int,
    *,
    out: str | os.PathLike[str] | None = None,
    every: int | None = None,
    reader: str | None = None,
    variable: str | None = None,
    units: str | None = None,
    static: str | os.PathLike[str] | None = None,
    gaps: str | None = None,
    tile: int | None = None,
    overwrite: bool = False,
    trust: str | Sequence[str] = (),
) -> Any:
    """Forecast the frames that follow those in files.

    The last frames are used, as many as the model was trained with. Frames may have any height and width.
    They are converted and scaled as in training, and values come back in the unit of the input, not measured
    where no frame of the past was. A model that stores nothing of its data takes values as they are. The
    order of the images of a folder, and values far outside those of the training, are reported as warnings.

    Args:
        model: a run folder or a model folder; in Python also a forecaster, which receives all frames unless
            it was loaded with the specification of its data.
        past: frames: files, folders or patterns, of any format that training reads; in Python also an array
            (T, C, H, W) or an xarray.DataArray.
        steps: frames to forecast.
        out: what to write, by its ending: .nc or .zarr (CF conventions), .npz, .npy, .gif, .mp4 or .png
            (a film strip).
        every: forecast not from the last frame alone, but from every so many frames that have a full past,
            into a .zarr with an axis of initial times. The same command makes what is not there yet, after
            it was stopped, and in several processes at the same time.
        reader: name of the reader, or a dotted path of a function of your own; found by content if left out.
        variable: name of the variable, or several separated by commas; that of the training if left out.
        units: unit of frames that state none; that of the training if left out.
        static: file of the fields that do not change, for a model that was trained with some; those of the
            training if left out.
        gaps: refuse a past with missing frames, or mask these as not measured; as in training if left out.
        tile: forecast by tiles that contribute so many pixels a side, read with the pixels around them that
            matter, so that the forecast is that of whole frames; chosen by the free memory if left out.
        overwrite: replace the file if it exists.
        trust: names of your own packages, separated by commas, whose classes the model may load beside
            convlstm's.

    Returns:
        The `Forecast`; of a DataArray a DataArray with the same axes and labels; with ``every`` the path of
        the archive.
    """
    check_positive(steps, "steps", most=_MOST_STEPS)
    check_bool(overwrite, "overwrite")
    trust = trusted_packages(trust, model)
    past, path = only_path(past), _checked_output(out, every, overwrite)
    masked = None if gaps is None else check_name(gaps, GAPS, "gaps") == "mask"
    tile = None if tile is None else check_positive(tile, "tile")
    planes = None if static is None else check_path(static, "--static")
    loaded, notes, source = _loaded(model, trust)
    masked = masks_gaps(loaded, masked)
    loaded = loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    if every is not None and path is not None:
        frames = opened(past, specification_of(loaded), reader, variable, units)
        options: dict[str, Any] = {"static": planes, "masked": masked, "tile": tile, "overwrite": overwrite}
        options |= {"source": source, "history": _history(model, past, steps, path, every)}
        fill_archive(path, loaded, frames, steps, every, **options)
        return path
    if "specification" not in notes and is_plain(past) and reads_plain(reader, variable, units, planes):
        made, scaled, dtype = _of_plain(loaded, past, steps, notes, tile)
        if path is None or path.suffix.lower() not in LABELLED:
            if path is not None:
                write_frames(path, scaled, dtype=dtype, past=made.past, overwrite=overwrite)
            return replace(made, path=path)
        frames = open_frames(past if isinstance(past, str | os.PathLike) or _paths(past) else _array(past))
        made = replace(
            made, labelled=labelled_forecast(made.frames, frames, time_step(seconds(frames["time"])))
        )
    else:
        frames = opened(past, specification_of(loaded), reader, variable, units)
        made = _of_labelled(loaded, frames, steps, notes, static=planes, masked=masked, tile=tile)
    if path is not None:
        history, known = _history(model, past, steps, path), made.past.numpy()
        written = _without_codes(path, made.labelled, codes_of(specification_of(loaded), frames))
        write_forecast(path, written, known, source=source, history=history, overwrite=overwrite)
    made = replace(made, path=path)
    return relabelled(made.labelled, past) if _is_labelled(past) else made


def _loaded(
    model: Forecaster | str | os.PathLike[str], trust: Sequence[str]
) -> tuple[Forecaster, dict[str, Any], str]:
    """A model, the notes of its folder, and its name and version."""
    if isinstance(model, Forecaster):
        check_parts(None, model)
        known = getattr(model, "_convlstm_notes", {})
        notes = known if "specification" in known else {}
        return model, notes, f"{table_name(model)}, convlstm {version('convlstm')}"
    folder = check_path(model, "MODEL")
    loaded, run = load_model(folder, trust), run_of(folder)
    folder = folder if run is None else run.model
    notes = read_config(folder)
    needed = notes.get("past", 1)
    if type(needed) is not int or needed < 1:
        raise RunError(
            "the past that a model was trained with must be a number of frames; "
            f"{folder} says {str(needed)[:80]!r}: copy the folder again"
        )
    weights = (weights_digest(folder) or "")[:16]
    return loaded, notes, f"{table_name(loaded)}, convlstm {version('convlstm')}, weights sha256 {weights}"


def _checked_output(out: str | os.PathLike[str] | None, every: int | None, overwrite: bool) -> Path | None:
    path = None if out is None else check_path(out, "--out")
    if every is not None and check_positive(every, "every") and (not path or path.suffix.lower() != ".zarr"):
        raise OptionError(
            f"forecasts from many initial times need a .zarr; received {path or 'no file'}: name one by "
            "--out, or leave --every out"
        )
    return path and check_output(path, overwrite=overwrite or every is not None)


def only_path(past: Any) -> Any:
    """The path of a list of one; anything else as it is."""
    return past[0] if isinstance(past, list | tuple) and len(past) == 1 else past


def _paths(past: Any) -> list[Path]:
    """The paths of a list of several; none for anything else."""
    listed = past if isinstance(past, list | tuple) else []
    return [Path(each) for each in listed] if all(isinstance(p, str | os.PathLike) for p in listed) else []


def is_plain(past: Any) -> bool:
    """True for arrays, animations and folders of images, which `read_frames` reads."""
    if paths := _paths(past):
        return any(path.suffix.lower() in (*IMAGES, *_PLAIN) for path in paths)
    if isinstance(past, str | os.PathLike):
        path = check_path(past, "PAST")
        if path.is_dir():
            return any(file.suffix.lower() in IMAGES for file in path.iterdir())
        return path.suffix.lower() in _PLAIN
    return not _is_labelled(past)


def reads_plain(reader: str | None, variable: Any, units: str | None, static: Path | None) -> bool:
    """True if arrays or images are read as they are, False if a reader is named that labels them.

    Raises:
        OptionError: options of labelled frames, with which no reader is named.
    """
    if reader is not None and reader not in _CODES:
        return False
    options = {"units": units, "variable": variable, "static": static, "reader": reader}
    for name, value in options.items():
        if value is not None:
            raise OptionError(
                f"--{name} needs labelled frames or a model that stores the specification of its data; "
                f"received {str(value)!r} for arrays or images, and a model without: leave it out"
            )
    return True


def _is_labelled(past: Any) -> "TypeGuard[xr.DataArray]":
    """True for an `xarray.DataArray`; where xarray is not loaded there is none."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(past, xarray.DataArray)


def _of_plain(
    model: Forecaster, past: Any, steps: int, notes: dict[str, Any], tile: int | None
) -> tuple[Forecast, Tensor, np.dtype[Any]]:
    """Forecast of an array, images or an animation; its frames as the model gives them, and their dtype."""
    frames, name = plain_frames(past)
    known = frames.values[-notes.get("past", len(frames.values)) :]
    check_past_fits(frames.values, name, model, notes)
    for line in (*frames.notes, *_far_outside(known, name, notes.get("value_range"))):
        _log.warning(line)
    with evaluating(model) as like:
        future = forecast_frames(model, known[None].to(like), steps, tile=tile)[0].float().cpu()
    return Forecast(from_unit(future.numpy(), frames.dtype), known), future, frames.dtype


def _of_labelled(
    model: Forecaster, frames: "xr.DataArray", steps: int, notes: dict[str, Any], **options: Any
) -> Forecast:
    """Forecast of labelled frames in their unit."""
    values, past, scaled = forecast_labelled(model, frames, steps, **options)
    for line in _far_outside(scaled, "the past, in the scale of the network,", notes.get("value_range")):
        _log.warning(line)
    missing = codes_of(specification_of(model), frames)
    codes = frames.attrs["reader"] in _CODES and "dtype" in frames.attrs
    typed = as_dtype(values, frames.attrs["dtype"] if codes else np.float32, missing)
    return Forecast(
        typed, torch.from_numpy(past.values), labelled=labelled_forecast(typed, frames, past.step_s)
    )


def _without_codes(path: Path, forecast: "xr.DataArray", missing: Sequence[float]) -> "xr.DataArray":
    """Integers as floats that are NaN where not measured, but in arrays, which have the dtype of the past."""
    if path.suffix.lower() in (".npy", ".npz") or forecast.dtype.kind == "f":
        return forecast
    values = forecast.values.astype(np.float32)
    values[np.isin(values, np.array(missing, np.float32))] = np.nan
    return forecast.copy(data=values)


def opened(
    past: Any,
    specification: Specification | None,
    reader: str | None,
    variable: str | None,
    units: str | None,
) -> "xr.DataArray":
    """Labelled frames: the variables of the training unless others are named, with a unit where known."""
    is_path = isinstance(past, str | os.PathLike) or bool(_paths(past))
    given = past if _is_labelled(past) or is_path else _array(past)
    options: dict[str, Any] = {"reader": reader, "units": units}
    names = variable.split(",") if isinstance(variable, str) else variable
    try:
        trained = None if specification is None else list(specification.variables)
        frames = open_frames(given, variable=names or trained, **options)
    except DataError:
        if names:
            raise
        frames = open_frames(given, **options)  # the only variable, under another name
    frames = without_codes(frames, codes_of(specification, frames))
    if _is_labelled(past):
        frames.attrs["dtype"] = str(decoded_dtype(past))
    if specification is not None and "units" not in frames.attrs and specification.units not in ("", "1"):
        frames.attrs["units"] = specification.units
        _log.warning(
            f"the past states no unit and is taken in {specification.units}, that of the training: give "
            "--units if it is another"
        )
    return frames


def _history(model: Any, past: Any, steps: int, path: Path, every: int | None = None) -> str:
    """Time and command by which a file was made."""
    shown = [
        os.fspath(each) if isinstance(each, str | os.PathLike) else type(each).__name__
        for each in (model, *(past if isinstance(past, list | tuple) else [past]))
    ]
    words = ["convlstm", "forecast", *shown, "--steps", str(steps), "--out", str(path)]
    words += [] if every is None else ["--every", str(every)]
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: {shlex.join(words)}"


def plain_frames(past: Any) -> tuple[ScaledFrames, str]:
    """Frames in the scale of a forecaster, and the name of where they come from."""
    if paths := _paths(past):
        return read_frames(paths), f"{len(paths)} images"
    if isinstance(past, str | os.PathLike):
        path = check_path(past, "PAST")
        return read_frames(path), str(path)
    array = _array(past)
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(
            f"frames must be (T, C, H, W) with no empty axis; received shape {array.shape}: bring them to it"
        )
    values = to_unit(array, "the past")
    check_finite(values, "the past", ("frame", "channel", "row", "column"))
    return ScaledFrames(torch.from_numpy(values), array.dtype), "the past"


def _array(past: Any) -> NDArray[Any]:
    """An array in memory, masked values as NaN."""
    given: Any = check_tensor(past, "past").detach() if isinstance(past, Tensor) else past
    try:
        if isinstance(given, Tensor):
            given = (given.float() if given.dtype == torch.bfloat16 else given).cpu()
        return np.ma.filled(given, np.nan) if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the past must be an array of numbers; received {received(past)}, which gave '{error}': convert "
            "it"
        ) from error


def check_past_fits(values: Tensor, name: str, model: Forecaster, notes: dict[str, Any]) -> None:
    """Check that the frames have the channels of the model and are as many as it was trained with."""
    channels, needed = values.shape[1], notes.get("past", 1)
    if getattr(model, "channels", channels) != channels:
        raise DataError(
            f"the past must have the channels of the model, {model.channels}; {name} has {channels}: "
            "convert it or use another model"
        )
    if len(values) < needed:
        raise DataError(
            f"the past must hold the {needed} frames that the model was trained with; {name} holds "
            f"{len(values)}: give more frames"
        )


def _far_outside(values: Tensor, name: str, trained: Any) -> list[str]:
    """A sentence if values lie more than twice the width of the training's range beyond it."""
    if not (isinstance(trained, list) and [type(end) in (int, float) for end in trained] == [True, True]):
        return []
    (low, high), least, greatest = trained, float(values.min()), float(values.max())
    margin = 2 * (high - low or 1)
    if low - margin <= least and greatest <= high + margin:
        return []
    return [
        f"{name} holds values from {least:g} to {greatest:g}, the model was trained on {low:g} to {high:g}: "
        "bring them to the scale of the training, or the forecast means nothing"
    ]
