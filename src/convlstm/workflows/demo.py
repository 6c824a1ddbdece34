"""The demonstration: train, verify, forecast and report in a few minutes on two CPU cores."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from convlstm.data import LabelledWindow, MovingObjects, Rain, Source
from convlstm.errors import check_name
from convlstm.models import EncoderForecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, check_free
from convlstm.validation import check_path
from convlstm.verification.cases import read_cases
from convlstm.verification.results import Verification
from convlstm.workflows.evaluate import evaluate
from convlstm.workflows.forecast import forecast
from convlstm.workflows.report import Report, report
from convlstm.workflows.train import TrainedRun, free_folder, train

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Subject:
    """Data and model of a demonstration, and the settings of its training.

    Args:
        source: class of the data.
        data: arguments of it.
        model: arguments of the `EncoderForecaster`.
        training: settings of the `TrainingConfig`.
    """

    source: type[Source]
    data: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]


# Smaller than the benchmarks, so that each takes minutes on two CPU cores.
SUBJECTS = {
    "digits": Subject(
        MovingObjects,
        {"canvas": 32, "object_size": 16, "count": 1}
        | {"train_size": 1600, "validation_size": 100, "test_size": 500},
        {"hidden_dim": (24, 32), "patch_size": 4},
        {"epochs": 6, "batch_size": 8, "learning_rate": 6e-3, "accelerator": "cpu"}
        | {"curriculum": "linear", "curriculum_steps": 400},
    ),
    "rain": Subject(
        Rain,
        {"canvas": 64, "train_size": 600, "validation_size": 50, "test_size": 100},
        {"hidden_dim": (24, 32), "patch_size": 4, "advection": True},
        {"loss": "mse+area", "epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "accelerator": "cpu"},
    ),
}
_log = logging.getLogger("convlstm")


@dataclass(frozen=True)
class Demonstration(os.PathLike[str]):
    """The results of `demo`, in one run folder.

    Args:
        run: the trained run.
        verification: its scores.
        report: the report on it.
    """

    run: TrainedRun
    verification: Verification
    report: Report

    def __fspath__(self) -> str:
        return os.fspath(self.run)


def demo(subject: str = "digits", out: str | os.PathLike[str] | None = None) -> Demonstration:
    """Learn to forecast moving digits, or rain, verify, report: a few minutes.

    Real handwritten digits move and bounce on a small canvas, or synthetic rain moves past a radar, grows and
    decays. A small network learns to forecast them, is scored beside the baselines on sequences it has never
    seen, and leaves a report with pictures.

    Args:
        subject: digits or rain.
        out: the run folder; runs/demo, runs/demo-2 ... unless given (runs/demo-rain ... of rain).

    Returns:
        The `Demonstration`.
    """
    from convlstm.pictures import film_strip
    from convlstm.pictures.radar import TABLES

    chosen = SUBJECTS[check_name(subject, SUBJECTS, "a subject")]
    usual = Path("runs/demo" if subject == "digits" else f"runs/demo-{subject}")
    folder = RunFolder(free_folder(usual) if out is None else check_path(out, "--out"))
    check_free(folder.path, "the demo", RunFolder.PICTURES)
    config, data = TrainingConfig(**chosen.training), chosen.source(**chosen.data)
    _log.info("learning %s", data.describe())
    torch.manual_seed(config.seed)
    run = train(data=data, model=EncoderForecaster(**chosen.model), config=config, out=folder.path)
    verification = evaluate(run)
    _, median, _ = read_cases(folder.cases)
    rows = {"truth": median.truth, "forecast": median.forecasts[verification.model]}
    if data.specification is not None:
        rows["advection"] = median.forecasts["advection"]
    limits, step_s = TABLES.get(verification.unit), verification.step_s
    film_strip(rows, past=median.past, limits=limits, step_s=step_s).save(folder.strip)
    past = _past(data)
    np.save(folder.past, past)
    for path in (folder.animation, folder.picture):
        forecast(run, past, steps=2 * data.steps, out=path)
    return Demonstration(run, verification, report(run))


def _past(data: Source) -> "xr.DataArray | NDArray[np.float32]":
    """Past of the first test window, with units and times where the data have them, NaN if not measured."""
    import xarray as xr

    window = LabelledWindow(*data.split("test")[0])
    if window.times is None or window.past_valid is None or data.specification is None:
        return window.past.numpy()
    times = window.times[: data.past]
    values = torch.where(window.past_valid, data.to_units(window.past, times), torch.nan)
    variables = list(data.specification.variables)
    labels = {"time": times.numpy().astype("datetime64[s]"), "channel": variables}
    names, units = ("time", "channel", "y", "x"), {"units": data.specification.units}
    return xr.DataArray(values.numpy(), labels, names, name=variables[0], attrs=units)
