"""Time of layers of the model zoo in one run with their equations as public code has them, on equal weights.

Every repetition times both in turn; on a processor it counts processor time, as other programs may run.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import Table
from benchmarks._rivals import DEVICE, PRECISIONS, Case, rival
from benchmarks.layers import REPETITIONS, WARM_UPS
from convlstm import CausalLSTMCell, Cell, ConvLSTM, GHUCell, STLSTMCell

CASE = Case(batch=2, steps=10, inputs=16, hidden=[64, 64, 64, 64], kernel=5, size=16)


class PublicCell(nn.Module):
    """Convolutions without biases, by name, each over one input: (inputs, outputs, kernel size)."""

    def __init__(self, **sizes: tuple[int, int, int]) -> None:
        super().__init__()
        for name, (inputs, outputs, kernel) in sizes.items():
            setattr(self, name, nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))

    def conv(self, name: str, x: Tensor) -> Tensor:
        """The result of a convolution."""
        y: Tensor = self.get_submodule(name)(x)
        return y

    def gates(self, name: str, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The gates that a convolution gives."""
        return self.conv(name, x).chunk(count, dim=1)


class PublicSTLSTM(PublicCell):
    """The ST-LSTM with a convolution each over x, h and m, as in PredRNN's public code."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gates = {"conv_x": (inputs, 7 * n, k), "conv_h": (n, 4 * n, k), "conv_m": (n, 3 * n, k)}
        super().__init__(**gates, conv_o=(2 * n, n, k), conv_last=(2 * n, n, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, c and m after a step."""
        i_x, f_x, g_x, i_xm, f_xm, g_xm, o_x = self.gates("conv_x", x, 7)
        i_h, f_h, g_h, o_h = self.gates("conv_h", h, 4)
        i_m, f_m, g_m = self.gates("conv_m", m, 3)
        c = torch.sigmoid(f_x + f_h + 1) * c + torch.sigmoid(i_x + i_h) * torch.tanh(g_x + g_h)
        m = torch.sigmoid(f_xm + f_m + 1) * m + torch.sigmoid(i_xm + i_m) * torch.tanh(g_xm + g_m)
        both = torch.cat([c, m], dim=1)
        o = torch.sigmoid(o_x + o_h + self.conv("conv_o", both))
        return o * torch.tanh(self.conv("conv_last", both)), c, m


class PublicCausalLSTM(PublicCell):
    """The causal LSTM with a convolution each over x, h, c, m, c' and m', as in public PredRNN++."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gates = {"conv_x": (inputs, 7 * n, k), "conv_h": (n, 4 * n, k), "conv_c": (n, 3 * n, k)}
        gates |= {"conv_m": (n, 3 * n, k), "conv_c2m": (n, 4 * n, k), "conv_om": (n, n, k)}
        super().__init__(**gates, conv_last=(2 * n, n, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, c and m after a step."""
        i_x, f_x, g_x, i_xm, f_xm, g_xm, o_x = self.gates("conv_x", x, 7)
        i_h, f_h, g_h, o_h = self.gates("conv_h", h, 4)
        i_c, f_c, g_c = self.gates("conv_c", c, 3)
        i_m, f_m, m_m = self.gates("conv_m", m, 3)
        add = torch.sigmoid(i_x + i_h + i_c) * torch.tanh(g_x + g_h + g_c)
        c = torch.sigmoid(f_x + f_h + f_c + 1) * c + add
        i_c, g_c, f_c, o_c = self.gates("conv_c2m", c, 4)
        add = torch.sigmoid(i_xm + i_m + i_c) * torch.tanh(g_xm + g_c)
        m = torch.sigmoid(f_xm + f_m + f_c + 1) * torch.tanh(m_m) + add
        o = torch.tanh(o_x + o_h + o_c + self.conv("conv_om", m))
        return o * torch.tanh(self.conv("conv_last", torch.cat([c, m], dim=1))), c, m


class PublicGHU(PublicCell):
    """The gradient highway unit."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        super().__init__(conv_x=(inputs, 2 * n, k), conv_h=(n, 2 * n, k))

    def forward(self, x: Tensor, z: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output after a step; c and m as they are."""
        p, u = (self.conv("conv_x", x) + self.conv("conv_h", z)).chunk(2, dim=1)
        u = torch.sigmoid(u)
        return u * torch.tanh(p) + (1 - u) * z, c, m


class PublicStack(nn.Module):
    """Cells over a sequence, each frame through all of them before the next."""

    def __init__(self, cells: list[Any], inputs: int, n: int, k: int) -> None:
        super().__init__()
        self.hidden = n
        self.cell_list = nn.ModuleList(make(inputs if not i else n, n, k) for i, make in enumerate(cells))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to the last cell's outputs."""
        zeros = x.new_zeros(x.shape[0], self.hidden, *x.shape[3:])
        states, m, outputs = [(zeros, zeros)] * len(self.cell_list), zeros, []
        for frame in x.unbind(1):
            h = frame
            for i, cell in enumerate(self.cell_list):
                h, c, m = cell(h, *states[i], m)
                states[i] = (h, c)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


#: Our cells and the public ones of a stack of four.
STACKS: dict[str, tuple[list[type[Cell]], list[Any]]] = {
    "PredRNN": ([STLSTMCell] * 4, [PublicSTLSTM] * 4),
    "PredRNN++": (
        [CausalLSTMCell, GHUCell, *[CausalLSTMCell] * 3],
        [PublicCausalLSTM, PublicGHU, *[PublicCausalLSTM] * 3],
    ),
}


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time that it takes, or with all that it asks of a GPU the time."""
    if DEVICE == "cpu":
        clock = time.process_time
    else:
        clock = time.perf_counter
        torch.cuda.synchronize()
    start = clock()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def run() -> Iterator[Table]:
    """Forward and backward pass of each stack."""
    torch.manual_seed(0)
    case, n = CASE, CASE.hidden[0]
    x = torch.randn(case.batch, case.steps, case.inputs, *case.space, device=DEVICE)
    for name, (cells, public) in STACKS.items():
        theirs = PublicStack(public, case.inputs, n, case.kernel).to(DEVICE)
        layers = partial(ConvLSTM, case.inputs, n, case.kernel, len(cells), True, bias=False)
        ours = layers(cell=cells).to(DEVICE)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(x)[0][0], theirs(x))
        works = {
            f"{who}, {precision}": rival(layer, x, mixed).train
            for mixed, precision in PRECISIONS.items()
            for who, layer in (("public equations", theirs), ("ours", ours))
        }
        seconds: dict[str, list[float]] = {who: [] for who in works}
        for repetition in range(WARM_UPS + REPETITIONS):
            for who, work in works.items():
                taken = seconds_of(work)
                if repetition >= WARM_UPS:
                    seconds[who].append(taken)
        rows = {}
        for who, own in seconds.items():
            others = seconds[f"public equations, {who.rsplit(', ', 1)[1]}"]
            rows[who] = [[1000 * s for s in own], [a / b for a, b in zip(own, others, strict=True)]]
        yield Table(f"{name}, {case}, forward+backward", ("ms", "times the public equations' time"), rows)
