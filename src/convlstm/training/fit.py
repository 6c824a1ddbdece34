"""Train a forecaster on a source of frames, into a run folder."""

import copy
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from convlstm.data.base import LabelledWindow, Source, Window, WindowDataset, batch_of, check_labels
from convlstm.errors import DataError, OptionError, RunError, reading
from convlstm.models.base import Forecaster
from convlstm.training.callbacks import (
    AtomicCheckpoints,
    History,
    Patience,
    RunCheckpoint,
    RunLogger,
    Samples,
    Terminable,
    TimedCheckpoint,
    ValueRange,
)
from convlstm.training.config import PRECISIONS, TrainingConfig
from convlstm.training.failures import in_one_sentence, in_one_sentence_again
from convlstm.training.lightning_logging import quiet
from convlstm.training.loaders import evaluation_loader, training_loader
from convlstm.training.losses import loss_named
from convlstm.training.memory import too_large_message
from convlstm.training.module import ForecastModule, OptimizerFactory, SchedulerFactory, check_rollout
from convlstm.training.progress import Progress
from convlstm.training.run_folder import RunFolder
from convlstm.training.signals import ignoring_ended_workers, interruptible
from convlstm.validation import check_instance, received

#: Values that the activations of outputs give, and the share of those of the data that may lie beyond.
_REACH, _ANY, _MOST_BEYOND = {"sigmoid": (0, 1), "relu": (0, math.inf)}, (-math.inf, math.inf), 0.1
_ROUNDED = 1e-4  # white of pictures that were resized lies this little above 1, and less
_AGAIN = "copy it again, or move it out of the run to go on from the other one there"


def fit(
    model: Forecaster,
    data: Source,
    config: TrainingConfig,
    run: RunFolder,
    *,
    resume: bool = False,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    callbacks: Sequence[Callback] = (),
) -> Forecaster:
    """Train, and write the best weights as a model folder into the run.

    Args:
        model: the forecaster; on return it has the best weights.
        data: source of the windows.
        config: settings; ``auto`` must have been resolved.
        run: a folder made by `RunFolder.start`.
        resume: go on from `RunFolder.checkpoint`, if there is one, with the same optimizer and scheduler.
        optimizer: class or factory, called as ``optimizer(parameters, lr=learning_rate)``, such as
            ``functools.partial(torch.optim.SGD, momentum=0.9)``; Adam if None.
        scheduler: class or factory of a learning-rate schedule, called with the optimizer, in place of
            ``config.schedule``; it takes a step with each of the optimizer (ReduceLROnPlateau after each
            epoch, by the validation loss).
        callbacks: Lightning callbacks beside those of every run.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        ConvLSTMError: options that do not fit the machine or each other, or a model that could not be saved,
            before training begins; a loss that is no longer finite; a worker or another process that ended.
        KeyboardInterrupt: stopped by the user; the last checkpoint is kept, and the best model so far.
    """
    if auto := [name for name in ("batch_size", "learning_rate") if getattr(config, name) == "auto"]:
        raise OptionError(
            f"training itself needs numbers; received {auto[0]}=auto: call convlstm.train, which finds them"
        )
    check(config, data)
    notes = _notes(model, data)
    model.check_saved(**notes)
    if not model.training:  # as from_pretrained gives it; parts set to evaluation mode alone stay so
        model.train()
    values = ValueRange()

    def save_best() -> None:
        restore(model, run.best)
        model._convlstm_notes = notes | values.note()  # as if it were loaded
        if trainer.is_global_zero:
            model.save_pretrained(run.model)

    with quiet(), interruptible():
        module = ForecastModule(
            model, config, optimizer=optimizer, scheduler=scheduler, specification=data.specification
        )
        window = data.split("train")[0]
        check_rollout(model, config, window)
        built_in = [*_callbacks(config, run, data), values, terminable := Terminable()]
        _check_callbacks(callbacks, built_in)
        trainer = _trainer(config, run, [*built_in, *callbacks])
        loading = {"rank": trainer.global_rank, "ranks": trainer.world_size, "workers": config.workers}
        loading["batch_size"] = int(config.batch_size)
        checkpoint = run.checkpoint() if resume else None
        done = check_checkpoint(checkpoint, module, built_in, run) if checkpoint else 0
        training = training_loader(data.split("train"), seed=config.seed, steps_done=done, **loading)
        validation = evaluation_loader(data.split("validation"), **loading)
        if trainer.is_global_zero:
            run.changes.folder(run.checkpoints)
            run.changes.folder(run.logs)
        try:
            of_run = run, trainer.world_size, partial(too_large_message, model, window, config)
            with terminable.as_interrupt(), in_one_sentence_again(*of_run), in_one_sentence(*of_run):
                trainer.fit(module, training, validation, ckpt_path=checkpoint, weights_only=True)
        except (KeyboardInterrupt, SystemExit):
            if run.best.exists() and trainer.is_global_zero:
                with ignoring_ended_workers():
                    save_best()
            raise
    save_best()
    return model.cpu().eval()


