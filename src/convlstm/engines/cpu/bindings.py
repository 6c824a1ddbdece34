"""Python bindings, by ctypes, of the C++ kernels in ``csrc``."""

import ctypes
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.convolution import SameConv, padded_indices
from convlstm.engines.cpu.compiler import CompilerError, compile_library, library_key, unavailable, warn_once
from convlstm.engines.cpu.library_cache import load_library
from convlstm.engines.dry_run import DryTensor
from convlstm.engines.recurrences import RECURRENCES, Recurrence, StepBuffers, StepGradients, Weight, sizes

SOURCE = Path(__file__).with_name("csrc") / "kernels.cpp"
#: Dtypes of pre-activations and h, by their names in C++.
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class ConvShape(ctypes.Structure):
    """The struct ``ConvShape`` of ``amx.h``."""

    _names = ("B", "H", "W", "C_in", "C", "C_h", "KH", "KW", "DH", "DW")
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in _names]


class _Elements:
    """Type of an argument: a contiguous tensor, passed as the address of its elements; or None."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def from_param(self, tensor: Tensor | None) -> ctypes.c_void_p:
        if tensor is None:
            return ctypes.c_void_p(None)
        if tensor.dtype != self.dtype or not tensor.is_contiguous():
            raise TypeError(f"a kernel takes contiguous tensors of {self.dtype}; received {tensor.dtype}")
        return ctypes.c_void_p(tensor.data_ptr())


_TYPES: dict[str, Any] = {
    "float*": _Elements(torch.float32),
    "bfloat16*": _Elements(torch.bfloat16),
    "int32_t*": _Elements(torch.int32),
    "uint8_t*": _Elements(torch.bool),
    "ConvShape*": ctypes.POINTER(ConvShape),
    "int64_t": ctypes.c_int64,
    "int": ctypes.c_int,
}

_COPY = "int64_t matrices, int64_t rows, int64_t columns, int64_t x_stride, int64_t y_stride, int threads"
_SIZES = "float* parameter, int64_t P, int64_t Q, int64_t C, int threads"
_OF_EACH_RECURRENCE = {
    "forward_{T}": f"T* a, T* b, float* cell_state, T* h, T* saved, {_SIZES}",
    "recompute_{T}": f"T* saved, float* cell_state, float* new_cell_state, {_SIZES}",
    "backward_{T}": (
        f"T* saved, float* cell_state, T* d_output, T* d_h, float* d_cell_state, T* d_a, T* d_b, {_SIZES}"
    ),
    "step": (
        "bfloat16* x, bfloat16* h, bfloat16* weight, float* bias, float* cell_state, bfloat16* new_h, "
        "bfloat16* saved, float* parameter, int32_t* rows, int32_t* columns, ConvShape* shape, "
        "int64_t Q, int threads"
    ),
}
#: Rules of recurrences that are linear in their state.
LINEAR_RULES = ("affine", "min_gru", "min_lstm", "min_exp_lstm")
_SCAN = "T* planes, float* state, uint8_t* mask, uint8_t* reset"
_LENGTHS = "int64_t B, int64_t steps, int64_t N, int reverse, int threads"
_OF_EACH_RULE = {
    "scan_{T}": f"{_SCAN}, float* h, float* last, {_LENGTHS}",
    "scan_backward_{T}": (
        f"{_SCAN}, float* h, float* d_h, float* d_last, T* d_planes, float* d_state, {_LENGTHS}"
    ),
}
#: Arguments of the kernels by name, as C++ declares them without const. ``{T}`` in a name stands for each of
#: `DTYPES`, of which T is the type; only steps of four pre-activations are fused.
PROTOTYPES = {
    "transpose_{T}_float32": f"T* x, float* y, {_COPY}",
    "transpose_{T}_bfloat16": f"T* x, bfloat16* y, {_COPY}",
    "pack_{T}": "T* weight, bfloat16* packed, ConvShape* shape, int64_t gates, int threads",
    "packed_size": "ConvShape* shape",
    "has_amx": "",
    **{
        f"{name}_{kernel}": arguments
        for name, recurrence in RECURRENCES.items()
        for kernel, arguments in _OF_EACH_RECURRENCE.items()
        if kernel != "step" or recurrence.saved_gates == 4
    },
    **{f"{rule}_{name}": arguments for rule in LINEAR_RULES for name, arguments in _OF_EACH_RULE.items()},
}
#: Types of their results, if they are not void.
RESULTS = {"packed_size": "int64_t", "has_amx": "int"}


def declare(library: Any) -> None:
    """Set argument and result types of a library's functions."""
    for name, arguments in PROTOTYPES.items():
        for dtype in DTYPES.values() if "{T}" in name else ("",):
            element = dtype.replace("float32", "float")
            function = getattr(library, name.replace("{T}", dtype))
            kinds = [argument.split()[0] for argument in arguments.split(", ") if argument]
            function.argtypes = [_TYPES[kind.replace("T*", f"{element}*")] for kind in kinds]
            function.restype = _TYPES.get(RESULTS.get(name, "void"))


