"""Forecasters trained alike: same data, same processor time, same seeds.

    BUDGET=1200 RUNS=runs/models python -m benchmarks models

A training takes BUDGET seconds of processor time, 1,200 being ten minutes on two cores. What was measured
stays in RUNS, so that a benchmark that was ended goes on where it was: all of it takes half a day.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import Table

SEEDS = (0, 1, 2)
#: Small models of 120 to 280 thousand weights: a class, and a word where there are two of it.
MODELS: dict[str, dict[str, Any]] = {
    "EncoderForecaster": {"hidden_dim": [24, 32], "patch_size": 4},
    "EncoderForecaster advection": {"hidden_dim": [24, 32], "patch_size": 4, "advection": True},
    "ConvLSTMTransformer": {"hidden_dim": [24, 48], "patch_size": 4},
    "StackForecaster": {"hidden_dim": [32, 32], "kernel_size": 3},
    "PredRNN": {"hidden_dim": [24, 24], "kernel_size": 3},
    "PredRNNPlusPlus": {"hidden_dim": [20, 20], "kernel_size": 3},
    "PredRNNv2": {"hidden_dim": [24, 24], "kernel_size": 3},
    "TrajGRUForecaster": {"hidden_dim": [20, 24], "links": 5},
    "MIM": {"hidden_dim": [20, 20], "kernel_size": 3},
    "MAU": {"hidden_dim": [32, 32], "kernel_size": 3},
    "E3DLSTM": {"hidden_dim": [16, 16], "kernel_size": 3, "history": 5},
    "SAConvLSTMForecaster": {"hidden_dim": [28, 28]},
    "PhyDNet": {"latent_dim": 16, "hidden_dim": [24, 24, 16]},
    "SwinLSTM": {"hidden_dim": 16, "depths": [2, 2], "depths_up": [2, 2], "heads": [2, 2], "patch_size": 4},
}


def run() -> Iterator[Table]:
    """A table for digits and one for rain, of the repetitions that are there."""
    runs = Path(os.environ.get("RUNS", "runs/models"))
    budget = os.environ.get("BUDGET", "1200")
    for subject, second in (("digits", "SSIM"), ("rain", "CSI at 1 mm/h")):
        rows: dict[str, list[list[float] | None]] = {}
        for name, arguments in MODELS.items():
            found = [measured(name, arguments, subject, seed, budget, runs) for seed in SEEDS]
            rows[name] = [[one[key] * scale for one in found] for key, scale in KEYS[subject]]
        columns = ("MSE x 1000", second, "share of fine structure", "weights", "steps", "s a step", "MiB")
        yield Table(f"{subject}, {budget} s of processor time", columns, rows)


#: What `_train_model` prints for a column, and a factor.
KEYS = {
    subject: (
        ("mse", 1000),
        (second, 1),
        (sharpness, 1),
        ("parameters", 1),
        ("steps", 1),
        ("step_s", 1),
        ("memory_mib", 1),
    )
    for subject, second, sharpness in (
        ("digits", "ssim", "sharpness"),
        ("rain", "csi_1", "power_below_16"),
    )
}


def measured(
    name: str, arguments: dict[str, Any], subject: str, seed: int, budget: str, runs: Path
) -> dict[str, float]:
    """What a training gave, now or before."""
    folder = runs / f"{subject}-{name.replace(' ', '-')}-{seed}-{budget}"
    result = folder / "measured.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = [name.split()[0], json.dumps(arguments), subject, str(seed), budget, str(folder)]
        command = [sys.executable, "-m", "benchmarks._train_model", *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
    found: dict[str, float] = json.loads(result.read_text(encoding="utf-8"))
    return found
