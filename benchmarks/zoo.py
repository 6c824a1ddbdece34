"""Time of layers of the model zoo in one run with their equations as public code has them, on equal weights.

Every repetition times both in turn; on a processor it counts processor time, as other programs may run.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import Table
from benchmarks._rivals import DEVICE, PRECISIONS, Case, rival
from benchmarks.layers import REPETITIONS, WARM_UPS
from convlstm import CausalLSTMCell, Cell, ConvLSTM, GHUCell, STLSTMCell, TrajGRUCell

CASE = Case(batch=2, steps=10, inputs=16, hidden=[64, 64, 64, 64], kernel=5, size=16)
#: Calls of operations and modules take a good part of its time.
SMALL = Case(batch=1, steps=10, inputs=1, hidden=[8, 8, 8, 8], kernel=3, size=8)
LINKS = 13


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


class PublicTrajGRU(PublicCell):
    """A layer of the trajectory GRU as in public HKO-7 code: one sampling of h for each link."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        flow = {"flow_x": (inputs, 32, 5), "flow_h": (n, 32, 5), "flow": (32, 2 * LINKS, 5)}
        super().__init__(conv_x=(inputs, 3 * n, k), conv_h=(LINKS * n, 3 * n, 1), **flow)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to the outputs of all steps."""
        of_frames = torch.unflatten(self.conv("conv_x", x.flatten(0, 1)), 0, x.shape[:2])
        h = x.new_zeros(x.shape[0], of_frames.shape[2] // 3, *x.shape[3:])
        outputs = []
        for t, frame in enumerate(x.unbind(1)):
            q = F.leaky_relu(self.conv("flow_x", frame) + self.conv("flow_h", h), 0.2)
            warped = [self.warp(h, -flow) for flow in self.gates("flow", q, LINKS)]
            r_h, z_h, n_h = self.gates("conv_h", torch.stack(warped, dim=2).flatten(1, 2), 3)
            r_x, z_x, n_x = of_frames[:, t].chunk(3, dim=1)
            z = torch.sigmoid(z_x + z_h)
            h = z * h + (1 - z) * F.leaky_relu(n_x + torch.sigmoid(r_x + r_h) * n_h, 0.2)
            outputs.append(h)
        return torch.stack(outputs, dim=1)

    def warp(self, h: Tensor, flow: Tensor) -> Tensor:
        """Values of h at places displaced by (rows, columns), bilinear."""
        axes = [torch.arange(size, device=h.device, dtype=torch.float32) for size in h.shape[2:]]
        rows, columns = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + flow).unbind(1)
        places = 2 * columns / (h.shape[3] - 1) - 1, 2 * rows / (h.shape[2] - 1) - 1
        return F.grid_sample(h.float(), torch.stack(places, dim=-1), align_corners=True).to(h.dtype)


class PublicLayers(nn.Module):
    """Layers, each over the whole sequence before the next."""

    def __init__(self, layer: Any, inputs: int, n: int, k: int, count: int) -> None:
        super().__init__()
        self.cell_list = nn.ModuleList(layer(inputs if not i else n, n, k) for i in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to the last layer's outputs."""
        for layer in self.cell_list:
            x = layer(x)
        return x


#: Our cells, and a network of the public equations of as many; with its inputs, n and kernel.
Network = tuple[list[Callable[..., Cell]], Callable[[int, int, int], nn.Module]]
PREDRNN: Network = [STLSTMCell] * 4, partial(PublicStack, [PublicSTLSTM] * 4)
PREDRNN_PLUS_PLUS: Network = (
    [CausalLSTMCell, GHUCell, *[CausalLSTMCell] * 3],
    partial(PublicStack, [PublicCausalLSTM, PublicGHU, *[PublicCausalLSTM] * 3]),
)
NETWORKS: list[tuple[str, Case, *Network]] = [
    ("PredRNN", CASE, *PREDRNN),
    ("PredRNN++", CASE, *PREDRNN_PLUS_PLUS),
    (
        "TrajGRU",
        CASE._replace(hidden=[64, 64], kernel=3, size=32),
        [partial(TrajGRUCell, links=LINKS)] * 2,
        partial(PublicLayers, PublicTrajGRU, count=2),
    ),
    ("PredRNN", SMALL, *PREDRNN),
    ("PredRNN++", SMALL, *PREDRNN_PLUS_PLUS),
]


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
    for name, case, cells, public in NETWORKS:
        n = case.hidden[0]
        x = torch.randn(case.batch, case.steps, case.inputs, *case.space, device=DEVICE)
        theirs = public(case.inputs, n, case.kernel).to(DEVICE)
        layers = partial(ConvLSTM, case.inputs, n, case.kernel, len(cells), True, bias=False)
        ours = layers(cell=cells).to(DEVICE)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(x)[0][0], theirs(x), rtol=1e-4, atol=1e-5)
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
