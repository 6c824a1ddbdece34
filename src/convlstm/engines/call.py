"""A call of a layer, and how it is computed."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import convlstm.engines.config as config
import convlstm.engines.cpu.bindings as bindings
import convlstm.engines.triton.launch as launch
from convlstm.cells.convlstm import ConvLSTMCell
from convlstm.engines.convolution import SameConv
from convlstm.engines.families import GRU, LSTM, Family
from convlstm.engines.forward import Plan
from convlstm.engines.plain import PlainKernels
from convlstm.functional.gates import ACTIVATIONS

#: What is saved for the backward pass: the pre-activations, or the state alone, from which they are computed.
SAVES = ("auto", "gates", "state")
#: Names of the activations that have kernels, by function.
NAMES = {function: name for name, function in ACTIVATIONS.items()}


@dataclass(frozen=True)
class Call:
    """A cell over a sequence of frames.

    Attributes:
        cell: the recurrence.
        x: (B, T, C, *S), zero where not valid.
        state: before the first step.
        mask: (B, T) bool, which frames are valid; None for all. Other frames leave the state unchanged.
        reset: (B, T) bool, frames before which the state is reset to zero, in the order of computation; None
            for none.
        reverse: run from the last frame to the first.
        last_only: return only the output of the last step, as T = 1.
        any_layout: outputs are read by another layer only, and may have any memory layout and 16 bits.
        zero_state: the state is zero.
        save: what is saved for the backward pass, one of `SAVES`.
        reference_only: options in use that only the reference supports, by name.
    """

    cell: Any
    x: Tensor
    state: Any
    mask: Tensor | None = None
    reset: Tensor | None = None
    reverse: bool = False
    last_only: bool = False
    any_layout: bool = False
    zero_state: bool = False
    save: str = "auto"
    reference_only: tuple[str, ...] = ()

    def segment(self, begin: int, x: Tensor, state: Any) -> "Call":
        """The call for a part of the frames, of which the first is frame ``begin``, from a given state."""
        length, steps = x.shape[1], self.x.shape[1]
        if length == steps:
            return self if x is self.x else replace(self, x=x, state=state)
        zero_state = self.zero_state and (begin + length == steps if self.reverse else begin == 0)
        mask, reset = (None if f is None else f[:, begin : begin + length] for f in (self.mask, self.reset))
        return replace(self, x=x, state=state, mask=mask, reset=reset, zero_state=zero_state)


class Request(NamedTuple):
    """What determines a `Plan`: everything about a call but its tensors' sizes and values."""

    family: str
    activations: tuple[str, str, str]
    dilation: tuple[int, ...]
    padding_mode: tuple[str, ...]
    compute: torch.dtype
    exact: torch.dtype
    result: torch.dtype
    device: str
    compiled: bool
    reverse: bool
    last_only: bool
    inner: bool
    fresh: bool


@lru_cache(maxsize=256)
def _family(
    name: str, activations: tuple[str, str, str], compute: torch.dtype, device: str, compiled: bool
) -> Family:
    """The family with the fastest kernels that there are for the dtype and device."""
    kernels = PlainKernels(activations)
    if compiled and device == "cuda" and launch.unavailable() is None:
        kernels = launch.kernels(activations)
    if compiled and device == "cpu" and compute in bindings.STORED:
        library = bindings.library(*activations)
        if library is not None:
            kernels = bindings.NativeKernels(activations, library, compute)
    return LSTM(kernels) if name == "lstm" else GRU(kernels)


def plan_of(request: Request, x: Tensor, hidden: int, save: str) -> Plan:
    """How a call with frames (B, T, C, *S) is computed."""
    what = request.family, request.activations, request.compute, request.device, request.compiled
    family = _family(*what)
    step_bytes = family.kept * hidden * x.shape[0] * x[0, 0, 0].numel() * request.compute.itemsize
    return Plan(
        family=family,
        conv=SameConv(request.dilation, request.padding_mode),
        compute=request.compute,
        exact=request.exact,
        result=request.result,
        reverse=request.reverse,
        last_only=request.last_only,
        inner=request.inner,
        fresh=request.fresh,
        keep_sums=save == "gates" or (save == "auto" and step_bytes * x.shape[1] <= config.max_saved_bytes),
        chunk=max(1, config.chunk_bytes[request.device] // max(1, step_bytes)),
        piece=max(1, config.input_chunk_bytes[request.device] // max(1, step_bytes)),
    )


def request_of(call: Call, compiled: bool) -> Request:
    """The request of a call under the autocast mode in force."""
    cell, x, kind = call.cell, call.x, call.x.device.type
    mixed = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    compute = torch.get_autocast_dtype(kind) if mixed else x.dtype
    result = torch.promote_types(compute, call.state[-1].dtype)
    extra = extra_of(cell)
    if extra is not None:
        result = torch.promote_types(result, extra.dtype)
    flat = ((1,), ("zeros",)) if x.ndim == 4 else ((), ())
    gate, candidate, output = (NAMES[activation] for activation in activations_of(cell))
    return Request(
        family="lstm" if isinstance(cell, ConvLSTMCell) else "gru",
        activations=(gate, candidate, output),
        dilation=(*flat[0], *cell.dilation),
        padding_mode=(*flat[1], *cell.padding_mode),
        compute=compute,
        exact=torch.float32 if compute.itemsize < 4 else compute,
        result=result,
        device=kind,
        compiled=compiled,
        reverse=call.reverse,
        last_only=call.last_only,
        inner=call.any_layout and not torch.compiler.is_compiling(),
        fresh=call.zero_state,
    )


def tensors_of(call: Call) -> list[Any]:
    """Differentiable tensors of a call: x, weight, bias, parameter, states; one space axis becomes (1, W)."""
    conv = call.cell.conv
    tensors = [call.x, conv.weight, conv.bias, extra_of(call.cell), *call.state]
    if call.x.ndim > 4:
        return tensors
    return [t if t is None or t.ndim < 3 else t.unsqueeze(-2) for t in tensors]


def activations_of(cell: Any) -> tuple[Any, Any, Any]:
    """Functions of the gates, the candidate and the output."""
    output = cell.output_activation if isinstance(cell, ConvLSTMCell) else torch.tanh
    return cell.gate_activation, cell.candidate_activation, output


def extra_of(cell: Any) -> Tensor | None:
    """The parameter of a cell besides its convolution: peepholes, or a GRU's second bias."""
    extra: Tensor | None = cell.peephole_weight if isinstance(cell, ConvLSTMCell) else cell.reset_bias
    return extra
