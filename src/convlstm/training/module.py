"""A forecaster as Lightning trains it."""

import inspect
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from convlstm.data.base import Window
from convlstm.errors import DataError, OptionError, RunError
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.losses import LOSSES
from convlstm.training.scheduled_sampling import Curriculum


def _check_finite(loss: Tensor, batch: Window, batch_idx: int, split: str) -> None:
    """Where a loss is not finite, see whether the frames are to blame; a GPU is asked at the first batch."""
    if (batch_idx and loss.device.type != "cpu") or bool(torch.isfinite(loss)):
        return
    bad = sum(int((~torch.isfinite(frames)).sum()) for frames in batch)
    if bad:
        raise DataError(
            f"frames must be finite; a batch of {split} windows holds {bad} NaN or infinite values: fill "
            "them in the source, or leave such windows out"
        )


class ForecastModule(LightningModule):
    """Loss, curriculum and optimiser around a forecaster.

    Args:
        model: what is trained.
        config: how.

    Raises:
        OptionError: nothing to train, or a curriculum that feeds the truth to a forecaster that cannot take
            it.
    """

    def __init__(self, model: Forecaster, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.loss = LOSSES[config.loss]
        self.curriculum = Curriculum(config.curriculum, config.curriculum_steps)
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

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """The forecaster's own call."""
        forecast: Tensor = self.model(past, steps)
        return forecast

    def on_train_epoch_start(self) -> None:
        """Seed by epoch, so that whatever is drawn inside a model is drawn again by a resumed run."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.current_epoch * 1009 + self.global_rank)

    def training_step(self, batch: Window, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        past, future = batch
        if self.curriculum.probability(self.global_step) > 0:
            forced = self.curriculum.draw(
                self.global_step,
                past.shape[0],
                future.shape[1],
                seed=self.config.seed,
                rank=self.global_rank,
                ranks=self.trainer.world_size,
            )
            forecast = self.model(past, future.shape[1], future=future, forced=forced.to(past.device))
        else:
            forecast = self.model(past, future.shape[1])
        loss = self.loss(forecast, future)
        _check_finite(loss, batch, batch_idx, "training")
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(past), sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop at once when the loss is no longer a number."""
        loss = float(self.trainer.callback_metrics["train_loss"])
        if not math.isfinite(loss):
            raise RunError(
                f"the training loss must stay finite; it is {loss} after step {self.global_step}: "
                "lower learning_rate or gradient_clip, or use precision 32"
            )

    def validation_step(self, batch: Window, batch_idx: int) -> None:
        """Loss and MSE of one batch, always free running."""
        past, future = batch
        forecast = self.model(past, future.shape[1])
        options: dict[str, Any] = {"on_epoch": True, "batch_size": len(past), "sync_dist": True}
        loss = self.loss(forecast, future)
        _check_finite(loss, batch, batch_idx, "validation")
        self.log("val_loss", loss, **options)
        self.log("val_mse", LOSSES["mse"](forecast, future), **options)

    def configure_optimizers(self) -> Any:
        """Adam, with the learning rate rising to its maximum and falling to almost nothing (Smith 2018).

        A run that goes on for more epochs than planned takes the rate that this schedule over all of them has
        at its step.
        """
        rate = float(self.config.learning_rate)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        if self.config.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=int(self.trainer.estimated_stepping_batches), pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the schedule span the epochs that are wanted now, which may be more than at first."""
        for state in checkpoint["lr_schedulers"]:
            for planned in ("total_steps", "_schedule_phases"):
                state.pop(planned, None)
