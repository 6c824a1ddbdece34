"""Time of layers with large kernels, which are convolved by Fourier transforms where that is faster.

Processor time of one thread, in float32, all rivals in turn in every repetition.
"""

from collections.abc import Iterator
from functools import partial

import torch

import convlstm.engines.config as config
from benchmarks import Table
from benchmarks._rivals import Case, TextbookLSTM, engine
from benchmarks.small import forward, microseconds, train

REPETITIONS = 5
CASES = tuple(
    Case(batch=2, steps=4, inputs=hidden, hidden=[hidden], kernel=kernel, size=size)
    for hidden, size, kernels in ((64, 64, (7, 9, 11, 15)), (16, 64, (7, 11)), (64, 32, (7, 11)))
    for kernel in kernels
)


def run() -> Iterator[Table]:
    """Forward pass, and forward and backward pass, of every case."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for work, title in ((forward, "forward"), (train, "forward+backward")):
        rows: dict[str, list[list[float] | None]] = {}
        for case in CASES:
            x = torch.randn(case.batch, case.steps, case.inputs, *case.space)
            loop, layer = (partial(work, rival, x) for rival in (TextbookLSTM(case), engine(case, "auto")))
            times: list[list[float]] = []
            for _ in range(REPETITIONS + 1):
                config.direct_convolution = True
                found = [microseconds(call, calls=1) for call in (loop, layer)]
                config.direct_convolution = False
                times.append([*found, microseconds(layer, calls=1)])
            textbook, direct, chosen = map(list, zip(*times[1:], strict=True))
            ratios = [[a / b for a, b in zip(chosen, rival, strict=True)] for rival in (direct, textbook)]
            rows[str(case)] = [[time / 1000 for time in chosen], *ratios]
        columns = ("ms", "of the time with direct convolutions", "of the textbook loop's")
        yield Table(f"large kernels, {title}", columns, rows)
