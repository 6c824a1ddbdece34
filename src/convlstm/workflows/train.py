"""Training into a run folder."""

import dataclasses
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from convlstm.data import MovingObjects
from convlstm.data.base import Source
from convlstm.errors import OptionError, RunError
from convlstm.hyperparameters import describe, path_of
from convlstm.models import EncoderForecaster
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import (
    RunFolder,
    command_line,
    environment,
    import_path,
    read_metrics,
)
from convlstm.training.signals import ignoring_ended_workers
from convlstm.trust import packages, packages_in
from convlstm.validation import check_callable, check_instance, check_path
from convlstm.workflows.configuration import (
    Parts,
    Settings,
    UnknownCallback,
    configuration,
    plain_settings,
    read_settings,
)
from convlstm.workflows.frames import as_before, as_source
from convlstm.workflows.parts import PARTS, build, check_parts, of_run, unbuilt

# Set for the processes that Lightning starts for further devices: the run folder.
_RUN = "CONVLSTM_RUN"
_END = ("epochs", "patience")  # the settings that a resumed run may have others of
_TIMEOUT_S = 600
_log = logging.getLogger("convlstm")


@dataclasses.dataclass(frozen=True)
class TrainedRun(os.PathLike[str]):
    """A run that was trained; stands for its folder, so that ``run / "model"`` is a path in it.

    Args:
        path: the run folder.
        model: the forecaster with its best weights, in evaluation mode.
        packages: packages other than convlstm and torch whose classes data and model are made of, which
            ``trust`` has to name where the folder is used again, though not where this object is.
    """

    path: Path
    model: Forecaster = dataclasses.field(repr=False)
    packages: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The losses of every epoch."""
        return read_metrics(RunFolder(self.path).metrics)


def trusted_packages(trust: str | Sequence[str], run: Any) -> tuple[str, ...]:
    """The packages that a caller trusts: those named, and those of a run that this process trained."""
    return (*packages(trust), *(run.packages if isinstance(run, TrainedRun) else ()))


@import_path()
def train(
    *,
    data: Source | Any = None,
    model: Forecaster | None = None,
    config: TrainingConfig | None = None,
    optimizer: Callable[..., Any] | None = None,
    scheduler: Callable[..., Any] | None = None,
    callbacks: Sequence[Any] = (),
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    trust: str | Sequence[str] = (),
) -> TrainedRun:
    """Train a forecaster into a run folder.

    The folder holds the configuration, logs, checkpoints and the trained model. Ctrl-C stops at any time,
    and --resume goes on from the last checkpoint, by default at most ten minutes old.

    Args:
        data: a source, or frames of your own, which `convlstm.data.Archive` makes windows of: a file, a
            folder, a pattern or several of these, in Python also an array (T, H, W) or (T, C, H, W) or a
            `xarray.DataArray`; `MovingObjects` unless given.
        model: what is trained; `EncoderForecaster` unless given.
        config: settings of the training.
        optimizer: class of the optimizer, or a function, called with the parameters and lr; Adam unless
            given.
        scheduler: class of the learning rate's schedule, called with the optimizer after each step; replaces
            schedule.
        callbacks: callbacks of Lightning: classes, or in Python objects and partials of classes.
        out: the run folder, which must hold no file of a run's names yet; runs/train, runs/train-2 ... unless
            given.
        resume: a run folder to go on with, by its own configuration; only --epochs and --patience may be
            others, also to train a finished run further: its learning rate then goes on along the schedule
            over all epochs.
        trust: names of your own packages, separated by commas, whose classes a run given by --resume or
            --config may load beside convlstm's.

    Returns:
        The `TrainedRun`.

    Raises:
        ConvLSTMError: options that do not fit each other, the machine or the folder; nothing is left behind.
    """
    from convlstm.training.processes import is_worker_rank

    data = as_source(data)
    check_parts(data, model)
    check_instance(config, (TrainingConfig, NoneType), "config", "pass a TrainingConfig(...)")
    check_instance(callbacks, (list, tuple), "callbacks", "pass a list of callbacks")
    for name, factory in (("optimizer", optimizer), ("scheduler", scheduler)):
        if factory is not None:
            check_callable(factory, name, "give its class, or a functools.partial of it")
    parts = {"data": data, "model": model, "config": config, "optimizer": optimizer, "scheduler": scheduler}
    given: Settings = {name: part for name, part in parts.items() if part is not None}
    given |= {"callbacks": tuple(callbacks)} if callbacks else {}
    trusted = (*trusted_packages(trust, resume), *_packages_of(data, model))
    folder = None if out is None else check_path(out, "--out")
    worker = is_worker_rank()
    if resume is None:
        run, whole = _new(folder, given, worker)
    elif folder is None:
        run = RunFolder(check_path(resume, "--resume"))
        whole = _resumed(run, given, trusted, worker)
    else:
        raise OptionError("--resume goes on in the run's own folder; received --out as well: leave it out")
    if worker:
        config = _resolved_by_rank_zero(run, whole.config)
        return TrainedRun(run.path, _fit(run, dataclasses.replace(whole, config=config), resume is not None))
    return _train(run, whole, resume is not None)


def free_folder(path: Path) -> Path:
    """``path``, or the first of path-2, path-3 ... that does not exist yet."""
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _new(folder: Path | None, given: Settings, worker: bool) -> tuple[RunFolder, Parts]:
    """Folder and parts of a new run, with defaults for what is not given."""
    from convlstm.training.fit import check, check_reach

    config, data = given.get("config", TrainingConfig()), given.get("data") or MovingObjects()
    check(config, data)
    torch.manual_seed(config.seed)
    channels, extra_channels = data.channels, data.extra_channels
    model = given.get("model") or EncoderForecaster(channels, extra_channels=extra_channels)
    check_parts(data, model)
    check_reach(model, data.split("train")[0])
    if worker and (named := os.environ.get(_RUN)):  # by the process of rank 0
        folder = Path(named)
    elif worker and folder is None:
        raise OptionError("processes that start on their own need to know the run; received no --out: add it")
    run = RunFolder(folder or free_folder(Path("runs/train")))
    return run, Parts(**given | {"data": data, "model": model, "config": config})


def _resumed(run: RunFolder, given: Settings, trust: Sequence[str], worker: bool) -> Parts:
    """Parts of a run to go on with; what is given must be as in its configuration, but for its end."""
    if not worker:
        run.reopen()
    resolved = of_run(run, trust)
    # Objects that a script gives may have weights of their own, which a run without a checkpoint starts from.
    parts = Parts(**build(resolved, {*PARTS, "config"} - given.keys()) | given)
    asked, stored = plain_settings(parts), plain_settings(unbuilt(resolved))
    if other := [name for name in asked if name not in _END and asked[name] != stored.get(name)]:
        raise OptionError(
            "--resume takes every option but --epochs and --patience from the run itself; received another "
            f"{', '.join(other)}: leave it out"
        )
    return dataclasses.replace(parts, data=as_before(parts.data, run))


def _train(run: RunFolder, parts: Parts, resume: bool) -> TrainedRun:
    """Write the configuration, the command and the machine, put numbers in place of ``auto``, train."""
    text, specification = configuration(parts), parts.data.specification
    for line in [] if specification is None else specification.lines():
        _log.info(line)
    with _changing(run):
        if not resume:
            run.start()
        elif (checkpoint := run.checkpoint()) is None:
            _log.info("%s has no checkpoint yet: training starts at the first epoch", run.path)
        elif checkpoint == run.best:
            _log.info("%s is missing: training goes on from %s", run.last, run.best)
            run.changes.write(run.last, run.best.read_bytes())
        stored = read_settings(run.config) if resume else {}
        if any(stored.get(name) != getattr(parts.config, name) for name in _END):
            run.write(run.config, text)  # first, so that a run that is killed can be resumed
        if specification is not None and not run.data.exists():
            run.write(run.data, json.dumps(specification.to_dict(), indent=2) + "\n")
        commands = run.commands.read_text() if run.commands.exists() else ""
        run.write(run.commands, f"{commands}{command_line()}\n")
        if not run.environment.exists():
            described = _as_plain(parts.data, parts.model)
            described += [{"": describe(part)} for part in (parts.optimizer, parts.scheduler) if part]
            run.write(run.environment, json.dumps(environment(*described), indent=2) + "\n")
        resolved = dataclasses.replace(parts, config=_resolve_auto(parts))
        if resolved != parts:
            run.write(run.config, configuration(resolved))
        trained = TrainedRun(run.path, _fit(run, resolved, resume), _packages_of(parts.data, parts.model))
    best = min(trained.metrics, key=lambda row: row["val_loss"])
    _log.info(
        "trained %d of %d epochs into %s; best validation loss %.4g in epoch %d",
        *(len(trained.metrics), resolved.config.epochs, run.path, best["val_loss"], int(best["epoch"])),
    )
    return trained


def _fit(run: RunFolder, parts: Parts, resume: bool) -> Forecaster:
    from convlstm.training.fit import fit

    injected: dict[str, Any] = {"optimizer": parts.optimizer, "scheduler": parts.scheduler}
    injected["callbacks"] = [
        made() if isinstance(made, type | partial | UnknownCallback) else made for made in parts.callbacks
    ]
    return fit(parts.model, parts.data, parts.config, run, resume=resume, **injected)


def _resolve_auto(parts: Parts) -> TrainingConfig:
    """The configuration with numbers for ``auto``."""
    from convlstm.training.tuning import fastest_learning_rate, largest_batch

    config, model, windows = parts.config, parts.model, parts.data.split("train")
    specification = parts.data.specification
    if config.batch_size == "auto":
        gpu = config.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if gpu else "cpu")
        size = largest_batch(model, windows, config, device, specification)
        while size > len(windows) // (config.devices * config.nodes):
            size //= 2
        _log.info("batch_size auto: %d", size)
        config = dataclasses.replace(config, batch_size=size)
    if config.learning_rate == "auto":
        # Three digits are more than the search can tell apart.
        rate = float(f"{fastest_learning_rate(model, windows, config, specification):.3g}")
        _log.info("learning_rate auto: %g", rate)
        config = dataclasses.replace(config, learning_rate=rate)
    return config


def _resolved_by_rank_zero(run: RunFolder, config: TrainingConfig) -> TrainingConfig:
    """The configuration with the numbers that the process of rank 0 writes in place of ``auto``."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        settings = read_settings(run.config) if run.config.exists() else {}
        found = {name: settings.get(name, "auto") for name in ("batch_size", "learning_rate")}
        if "auto" not in found.values():
            return dataclasses.replace(config, **found)
        time.sleep(0.2)
    raise RunError(
        f"the first process must write {run.config}; it did not within {_TIMEOUT_S} s: "
        "the folder must be one that all machines share"
    )


