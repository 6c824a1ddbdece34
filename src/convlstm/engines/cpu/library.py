"""The library of C++ kernels in ``csrc``, and its functions as ctypes declares them."""

import ctypes
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from convlstm.engines.cpu.compiler import CompilerError, compile_library, library_key, unavailable, warn_once
from convlstm.engines.cpu.library_cache import load_library
from convlstm.functional.linear_recurrence import RULES

SOURCE = Path(__file__).with_name("csrc") / "kernels.cpp"
#: Dtypes of pre-activations and h, by their names in C++.
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class ConvShape(ctypes.Structure):
    """The struct ``ConvShape`` of ``amx.h``."""

    _names = ("B", "H", "W", "C_in", "C", "C_h", "KH", "KW", "DH", "DW")
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in _names]


class FrameShape(ctypes.Structure):
    """The struct ``FrameShape`` of ``winograd_tile.h``."""

    _names = ("B", "H", "W", "M")
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in _names]


class WinogradShape(ctypes.Structure):
    """The struct ``WinogradShape`` of ``winograd_weight.h``."""

    _names = ("outputs", "inputs", "output_stride", "input_stride", "taps", "flipped", "G")
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in _names]


class SequenceShape(ctypes.Structure):
    """The struct ``SequenceShape`` of ``sequence.h``."""

    _names = (
        *("B", "T", "H", "W", "inputs", "C", "KH", "KW"),
        *("gates", "saved_gates", "separate", "Q", "reverse", "zero_state"),
    )
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in _names]


class _Elements:
    """Kind of an argument: a contiguous tensor, of which the function takes the address; or None."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def check(self, tensor: Tensor | None) -> Tensor | None:
        """A tensor whose elements lie in memory as they are read.

        Raises:
            TypeError: another dtype, or a tensor that is not contiguous.
        """
        if tensor is None:
            return None
        if tensor.dtype != self.dtype or not tensor.is_contiguous():
            raise TypeError(f"a kernel takes contiguous tensors of {self.dtype}; received {tensor.dtype}")
        return tensor.resolve_neg()  # a view of numbers with the opposite sign, such as `z.conj().imag`


_STRUCTS = (ConvShape, FrameShape, WinogradShape, SequenceShape)
_TYPES: dict[str, Any] = {
    "float*": _Elements(torch.float32),
    "bfloat16*": _Elements(torch.bfloat16),
    "int32_t*": _Elements(torch.int32),
    "uint8_t*": _Elements(torch.bool),
    **{f"{kind.__name__}*": ctypes.POINTER(kind) for kind in _STRUCTS},
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
    "sequence": (
        "float* x, float* weight, float* bias, float* parameter, float* first_h, float* first_cell_state, "
        "float* outputs, float* last_h, float* last_cell_state, float* h, float* cell_states, float* saved, "
        "SequenceShape* shape"
    ),
    "sequence_backward": (
        "float* x, float* weight, float* parameter, float* h, float* cell_states, float* saved, "
        "float* d_outputs, float* d_last_h, float* d_last_cell_state, float* d_x, float* d_weight, "
        "float* d_bias, float* d_h, float* d_cell_state, float* d_a, float* d_b, SequenceShape* shape"
    ),
    "step": (
        "bfloat16* x, bfloat16* h, bfloat16* weight, float* bias, float* cell_state, bfloat16* new_h, "
        "bfloat16* saved, float* parameter, int32_t* rows, int32_t* columns, ConvShape* shape, "
        "int64_t Q, int threads"
    ),
    "winograd_step": (
        "float* x, float* h, float* weight_x, float* weight_h, float* bias, float* cell_state, float* new_h, "
        "float* saved, float* parameter, int32_t* rows, int32_t* columns, FrameShape* frames, "
        "WinogradShape* shape_x, WinogradShape* shape_h, int64_t Q, int threads"
    ),
}
#: Recurrences, and those of four pre-activations, whose steps are fused with their convolution.
_RECURRENCES, _FUSED = ("lstm", "gru", "rnn"), ("lstm", "gru")
_OF_FRAMES = "int32_t* rows, int32_t* columns, FrameShape* frames, WinogradShape* shape"
_SCAN = "T* planes, float* state, uint8_t* mask, uint8_t* reset"
_LENGTHS = "int64_t B, int64_t steps, int64_t N, int reverse, int threads"
_OF_EACH_RULE = {
    "scan_{T}": f"{_SCAN}, float* h, float* last, {_LENGTHS}",
    "scan_backward_{T}": (
        f"{_SCAN}, float* h, float* d_h, float* d_last, T* d_planes, float* d_state, {_LENGTHS}"
    ),
}
#: Arguments of the kernels by name, as C++ declares them without const. ``{T}`` in a name stands for each of
#: `DTYPES`, of which T is the type.
PROTOTYPES = {
    "transpose_{T}_float32": f"T* x, float* y, {_COPY}",
    "transpose_{T}_bfloat16": f"T* x, bfloat16* y, {_COPY}",
    "pack_{T}": "T* weight, bfloat16* packed, ConvShape* shape, int64_t gates, int threads",
    "packed_size": "ConvShape* shape",
    "has_amx": "",
    "winograd_packed_size": "WinogradShape* shape",
    "winograd_pack": "float* weight, float* packed, WinogradShape* shape, int threads",
    "winograd_convolve": (
        f"float* x, float* packed, float* bias, float* out, {_OF_FRAMES}, int add, int threads"
    ),
    "winograd_gradient_size": "WinogradShape* shape, int64_t part",
    "winograd_weight_gradient": (
        f"float* x, float* d_out, float* gradient, float* memory, {_OF_FRAMES}, int64_t part, int threads"
    ),
    **{
        f"{name}_{kernel}": arguments
        for name in _RECURRENCES
        for kernel, arguments in _OF_EACH_RECURRENCE.items()
        if "step" not in kernel or name in _FUSED
    },
    **{f"{rule}_{name}": arguments for rule in RULES for name, arguments in _OF_EACH_RULE.items()},
}
#: Types of their results, if they are not void.
RESULTS = {
    "packed_size": "int64_t",
    "has_amx": "int",
    "winograd_packed_size": "int64_t",
    "winograd_gradient_size": "int64_t",
}


def declare(library: Any) -> None:
    """Set argument and result types of a library's functions."""
    for name, arguments in PROTOTYPES.items():
        for dtype in DTYPES.values() if "{T}" in name else ("",):
            element = dtype.replace("float32", "float")
            function = getattr(library, name.replace("{T}", dtype))
            words = [argument.split()[0] for argument in arguments.split(", ") if argument]
            kinds = [_TYPES[word.replace("T*", f"{element}*")] for word in words]
            function.argtypes = [ctypes.c_void_p if isinstance(k, _Elements) else k for k in kinds]
            function.restype = _TYPES.get(RESULTS.get(name, "void"))
            setattr(library, function.__name__, partial(_call, function, kinds))


