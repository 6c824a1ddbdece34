"""The interface of a recurrence: its specification, and the arithmetic of a step."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from convlstm.cells.conv_cell import ConvCell
from convlstm.engines.convolution import SameConv, split_weight
from convlstm.engines.recurrences.activations import NAMES
from convlstm.functional.gates import Activation


class Weight(NamedTuple):
    """The weight of a sequence's convolutions.

    Attributes:
        input: over the frames; None if ``hidden`` is over frames and h, with the bias.
        hidden: over h, in the layout of the kernels that made it.
        in_place: True if a step may overwrite h with the new h.
    """

    input: Tensor | None
    hidden: Any
    in_place: bool = True


class Recurrence(ABC):
    """A recurrence of cells with one convolution, in torch's operations: any device, dtype and activation.

    A back end subclasses the class of a recurrence and overrides methods by its kernels. Tensors are
    channels-last: h and the cell state (a GRU's is h in a wider dtype) are (B, *S, C), pre-activations
    (B, *S, gates C). The arithmetic has the dtype of the cell state, at least 32 bits; pre-activations and h
    have the dtype of the convolutions.

    Args:
        activations: names of the activations of gates, candidate and output.

    Attributes:
        name: of the recurrence and of its kernels.
        cell_class: the cell with this recurrence.
        gates: pre-activations of a step, in units of C channels.
        saved_gates: pre-activations that a step saves for the backward pass, in the same units.
        only_added: True if the input's and the hidden state's pre-activations are only added, so that one
            buffer holds both.
    """

    name: ClassVar[str]
    cell_class: ClassVar[type[ConvCell]]
    gates: ClassVar[int]
    saved_gates: ClassVar[int]
    only_added: ClassVar[bool] = True

    def __init__(self, activations: tuple[str, str, str]) -> None:
        self.gate, self.candidate, self.output = activations

    @classmethod
    @abstractmethod
    def activations(cls, cell: Any) -> tuple[Activation, Activation, Activation]:
        """Activations of gates, candidate and output; any for those that the cell does not have."""

    @classmethod
    def parameter(cls, cell: Any) -> Tensor | None:
        """The parameter of a cell besides its convolution, or None."""
        return None

    @classmethod
    def not_supported_reasons(cls, cell: Any) -> list[str]:
        """Options of a cell that only its own step supports, as reasons; empty if there are none."""
        reasons = []
        if cell.attention is not None:
            reasons.append("it has no attention")
        if cell.calls_conv:
            reasons.append("the cell's convolution is replaced or has hooks")
        if not all(activation in NAMES for activation in cls.activations(cell)):
            reasons.append("an activation is not one of those that have a name")
        return reasons

    @classmethod
    def prepare(cls, parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The parameter as `forward`, `recompute` and `backward` take it."""
        return None

    def prepare_weight(
        self,
        conv: SameConv,
        weight: Tensor,
        bias: Tensor | None,
        parameter: Tensor | None,
        h: Tensor,
        save: bool,
    ) -> Weight:
        """The weight as `step` takes it.

        Args:
            conv: the convolution.
            weight: (gates C, C_in + C, *kernel).
            bias: (gates C,) or None.
            parameter: of `prepare`.
            h: (B, *S, C), of which only shape, dtype and device matter.
            save: True if steps save their pre-activations.
        """
        return Weight(*split_weight(weight, weight.shape[1] - h.shape[-1], h.dtype))

    def step(
        self,
        conv: SameConv,
        a: Tensor,
        b: Tensor | None,
        h: Tensor | None,
        weight: Weight,
        cell_state: Tensor,
        new_h: Tensor,
        saved: Tensor | None,
        parameter: Tensor | None,
    ) -> None:
        """One step with the convolution of h.

        Args:
            conv: the convolution.
            a: (B, *S, gates C), the input's pre-activations, overwritten; or the frame (B, *S, C_in) if the
                weight has none over frames.
            b: buffer for the hidden state's pre-activations, or None; not read if they are only added.
            h: (B, *S, C), or None for zero.
            weight: of `prepare_weight`.
            cell_state: (B, *S, C), updated in place.
            new_h: (B, *S, C), written to; may be h if the weight is ``in_place``.
            saved: see `forward`.
            parameter: see `forward`.
        """
        if self.only_added:
            a = b = a if h is None else conv.add(a, h, weight.hidden)
        elif h is None:
            b = torch.zeros_like(a) if b is None else b.zero_()
        else:
            b = conv.into(b, h, weight.hidden)
        self.forward(a, b, cell_state, new_h, saved, parameter)

    @abstractmethod
    def forward(
        self,
        a: Tensor,
        b: Tensor,
        cell_state: Tensor,
        h: Tensor,
        saved: Tensor | None,
        parameter: Tensor | None,
    ) -> None:
        """The pointwise part of a step.

        Args:
            a: (B, *S, gates C), the input's pre-activations; both parts' sum if ``b`` is ``a``.
            b: (B, *S, gates C), the hidden state's pre-activations; overwritten.
            cell_state: (B, *S, C), updated in place.
            h: (B, *S, C), written to: the new h.
            saved: (B, *S, saved_gates C), written to, in a layout private to the class; or None.
            parameter: of `prepare`.
        """

    @abstractmethod
    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """The cell state after a step, as `forward` computed it, into ``new_cell_state``."""

    @abstractmethod
    def backward(
        self,
        saved: Tensor,
        cell_state: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_cell_state: Tensor,
        d_a: Tensor,
        d_b: Tensor,
        parameter: Tensor | None,
    ) -> None:
        """Gradients of the pointwise part of a step.

        Args:
            saved: by `forward`.
            cell_state: before the step.
            d_output: gradient of h as the output of this step.
            d_h: gradient of h as the input of the next step.
            d_cell_state: gradient of the cell state after the step; overwritten by that before it.
            d_a: written to: gradient of ``a``.
            d_b: written to: gradient of ``b``; ``d_a`` itself if the two are only added.
            parameter: of `prepare`.
        """

    def add_parameter_gradient(
        self, total: Tensor, saved: Tensor, cell_states: Tensor, d_b: Tensor, parameter: Tensor | None
    ) -> None:
        """Add to the gradient of the parameter that of steps (T, B, *S, ?), given as for `backward`."""
        raise NotImplementedError

    def to_channels_last(self, frames: Tensor, out: Tensor) -> None:
        """Copy (N, C, *S) to (N, *S, C), of any dtype."""
        out.copy_(frames.movedim(1, -1))

    def to_channels_first(self, channels_last: Tensor, out: Tensor) -> None:
        """Copy (N, *S, C) to (N, C, *S), of any dtype."""
        out.copy_(channels_last.movedim(-1, 1))


def flatten_pixels(x: Tensor) -> Tensor:
    """(..., C) as (P, C)."""
    return x.view(-1, x.shape[-1])


def by_gate(x: Tensor, gates: int) -> Tensor:
    """(..., gates C) as (P, gates, C)."""
    return x.view(-1, gates, x.shape[-1] // gates)


def gate_planes(x: Tensor, gates: int, dtype: torch.dtype) -> Tensor:
    """Pre-activations (..., gates C) as contiguous (gates, P, C), over which torch runs twice as fast."""
    planes = by_gate(x, gates).transpose(0, 1)
    return torch.empty(planes.shape, dtype=dtype, device=x.device).copy_(planes)


def saved_planes(saved: Tensor, gates: int) -> Tensor:
    """Saved pre-activations of the torch form, stored gate by gate, as (gates, P, C)."""
    return saved.view(gates, -1, saved.shape[-1] // gates)
