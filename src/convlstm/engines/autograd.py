"""A layer over a whole sequence as one function with its gradient by hand.

It takes the cells of `convlstm.engines.families` with the arithmetic of `convlstm.engines.forward`. The
memory has at least 32 bits whatever the convolutions have. Outputs have the reference's layout, and are
nobody else's, so that whoever changes them in place does no harm.
"""

from typing import Any

import torch
from torch import Tensor, nn

import convlstm.engines.custom_op as custom_op
from convlstm.cells.base import Cell
from convlstm.cells.convgru import ConvGRUCell, GRUState
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.engines.backward import Backward
from convlstm.engines.call import NAMES, activations_of, extra_of, plan_of, request_of, tensors_of
from convlstm.engines.cuda_graphs import recorded
from convlstm.engines.forward import Given, Kept, Plan, forward

_RULES = (
    "forward",
    "project",
    "recur",
    "_convolve",
    "step",
    "update",
    "sums",
    "initial_state",
    "init_hidden",
)

#: What the backward pass finds: the sums of the gates, or the state alone, from which it computes them again.
SAVES = ("auto", "gates", "state")


def other_cell(cell: nn.Module) -> str | None:
    """Why a cell runs by its own ``step``, or None if this engine knows the family and its options."""
    name = type(cell).__name__
    base = next((kind for kind in (ConvLSTMCell, ConvGRUCell) if isinstance(cell, kind)), None)
    if base is None:
        return f"it knows ConvLSTMCell and ConvGRUCell, not {name}"
    for rule in _RULES:
        if rule in vars(cell) or getattr(type(cell), rule, None) is not getattr(base, rule, None):
            return f"{name} has a {rule} of its own"
    if cell.calls_conv:
        return "its convolution has hooks or is not the one it was built with"
    if cell.attention is not None:
        return "it has no attention"
    if not getattr(cell, "reset_after", True):
        return "it has no reset gate before the convolution"
    if any(activation not in NAMES for activation in activations_of(cell)):
        return "it has the activations that go by a name"
    return None


def refusal(cell: Any, x: Tensor, state: Any) -> str | None:
    """Why this engine does not serve a call to a cell that it knows, or None if it does."""
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        return "the call is being exported or traced"
    if torch._C._functorch.get_dynamic_layer_stack_depth() > 0:
        return "the call is inside a transform of torch.func"
    if torch.autograd.forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    if x.device.type not in ("cpu", "cuda"):
        return f"it runs on cpu and cuda, not on {x.device.type}"
    tensors = [t for t in (x, *state, cell.conv.weight, cell.conv.bias, extra_of(cell)) if t is not None]
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return "it takes plain tensors, no subclasses"
    if not all(t.is_floating_point() for t in tensors) or len({t.device for t in tensors}) > 1:
        return "it takes real tensors on one device"
    if len({t.dtype for t in tensors}) > 1 and not torch.is_autocast_enabled(x.device.type):
        return "dtypes differ outside autocast"
    if any(t.shape != (x.shape[0], cell.hidden_dim, *x.shape[3:]) for t in state):
        return "the state has another shape than the frames"
    return None


def has_own_forward(cell: Cell) -> bool:
    """True if a cell's class or the cell itself overrides `Cell.forward`."""
    return "forward" in vars(cell) or type(cell).forward is not Cell.forward


def has_hooks(cell: nn.Module) -> bool:
    """Whether somebody listens to calls of a cell."""
    own = (cell._forward_hooks, cell._forward_pre_hooks, cell._backward_hooks, cell._backward_pre_hooks)
    return any(own)


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
    fresh: bool = False,
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
        fresh: whether the state is the cell's own initial one, zero.
        compiled: whether to use compiled kernels where there are any.
        save: one of `SAVES`.
    """
    cell.check_size(x.shape[3:])
    flat = x.ndim == 4
    traced = torch.compiler.is_compiling()
    request = request_of(cell, x, state, compiled, reverse, last_only, inner and not traced, fresh)
    tensors = tensors_of(cell, x, state)
    if traced:
        outputs, ends = custom_op.run(request, save, Given.of((valid, starts, *tensors)))
        return _finished(outputs, ends, flat, last_only, request.family)
    plan = plan_of(request, tensors[0], cell.hidden_dim, save)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        outputs, *ends = _Sequence.apply(plan, valid, starts, *tensors)  # type: ignore[no-untyped-call]
    else:
        given = Given.of((valid, starts, *tensors))
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            recording = recorded(plan, given, None)
            outputs, ends, _ = recording.forward(given) if recording else forward(plan, given, keep=False)
    return _finished(outputs, ends, flat, last_only, request.family)


def _finished(outputs: Any, ends: Any, flat: bool, last_only: bool, family: str) -> tuple[Tensor, Any]:
    if flat:
        outputs, ends = None if outputs is None else outputs.squeeze(-2), [t.squeeze(-2) for t in ends]
    kind = LSTMState if family == "lstm" else GRUState
    return ends[0].unsqueeze(1).clone() if last_only else outputs, kind(*ends)


class _Sequence(torch.autograd.Function):
    """`convlstm.engines.forward` for autograd."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Any) -> Any:
        given = Given.of(tensors)
        # After the plan come two tensors of flags, then x, the weight and its bias.
        ctx.plan, ctx.needed = plan, (*ctx.needs_input_grad[3:6], any(ctx.needs_input_grad[7:]))
        ctx.set_materialize_grads(False)
        with torch.autocast(given.x.device.type, enabled=False):
            ctx.recording = recorded(plan, given, ctx.needed)
            if ctx.recording:
                outputs, ends, token = ctx.recording.forward(given)
                ctx.save_for_backward(token, *tensors)
            else:
                outputs, ends, kept = forward(plan, given, keep=True)
                assert kept is not None
                ctx.save_for_backward(*kept, *tensors)
        return outputs, *ends

    @staticmethod
    def backward(ctx: Any, d_outputs: Any, *d_ends: Any) -> Any:
        saved = ctx.saved_tensors
        tensors = saved[1 if ctx.recording else 3 :]
        given = Given.of(tensors)
        with torch.no_grad(), torch.autocast(given.x.device.type, enabled=False):
            if ctx.recording:
                gradients = ctx.recording.backward(d_outputs, d_ends)
            else:
                gradients = Backward(ctx.plan, given, Kept(*saved[:3]), ctx.needed).run(d_outputs, d_ends)
        *others, states = gradients
        found = zip((*others, *states), tensors[2:], ctx.needs_input_grad[3:], strict=True)
        results = [d.to(t.dtype) if wanted and d is not None else None for d, t, wanted in found]
        if torch.is_grad_enabled():  # create_graph=True
            results = [None if d is None else _Once.apply(d, *tensors[2:4]) for d in results]  # type: ignore[no-untyped-call]
        return None, None, None, *results


class _Once(torch.autograd.Function):
    """A gradient that depends on the inputs in a way that nobody wrote down."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return custom_op.refuse_second_derivative(ctx, *gradients)
