"""``convlstm train``."""

import dataclasses
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convlstm.atomic_write import given_path
from convlstm.cli.configuration import configuration, described
from convlstm.data.base import Source
from convlstm.errors import OptionError, RunError
from convlstm.hyperparameters import path_of
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, command_line, environment, read_metrics
from convlstm.trust import packages, packages_in

# Tells the processes that Lightning starts for further devices where the run is.
_RUN = "CONVLSTM_RUN"
_PATIENCE_S = 600
_OWN = "--resume takes every option but --epochs from the run itself; received {}: leave it out"


def train(
    *,
    data: Source | None = None,
    model: Forecaster | None = None,
    config: TrainingConfig | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    trust: str | Sequence[str] = (),
) -> Path:
    """Train a forecaster into a run folder.

    The folder holds the configuration, logs, checkpoints and the trained model. Ctrl-C stops at any time,
    and --resume goes on from the last whole epoch.

    Args:
        data: where frames come from; `MovingObjects` unless given.
        model: what is trained; `EncoderForecaster` unless given.
        config: how.
        out: the run folder, which must hold no file of a run's names yet; runs/train, runs/train-2 ... unless
            given.
        resume: a run folder to go on with, by its own configuration; only --epochs may be another, also to
            train a finished run further: its learning rate then goes on along the schedule over all epochs.
        trust: names of your own packages, separated by commas, whose classes a run given by --resume or
            --config may load beside convlstm's.

    Returns:
        The run folder.

    Raises:
        ConvLSTMError: options that do not fit each other, the machine or the folder; nothing is left behind.
    """
    if resume is not None:
        run = RunFolder(given_path("--resume", resume))
        if out is not None:
            raise OptionError(
                "--resume goes on in the run's own folder; received --out as well: leave it out"
            )
        return _resume(run, data, model, config, trust)
    from convlstm.data import MovingObjects
    from convlstm.training.fit import check, fit

    folder = None if out is None else given_path("--out", out)
    config = TrainingConfig() if config is None else config
    data = MovingObjects() if data is None else data
    check(config, data)
    model = _default_model(config.seed) if model is None else model
    check_channels(model, data.channels, f"use --model.channels {data.channels}")
    if _follows():
        run = _leader(folder)
        fit(model, data, _resolved_by(run, config), run)
        return run.path
    run = RunFolder(free_folder(Path("runs/train")) if folder is None else folder)
    text = configuration(data, model, config)
    with _changing(run):
        run.start()
        # First of all, so that a run that is killed can be resumed from here on.
        run.write(run.config, text)
        _train(run, data, model, config)
    return run.path


def load(run: RunFolder, trust: str | Sequence[str] = ()) -> dict[str, Any]:
    """``data``, ``model`` and ``config`` of a run, with fresh weights."""
    from convlstm.cli.options import parse

    return parse(train, [], [], run_settings(run, trust)).build()


def run_settings(run: RunFolder, trust: str | Sequence[str] = ()) -> dict[str, Any]:
    """The settings in the configuration file of a run, once the modules of its classes can be found.

    Raises:
        OptionError: as `read_settings`.
        RunError: it does not say what the run is made of, a module is not found, or a class is of a package
            that is not trusted.
    """
    from convlstm.cli.configuration import read_settings
    from convlstm.cli.trusted import check_classes

    settings = read_settings(run.config)
    for name in ("data", "model"):
        if not settings.get(name):
            raise RunError(
                f"the configuration of a run must hold its {name}; {run.config} holds none: put back "
                "the file as train wrote it"
            )
    run.find_modules(packages(trust))
    check_classes(train, settings, run.path, trust)
    return settings


