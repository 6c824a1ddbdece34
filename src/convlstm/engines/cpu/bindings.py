"""Kernels of ``csrc/kernels.cpp``, compiled by the machine's C++ compiler when first used, kept on disk."""

import ctypes
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.convolution import SameConv, padded_places
from convlstm.engines.cpu.compiler import CompilerError, compile_library, library_key, unavailable, warn_once
from convlstm.engines.cpu.library_cache import load_library
from convlstm.engines.plain import PlainKernels, Weight, by_gate

_SOURCE = Path(__file__).with_name("csrc") / "kernels.cpp"
#: Dtypes that the kernels store, by their names there.
STORED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@cache
def library(gate: str, candidate: str, output: str) -> Any | None:
    """The kernels for a choice of activations by name, or None, after one warning, if they do not compile.

    The first call in a process takes some milliseconds, on a new machine the seconds that the compiler takes.
    """
    defines = (f"-DGATE={gate}", f"-DCANDIDATE={candidate}", f"-DOUTPUT={output}")
    reason = unavailable()
    if reason is None:
        try:
            build = partial(compile_library, _SOURCE, defines)
            return _declared(load_library(library_key(_SOURCE, defines), build))
        except CompilerError as error:
            reason = str(error)
        except OSError as error:
            reason = f"the library that the C++ compiler made cannot be loaded: {error}"
    warn_once(f"convlstm runs without compiled kernels, slower and with the same numbers, because {reason}")
    return None


class _Sizes(ctypes.Structure):
    """The struct ``Sizes`` of ``amx.h``."""

    _names = ("B", "H", "W", "X", "C", "HC", "KH", "KW", "DH", "DW")
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in _names]


class _Packed(NamedTuple):
    """A weight for the steps of ``amx.h``.

    Attributes:
        weight: as it was.
        numbers: of it, in the order in which they are read.
        bias: of the four sums, (4 C,).
        sizes: of the call.
        rows: of the frame for each one of the padded frame, -1 for zeros.
        columns: the same.
    """

    weight: Tensor
    numbers: Tensor
    bias: Tensor
    sizes: _Sizes
    rows: Tensor
    columns: Tensor


def _declared(found: Any) -> Any:
    """A library whose functions know the types of their arguments."""
    pointer, size, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    sizes_of = ctypes.POINTER(_Sizes)
    for name in STORED.values():
        for kernel, pointers, sizes in (
            ("lstm_forward", 5, 3),
            ("lstm_replay", 4, 3),
            ("lstm_backward", 7, 3),
            ("gru_forward", 6, 2),
            ("gru_replay", 3, 2),
            ("gru_backward", 7, 2),
        ):
            function = getattr(found, f"{kernel}_{name}")
            function.argtypes, function.restype = [pointer] * pointers + [size] * sizes + [threads], None
        for other in STORED.values():
            function = getattr(found, f"transpose_{name}_{other}")
            function.argtypes, function.restype = [pointer] * 2 + [size] * 5 + [threads], None
        function = getattr(found, f"pack_{name}")
        function.argtypes, function.restype = [pointer, pointer, sizes_of, size, threads], None
    found.lstm_step.argtypes, found.lstm_step.restype = [pointer] * 10 + [sizes_of, size, threads], None
    found.gru_step.argtypes, found.gru_step.restype = [pointer] * 9 + [sizes_of, threads], None
    found.packed_size.argtypes, found.packed_size.restype = [sizes_of], size
    return found


def _addresses(tensors: Sequence[Tensor | None]) -> list[int | None]:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


