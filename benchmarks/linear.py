"""Training of linear recurrences on long sequences of small frames, beside the loop that everyone writes.

Time of the forward and the backward pass on all cores, all rivals in turn in every repetition.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import Table
from benchmarks._rivals import DEVICE, Case, TextbookLSTM
from benchmarks.layers import seconds_of
from convlstm import ConvLSTM, MinConvGRUCell, MinConvLSTMCell
from convlstm.cells import CellFactory

REPETITIONS = 5
CASES = tuple(
    Case(batch=4, steps=steps, inputs=inputs, hidden=[8], kernel=3, size=16)
    for steps, inputs in ((1024, 1), (1024, 8), (256, 8))
)


class Linear(nn.Module):
    """A stack of one linear cell."""

    def __init__(self, case: Case, cell: CellFactory, engine: str) -> None:
        super().__init__()
        self.layers = ConvLSTM(
            case.inputs, case.hidden, case.kernel, batch_first=True, cell=cell, engine=engine
        )

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's outputs."""
        outputs: list[Tensor] = self.layers(x)[0]
        return outputs[-1]


def run() -> Iterator[Table]:
    """Every case."""
    torch.manual_seed(0)
    for case in CASES:
        x = torch.randn(case.batch, case.steps, case.inputs, *case.space, device=DEVICE)
        gradient = torch.randn(case.batch, case.steps, case.hidden[-1], *case.space, device=DEVICE)
        rivals: dict[str, nn.Module] = {"textbook loop": TextbookLSTM(case).to(DEVICE)}
        for cell in (MinConvGRUCell, MinConvLSTMCell):
            for engine in ("auto", "fused"):
                rivals[f"{cell.__name__}, engine {engine}"] = Linear(case, cell, engine).to(DEVICE)
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(REPETITIONS + 1):
            for name, rival in rivals.items():
                seconds[name].append(trained(rival, x, gradient))
        loop = seconds["textbook loop"][1:]
        rows = {
            name: [[1000 * s for s in own[1:]], [a / b for a, b in zip(loop, own[1:], strict=True)]]
            for name, own in seconds.items()
        }
        yield Table(f"forward+backward, {case}, fp32", ("ms", "times the loop's speed"), rows)


def trained(rival: nn.Module, x: Tensor, gradient: Tensor) -> float:
    """Seconds that a forward and a backward pass take."""
    return seconds_of(lambda: rival(x).backward(gradient))
