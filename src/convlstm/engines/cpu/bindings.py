"""Python bindings, by ctypes, of the C++ kernels in ``csrc``."""

import ctypes
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.convolution import SameConv, padded_indices
from convlstm.engines.cpu.compiler import CompilerError, compile_library, library_key, unavailable, warn_once
from convlstm.engines.cpu.library_cache import load_library
from convlstm.engines.recurrences import Recurrence, Weight

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
    "ConvShape*": ctypes.POINTER(ConvShape),
    "int64_t": ctypes.c_int64,
    "int": ctypes.c_int,
}


class Prototype(NamedTuple):
    """The prototype of a kernel.

    Attributes:
        arguments: C++ types by name, without const; ``T`` is the dtype that is part of the kernel's name.
        result: type of the result, or None.
    """

    arguments: Mapping[str, str]
    result: str | None = None


def prototype(arguments: str, result: str | None = None) -> Prototype:
    """A prototype from arguments as C++ declares them, without const, separated by commas."""
    pairs = (argument.split() for argument in arguments.split(","))
    return Prototype({name: kind for kind, name in pairs}, result)


_COPY = "int64_t matrices, int64_t rows, int64_t columns, int64_t x_stride, int64_t y_stride, int threads"
#: The kernels that all recurrences share. ``{T}`` in a name stands for each of `DTYPES`.
SHARED = {
    "transpose_{T}_float32": prototype(f"T* x, float* y, {_COPY}"),
    "transpose_{T}_bfloat16": prototype(f"T* x, bfloat16* y, {_COPY}"),
    "pack_{T}": prototype("T* weight, bfloat16* packed, ConvShape* shape, int64_t gates, int threads"),
    "packed_size": prototype("ConvShape* shape", "int64_t"),
    "has_amx": Prototype({}, "int"),
}


def declare(library: Any, prototypes: Mapping[str, Prototype]) -> None:
    """Set argument and result types of a library's functions."""
    for name, (arguments, result) in prototypes.items():
        for dtype in DTYPES.values() if "{T}" in name else ("",):
            element = dtype.replace("float32", "float")
            function = getattr(library, name.replace("{T}", dtype))
            function.argtypes = [_TYPES[kind.replace("T*", f"{element}*")] for kind in arguments.values()]
            function.restype = None if result is None else _TYPES[result]


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
            declare(library, SHARED)
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

    Args:
        activations: see `Recurrence`.
        library: of `load_kernels` for them.
        dtype: of pre-activations and h, one of `DTYPES`.

    Attributes:
        prototypes: of the recurrence's kernels.
    """

    prototypes: ClassVar[Mapping[str, Prototype]]

    def __init__(self, activations: tuple[str, str, str], library: Any, dtype: torch.dtype) -> None:
        super().__init__(activations)
        self._library, self._dtype = library, DTYPES[dtype]
        declare(library, self.prototypes)

    def _call(self, kernel: str, *arguments: Any) -> None:
        """Run a kernel of the dtype, whose last argument is the number of threads."""
        getattr(self._library, f"{kernel}_{self._dtype}")(*arguments, torch.get_num_threads())

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
        function = getattr(self._library, f"transpose_{DTYPES[x.dtype]}_{DTYPES[y.dtype]}")
        sizes = (len(x), rows, first.numel() // rows, x.stride(0), y.stride(0))
        function(first, first_out, *sizes, torch.get_num_threads())
        return True


class GatedCpuKernels(CpuKernels):
    """A recurrence of four pre-activations, whose steps are fused on processors with AMX."""

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
        if self._dtype != "bfloat16" or weight.ndim != 4 or not self._library.has_amx():
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
        return Weight(None, packed, in_place=False)

    def _pack(self, weight: Tensor, shape: ConvShape) -> Tensor:
        packed = empty((self._library.packed_size(shape),), torch.bfloat16, weight.device)
        pack = getattr(self._library, f"pack_{DTYPES[weight.dtype]}")
        pack(weight, packed, shape, self.gates, torch.get_num_threads())
        return packed

    def _fused_weight(self, weight: PackedWeight, h: Tensor | None) -> PackedWeight:
        """The weight of a fused step; from zero h, one without the channels of h."""
        if h is not None:
            return weight
        shape = ConvShape.from_buffer_copy(weight.shape)
        shape.C_h = 0
        return weight._replace(packed=self._pack(weight.weight, shape), shape=shape)
