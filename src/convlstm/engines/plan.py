"""The computation of a call: dtypes, kernels, lengths of chunks and memory layouts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import convlstm.engines.config as config
import convlstm.engines.cpu.recurrences as cpu
import convlstm.engines.triton as triton
from convlstm.engines.buffer_pool import empty
from convlstm.engines.call import Call
from convlstm.engines.convolution import SameConv
from convlstm.engines.direct import computed_once
from convlstm.engines.dry_run import DryTensor
from convlstm.engines.recurrences import RECURRENCES, Recurrence, recurrence_of
from convlstm.engines.recurrences.activations import NAMES


class Inputs(NamedTuple):
    """Tensors of a call; one space axis is given as two, of which the first has length one.

    Attributes:
        mask: see `Call`.
        reset: see `Call`.
        x: (B, T, C, *S).
        weight: of the convolution.
        bias: of the convolution, or None.
        parameter: the cell's parameter besides the convolution, or None.
        state: before the first step, (B, hidden_dim, *S) each.
    """

    mask: Tensor | None
    reset: Tensor | None
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    parameter: Tensor | None
    state: tuple[Tensor, ...]

    def tensors(self) -> list[Tensor | None]:
        """All tensors in order, those of the state last."""
        *tensors, state = self  # torch.compile of torch 2.7 has no slices of a NamedTuple
        return [*tensors, *state]

    def arguments(self) -> list[Any]:
        """Arguments of the operators in `convlstm.engines.custom_op`."""
        *tensors, state = self
        return [*tensors, list(state)]

    @classmethod
    def of(cls, tensors: Sequence[Any]) -> "Inputs":
        """The inverse of `tensors`."""
        mask, reset, x, weight, bias, parameter, *state = tensors
        return cls(mask, reset, x, weight, bias, parameter, tuple(state))


@dataclass(frozen=True)
class Plan:
    """The computation of a call, whatever its sizes and values.

    Attributes:
        recurrence: name of the recurrence.
        activations: names of the activations of gates, candidate and output.
        dilation: of the convolution, by space axis.
        padding_mode: of the convolution, by space axis.
        compute_dtype: of convolutions, pre-activations and h.
        state_dtype: of the cell state and the arithmetic on gates, at least 32 bits.
        output_dtype: of outputs and states.
        device: that runs it.
        compiled: use compiled kernels where there are any.
        reverse: see `Call`.
        last_only: see `Call`.
        any_layout: see `Call`; outputs are then channels-last, in ``compute_dtype``.
        zero_state: see `Call`; the first step then does not convolve h.
        save: see `Call`.
    """

    recurrence: str
    activations: tuple[str, ...]
    dilation: tuple[int, ...]
    padding_mode: tuple[str, ...]
    compute_dtype: torch.dtype
    state_dtype: torch.dtype
    output_dtype: torch.dtype
    device: torch.device
    compiled: bool
    reverse: bool
    last_only: bool
    any_layout: bool
    zero_state: bool
    save: str

    @computed_once
    def kernels(self) -> Recurrence:
        """The recurrence with the fastest kernels for the dtype and the device."""
        gate, candidate, output = self.activations
        activations, found = (gate, candidate, output), None
        if self.compiled and self.device.type == "cuda":
            found = triton.kernels(self.recurrence, activations, self.state_dtype)
        elif self.compiled and self.device.type == "cpu":
            found = cpu.kernels(self.recurrence, activations, self.compute_dtype)
        return found or RECURRENCES[self.recurrence](activations)

    def conv(self, steps: int, x: Tensor | None = None) -> SameConv:
        """The convolution of all gates, over a number of steps; of frames ``x``, if they are there."""
        library = self.kernels.library
        if library is not None and x is not None and not self._is_filtered(x):
            library = None  # most tiles would be computed twice, see csrc/winograd.h
        return SameConv(self.dilation, self.padding_mode, steps, library)

    def _is_filtered(self, x: Tensor) -> bool:
        """True if no number of the frames is too large for minimal filtering, which is float32 alone."""
        if self.compute_dtype != torch.float32 or isinstance(x, DryTensor) or not x.numel():
            return True
        least, most = torch.aminmax(x)
        return bool(least >= -config.largest_filtered) and bool(most <= config.largest_filtered)

    @property
    def saved_gates(self) -> int:
        """Pre-activations that a step saves, in units of hidden_dim channels."""
        return RECURRENCES[self.recurrence].saved_gates

    def arguments(self) -> list[Any]:
        """Arguments of `make_plan` for this plan."""
        return [getattr(self, field.name) for field in fields(self)]

    def step_bytes(self, inputs: Inputs) -> int:
        """Bytes of the pre-activations that one step saves."""
        return max(1, self.saved_gates * inputs.state[-1].numel() * self.compute_dtype.itemsize)

    def is_one_call(self, inputs: Inputs) -> bool:
        """True if the whole sequence is one call of C++: `convlstm.engines.cpu.sequence`."""
        return self._is_small(inputs) and self.kernels.library is not None

    def _is_small(self, inputs: Inputs) -> bool:
        """`is_one_call` if the kernels compile: while torch.compile traces, nothing is compiled."""
        mask, reset, x, weight, *_ = inputs
        if not self.compiled or self.compute_dtype != torch.float32:
            return False
        flagged = mask is not None or reset is not None
        return is_one_call(x, weight, self.dilation, self.padding_mode, self.save, flagged=flagged)

    def saves_gates(self, inputs: Inputs) -> bool:
        """True if pre-activations are saved for the backward pass, False if it computes them again."""
        if self.save == "auto":
            return self.step_bytes(inputs) * inputs.x.shape[1] <= config.max_saved_bytes
        return self.save == "gates"

    def chunk_length(self, inputs: Inputs) -> int:
        """Steps that the backward pass computes together."""
        if self._is_small(inputs):
            return 1
        return max(1, config.chunk_bytes[self.device.type] // self.step_bytes(inputs))

    def input_chunk_length(self, inputs: Inputs) -> int:
        """Steps whose input is convolved in one call."""
        return max(1, config.input_chunk_bytes[self.device.type] // self.step_bytes(inputs))

    def chunks(self, steps: int, length: int) -> list[range]:
        """The frames in chunks of a length; chunks and frames in the order of computation."""
        order = range(steps)[::-1] if self.reverse else range(steps)
        return [order[begin : begin + length] for begin in range(0, steps, length)]

    def slots(self, t: int) -> tuple[int, int]:
        """Indices of h before and after frame t among the T + 1 hidden states."""
        return (t + 1, t) if self.reverse else (t, t + 1)

    def channels_last(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """Frames (N, C, *S) as a new tensor (N, *S, C)."""
        new = empty((len(frames), *frames.shape[2:], frames.shape[1]), dtype, frames.device)
        self.kernels.to_channels_last(frames, new)
        return new

    def time_major(self, x: Tensor, first: int, last: int) -> Tensor:
        """Frames first to last of (B, T, C, *S) as (T, B, *S, C); a view if another layer returned them."""
        frames = x.movedim(2, -1).transpose(0, 1)
        if frames.dtype == self.compute_dtype and frames.is_contiguous():
            return frames[first:last]
        new = empty((last - first, *frames.shape[1:]), self.compute_dtype, x.device)
        for t in range(first, last):
            self.kernels.to_channels_last(x[:, t], new[t - first])
        return new

    def channels_first(self, x: Tensor) -> Tensor:
        """Channels-last (N, *S, C) as a new tensor (N, C, *S) of the dtype of outputs."""
        shape = (len(x), x.shape[-1], *x.shape[1:-1])
        frames = torch.empty(shape, dtype=self.output_dtype, device=x.device)
        self.kernels.to_channels_first(x, frames)
        return frames


def is_one_call(
    x: Tensor,
    weight: Tensor,
    dilation: Sequence[int],
    padding_mode: Sequence[str],
    save: str,
    *,
    flagged: bool,
) -> bool:
    """True if a sequence in float32 on a CPU is so small that C++ computes it in one call, if it can.

    Measured: docs/decisions/small-calls.md.

    Args:
        x: (B, T, C, *S).
        weight: of the convolution.
        dilation: of the convolution, by space axis.
        padding_mode: of the convolution, by space axis.
        save: see `Call`.
        flagged: frames are missing, or begin sequences.
    """
    if flagged or save == "state" or x.device.type != "cpu" or x.numel() == 0:
        return False
    odd = weight.ndim <= 4 and all(k % 2 for k in weight.shape[2:])
    plain = odd and set(dilation) == {1} and set(padding_mode) == {"zeros"}
    pixels, weights = x.numel() // x.shape[2], weight.numel()
    used = pixels >= config.one_call_pixels or weights <= 1 << 15  # weights are arranged anew in each call
    used = used and pixels <= config.one_call_frame_pixels * x.shape[0] * x.shape[1]
    return plain and used and pixels * weights <= config.one_call_on_cpu


#: `Plan` by its arguments, one object for all equal ones.
make_plan = lru_cache(maxsize=256)(Plan)


def arguments_of(call: Call, compiled: bool) -> tuple[tuple[Any, ...], Inputs]:
    """Arguments of `Plan` for a call, under the autocast mode in force, and the tensors of the call."""
    cell, x, kind = call.cell, call.x, call.x.device.type
    recurrence: Any = recurrence_of(cell)
    parameter = recurrence.parameter(cell)
    mixed = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    compute = torch.get_autocast_dtype(kind) if mixed else x.dtype
    output = torch.promote_types(compute, call.state[-1].dtype)
    if parameter is not None:
        output = torch.promote_types(output, parameter.dtype)
    tensors = [x, cell.conv.weight, cell.conv.bias, parameter, *call.state]
    dilation, modes = cell.dilation, cell.padding_mode
    if x.ndim == 4:
        tensors = [t if t is None or t.ndim < 3 else t.unsqueeze(-2) for t in tensors]
        dilation, modes = (1, *dilation), ("zeros", *modes)
    arguments = (
        recurrence.name,
        tuple(NAMES[activation] for activation in recurrence.activations(cell)),
        dilation,
        modes,
        compute,
        torch.float32 if compute.itemsize < 4 else compute,
        output,
        x.device,
        compiled,
        call.reverse,
        call.last_only,
        call.any_layout and not torch.compiler.is_compiling(),
        call.zero_state,
        call.save,
    )
    return arguments, Inputs.of([call.mask, call.reset, *tensors])