@contextmanager
def _changing(run: RunFolder) -> Iterator[None]:
    """Undo all changes if training fails before its next checkpoint; describe the run after Ctrl-C."""
    os.environ[_RUN] = str(run.path.resolve())
    try:
        yield
        run.changes.keep()
    except KeyboardInterrupt:
        if not run.config.exists():
            run.changes.undo()
            raise KeyboardInterrupt("stopped before training began; nothing is left behind") from None
        run.changes.keep()
        kept = "there is no checkpoint yet"
        if run.last.exists():
            kept = f"the last checkpoint is {run.last}"
            kept += f", the best model so far {run.model}" if run.model.exists() else ""
        again = shlex.quote(str(run.path))
        raise KeyboardInterrupt(f"stopped; {kept}; go on with: convlstm train --resume {again}") from None
    except Exception:
        with ignoring_ended_workers():
            run.changes.undo()
        raise
    finally:
        os.environ.pop(_RUN, None)


def _packages_of(*parts: Source | Forecaster | None) -> tuple[str, ...]:
    """The packages, other than this one and torch, whose classes parts of a run are made of."""
    return tuple(sorted(packages_in(_as_plain(*parts))))


def _as_plain(*parts: Source | Forecaster | None) -> list[dict[str, Any]]:
    """Class and arguments of parts of a run, as `hyperparameters.describe` gives them."""
    return [{"class": path_of(type(p)), "arguments": p.hyperparameters} for p in parts if p is not None]
