"""A ConvLSTM layer over a whole sequence as one function with its gradient by hand.

What depends on the input alone is one convolution for many steps of time. A step is then one convolution of h
and a few operations in place. Backwards, only the gradients of the gates and of the previous h go step by
step; those of weights, bias and input are again one convolution for many steps (as in Appleyard et al. 2016,
arXiv:1604.01946, for dense LSTMs). Of each step the gates and the memory are kept, and h is computed again
from them, so that whoever changes the outputs in place does no harm. The memory has at least 32 bits
whatever the convolutions have. Inside, channels come last in memory; outputs have the reference's layout.
"""

from typing import Any

import torch
from torch import Tensor, nn

from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.engines.convolution import SameConv
from convlstm.engines.lstm import Backward, Kept, Plan, forward
from convlstm.errors import OptionError

# What is computed for many steps at once stays below this. On a CPU larger blocks are fresh pages from the
# system every time, which cost as much as the arithmetic on them.
_CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
_RULES = ("forward", "project", "recur", "_convolve", "step", "update", "initial_state")


def refusal(cell: nn.Module, x: Tensor, state: Any) -> str | None:
    """Why this engine does not serve a call, or None if it does."""
    return _about_the_context(x) or _about_the_cell(cell) or _about_the_tensors(cell, x, state)


def _about_the_context(x: Tensor) -> str | None:
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the call is being compiled, exported or traced"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "the call is inside a transform of torch.func"
    if torch.autograd.forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    if x.device.type not in _CHUNK_BYTES:
        return f"it runs on cpu and cuda, not on {x.device.type}"
    return None


def _about_the_cell(cell: nn.Module) -> str | None:
    name = type(cell).__name__
    if not isinstance(cell, ConvLSTMCell):
        return f"it knows ConvLSTMCell, not {name}"
    for rule in _RULES:
        if rule in vars(cell) or getattr(type(cell), rule) is not getattr(ConvLSTMCell, rule):
            return f"{name} has a {rule} of its own"
    if has_hooks(cell):
        return f"{name} has hooks"
    if cell.attention is not None:
        return "it has no attention"
    named = (cell.gate_activation, cell.candidate_activation, cell.output_activation)
    if named != (torch.sigmoid, torch.tanh, torch.tanh):
        return "its activations are sigmoid for gates, tanh for candidate and output"
    return None


def _about_the_tensors(cell: Any, x: Tensor, state: Any) -> str | None:
    h, c = state
    tensors = [t for t in (x, h, c, cell.conv.weight, cell.conv.bias, cell.peephole_weight) if t is not None]
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return "it takes plain tensors, no subclasses"
    if not all(t.is_floating_point() for t in tensors) or len({t.device for t in tensors}) > 1:
        return "it takes real tensors on one device"
    if len({t.dtype for t in tensors}) > 1 and not torch.is_autocast_enabled(x.device.type):
        return "dtypes differ outside autocast"
    if any(t.shape != (x.shape[0], cell.hidden_dim, *x.shape[3:]) for t in (h, c)):
        return "the state has another shape than the frames"
    return None


def has_hooks(cell: nn.Module) -> bool:
    """Whether somebody listens to calls of a cell."""
    own = (cell._forward_hooks, cell._forward_pre_hooks, cell._backward_hooks, cell._backward_pre_hooks)
    return any(own)


def run(
    cell: Any,
    x: Tensor,
    state: LSTMState,
    valid: Tensor | None = None,
    starts: Tensor | None = None,
    *,
    reverse: bool = False,
    last_only: bool = False,
) -> tuple[Tensor, LSTMState]:
    """What `convlstm.layers.scan` returns, for a call that `refusal` lets pass.

    Args:
        cell: a `ConvLSTMCell`.
        x: (B, T, C, *S), zero where not valid.
        state: before the first step.
        valid: (B, T) bool, which frames are there; None for all.
        starts: (B, T) bool, before which frames the state is zero, in the order of running; None for none.
        reverse: whether to run from the last frame to the first.
        last_only: whether only the output of the last step is returned, as T = 1.
    """
    cell.check_size(x.shape[3:])
    plan = _plan(cell, x, state, reverse, last_only)
    conv = cell.conv
    tensors = (x, conv.weight, conv.bias, cell.peephole_weight, state.h, state.c)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        outputs, h, c = _Sequence.apply(plan, valid, starts, *tensors)  # type: ignore[no-untyped-call]
    else:
        outputs, h, c, _ = forward(plan, valid, starts, *tensors, keep=False)
    return (h.unsqueeze(1) if last_only else outputs), LSTMState(h, c)


def _plan(cell: ConvLSTMCell, x: Tensor, state: LSTMState, reverse: bool, last_only: bool) -> Plan:
    kind = x.device.type
    mixed = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    compute = torch.get_autocast_dtype(kind) if mixed else x.dtype
    low = compute.itemsize < 4
    result = torch.promote_types(compute, state.c.dtype)
    if cell.peephole_weight is not None:
        result = torch.promote_types(result, cell.peephole_weight.dtype)
    # cuDNN is at home with channels last in 16 bits only; oneDNN always.
    last = {2: torch.channels_last, 3: torch.channels_last_3d} if kind == "cpu" or low else {}
    step_bytes = x.shape[0] * 4 * cell.hidden_dim * x[0, 0, 0].numel() * compute.itemsize
    return Plan(
        conv=SameConv(cell.dilation, cell.padding_mode),
        compute=compute,
        exact=torch.float32 if low else compute,
        result=result,
        layout=last.get(len(cell.kernel_size), torch.contiguous_format),
        reverse=reverse,
        last_only=last_only,
        chunk=max(1, _CHUNK_BYTES[kind] // max(1, step_bytes)),
    )


class _Sequence(torch.autograd.Function):
    """`convlstm.engines.lstm` for autograd."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, valid: Any, starts: Any, *tensors: Any) -> Any:
        outputs, h, c, kept = forward(plan, valid, starts, *tensors, keep=True)
        assert kept is not None
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(valid, starts, *tensors, kept.c, kept.h, *kept.gates)
        return outputs, h, c

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        valid, starts, x, weight, bias, peepholes, h, c, kept_c, kept_h, *gates = ctx.saved_tensors
        kept, given = Kept(gates, kept_c, kept_h), (x, weight, peepholes, h, c)
        # After plan, valid and starts come the tensors.
        needed = ctx.needs_input_grad[3:]
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            found = Backward(ctx.plan, kept, valid, starts, given, needed[:3]).run(*gradients)
        inputs = (x, weight, bias, peepholes, h, c)
        results = [
            d.to(tensor.dtype) if wanted and d is not None else None
            for d, tensor, wanted in zip(found, inputs, needed, strict=True)
        ]
        if torch.is_grad_enabled():  # create_graph=True
            results = [None if d is None else _Once.apply(d, x, weight, h, c) for d in results]  # type: ignore[no-untyped-call]
        return None, None, None, *results


class _Once(torch.autograd.Function):
    """A gradient that depends on the inputs in a way that nobody wrote down."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise OptionError(
            "a layer is differentiated once by engine='fused', which received a second derivative: build it "
            "with engine='reference'"
        )
