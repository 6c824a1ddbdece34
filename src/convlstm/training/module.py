"""The Lightning module of a forecaster."""

import copy
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

from convlstm.data.base import LabelledWindow, Window
from convlstm.data.specification import Specification
from convlstm.errors import DataError, OptionError, RunError
from convlstm.models.base import Forecaster, check_forecast, labels_taken, run_forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.losses import loss_named, mse
from convlstm.training.scheduled_sampling import Curriculum
from convlstm.training.windows import reversed_in_time, split_after
from convlstm.validation import check_callable, check_instance, received

OptimizerFactory = Callable[..., Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]
_CALLS = {"optimizer": "optimizer(parameters, lr=learning_rate)", "scheduler": "scheduler(optimizer)"}
_MEANS = ("train_loss", "train_penalty")  # over the steps of an epoch


def _check_values(loss: Tensor, batch: LabelledWindow, batch_idx: int, split: str) -> None:
    """Check the weights of a batch, and its frames if the loss is not finite; on a GPU those of the first.

    Raises:
        DataError: weights or frames that are NaN or infinite, or weights below 0.
    """
    if batch_idx and loss.device.type != "cpu":
        return
    if batch.weight is not None:
        refused = batch.weight[~((batch.weight >= 0) & batch.weight.isfinite())]
        if len(refused):
            raise DataError(
                f"weights of windows must be finite and at least 0; a batch of {split} windows has "
                f"{refused[0].item():g}: give 0 to those to leave out"
            )
    if bool(torch.isfinite(loss)):
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


def from_first_frame(config: TrainingConfig) -> bool:
    """True if the model makes every frame of a window but the first, and not those of the forecast alone."""
    return config.loss_frames == "all" or config.curriculum == "reverse"


