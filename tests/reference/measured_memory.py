"""Peak memory of training steps and forecasts, measured by the kernel in a process of its own.

Run as a program it prints, for each of `CASES`, size and precision, the bytes that `convlstm.models.memory`
states and those that were taken: the peak of the resident set above what was resident before. `ENVIRONMENT`
makes the C library return freed blocks, so that these are the blocks in use.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convlstm
import convlstm.engines.cpu.winograd as winograd
from convlstm import ConvLSTM, ConvLSTMTransformer, EncoderForecaster, PredRNN
from convlstm.engines.buffer_pool import pool
from convlstm.layers.stack import Stack
from convlstm.models.memory import CallSizes, inference_bytes, training_bytes

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
ENGINES = [("reference", "auto")] + [
    (engine, save) for engine in ("fused", "compiled") for save in ("gates", "state")
]


def settings(name: str) -> list[tuple[tuple[int, int], bool]]:
    """Sizes that a case is measured in, each with True for mixed precision."""
    small, large = (112, 128), (176, 144)
    single = large if name.startswith("EncoderForecaster") else small
    return [(single, False)] if "fused" in name else [(single, False), (large, True)]


def layers(engine: str, save: str) -> nn.Module:
    return ConvLSTM(1, [24, 24], 3, batch_first=True, engine=engine, save=save)


def forecaster(engine: str, save: str) -> nn.Module:
    return EncoderForecaster(hidden_dim=[24, 24], engine=engine, save=save)


#: By name: the model, K and L.
CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    **{f"ConvLSTM {e} {s}": (partial(layers, e, s), 3, 0) for e, s in ENGINES},
    **{f"EncoderForecaster {e} {s}": (partial(forecaster, e, s), 2, 2) for e, s in ENGINES},
    "PredRNN": (lambda: PredRNN(hidden_dim=[24, 24], kernel_size=3, patch_size=2), 2, 2),
    "ConvLSTMTransformer": (lambda: ConvLSTMTransformer(hidden_dim=[24, 24]), 2, 2),
}


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak(work: Callable[[], None]) -> int:
    """Bytes above those before; pages of files that the kernel drops meanwhile are not subtracted."""
    winograd._cache._entries.clear()
    pool.clear()
    pool.peak_bytes = pool.used_bytes
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, files = status("VmRSS"), status("RssFile")
    work()
    return status("VmHWM") - before + max(0, files - status("RssFile"))


def call(model: Any, past: Tensor, steps: int) -> Any:
    return model(past)[0][-1] if isinstance(model, Stack) else model(past, steps)


def measure(
    make: Callable[[], nn.Module], size: tuple[int, int], past: int, steps: int, mixed: bool
) -> tuple[list[int], list[int]]:
    """Stated and taken bytes, of training and of inference."""
    torch.manual_seed(0)
    model, frames, small = make(), torch.rand(1, past, 1, *size), torch.rand(1, past, 1, 16, 16)

    def train(frames: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            made = call(model, frames, steps)
        torch.autograd.backward(F.mse_loss(made.float(), torch.zeros(made.shape)))
        del made
        model.zero_grad()

    def forecast(frames: Tensor) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            call(model, frames, steps)

    train(small)  # what the first call allocates for good
    forecast(small)
    taken = [peak(lambda: train(frames)), peak(lambda: forecast(frames))]
    sizes = CallSizes(size, past, steps)
    return [training_bytes(model, sizes, mixed=mixed).most, inference_bytes(model, sizes, mixed=mixed)], taken


def main() -> None:
    assert convlstm.__version__
    for name, (make, past, steps) in CASES.items():
        for size, mixed in settings(name):
            stated, taken = measure(make, size, past, steps, mixed)
            sys.stdout.write(json.dumps([name, size, mixed, stated, taken]) + "\n")


if __name__ == "__main__":
    main()
