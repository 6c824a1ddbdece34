"""A layer over a whole sequence as one function with its own gradient, in eager mode and under torch.compile.

The cell state has at least 32 bits whatever the convolutions have. Outputs have the reference's memory layout
and do not alias internal buffers: they may be changed in place.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from convlstm.engines.backward import backward
from convlstm.engines.call import Call
from convlstm.engines.cuda_graphs import get_graphed_call
from convlstm.engines.forward import forward
from convlstm.engines.plan import Inputs, Plan, inputs_of, make_plan, plan_arguments
from convlstm.engines.recurrences import recurrence_of
from convlstm.errors import OptionError


def is_supported(cell: nn.Module) -> bool:
    """True if the fast engines have the cell's recurrence with its options; else its own ``step`` runs."""
    recurrence = recurrence_of(cell)
    return recurrence is not None and not recurrence.not_supported_reasons(cell)


def not_supported_reasons(call: Call) -> list[str]:
    """Reasons why the fast engines cannot run a call of a cell that they support; empty if they can."""
    cell, x, reasons = call.cell, call.x, []
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        reasons.append("the call is being exported or traced")
    if torch._C._functorch.get_dynamic_layer_stack_depth() > 0:
        reasons.append("the call is inside a transform of torch.func")
    if torch.autograd.forward_ad._current_level >= 0:
        reasons.append("it has no derivatives in forward mode")
    if x.device.type not in ("cpu", "cuda"):
        reasons.append(f"it runs on cpu and cuda, not on {x.device.type}")
    parameter = cast(Any, recurrence_of(cell)).parameter(cell)
    tensors = [x, *call.state, cell.conv.weight, cell.conv.bias, parameter]
    tensors = [tensor for tensor in tensors if tensor is not None]
    if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
        reasons.append("it takes plain tensors, no subclasses")
    dtypes = {tensor.dtype for tensor in tensors}
    if not all(dtype.is_floating_point for dtype in dtypes) or len({t.device for t in tensors}) > 1:
        reasons.append("it takes real tensors on one device")
    if len(dtypes) > 1 and not torch.is_autocast_enabled(x.device.type):
        reasons.append("dtypes differ outside autocast")
    shape = (x.shape[0], cell.hidden_dim, *x.shape[3:])
    if any(tensor.shape != shape for tensor in call.state):
        reasons.append("the state has another shape than the frames")
    return reasons


def run(call: Call, engine: str) -> tuple[Tensor, Any]:
    """Outputs (B, T, hidden_dim, *S) and the state after the last step.

    Args:
        call: one for which `not_supported_reasons` is empty.
        engine: ``fused``, or ``compiled``, which uses compiled kernels where there are any.
    """
    call.cell.check_size(call.x.shape[3:])
    arguments, inputs = plan_arguments(call, engine == "compiled"), inputs_of(call)
    tensors = inputs.tensors()
    for_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if torch.compiler.is_compiling():
        operator = torch.ops.convlstm.sequence.default
        results = operator(*inputs.arguments(), *arguments, for_backward)
    elif for_backward:
        results = _Sequence.apply(make_plan(*arguments), False, *tensors)  # type: ignore[no-untyped-call]
    else:
        plan = make_plan(*arguments)
        with torch.no_grad(), torch.autocast(plan.device.type, enabled=False):
            graph = get_graphed_call(plan, inputs, None)
            outputs, state, _ = graph.forward(inputs) if graph else forward(plan, inputs, keep=False)
        results = state if outputs is None else (outputs, *state)
    if call.x.ndim == 4:
        results = [tensor.squeeze(-2) for tensor in results]
    first = 0 if call.last_only else 1
    state = call.cell.state_class(*results[first : first + len(inputs.state)])
    return state[0].unsqueeze(1).clone() if call.last_only else results[0], state


def sequence(plan: Plan, inputs: Inputs) -> list[Tensor]:
    """Results of the operator ``convlstm::sequence``, differentiable by ``convlstm::sequence_backward``."""
    return [*_Sequence.apply(plan, True, *inputs.tensors())]  # type: ignore[no-untyped-call]


class _Sequence(torch.autograd.Function):
    """`convlstm.engines.forward` with the gradients of `convlstm.engines.backward`.

    Arguments: the plan, True to compute by the operators of `convlstm.engines.custom_op`, `Inputs.tensors`.
    Results: the outputs, unless ``last_only``; the state; with operators also the saved tensors.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, operators: bool, *tensors: Any) -> tuple[Tensor, ...]:
        inputs, needed = Inputs.of(tensors), ctx.needs_input_grad[4:]
        count = len(inputs.state) + (not plan.last_only)
        ctx.plan, ctx.operators, ctx.graph, ctx.needed, ctx.count = plan, operators, None, needed, count
        ctx.set_materialize_grads(False)
        if operators:
            with torch._C._AutoDispatchBelowAutograd():
                operator = torch.ops.convlstm.sequence.default
                results = operator(*inputs.arguments(), *plan.arguments(), True)
            saved = results[count:]
            ctx.mark_non_differentiable(*saved)
        else:
            with torch.autocast(plan.device.type, enabled=False):
                ctx.graph = get_graphed_call(plan, inputs, needed)
                compute = ctx.graph.forward if ctx.graph else partial(forward, plan, keep=True)
                outputs, state, saved = compute(inputs)
            saved = [tensor for tensor in saved or () if tensor is not None]
            results = state if outputs is None else (outputs, *state)
        ctx.save_for_backward(*saved, *tensors)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        plan, needed, gradients = ctx.plan, ctx.needed, gradients[: ctx.count]
        saved = ctx.saved_tensors
        first = len(saved) - len(needed) - 2  # mask and reset have no gradient
        saved, tensors = saved[:first], saved[first:]
        inputs = Inputs.of(tensors)
        with torch.no_grad(), torch.autocast(plan.device.type, enabled=False):
            if ctx.operators:
                operator = torch.ops.convlstm.sequence_backward.default
                found = iter(operator(*inputs.arguments(), *plan.arguments(), gradients, saved, needed))
                results = [next(found) if wanted else None for wanted in needed]
            elif ctx.graph:
                results = ctx.graph.backward(gradients)
            else:
                results = backward(plan, inputs, saved, needed, gradients)
        if torch.is_grad_enabled():  # create_graph=True
            results = [None if d is None else _OnceDifferentiable.apply(d, *tensors[2:4]) for d in results]  # type: ignore[no-untyped-call]
        return None, None, None, None, *results


class _OnceDifferentiable(torch.autograd.Function):
    """A gradient without a derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise OptionError(
            "a layer is differentiated once by engine='fused' and engine='compiled', which received a second "
            "derivative: build it with engine='reference'"
        )
