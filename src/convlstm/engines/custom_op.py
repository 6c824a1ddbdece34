"""Operators of torch for a layer's sequence and its gradient, which are opaque to torch.compile."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.autograd import SequenceFunction
from convlstm.engines.backward import backward
from convlstm.engines.forward import forward
from convlstm.engines.plan import Inputs, Plan, make_plan

_INPUTS = (
    "Tensor? mask, Tensor? reset, Tensor x, Tensor weight, Tensor? bias, Tensor? parameter, Tensor[] state"
)
_TYPES: dict[Any, str] = {
    str: "str",
    bool: "bool",
    tuple[str, ...]: "str[]",
    tuple[int, ...]: "int[]",
    torch.dtype: "ScalarType",
    torch.device: "Device",
}
_PLAN = ", ".join(f"{_TYPES[field.type]} {field.name}" for field in fields(Plan))
# Outputs unless last_only, the state after the last step, and what the backward pass needs, if asked for.
torch.library.define("convlstm::sequence", f"({_INPUTS}, {_PLAN}, bool for_backward) -> Tensor[]")
# Gradients of x, weight, bias, parameter and state, those needed.
torch.library.define(
    "convlstm::sequence_backward",
    f"({_INPUTS}, {_PLAN}, Tensor?[] gradients, Tensor[] saved, bool[] needed) -> Tensor[]",
)


def _parsed(arguments: Sequence[Any]) -> tuple[Inputs, Plan, list[Any]]:
    """Inputs and plan of an operator's arguments, and the arguments that follow."""
    end = 7 + len(fields(Plan))
    plan = make_plan(*(tuple(a) if isinstance(a, list) else a for a in arguments[7:end]))
    return Inputs.of([*arguments[:6], *arguments[6]]), plan, [*arguments[end:]]


@torch.library.impl("convlstm::sequence", "CompositeExplicitAutograd")
def _(*arguments: Any) -> list[Tensor]:
    inputs, plan, (for_backward,) = _parsed(arguments)
    with torch.autocast(plan.device.type, enabled=False):
        outputs, state, saved = forward(plan, inputs, keep=for_backward)
    return [tensor for tensor in (outputs, *state, *(saved or ())) if tensor is not None]


@torch.library.register_fake("convlstm::sequence")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    inputs, plan, (for_backward,) = _parsed(arguments)
    x, hidden = inputs.x, inputs.state[-1].shape[1]
    (batch, steps), size = x.shape[:2], x.shape[3:]
    found = [] if plan.last_only else [x.new_empty(batch, steps, hidden, *size, dtype=plan.output_dtype)]
    found += [x.new_empty(batch, hidden, *size, dtype=plan.output_dtype) for _ in inputs.state]
    if for_backward:
        chunks = -(-steps // plan.chunk_length(inputs))
        found.append(x.new_empty(steps + 1, batch, *size, hidden, dtype=plan.compute_dtype))
        found.append(x.new_empty(chunks, batch, *size, hidden, dtype=plan.state_dtype))
        if plan.saves_gates(inputs):
            found.append(
                x.new_empty(steps, batch, *size, plan.saved_gates * hidden, dtype=plan.compute_dtype)
            )
    return found


@torch.library.impl("convlstm::sequence", "Autograd")
def _(*arguments: Any) -> list[Tensor]:
    inputs, plan, (for_backward,) = _parsed(arguments)
    if for_backward:
        return [*SequenceFunction.apply(plan, True, *inputs.tensors())]  # type: ignore[no-untyped-call]
    with torch._C._AutoDispatchBelowAutograd():
        found: list[Tensor] = torch.ops.convlstm.sequence.default(*arguments)
    return found


@torch.library.impl("convlstm::sequence_backward", "CompositeExplicitAutograd")
def _(*arguments: Any) -> list[Tensor]:
    inputs, plan, (gradients, saved, needed) = _parsed(arguments)
    with torch.autocast(plan.device.type, enabled=False):
        found = backward(plan, inputs, saved, needed, gradients)
    return [d.contiguous() for d in found if d is not None]


@torch.library.register_fake("convlstm::sequence_backward")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    inputs, _, (_, _, needed) = _parsed(arguments)
    found = zip(inputs.tensors()[2:], needed, strict=True)
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, wanted in found
        if tensor is not None and wanted
    ]
