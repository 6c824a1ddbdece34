"""Forecasts of the frames that follow given ones."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.files import Frames, check_finite, from_unit, read_frames, to_unit
from convlstm.errors import DataError, RunError
from convlstm.forecasting.files import check_output, write_frames
from convlstm.hub import read_config
from convlstm.models.base import Forecaster
from convlstm.training.run_folder import import_path, run_of
from convlstm.trust import packages
from convlstm.validation import (
    check_bool,
    check_path,
    check_positive,
    check_tensor,
    received,
)
from convlstm.workflows.evaluate import load_model
from convlstm.workflows.parts import check_parts

_MOST_STEPS = 10**6
_log = logging.getLogger("convlstm")


@dataclass(frozen=True)
class Forecast:
    """A forecast in the scale of its past.

    Args:
        frames: (L, C, H, W), dtype of the past that was given.
        past: (K, C, H, W), float32, the frames that the model received.
        path: the file that was written, if any.
    """

    frames: NDArray[Any] = field(repr=False)
    past: Tensor = field(repr=False)
    path: Path | None = None


@import_path()
def forecast(
    model: Forecaster | str | os.PathLike[str],
    past: Tensor | NDArray[Any] | str | os.PathLike[str],
    *,
    steps: int,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    trust: str | Sequence[str] = (),
) -> Forecast:
    """Forecast the frames that follow those in a file.

    The last frames are used, as many as the model was trained with. Frames may have any height and width.
    Values come back in the scale of the input. The order of the images of a folder, and values far outside
    those of the training, are reported as warnings.

    Args:
        model: a run folder or a model folder; in Python also a forecaster, which receives all frames.
        past: frames: a .npy, .npz or .gif file, or a folder of images; in Python also an array (T, C, H, W).
        steps: frames to forecast.
        out: the file to write, by its ending: .npz, .npy, .gif or .png (a film strip).
        overwrite: replace the file if it exists.
        trust: names of your own packages, separated by commas, whose classes the model may load beside
            convlstm's.

    Returns:
        The `Forecast`.
    """
    check_positive(steps, "steps", most=_MOST_STEPS)
    check_bool(overwrite, "overwrite")
    trust = packages(trust)
    path = None if out is None else check_output(check_path(out, "--out"), overwrite=overwrite)
    notes: dict[str, Any] = {}
    if isinstance(model, Forecaster):
        check_parts(None, model)
    else:
        folder = check_path(model, "MODEL")
        model = load_model(folder, trust)
        run = run_of(folder)
        notes = read_config(folder if run is None else run.model)
        needed = notes.get("past", 1)
        if type(needed) is not int or needed < 1:
            raise RunError(
                "the past that a model was trained with must be a number of frames; "
                f"{folder} says {str(needed)[:80]!r}: copy the folder again"
            )
    frames, name = _frames(past)
    known = frames.values[-notes.get("past", len(frames.values)) :]
    _check_past(frames.values, name, model, notes)
    for line in (*frames.notes, *_far_outside(known, name, notes.get("value_range"))):
        _log.warning(line)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        future = model.to(device)(known[None].to(device), steps)[0].cpu()
    if path is not None:
        write_frames(path, future, dtype=frames.dtype, past=known, overwrite=overwrite)
    return Forecast(from_unit(future.numpy(), frames.dtype), known, path)


def _frames(past: Tensor | NDArray[Any] | str | os.PathLike[str]) -> tuple[Frames, str]:
    """Frames in the scale of a forecaster, and the name of where they come from."""
    if isinstance(past, str | os.PathLike):
        path = check_path(past, "PAST")
        return read_frames(path), str(path)
    given: Any = check_tensor(past, "past").detach() if isinstance(past, Tensor) else past
    try:
        if isinstance(given, Tensor):
            given = (given.float() if given.dtype == torch.bfloat16 else given).cpu()
        array = np.ma.filled(given, np.nan) if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the past must be an array of numbers; received {received(past)}, which gave '{error}': convert "
            "it"
        ) from error
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(
            f"frames must be (T, C, H, W) with no empty axis; received shape {array.shape}: bring them to it"
        )
    values = to_unit(array, "the past")
    check_finite(values, "the past", ("frame", "channel", "row", "column"))
    return Frames(torch.from_numpy(values), array.dtype), "the past"


def _check_past(values: Tensor, name: str, model: Forecaster, notes: dict[str, Any]) -> None:
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
