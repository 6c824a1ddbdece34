"""A layer over a whole sequence as one function with its gradient by hand.

It takes the cells of `convlstm.engines.families` with the arithmetic of `convlstm.engines.sequence`. The
memory has at least 32 bits whatever the convolutions have. Outputs have the reference's layout, and are
nobody else's, so that whoever changes them in place does no harm.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import convlstm.engines.native as native
from convlstm.cells.convgru import ConvGRUCell, GRUState
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.engines.convolution import SameConv
from convlstm.engines.families import GRU, LSTM, Family
from convlstm.engines.plain import PlainKernels
from convlstm.engines.sequence import Backward, Given, Kept, Plan, forward
from convlstm.errors import OptionError
from convlstm.functional.gates import ACTIVATIONS

#: What is computed for many steps at once stays below this, so that it is still near when it is read again.
_CHUNK_BYTES = {"cpu": 48 << 20, "cuda": 256 << 20}
_PIECE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
#: Above this, ``save="auto"`` computes the sums of a layer's gates again rather than keep them.
_SUMS_BYTES = 2 << 30
_RULES = ("forward", "project", "recur", "_convolve", "step", "update", "initial_state")
_NAMES = {function: name for name, function in ACTIVATIONS.items()}

#: What the backward pass finds: the sums of the gates, or the state alone, from which it computes them again.
SAVES = ("auto", "gates", "state")


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

    @property
    def kernels(self) -> PlainKernels:
        """The fastest there are for the dtype and device."""
        if self.compiled and self.device == "cpu" and self.compute in native.STORED:
            library = native.library(*self.activations)
            if library is not None:
                return native.NativeKernels(self.activations, library, self.compute)
        return PlainKernels(self.activations)


@lru_cache(maxsize=256)
def _family(request: Request) -> Family:
    return LSTM(request.kernels) if request.family == "lstm" else GRU(request.kernels)


def plan_of(request: Request, x: Tensor, hidden: int, save: str) -> Plan:
    """How a call with frames (B, T, C, *S) is computed."""
    family = _family(request)
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
        keep_sums=save == "gates" or (save == "auto" and step_bytes * x.shape[1] <= _SUMS_BYTES),
        chunk=max(1, _CHUNK_BYTES[request.device] // max(1, step_bytes)),
        piece=max(1, _PIECE_BYTES[request.device] // max(1, step_bytes)),
    )


def other_cell(cell: nn.Module) -> str | None:
    """Why a cell runs by its own ``step``, or None if this engine knows the family and its options."""
    name = type(cell).__name__
    base = next((kind for kind in (ConvLSTMCell, ConvGRUCell) if isinstance(cell, kind)), None)
    if base is None:
        return f"it knows ConvLSTMCell and ConvGRUCell, not {name}"
    for rule in _RULES:
        if rule in vars(cell) or getattr(type(cell), rule, None) is not getattr(base, rule, None):
            return f"{name} has a {rule} of its own"
    if cell.attention is not None:
        return "it has no attention"
    if not getattr(cell, "reset_after", True):
        return "it has no reset gate before the convolution"
    if any(activation not in _NAMES for activation in _activations(cell)):
        return "it has the activations that go by a name"
    return None


def refusal(cell: Any, x: Tensor, state: Any) -> str | None:
    """Why this engine does not serve a call to a cell that it knows, or None if it does."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the call is being compiled, exported or traced"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "the call is inside a transform of torch.func"
    if torch.autograd.forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    if x.device.type not in _CHUNK_BYTES:
        return f"it runs on cpu and cuda, not on {x.device.type}"
    tensors = [t for t in (x, *state, cell.conv.weight, cell.conv.bias, _extra(cell)) if t is not None]
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return "it takes plain tensors, no subclasses"
    if not all(t.is_floating_point() for t in tensors) or len({t.device for t in tensors}) > 1:
        return "it takes real tensors on one device"
    if len({t.dtype for t in tensors}) > 1 and not torch.is_autocast_enabled(x.device.type):
        return "dtypes differ outside autocast"
    if any(t.shape != (x.shape[0], cell.hidden_dim, *x.shape[3:]) for t in state):
        return "the state has another shape than the frames"
    return None


def has_hooks(cell: nn.Module) -> bool:
    """Whether somebody listens to calls of a cell."""
    own = (cell._forward_hooks, cell._forward_pre_hooks, cell._backward_hooks, cell._backward_pre_hooks)
    return any(own)


def _activations(cell: Any) -> tuple[Any, Any, Any]:
    output = cell.output_activation if isinstance(cell, ConvLSTMCell) else torch.tanh
    return cell.gate_activation, cell.candidate_activation, output


