"""Settings of a training: name, default and meaning of each."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from convlstm.errors import OptionError, check_name
from convlstm.validation import check_bool, is_integer, is_number

#: Lightning's name of each precision.
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
LOSS_NAMES = ("mse", "mae", "mse+mae", "ssim", "balanced", "threshold_mse", "mse+area")
LOSS_FRAMES = ("forecast", "all")
SCHEDULES = ("onecycle", "constant")
CURRICULA = ("free", "teacher", "linear", "exponential", "sigmoid", "reverse")
# Greatest value of each: nothing is served by more, and far more overflows somewhere below.
_POSITIVE = {"epochs": 10**6, "batch_size": 10**6, "learning_rate": math.inf, "curriculum_steps": 10**9}
_POSITIVE |= {"devices": 10**4, "nodes": 10**4}
_NOT_NEGATIVE = {"gradient_clip": math.inf, "patience": 10**6, "workers": 1024, "seed": 2**32 - 1}
_NOT_NEGATIVE |= {"checkpoint_minutes": math.inf}
_FRACTIONS = ("learning_rate", "gradient_clip", "checkpoint_minutes")


@dataclass(kw_only=True, frozen=True)
class TrainingConfig:
    """Settings of a training run.

    Args:
        loss: what is minimised: mse, mae, mse+mae or ssim (structure mixed with mae, values in [0, 1]); for
            rain also balanced (mse+mae, heavy rain counts up to 30 times), threshold_mse (what lies above
            each threshold counts once more) or mse+area (mse, and how much area has heavy rain).
        loss_frames: the frames that the loss is a mean over: forecast (those after the past) or all (every
            frame but the first, each from the true or forecast frames before it, as PredRNN and OpenSTL
            train); the validation loss is always that of the forecast.
        epochs: passes over the training windows (an epoch of generated data is data.train_size windows).
        batch_size: windows per optimizer step and process; auto finds the largest that fits in memory.
        learning_rate: highest rate of the optimizer, Adam; auto searches for one.
        schedule: onecycle (rise, then fall to almost nothing) or constant.
        gradient_clip: gradients with a larger norm are scaled down to it; 0 for none.
        curriculum: what the forecaster is fed while it learns: free (its own forecasts), teacher (the
            truth), or the truth ever more rarely: linear (scheduled sampling of PredRNN, which ends at step
            50000), exponential, sigmoid; or reverse (PredRNN-V2, which ends there too): like linear from one
            half on, and forecasts in place of half of the frames of the past, ever more rarely.
        curriculum_steps: optimizer steps until the truth is gone.
        reverse_input: true to show every second batch in reverse time, its last frames as the past.
        ema: decay of the exponential moving average of the weights, which is what is validated and kept;
            0 for none.
        patience: stop after this many epochs without a better validation loss; 0 to never stop early.
        checkpoint_minutes: minutes between checkpoints within an epoch, from which a run that was killed goes
            on at the next window; 0 for one after each epoch only.
        precision: 32, bf16-mixed or 16-mixed (GPU only).
        devices: number of processes, each with its own device or share of the CPU.
        nodes: number of machines.
        accelerator: cpu, gpu, or auto for a GPU if there is one.
        workers: processes that prepare windows; 0 prepares them in the training process.
        seed: of windows, curriculum and whatever training draws, and of the weights where no model is given
            (one made in Python has its own: call torch.manual_seed before). Two CPU runs with equal seeds and
            first weights are equal bit for bit.
    """

    loss: str = "mse"
    loss_frames: str = "forecast"
    epochs: int = 20
    batch_size: int | Literal["auto"] = 16
    learning_rate: float | Literal["auto"] = 1e-3
    schedule: str = "onecycle"
    gradient_clip: float = 1.0
    curriculum: str = "free"
    curriculum_steps: int = 10_000
    reverse_input: bool = False
    ema: float = 0.0
    patience: int = 0
    checkpoint_minutes: float = 10.0
    precision: str = "32"
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_name(self.loss, LOSS_NAMES, "loss")
        check_name(self.loss_frames, LOSS_FRAMES, "loss_frames")
        check_name(self.schedule, SCHEDULES, "schedule")
        check_name(self.curriculum, CURRICULA, "curriculum")
        check_bool(self.reverse_input, "reverse_input")
        check_name(self.precision, PRECISIONS, "precision")
        check_name(self.accelerator, ("auto", "cpu", "gpu"), "accelerator")
        for name, most in (_POSITIVE | _NOT_NEGATIVE).items():
            value, positive = getattr(self, name), name in _POSITIVE
            if isinstance(value, str) and value == "auto" and name in ("batch_size", "learning_rate"):
                continue
            is_kind, kind = (is_number, "number") if name in _FRACTIONS else (is_integer, "whole number")
            if not is_kind(value) or value < 0 or (positive and value == 0):
                rule = "greater than 0" if positive else "at least 0"
                raise OptionError(f"{name} must be {rule}; received {value!r}: give a {kind}")
            if value > most:
                raise OptionError(f"{name} must be at most {most}; received {value}: lower it")
        if not (is_number(self.ema) and 0 <= self.ema < 1):
            raise OptionError(f"ema must be at least 0 and below 1; received {self.ema!r}: give a number")
