"""The inside of a forecast as a page."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.atomic_write import check_writable, write_atomically
from convlstm.data.frame_store import seconds
from convlstm.data.specification import GAPS, known_step
from convlstm.data.units import unit_named
from convlstm.errors import DataError, OptionError, RunError, check_name
from convlstm.forecasting.fields import clock_texts, labelled_forecast, steps_between
from convlstm.forecasting.rollout import evaluating, forecast_labelled, masks_gaps, past_of, specification_of
from convlstm.forecasting.tiles import forecast_frames
from convlstm.models.base import Forecaster
from convlstm.plots.inspector import Inside, inspector_page
from convlstm.plots.recorder import Tape, record
from convlstm.system_memory import free_memory
from convlstm.training.run_folder import import_path
from convlstm.validation import LARGEST, check_bool, check_path, check_positive
from convlstm.workflows.evaluate import load_model
from convlstm.workflows.forecast import (
    OPTIONS,
    check_past_fits,
    is_plain,
    only_path,
    opened,
    plain_frames,
    reads_plain,
)
from convlstm.workflows.frames import own_options
from convlstm.workflows.parts import check_parts
from convlstm.workflows.train import trusted_packages

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float32]
_log = logging.getLogger("convlstm")
_SHARE = 0.3  # of the free memory that a recording may take


@dataclass(frozen=True)
class Inspection:
    """The inside of a forecast.

    Args:
        inside: frames in the unit of the input, and ``values`` (T, channels, h, w) by layer and value.
        path: the page that was written, if any.
    """

    inside: Inside
    path: Path | None = None


@import_path()
@own_options(*OPTIONS)
def inspect(
    model: Forecaster | str | os.PathLike[str],
    past: Tensor | NDArray[Any] | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Any,
    *,
    steps: int | None = None,
    out: str | os.PathLike[str] | None = None,
    truth: Tensor | NDArray[Any] | str | os.PathLike[str] | None = None,
    layers: str | None = None,
    reader: str | None = None,
    variable: str | None = None,
    units: str | None = None,
    static: str | os.PathLike[str] | None = None,
    gaps: str | None = None,
    overwrite: bool = False,
    trust: str | Sequence[str] = (),
) -> Inspection:
    """Write a page that shows the inside of a forecast: states and gates of every layer, step by step.

    The page is one HTML file of at most 15 MB, which needs no network: frames, forecast, truth and error
    side by side, channels of any layer and value, the values under the pointer, histograms. Frames beyond
    the past that the model reads are the truth, if they are there: the forecast begins before them.

    Args:
        model: a run folder or a model folder; in Python also a forecaster, which receives all frames unless
            it was loaded from a folder.
        past: frames: files, folders or patterns, of any format that training reads; in Python also an array
            (T, C, H, W) or an xarray.DataArray.
        steps: frames to forecast; as many as in training if left out.
        out: the page to write, an .html file.
        truth: frames that follow the past, in the same unit; those of the past beyond what the model reads
            if left out.
        layers: names of the layers to show, separated by commas; all if left out.
        reader: name of the reader, or a dotted path of a function of your own; found by content if left out.
        variable: name of the variable, or several separated by commas; that of the training if left out.
        units: unit of frames that state none; that of the training if left out.
        static: file of the fields that do not change, for a model that was trained with some; those of the
            training if left out.
        gaps: refuse a past with missing frames, or mask these as not measured; as in training if left out.
        overwrite: replace the page if it exists.
        trust: names of your own packages, separated by commas, whose classes the model may load beside
            convlstm's.

    Returns:
        The `Inspection`.

    Raises:
        OptionError: a model without recurrent cells, a layer that is not there, or more than memory holds.
        DataError: frames of another size or channels, or too few.
        RunError: a page that cannot be written.
    """
    path = None if out is None else _checked_page(out, overwrite)
    steps = None if steps is None else check_positive(steps, "steps")
    masked = None if gaps is None else check_name(gaps, GAPS, "gaps") == "mask"
    planes = None if static is None else check_path(static, "--static")
    loaded = _loaded(model, trusted_packages(trust, model))
    masked = masks_gaps(loaded, masked)
    steps = steps or _trained_steps(loaded)
    past = only_path(past)
    tape_of = _Recorder(loaded, layers)
    plain = specification_of(loaded) is None and is_plain(past)
    if plain and reads_plain(reader, variable, units, planes):
        shown = _of_plain(loaded, past, truth, steps, tape_of)
    else:
        opening = (specification_of(loaded), reader, variable, units)
        frames = opened(past, *opening)
        follow = None if truth is None else opened(truth, *opening)
        shown = _of_labelled(loaded, frames, follow, steps, tape_of, static=planes, masked=masked)
    names = dict(loaded.named_modules())
    inside = Inside(
        model=type(loaded).__name__,
        values=_maps(tape_of.tape),
        cells={layer: type(names[layer]).__name__ for layer in tape_of.tape.layers},
        data=_described(past),
        **shown,
    )
    if path is not None:
        page = inspector_page(inside).encode()
        write_atomically(_checked_page(path, overwrite), page)  # a file may have come meanwhile
    return Inspection(inside, path)


class _Recorder:
    """Runs a forecast while its layers are recorded."""

    def __init__(self, model: Forecaster, layers: str | None) -> None:
        self.model = model
        self.layers = None if layers is None else [name for name in map(str.strip, layers.split(",")) if name]
        self.tape = Tape()

    def __call__(self, forecast: Callable[[], Any]) -> Any:
        """The result of a forecast, whose recording is ``tape`` then."""
        free = _SHARE * free_memory(torch.device("cpu"))
        with record(self.model, self.layers, limit=int(min(free, LARGEST))) as self.tape:
            return forecast()


def _loaded(model: Any, trust: Sequence[str]) -> Forecaster:
    if isinstance(model, Forecaster):
        check_parts(None, model)
        loaded = model
    else:
        loaded = load_model(check_path(model, "MODEL"), trust)
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu")


def _trained_steps(model: Forecaster) -> int:
    specification = specification_of(model)
    known = getattr(model, "_convlstm_notes", {}).get("steps")
    steps = known if specification is None else specification.steps
    if steps is None:
        raise OptionError(
            "steps must be given for a model that does not say how many frames it was trained to forecast; "
            "received none: pass steps=10, say"
        )
    return check_positive(steps, "steps of the model")


def _checked_page(out: Any, overwrite: bool) -> Path:
    """The path of a page that can be written.

    Raises:
        OptionError: another ending than .html.
        RunError: no such folder, one that cannot be written, or a file that exists.
    """
    path = check_path(out, "--out")
    check_name(path.suffix.lower(), (".html", ".htm"), f"the ending of {path.name or path}")
    check_bool(overwrite, "overwrite")
    if not path.parent.is_dir():
        raise RunError(
            f"a page must go to an existing folder; {path.parent} is none: make it or choose another"
        )
    if path.is_dir():
        raise RunError(f"a page must go to a file; {path} is a folder: choose another name")
    if os.path.lexists(path) and not overwrite:
        raise RunError(
            f"a page must not replace a file unasked; {path} exists: choose another name or pass overwrite"
        )
    check_writable(path.parent)
    return path


def _of_plain(model: Forecaster, past: Any, truth: Any, steps: int, tape_of: _Recorder) -> dict[str, Any]:
    """Frames of an array, images or an animation, in the scale of their file."""
    frames, name = plain_frames(past)
    values, scale = frames.values, np.iinfo(frames.dtype).max if frames.dtype.kind in "iu" else 1
    needed = past_of(model, values)
    check_past_fits(values, name, model, {"past": needed})
    follow = None if truth is None else plain_frames(truth)[0].values[:steps]
    if follow is None and (spare := min(steps, len(values) - needed)):
        values, follow = values[:-spare], values[-spare:]
    if follow is not None:
        _check_truth(follow.shape[1:], values.shape[1:])
    values = values[-needed:]

    def forecast() -> Tensor:
        with evaluating(model) as like:
            return forecast_frames(model, values[None].to(like), steps, tile=max(values.shape[-2:]))

    made = tape_of(forecast)[0].float().cpu()
    arrays = {"past": values, "forecast": made} | ({} if follow is None else {"truth": follow})
    # Of pure numbers three channels from 0 to 255 are colours.
    units = "1" if frames.dtype == np.uint8 else ""
    return {key: tensor.numpy() * scale for key, tensor in arrays.items()} | {"units": units}


def _of_labelled(
    model: Forecaster,
    frames: "xr.DataArray",
    follow: "xr.DataArray | None",
    steps: int,
    tape_of: _Recorder,
    **options: Any,
) -> dict[str, Any]:
    """Labelled frames in their unit."""
    needed, whole, specification = past_of(model, frames), frames, specification_of(model)
    names, unit = [str(name) for name in frames["channel"].values], ""
    if specification is not None:
        names, unit = list(specification.variables), specification.units
    if follow is None and len(frames) > needed:
        frames = frames[: -min(steps, len(frames) - needed)]
    options["tile"] = max(frames.sizes["y"], frames.sizes["x"])
    made, past, _ = tape_of(lambda: forecast_labelled(model, frames, steps, **options))
    times = labelled_forecast(made, frames, past.step_s)["time"]
    if follow is not None:
        _check_truth(follow.shape[1:], frames.shape[1:])
        other, own = follow.attrs.get("units"), frames.attrs.get("units")
        named = [[*map(unit_named, str(each).split(", "))] for each in (other, own)]  # of each channel
        if other and own and named[0] != named[1]:
            raise DataError(f"the truth must be in the unit of the past, {own}; received {other}: convert it")
    source = whole if follow is None else follow
    observed = _truth(source, frames["time"][-1], steps, past.step_s, by_order=follow is not None)
    if observed is None and follow is not None:
        ends = " to ".join(str(times.values[k].astype("datetime64[s]")) for k in (0, -1))
        _log.warning("the truth has no frame of the forecast, which is of %s: the page shows none", ends)
    return {
        "past": past.values,
        "forecast": made,
        "truth": observed,
        "variables": names,
        "units": str(frames.attrs.get("units") or unit),
        "times": _times(past.times, times.values),
        "step_s": known_step(past.step_s, dated=times.dtype.kind == "M"),
    }


def _check_truth(size: Sequence[int], own: Sequence[int]) -> None:
    if tuple(size) != tuple(own):
        raise DataError(
            f"the truth must have the channels and the size of the past, {tuple(own)}; received "
            f"{tuple(size)}: give the frames that follow"
        )


def _truth(
    frames: "xr.DataArray", last: "xr.DataArray", steps: int, step_s: float, *, by_order: bool
) -> Array | None:
    """The frames that a forecast is of, NaN where there is none; None if there are none at all.

    Args:
        frames: that may hold them.
        last: time of the last frame of the past.
        steps: L.
        step_s: seconds between frames.
        by_order: take frames without dates from the first on.
    """
    kind = frames["time"].dtype.kind
    if kind != last.dtype.kind or (by_order and kind != "M"):
        return np.asarray(frames[:steps].values, np.float32)
    after, before, place = frames[frames["time"].values > last.values], float(seconds(last)), -1
    places: dict[int, int] = {}
    for k, time in enumerate(seconds(after["time"])):
        counts, late = steps_between(np.array([before, time]), step_s)
        if not late.any():
            before, place = time, place + int(counts[0])
            if place >= steps:
                break
            places[place] = k
    found = np.full((steps, *frames.shape[1:]), np.nan, np.float32)
    found[[*places]] = after[[*places.values()]].values
    known = np.flatnonzero(np.isfinite(found).any(axis=(1, 2, 3)))
    return found[: known[-1] + 1] if len(known) else None


def _times(past: NDArray[np.float64] | None, times: NDArray[Any]) -> list[str]:
    """Times of the frames of past and forecast: dates, or hours and minutes, as far as they differ.

    Args:
        past: (K,), seconds since 1970-01-01; None without dates.
        times: (L,), of the forecast.
    """
    if past is None:
        return []
    known = np.rint(past * 1e6).astype(np.int64).astype("datetime64[us]")
    texts = clock_texts(np.append(known, times.astype(known.dtype)))
    if all(text.endswith("T00:00") for text in texts):
        return [text[:10] for text in texts]
    if len({text[:10] for text in texts}) == 1:
        return [text[11:] for text in texts]
    return [text[5:].replace("T", " ") for text in texts]


def _maps(tape: Tape) -> dict[tuple[str, str], Array]:
    """Recorded values (T, channels, *S) of the first sample; of three axes of space the first joins them."""
    maps: dict[tuple[str, str], Array] = {}
    for layer in tape.layers:
        for value in tape.values(layer):
            array = tape[layer, value][0].float().numpy()
            if array.ndim == 5:
                array = array.reshape(len(array), -1, *array.shape[-2:])
            maps[layer, value] = array
    return maps


def _described(past: Any) -> str:
    """Name of the frames, as the page shows it."""
    if isinstance(past, list | tuple):
        return f"{len(past)} files"
    return Path(past).name if isinstance(past, str | os.PathLike) else ""
