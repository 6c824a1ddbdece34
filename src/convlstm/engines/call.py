"""How a call is computed: from the cell, the frames and the precision to a `Plan`."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import convlstm.engines.cpu.bindings as bindings
import convlstm.engines.triton.launch as launch
from convlstm.cells.convlstm import ConvLSTMCell
from convlstm.engines.convolution import SameConv
from convlstm.engines.families import GRU, LSTM, Family
from convlstm.engines.forward import Plan
from convlstm.engines.plain import PlainKernels
from convlstm.functional.gates import ACTIVATIONS

#: What is computed for many steps at once stays below this, so that it is still near when it is read again.
_CHUNK_BYTES = {"cpu": 96 << 20, "cuda": 64 << 20}
_PIECE_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}
#: Above this, ``save="auto"`` computes the sums of a layer's gates again rather than keep them.
_SUMS_BYTES = 2 << 30
#: The activations that kernels know, by function.
NAMES = {function: name for name, function in ACTIVATIONS.items()}


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
        keep_sums=save == "gates" or (save == "auto" and step_bytes * x.shape[1] <= _SUMS_BYTES),
        chunk=max(1, _CHUNK_BYTES[request.device] // max(1, step_bytes)),
        piece=max(1, _PIECE_BYTES[request.device] // max(1, step_bytes)),
    )


def request_of(
    cell: Any,
    x: Tensor,
    state: Any,
    compiled: bool,
    reverse: bool = False,
    last_only: bool = False,
    inner: bool = False,
    fresh: bool = False,
) -> Request:
    """What a call with frames x (B, T, C, *S) is, under the autocast of the moment."""
    kind = x.device.type
    mixed = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    compute = torch.get_autocast_dtype(kind) if mixed else x.dtype
    result = torch.promote_types(compute, state[-1].dtype)
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
        reverse=reverse,
        last_only=last_only,
        inner=inner,
        fresh=fresh,
    )


def tensors_of(cell: Any, x: Tensor, state: Any) -> list[Any]:
    """All that is differentiated, one space axis as two, of which the first has length one."""
    tensors = [x, cell.conv.weight, cell.conv.bias, extra_of(cell), *state]
    if x.ndim > 4:
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
