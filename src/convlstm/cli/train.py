"""``convlstm train``."""

import dataclasses
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convlstm.cli.configuration import configuration
from convlstm.data.base import Source
from convlstm.errors import OptionError, RunError
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.run import RunFolder, command_line, environment, read_metrics

# Tells the processes that Lightning starts for further devices where the run is.
_RUN = "CONVLSTM_RUN"
_PATIENCE_S = 600


def train(
    *,
    data: Source | None = None,
    model: Forecaster | None = None,
    config: TrainingConfig | None = None,
    out: Path | None = None,
    resume: Path | None = None,
) -> Path:
    """Train a forecaster into a run folder.

    The folder holds the configuration, logs, checkpoints and the trained model. Ctrl-C stops at any time,
    and --resume goes on from the last whole epoch.

    Args:
        data: where frames come from; `MovingObjects` unless given.
        model: what is trained; `EncoderForecaster` unless given.
        config: how.
        out: the run folder, which must not hold a run yet; runs/train, runs/train-2 ... unless given.
        resume: a run folder to go on with, by its own configuration; no other option is needed or allowed.

    Returns:
        The run folder.

    Raises:
        ConvLSTMError: options that do not fit each other, the machine or the folder; nothing is left behind.
    """
    # A script may pass plain text where the command line makes a path.
    if resume is not None:
        if (data, model, config, out) != (None, None, None, None):
            raise OptionError(
                "--resume takes every option from the run itself; received others as well: leave them out"
            )
        return _resume(RunFolder(Path(resume)))
    from convlstm.data import MovingObjects
    from convlstm.training.fit import check, fit

    config = TrainingConfig() if config is None else config
    data = MovingObjects() if data is None else data
    check(config, data)
    model = _default_model(config.seed) if model is None else model
    check_channels(model, data.channels, f"use --model.channels {data.channels}")
    if _follows():
        run = _leader(out)
        fit(model, data, _resolved_by(run, config), run)
        return run.path
    run = RunFolder(Path(out) if out is not None else free_folder(Path("runs/train")))
    with _starting(run):
        config = _resolve(config, model, data)
        run.note("config.yaml", configuration(data, model, config))
        run.note("command.txt", command_line() + "\n")
        run.note("environment.json", json.dumps(environment(), indent=2) + "\n")
        with _stoppable(run):
            fit(model, data, config, run)
    _say_what_next(run, config)
    return run.path


def load(path: Path) -> dict[str, Any]:
    """``data``, ``model`` and ``config`` of a configuration file, with fresh weights."""
    from convlstm.cli.options import parse

    return parse(train, [], [("config", str(path))]).build()


def check_channels(model: Forecaster, channels: int, remedy: str) -> None:
    """Check that a model takes frames with so many channels, or else say what to do.

    Raises:
        OptionError: it was built for another number.
    """
    built_for = getattr(model, "channels", channels)
    if built_for != channels:
        raise OptionError(
            f"the channels of the model must be those of the frames, {channels}; received {built_for}: "
            f"{remedy}"
        )


def free_folder(path: Path) -> Path:
    """``path``, or the first of path-2, path-3 ... that does not exist yet."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _resume(run: RunFolder) -> Path:
    from convlstm.training.fit import fit

    if not run.config.exists():
        raise RunError(
            f"a run to go on with must hold a config.yaml; {run.path} holds none: give an earlier --out"
        )
    parts = load(run.config)
    if not _follows():
        commands = run.path / "command.txt"
        before = commands.read_text() if commands.exists() else ""
        run.note(commands.name, before + command_line() + "\n")
    with _stoppable(run):
        fit(parts["model"], parts["data"], parts["config"], run, resume=True)
    if not _follows():
        _say_what_next(run, parts["config"])
    return run.path


def _default_model(seed: int) -> Forecaster:
    import torch

    from convlstm.models import EncoderForecaster

    torch.manual_seed(seed)
    return EncoderForecaster()


def _resolve(config: TrainingConfig, model: Forecaster, data: Source) -> TrainingConfig:
    """Numbers in place of ``auto``."""
    import torch

    from convlstm.training.tuning import fastest_learning_rate, largest_batch

    if config.batch_size == "auto":
        gpu = config.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if gpu else "cpu")
        windows = data.split("train")
        size = largest_batch(model, windows, config.loss, device)
        while size > len(windows) // (config.devices * config.nodes):
            size //= 2
        print(f"batch_size auto: {size}")
        config = dataclasses.replace(config, batch_size=size)
    if config.learning_rate == "auto":
        # Three digits are more than the search can tell apart.
        rate = float(f"{fastest_learning_rate(model, data.split('train'), config):.3g}")
        print(f"learning_rate auto: {rate:g}")
        config = dataclasses.replace(config, learning_rate=rate)
    return config


def _follows() -> bool:
    """Whether this process only helps another one, which keeps the records."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) != 0 or os.environ.get("NODE_RANK", "0") != "0"


def _leader(out: Path | None) -> RunFolder:
    """The run of the process that this one helps, once its configuration is written."""
    folder = os.environ.get(_RUN) or out
    if folder is None:
        raise OptionError("processes that start on their own need to know the run; received no --out: add it")
    run = RunFolder(Path(folder))
    deadline = time.monotonic() + _PATIENCE_S
    while not run.config.exists():
        if time.monotonic() > deadline:
            raise RunError(
                f"the first process must write {run.config}; it did not within {_PATIENCE_S} s: "
                "the folder must be one that all machines share"
            )
        time.sleep(0.2)
    return run


def _resolved_by(run: RunFolder, config: TrainingConfig) -> TrainingConfig:
    if "auto" not in (config.batch_size, config.learning_rate):
        return config
    from convlstm.cli.configuration import read_settings

    settings = read_settings(run.config)
    return dataclasses.replace(
        config, batch_size=settings["batch_size"], learning_rate=settings["learning_rate"]
    )


@contextmanager
def _starting(run: RunFolder) -> Iterator[None]:
    """A new run folder, which disappears again if training is refused before its first checkpoint."""
    existed = run.path.exists()
    run.start()
    os.environ[_RUN] = str(run.path.resolve())
    try:
        yield
    except Exception:
        if not (run.last.exists() or run.best.exists()):
            for name in ("config.yaml", "command.txt", "environment.json", "metrics.csv"):
                (run.path / name).unlink(missing_ok=True)
            for name in ("checkpoints", "logs"):
                shutil.rmtree(run.path / name, ignore_errors=True)
            if not existed:
                shutil.rmtree(run.path, ignore_errors=True)
        raise
    finally:
        os.environ.pop(_RUN, None)


@contextmanager
def _stoppable(run: RunFolder) -> Iterator[None]:
    """After Ctrl-C, say what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if _follows():
            raise
        kept = "there is no checkpoint yet"
        if run.last.exists():
            kept = f"the last checkpoint is {run.last}"
            kept += f", the best model so far {run.model}" if run.model.exists() else ""
        again = shlex.quote(str(run.path))
        raise KeyboardInterrupt(f"stopped; {kept}; go on with: convlstm train --resume {again}") from None


def _say_what_next(run: RunFolder, config: TrainingConfig) -> None:
    rows = read_metrics(run.metrics)
    best = min(rows, key=lambda row: row["val_loss"])
    print(
        f"trained {len(rows)} of {config.epochs} epochs into {run.path}; "
        f"best validation loss {best['val_loss']:.4g} in epoch {int(best['epoch'])}"
    )
    path = shlex.quote(str(run.path))
    print(f"next: convlstm evaluate {path}\n      convlstm report {path}")
