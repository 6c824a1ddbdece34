"""Callbacks and logger of every run: checkpoints, the table of losses, sample pictures, an early end."""

import csv
import io
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from convlstm.atomic_write import write_atomically
from convlstm.data.base import LabelledWindow
from convlstm.errors import RunError
from convlstm.pictures.frames import film_strip
from convlstm.training.run_folder import RunFolder

COLUMNS = ("epoch", "step", "train_loss", "val_loss", "val_mse", "learning_rate", "teacher", "seconds")
_FURTHER = ("train_penalty", "teacher_past")  # of a model with a penalty, and of a curriculum for the past


class RunLogger(TensorBoardLogger):
    """TensorBoard's event files of a run, without a file of hyperparameters: config.yaml holds them."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(run.path, name=run.logs.name, version="")
        self.run = run

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; its file is recorded as made by this process."""
        if self._experiment is None:
            before = set(self.run.logs.glob("*"))
            try:
                super().experiment  # noqa: B018
            finally:  # on a full disk its file is made, and cannot be written
                for path in set(self.run.logs.glob("*")) - before:
                    self.run.changes.made(path)
        return self._experiment

    def save(self) -> None:
        """Flush the event file."""
        super(TensorBoardLogger, self).save()


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, even if the process or the machine dies in between.

    Args:
        run: the folder of the run; files made in it until a checkpoint is written stay with it.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.run = run

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write and flush a file beside ``path``, then move it there."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # that of a user's own checkpoints
        write_atomically(Path(path), buffer.getvalue())
        self.run.changes.keep()


class RunCheckpoint(ModelCheckpoint):
    """Writes a checkpoint of the run after each epoch, or after each that was the best by a loss.

    Args:
        path: the file.
        monitor: name of the loss; None for every epoch.
    """

    def __init__(self, path: Path, monitor: str | None = None) -> None:
        super().__init__(
            path.parent,
            filename=path.stem,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a best model of no finite loss, also of a resumed run that has no epoch left.

        Raises:
            RunError: the loss was finite after no epoch.
        """
        best = self.best_model_score
        if best is not None and not bool(best.isfinite()):
            raise RunError(
                "the validation loss must be finite after one epoch at least, as it chooses the model; it "
                "was not after any: lower learning_rate or gradient_clip, or use precision 32"
            )

    @property
    def state_key(self) -> str:
        """The key of Lightning's own class, which earlier versions used."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state with its paths changed to the run's present folder.

        Lightning drops the best score where a folder has another name than before.
        """

        def moved(path: str) -> str:
            return path and os.path.join(str(self.dirpath), os.path.basename(path))

        state: dict[str, Any] = state_dict | {"dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = moved(state[name])
        state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
        super().load_state_dict(state)


class Patience(EarlyStopping):
    """Stops training after so many epochs without a better validation loss.

    A run that it has stopped is not trained further when it is resumed, unless with more patience.

    Args:
        epochs: their number.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val_loss", patience=epochs, check_on_train_epoch_end=True)

    @property
    def state_key(self) -> str:
        """The key of Lightning's own class, which earlier versions used."""
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, but for the patience that was configured before."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no epoch of a run that was stopped."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class TimedCheckpoint(Checkpoint):
    """Writes a checkpoint within an epoch, after the first step that ends so many minutes after the last one.

    Args:
        path: the file.
        minutes: above 0.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.seconds = path, 60 * minutes
        self._written = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write it if the time has come, but not after the last step of an epoch, which has its own."""
        if batch_idx + 1 == trainer.num_training_batches:
            return
        due = trainer.strategy.broadcast(time.monotonic() - self._written >= self.seconds)
        if due:
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()


class Terminable(Callback):
    """SIGTERM stops training as Ctrl-C does, and neither is lost.

    Lightning's handler waits for all ranks, while ``kill`` and ``timeout`` signal the first alone. Python
    drops what a handler raises while an object is destroyed or a process forked, as workers are at every
    epoch: the next batch raises it again.

    Attributes:
        stopped: a signal came.
    """

    stopped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler and Python's."""
        if current_thread() is main_thread():
            first = trainer.is_global_zero
            signal.signal(signal.SIGTERM, self._stop if first else signal.SIG_DFL)
            if first and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._stop)

    @contextmanager
    def as_interrupt(self) -> Iterator[None]:
        """Raise an error that follows a signal as the signal: Ctrl-C ends workers too, which is an error.

        Raises:
            KeyboardInterrupt: instead of such an error.
        """
        try:
            yield
        except Exception:
            if self.stopped:
                raise KeyboardInterrupt from None
            raise

    def _stop(self, *_: Any) -> None:
        self.stopped = True
        raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal was lost."""
        if self.stopped:
            raise KeyboardInterrupt

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if a signal was lost."""
        if self.stopped:
            raise KeyboardInterrupt


