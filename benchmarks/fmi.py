"""Forecasts of a crop of Finnish radar composites without training: the figures of a known protocol.

    CONVLSTM_DATA=FOLDER python -m benchmarks fmi

The first six composites of 2016-09-28, 14:45 UTC on, of FOLDER/radar/fmi, rows 500 to 755, columns 200 to
455, in dBZ, dry at -32; three frames to three. Pixels whose origin lies outside the crop are not counted.
Known: persistence 4.83, 6.59, 7.62; Lucas-Kanade of pysteps 2.64, 3.67, 4.57.
"""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import Table
from convlstm.data import open_frames
from convlstm.functional.motion import advect, motion_field
from convlstm.models.optical_flow import OpticalFlow

SETTING = "CONVLSTM_DATA=FOLDER "  # of the command
FRAMES, STEPS = 3, 3
ROWS, COLUMNS = slice(500, 756), slice(200, 456)


def run() -> Iterator[Table]:
    """Mean absolute errors by lead time; nothing without the files."""
    folder = Path(os.environ.get("CONVLSTM_DATA", ""), "radar", "fmi")
    if "CONVLSTM_DATA" not in os.environ or not folder.is_dir():
        print("fmi is left out: CONVLSTM_DATA must name a folder that holds radar/fmi", file=sys.stderr)
        return
    frames = torch.from_numpy(open_frames(folder)[: FRAMES + STEPS].values)[None]
    crop = frames[..., ROWS, COLUMNS]
    past, truth = crop[:, :FRAMES], crop[:, FRAMES:]
    everywhere = torch.ones_like(truth)
    forecasts = {"persistence": (past[:, -1:].expand_as(truth), everywhere)}
    if find_spec("pysteps") and find_spec("cv2"):
        moved = OpticalFlow()(past + 100, STEPS)  # so that zeros are what comes in
        forecasts["Lucas-Kanade, pysteps"] = (moved - 100, (moved > 0).float())
    moved, inside = moved_on(past)
    forecasts["our advection"] = (moved, inside)
    moved = moved_on(frames[:, :FRAMES])[0][..., ROWS, COLUMNS]
    forecasts["our advection from the whole composite, the same pixels"] = (moved, inside)
    forecasts["our advection from the whole composite, all pixels"] = (moved, everywhere)
    rows = {name: errors(forecast, truth, inside) for name, (forecast, inside) in forecasts.items()}
    columns = *(f"+{5 * lead} min" for lead in range(1, STEPS + 1)), "% of pixels counted at the last"
    yield Table("crop of 256 x 256, MAE in dBZ", columns, rows)


def moved_on(past: Tensor) -> tuple[Tensor, Tensor]:
    """Forecast by `Advection`, and 1 where its origin lies inside the frames."""
    velocity = motion_field(past)
    ones = torch.ones_like(past[:, -1])
    inside = advect(ones, velocity, STEPS, zero_outside=True) > 0.999
    return advect(past[:, -1], velocity, STEPS), inside.float()


def errors(forecast: Tensor, truth: Tensor, inside: Tensor) -> list[list[float] | None]:
    """MAE by lead time of the pixels inside, and their share at the last."""
    mae_L = ((forecast - truth).abs() * inside).sum((0, 2, 3, 4)) / inside.sum((0, 2, 3, 4))
    return [*([value] for value in mae_L.tolist()), [100 * float(inside[:, -1].mean())]]
