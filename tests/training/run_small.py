"""A small training run in a process of its own, for tests that kill it or share it out."""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from convlstm import EncoderForecaster, MovingObjects
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit
from convlstm.training.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--gradients", type=Path, help="train one epoch of three steps and write their gradients"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = EncoderForecaster(hidden_dim=[3, 4])
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    run = RunFolder(options.run)
    if first and not options.resume:
        run.start()
    sizes: dict[str, Any] = {"train_size": 12, "validation_size": 4}
    settings: dict[str, Any] = (
        {"epochs": 1, "gradient_clip": 0.0}
        if options.gradients
        else {
            "epochs": 16,
            "ema": 0.9,
            "curriculum": "linear",
            "curriculum_steps": 30,
            "patience": 50,
        }
    )
    config = TrainingConfig(
        batch_size=options.batch, devices=options.devices, accelerator="cpu", learning_rate=1e-2, **settings
    )
    data = MovingObjects(canvas=16, object_size=8, count=1, past=3, steps=3, **sizes)
    gradients: list[dict[str, torch.Tensor]] = []
    if options.gradients:
        names = [name for name, _ in model.named_parameters()]
        register_optimizer_step_post_hook(
            lambda optimizer, *_: gradients.append(
                {n: p.grad.clone() for n, p in zip(names, optimizer.param_groups[0]["params"], strict=True)}
            )
        )
    fit(model, data, config, run, resume=options.resume)
    if options.gradients and first:
        torch.save(gradients, options.gradients)


if __name__ == "__main__":
    main()