class ValueRange(Callback):
    """The least and the greatest finite value of the first training batches, in the checkpoint too."""

    _BATCHES = 8

    def __init__(self) -> None:
        self.batches, self.low, self.high = 0, math.inf, -math.inf

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: LabelledWindow, batch_idx: int
    ) -> None:
        """Update the range by a batch."""
        if self.batches == self._BATCHES:
            return
        self.batches += 1
        for frames in batch[:2]:
            if len(finite := frames[frames.isfinite()]):
                self.low = min(self.low, finite.min().item())
                self.high = max(self.high, finite.max().item())

    def note(self) -> dict[str, list[float]]:
        """``value_range`` for the model folder; empty if there was no finite value."""
        return {"value_range": [self.low, self.high]} if self.low <= self.high else {}

    def state_dict(self) -> dict[str, Any]:
        """The values so far."""
        return {"batches": self.batches, "low": self.low, "high": self.high}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the values of a checkpoint."""
        self.batches = int(state_dict["batches"])
        self.low, self.high = float(state_dict["low"]), float(state_dict["high"])


class History(Callback):
    """The losses of every epoch, in ``metrics.csv`` and, for a resumed run, in the checkpoint.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []
        self._before = 0.0
        self._start = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, at the time spent before a resume."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Add a row."""
        metrics = trainer.callback_metrics
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "train_loss": float(metrics["train_loss"]),
            "val_loss": float(metrics["val_loss"]),
            "val_mse": float(metrics["val_mse"]),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "teacher": pl_module.curriculum.probability(trainer.global_step),
            "seconds": round(self._seconds(), 1),
        }
        if "train_penalty" in metrics:
            row["train_penalty"] = float(metrics["train_penalty"])
        if pl_module.curriculum.kind == "reverse":
            row["teacher_past"] = pl_module.curriculum.past_probability(trainer.global_step)
        self.rows.append(row)
        if trainer.is_global_zero:
            text = io.StringIO()
            further = [name for name in _FURTHER if any(name in row for row in self.rows)]
            writer = csv.DictWriter(text, [*COLUMNS, *further])
            writer.writeheader()
            writer.writerows(self.rows)
            self.run.write(self.run.metrics, text.getvalue())

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        """The rows so far and the time spent."""
        return {"rows": self.rows, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the rows of a checkpoint; later ones are dropped."""
        rows = [
            {name: row[name] for name in (*COLUMNS, *_FURTHER) if name in COLUMNS or name in row}
            for row in state_dict["rows"]
        ]
        if not all(isinstance(value, Real) for row in rows for value in row.values()):
            raise TypeError("rows must hold numbers")
        self.rows = rows
        self._before = float(state_dict.get("seconds", rows[-1]["seconds"] if rows else 0.0))


class Samples(Callback):
    """After every validation, a film strip of one forecast for TensorBoard: past, truth, forecast.

    Args:
        window: a batch of one validation window.
    """

    def __init__(self, window: LabelledWindow) -> None:
        self.window = window

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the picture to the logs."""
        if not (isinstance(trainer.logger, RunLogger) and trainer.is_global_zero):
            return
        with torch.no_grad():
            past, inputs = self.window.past.to(pl_module.device), self.window.inputs
            inputs = None if inputs is None else inputs.to(pl_module.device)
            forecast = pl_module(past, self.window.future.shape[1], inputs).float().cpu()
        rows = {"truth": self.window.future[0].numpy(), "forecast": forecast[0].numpy()}
        picture = np.asarray(film_strip(rows, past=self.window.past[0].numpy()))
        trainer.logger.experiment.add_image("forecast", picture, trainer.global_step, dataformats="HWC")