@cache
def load_kernels(gate: str, candidate: str, output: str) -> Any | None:
    """The library for a choice of activations by name, or None, after one warning, if it does not compile.

    The first call in a process takes milliseconds, on a new machine the seconds that the compiler takes.
    """
    defines = (f"-DGATE={gate}", f"-DCANDIDATE={candidate}", f"-DOUTPUT={output}")
    reason = unavailable()
    if reason is None:
        try:
            library = load_library(library_key(SOURCE, defines), partial(compile_library, SOURCE, defines))
            declare(library)
            return library
        except CompilerError as error:
            reason = str(error)
        except OSError as error:
            reason = f"the library that the C++ compiler made cannot be loaded: {error}"
    warn_once(f"convlstm runs without compiled kernels, slower and with the same numbers, because {reason}")
    return None


class PackedWeight(NamedTuple):
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
        self._library, self._dtype = library, DTYPES[dtype]

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
        function = getattr(self._library, f"{self.name}_{kernel}_{self._dtype}")
        function(*tensors, *sizes(cell_state, tensors[-1]), torch.get_num_threads())

    def to_channels_last(self, frames: Tensor, out: Tensor) -> None:
        """See `Recurrence.to_channels_last`."""
        if not self._transpose(frames, out, frames.shape[1]):
            super().to_channels_last(frames, out)

    def to_channels_first(self, channels_last: Tensor, out: Tensor) -> None:
        """See `Recurrence.to_channels_first`."""
        if not self._transpose(channels_last, out, out[0, 0].numel()):
            super().to_channels_first(channels_last, out)

    def _transpose(self, x: Tensor, y: Tensor, rows: int) -> bool:
        """Transpose N contiguous matrices with a number of rows; False if there is no kernel for it."""
        first, first_out = x[0], y[0]
        known = x.dtype in DTYPES and y.dtype in DTYPES
        if not known or not first.is_contiguous() or not first_out.is_contiguous():
            return False
        if isinstance(y, DryTensor):
            return True
        function = getattr(self._library, f"transpose_{DTYPES[x.dtype]}_{DTYPES[y.dtype]}")
        lengths = (len(x), rows, first.numel() // rows, x.stride(0), y.stride(0))
        function(first, first_out, *lengths, torch.get_num_threads())
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
        """See `Recurrence.prepare_weight`; packed for AMX where the processor has it."""
        fused = self.saved_gates == 4 and self._dtype == "bfloat16" and weight.ndim == 4
        if not fused or not self._library.has_amx():
            return super().prepare_weight(conv, weight, bias, parameter, h, save)
        batch, *size, channels = h.shape
        inputs, kernel = weight.shape[1] - channels, weight.shape[2:]
        rows, columns = (
            padded_indices(s, d * (k - 1), mode)
            for s, d, k, mode in zip(size, conv.dilation, kernel, conv.padding_mode, strict=True)
        )
        biases = torch.zeros(4 * channels, dtype=torch.float32, device=h.device)
        if bias is not None:
            biases[: len(bias)] = bias
        if not self.only_added and parameter is not None:
            biases[3 * channels :] = parameter
        shape = ConvShape(batch, *size, inputs, channels, channels, *kernel, *conv.dilation)
        weight = weight.to(weight.dtype if weight.dtype in DTYPES else torch.float32).contiguous()
        packed = PackedWeight(weight, self._pack(weight, shape), biases, shape, rows, columns)
        return Weight(conv, None, packed, in_place=False)

    def _pack(self, weight: Tensor, shape: ConvShape) -> Tensor:
        packed = empty((self._library.packed_size(shape),), torch.bfloat16, weight.device)
        if isinstance(packed, DryTensor):
            return packed
        pack = getattr(self._library, f"pack_{DTYPES[weight.dtype]}")
        pack(weight, packed, shape, self.gates, torch.get_num_threads())
        return packed

    def step(self, weight: Weight, h: Tensor | None, buffers: StepBuffers) -> None:
        """See `Recurrence.step`."""
        if weight.input is not None:
            super().step(weight, h, buffers)
            return
        whole, packed, bias, shape, rows, columns = weight.hidden
        if h is None:  # without its channels
            shape = ConvShape.from_buffer_copy(shape)
            shape.C_h = 0
            packed = self._pack(whole, shape)
        x, _, cell_state, new_h, saved, parameter = buffers
        if isinstance(new_h, DryTensor):
            return
        function = getattr(self._library, f"{self.name}_step")
        tensors = x, h, packed, bias, cell_state, new_h, saved, parameter, rows, columns
        _, pixels, _ = sizes(cell_state, parameter)
        function(*tensors, shape, pixels, torch.get_num_threads())
