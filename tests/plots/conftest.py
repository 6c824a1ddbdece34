"""A run folder as train and evaluate leave it, with forecasts made from the truth."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Array = NDArray[Any]
MakeRun = Callable[..., Path]
BASELINES = ("persistence", "mean_frame", "linear_trend", "advection")


@cache
def images() -> Array:
    from sklearn.datasets import load_digits

    scaled: Array = load_digits().images / 16
    return scaled


def digits(frames: int, height: int, width: int, channels: int, seed: int) -> Array:
    """Two real handwritten digits that move and bounce: (T, C, H, W) in [0, 1]."""
    rng = np.random.default_rng(seed)
    side = min(28, height // 2, width // 2)
    canvas = np.zeros((frames, channels, height, width), np.float32)
    for k, image in enumerate(images()[rng.integers(0, 1797, 2)]):
        large = np.clip(zoom(image, side / 8, order=2), 0, 1)
        room = np.array([height - side, width - side], float)
        place, speed = rng.uniform(0, room), rng.uniform(-0.1, 0.1, 2) * room
        for t in range(frames):
            y, x = np.rint(room - np.abs(room - (place + t * speed) % (2 * room))).astype(int)
            for c in range(channels):
                patch = canvas[t, c, y : y + side, x : x + side]
                np.maximum(patch, large * (1 if channels == 1 else (c + k) % 3 / 2), out=patch)
    return canvas


def forecasts(past: Array, truth: Array) -> dict[str, Array]:
    """Forecasts of one case: the model's is the truth, a little more blurred at every step."""
    steps = len(truth)
    blurred = [
        gaussian_filter(np.roll(f, k // 3, axis=-1), (0, 1.0 + 0.15 * k, 1.0 + 0.15 * k))
        for k, f in enumerate(truth)
    ]
    slope = past[-1] - past[-2]
    return {
        "encoder_forecaster": np.stack(blurred),
        "persistence": np.repeat(past[-1:], steps, axis=0),
        "mean_frame": np.repeat(past.mean(axis=0, keepdims=True), steps, axis=0),
        "linear_trend": np.clip(np.stack([past[-1] + (k + 1) * slope for k in range(steps)]), 0, 1),
        "advection": np.stack([np.roll(past[-1], k + 1, axis=-1) for k in range(steps)]),
    }


def table(title: str, unit: str, higher: bool | None, by_lead: dict[str, Array]) -> dict[str, Any]:
    return {
        "title": title,
        "unit": unit,
        "formula": f"how {title} is computed",
        "higher_is_better": higher,
        "by_lead": {name: [float(v) for v in values] for name, values in by_lead.items()},
        "overall": {name: float(np.mean(values)) for name, values in by_lead.items()},
        "differences": {  # all resolved
            "by_lead": {name: [[1, 2]] * len(by_lead[name]) for name in BASELINES},
            "overall": {name: [1, 2] for name in BASELINES},
        },
    }


def gradient(frames: Array) -> Array:
    sums: Array = sum(np.abs(np.diff(frames, axis=axis)).mean(axis=(0, 2, 3, 4)) for axis in (-1, -2))
    return sums


def write_scores(folder: Path, truth: Array, made: dict[str, Array], past: int, **other: object) -> None:
    names = ["encoder_forecaster", *BASELINES]
    mse = {n: ((made[n] - truth) ** 2).mean(axis=(0, 2, 3, 4)) for n in names}
    mae = {n: np.abs(made[n] - truth).mean(axis=(0, 2, 3, 4)) for n in names}
    size = truth[0, 0].size
    scores = {
        "mse": table("MSE", "per pixel", False, mse),
        "mae": table("MAE", "per pixel", False, mae),
        "mse_sum": table("Squared error", "sum per frame", False, {n: v * size for n, v in mse.items()}),
        "psnr": table("PSNR", "dB, data range 1", True, {n: -10 * np.log10(v) for n, v in mse.items()}),
        "ssim": table("SSIM", "at most 1, data range 1", True, {n: 1 - 4 * v for n, v in mae.items()}),
        "sharpness": table(
            "Sharpness",
            "ratio, 1 is the truth's",
            None,
            {n: gradient(made[n]) / gradient(truth) for n in names},
        ),
    }
    overall = scores["mse"]["overall"]
    plain = {
        "schema": 2,
        "blocks": 30,
        "model": names[0],
        "cases": 1000,
        "past": past,
        "steps": truth.shape[1],
        "data": "moving digits: 2 of scikit-learn's handwritten digits on 64 x 64 pixels, test split",
        "best_baseline": min(BASELINES, key=lambda n: overall[n]),
        "forecasters": names,
        "scores": scores,
        "skill": {
            n: {
                "by_lead": (1 - mse[names[0]] / mse[n]).tolist(),
                "overall": 1 - overall[names[0]] / overall[n],
            }
            for n in BASELINES
        },
    } | other
    (folder / "scores.json").write_text(json.dumps(plain))


def write_metrics(folder: Path, epochs: int, teacher: bool) -> None:
    rows = ["epoch,step,train_loss,val_loss,val_mse,learning_rate,teacher,seconds"]
    for k in range(epochs):
        train = 0.018 + 0.05 * np.exp(-k / 4)
        val = 0.02 + 0.047 * np.exp(-k / 4) + 0.002 * np.sin(k)
        probability = max(0.0, 1 - k / 10) if teacher else 0.0
        rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * k / max(epochs, 1)))
        rows.append(
            f"{k + 1},{100 * (k + 1)},{train},{val},{val * 0.9},{rate},{probability},{12.5 * (k + 1):.1f}"
        )
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")


