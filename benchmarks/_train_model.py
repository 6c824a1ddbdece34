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
from convlstm.models.memory import CallSizes, multiply_adds, parameters
from convlstm.scores import CSI, MSE, SSIM
from convlstm.training.config import TrainingConfig
from convlstm.training.loaders import evaluation_loader
from convlstm.training.module import ForecastModule
from convlstm.training.run_folder import RunFolder, environment
from convlstm.verification.verify import verify
from convlstm.workflows.demo import SUBJECTS

TIMED = 3  # steps
RAIN_RANGE = 20.0  # mm/h, the data range of its SSIM: more falls on one pixel of a thousand


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


def main(wanted: dict[str, Any], arguments: dict[str, Any], folder: Path) -> None:
    """Train one model for a budget of processor time, or for as many steps as another seed took; score it."""
    logging.disable(logging.INFO)
    subject, seed = wanted["subject"], wanted["seed"]
    chosen = SUBJECTS[subject]
    make: Any = getattr(convlstm.models, wanted["model"].split()[0])

    def built() -> Forecaster:
        torch.manual_seed(seed)
        model: Forecaster = make(**arguments)
        return model

    settings: dict[str, Any] = {"batch_size": 8, "learning_rate": wanted["learning_rate"], "seed": seed}
    settings |= {"accelerator": "cpu", "epochs": 1, "checkpoint_minutes": 0}
    settings |= {"loss": chosen.training.get("loss", "mse")}
    config = TrainingConfig(**settings)
    source = chosen.source(**chosen.data)
    step_s = wanted["step_s"] or seconds_a_step(built(), source, config)
    steps = wanted["steps"] or max(1, round(wanted["budget"] / step_s))
    run = train(
        data=chosen.source(**chosen.data | {"train_size": steps * 8}),
        model=built(),
        config=config,
        out=folder / "run",
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    scores = evaluate(run, out=folder / "scores")
    measures = ("mse", "ssim", "sharpness") if subject == "digits" else ("mse", "csi_1", "power_below_16")
    taken = {measure: scores.scores[measure].overall[scores.model] for measure in measures}
    # One that `evaluate` gives only of the other subject.
    other = CSI(0.5) if subject == "digits" else SSIM(RAIN_RANGE)
    model = Forecaster.from_pretrained(RunFolder(Path(run)).model)
    windows = evaluation_loader(source.split("test"), 16)
    to_units = None if source.specification is None else source.to_units
    added, _ = verify(model, windows, scores=[MSE(), other], to_units=to_units)
    taken[other.name] = added.scores[other.name].overall[added.model]
    window = LabelledWindow(*source.split("train")[0])
    frames = CallSizes(window.past.shape[-2:], len(window.past), len(window.future))
    taken |= {"parameters": parameters(built()), "multiply_adds": multiply_adds(built(), frames)}
    taken |= {"steps": steps, "step_s": step_s, "memory_mib": memory, "processor": environment()["processor"]}
    print(json.dumps(taken))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
