"""Recurrences whose pointwise part, and on some processors whole step, are C++: see ``csrc``."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu.library import DTYPES, ConvShape, FrameShape, load_kernels
from convlstm.engines.cpu.padding import padded_indices
from convlstm.engines.cpu.winograd import WinogradWeight
from convlstm.engines.dry_run import DryTensor
from convlstm.engines.recurrences import StepBuffers, StepGradients, Weight, sizes
from convlstm.engines.recurrences.base import Recurrence
from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.recurrences.rnn import RNN


class AmxWeight(NamedTuple):
    """A weight for the fused steps of ``amx.h``.

    Attributes:
        weight: (gates C, C_in + C, KH, KW).
        packed: its elements in the order in which tiles are loaded.
        bias: of the four pre-activations, (4 C,).
        shape: of the convolution.
        rows: index in the frame of each row of the padded frame, -1 for zero padding.
        columns: the same for columns.
    """

    weight: Tensor
    packed: Tensor
    bias: Tensor
    shape: ConvShape
    rows: Tensor
    columns: Tensor


class WinogradStepWeight(NamedTuple):
    """A weight for the fused steps of ``winograd.h``.

    Attributes:
        x: its part over the frame.
        h: its part over h.
        bias: of the four pre-activations, (4 C,).
        frames: see `WinogradWeight.frames`.
    """

    x: WinogradWeight
    h: WinogradWeight
    bias: Tensor
    frames: tuple[Tensor, Tensor, FrameShape]


class CpuKernels(Recurrence):
    """A recurrence whose pointwise part is compiled; saved pre-activations are channels-last.

    Steps of four pre-activations are fused on processors with AMX.

    Args:
        activations: see `Recurrence`.
        library: of `load_kernels` for them.
        dtype: of pre-activations and h, one of `DTYPES`.
    """

    def __init__(self, activations: tuple[str, str, str], library: Any, dtype: torch.dtype) -> None:
        super().__init__(activations)
        self.library, self._dtype = library, DTYPES[dtype]
        self._transposes = {
            (x, y): getattr(library, f"transpose_{DTYPES[x]}_{DTYPES[y]}") for x in DTYPES for y in DTYPES
        }

    def forward(self, buffers: StepBuffers) -> None:
        """See `Recurrence.forward`; ``b`` is not overwritten."""
        self._call("forward", buffers.cell_state, *buffers)

    def recompute(self, saved: Tensor, before: Tensor, after: Tensor, parameter: Tensor | None) -> None:
        """See `Recurrence.recompute`."""
        self._call("recompute", before, saved, before, after, parameter)

    def backward(self, gradients: StepGradients) -> None:
        """See `Recurrence.backward`."""
        self._call("backward", gradients.cell_state, *gradients)

    def _call(self, kernel: str, cell_state: Tensor, *tensors: Tensor | None) -> None:
        """Run a kernel on tensors, of which the parameter is the last."""
        if isinstance(cell_state, DryTensor):
            return
        function = getattr(self.library, f"{self.name}_{kernel}_{self._dtype}")
        function(*tensors, *sizes(cell_state, tensors[-1]), torch.get_num_threads())

    def to_channels_last(self, frames: Tensor, out: Tensor) -> None:
        """See `Recurrence.to_channels_last`."""
        if not self._transpose(frames, out, frames.shape[1]):
            super().to_channels_last(frames, out)

    def to_channels_first(self, channels_last: Tensor, out: Tensor) -> None:
        """See `Recurrence.to_channels_first`."""
        if not self._transpose(channels_last, out, math.prod(out.shape[2:])):
            super().to_channels_first(channels_last, out)

    def _transpose(self, x: Tensor, y: Tensor, rows: int) -> bool:
        """Transpose N contiguous matrices with a number of rows; False if there is no kernel for it."""
        function, count = self._transposes.get((x.dtype, y.dtype)), x.shape[0]
        if function is None or not count or x.is_neg():
            return False
        first, first_out = x if count == 1 else x[0], y if count == 1 else y[0]
        if not first.is_contiguous() or not first_out.is_contiguous():
            return False
        if not isinstance(y, DryTensor):
            columns = math.prod(x.shape[1:]) // rows
            function(
                first, first_out, count, rows, columns, x.stride(0), y.stride(0), torch.get_num_threads()
            )
        return True

    def prepare_weight(
        self,
        conv: SameConv,
        weight: Tensor,
        bias: Tensor | None,
        parameter: Tensor | None,
        h: Tensor,
        save: bool,
    ) -> Weight:
        """See `Recurrence.prepare_weight`; for a step fused with its convolution where there is one."""
        hidden: AmxWeight | WinogradStepWeight
        batch, *size, channels = h.shape
        if self.saved_gates < 4 or weight.ndim != 4:
            return super().prepare_weight(conv, weight, bias, parameter, h, save)
        biases = torch.zeros(4 * channels, dtype=torch.float32, device=h.device)
        if bias is not None:
            biases[: len(bias)] = bias
        if not self.only_added and parameter is not None:
            biases[3 * channels :] = parameter
        if self._dtype == "bfloat16" and self.library.has_amx():
            hidden = self._amx_weight(conv, weight, biases, h)
        elif self._dtype == "float32" and self._is_winograd(conv, weight, size, batch):
            inputs, weight = weight.shape[1] - channels, weight.float()
            x_part, h_part = (
                WinogradWeight(self.library, part, conv.padding_mode, self.gates, reused=conv.steps == 1)
                for part in (weight[:, :inputs], weight[:, inputs:])
            )
            hidden = WinogradStepWeight(x_part, h_part, biases, h_part.frames(h))
        else:
            return super().prepare_weight(conv, weight, bias, parameter, h, save)
        return Weight(None, hidden, in_place=False)

    def _is_winograd(self, conv: SameConv, weight: Tensor, size: list[int], batch: int) -> bool:
        return conv.algorithm(weight.shape, size, batch, compiled=conv.library is not None) == "Winograd"

    def _amx_weight(self, conv: SameConv, weight: Tensor, biases: Tensor, h: Tensor) -> AmxWeight:
        batch, *size, channels = h.shape
        inputs, kernel = weight.shape[1] - channels, weight.shape[2:]
        rows, columns = (
            padded_indices(s, d * (k - 1), mode)
            for s, d, k, mode in zip(size, conv.dilation, kernel, conv.padding_mode, strict=True)
        )
        shape = ConvShape(batch, *size, inputs, channels, channels, *kernel, *conv.dilation)
        weight = weight.to(weight.dtype if weight.dtype in DTYPES else torch.float32).contiguous()
        return AmxWeight(weight, self._pack(weight, shape), biases, shape, rows, columns)

    def _pack(self, weight: Tensor, shape: ConvShape) -> Tensor:
        packed = empty((self.library.packed_size(shape),), torch.bfloat16, weight.device)
        if isinstance(packed, DryTensor):
            return packed
        pack = getattr(self.library, f"pack_{DTYPES[weight.dtype]}")
        pack(weight, packed, shape, self.gates, torch.get_num_threads())
        return packed

    def step(self, weight: Weight, h: Tensor | None, buffers: StepBuffers) -> None:
        """See `Recurrence.step`."""
        if isinstance(weight.hidden, WinogradStepWeight):
            self._winograd_step(weight.hidden, h, buffers)
        elif isinstance(weight.hidden, AmxWeight):
            self._amx_step(weight.hidden, h, buffers)
        else:
            super().step(weight, h, buffers)

    def _winograd_step(self, weight: WinogradStepWeight, h: Tensor | None, buffers: StepBuffers) -> None:
        x, _, cell_state, new_h, saved, parameter = buffers
        packed = weight.x.packed, weight.h.packed
        if isinstance(new_h, DryTensor):
            return
        function = getattr(self.library, f"{self.name}_winograd_step")
        _, pixels, _ = sizes(cell_state, parameter)
        tensors = x, h, *packed, weight.bias, cell_state, new_h, saved, parameter
        shapes = *weight.frames, weight.x.shape, weight.h.shape
        function(*tensors, *shapes, pixels, torch.get_num_threads())

    def _amx_step(self, weight: AmxWeight, h: Tensor | None, buffers: StepBuffers) -> None:
        whole, packed, bias, shape, rows, columns = weight
        if h is None:  # without its channels
            shape = ConvShape.from_buffer_copy(shape)
            shape.C_h = 0
            packed = self._pack(whole, shape)
        x, _, cell_state, new_h, saved, parameter = buffers
        if isinstance(new_h, DryTensor):
            return
        function = getattr(self.library, f"{self.name}_step")
        tensors = x, h, packed, bias, cell_state, new_h, saved, parameter, rows, columns
        _, pixels, _ = sizes(cell_state, parameter)
        function(*tensors, shape, pixels, torch.get_num_threads())


class CpuLSTM(CpuKernels, LSTM):
    """The LSTM in C++; see ``csrc/lstm.h``."""


class CpuGRU(CpuKernels, GRU):
    """The GRU in C++; see ``csrc/gru.h``."""


class CpuRNN(CpuKernels, RNN):
    """The plain recurrence in C++; see ``csrc/rnn.h``."""


#: Kernels by the name of their recurrence.
KERNELS: dict[str, type[CpuKernels]] = {kind.name: kind for kind in (CpuLSTM, CpuGRU, CpuRNN)}


def kernels(recurrence: str, activations: tuple[str, str, str], dtype: torch.dtype) -> CpuKernels | None:
    """A recurrence's kernels for pre-activations of a dtype; None if there are none."""
    library = load_kernels(*activations) if dtype in DTYPES else None
    return None if library is None else KERNELS[recurrence](activations, library, dtype)
