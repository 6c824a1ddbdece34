"""A layer over a whole sequence as one function with its own gradient, in eager mode and under torch.compile.

The cell state has at least 32 bits whatever the convolutions have. Outputs have the reference's memory layout
and do not alias internal buffers: they may be changed in place.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import convlstm.engines.linear as linear
from convlstm.engines.backward import backward
from convlstm.engines.call import Call
from convlstm.engines.cuda_graphs import get_graphed_call
from convlstm.engines.forward import forward
from convlstm.engines.plan import Inputs, Plan, arguments_of, make_plan
from convlstm.errors import OptionError


def run(call: Call, engine: str) -> tuple[Tensor, Any]:
    """Outputs (B, T, hidden_dim, *S) and the state after the last step.

    Args:
        call: one that the fast engines support.
        engine: ``fused``, or ``compiled``, which uses compiled kernels where there are any.
    """
    if linear.rule_of(call.cell) is not None:
        return linear.run(call, engine)
    call.cell.check_size(call.x.shape[3:])
    arguments, inputs = arguments_of(call, engine == "compiled")
    tensors = inputs.tensors()
    for_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if torch.compiler.is_compiling():
        operator = torch.ops.convlstm.sequence.default
        results = operator(*inputs.arguments(), *arguments, for_backward)
    elif for_backward:
        results = SequenceFunction.apply(make_plan(*arguments), False, *tensors)  # type: ignore[no-untyped-call]
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


class SequenceFunction(torch.autograd.Function):
    """`convlstm.engines.forward` with the gradients of `convlstm.engines.backward`.

    Arguments: the plan, True to compute by the operators of `convlstm.engines.custom_op`, `Inputs.tensors`.
    Results: the outputs, unless ``last_only``; the state; with operators also the saved tensors.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, operators: bool, *tensors: Any) -> tuple[Tensor, ...]:
        """The results, by a CUDA graph where one is captured."""
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
        """Gradients of the tensors, which cannot be differentiated again."""
        plan, needed, gradients = ctx.plan, ctx.needed, gradients[: ctx.count]
        if any(d is not None and _is_batched(d) for d in gradients):
            raise OptionError(
                "a layer's gradients are computed for one vector at a time by engine='fused' and "
                "engine='compiled', which received several (is_grads_batched=True, vectorize=True): build it "
                "with engine='reference'"
            )
        saved = ctx.saved_tensors
        first = len(saved) - len(needed) - 2  # mask and reset have no gradient
        # Hooks that keep saved tensors elsewhere or in fewer bits may return them in another memory layout.
        saved, tensors = [tensor.contiguous() for tensor in saved[:first]], saved[first:]
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


def _is_batched(gradient: Tensor) -> bool:
    """True inside `torch.vmap`, or inside the one that autograd has of its own."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(gradient) or functorch.is_legacy_batchedtensor(gradient)


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
