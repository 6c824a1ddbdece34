"""The arithmetic of a ConvLSTM over a sequence, forwards and backwards, in buffers written in place."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv


class Plan(NamedTuple):
    """How a call is computed.

    Attributes:
        conv: the convolution of all gates.
        compute: dtype of convolutions and of the gates that are kept.
        exact: dtype of the memory and the arithmetic on gates, at least 32 bits.
        result: dtype of outputs and states.
        layout: memory format inside.
        reverse: whether the last frame comes first.
        last_only: whether outputs are left out, as the state at the end says all.
        chunk: number of steps whose input is convolved at once.
    """

    conv: SameConv
    compute: torch.dtype
    exact: torch.dtype
    result: torch.dtype
    layout: torch.memory_format
    reverse: bool
    last_only: bool
    chunk: int

    def inside(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor (N, C, *S) in a dtype and in the layout of the inside."""
        if self.layout is torch.contiguous_format or tensor.is_contiguous(memory_format=self.layout):
            return tensor.to(dtype).contiguous(memory_format=self.layout)
        room = torch.empty(tensor.shape, dtype=dtype, device=tensor.device, memory_format=self.layout)
        return self._fill(room, tensor)

    def frames(self, x: Tensor, first: int, last: int) -> Tensor:
        """Frames first to last of (B, T, C, *S), as (N, C, *S) with time before batch."""
        batch, _, *shape = x.shape
        room = torch.empty(
            (last - first) * batch, *shape, dtype=self.compute, device=x.device, memory_format=self.layout
        )
        for t, part in enumerate(room.view(-1, batch, *shape), first):
            self._fill(part, x[:, t])
        return room

    def _fill(self, room: Tensor, tensor: Tensor) -> Tensor:
        if room.device.type != "cpu" or self.layout is torch.contiguous_format:
            return room.copy_(tensor)
        # torch transposes a matrix 2.5 times faster than it copies into another layout.
        for to, sample in zip(room, tensor.to(room.dtype), strict=True):
            to.flatten(1).t().copy_(sample.flatten(1).t())
        return room

    def chunks(self, steps: int) -> list[range]:
        """The frames of each chunk, chunks and frames in the order in which they are read."""
        order = range(steps)[::-1] if self.reverse else range(steps)
        return [order[begin : begin + self.chunk] for begin in range(0, steps, self.chunk)]


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass.

    Attributes:
        gates: for each chunk (steps B, 4C, *S), after the nonlinearities, in the order i, f, o, g.
        c: (T, B, C, *S), the memory after each frame.
        h: (T, B, C, *S), the output at each frame, where it does not follow from gates and memory.
    """

    gates: list[Tensor]
    c: Tensor
    h: Tensor | None


def forward(
    plan: Plan,
    valid: Tensor | None,
    starts: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    h: Tensor,
    c: Tensor,
    *,
    keep: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Kept | None]:
    """Outputs (B, T, C, *S), the h and c at the end, and what the backward pass needs."""
    batch, steps, channels = x.shape[:3]
    w_x, w_h = (plan.inside(w, plan.compute) for w in (weight[:, :channels], weight[:, channels:]))
    bias = None if bias is None else bias.to(plan.compute)
    peepholes = None if peepholes is None else peepholes.to(plan.exact)
    h, c = plan.inside(h, plan.exact), plan.inside(c, plan.exact)
    outputs = None if plan.last_only else x.new_empty(batch, steps, *h.shape[1:], dtype=plan.result)
    memories = _stack_of(c, steps if keep else 2, plan)
    keep_h = keep and valid is not None
    hidden = _stack_of(h, steps if keep_h else 2, plan)
    scratch, kept_gates = None, []
    with torch.autocast(x.device.type, enabled=False):
        for n, frames in enumerate(plan.chunks(steps)):
            first, last = min(frames), max(frames) + 1
            sums = plan.inside(plan.conv(plan.frames(x, first, last), w_x, bias), plan.compute)
            for k, t in enumerate(frames, n * plan.chunk):
                gates = sums[(t - first) * batch : (t - first + 1) * batch]
                if starts is not None:
                    h, c = _where(starts[:, t], None, h), _where(starts[:, t], None, c)
                if plan.exact == plan.compute:
                    work = gates
                else:
                    scratch = torch.empty_like(gates, dtype=plan.exact) if scratch is None else scratch
                    work = scratch.copy_(gates)
                work.add_(plan.conv(h.to(plan.compute), w_h))
                new_c = memories[t if keep else k % 2]
                new_h = hidden[t if keep_h else k % 2]
                _update(work, c, peepholes, new_c, new_h)
                if keep and work is not gates:
                    gates.copy_(work)
                if valid is not None:
                    new_h.copy_(_where(valid[:, t], new_h, h))
                    new_c.copy_(_where(valid[:, t], new_c, c))
                h, c = new_h, new_c
                if outputs is not None:
                    outputs[:, t].copy_(h)
            if keep:
                kept_gates.append(sums)
    kept = Kept(kept_gates, memories, hidden if keep_h else None) if keep else None
    return outputs, _result(h, plan), _result(c, plan), kept


def _update(gates: Tensor, c: Tensor, peepholes: Tensor | None, new_c: Tensor, new_h: Tensor) -> None:
    """The equations of `convlstm.functional.gates.lstm_gates`; the gates' sums become the gates."""
    hidden = c.shape[1]
    i, f, o, g = gates.chunk(4, dim=1)
    if peepholes is None:
        gates[:, : 3 * hidden].sigmoid_()
    else:
        i.addcmul_(peepholes[0], c)
        f.addcmul_(peepholes[1], c)
        gates[:, : 2 * hidden].sigmoid_()
    _tanh(g, out=g)
    torch.mul(f, c, out=new_c)
    new_c.addcmul_(i, g)
    if peepholes is not None:
        o.addcmul_(peepholes[2], new_c).sigmoid_()
    _tanh(new_c, out=new_h)
    new_h.mul_(o)