def check_reach(model: Forecaster, window: Window | LabelledWindow) -> None:
    """Check that the activation of a model's output reaches the values that it shall forecast.

    Args:
        model: one of this library whose ``output`` is the name of an activation; others pass.
        window: of the data, in the scale of the network.

    Raises:
        OptionError: more than a tenth of the measured values lie beyond.
    """
    ours = type(model).__module__.partition(".")[0] == "convlstm"  # what others name so may be scaled later
    output: Any = getattr(model, "output", None) if ours else None
    low, high = _REACH.get(output, _ANY) if isinstance(output, str) else _ANY
    future, valid = window.future, LabelledWindow(*window).future_valid
    values = future if valid is None else future[valid]
    outside = (values < low - _ROUNDED) | (values > high + _ROUNDED)
    beyond = outside.mean(dtype=torch.float32).item() if values.numel() else 0.0
    if beyond > _MOST_BEYOND:
        raise OptionError(
            f"the output of a model must reach the values of its data; output={output} gives "
            f"{'0 to 1' if high == 1 else '0 and more'}, and {beyond:.0%} of the first training window lie "
            "beyond in the scale of the network: give output=linear (--model.output linear)"
        )


def _notes(model: Forecaster, data: Source) -> dict[str, Any]:
    """Notes of the model folder: what the model was trained on, beside those that it was loaded with."""
    notes: dict[str, Any] = dict(getattr(model, "_convlstm_notes", {}))
    notes.pop("specification", None)  # that of other data
    notes |= {"past": data.past, "steps": data.steps, "data": data.describe()}
    if data.specification is not None:
        notes["specification"] = data.specification.to_dict()
    return notes


