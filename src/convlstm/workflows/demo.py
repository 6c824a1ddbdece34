"""The demonstration: train, verify, forecast and report in a few minutes on two CPU cores."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convlstm.data import MovingObjects
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

# The demonstration is smaller than the benchmark (canvas 64, two digits) so that it takes minutes on a CPU.
DATA: dict[str, Any] = {"canvas": 32, "object_size": 16, "count": 1}
DATA |= {"train_size": 1600, "validation_size": 100, "test_size": 500}
MODEL: dict[str, Any] = {"hidden_dim": (24, 32), "patch_size": 4}
TRAINING: dict[str, Any] = {"epochs": 6, "batch_size": 8, "learning_rate": 6e-3, "accelerator": "cpu"}
TRAINING |= {"curriculum": "linear", "curriculum_steps": 400}
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


def demo(out: str | os.PathLike[str] | None = None) -> Demonstration:
    """Learn to forecast moving digits, verify, report: a few minutes.

    Real handwritten digits move and bounce on a small canvas. A small network learns to forecast them, is
    scored beside the baselines on digits it has never seen, and leaves a report with pictures.

    Args:
        out: the run folder; runs/demo, runs/demo-2 ... unless given.

    Returns:
        The `Demonstration`.
    """
    from convlstm.pictures import film_strip

    folder = RunFolder(free_folder(Path("runs/demo")) if out is None else check_path(out, "--out"))
    check_free(folder.path, "the demo", RunFolder.PICTURES)
    config, data = TrainingConfig(**TRAINING), MovingObjects(**DATA)
    _log.info("learning %s", data.describe())
    torch.manual_seed(config.seed)
    run = train(data=data, model=EncoderForecaster(**MODEL), config=config, out=folder.path)
    verification = evaluate(run)
    _, median, _ = read_cases(folder.cases)
    rows = {"truth": median.truth, "forecast": median.forecasts[verification.model]}
    film_strip(rows, past=median.past).save(folder.strip)
    np.save(folder.past, data.split("test")[0].past.numpy())
    for path in (folder.animation, folder.picture):
        forecast(run, folder.past, steps=2 * data.steps, out=path)
    return Demonstration(run, verification, report(run))