def settings(_: list[str], options: dict[str, str | None]) -> dict[str, Any]:
    """What options start from: with --resume, those of the run."""
    resume = options.get("resume")
    run = RunFolder(Path(resume)) if resume else None
    return run_settings(run, options.get("trust") or ()) if run is not None and run.config.exists() else {}


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
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _resume(
    run: RunFolder,
    data: Source | None,
    model: Forecaster | None,
    config: TrainingConfig | None,
    trust: str | Sequence[str],
) -> Path:
    """Go on with a run; what is given must be as in its configuration, but for the number of epochs."""
    from convlstm.training.fit import fit

    trust = (*packages(trust), *_packages_of(data, model))
    if _follows():
        parts = load(run, trust)
        config = _resolved_by(run, parts["config"])
        fit(parts["model"], parts["data"], config, run, resume=True)
        return run.path
    run.reopen()
    parts = load(run, trust)
    own = parts["config"]
    for name, given in {"data": data, "model": model}.items():
        if given is not None and described(given) != described(parts[name]):
            raise OptionError(_OWN.format(f"another {name}"))
    if config is not None:
        kept = dataclasses.replace(config, epochs=own.epochs)
        if other := [
            f.name for f in dataclasses.fields(own) if getattr(kept, f.name) != getattr(own, f.name)
        ]:
            raise OptionError(_OWN.format(f"another {', '.join(other)}"))
        own = dataclasses.replace(own, epochs=config.epochs)
    # Objects that a script gives may have weights of their own, which a run without a checkpoint starts from.
    data, model = data or parts["data"], model or parts["model"]
    checkpoint = run.checkpoint()
    with _changing(run):
        if own != parts["config"]:
            run.write(run.config, configuration(data, model, own))
        if checkpoint is None:
            print(f"{run.path} has no checkpoint yet: training starts at the first epoch")
        elif checkpoint == run.best:
            print(f"{run.last} is missing: training goes on from {run.best}")
            run.changes.write(run.last, run.best.read_bytes())
        _train(run, data, model, own, resume=True)
    return run.path


def _train(
    run: RunFolder, data: Source, model: Forecaster, config: TrainingConfig, *, resume: bool = False
) -> None:
    """Note the command and the machine, put numbers in place of ``auto``, train, say what is next."""
    from convlstm.training.fit import fit

    commands = run.commands.read_text() if run.commands.exists() else ""
    run.write(run.commands, f"{commands}{command_line()}\n")
    if not run.environment.exists():
        run.write(run.environment, json.dumps(environment(*_as_plain(data, model)), indent=2) + "\n")
    resolved = _resolve(config, model, data)
    if resolved != config:
        run.write(run.config, configuration(data, model, resolved))
    fit(model, data, resolved, run, resume=resume)
    _say_what_next(run, resolved, _packages_of(data, model))


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
    _wait_until(run.config.exists, run)
    return run


def _resolved_by(run: RunFolder, config: TrainingConfig) -> TrainingConfig:
    """The configuration with the numbers that the first process found for ``auto``."""
    from convlstm.cli.configuration import read_settings

    automatic = [name for name in ("batch_size", "learning_rate") if getattr(config, name) == "auto"]
    found: dict[str, Any] = {}

    def is_found() -> bool:
        settings = read_settings(run.config)
        found.update({name: settings[name] for name in automatic})
        return "auto" not in found.values()

    _wait_until(is_found, run)
    return dataclasses.replace(config, **found)


def _wait_until(done: Callable[[], bool], run: RunFolder) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise RunError(
                f"the first process must write {run.config}; it did not within {_PATIENCE_S} s: "
                "the folder must be one that all machines share"
            )
        time.sleep(0.2)


@contextmanager
def _changing(run: RunFolder) -> Iterator[None]:
    """Put everything back where training is refused before its next checkpoint; say what Ctrl-C leaves."""
    os.environ[_RUN] = str(run.path.resolve())
    try:
        yield
    except KeyboardInterrupt:
        if not run.config.exists():
            run.changes.undo()
            raise KeyboardInterrupt("stopped before training began; nothing is left behind") from None
        kept = "there is no checkpoint yet"
        if run.last.exists():
            kept = f"the last checkpoint is {run.last}"
            kept += f", the best model so far {run.model}" if run.model.exists() else ""
        again = shlex.quote(str(run.path))
        raise KeyboardInterrupt(f"stopped; {kept}; go on with: convlstm train --resume {again}") from None
    except Exception:
        run.changes.undo()
        raise
    finally:
        os.environ.pop(_RUN, None)


def _packages_of(*parts: Source | Forecaster | None) -> tuple[str, ...]:
    """The packages, other than this one and torch, whose classes parts of a run are made of."""
    return tuple(sorted(packages_in(_as_plain(*parts))))


def _as_plain(*parts: Source | Forecaster | None) -> list[dict[str, Any]]:
    """Class and arguments of parts of a run, as `arguments.describe` gives them."""
    return [{"class": path_of(type(p)), "arguments": p.hyperparameters} for p in parts if p is not None]


def _say_what_next(run: RunFolder, config: TrainingConfig, own: tuple[str, ...]) -> None:
    rows = read_metrics(run.metrics)
    best = min(rows, key=lambda row: row["val_loss"])
    print(
        f"trained {len(rows)} of {config.epochs} epochs into {run.path}; "
        f"best validation loss {best['val_loss']:.4g} in epoch {int(best['epoch'])}"
    )
    path = shlex.quote(str(run.path))
    trust = f" --trust {','.join(own)}" if own else ""
    print(f"next: convlstm evaluate {path}{trust}\n      convlstm report {path}")
