"""Recurrences that are linear in their state, `LinearCell`: all frames of a call by a scan over time.

As operators of torch, opaque to torch.compile, with a file of kernels per back end; `linear_states` is the
same in torch's operations. States are computed in float32, those of a float64 cell in float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import convlstm.engines.config as config
import convlstm.engines.cpu.linear as cpu
import convlstm.engines.triton as triton
from convlstm.cells.base import check_projection
from convlstm.cells.linear import LinearCell, LinearState
from convlstm.cells.min_conv import MinConvCell
from convlstm.cells.overrides import are_replaced, methods_of
from convlstm.engines.call import Call
from convlstm.functional.linear_recurrence import RULES, linear_scan

# Methods of linear cells that decide which rule is theirs.
_STEP, _START = methods_of(LinearCell, "forward", "project", "step"), methods_of(LinearCell, "initial_state")
_COEFFICIENTS = methods_of(MinConvCell, "coefficients")


def rule_of(cell: nn.Module) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """A cell's rule, and the function of frames whose result it is applied to.

    None for a cell that is not linear or whose step is overridden.
    """
    if not isinstance(cell, LinearCell) or are_replaced(cell, _STEP):
        return None
    if isinstance(cell, MinConvCell) and not are_replaced(cell, _COEFFICIENTS):
        return cell.rule, cell.conv
    return "affine", cell.project


def is_supported(call: Call) -> bool:
    """True for a linear recurrence over several frames, with resets only to zeros; one frame is a step."""
    if rule_of(call.cell) is None or type(call.state) is not LinearState or call.x.shape[1] == 1:
        return False
    return call.reset is None or not are_replaced(call.cell, _START)


def run(call: Call, engine: str) -> tuple[Tensor, LinearState]:
    """See `convlstm.engines.run`."""
    rule, planes_of = rule_of(call.cell) or ("", nn.Identity())
    h, dtype, outputs = call.state.h, call.state.h.dtype, []
    frame_bytes = max(1, 8 * h.numel())  # of two planes
    limit = config.linear_chunk_bytes[h.device.type]
    length = max(1, limit // frame_bytes, min(4, 4 * limit // frame_bytes))
    # The gradient of `split` is one tensor; each of many slices has one of the size of all frames.
    chunks = list(enumerate(torch.split(call.x, length, dim=1)))
    for n, x in reversed(chunks) if call.reverse else chunks:
        frames = slice(n * length, n * length + x.shape[1])
        mask, reset = (None if flags is None else flags[:, frames] for flags in (call.mask, call.reset))
        planes = check_projection(call.cell, planes_of(x.flatten(0, 1)))
        planes = planes.view(*x.shape[:2], *planes.shape[1:])
        states, h = _scan(engine, planes, h, mask, reset, rule, call.reverse)
        outputs.append(h[:, None] if call.last_only else states)
    outputs = outputs[-1:] if call.last_only else outputs[::-1] if call.reverse else outputs
    if len(outputs) > 1:
        return torch.cat(outputs, dim=1).to(dtype), LinearState(h.to(dtype))
    # Outputs may be changed in place: the state, and what is saved for the backward pass, stay as they are.
    return outputs[0].to(dtype, copy=not call.any_layout), LinearState(h.to(dtype))


def _scan(engine: str, planes: Tensor, h: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """The states after each frame and after the last one of the computation."""
    compute = torch.promote_types(torch.promote_types(planes.dtype, h.dtype), torch.float32)
    h = h.to(compute)
    if engine != "compiled" or compute != torch.float32:
        return linear_states(planes, h, *others)
    narrow = planes.dtype == torch.float16 and planes.device.type == "cpu"
    planes = (planes.float() if narrow else planes).contiguous()
    states, last = torch.ops.convlstm.linear_scan.default(planes, h, *others)
    return states, last


def linear_states(
    planes: Tensor, h: Tensor, mask: Tensor | None, reset: Tensor | None, rule: str, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The states after each frame, and the last one of the computation; differentiable any number of times.

    Args:
        planes: (B, T, planes C, *S), of which the rule makes the coefficients.
        h: (B, C, *S), the state before the first step.
        mask: (B, T) bool, frames that are present; others leave the state unchanged.
        reset: (B, T) bool, frames before which the state is zero.
        rule: one of `convlstm.functional.linear_recurrence.RULES`.
        reverse: run from the last frame to the first.

    Returns:
        The states (B, T, C, *S) and the last one (B, C, *S), which does not hold on to the others.
    """
    pair = RULES[rule](planes.flatten(0, 1))
    a, b = (part.to(h.dtype).view(*planes.shape[:2], *h.shape[1:]) for part in pair)
    if mask is not None:
        present = mask[(..., *(None,) * (a.ndim - 2))]
        a, b = torch.where(present, a, 1), torch.where(present, b, 0)
    if reset is not None:
        a = torch.where(reset[(..., *(None,) * (a.ndim - 2))], 0, a)
    if reverse:
        states = linear_scan(a.flip(1), b.flip(1), h, forget=reset is not None)
        return states.flip(1), states[:, -1].clone()
    states = linear_scan(a, b, h, forget=reset is not None)
    return states, states[:, -1].clone()


