"""``convlstm forecast``."""

from collections.abc import Sequence
from pathlib import Path

from convlstm.cli.evaluate import load_model
from convlstm.training.run import run_of


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
    Values come back in the scale of the input.

    Args:
        model: a run folder or a model folder.
        past: frames: a .npy, .npz or .gif file, or a folder of images.
        steps: frames to forecast.
        out: the file to write, by its ending: .npz, .npy, .gif or .png (a film strip).
        overwrite: replace the file if it exists.
        trust: names of the packages of your own, separated by commas, whose classes the model may load; any
            other but this one is refused.

    Returns:
        ``out``.
    """
    import torch

    from convlstm.data import read_frames
    from convlstm.errors import DataError, OptionError
    from convlstm.forecasting.files import check_output, write_frames
    from convlstm.pretrained import read_config

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
    needed = int(read_config(model if run is None else run.model).get("past", 1))
    if len(frames.values) < needed:
        raise DataError(
            f"the past must hold the {needed} frames that the model was trained with; {past} holds "
            f"{len(frames.values)}: give more frames"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    known = frames.values[-needed:]
    with torch.inference_mode():
        future = forecaster.to(device)(known[None].to(device), steps)[0].cpu()
    write_frames(out, future, dtype=frames.dtype, past=known, overwrite=overwrite)
    print(f"{steps} frames after the last of {past} are in {out}")
    return Path(out)
