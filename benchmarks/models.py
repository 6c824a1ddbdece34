"""Forecasters trained alike: same data, same processor time, same seeds.

    BUDGET=1200 ONLY="digits, PredRNN; digits, StackForecaster" python -m benchmarks models

A training takes BUDGET seconds of processor time, 1,200 being ten minutes on two cores: the first of a model
measures how many steps that allows, and those with other seeds take as many, on whatever machine. Every core
trains one model at a time. ONLY names subjects and models; without it all are trained. Each ended training is
a line of `models.jsonl`; a benchmark that was stopped goes on where it was. SEEDS is the number of
repetitions, 3 by default; with 0 nothing is trained. The tables have what there is, of every budget.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import Table

BUDGET = int(os.environ.get("BUDGET", "1200"))
ONLY = [tuple(map(str.strip, one.split(","))) for one in os.environ.get("ONLY", "").split(";") if one.strip()]
#: Not a folder of this machine: trainings of several are in one table, whose titles name them.
FOLDER = Path(__file__).parent / "results" / "trainings"
TRAININGS = FOLDER / "models.jsonl"
#: Of each subject, the titles of the columns, what a line of `TRAININGS` calls them, and a factor.
COLUMNS = {
    "digits": (
        ("MSE x 1000", "mse", 1000),
        ("SSIM", "ssim", 1),
        ("CSI at 0.5", "csi_0.5", 1),
        ("sharpness", "sharpness", 1),
    ),
    "rain": (
        ("MSE (mm/h)²", "mse", 1),
        ("SSIM", "ssim", 1),
        ("CSI at 1 mm/h", "csi_1", 1),
        ("share of fine structure", "power_below_16", 1),
    ),
}
COSTS = (
    ("weights (k)", "parameters", 1e-3),
    ("multiply-adds (M)", "multiply_adds", 1e-6),
    ("steps", "steps", 1),
    ("s a step", "step_s", 1),
    ("MiB", "memory_mib", 1),
)
#: Small models of 120 to 280 thousand weights: a class, and a word where there are two of it.
MODELS: dict[str, dict[str, Any]] = {
    "EncoderForecaster": {"hidden_dim": [24, 32], "patch_size": 4},
    "EncoderForecaster advection": {"hidden_dim": [24, 32], "patch_size": 4, "advection": True},
    "ConvLSTMTransformer": {"hidden_dim": [24, 48], "patch_size": 4},
    "ConvLSTMTransformer advection": {"hidden_dim": [24, 48], "patch_size": 4, "advection": True},
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
    # As published but for depth and width: two levels of 32 x 32 pixels would leave 2 x 2 patches between.
    "SwinLSTM": {"hidden_dim": 32, "depths": [2], "depths_up": [2], "heads": [4], "patch_size": 2},
}
#: One rate for all but SwinLSTM, which forgets at it what it had learnt (published: 1e-4).
LEARNING_RATE, LEARNING_RATES = 2e-3, {"SwinLSTM": 5e-4}


def run() -> Iterator[Table]:
    """Train what was not trained before, and a table for each subject and budget."""
    for subject, seed in product(COLUMNS, range(int(os.environ.get("SEEDS", "3")))):
        names = [name for name in MODELS if not ONLY or (subject, name) in ONLY]
        missing = [key for name in names if (key := (BUDGET, subject, name, seed)) not in trainings()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(train, missing))
    for budget, subject in sorted({key[:2] for key in trainings()}):
        own = {key[2:]: one for key, one in sorted(trainings().items()) if key[:2] == (budget, subject)}
        columns = COLUMNS[subject] + COSTS
        rows: dict[str, list[list[float] | None]] = {}
        for name in MODELS:
            if repetitions := [one for key, one in own.items() if key[0] == name]:
                found = [
                    [one[key] * factor for one in repetitions if key in one] for _, key, factor in columns
                ]
                rows[name] = [values or None for values in found]  # the first trainings had fewer scores
        first = sorted({one["processor"] for (_, seed), one in own.items() if not seed})
        title = f"{subject}, {budget:,} s of one core of {' or '.join(first)}"
        yield Table(title, tuple(title for title, _, _ in columns), rows)


def trainings() -> dict[tuple[int, str, str, int], dict[str, Any]]:
    """The ended trainings by budget, subject, model and seed."""
    lines = TRAININGS.read_text(encoding="utf-8").splitlines() if TRAININGS.exists() else []
    found = [json.loads(line) for line in lines]
    return {(one["budget"], one["subject"], one["model"], one["seed"]): one for one in found}


def train(key: tuple[int, str, str, int]) -> None:
    """Train and score one model in a process of its own, and write what it gave."""
    budget, subject, name, seed = key
    first = trainings().get((budget, subject, name, 0), {})
    wanted: dict[str, Any] = {"budget": budget, "subject": subject, "model": name, "seed": seed}
    wanted |= {key: first.get(key) for key in ("steps", "step_s")}
    wanted["learning_rate"] = LEARNING_RATES.get(name, LEARNING_RATE)
    with tempfile.TemporaryDirectory() as folder:
        words = [json.dumps(wanted), json.dumps(MODELS[name]), folder]
        command = [sys.executable, "-m", "benchmarks._train_model", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    taken = wanted | json.loads(done.stdout.splitlines()[-1])
    what = f"{budget} s, {subject}, {name}, {seed}"
    sys.stderr.write(f"{what}: MSE {taken['mse']:.4g}, {taken['steps']} steps\n")
    with TRAININGS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(taken) + "\n")