class Gradients(NamedTuple):
    """Of everything a call is given; those of parameters at least in 32 bits. None where not asked for."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    peepholes: Tensor | None
    h: Tensor
    c: Tensor


class Backward:
    """The gradients of one call.

    Args:
        plan: of the call.
        kept: by its forward pass.
        valid: (B, T) bool or None.
        starts: (B, T) bool or None.
        given: x, weight, peepholes, h, c, as the call was given them.
        needed: whether gradients of x, weight, bias are asked for.
    """

    def __init__(
        self,
        plan: Plan,
        kept: Kept,
        valid: Tensor | None,
        starts: Tensor | None,
        given: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor],
        needed: tuple[bool, bool, bool],
    ) -> None:
        self.plan, self.kept, self.valid, self.starts, self.needed = plan, kept, valid, starts, needed
        self.x, weight, peepholes, h, c = given
        self.batch, self.steps, channels = self.x.shape[:3]
        self.w_x, self.w_h = (
            plan.inside(w, plan.compute) for w in (weight[:, :channels], weight[:, channels:])
        )
        self.h, self.c = plan.inside(h, plan.exact), plan.inside(c, plan.exact)
        self.peepholes = None if peepholes is None else peepholes.to(plan.exact)
        self.chunks = plan.chunks(self.steps)
        self.d_x = torch.empty_like(self.x) if needed[0] else None
        self.d_weight = torch.zeros_like(weight, dtype=plan.exact) if needed[1] else None
        self.d_bias = weight.new_zeros(len(weight), dtype=plan.exact) if needed[2] else None
        self.d_peepholes = None if self.peepholes is None else torch.zeros_like(self.peepholes)

    def run(self, d_outputs: Tensor | None, d_h: Tensor | None, d_c: Tensor | None) -> Gradients:
        """From the gradients of outputs (B, T, C, *S) and of the last h and c (None for zero)."""
        dh, dc = (
            torch.zeros_like(self.c) if d is None else torch.empty_like(self.c).copy_(d) for d in (d_h, d_c)
        )
        for frames, gates in zip(self.chunks[::-1], self.kept.gates[::-1], strict=True):
            d_gates = torch.empty_like(gates)
            h_before = torch.empty_like(gates[:, : self.h.shape[1]])
            h_before = h_before.contiguous(memory_format=self.plan.layout)
            for t in frames[::-1]:
                place = self._place(t, frames)
                if d_outputs is not None:
                    dh.add_(self.plan.inside(d_outputs[:, t], self.plan.exact))
                dh, dc = self._step(t, gates[place], d_gates[place], h_before[place], dh, dc)
            self._collect(frames, d_gates, h_before)
        return Gradients(self.d_x, self.d_weight, self.d_bias, self.d_peepholes, dh, dc)

    def _place(self, t: int, frames: Sequence[int]) -> slice:
        """Where frame t stands in what is computed for a chunk of frames."""
        row = t - min(frames)
        return slice(row * self.batch, (row + 1) * self.batch)

    def _before(self, t: int) -> tuple[Tensor, Tensor]:
        """The h and c that enter the step at frame t."""
        t_before = t + 1 if self.plan.reverse else t - 1
        if not 0 <= t_before < self.steps:
            h, c = self.h, self.c
        else:
            c = self.kept.c[t_before]
            if self.kept.h is not None:
                h = self.kept.h[t_before]
            else:
                n = (self.steps - 1 - t_before if self.plan.reverse else t_before) // self.plan.chunk
                gates = self.kept.gates[n][self._place(t_before, self.chunks[n])]
                h = _tanh(c, out=torch.empty_like(c)).mul_(gates.chunk(4, dim=1)[2])
        if self.starts is not None:
            return _where(self.starts[:, t], None, h), _where(self.starts[:, t], None, c)
        return h, c

    def _step(
        self, t: int, gates: Tensor, d_gates: Tensor, h_before: Tensor, dh: Tensor, dc: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the gradients after frame t to those before it; fills in d_gates and h_before."""
        plan = self.plan
        h, c = self._before(t)
        h_before.copy_(h)
        carried = None
        if self.valid is not None:
            there = self.valid[:, t]
            carried = _where(there, None, dh), _where(there, None, dc)
            dh, dc = _where(there, dh, None), _where(there, dc, None)
        if plan.exact == plan.compute:
            self._pointwise(gates, d_gates, c, self.kept.c[t], dh, dc)
        else:
            work = torch.empty_like(d_gates, dtype=plan.exact)
            self._pointwise(gates.to(plan.exact), work, c, self.kept.c[t], dh, dc)
            d_gates.copy_(work)
        d_before, _, _ = plan.conv.gradients(d_gates, h_before, self.w_h, (True, False, False))
        assert d_before is not None
        dh = d_before.to(plan.exact)
        if carried is not None:
            dh, dc = dh.add_(carried[0]), dc.add_(carried[1])
        if self.starts is not None:
            dh, dc = _where(self.starts[:, t], None, dh), _where(self.starts[:, t], None, dc)
        return dh, dc

    def _pointwise(
        self, gates: Tensor, d_gates: Tensor, c: Tensor, new_c: Tensor, dh: Tensor, dc: Tensor
    ) -> None:
        """The gradients of the gates' sums into d_gates, that of the memory before in place of dc."""
        i, f, o, g = gates.chunk(4, dim=1)
        di, df, do, dg = d_gates.chunk(4, dim=1)
        two = 2 * c.shape[1]
        tanh_c = _tanh(new_c, out=torch.empty_like(new_c))
        torch.mul(dh, tanh_c, out=do)
        _through_sigmoid(do, o)
        through_tanh = dh.mul_(o)
        torch.ops.aten.tanh_backward.grad_input(through_tanh, tanh_c, grad_input=through_tanh)
        dc.add_(through_tanh)
        if self.peepholes is not None:
            dc.addcmul_(do, self.peepholes[2])
        torch.mul(dc, g, out=di)
        torch.mul(dc, c, out=df)
        _through_sigmoid(d_gates[:, :two], gates[:, :two])
        torch.mul(dc, i, out=dg)
        torch.ops.aten.tanh_backward.grad_input(dg, g, grad_input=dg)
        dc.mul_(f)
        if self.peepholes is not None:
            assert self.d_peepholes is not None
            dc.addcmul_(di, self.peepholes[0]).addcmul_(df, self.peepholes[1])
            for n, (d, seen) in enumerate(((di, c), (df, c), (do, new_c))):
                self.d_peepholes[n] += (d * seen).sum_to_size(self.d_peepholes.shape[1:])

    def _collect(self, frames: Sequence[int], d_gates: Tensor, h_before: Tensor) -> None:
        """What a chunk of frames adds to the gradients of weight and bias, and its frames' own."""
        plan, first, last = self.plan, min(frames), max(frames) + 1
        inputs = plan.frames(self.x, first, last)
        of_x, of_w, of_b = plan.conv.gradients(d_gates, inputs, self.w_x, self.needed)
        if self.d_x is not None and of_x is not None:
            self.d_x[:, first:last] = of_x.view(-1, self.batch, *of_x.shape[1:]).transpose(0, 1)
        if self.d_bias is not None and of_b is not None:
            self.d_bias += of_b
        if self.d_weight is not None and of_w is not None:
            channels = self.x.shape[2]
            _, of_h, _ = plan.conv.gradients(d_gates, h_before, self.w_h, (False, True, False))
            assert of_h is not None
            self.d_weight[:, :channels] += of_w
            self.d_weight[:, channels:] += of_h


