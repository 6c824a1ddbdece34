"""A sequence as an operator of torch, which torch.compile takes as it is rather than look inside."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.backward import Backward
from convlstm.engines.call import Request, plan_of
from convlstm.engines.forward import Given, Kept, Plan, forward
from convlstm.errors import OptionError


def run(request: Request, save: str, given: Given) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Outputs and states at the end, differentiable once, as of `convlstm.engines.forward.forward`."""
    tensors = given.tensors()
    there = [tensor for tensor in tensors if tensor is not None]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in there)
    # An operator takes tensors, numbers and texts.
    values = [*request, save, tuple(tensor is not None for tensor in tensors)]
    text = ";".join(",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values)
    found = _forward(there, text, keep)
    ends = tuple(found[: len(given.states)])
    return (None if request.last_only else found[len(ends)]), ends


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[Request, str, list[bool]]:
    """What `run` wrote: the request, ``save``, and which of the tensors there are."""
    family, activations, dilation, modes, *values, save, there = text.split(";")
    dtypes = (getattr(torch, value.removeprefix("torch.")) for value in values[:3])
    device, *flags = values[3:]
    gate, candidate, output = activations.split(",")
    dilations = tuple(map(int, dilation.split(",")))
    bools = (flag == "True" for flag in flags)
    request = Request(  # type: ignore[call-arg]
        family, (gate, candidate, output), dilations, tuple(modes.split(",")), *dtypes, device, *bools
    )
    return request, save, [flag == "True" for flag in there.split(",")]


def _call(text: str, tensors: list[Tensor], *, fake: bool = False) -> tuple[Plan, Given]:
    """The plan and its tensors; for a fake one no kernel is tried out, which takes tensors with memory."""
    request, save, there = _parsed(text)
    request = request._replace(compiled=request.compiled and not fake)
    rest = iter(tensors)
    given = Given.of([next(rest) if found else None for found in there])
    return plan_of(request, given.x, given.states[-1].shape[1], save), given


@torch.library.custom_op("convlstm::sequence", mutates_args=())
def _forward(tensors: list[Tensor], text: str, keep: bool) -> list[Tensor]:
    """The states at the end, the outputs if there are any, and if wished what was kept."""
    plan, given = _call(text, tensors)
    with torch.autocast(given.x.device.type, enabled=False):
        outputs, ends, kept = forward(plan, given, keep=keep)
    return [tensor for tensor in (*ends, outputs, *(kept or ())) if tensor is not None]


@_forward.register_fake
def _(tensors: list[Tensor], text: str, keep: bool) -> list[Tensor]:
    plan, given = _call(text, tensors, fake=True)
    x, hidden = given.x, given.states[-1].shape[1]
    (batch, steps), size = x.shape[:2], x.shape[3:]
    found = [x.new_empty(batch, hidden, *size, dtype=plan.result) for _ in given.states]
    if not plan.last_only:
        found.append(x.new_empty(batch, steps, hidden, *size, dtype=plan.result))
    if keep:
        found.append(x.new_empty(steps + 1, batch, *size, hidden, dtype=plan.compute))
        found.append(x.new_empty(-(-steps // plan.chunk), batch, *size, hidden, dtype=plan.exact))
        if plan.keep_sums:
            found.append(x.new_empty(steps, batch, *size, plan.family.kept * hidden, dtype=plan.compute))
    return found


@torch.library.custom_op("convlstm::sequence_backward", mutates_args=())
def _backward(gradients: list[Tensor], kept: list[Tensor], tensors: list[Tensor], text: str) -> list[Tensor]:
    """The gradients of x, parameters and states, from those of the states at the end and of the outputs."""
    plan, given = _call(text, tensors)
    d_ends, d_outputs = gradients[: len(given.states)], gradients[len(given.states) :]
    held = Kept(kept[0], kept[1], kept[2] if len(kept) > 2 else None)
    with torch.autocast(given.x.device.type, enabled=False):
        whole = Backward(plan, given, held, (True, True, given.bias is not None, not plan.fresh))
        *others, states = whole.run(d_outputs[0] if d_outputs else None, d_ends)
    found = zip((*others, *states), given.tensors()[2:], strict=True)
    there = ((torch.zeros_like(t) if d is None else d, t) for d, t in found if t is not None)
    return [d.to(t.dtype).contiguous() for d, t in there]


@_backward.register_fake
def _(gradients: list[Tensor], kept: list[Tensor], tensors: list[Tensor], text: str) -> list[Tensor]:
    _, given = _call(text, tensors, fake=True)
    there = [tensor for tensor in given.tensors()[2:] if tensor is not None]
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in there]


def refuse_second_derivative(ctx: Any, *gradients: Any) -> Any:
    """The gradient of a gradient, which nobody wrote down.

    Raises:
        OptionError: always.
    """
    raise OptionError(
        "a layer is differentiated once by engine='fused' and engine='compiled', which received a second "
        "derivative: build it with engine='reference'"
    )


_backward.register_autograd(refuse_second_derivative)


def _keep_for_backward(ctx: Any, inputs: tuple[list[Tensor], str, bool], output: list[Tensor]) -> None:
    tensors, ctx.text, _ = inputs
    plan, given = _call(ctx.text, tensors, fake=True)
    ctx.results = len(given.states) + (not plan.last_only)
    ctx.given = len(tensors)
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, gradients: list[Tensor | None]) -> Any:
    tensors, output = ctx.saved_tensors[: ctx.given], ctx.saved_tensors[ctx.given :]
    pairs = zip(gradients[: ctx.results], output, strict=False)
    there = [torch.zeros_like(tensor) if d is None else d for d, tensor in pairs]
    found = _backward(there, list(output[ctx.results :]), list(tensors), ctx.text)
    return [None] * (ctx.given - len(found)) + found, None, None  # none for flags, which come first


_forward.register_autograd(_gradients, setup_context=_keep_for_backward)
