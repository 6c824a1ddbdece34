"""A small training run in a process of its own, for tests that kill it or share it out."""

import argparse
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.optimizer import register_optimizer_step_post_hook

from convlstm import EncoderForecaster, MovingObjects
from convlstm.data import Source
from convlstm.data.archive import Archive
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit
from convlstm.training.run_folder import RunFolder


class Notes(Callback):
    """Writes the batches of a process and the gradients made of them.

    Args:
        path: of the file; that of process k ends with .k.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[torch.Tensor] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch[0].clone())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        self.gradients.append(gradients)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save([self.batches, self.gradients], f"{self.path}.{trainer.global_rank}")


def archive() -> Archive:
    """Crops of an archive in memory, rain in the middle, of which a fifth was not measured."""
    draw = np.random.default_rng(0)
    frames = draw.exponential(3, (80, 24, 24)) * (np.hypot(*np.mgrid[-12:12, -12:12]) < 8)
    frames[draw.random(frames.shape) < 0.2] = np.nan
    frames[40:] = np.where(np.arange(24) < 6, np.nan, frames[40:])
    options: dict[str, Any] = {"past": 3, "steps": 3, "crop": 16, "importance": 0.5}
    return Archive(frames.astype(np.float32), units="mm/h", transform="log", **options)


def kill_at(step: int) -> None:
    """End this process without a word after so many steps of the optimizer."""
    steps = count(1)

    def end(*_: Any) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(end)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--archive", action="store_true", help="train on crops of labelled frames")
    parser.add_argument("--kill", type=int, help="end without a word after so many steps")
    parser.add_argument("--notes", type=Path, help="train one epoch and write its batches and gradients")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = EncoderForecaster(hidden_dim=[3, 4])
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    run = RunFolder(options.run)
    if first and not options.resume:
        run.start()
    settings: dict[str, Any] = (
        {"epochs": 1, "gradient_clip": 0.0}
        if options.notes
        else {
            "epochs": options.epochs,
            "ema": 0.9,
            "curriculum": "linear",
            "curriculum_steps": 30,
            "patience": 50,
        }
    )
    config = TrainingConfig(
        batch_size=options.batch,
        devices=options.devices,
        workers=options.workers,
        checkpoint_minutes=options.minutes,
        accelerator="cpu",
        learning_rate=1e-2,
        **settings,
    )
    sizes: dict[str, Any] = {"train_size": 12, "validation_size": 4}
    data: Source = MovingObjects(canvas=16, object_size=8, count=1, past=3, steps=3, **sizes)
    if options.archive:
        data = archive()
    if options.kill:
        kill_at(options.kill)
    notes = [Notes(options.notes)] if options.notes else []
    fit(model, data, config, run, resume=options.resume, callbacks=notes)


if __name__ == "__main__":
    main()
