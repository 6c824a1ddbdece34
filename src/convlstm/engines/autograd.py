"""A layer over a whole sequence as one function with its gradient by hand.

It takes the cells of `convlstm.engines.families` with the arithmetic of `convlstm.engines.forward`. The
memory has at least 32 bits whatever the convolutions have. Outputs have the reference's layout, and are
nobody else's, so that whoever changes them in place does no harm.
"""

from typing import Any

import torch
from torch import Tensor, nn

import convlstm.engines.custom_op as custom_op
from convlstm.cells.convgru import ConvGRUCell, GRUState
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.engines.backward import Backward
from convlstm.engines.call import NAMES, Call, activations_of, extra_of, plan_of, request_of, tensors_of
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


def not_supported_reasons(call: Call) -> list[str]:
    """Reasons why the fast engines cannot run a call of a cell that they support; empty if they can."""
    cell, x = call.cell, call.x
    tensors = [x, *call.state, cell.conv.weight, cell.conv.bias, extra_of(cell)]
    tensors = [tensor for tensor in tensors if tensor is not None]
    reasons = []
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        reasons.append("the call is being exported or traced")
    if torch._C._functorch.get_dynamic_layer_stack_depth() > 0:
        reasons.append("the call is inside a transform of torch.func")
    if torch.autograd.forward_ad._current_level >= 0:
        reasons.append("it has no derivatives in forward mode")
    if x.device.type not in ("cpu", "cuda"):
        reasons.append(f"it runs on cpu and cuda, not on {x.device.type}")
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        reasons.append("it takes plain tensors, no subclasses")
    if not all(t.is_floating_point() for t in tensors) or len({t.device for t in tensors}) > 1:
        reasons.append("it takes real tensors on one device")
    if len({t.dtype for t in tensors}) > 1 and not torch.is_autocast_enabled(x.device.type):
        reasons.append("dtypes differ outside autocast")
    if any(t.shape != (x.shape[0], cell.hidden_dim, *x.shape[3:]) for t in call.state):
        reasons.append("the state has another shape than the frames")
    return reasons


def run(call: Call, engine: str) -> tuple[Tensor, Any]:
    """Outputs (B, T, hidden_dim, *S) and the state after the last step.

    Args:
        call: one for which `not_supported_reasons` is empty.
        engine: ``fused``, or ``compiled``, which uses compiled kernels where there are any.
    """
    call.cell.check_size(call.x.shape[3:])
    flat, last_only = call.x.ndim == 4, call.last_only
    request = request_of(call, engine == "compiled")
    tensors = tensors_of(call)
    given = Given.of((call.mask, call.reset, *tensors))
    if torch.compiler.is_compiling():
        outputs, ends = custom_op.run(request, call.save, given)
        return _finished(outputs, ends, flat, last_only, request.family)
    plan = plan_of(request, tensors[0], call.cell.hidden_dim, call.save)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        outputs, *ends = _Sequence.apply(plan, *given.tensors())  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad(), torch.autocast(call.x.device.type, enabled=False):
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
