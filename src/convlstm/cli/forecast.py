"""``convlstm forecast``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convlstm.atomic_write import given_path
from convlstm.cli.evaluate import load_model
from convlstm.errors import DataError, OptionError, RunError
from convlstm.training.run_folder import run_of

if TYPE_CHECKING:
    from torch import Tensor


def forecast(
    model: Path,
    past: Path,
    *,
    steps: int,
    out: Path,
    overwrite: bool = False,
    trust: str | Sequence[str] = (),
) -> Path:
    """Forecast the frames that follow those in a file.

    The last frames are used, as many as the model was trained with. Frames may have any height and width.
    Values come back in the scale of the input. The order of the images of a folder, and values far outside
    those of the training, are printed to stderr.

    Args:
        model: a run folder or a model folder.
        past: frames: a .npy, .npz or .gif file, or a folder of images.
        steps: frames to forecast.
        out: the file to write, by its ending: .npz, .npy, .gif or .png (a film strip).
        overwrite: replace the file if it exists.
        trust: names of your own packages, separated by commas, whose classes the model may load beside
            convlstm's.

    Returns:
        ``out``.
    """
    import torch

    from convlstm.data import read_frames
    from convlstm.forecasting.files import check_output, write_frames
    from convlstm.hub import read_config

    model, past, out = given_path("MODEL", model), given_path("PAST", past), given_path("--out", out)
    if steps < 1:
        raise OptionError(f"steps must be at least 1; received {steps}")
    check_output(out, overwrite=overwrite)
    forecaster = load_model(model, trust)
    frames = read_frames(past)
    channels = frames.values.shape[1]
    if getattr(forecaster, "channels", channels) != channels:
        raise DataError(
            f"the past must have the channels of the model, {forecaster.channels}; {past} has {channels}: "
            "convert it or use another model"
        )
    run = run_of(model)
    notes = read_config(model if run is None else run.model)
    needed = notes.get("past", 1)
    if type(needed) is not int or needed < 1:
        raise RunError(
            f"the past that a model was trained with must be a number of frames; {model} says "
            f"{str(needed)[:80]!r}: copy the folder again"
        )
    if len(frames.values) < needed:
        raise DataError(
            f"the past must hold the {needed} frames that the model was trained with; {past} holds "
            f"{len(frames.values)}: give more frames"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    known = frames.values[-needed:]
    for line in (*frames.notes, *_far_outside(known, past, notes.get("value_range"))):
        print(f"convlstm: {line}", file=sys.stderr)
    with torch.inference_mode():
        future = forecaster.to(device)(known[None].to(device), steps)[0].cpu()
    write_frames(out, future, dtype=frames.dtype, past=known, overwrite=overwrite)
    print(f"{steps} frames after the last of {past} are in {out}")
    return out


def _far_outside(values: "Tensor", path: Path, trained: Any) -> list[str]:
    """A sentence if values lie more than twice the width of the training's range beyond it."""
    if not (
        isinstance(trained, list) and len(trained) == 2 and all(type(end) in (int, float) for end in trained)
    ):
        return []
    (low, high), least, greatest = trained, float(values.min()), float(values.max())
    margin = 2 * (high - low or 1)
    if low - margin <= least and greatest <= high + margin:
        return []
    return [
        f"{path} holds values from {least:g} to {greatest:g}, the model was trained on {low:g} to {high:g}: "
        "bring them to the scale of the training, or the forecast means nothing"
    ]