def _forward(
    planes: Tensor, h: Tensor, mask: Tensor | None, reset: Tensor | None, rule: str, reverse: bool
) -> tuple[Tensor, Tensor]:
    """`linear_states` by kernels."""
    kernels = _kernels(planes)
    if kernels is None:
        states, last = linear_states(planes, h, mask, reset, rule, reverse)
        return states.contiguous(), last
    result: tuple[Tensor, Tensor] = kernels.forward(rule, planes, h.contiguous(), mask, reset, reverse)
    return result


def _backward(
    planes: Tensor,
    h: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
    rule: str,
    reverse: bool,
    states: Tensor,
    d_states: Tensor | None,
    d_last: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of planes and h from those of the results of `_forward`, of which None is zero."""
    d_states, d_last = (None if d is None else d.contiguous() for d in (d_states, d_last))
    kernels = _kernels(planes)
    if kernels is None:
        with torch.enable_grad():
            leaves = planes.detach().requires_grad_(), h.detach().requires_grad_()
            results = linear_states(*leaves, mask, reset, rule, reverse)
            d_planes, d_h = _gradients(results, leaves, (d_states, d_last))
        return d_planes.contiguous(), d_h.contiguous()
    flags = mask, reset, reverse
    result: tuple[Tensor, Tensor] = kernels.backward(
        rule, planes, h.contiguous(), *flags, states, d_states, d_last
    )
    return result


def _gradients(
    results: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor | None, ...],
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    pairs = [(y, d) for y, d in zip(results, gradients, strict=True) if d is not None]
    ys, ds = zip(*pairs, strict=True)
    return torch.autograd.grad(ys, inputs, ds, create_graph=create_graph)


def _kernels(planes: Tensor) -> Any:
    """The kernels for a device, with methods ``forward`` and ``backward``, or None."""
    return triton.linear_kernels() if planes.is_cuda else cpu.kernels()


class LinearScanFunction(torch.autograd.Function):
    """`_forward` with the gradients of `_backward`, or of `linear_states` where these are differentiated."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, h: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        """The states."""
        with torch._C._AutoDispatchBelowAutograd():
            states, last = torch.ops.convlstm.linear_scan.default(planes, h, *others)
        mask, reset, *ctx.rule = others
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(planes, h, mask, reset, states)
        return states, last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """Gradients of planes and h."""
        *inputs, mask, reset, states = ctx.saved_tensors
        others = mask, reset, *ctx.rule
        found: list[Tensor | None] = [None, None]
        if all(d is None for d in gradients):
            pass
        elif torch.is_grad_enabled():  # create_graph=True
            needed = [n for n in range(2) if ctx.needs_input_grad[n]]
            results = linear_states(*inputs, *others)
            some = tuple(inputs[n] for n in needed)
            for n, d in zip(needed, _gradients(results, some, gradients, create_graph=True), strict=True):
                found[n] = d
        else:
            found = [*torch.ops.convlstm.linear_scan_backward.default(*inputs, *others, states, *gradients)]
        return *found, *(None for _ in others)


_ARGUMENTS = "Tensor planes, Tensor h, Tensor? mask, Tensor? reset, str rule, bool reverse"
torch.library.define("convlstm::linear_scan", f"({_ARGUMENTS}) -> (Tensor, Tensor)")
torch.library.define(
    "convlstm::linear_scan_backward",
    f"({_ARGUMENTS}, Tensor states, Tensor? d_states, Tensor? d_last) -> (Tensor, Tensor)",
)
torch.library.impl("convlstm::linear_scan", "CompositeExplicitAutograd")(_forward)
torch.library.impl("convlstm::linear_scan_backward", "CompositeExplicitAutograd")(_backward)


@torch.library.impl("convlstm::linear_scan", "Autograd")
def _(*arguments: Any) -> Any:
    return LinearScanFunction.apply(*arguments)  # type: ignore[no-untyped-call]


@torch.library.register_fake("convlstm::linear_scan")  # type: ignore[untyped-decorator]
def _(planes: Tensor, h: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return h.new_empty(*planes.shape[:2], *h.shape[1:]), h.new_empty(h.shape)


@torch.library.register_fake("convlstm::linear_scan_backward")  # type: ignore[untyped-decorator]
def _(planes: Tensor, h: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return planes.new_empty(planes.shape), h.new_empty(h.shape)