def check_rollout(model: Forecaster, config: TrainingConfig, window: Window | LabelledWindow) -> None:
    """Check that the model may make frames of the past too, where the configuration has it make them.

    It must read an observed frame as it reads a true one during its forecast, so that a rollout from the
    first frame, with the true ones of the past, ends in the forecast of that past. This is tried on a copy of
    the model and frames of noise.

    Args:
        model: left as it was.
        config: settings of the training.
        window: of the data; its shape alone is used.

    Raises:
        OptionError: it reads them in another way.
    """
    if not from_first_frame(config) or len(window.past) < 2:
        return
    tried, draw = copy.deepcopy(model).cpu().eval().double(), torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.rand(1, 3, *like.shape[1:], dtype=torch.float64, generator=draw)

    frames, inputs = noise(window.past), LabelledWindow(*window).inputs
    inputs = None if inputs is None else noise(inputs)
    truth = {"future": frames[:, 1:], "forced": torch.ones(1, 2, dtype=torch.bool)}
    with torch.no_grad():
        usual = run_forecaster(tried, frames[:, :2], 1, inputs)
        whole = run_forecaster(tried, frames[:, :1], 2, inputs, **truth)[:, 1:]
    if not torch.allclose(whole, usual, rtol=1e-6, atol=1e-9):
        chosen = "loss_frames=all" if config.loss_frames == "all" else "curriculum=reverse"
        raise OptionError(
            f"{chosen} needs a forecaster that reads frames of the past as it reads true frames during the "
            f"forecast; {type(model).__name__} does not: use loss_frames=forecast and another curriculum"
        )


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
        self.train_penalty = MeanMetric(nan_strategy="disable")
        self.validated = 0  # measured values of the validation windows so far, of this process
        self.weighed = False  # a value of a training window so far, of this process, counted in the loss
        self.curriculum = Curriculum(config.curriculum, config.curriculum_steps)
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise OptionError(
                f"training needs a model with parameters; received {type(model).__name__}, which has none "
                "that require gradients: evaluate it as it is, or call requires_grad_() on some"
            )
        takes = inspect.signature(model.forward).parameters
        if not {"future", "forced"} <= takes.keys():
            for name, usual in (("curriculum", "free"), ("loss_frames", "forecast")):
                if (chosen := getattr(config, name)) != usual:
                    raise OptionError(
                        f"{name}={chosen} needs a forecaster whose forward takes future= and forced=; "
                        f"received {type(model).__name__}: use {name}={usual}"
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
        """Seed, and begin new means of the loss and the penalty."""
        self.on_train_start()
        self.train_loss.reset()
        self.train_penalty.reset()

    def on_train_batch_end(self, *args: Any) -> None:
        """Seed for the next step."""
        self.on_train_start()
        # Otherwise Lightning takes no step of ReduceLROnPlateau after an epoch that was resumed.
        self.trainer.fit_loop.restarting = False

    def training_step(self, batch: LabelledWindow, batch_idx: int) -> Tensor:
        """The loss of one batch, with the penalty of the model."""
        ranks = self.trainer.world_size
        mean = self.trainer.strategy.reduce if ranks > 1 else None
        batch = LabelledWindow(*batch)
        loss, penalty = self.losses(batch, ranks, mean)
        _check_values(loss, batch, batch_idx, "training")
        weights = [label for label in (batch.future_valid, batch.weight) if label is not None]
        self.weighed = self.weighed or all(bool((label > 0).any()) for label in weights)
        self.train_loss.update(loss.detach())
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        total = loss if penalty is None else loss + penalty
        if not total.requires_grad:
            raise OptionError(
                "training needs a forecast that depends on a parameter that requires gradients; received a "
                f"{type(self.model).__name__} whose forecast does not: leave out torch.no_grad and detach"
            )
        if penalty is not None:
            self.train_penalty.update(penalty.detach())
            self.log("train_penalty", self.train_penalty, on_step=False, on_epoch=True)
        return total

    def losses(
        self, batch: LabelledWindow, ranks: int = 1, mean: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch in training, and the penalty of the model; None for none.

        Args:
            batch: of windows.
            ranks: number of processes.
            mean: as for `loss_weight`.
        """
        step = self.global_step
        if self.config.reverse_input and step % 2:
            batch = reversed_in_time(batch)
        first, steps, observed = batch, batch.future.shape[1], 0
        if from_first_frame(self.config):  # those of the past are fed as the true frames of a future are
            observed = batch.past.shape[1] - 1
            first = split_after(batch, 1)
        truth: dict[str, Tensor] = {}
        if observed or self.curriculum.probability(step) > 0:
            shares = {"rank": self.global_rank, "ranks": ranks}
            forced = self.curriculum.draw(
                step, len(batch.past), steps, past=observed, seed=self.config.seed, **shares
            ).to(batch.past.device)
            if batch.future_valid is not None:  # where the truth was not measured, the forecast goes on
                forced = forced.view(*forced.shape, *(1,) * (batch.future.ndim - 2))
                read = torch.ones_like(first.future[:, :observed], dtype=torch.bool)  # filled, as any past
                forced = forced & torch.cat([read, batch.future_valid], dim=1)
            truth = {"future": first.future, "forced": forced}
        labels = labels_taken(self.model, first.inputs, first.past_valid, first.times)
        forecast, penalty = self.model.with_penalty(first.past, observed + steps, **labels, **truth)
        check_forecast(self.model, forecast, first.past, observed + steps)
        if penalty is not None and not (isinstance(penalty, Tensor) and penalty.numel() == 1):
            found = f"a tensor {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else received(penalty)
            raise OptionError(
                "the penalty of a model must be a tensor of one number, or None; that of a "
                f"{type(self.model).__name__} is {found}: return a mean or a sum"
            )
        if self.config.loss_frames == "forecast":
            first, forecast = batch, forecast[:, observed:]
        return self.loss(forecast, first.future, loss_weight(first, mean)), penalty

    def on_train_epoch_end(self) -> None:
        """Check that loss and penalty are finite, and that there are a training and a validation loss.

        Raises:
            RunError: one is not finite.
            DataError: nothing was measured in the training or the validation windows.
        """
        if not self.validated and math.isnan(float(self.trainer.callback_metrics.get("val_mse", 0.0))):
            raise DataError(
                "validation windows must have measured pixels, by which the best model is chosen; received "
                "none: choose another split"
            )
        if not self.weighed and float(self.trainer.callback_metrics.get("train_loss", 1.0)) == 0:
            raise DataError(
                "training windows must have measured pixels, with weights above 0; received none: choose "
                "another split"
            )
        for name in ("loss", "penalty"):
            value = float(self.trainer.callback_metrics.get(f"train_{name}", 0.0))
            if not math.isfinite(value):
                raise RunError(
                    f"the training {name} must stay finite; it is {value} after step {self.global_step}: "
                    "lower learning_rate or gradient_clip, or use precision 32"
                )

    def on_validation_epoch_start(self) -> None:
        """Begin to count the measured values."""
        self.validated = 0

    def validation_step(self, batch: LabelledWindow, batch_idx: int) -> None:
        """Loss and MSE of one batch, in free running."""
        batch = LabelledWindow(*batch)
        past, future, weight = batch.past, batch.future, loss_weight(batch)
        labels = {"inputs": batch.inputs, "valid": batch.past_valid, "times": batch.times}
        forecast = run_forecaster(self.model, past, future.shape[1], **labels)
        check_forecast(self.model, forecast, past, future.shape[1])
        # Each batch counts by its measured pixels.
        size = future.numel() if batch.future_valid is None else int(batch.future_valid.sum())
        self.validated += size
        options: dict[str, Any] = {"on_epoch": True, "batch_size": size, "sync_dist": True}
        loss = self.loss(forecast, future, weight)
        _check_values(loss, batch, batch_idx, "validation")
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
            steps = max(2, steps)  # the last one has almost no learning rate
            cycles = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))  # Adagrad has neither
            schedule = OneCycleLR(
                optimizer, max_lr=rate, total_steps=steps, pct_start=0.15, cycle_momentum=cycles
            )
        interval = "epoch" if isinstance(schedule, ReduceLROnPlateau) else "step"
        scheduled = {"scheduler": schedule, "interval": interval, "monitor": "val_loss"}
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": scheduled})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the means so far, and the classes that the states of optimizer and schedule belong to."""
        checkpoint["optimizer_classes"] = self.optimizer_classes
        for name in _MEANS:
            metric = getattr(self, name)
            sums = torch.stack([metric.mean_value, metric.weight])
            checkpoint[name] = cast(Tensor, self.all_gather(sums)).view(-1, 2).cpu()  # of every process

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the means; let the built-in schedule span all epochs wanted, maybe more than before."""
        for name in _MEANS:
            if (sums := checkpoint.get(name)) is not None and self.global_rank < len(sums):
                metric = getattr(self, name)
                metric.mean_value, metric.weight = sums[self.global_rank].clone()
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
