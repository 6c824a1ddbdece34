"""Equations of the model zoo's cells in torch, in the order in which public code computes them.

Weights have the names of ours, convolutions no biases, and normalisations a weight per channel, as ours do.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LINKS = 13
#: Steps that the attention of a motion-aware unit looks back.
TAU = 5


class PublicCell(nn.Module):
    """Convolutions without biases, by name, each over one input: (inputs, outputs, kernel size)."""

    def __init__(self, **sizes: tuple[int, int, int]) -> None:
        super().__init__()
        for name, (inputs, outputs, kernel) in sizes.items():
            setattr(self, name, nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))

    def convolved(self, name: str, x: Tensor) -> Tensor:
        """The result of a convolution."""
        y: Tensor = self.get_submodule(name)(x)
        return y

    def gates(self, name: str, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The gates that a convolution gives."""
        return self.convolved(name, x).chunk(count, dim=1)

    def start(self, zeros: Tensor) -> Any:
        """The cell state before the first frame, from zeros of the shape of h."""
        return zeros


class PublicSTLSTM(PublicCell):
    """The ST-LSTM with a convolution each over x, h and m, as in PredRNN's public code."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gates = {"conv_x": (inputs, 7 * n, k), "conv_h": (n, 4 * n, k), "conv_m": (n, 3 * n, k)}
        super().__init__(**gates, conv_o=(2 * n, n, k), conv_last=(2 * n, n, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new h, c and m."""
        i_x, f_x, g_x, i_xm, f_xm, g_xm, o_x = self.gates("conv_x", x, 7)
        i_h, f_h, g_h, o_h = self.gates("conv_h", h, 4)
        i_m, f_m, g_m = self.gates("conv_m", m, 3)
        c = torch.sigmoid(f_x + f_h + 1) * c + torch.sigmoid(i_x + i_h) * torch.tanh(g_x + g_h)
        m = torch.sigmoid(f_xm + f_m + 1) * m + torch.sigmoid(i_xm + i_m) * torch.tanh(g_xm + g_m)
        both = torch.cat([c, m], dim=1)
        o = torch.sigmoid(o_x + o_h + self.convolved("conv_o", both))
        return o * torch.tanh(self.convolved("conv_last", both)), c, m


class PublicCausalLSTM(PublicCell):
    """The causal LSTM with a convolution each over x, h, c, m, c' and m', as in public PredRNN++."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gates = {"conv_x": (inputs, 7 * n, k), "conv_h": (n, 4 * n, k), "conv_c": (n, 3 * n, k)}
        gates |= {"conv_m": (n, 3 * n, k), "conv_c2m": (n, 4 * n, k), "conv_om": (n, n, k)}
        super().__init__(**gates, conv_last=(2 * n, n, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new h, c and m."""
        i_x, f_x, g_x, i_xm, f_xm, g_xm, o_x = self.gates("conv_x", x, 7)
        i_h, f_h, g_h, o_h = self.gates("conv_h", h, 4)
        i_c, f_c, g_c = self.gates("conv_c", c, 3)
        i_m, f_m, m_m = self.gates("conv_m", m, 3)
        add = torch.sigmoid(i_x + i_h + i_c) * torch.tanh(g_x + g_h + g_c)
        c = torch.sigmoid(f_x + f_h + f_c + 1) * c + add
        i_c, g_c, f_c, o_c = self.gates("conv_c2m", c, 4)
        add = torch.sigmoid(i_xm + i_m + i_c) * torch.tanh(g_xm + g_c)
        m = torch.sigmoid(f_xm + f_m + f_c + 1) * torch.tanh(m_m) + add
        o = torch.tanh(o_x + o_h + o_c + self.convolved("conv_om", m))
        return o * torch.tanh(self.convolved("conv_last", torch.cat([c, m], dim=1))), c, m


class PublicGHU(PublicCell):
    """The gradient highway unit."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        super().__init__(conv_x=(inputs, 2 * n, k), conv_h=(n, 2 * n, k))

    def forward(self, x: Tensor, z: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output after a step; c and m as they are."""
        p, u = (self.convolved("conv_x", x) + self.convolved("conv_h", z)).chunk(2, dim=1)
        u = torch.sigmoid(u)
        return u * torch.tanh(p) + (1 - u) * z, c, m


class PublicPeepholeLSTM(PublicCell):
    """The LSTM of both modules of MIM."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        super().__init__(conv_x=(inputs, 4 * n, k), conv_h=(n, 4 * n, k))
        self.peephole = nn.Parameter(torch.randn(3, n, 1, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The new h and c."""
        i_h, g_h, f_h, o_h = self.gates("conv_h", h, 4)
        i_x, g_x, f_x, o_x = self.gates("conv_x", x, 4)
        w_i, w_f, w_o = self.peephole.unbind()
        f = torch.sigmoid(f_x + f_h + w_f * c + 1)
        c = f * c + torch.sigmoid(i_x + i_h + w_i * c) * torch.tanh(g_x + g_h)
        return torch.sigmoid(o_x + o_h + w_o * c) * torch.tanh(c), c


