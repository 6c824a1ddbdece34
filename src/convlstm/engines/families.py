"""What the engine knows of each family of cells: how many gates, which kernels, what its own parameter is."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv
from convlstm.engines.plain import PlainKernels, Weight, by_gate, flat


@dataclass(frozen=True)
class LSTM:
    """A ConvLSTM: the memory is c; the parameter of its own are the peepholes (3, C, *S) or (3, C, 1, ...).

    Attributes:
        kernels: that run it.
        extra: its own parameter as the kernels take it.
        gates: convolved, in units of C channels.
        kept: sums, in the same units, from which the memory can be replayed.
        one_sum: whether the input's and the hidden state's parts of the gates are only added, so that one
            room holds both.
    """

    kernels: PlainKernels
    extra: Tensor | None = None

    gates: ClassVar[int] = 4
    kept: ClassVar[int] = 4
    one_sum: ClassVar[bool] = True

    def prepared(self, extra: Tensor | None, dtype: torch.dtype) -> Self:
        """With its own parameter."""
        if extra is None:
            return self
        return replace(self, extra=extra.flatten(2).transpose(1, 2).to(dtype).contiguous())

    def weight(self, conv: SameConv, weight: Tensor, bias: Tensor | None, h: Tensor, keep: bool) -> Weight:
        """See `PlainKernels.lstm_weight`."""
        return self.kernels.lstm_weight(conv, weight, bias, h, keep)

    def step(
        self,
        conv: SameConv,
        a: Tensor,
        b: Tensor | None,
        h: Tensor | None,
        weight: Weight,
        memory: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
    ) -> None:
        """One step; see `PlainKernels.lstm_step`. ``b`` is not read."""
        self.kernels.lstm_step(conv, a, h, weight, memory, new_h, kept, self.extra)

    def forward(self, a: Tensor, b: Tensor, memory: Tensor, h: Tensor, kept: Tensor | None) -> None:
        """One step from the sums, of which ``a`` and ``b`` are one; see `PlainKernels.lstm_forward`."""
        kept = None if kept is None else self.kernels.kept(kept)
        self.kernels.lstm_forward(by_gate(a, 4), flat(memory), flat(h), kept, self.extra)

    def replay(self, sums: Tensor, memory: Tensor, new: Tensor) -> None:
        """The memory after a step; see `PlainKernels.lstm_replay`."""
        self.kernels.lstm_replay(self.kernels.kept(sums), flat(memory), flat(new), self.extra)

    def backward(
        self,
        sums: Tensor,
        memory: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_memory: Tensor,
        d_a: Tensor,
        d_b: Tensor,
    ) -> None:
        """The gradients of one step; see `PlainKernels.lstm_backward`."""
        m, d_out, d_h, d_m = map(flat, (memory, d_output, d_h, d_memory))
        self.kernels.lstm_backward(self.kernels.kept(sums), m, d_out, d_h, d_m, by_gate(d_a, 4), self.extra)

    def add_extra(self, total: Tensor, sums: Tensor, memory: Tensor, d_sums: Tensor) -> None:
        """Add to the gradient of the peepholes what steps (T, B, *S, ?) contribute."""
        new = torch.empty_like(memory)
        for before, after, step_sums in zip(memory, new, sums, strict=True):
            self.replay(step_sums, before, after)
        extra: Any = self.extra
        d = d_sums.view(-1, extra.shape[1], 4, extra.shape[2])
        for n, seen in enumerate((memory, memory, new)):
            products = d[:, :, n] * seen.view(-1, *extra.shape[1:])
            total[n] += products.sum(dim=0).t().reshape(total.shape[1:])


@dataclass(frozen=True)
class GRU:
    """A ConvGRU whose reset gate acts after the convolution: the memory is h.

    Its own parameter is the bias of the hidden state's part of the candidate, (C,). Attributes as of `LSTM`.
    """

    kernels: PlainKernels
    extra: Tensor | None = None

    gates: ClassVar[int] = 3
    kept: ClassVar[int] = 4
    one_sum: ClassVar[bool] = False

    def prepared(self, extra: Tensor | None, dtype: torch.dtype) -> Self:
        """With its own parameter."""
        return self if extra is None else replace(self, extra=extra.to(dtype).contiguous())

    def weight(self, conv: SameConv, weight: Tensor, bias: Tensor | None, h: Tensor, keep: bool) -> Weight:
        """See `PlainKernels.gru_weight`."""
        return self.kernels.gru_weight(conv, weight, bias, self.extra, h)

    def step(
        self,
        conv: SameConv,
        a: Tensor,
        b: Tensor | None,
        h: Tensor | None,
        weight: Weight,
        memory: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
    ) -> None:
        """One step; see `PlainKernels.gru_step`."""
        self.kernels.gru_step(conv, a, b, self.extra, h, weight, memory, new_h, kept)

    def forward(self, a: Tensor, b: Tensor, memory: Tensor, h: Tensor, kept: Tensor | None) -> None:
        """One step from the two parts of the sums; see `PlainKernels.gru_forward`."""
        kept = None if kept is None else self.kernels.kept(kept)
        bias = memory.new_zeros(memory.shape[-1]) if self.extra is None else self.extra
        self.kernels.gru_forward(by_gate(a, 3), by_gate(b, 3), bias, flat(memory), flat(h), kept)

    def replay(self, sums: Tensor, memory: Tensor, new: Tensor) -> None:
        """The memory after a step; see `PlainKernels.gru_replay`."""
        self.kernels.gru_replay(self.kernels.kept(sums), flat(memory), flat(new))

    def backward(
        self,
        sums: Tensor,
        memory: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_memory: Tensor,
        d_a: Tensor,
        d_b: Tensor,
    ) -> None:
        """The gradients of one step; see `PlainKernels.gru_backward`."""
        m, d_out, d_h, d_m = map(flat, (memory, d_output, d_h, d_memory))
        d_a, d_b = by_gate(d_a, 3), by_gate(d_b, 3)
        self.kernels.gru_backward(self.kernels.kept(sums), m, d_out, d_h, d_m, d_a, d_b)

    def add_extra(self, total: Tensor, sums: Tensor, memory: Tensor, d_b: Tensor) -> None:
        """Add to the gradient of the bias what steps (T, B, *S, ?) contribute."""
        total += by_gate(d_b, 3)[:, 2].sum(dim=0, dtype=total.dtype)


Family = LSTM | GRU
