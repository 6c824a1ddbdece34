"""The Lightning module of a forecaster."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer, SparseAdam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torchmetrics import MeanMetric

from convlstm.data.base import LabelledWindow
from convlstm.data.specification import Specification
from convlstm.errors import DataError, OptionError, RunError
from convlstm.models.base import Forecaster, run_forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.losses import loss_named, mse
from convlstm.training.scheduled_sampling import Curriculum
from convlstm.validation import check_callable, check_instance, received

OptimizerFactory = Callable[..., Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]
_CALLS = {"optimizer": "optimizer(parameters, lr=learning_rate)", "scheduler": "scheduler(optimizer)"}


def _check_finite(loss: Tensor, batch: LabelledWindow, batch_idx: int, split: str) -> None:
    """Check the frames of a batch whose loss is not finite; on a GPU the first batch of an epoch alone.

    Raises:
        DataError: the frames hold NaN or infinite values.
    """
    if (batch_idx and loss.device.type != "cpu") or bool(torch.isfinite(loss)):
        return
    bad = sum(int((~torch.isfinite(frames)).sum()) for frames in batch[:2])
    if bad:
        raise DataError(
            f"frames must be finite; a batch of {split} windows holds {bad} NaN or infinite values: fill "
            "them in the source, or leave such windows out"
        )


def loss_weight(batch: LabelledWindow, mean: Callable[[Tensor], Tensor] | None = None) -> Tensor | None:
    """Weights of a batch in the loss, which expand to its future; None for 1 everywhere.

    Where a pixel was not measured it is 0, elsewhere the weight of the window divided by the share of
    measured pixels, so that a mean over all pixels is one over the measured ones. Weights of windows are not
    brought to a mean of 1, as then their mean over batches would not be that of uniform sampling.

    Args:
        batch: of windows.
        mean: of a number over all processes, so that their mean gradient is that of one batch; None for one.
    """
    weight = None if batch.weight is None else batch.weight.view(-1, *(1,) * (batch.future.ndim - 1))
    if batch.future_valid is None:
        return weight
    measured = batch.future_valid.mean(dtype=torch.float32)
    if mean is not None:
        measured = mean(measured)
    valid = batch.future_valid / measured.clamp(min=torch.finfo(torch.float32).tiny)
    return valid if weight is None else weight * valid


class ForecastModule(LightningModule):
    """Loss, scheduled sampling, optimizer and learning-rate schedule of a forecaster.

    Args:
        model: the forecaster.
        config: settings of the training.
        optimizer: called as ``optimizer(parameters, lr=learning_rate)``; Adam if None.
        scheduler: called with the optimizer; the schedule of the configuration if None.
        specification: of the data, for losses with thresholds.

    Raises:
        OptionError: no parameters, a curriculum for a forecaster without ``future`` and ``forced``, factories
            that make no optimizer and no schedule, or a loss with thresholds without a specification.
        DataError: a loss that does not fit the data.
    """

    def __init__(
        self,
        model: Forecaster,
        config: TrainingConfig,
        *,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        specification: Specification | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.loss = loss_named(config.loss, specification)
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.curriculum = Curriculum(config.curriculum, config.curriculum_steps)
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise OptionError(
                f"training needs a model with parameters; received {type(model).__name__}, which has none: "
                "evaluate it as it is"
            )
        takes = inspect.signature(model.forward).parameters
        if config.curriculum != "free" and not {"future", "forced"} <= takes.keys():
            raise OptionError(
                f"curriculum={config.curriculum} needs a forecaster whose forward takes future= and forced=; "
                f"received {type(model).__name__}: use curriculum=free"
            )
        made = self.new_optimizer()  # before any work; training makes its own
        #: Classes of the optimizer and of the injected schedule, as checkpoints store them.
        self.optimizer_classes = [_name(made), scheduler and _name(self._new_scheduler(made))]

    def new_optimizer(self) -> Optimizer:
        """A fresh optimizer of the model's parameters.

        Raises:
            OptionError: the factory fails, or makes something else.
        """
        factory: OptimizerFactory = self.optimizer_factory or torch.optim.Adam
        if isinstance(factory, partial) and "lr" in factory.keywords:
            raise OptionError(
                "the learning rate of the optimizer must be given as learning_rate; received "
                f"lr={factory.keywords['lr']!r} of the optimizer as well: leave it out"
            )
        made = _call("optimizer", factory, self.model.parameters(), lr=float(self.config.learning_rate))
        if isinstance(made, SparseAdam):
            raise OptionError(
                "an optimizer must take dense gradients, which convolutions have; received "
                f"{received(made)}: give another, such as Adam"
            )
        return check_instance(made, Optimizer, "the result of optimizer")

    def _new_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        made = _call("scheduler", self.scheduler_factory, optimizer)
        return check_instance(made, LRScheduler, "the result of scheduler")

    def forward(self, past: Tensor, steps: int, inputs: Tensor | None = None) -> Tensor:
        """Forecast, in free running."""
        return run_forecaster(self.model, past, steps, inputs)

    def on_train_start(self) -> None:
        """Seed by step, so that a resumed run repeats the random numbers drawn inside a model."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.global_step * 1009 + self.global_rank)

    def on_train_epoch_start(self) -> None:
        """Seed, and begin a new mean of the loss."""
        self.on_train_start()
        self.train_loss.reset()

    def on_train_batch_end(self, *args: Any) -> None:
        """Seed for the next step."""
        self.on_train_start()
        # Otherwise Lightning takes no step of ReduceLROnPlateau after an epoch that was resumed.
        self.trainer.fit_loop.restarting = False

    def training_step(self, batch: LabelledWindow, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        batch = LabelledWindow(*batch)
        past, future = batch.past, batch.future
        truth: dict[str, Tensor] = {}
        if self.curriculum.probability(self.global_step) > 0:
            ranks = {"rank": self.global_rank, "ranks": self.trainer.world_size}
            sizes = past.shape[0], future.shape[1]
            forced = self.curriculum.draw(self.global_step, *sizes, seed=self.config.seed, **ranks)
            forced = forced.to(past.device)
            if batch.future_valid is not None:  # where the truth was not measured, the forecast goes on
                forced = forced.view(*sizes, *(1,) * (future.ndim - 2)) & batch.future_valid
            truth = {"future": future, "forced": forced}
        forecast = run_forecaster(self.model, past, future.shape[1], batch.inputs, **truth)
        mean = self.trainer.strategy.reduce if self.trainer.world_size > 1 else None
        loss = self.loss(forecast, future, loss_weight(batch, mean))
        _check_finite(loss, batch, batch_idx, "training")
        self.train_loss.update(loss.detach())
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Check that the loss is finite.

        Raises:
            RunError: it is not.
        """
        loss = float(self.trainer.callback_metrics["train_loss"])
        if not math.isfinite(loss):
            raise RunError(
                f"the training loss must stay finite; it is {loss} after step {self.global_step}: "
                "lower learning_rate or gradient_clip, or use precision 32"
            )

    def validation_step(self, batch: LabelledWindow, batch_idx: int) -> None:
        """Loss and MSE of one batch, in free running."""
        batch = LabelledWindow(*batch)
        past, future, weight = batch.past, batch.future, loss_weight(batch)
        forecast = run_forecaster(self.model, past, future.shape[1], batch.inputs)
        # Each batch counts by its measured pixels.
        size = future.numel() if batch.future_valid is None else int(batch.future_valid.sum())
        options: dict[str, Any] = {"on_epoch": True, "batch_size": size, "sync_dist": True}
        loss = self.loss(forecast, future, weight)
        _check_finite(loss, batch, batch_idx, "validation")
        self.log("val_loss", loss, **options)
        self.log("val_mse", mse(forecast, future, weight), **options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with OneCycleLR, which warms up and decays to almost nothing (Smith 2018), or as injected.

        A run that goes on for more epochs than planned has the learning rate of a schedule over all of them.
        An injected schedule takes a step with each of the optimizer; ReduceLROnPlateau takes one after each
        epoch, by the validation loss.
        """
        optimizer = self.new_optimizer()
        if self.scheduler_factory is not None:
            schedule = self._new_scheduler(optimizer)
        elif self.config.schedule == "constant":
            return optimizer
        else:
            rate, steps = float(self.config.learning_rate), int(self.trainer.estimated_stepping_batches)
            cycles = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))  # Adagrad has neither
            schedule = OneCycleLR(
                optimizer, max_lr=rate, total_steps=steps, pct_start=0.15, cycle_momentum=cycles
            )
        interval = "epoch" if isinstance(schedule, ReduceLROnPlateau) else "step"
        scheduled = {"scheduler": schedule, "interval": interval, "monitor": "val_loss"}
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": scheduled})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the mean loss so far, and the classes that the states of optimizer and schedule belong to."""
        checkpoint["optimizer_classes"] = self.optimizer_classes
        sums = torch.stack([self.train_loss.mean_value, self.train_loss.weight])
        checkpoint["train_loss"] = cast(Tensor, self.all_gather(sums)).view(-1, 2).cpu()  # of every process

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the mean loss; let the built-in schedule span all epochs wanted, maybe more than before."""
        if (sums := checkpoint.get("train_loss")) is not None and self.global_rank < len(sums):
            self.train_loss.mean_value, self.train_loss.weight = sums[self.global_rank].clone()
        for state in checkpoint["lr_schedulers"] if self.scheduler_factory is None else ():
            for planned in ("total_steps", "_schedule_phases"):
                state.pop(planned, None)


def _call(name: str, factory: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of a factory, its errors as those of the option."""
    check_callable(factory, name, f"pass a class, or functools.partial(CLASS, ...), called by {_CALLS[name]}")
    try:
        return factory(*args, **kwargs)
    except Exception as error:  # a factory may raise anything
        raise OptionError(
            f"{name} must be callable by {_CALLS[name]}; {received(factory)} gave '{error}': give the other "
            "arguments by functools.partial"
        ) from error


def _name(made: object) -> str:
    return f"{type(made).__module__}.{type(made).__qualname__}"