def restore(model: Forecaster, checkpoint: Path) -> None:
    """Load a checkpoint's weights (the averaged ones, where there are any) into a forecaster."""
    weights = read_checkpoint(checkpoint)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        RunError: missing, truncated, or not a checkpoint of a forecaster.
    """
    if not path.exists():
        raise RunError(f"a checkpoint must exist; there is no {path}: train first")
    with reading(path, "be a whole file written by convlstm train", _AGAIN, RunError):
        content = torch.load(path, map_location="cpu", weights_only=True)
    kinds = {"state_dict": dict, "loops": dict, "callbacks": dict, "epoch": int, "global_step": int}
    kinds |= {"optimizer_states": list, "lr_schedulers": list}
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), kind) for name, kind in kinds.items()
    ):
        raise RunError(f"a checkpoint must be written by convlstm train; {path} holds something else")
    return content


def check_checkpoint(
    path: Path, module: ForecastModule, callbacks: Sequence[Callback], run: RunFolder
) -> int:
    """Check that a checkpoint can be resumed by this module and the callbacks of every run.

    Returns:
        The steps that it was trained for.

    Raises:
        RunError: unreadable, of another architecture, optimizer or schedule, without their states, trained
            for more epochs than are wanted, or without the best checkpoint of its epochs.
    """
    content = read_checkpoint(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if shapes != expected:
        name = sorted(set(shapes.items()) ^ set(expected.items()))[0][0]
        raise RunError(
            f"a checkpoint must fit the model it resumes; {path} differs at {name} "
            f"({shapes.get(name)} stored, {expected.get(name)} expected): use the run's own configuration"
        )
    if content["epoch"] >= module.config.epochs:
        raise RunError(
            f"epochs must be at least those that a run was trained for, {content['epoch'] + 1}; received "
            f"{module.config.epochs}: give more"
        )
    stored = content.get("optimizer_classes", ["torch.optim.adam.Adam", None])  # none in earlier versions
    if stored != module.optimizer_classes:
        names = [" with ".join(filter(None, classes)) for classes in (stored, module.optimizer_classes)]
        raise RunError(
            f"a run goes on with its own optimizer and scheduler, {names[0]}; received {names[1]}: give the "
            "same again"
        )
    # The states are loaded into objects of their own first, as Lightning changes some before it fails.
    with reading(path, "hold the states of optimizer and callbacks as they wrote them", _AGAIN, RunError):
        (state,) = content["optimizer_states"]
        module.new_optimizer().load_state_dict(copy.deepcopy(state))
        complete = False  # at least one epoch
        for callback in callbacks:
            if (state := content["callbacks"].get(callback.state_key)) is not None:
                copy.deepcopy(callback).load_state_dict(state)
                complete |= isinstance(callback, History) and bool(state["rows"])
    if complete and not run.best.exists():
        raise run.without_best()
    steps: int = content["global_step"]
    return steps


def check(config: TrainingConfig, data: Source) -> None:
    """Check that machine and data fit the settings.

    Raises:
        OptionError: no GPU, fewer devices than asked for, a precision the CPU cannot do, or a batch larger
            than what there is for each process, a loss with thresholds for data without a unit.
        DataError: a split without windows, windows of another length or dtype than the source says, or a loss
            that does not fit their unit.
        ShapeError: labels of windows that are not those of their frames.
    """
    _check_machine(config)
    loss_named(config.loss, data.specification)
    source_says = (data.past, data.steps, torch.float32)
    for split in ("train", "validation"):
        windows = check_instance(
            data.split(split), WindowDataset, f"the {split} split of data", "derive it from that class"
        )
        if not len(windows):
            raise DataError(
                f"each split must hold windows of {data.past} + {data.steps} frames; {split} of "
                f"{data.describe()} holds none: give more frames or shorter windows"
            )
        window = windows[0]
        check_instance(
            window, (Window, LabelledWindow), f"a window of {split}", "return Window(past, future)"
        )
        check_labels(LabelledWindow(*window))
        if (received := (len(window.past), len(window.future), window.past.dtype)) != source_says:
            raise DataError(
                f"a window must hold float32 frames, {data.past} in the past and {data.steps} in the future, "
                f"as its source says; the first of {split} holds {received[0]} and {received[1]} of "
                f"{received[2]}: correct the source"
            )
    share = len(data.split("train")) // (config.devices * config.nodes)
    if (1 if config.batch_size == "auto" else config.batch_size) > share:
        raise OptionError(
            f"batch_size must be at most the training windows of each process, {share}; received "
            f"{config.batch_size}: lower it or give more data"
        )


def _check_machine(config: TrainingConfig) -> None:
    gpus = torch.cuda.device_count()
    on_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and gpus > 0)
    if config.accelerator == "gpu" and not gpus:
        raise OptionError("accelerator=gpu needs a GPU; none was found: use --accelerator cpu")
    kind, number = ("GPUs", gpus) if on_gpu else ("CPU cores", _cores())
    if config.devices > number:
        raise OptionError(
            f"devices must be at most the number of {kind} ({number}); received {config.devices}"
        )
    if not on_gpu and config.precision == "16-mixed":
        raise OptionError("precision=16-mixed needs a GPU; this run is on the CPU: use bf16-mixed or 32")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _callbacks(config: TrainingConfig, run: RunFolder, data: Source) -> list[Callback]:
    """The callbacks of every run."""
    window = LabelledWindow(*batch_of([data.split("validation")[0]]))
    callbacks: list[Callback] = [
        History(run),
        Samples(window),
        Progress(),
        RunCheckpoint(run.best, monitor="val_loss"),
        RunCheckpoint(run.last),  # apart, as Lightning's `save_last` only follows an improvement
    ]
    if config.ema:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    if config.checkpoint_minutes:
        callbacks.append(TimedCheckpoint(run.last, config.checkpoint_minutes))
    if config.patience:
        callbacks.append(Patience(config.patience))
    return callbacks


def _check_callbacks(callbacks: Sequence[Callback], built_in: Sequence[Callback]) -> None:
    """Check injected callbacks.

    Raises:
        OptionError: no callbacks, or one that a checkpoint cannot tell from another.
    """
    if not isinstance(callbacks, Sequence):
        raise OptionError(f"callbacks must be a list; received {received(callbacks)}: write [callback]")
    keys = {callback.state_key for callback in built_in}
    for callback in callbacks:
        key = check_instance(callback, Callback, "each of callbacks").state_key
        if key in keys and type(callback).state_dict is not Callback.state_dict:
            raise OptionError(
                f"callbacks must differ in their state_key, by which a checkpoint stores them; received a "
                f"second {key}: leave it out, or override its state_key"
            )
        keys.add(key)


def _trainer(config: TrainingConfig, run: RunFolder, callbacks: list[Callback]) -> Trainer:
    seed_everything(config.seed, workers=True, verbose=False)
    return new_trainer(
        config,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        max_epochs=config.epochs,
        logger=RunLogger(run),
        callbacks=callbacks,
        plugins=[AtomicCheckpoints(run)],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=run.path,
    )


def new_trainer(config: TrainingConfig, **options: Any) -> Trainer:
    """A trainer of Lightning for a configuration, without bars, summaries and samplers of its own."""
    return Trainer(
        accelerator=config.accelerator,
        precision=PRECISIONS[config.precision],
        gradient_clip_val=config.gradient_clip or None,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
