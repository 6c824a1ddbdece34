"""Time of layers that are called frame by frame with their own outputs, as forecasts are, by engine.

Processor time of one thread, all engines in turn in every repetition.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import Table
from benchmarks._rivals import DEVICE, PRECISIONS, Case, engine
from convlstm import ConvLSTM

REPETITIONS = 7
CALLS = 8
ENGINES = ("reference", "auto", "compiled")
#: Around `convlstm.engines.config.few_pixels_on_cpu`; steps are those of a call.
CASES = tuple(
    Case(batch=batch, steps=steps, inputs=hidden, hidden=[hidden], kernel=kernel, size=size)
    for batch, steps, hidden, kernel, size in (
        (1, 1, 64, 3, 8),
        (1, 1, 64, 3, 16),
        (4, 1, 64, 5, 8),
        (1, 1, 256, 3, 16),
        (1, 1, 64, 3, 32),
        (1, 1, 64, 3, 48),
        (1, 2, 64, 3, 16),
        (1, 2, 64, 3, 32),
        (1, 4, 64, 3, 16),
        (1, 8, 64, 3, 8),
    )
)


def seconds(layer: ConvLSTM, x: torch.Tensor, mixed: bool, differentiated: bool) -> float:
    """Processor time of `CALLS` calls in a row, with their backward pass if they are differentiated."""
    start, state = time.process_time(), None
    with torch.set_grad_enabled(differentiated), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for _ in range(CALLS):
            outputs, state = layer(x, state)
            x = outputs[-1]
    if differentiated:
        x.float().square().mean().backward()  # type: ignore[no-untyped-call]
    return time.process_time() - start


def run() -> Iterator[Table]:
    """Forward pass, and forward and backward pass, of every case and precision."""
    if DEVICE != "cpu":
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = ("loop, ms", *(f"engine {name}, of its time" for name in ENGINES[1:]))
    for differentiated in (False, True):
        for mixed, precision in PRECISIONS.items():
            rows: dict[str, list[list[float] | None]] = {}
            for case in CASES:
                x = torch.randn(case.batch, case.steps, case.inputs, *case.space)
                layers = {name: engine(case, name) for name in ENGINES}
                times: dict[str, list[float]] = {name: [] for name in layers}
                for _ in range(REPETITIONS + 1):
                    for name, layer in layers.items():
                        times[name].append(seconds(layer, x, mixed, differentiated))
                loop, *others = (own[1:] for own in times.values())
                of_loop = [[a / b for a, b in zip(own, loop, strict=True)] for own in others]
                rows[str(case)] = [[1000 * s for s in loop], *of_loop]
            what = "forward+backward" if differentiated else "forward"
            yield Table(f"{CALLS} calls in a row, {what}, {precision}", columns, rows)
