"""One training of `benchmarks.models`, in a process of its own; prints what it took as JSON."""

import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import convlstm.models
from convlstm import Forecaster, evaluate, train
from convlstm.data import LabelledWindow, Source
from convlstm.training.config import TrainingConfig
from convlstm.training.module import ForecastModule
from convlstm.workflows.demo import SUBJECTS

TIMED = 5  # steps


def seconds_a_step(model: Forecaster, source: Source, config: TrainingConfig) -> float:
    """Processor time of a training step, the median of a few after the first."""
    module = ForecastModule(model, config, specification=source.specification)
    optimizer, times = torch.optim.Adam(model.parameters()), []
    for k, batch in enumerate(DataLoader(source.split("train"), int(config.batch_size))):
        start = time.process_time()
        window = LabelledWindow(*batch)
        forecast = model(window.past, window.future.shape[1])
        module.loss(forecast, window.future, None).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
        if k == TIMED:
            break
    return sorted(times[1:])[TIMED // 2]


def main(name: str, arguments: str, subject: str, seed: int, budget: float, folder: Path) -> None:
    """Train one model for a budget of processor time, and score it."""
    logging.disable(logging.INFO)
    chosen = SUBJECTS[subject]
    make: Any = getattr(convlstm.models, name)

    def built() -> Forecaster:
        torch.manual_seed(seed)
        model: Forecaster = make(**json.loads(arguments))
        return model

    settings: dict[str, Any] = {"batch_size": 8, "learning_rate": 2e-3, "accelerator": "cpu", "seed": seed}
    settings |= {"epochs": 1, "loss": chosen.training.get("loss", "mse"), "checkpoint_minutes": 0}
    config = TrainingConfig(**settings)
    step_s = seconds_a_step(built(), chosen.source(**chosen.data), config)
    steps = max(1, round(budget / step_s))
    source = chosen.source(**chosen.data | {"train_size": steps * 8})
    run = train(data=source, model=built(), config=config, out=folder / "run")
    scores = evaluate(run, out=folder / "scores")
    measures = ("mse", "ssim", "sharpness") if subject == "digits" else ("mse", "csi_1", "power_below_16")
    taken = {measure: scores.scores[measure].overall[scores.model] for measure in measures}
    taken |= {"steps": steps, "step_s": step_s, "parameters": sum(p.numel() for p in built().parameters())}
    taken |= {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    print(json.dumps(taken))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6]))