def _call(function: Any, kinds: list[Any], *arguments: Any) -> Any:
    """Call a function with the addresses of tensors.

    Tensors are checked here, not by ctypes, which makes an error of its own of Ctrl-C meanwhile.
    """
    pairs = zip(kinds, arguments, strict=True)
    checked = [kind.check(a) if isinstance(kind, _Elements) else a for kind, a in pairs]
    return function(*[a.data_ptr() if isinstance(a, Tensor) else a for a in checked])


def load_kernels(gate: str, candidate: str, output: str) -> Any | None:
    """The library for a choice of activations by name, or None, after one warning, if it does not compile.

    The first call in a process takes milliseconds, on a new machine the seconds that the compiler takes.
    """
    found = _loaded(gate, candidate, output)
    if isinstance(found, str):
        warn_once(
            f"convlstm runs without compiled kernels, slower and with the same numbers, because {found}"
        )
        return None
    return found


def failure() -> str | None:
    """The reason why there are no kernels for the usual activations, or None; compiles them if nobody has."""
    found = _loaded("sigmoid", "tanh", "tanh")
    return found if isinstance(found, str) else None


@cache
def _loaded(gate: str, candidate: str, output: str) -> Any | str:
    """The library for a choice of activations, or the reason why there is none."""
    defines = (f"-DGATE={gate}", f"-DCANDIDATE={candidate}", f"-DOUTPUT={output}")
    reason = unavailable()
    if reason is not None:
        return reason
    try:
        library = load_library(library_key(SOURCE, defines), partial(compile_library, SOURCE, defines))
    except CompilerError as error:
        return str(error)
    except OSError as error:
        return f"the library that the C++ compiler made cannot be loaded: {error}"
    declare(library)
    return library
