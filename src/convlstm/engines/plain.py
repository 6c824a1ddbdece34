"""The pointwise halves of the recurrences in torch's own operations: any device, dtype and activation.

Everything but kept sums (see `PlainKernels.kept`) is stored by pixel, channels last: P pixels of the whole
batch, C channels. Arithmetic has the dtype of the memory, at least 32 bits; sums of gates have that of the
convolutions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv, split
from convlstm.functional.gates import ACTIVATIONS


class Weight(NamedTuple):
    """What a sequence is convolved with.

    Attributes:
        frame: over the frames; None where ``hidden`` is over both, with the bias, and a step takes the frame.
        hidden: over h, as the kernels that made it take it.
        in_place: whether a step may write the new h where the old one is.
    """

    frame: Tensor | None
    hidden: Any
    in_place: bool = True


class PlainKernels:
    """Each method is one pass over all pixels; its docstring says which arguments it writes to.

    Args:
        activations: names of those of the gates, the candidate and the output.
    """

    def __init__(self, activations: tuple[str, str, str]) -> None:
        self.gate, self.candidate, self.output = activations

    def lstm_weight(
        self, conv: SameConv, weight: Tensor, bias: Tensor | None, h: Tensor, keep: bool
    ) -> Weight:
        """A cell's weight for `lstm_step`.

        Args:
            conv: of h.
            weight: (4 C, C_in + C, *kernel).
            bias: (4 C,) or None.
            h: (B, *S, C), not read.
            keep: whether sums are kept.
        """
        return Weight(*split(weight, weight.shape[1] - h.shape[-1], h.dtype))

    def gru_weight(
        self, conv: SameConv, weight: Tensor, bias: Tensor | None, reset_bias: Tensor | None, h: Tensor
    ) -> Weight:
        """The same for `gru_step`, with 3 C sums, and the bias of the hidden state's part of n."""
        return Weight(*split(weight, weight.shape[1] - h.shape[-1], h.dtype))

    def lstm_step(
        self,
        conv: SameConv,
        a: Tensor,
        h: Tensor | None,
        weight: Weight,
        c: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
        peepholes: Tensor | None,
    ) -> None:
        """One step with its convolution.

        Args:
            conv: of h.
            a: (B, *S, 4 C), the input's part of the sums, which may be written to; or, where the weight has
                no part over it, the frame (B, *S, C_in).
            h: (B, *S, C), of the same dtype; None for zero.
            weight: as `lstm_weight` gave it.
            c: (B, *S, C), the memory; becomes the new one.
            new_h: (B, *S, C), written to: the new output; h itself only where the weight says ``in_place``.
            kept: (B, *S, 4 C), written to: the sums; or None.
            peepholes: as in `lstm_forward`.
        """
        sums = by_gate(a if h is None else conv.add(a, h, weight.hidden), 4)
        kept = None if kept is None else self.kept(kept)
        self.lstm_forward(sums, flat(c), flat(new_h), kept, peepholes)

    def lstm_forward(
        self, sums: Tensor, c: Tensor, h: Tensor, kept: Tensor | None, peepholes: Tensor | None
    ) -> None:
        """One step of `convlstm.functional.gates.lstm_gates`.

        Args:
            sums: (P, 4, C), of the gates i, f, o, g, without peepholes.
            c: (P, C), the memory; becomes the new one.
            h: (P, C), written to: the new output.
            kept: (P, 4, C), written to: the sums; or None.
            peepholes: (3, Q, C) of every pixel (Q = 1) or of the Q pixels of a frame; or None.
        """
        i, f, o, g = _planes(sums if kept is None else kept.copy_(sums), c.dtype)
        if peepholes is not None:
            i, f = _peek(i, peepholes[0], c), _peek(f, peepholes[1], c)
        new = value(self.gate, i).mul_(value(self.candidate, g))
        torch.addcmul(new, value(self.gate, f), c, out=c)
        o = o if peepholes is None else _peek(o, peepholes[2], c)
        torch.mul(value(self.gate, o), value(self.output, c), out=h)

    def lstm_replay(self, sums: Tensor, c: Tensor, new_c: Tensor, peepholes: Tensor | None) -> None:
        """The memory after a step, into ``new_c``, from the sums that `lstm_forward` kept."""
        i, f, _, g = _planes(sums, c.dtype)
        if peepholes is not None:
            i, f = _peek(i, peepholes[0], c), _peek(f, peepholes[1], c)
        torch.mul(value(self.gate, i), value(self.candidate, g), out=new_c)
        new_c.addcmul_(value(self.gate, f), c)

    def lstm_backward(
        self,
        sums: Tensor,
        c: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_c: Tensor,
        d_sums: Tensor,
        peepholes: Tensor | None,
    ) -> None:
        """The gradients of one step.

        Args:
            sums: (P, 4, C), as `lstm_forward` kept them.
            c: (P, C), the memory before the step.
            d_output: (P, C), of the loss by the output at this step.
            d_h: (P, C), by the same output as the next step saw it.
            d_c: (P, C), by the memory after the step; becomes that by the memory before it.
            d_sums: (P, 4, C), written to.
            peepholes: as in `lstm_forward`.
        """
        i_sum, f_sum, o_sum, g_sum = _planes(sums, c.dtype)
        if peepholes is not None:
            i_sum, f_sum = _peek(i_sum, peepholes[0], c), _peek(f_sum, peepholes[1], c)
        i, f, g = value(self.gate, i_sum), value(self.gate, f_sum), value(self.candidate, g_sum)
        new = torch.addcmul(i * g, f, c)
        if peepholes is not None:
            o_sum = _peek(o_sum, peepholes[2], new)
        o, out = value(self.gate, o_sum), value(self.output, new)
        dh = d_output.to(c.dtype) + d_h
        do = through(self.gate, dh * out, o_sum, o)
        d_c.add_(through(self.output, dh.mul_(o), new, out))
        if peepholes is not None:
            d_c.copy_(_peek(d_c, peepholes[2], do))
        di = through(self.gate, d_c * g, i_sum, i)
        df = through(self.gate, d_c * c, f_sum, f)
        dg = through(self.candidate, d_c * i, g_sum, g)
        for n, d in enumerate((di, df, do, dg)):
            d_sums[:, n].copy_(d)
        d_c.mul_(f)
        if peepholes is not None:
            d_c.copy_(_peek(_peek(d_c, peepholes[0], di), peepholes[1], df))

    def gru_step(
        self,
        conv: SameConv,
        a: Tensor,
        b: Tensor | None,
        bias: Tensor | None,
        h: Tensor | None,
        weight: Weight,
        m: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
    ) -> None:
        """One step with its convolution, as `lstm_step` with the state ``m`` in the memory's place.

        Args:
            conv: of h.
            a: (B, *S, 3 C) or the frame.
            b: room for the hidden state's part of the sums, (B, *S, 3 C), or None.
            bias: of the hidden state's part of n, (C,), or None.
            h: (B, *S, C), or None for zero.
            weight: as `gru_weight` gave it.
            m: (B, *S, C); becomes the new one.
            new_h: (B, *S, C), written to.
            kept: (B, *S, 4 C), written to: what `gru_forward` keeps; or None.
        """
        if h is not None:
            b = conv.into(b, h, weight.hidden)
        else:
            b = torch.zeros_like(a) if b is None else b.zero_()
        bias = m.new_zeros(m.shape[-1]) if bias is None else bias
        kept = None if kept is None else self.kept(kept)
        self.gru_forward(by_gate(a, 3), by_gate(b, 3), bias, flat(m), flat(new_h), kept)

    def gru_forward(
        self, a: Tensor, b: Tensor, bias: Tensor, m: Tensor, h: Tensor, kept: Tensor | None
    ) -> None:
        """One step of a GRU whose reset gate acts after the convolution.

        Args:
            a: (P, 3, C), the input's part of r, z, n.
            b: (P, 3, C), the hidden state's; written to.
            bias: (C,), of the hidden state's part of n.
            m: (P, C), the state; becomes the new one.
            h: (P, C), written to: the same for the next convolution.
            kept: (P, 4, C), written to: the sums of r and z, the two parts of n; or None.
        """
        r, z = b[:, 0].add_(a[:, 0]), b[:, 1].add_(a[:, 1])
        x, y = a[:, 2], b[:, 2].add_(bias.to(b.dtype))
        planes = torch.stack((r, z, x, y), out=None if kept is None else kept.transpose(0, 1))
        r, z, x, y = planes.to(m.dtype)
        self._mix(r, z, x, y, m, m)
        h.copy_(m)

    def gru_replay(self, sums: Tensor, m: Tensor, new_m: Tensor) -> None:
        """The state after a step, into ``new_m``, from the sums that `gru_forward` kept."""
        r, z, x, y = _planes(sums, m.dtype)
        self._mix(r, z, x, y, m, new_m)

    def _mix(self, r: Tensor, z: Tensor, x: Tensor, y: Tensor, m: Tensor, new_m: Tensor) -> None:
        z = value(self.gate, z)
        n = value(self.candidate, torch.addcmul(x, value(self.gate, r), y))
        torch.add(n, z.mul_(m - n), out=new_m)

    def gru_backward(
        self,
        sums: Tensor,
        m: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_m: Tensor,
        d_a: Tensor,
        d_b: Tensor,
    ) -> None:
        """The gradients of one step: of the sums of both parts into ``d_a`` and ``d_b``, (P, 3, C).

        The others are as in `lstm_backward`, with the state ``m`` in the memory's place.
        """
        r_sum, z_sum, x, y = _planes(sums, m.dtype)
        r, z = value(self.gate, r_sum), value(self.gate, z_sum)
        n_sum = torch.addcmul(x, r, y)
        n = value(self.candidate, n_sum)
        d_m.add_(d_output).add_(d_h)
        dz = through(self.gate, d_m * (m - n), z_sum, z)
        dn = through(self.candidate, d_m * (1 - z), n_sum, n)
        dr = through(self.gate, dn * y, r_sum, r)
        for part, n_part in ((d_a, dn), (d_b, dn * r)):
            for k, d in enumerate((dr, dz, n_part)):
                part[:, k].copy_(d)
        d_m.mul_(z)

    def kept(self, rows: Tensor) -> Tensor:
        """Kept rows (..., 4 C) seen as sums (P, 4, C); in memory they lie gate by gate here."""
        return rows.view(4, -1, rows.shape[-1] // 4).transpose(0, 1)

    def to_rows(self, frames: Tensor, rows: Tensor) -> None:
        """Frames (N, C, *S) into rows (N, *S, C), in another dtype if need be."""
        rows.copy_(frames.movedim(1, -1))

    def to_frames(self, rows: Tensor, frames: Tensor) -> None:
        """Rows (N, *S, C) into frames (N, C, *S), in another dtype if need be."""
        frames.copy_(rows.movedim(-1, 1))


def flat(rows: Tensor) -> Tensor:
    """Rows (..., C) as (P, C)."""
    return rows.view(-1, rows.shape[-1])


def by_gate(rows: Tensor, number: int) -> Tensor:
    """Rows (..., gates C) as (P, gates, C)."""
    return rows.view(-1, number, rows.shape[-1] // number)


def _planes(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums (P, gates, C) as (gates, P, C), each gate dense, as torch runs over that twice as fast."""
    planes = sums.transpose(0, 1)
    if planes.is_contiguous():
        return planes.to(dtype)
    return torch.empty(planes.shape, dtype=dtype, device=sums.device).copy_(planes)


def value(name: str, x: Tensor) -> Tensor:
    """An activation at x, in a tensor of its own."""
    y = ACTIVATIONS[name](x)
    return y.clone() if y is x else y


def through(name: str, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of y = activation(x) into that of x."""
    result: Tensor = _BACKWARD[name](gradient, x, y)
    return result


# Torch's own, which autograd calls; not autograd itself, which is asleep inside an operator.
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "sigmoid": lambda d, x, y: torch.ops.aten.sigmoid_backward(d, y),
    "hard_sigmoid": lambda d, x, y: torch.ops.aten.hardsigmoid_backward(d, x),
    "tanh": lambda d, x, y: torch.ops.aten.tanh_backward(d, y),
    "hard_tanh": lambda d, x, y: torch.ops.aten.hardtanh_backward(d, x, -1, 1),
    "relu": lambda d, x, y: torch.ops.aten.threshold_backward(d, y, 0),
    "leaky_relu": lambda d, x, y: torch.ops.aten.leaky_relu_backward(d, x, 0.01, False),
    "elu": lambda d, x, y: torch.ops.aten.elu_backward(d, 1, 1, 1, False, x),
    "silu": lambda d, x, y: torch.ops.aten.silu_backward(d, x),
    "gelu": lambda d, x, y: torch.ops.aten.gelu_backward(d, x),
    "softsign": lambda d, x, y: d * (1 - y.abs()).square(),
    "identity": lambda d, x, y: d,
}


def _peek(x: Tensor, weight: Tensor, c: Tensor) -> Tensor:
    """X + weight c, with a weight (Q, C) for each of the Q pixels of a frame."""
    frames: Sequence[int] = (-1, *weight.shape)
    return torch.addcmul(x.view(frames), weight, c.view(frames)).view(c.shape)