class PublicMIM(PublicCell):
    """A memory in memory, whose c is also those of its modules and the input before."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gates = {"conv_x": (inputs, 4 * n, k), "conv_h": (n, 3 * n, k), "conv_m": (n, 4 * n, k)}
        super().__init__(**gates, conv_last=(2 * n, n, 1))
        self.non_stationary = nn.ModuleDict({"lstm": PublicPeepholeLSTM(inputs, n, k)})
        self.stationary = PublicPeepholeLSTM(n, n, k)

    def start(self, zeros: Tensor) -> Any:
        """All zeros, and no input before."""
        return zeros, zeros, zeros, zeros, None

    def forward(self, x: Tensor, h: Tensor, c: Any, m: Tensor) -> tuple[Tensor, Any, Tensor]:
        """The new h, c and m."""
        c, d, n, s, before = c
        d, n = self.non_stationary["lstm"](x - (x if before is None else before), d, n)
        t, s = self.stationary(d, c, s)
        i_h, g_h, o_h = self.gates("conv_h", h, 3)
        i_m, g_m, f_m, o_m = self.gates("conv_m", m, 4)
        i_x, g_x, f_x, o_x = self.gates("conv_x", x, 4)
        c = t + torch.sigmoid(i_x + i_h) * torch.tanh(g_x + g_h)
        m = torch.sigmoid(f_x + f_m + 1) * m + torch.sigmoid(i_x + i_m) * torch.tanh(g_x + g_m)
        last = self.convolved("conv_last", torch.cat([c, m], dim=1))
        return torch.sigmoid(o_x + o_h + o_m) * torch.tanh(last), (c, d, n, s, x), m


class PublicMAU(PublicCell):
    """A motion-aware unit, whose c is the last temporal states and inputs; a product for each of them."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        of_input = {"conv_s": (inputs, 3 * n, k), "conv_s_next": (inputs, inputs, k)}
        super().__init__(conv_t=(n, 3 * n, k), conv_t_next=(n, n, k), **of_input)
        for name in ("conv_t", "conv_t_next", "conv_s", "conv_s_next"):
            conv: Any = self.get_submodule(name)
            setattr(self, name, nn.Sequential(conv, nn.GroupNorm(1, conv.out_channels)))
        self.inputs = inputs

    def start(self, zeros: Tensor) -> Any:
        """Zeros for each step that is looked back on."""
        return [zeros] * TAU, [zeros.new_zeros(len(zeros), self.inputs, *zeros.shape[2:])] * TAU

    def forward(self, x: Tensor, h: Tensor, c: Any, m: Tensor) -> tuple[Tensor, Any, Tensor]:
        """The new h and c; m as it is."""
        before, inputs = c
        query, u = self.convolved("conv_s_next", x), torch.sigmoid(self.convolved("conv_t_next", before[-1]))
        scores = [(s * query).sum(dim=(1, 2, 3)) / query[0].numel() ** 0.5 for s in inputs]
        weights = torch.softmax(torch.stack(scores), dim=0)[:, :, None, None, None]
        trend = (torch.stack(before) * weights).sum(dim=0)
        g_t, t_t, t_s = self.gates("conv_t", before[-1] * u + (1 - u) * trend, 3)
        g_s, s_t, s_s = self.gates("conv_s", x, 3)
        g_t, g_s = torch.sigmoid(g_t), torch.sigmoid(g_s)
        t = g_t * t_t + (1 - g_t) * s_t
        return g_s * s_s + (1 - g_s) * t_s, ([*before[1:], t], [*inputs[1:], x]), m


class PublicE3DLSTM(PublicCell):
    """The eidetic LSTM, on frames of two axes; c is its cell states of all steps, one behind the other."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gates = {"conv_x": (inputs, 7 * n, k), "conv_h": (n, 4 * n, k), "conv_m": (n, 4 * n, k)}
        super().__init__(**gates, conv_o=(2 * n, n, k), conv_last=(2 * n, n, 1))
        self.norm = nn.GroupNorm(1, n)

    def start(self, zeros: Tensor) -> Any:
        """One cell state."""
        return zeros.unsqueeze(1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new h, c and m."""
        i_h, g_h, r_h, o_h = self.gates("conv_h", h, 4)
        i_x, g_x, r_x, o_x, i_xm, g_xm, f_xm = self.gates("conv_x", x, 7)
        recalled = self.recall(torch.sigmoid(r_x + r_h), c)
        new = self.norm(c[:, -1] + recalled) + torch.sigmoid(i_x + i_h) * torch.tanh(g_x + g_h)
        i_m, f_m, g_m, m_m = self.gates("conv_m", m, 4)
        add = torch.sigmoid(i_xm + i_m) * torch.tanh(g_xm + g_m)
        m = torch.sigmoid(f_xm + f_m + 1) * torch.tanh(m_m) + add
        both = torch.cat([new, m], dim=1)
        o = torch.sigmoid(torch.tanh(o_x + o_h + self.convolved("conv_o", both)))
        return o * torch.tanh(self.convolved("conv_last", both)), torch.cat([c, new.unsqueeze(1)], dim=1), m

    def recall(self, query: Tensor, c: Tensor) -> Tensor:
        """The mean of the cell states of all places and steps that the softmax weighs."""
        queries, keys = query.flatten(2).transpose(1, 2), c.transpose(1, 2).flatten(2).transpose(1, 2)
        weights = torch.softmax(torch.einsum("bxc,byc->bxy", queries, keys), dim=2)
        return torch.einsum("bxy,byc->bxc", weights, keys).transpose(1, 2).reshape(query.shape)


