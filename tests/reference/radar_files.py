"""Radar sequences as small NetCDF files, and what trains on them in a second."""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm import TrainingConfig
from convlstm.data.rain import rain_rates

TYPED = ["--data.past=3", "--data.steps=3", "--epochs=1", "--batch_size=4", "--accelerator=cpu"]
TYPED += ["--model.hidden_dim=[4]"]
CONFIG = TrainingConfig(epochs=1, batch_size=4, accelerator="cpu")
START, STEP = np.datetime64("2021-02-01T00:00", "ns"), np.timedelta64(5, "m")
#: (T, H, W), mm/h.
RATES = rain_rates(np.random.default_rng(0), 40, (16, 16))


def write_netcdf(
    folder: Path, rates: NDArray[np.float32] = RATES, *, files: int = 2, start: np.datetime64 = START
) -> None:
    """Write rain rates as files of equal length with grid and times."""
    folder.mkdir(exist_ok=True)
    times = start + np.arange(len(rates)) * STEP
    for k, part in enumerate(np.array_split(np.arange(len(rates)), files)):
        axes = {
            axis: (axis, np.arange(n) * 1e3, {"units": "m"})
            for axis, n in zip("yx", rates.shape[1:], strict=True)
        }
        frames = (("time", "y", "x"), rates[part], {"units": "mm/h"})
        dataset = xr.Dataset({"rate": frames}, {"time": times[part], **axes})
        dataset.to_netcdf(folder / f"{start}_{k}.nc".replace(":", ""), engine="h5netcdf")
