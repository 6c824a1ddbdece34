"""The interface of a recurrence: its specification, and the arithmetic of a step."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.conv_cell import ConvCell
from convlstm.engines.convolution import SameConv
from convlstm.engines.direct import ConvWeight
from convlstm.engines.recurrences.activations import is_named
from convlstm.functional.gates import Activation


class Weight(NamedTuple):
    """The weight of a sequence's convolutions.

    Attributes:
        input: over the frames; None if ``hidden`` is over frames and h, with the bias.
        hidden: over h, in the layout of the kernels that made it.
        in_place: True if a step may overwrite h with the new h.
    """

    input: ConvWeight | None
    hidden: Any
    in_place: bool = True


class StepBuffers(NamedTuple):
    """Tensors of a step.

    Attributes:
        a: (B, *S, gates C), the input's pre-activations, overwritten.
        b: (B, *S, gates C), the hidden state's pre-activations, overwritten; None if ``a`` is both, added.
        cell_state: (B, *S, C), updated in place.
        h: (B, *S, C), written to: the new h.
        saved: (B, *S, saved_gates C), written to, in a layout private to the class; or None.
        parameter: of `Recurrence.prepare`.
    """

    a: Tensor
    b: Tensor | None
    cell_state: Tensor
    h: Tensor
    saved: Tensor | None
    parameter: Tensor | None


class StepGradients(NamedTuple):
    """Tensors of the gradient of a step's pointwise part.

    Attributes:
        saved: by the step.
        cell_state: before the step.
        d_output: gradient of h as the output of this step.
        d_h: gradient of h as the input of the next step.
        d_cell_state: gradient of the cell state after the step; overwritten by that before it.
        d_a: written to: gradient of ``a``.
        d_b: written to: gradient of ``b``; ``d_a`` itself if the two are only added.
        parameter: of `Recurrence.prepare`.
    """

    saved: Tensor
    cell_state: Tensor
    d_output: Tensor
    d_h: Tensor
    d_cell_state: Tensor
    d_a: Tensor
    d_b: Tensor
    parameter: Tensor | None


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
        activation_attributes: the cell's attributes with these activations.
        parameter_attribute: the cell's attribute with its parameter besides the convolution.
        gates: pre-activations of a step, in units of C channels.
        saved_gates: pre-activations that a step saves for the backward pass, in the same units.
        only_added: True if the input's and the hidden state's pre-activations are only added, so that one
            buffer holds both.
        library: of C++ kernels, or None.
    """

    name: ClassVar[str]
    cell_class: ClassVar[type[ConvCell]]
    activation_attributes = "gate_activation", "candidate_activation", "output_activation"
    parameter_attribute: ClassVar[str] = ""
    gates: ClassVar[int]
    saved_gates: ClassVar[int]
    only_added: ClassVar[bool] = True
    library: Any = None

    def __init__(self, activations: tuple[str, str, str]) -> None:
        self.gate, self.candidate, self.output = activations

    @classmethod
    def activations(cls, cell: nn.Module) -> tuple[Activation, ...]:
        """Activations of gates, candidate and output; the usual ones where the cell has none."""
        gate, candidate, output = cls.activation_attributes
        return (
            getattr(cell, gate, torch.sigmoid),
            getattr(cell, candidate, torch.tanh),
            getattr(cell, output, torch.tanh),
        )

    @classmethod
    def parameter(cls, cell: nn.Module) -> Tensor | None:
        """The parameter of a cell besides its convolution, or None."""
        found: Tensor | None = getattr(cell, cls.parameter_attribute, None)
        return found

    @classmethod
    def not_supported_reasons(cls, cell: Any) -> list[str]:
        """Options of a cell that only its own step supports, as reasons; empty if there are none."""
        reasons = []
        if cell.attention is not None:
            reasons.append("it has no attention")
        if cell.calls_conv:
            reasons.append("the cell's convolution is replaced or has hooks")
        if not all(map(is_named, cls.activations(cell))):
            reasons.append("an activation is not one of those that have a name")
        return reasons

    @classmethod
    def prepare(cls, parameter: Tensor | None, cell_state: Tensor) -> Tensor | None:
        """The parameter as kernels take it, (..., Q, C) for each of Q pixels, in the cell state's dtype."""
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
        return Weight(*conv.split_weight(weight, h))

    def step(self, weight: Weight, h: Tensor | None, buffers: StepBuffers) -> None:
        """One step with the convolution of h.

        Args:
            weight: of `prepare_weight`.
            h: (B, *S, C), or None for zero; the new h may be the same buffer if the weight is ``in_place``.
            buffers: of the step; ``a`` is the frame (B, *S, C_in) if the weight has none over frames, and
                ``b`` need not hold anything: None for no buffer.
        """
        a, b = buffers.a, buffers.b
        if self.only_added:
            if h is not None:
                weight.hidden.add(a, h)
            return self.forward(buffers)
        if h is not None:
            b = weight.hidden.into(b, h)
        elif b is None:
            b = torch.zeros_like(a)
        else:
            b.zero_()
        return self.forward(buffers._replace(b=b))

    @abstractmethod
    def forward(self, buffers: StepBuffers) -> None:
        """The pointwise part of a step."""

    @abstractmethod
    def recompute(self, saved: Tensor, before: Tensor, after: Tensor, parameter: Tensor | None) -> None:
        """The cell state after a step, as `forward` computed it from that before, written to ``after``."""

    @abstractmethod
    def backward(self, gradients: StepGradients) -> None:
        """Gradients of the pointwise part of a step."""

    def add_parameter_gradient(  # noqa: B027 - most recurrences have no parameter
        self, total: Tensor, saved: Tensor, cell_states: Tensor, d_b: Tensor, parameter: Tensor | None
    ) -> None:
        """Add to the gradient of the parameter that of steps (T, B, *S, ?), given as for `backward`."""

    def to_channels_last(self, frames: Tensor, out: Tensor) -> None:
        """Copy (N, C, *S) to (N, *S, C), of any dtype."""
        out.copy_(frames.movedim(1, -1))

    def to_channels_first(self, channels_last: Tensor, out: Tensor) -> None:
        """Copy (N, *S, C) to (N, C, *S), of any dtype."""
        out.copy_(channels_last.movedim(-1, 1))


def sizes(cell_state: Tensor, parameter: Tensor | None) -> tuple[int, int, int]:
    """P pixels of the batch, the Q pixels of a prepared parameter (1 without one), and C channels."""
    channels = cell_state.shape[-1]
    return cell_state.numel() // channels, 1 if parameter is None else parameter.shape[-2], channels


def flatten_pixels(x: Tensor) -> Tensor:
    """(..., C) as (P, C)."""
    return x.view(-1, x.shape[-1])


def by_gate(x: Tensor, gates: int) -> Tensor:
    """(..., gates C) as (P, gates, C)."""
    return x.view(-1, gates, x.shape[-1] // gates)


def saved_planes(saved: Tensor, gates: int) -> Tensor:
    """Saved pre-activations of the torch form, stored gate by gate, as (gates, P, C)."""
    return saved.view(gates, -1, saved.shape[-1] // gates)