class PublicSAConvLSTM(nn.Module):
    """A ConvLSTM with a self-attention memory, in c as well; convolutions but the LSTM's have biases."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        super().__init__()
        self.lstm = PublicCell(conv=(inputs + n, 4 * n, k))
        self.query, self.key, self.key_m = (nn.Conv2d(n, n // 4, 1) for _ in range(3))
        self.value, self.value_m = (nn.Conv2d(n, n, 1) for _ in range(2))
        self.mix, self.gates = nn.Conv2d(2 * n, n, 1), nn.Conv2d(2 * n, 3 * n, 1)

    def start(self, zeros: Tensor) -> Any:
        """The cell state and the self-attention memory."""
        return zeros, zeros

    def forward(self, x: Tensor, h: Tensor, c: Any, m: Tensor) -> tuple[Tensor, Any, Tensor]:
        """The new h and c; m as it is."""
        c, memory = c
        i, f, o, g = self.lstm.gates("conv", torch.cat([x, h], dim=1), 4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        query = self.query(h).flatten(2).transpose(1, 2)
        pairs = (self.key(h), self.value(h)), (self.key_m(memory), self.value_m(memory))
        found = [self.attend(query, key.flatten(2), value) for key, value in pairs]
        gates = self.gates(torch.cat([self.mix(torch.cat(found, dim=1)), h], dim=1))
        i, g, o = gates.chunk(3, dim=1)
        i = torch.sigmoid(i)
        memory = (1 - i) * memory + i * torch.tanh(g)
        return torch.sigmoid(o) * memory, (c, memory), m

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """For each place the mean of the values of all that the softmax weighs."""
        weights = torch.softmax(torch.bmm(query, key), dim=2)
        return torch.matmul(weights, value.flatten(2).permute(0, 2, 1)).transpose(1, 2).reshape(value.shape)


class PublicPhyCell(PublicCell):
    """The physical cell of PhyDNet, whose gain is one convolution of input and state."""

    def __init__(self, inputs: int, n: int, k: int) -> None:
        gains = {"gain_x": (n, n, 3), "gain_h": (n, n, 3)}
        super().__init__(derivatives=(n, k * k, k), combine=(k * k, n, 1), **gains)
        self.norm = nn.GroupNorm(k, k * k)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new h; c and m as they are."""
        both = (self.get_submodule(name).get_parameter("weight") for name in ("gain_x", "gain_h"))
        gain = torch.sigmoid(F.conv2d(torch.cat([x, h], dim=1), torch.cat([*both], dim=1), padding=1))
        predicted = h + self.convolved("combine", self.norm(self.convolved("derivatives", h)))
        return predicted + gain * (x - predicted), c, m


class PublicStack(nn.Module):
    """Cells over a sequence, each frame through all of them before the next."""

    def __init__(self, cells: list[Any], inputs: int, n: int, k: int) -> None:
        super().__init__()
        self.hidden = n
        self.cell_list = nn.ModuleList(make(inputs if not i else n, n, k) for i, make in enumerate(cells))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to the last cell's outputs."""
        zeros = x.new_zeros(x.shape[0], self.hidden, *x.shape[3:])
        cells: list[Any] = [*self.cell_list]
        states: list[Any] = [(zeros, cell.start(zeros)) for cell in cells]
        m, outputs = zeros, []
        for frame in x.unbind(1):
            h = frame
            for i, cell in enumerate(cells):
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
        of_frames = torch.unflatten(self.convolved("conv_x", x.flatten(0, 1)), 0, x.shape[:2])
        h = x.new_zeros(x.shape[0], of_frames.shape[2] // 3, *x.shape[3:])
        outputs = []
        for t, frame in enumerate(x.unbind(1)):
            q = F.leaky_relu(self.convolved("flow_x", frame) + self.convolved("flow_h", h), 0.2)
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
