"""Time of our layers in one run with the loop everyone writes, and with the bare convolutions: the floor.

Every repetition times all rivals in turn, so that a machine that slows down slows them all.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import Figure
from convlstm import ConvLSTM
from convlstm.engines import available

REPETITIONS = 3


class Case(NamedTuple):
    """Frames (batch, steps, inputs, size, size) through layers of hidden channels."""

    batch: int
    steps: int
    inputs: int
    hidden: list[int]
    kernel: int
    size: int

    def __str__(self) -> str:
        channels = "-".join(map(str, [self.inputs, *self.hidden]))
        return f"B{self.batch} T{self.steps} {channels} {self.kernel}x{self.kernel} {self.size}x{self.size}"


CASES = (
    Case(batch=4, steps=10, inputs=1, hidden=[64, 64, 64], kernel=3, size=64),
    Case(batch=8, steps=20, inputs=16, hidden=[32], kernel=3, size=32),
    Case(batch=1, steps=12, inputs=32, hidden=[32], kernel=3, size=256),
    Case(batch=16, steps=19, inputs=16, hidden=[128, 128, 128, 128], kernel=5, size=16),  # OpenSTL's
)


class TextbookLSTM(nn.Module):
    """The equations as everyone writes them: concatenate, convolve, split, step by step."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        inputs = [case.inputs, *case.hidden]
        self.hidden = case.hidden
        self.convs = nn.ModuleList(
            nn.Conv2d(n + m, 4 * m, case.kernel, padding=case.kernel // 2)
            for n, m in zip(inputs, case.hidden, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to the last layer's outputs."""
        for conv, hidden in zip(self.convs, self.hidden, strict=True):
            h = c = x.new_zeros(x.shape[0], hidden, *x.shape[3:])
            outputs = []
            for t in range(x.shape[1]):
                i, f, o, g = torch.split(conv(torch.cat([x[:, t], h], dim=1)), hidden, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            x = torch.stack(outputs, dim=1)
        return x


class BareConvolutions(nn.Module):
    """The convolutions of a ConvLSTM and nothing else, each in its best layout and already in its dtype.

    Step by step, of input and hidden state, so that results stay in the cache; backwards the gradients of
    each step's input and hidden state, and those of the weights at once.
    """

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = []
        self.steps, self.padding = case.steps, case.kernel // 2
        for n, m in zip([case.inputs, *case.hidden], case.hidden, strict=False):
            shapes = {
                "x": (case.steps * case.batch, n, case.size, case.size),
                "h": (case.steps * case.batch, m, case.size, case.size),
                "gates": (case.steps * case.batch, 4 * m, case.size, case.size),
                "w_x": (4 * m, n, case.kernel, case.kernel),
                "w_h": (4 * m, m, case.kernel, case.kernel),
            }
            self.layers.append(
                {
                    name: torch.randn(shape).to(dtype, memory_format=torch.channels_last)
                    for name, shape in shapes.items()
                }
            )

    def forward(self) -> None:
        """Convolutions of the forward pass."""
        for layer in self.layers:
            for x, h in zip(layer["x"].chunk(self.steps), layer["h"].chunk(self.steps), strict=True):
                F.conv2d(x, layer["w_x"], padding=self.padding)
                F.conv2d(h, layer["w_h"], padding=self.padding)

    def backward(self) -> None:
        """Convolutions of the backward pass; none for the frames themselves, whose gradient nobody asks."""
        for n, layer in enumerate(self.layers):
            steps = (layer[name].chunk(self.steps) for name in ("x", "h", "gates"))
            for x, h, gates in zip(*steps, strict=True):
                self._gradient(gates, h, layer["w_h"], [True, False, False])
                if n:
                    self._gradient(gates, x, layer["w_x"], [True, False, False])
            self._gradient(layer["gates"], layer["h"], layer["w_h"], [False, True, False])
            self._gradient(layer["gates"], layer["x"], layer["w_x"], [False, True, True])

    def _gradient(self, gates: Tensor, x: Tensor, weight: Tensor, needed: list[bool]) -> None:
        pair, ones, zeros = [self.padding] * 2, [1, 1], [0, 0]
        torch.ops.aten.convolution_backward(
            gates, x, weight, [len(weight)], ones, pair, ones, False, zeros, 1, needed
        )


def rivals(case: Case, mixed: bool, train: bool) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    x = torch.randn(case.batch, case.steps, case.inputs, case.size, case.size)
    bare = BareConvolutions(case, torch.bfloat16 if mixed else torch.float32)

    def run(layer: nn.Module) -> None:
        outputs = _forward(layer, x, mixed, train)
        if train:
            layer.zero_grad()
            outputs.sum().backward()

    def floor() -> None:
        with torch.no_grad():
            bare()
            if train:
                bare.backward()

    works = {name: lambda layer=layer: run(layer) for name, layer in _layers(case).items()}
    return works | {"bare convolutions": floor}


def _layers(case: Case) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {"textbook loop": TextbookLSTM(case)}
    for engine in ("reference", "fused", "compiled"):
        if available()[engine] is None:
            layers[engine] = ConvLSTM(
                case.inputs, case.hidden, case.kernel, len(case.hidden), batch_first=True, engine=engine
            )
    return layers


def _forward(layer: nn.Module, x: Tensor, mixed: bool, train: bool) -> Tensor:
    precision: AbstractContextManager[object] = (
        torch.autocast("cpu", dtype=torch.bfloat16) if mixed else nullcontext()
    )
    with torch.set_grad_enabled(train), precision:
        result = layer(x)
    return result if isinstance(result, Tensor) else result[0][-1]


def compare(case: Case, mixed: bool, train: bool) -> list[Figure]:
    """Seconds of each rival, and in each repetition its ratios to the textbook loop and to the floor."""
    works = rivals(case, mixed, train)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(REPETITIONS + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repetition:  # the first is to warm up
                seconds[name].append(time.perf_counter() - start)
    what = f"{case}, {'forward+backward' if train else 'forward'}, {'bf16 autocast' if mixed else 'fp32'}"
    figures = []
    for name, own in seconds.items():
        figures.append(Figure(f"{what}: {name}", "s", own))
        for rival, unit in (
            ("textbook loop", "times the textbook loop's speed"),
            ("bare convolutions", "times the bare convolutions' time"),
        ):
            pairs = zip(seconds[rival], own, strict=True)
            ratios = [a / b if rival == "textbook loop" else b / a for a, b in pairs]
            if name != rival:
                figures.append(Figure(f"{what}: {name}", unit, ratios))
    return figures


def memory(case: Case, mixed: bool) -> list[Figure]:
    """What each rival holds between the forward and the backward pass, besides its parameters and frames."""
    x = torch.randn(case.batch, case.steps, case.inputs, case.size, case.size)
    layers = _layers(case)
    if "compiled" in layers:
        layers["compiled, save=state"] = ConvLSTM(
            case.inputs, case.hidden, case.kernel, len(case.hidden), batch_first=True, save="state"
        )
    figures = []
    for name, layer in layers.items():
        held: dict[int, int] = {}

        def note(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = _forward(layer, x, mixed, train=True)
        for tensor in (x, *layer.parameters()):
            held.pop(tensor.untyped_storage().data_ptr(), None)
        del outputs
        what = f"{case}, {'bf16 autocast' if mixed else 'fp32'}: {name}"
        figures.append(Figure(what, "MiB held for the backward pass", [sum(held.values()) / 2**20]))
    return figures


def run(cases: tuple[Case, ...] = CASES) -> list[Figure]:
    """Times of every case, and what is held in memory."""
    torch.manual_seed(0)
    figures = [figure for case in cases for mixed in (False, True) for figure in memory(case, mixed)]
    return figures + [
        figure
        for case in cases
        for mixed in (False, True)
        for train in (False, True)
        for figure in compare(case, mixed, train)
    ]