class NativeKernels(PlainKernels):
    """The same passes over all pixels, compiled; a tensor that they do not take goes the plain way.

    Args:
        activations: names of those of the gates, the candidate and the output.
        library: what `library` gave for them.
        dtype: of the sums, one of `STORED`.
    """

    def __init__(self, activations: tuple[str, str, str], library: Any, dtype: torch.dtype) -> None:
        super().__init__(activations)
        self._library, self._dtype = library, STORED[dtype]

    def _call(self, kernel: str, tensors: Sequence[Tensor | None], *sizes: int) -> None:
        function = getattr(self._library, f"{kernel}_{self._dtype}")
        function(*_addresses(tensors), *sizes, torch.get_num_threads())

    def lstm_weight(
        self, conv: SameConv, weight: Tensor, bias: Tensor | None, h: Tensor, keep: bool
    ) -> Weight:
        """See `PlainKernels.lstm_weight`; whole where the processor has a matrix unit for it."""
        if not self._has_unit(weight):
            return super().lstm_weight(conv, weight, bias, h, keep)
        return self._packed(conv, weight, bias, None, h)

    def gru_weight(
        self, conv: SameConv, weight: Tensor, bias: Tensor | None, reset_bias: Tensor | None, h: Tensor
    ) -> Weight:
        """See `PlainKernels.gru_weight`; whole where the processor has a matrix unit for it."""
        if not self._has_unit(weight):
            return super().gru_weight(conv, weight, bias, reset_bias, h)
        return self._packed(conv, weight, bias, reset_bias, h)

    def _has_unit(self, weight: Tensor) -> bool:
        return self._dtype == "bfloat16" and weight.ndim == 4 and bool(self._library.amx_ready())

    def _packed(
        self, conv: SameConv, weight: Tensor, bias: Tensor | None, reset_bias: Tensor | None, h: Tensor
    ) -> Weight:
        batch, *size, channels = h.shape
        inputs, kernel = weight.shape[1] - channels, weight.shape[2:]
        rows, columns = (
            padded_places(s, d * (k - 1), mode)
            for s, d, k, mode in zip(size, conv.dilation, kernel, conv.padding_mode, strict=True)
        )
        biases = torch.zeros(4 * channels, dtype=torch.float32, device=h.device)
        if bias is not None:
            biases[: len(bias)] = bias
        if reset_bias is not None:
            biases[3 * channels :] = reset_bias
        sizes = _Sizes(batch, *size, inputs, channels, channels, *kernel, *conv.dilation)
        weight = weight.to(weight.dtype if weight.dtype in STORED else torch.float32).contiguous()
        packed = _Packed(weight, self._numbers(weight, sizes), biases, sizes, rows, columns)
        return Weight(None, packed, in_place=False)

    def _numbers(self, weight: Tensor, sizes: _Sizes) -> Tensor:
        numbers = empty((self._library.packed_size(sizes),), torch.bfloat16, weight.device)
        pack, gates = getattr(self._library, f"pack_{STORED[weight.dtype]}"), len(weight) // sizes.C
        pack(weight.data_ptr(), numbers.data_ptr(), sizes, gates, torch.get_num_threads())
        return numbers

    def _without_h(self, packed: _Packed) -> _Packed:
        """The weight of a step from zero."""
        sizes = _Sizes.from_buffer_copy(packed.sizes)
        sizes.HC = 0
        return packed._replace(numbers=self._numbers(packed.weight, sizes), sizes=sizes)

    def lstm_step(
        self,
        conv: SameConv,
        a: Tensor,
        h: Tensor | None,
        weight: Weight,
        c: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
        peepholes: Tensor | None,
    ) -> None:
        """See `PlainKernels.lstm_step`."""
        if weight.frame is not None:
            super().lstm_step(conv, a, h, weight, c, new_h, kept, peepholes)
            return
        packed = weight.hidden if h is not None else self._without_h(weight.hidden)
        _, numbers, bias, sizes, *places = packed
        pointers = _addresses((a, h, numbers, bias, c, new_h, kept, peepholes, *places))
        self._library.lstm_step(*pointers, sizes, _pixels(peepholes), torch.get_num_threads())

    def gru_step(
        self,
        conv: SameConv,
        a: Tensor,
        b: Tensor | None,
        bias: Tensor | None,
        h: Tensor | None,
        weight: Weight,
        m: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
    ) -> None:
        """See `PlainKernels.gru_step`."""
        if weight.frame is not None:
            super().gru_step(conv, a, b, bias, h, weight, m, new_h, kept)
            return
        packed = weight.hidden if h is not None else self._without_h(weight.hidden)
        _, numbers, biases, sizes, *places = packed
        pointers = _addresses((a, h, numbers, biases, m, new_h, kept, *places))
        self._library.gru_step(*pointers, sizes, torch.get_num_threads())

    def lstm_forward(
        self, sums: Tensor, c: Tensor, h: Tensor, kept: Tensor | None, peepholes: Tensor | None
    ) -> None:
        """See `PlainKernels.lstm_forward`."""
        self._call("lstm_forward", (sums, c, h, kept, peepholes), _pixels(peepholes), *c.shape)

    def lstm_replay(self, sums: Tensor, c: Tensor, new_c: Tensor, peepholes: Tensor | None) -> None:
        """See `PlainKernels.lstm_replay`."""
        self._call("lstm_replay", (sums, c, new_c, peepholes), _pixels(peepholes), *c.shape)

    def lstm_backward(
        self,
        sums: Tensor,
        c: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_c: Tensor,
        d_sums: Tensor,
        peepholes: Tensor | None,
    ) -> None:
        """See `PlainKernels.lstm_backward`."""
        tensors = (sums, c, d_output, d_h, d_c, d_sums, peepholes)
        self._call("lstm_backward", tensors, _pixels(peepholes), *c.shape)

    def gru_forward(
        self, a: Tensor, b: Tensor, bias: Tensor, m: Tensor, h: Tensor, kept: Tensor | None
    ) -> None:
        """See `PlainKernels.gru_forward`; ``b`` is left as it is."""
        self._call("gru_forward", (a, b, bias, m, h, kept), *m.shape)

    def gru_replay(self, sums: Tensor, m: Tensor, new_m: Tensor) -> None:
        """See `PlainKernels.gru_replay`."""
        self._call("gru_replay", (sums, m, new_m), *m.shape)

    def gru_backward(
        self,
        sums: Tensor,
        m: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_m: Tensor,
        d_a: Tensor,
        d_b: Tensor,
    ) -> None:
        """See `PlainKernels.gru_backward`."""
        self._call("gru_backward", (sums, m, d_output, d_h, d_m, d_a, d_b), *m.shape)

    def kept(self, rows: Tensor) -> Tensor:
        """See `PlainKernels.kept`; by pixel."""
        return by_gate(rows, 4)

    def to_rows(self, frames: Tensor, rows: Tensor) -> None:
        """See `PlainKernels.to_rows`."""
        if not self._transpose(frames, rows, frames.shape[1]):
            super().to_rows(frames, rows)

    def to_frames(self, rows: Tensor, frames: Tensor) -> None:
        """See `PlainKernels.to_frames`."""
        if not self._transpose(rows, frames, frames[0, 0].numel()):
            super().to_frames(rows, frames)

    def _transpose(self, x: Tensor, y: Tensor, rows: int) -> bool:
        """Whether matrices of so many rows, each dense, whatever is between them, could be transposed."""
        known = x.dtype in STORED and y.dtype in STORED
        if not known or not x[0].is_contiguous() or not y[0].is_contiguous():
            return False
        function = getattr(self._library, f"transpose_{STORED[x.dtype]}_{STORED[y.dtype]}")
        sizes = (len(x), rows, x[0].numel() // rows, x.stride(0), y.stride(0))
        function(x.data_ptr(), y.data_ptr(), *sizes, torch.get_num_threads())
        return True


def _pixels(peepholes: Tensor | None) -> int:
    return 1 if peepholes is None else peepholes.shape[1]