CONFIG = """data:
  source: moving
  past: {past}
  steps: {steps}
model:
  class_path: convlstm.models.EncoderForecaster
  init_args:
    hidden: [32, 64, 64]
training:
  epochs: 20
  loss: mse+mae
  precision: 32
"""


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a complete run folder; options change its sizes."""

    def make(
        past: int = 4,
        steps: int = 3,
        channels: int = 1,
        height: int = 24,
        width: int = 24,
        epochs: int = 5,
        teacher: bool = True,
        folder: Path = tmp_path / "run",
    ) -> Path:
        folder.mkdir()
        windows = np.stack([digits(past + steps, height, width, channels, seed) for seed in range(3)])
        known, truth = windows[:, :past], windows[:, past:]
        cases = [forecasts(k, t) for k, t in zip(known, truth, strict=True)]
        made = {name: np.stack([case[name] for case in cases]).astype(np.float32) for name in cases[0]}
        mse = ((made["encoder_forecaster"] - truth) ** 2).mean(axis=(1, 2, 3, 4))
        order = np.argsort(mse)
        arrays: dict[str, Any] = {f"forecast_{name}": frames[order] for name, frames in made.items()}
        np.savez_compressed(
            folder / "cases.npz",
            label=np.array(["best", "median", "worst"]),
            index=np.array([412, 87, 1903]),
            mse=mse[order],
            past=known[order],
            truth=truth[order],
            **arrays,
        )
        write_scores(folder, truth, made, past)
        write_metrics(folder, epochs, teacher)
        (folder / "config.yaml").write_text(CONFIG.format(past=past, steps=steps))
        (folder / "command.txt").write_text("convlstm train --data moving --epochs 20 --out runs/digits\n")
        (folder / "environment.json").write_text(
            json.dumps(
                {
                    "started": "2026-11-23T19:05:11+00:00",
                    "python": "3.11.9",
                    "packages": {
                        "convlstm": "0.1.0",
                        "torch": "2.13.0+cpu",
                        "lightning": "2.6.6",
                        "numpy": "2.3.1",
                    },
                    "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
                    "processor": "AMD EPYC 7B13",
                    "cores": 2,
                    "threads": 2,
                    "gpu": None,
                }
            )
        )
        return folder

    return make