def _tanh(x: Tensor, *, out: Tensor) -> Tensor:
    """The hyperbolic tangent to within 1e-6; torch's own takes four times as long on a CPU."""
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _through_sigmoid(gradient: Tensor, y: Tensor) -> None:
    """The gradient of y = sigmoid(x) into that of x, in place."""
    torch.ops.aten.sigmoid_backward.grad_input(gradient, y, grad_input=gradient)


def _where(flags_B: Tensor, yes: Tensor | None, no: Tensor | None) -> Tensor:
    """For each sample the first tensor where the flag is set, else the second; None is zero."""
    like = no if yes is None else yes
    assert like is not None
    flags = flags_B[(..., *(None,) * (like.ndim - 1))]
    return torch.where(flags, 0 if yes is None else yes, 0 if no is None else no)


def _stack_of(like: Tensor, count: int, plan: Plan) -> Tensor:
    """Room for a number of tensors of a kind, each in the layout of the inside."""
    batch, *shape = like.shape
    room = torch.empty(count * batch, *shape, dtype=plan.exact, device=like.device, memory_format=plan.layout)
    return room.view(count, batch, *shape)


def _result(tensor: Tensor, plan: Plan) -> Tensor:
    """A state of the inside, as a tensor of its own for the outside."""
    return torch.empty(tensor.shape, dtype=plan.result, device=tensor.device).copy_(tensor)
