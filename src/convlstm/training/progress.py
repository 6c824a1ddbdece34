"""The progress of a training in the terminal."""

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import progress
from rich.console import Console


class Progress(Callback):
    """A bar over the run with steps, losses and the time left; one line per epoch where there is no terminal.

    During an epoch the bar shows the loss of the batch, at its end the training and validation loss of it.
    """

    def __init__(self) -> None:
        self._bar: progress.Progress | None = None
        self._task = progress.TaskID(0)
        self._start = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self._start, self._first_step = time.monotonic(), trainer.global_step
        console = Console(stderr=True)
        if not (trainer.is_global_zero and console.is_terminal):
            return
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(bar_width=None),  # as wide as the rest leaves it
            progress.TextColumn("{task.completed}/{task.total}"),
            progress.TextColumn("{task.fields[losses]}"),
            progress.TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task = self._bar.add_task(
            "training",
            total=int(trainer.estimated_stepping_batches),
            completed=trainer.global_step,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            losses="",
        )
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar."""
        if self._bar is not None:
            losses = f"batch {float(outputs['loss']):.4g}"
            epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.update(self._task, completed=trainer.global_step, losses=losses, epoch=epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the losses of the epoch: on the bar, or in a line where there is none."""
        if not trainer.is_global_zero:
            return
        train, validation = (float(trainer.callback_metrics[name]) for name in ("train_loss", "val_loss"))
        if self._bar is not None:
            self._bar.update(self._task, losses=f"train {train:.4g}  val {validation:.4g}", refresh=True)
            return
        spent = time.monotonic() - self._start
        done = trainer.global_step - self._first_step
        left = spent / max(done, 1) * (int(trainer.estimated_stepping_batches) - trainer.global_step)
        sys.stderr.write(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  train {train:.4g}  "
            f"validation {validation:.4g}  {spent:.0f} s, {max(left, 0):.0f} s left\n"
        )
        sys.stderr.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the progress bar before a message is printed."""
        self.on_train_end(trainer, pl_module)
