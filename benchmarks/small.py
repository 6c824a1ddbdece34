"""Time of small layers by engine, relative to the loop that everyone writes: the cost of a call.

Processor time of one thread, in float32, all rivals in turn in every repetition.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from benchmarks import Table
from benchmarks._rivals import Case, TextbookLSTM, engine

REPETITIONS = 15
ENGINES = ("auto", "compiled", "fused", "reference")
#: From the smallest up to where `convlstm.engines.config.one_call_on_cpu` ends, and one beyond.
CASES = tuple(
    Case(batch=batch, steps=steps, inputs=inputs, hidden=[hidden], kernel=3, size=16)
    for batch, steps, inputs, hidden in (
        (1, 2, 1, 8),
        (1, 4, 8, 8),
        (1, 10, 1, 8),
        (1, 1, 32, 32),
        (2, 10, 8, 8),
        (1, 2, 32, 32),
        (1, 1, 64, 64),
    )
)


def forward(layer: nn.Module, x: torch.Tensor) -> None:
    """Outputs alone."""
    with torch.no_grad():
        layer(x)


def train(layer: nn.Module, x: torch.Tensor) -> None:
    """Outputs, and gradients of the weights."""
    for parameter in layer.parameters():
        parameter.grad = None
    found = layer(x)
    outputs = found if isinstance(found, torch.Tensor) else found[0][-1]
    outputs.sum().backward()


def microseconds(work: Callable[[], None], calls: int) -> float:
    """Processor time of a call."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return 1e6 * (time.process_time() - start) / calls


def run() -> Iterator[Table]:
    """Forward pass, and forward and backward pass, of every case."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for work, title in ((forward, "forward"), (train, "forward+backward")):
        rows: dict[str, list[list[float] | None]] = {}
        for case in CASES:
            x = torch.randn(case.batch, case.steps, case.inputs, *case.space)
            rivals: dict[str, nn.Module] = {"loop": TextbookLSTM(case)}
            rivals |= {name: engine(case, name) for name in ENGINES}
            times: dict[str, list[float]] = {name: [] for name in rivals}
            for _ in range(REPETITIONS + 1):
                for name, layer in rivals.items():
                    times[name].append(microseconds(partial(work, layer, x), calls=20))
            loop = times["loop"][1:]
            of_loop = [[a / b for a, b in zip(times[name][1:], loop, strict=True)] for name in ENGINES]
            rows[str(case)] = [loop, *of_loop]
        columns = ("textbook loop, µs", *(f"engine {name}, of its time" for name in ENGINES))
        yield Table(f"small calls, {title}", columns, rows)