def _extra(cell: Any) -> Tensor | None:
    extra: Tensor | None = cell.peephole_weight if isinstance(cell, ConvLSTMCell) else cell.reset_bias
    return extra


def run(
    cell: Any,
    x: Tensor,
    state: Any,
    valid: Tensor | None = None,
    starts: Tensor | None = None,
    *,
    reverse: bool = False,
    last_only: bool = False,
    inner: bool = False,
    compiled: bool = True,
    save: str = "auto",
) -> tuple[Tensor, Any]:
    """What `convlstm.layers.scan` returns, for a call that `refusal` lets pass.

    Args:
        cell: a cell that `other_cell` knows.
        x: (B, T, C, *S), zero where not valid.
        state: before the first step.
        valid: (B, T) bool, which frames are there; None for all.
        starts: (B, T) bool, before which frames the state is zero, in the order of running; None for none.
        reverse: whether to run from the last frame to the first.
        last_only: whether only the output of the last step is returned, as T = 1.
        inner: whether only another layer reads the outputs, which then may have any layout and 16 bits.
        compiled: whether to use compiled kernels where there are any.
        save: one of `SAVES`.
    """
    cell.check_size(x.shape[3:])
    flat = x.ndim == 4  # one space axis: convolved as two, of which the first has length one
    request = _request(cell, x, state, compiled, reverse, last_only, inner)
    tensors = [x, cell.conv.weight, cell.conv.bias, _extra(cell), *state]
    if flat:
        tensors = [t if t is None or t.ndim < 3 else t.unsqueeze(-2) for t in tensors]
    plan = plan_of(request, tensors[0], cell.hidden_dim, save)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        outputs, *ends = _Sequence.apply(plan, valid, starts, *tensors)  # type: ignore[no-untyped-call]
    else:
        with torch.autocast(x.device.type, enabled=False):
            outputs, ends, _ = forward(plan, _given(valid, starts, tensors), keep=False)
    if flat:
        outputs, ends = None if outputs is None else outputs.squeeze(-2), [t.squeeze(-2) for t in ends]
    kind = LSTMState if request.family == "lstm" else GRUState
    return ends[0].unsqueeze(1) if last_only else outputs, kind(*ends)


def _given(valid: Tensor | None, starts: Tensor | None, tensors: Any) -> Given:
    x, weight, bias, extra, *states = tensors
    return Given(x, weight, bias, extra, tuple(states), valid, starts)


def _request(
    cell: Any, x: Tensor, state: Any, compiled: bool, reverse: bool, last_only: bool, inner: bool
) -> Request:
    kind = x.device.type
    mixed = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    compute = torch.get_autocast_dtype(kind) if mixed else x.dtype
    result = torch.promote_types(compute, state[-1].dtype)
    extra = _extra(cell)
    if extra is not None:
        result = torch.promote_types(result, extra.dtype)
    flat = ((1,), ("zeros",)) if x.ndim == 4 else ((), ())
    gate, candidate, output = (_NAMES[activation] for activation in _activations(cell))
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
    )


class _Sequence(torch.autograd.Function):
    """`convlstm.engines.sequence` for autograd."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, valid: Any, starts: Any, *tensors: Any) -> Any:
        with torch.autocast(tensors[0].device.type, enabled=False):
            outputs, ends, kept = forward(plan, _given(valid, starts, tensors), keep=True)
        assert kept is not None
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(valid, starts, *kept, *tensors)
        return outputs, *ends

    @staticmethod
    def backward(ctx: Any, d_outputs: Any, *d_ends: Any) -> Any:
        valid, starts, h, memory, sums, *tensors = ctx.saved_tensors
        # After plan, valid and starts come the tensors.
        needed = ctx.needs_input_grad[3:]
        given = _given(valid, starts, tensors)
        with torch.no_grad(), torch.autocast(given.x.device.type, enabled=False):
            gradients = Backward(ctx.plan, given, Kept(h, memory, sums), needed[:3]).run(d_outputs, d_ends)
        *others, states = gradients
        results = [
            d.to(tensor.dtype) if wanted and d is not None else None
            for d, tensor, wanted in zip((*others, *states), tensors, needed, strict=True)
        ]
        if torch.is_grad_enabled():  # create_graph=True
            results = [None if d is None else _Once.apply(d, *given[:2]) for d in results]  # type: ignore[no-untyped-call]
        return None, None, None, *results


class _Once(torch.autograd.Function):
    """A gradient that depends on the inputs in a way that nobody wrote down."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise OptionError(
            "a layer is differentiated once by engine='fused' and engine='compiled', which received a second "
            "derivative: build it with engine='reference'"
        )
