"""Which engines there are, and which of them serves a call."""

import math
from typing import Any

import torch
from torch import Tensor, nn

import convlstm.engines.autograd as autograd
import convlstm.engines.cpu.compiler as compiler
import convlstm.engines.triton.launch as launch
from convlstm.cells.base import Cell
from convlstm.engines.convolution import is_narrow
from convlstm.errors import OptionError, check_name

#: ``reference``: the loop over time as it is written; ``fused``: `convlstm.engines.autograd` in torch's own
#: operations; ``compiled``: the same with kernels that a compiler makes when they are first needed; ``auto``:
#: the fastest that serves the call.
ENGINES = ("auto", "compiled", "fused", "reference")


def available() -> dict[str, str | None]:
    """For each engine None if it runs on this machine, or else the reason why it does not."""
    reasons = {f"on {device}": found() for device, found in _COMPILERS.items()}
    some = None in reasons.values()
    missing = None if some else "; ".join(f"{where} {reason}" for where, reason in reasons.items())
    return {"reference": None, "fused": None, "compiled": missing}


#: Numbers of the state, at all frames together, that are few.
_FEW, _FEW_ON_GPU = 1 << 16, 1 << 22

#: By device, why nothing can be compiled for it, or None.
_COMPILERS = {"cpu": compiler.unavailable, "cuda": launch.unavailable}


def _not_compiled(device: str) -> str | None:
    return _COMPILERS.get(device, compiler.unavailable)()


# As `torch.compiler.assume_constant_result` marks a function, which also imports torch._dynamo and with it
# sympy: that takes as long as to import torch.
_not_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


def select(engine: str, cell: nn.Module, x: Tensor, state: Any, special: dict[str, Any]) -> str:
    """The engine that runs a call: ``reference``, ``fused`` or ``compiled``.

    A cell of another family than the engines know keeps its own ``step`` under any engine: that is the
    reference. ``auto`` leaves float64 to the reference as well: who asks for that dtype checks numbers, and
    the reference can be differentiated twice.

    Args:
        engine: one of `ENGINES`.
        cell: the recurrence.
        x: (B, T, C, *S).
        state: before the first step.
        special: options by name that only the reference knows, as far as they are on.

    Raises:
        OptionError: an engine named that does not exist or cannot serve the call, with the reason.
    """
    if check_name(engine, ENGINES, "engine") == "reference":
        return engine
    other = autograd.other_cell(cell)
    reason = _refusal(engine, cell, x, state, special, other)
    if reason is not None and engine != "auto":
        raise OptionError(
            f"engine must be able to serve the call; received engine='{engine}', which cannot because "
            f"{reason}: use engine='auto'"
        )
    if reason is not None or other:
        return "reference"
    if engine == "auto" and x.dtype == torch.float64:
        return "reference"
    if engine == "auto":
        return "fused" if _not_compiled(x.device.type) else "compiled"
    return engine


def prefers_loop(cell: Any, x: Tensor, save: str) -> bool:
    """True where ``auto`` leaves a call of a layer with (B, T, C, *S) to the loop, which is done sooner.

    It depends on sizes, dtype and the processor, never on a measurement: a training run repeats bit for bit.

    - Few numbers. On a GPU: single frames whose gradients are wished, which no recording is replayed for.
    - Kernels above 3x3 in fp32 on a processor with AVX2 and no AVX-512 (`convolution.is_narrow`), unless
      ``save`` names what is kept, of which the loop knows nothing. Times the single-file original's speed,
      medians of five to nine interleaved, an AMD EPYC held to AVX2, one core, processor time:

      | forward, training | loop | fused | compiled |
      |---|---|---|---|
      | B8 T6 16-32 5x5 24x24 | 1.00, 1.04 | 0.77, 0.94 | 0.82, 0.98 |
      | B3 T8 3-48-48 3x3 48x80 | 1.01, 1.05 | 1.00, 0.99 | 1.13, 1.15 |
      | B1 T10 1-64 3x3 96x96 | 1.00, 1.06 | 1.06, 1.00 | 1.21, 1.15 |
    """
    if torch.compiler.is_compiling():
        return False
    numbers = x[:, :, 0].numel() * getattr(cell, "hidden_dim", 0)
    if x.device.type != "cpu":
        return x.shape[1] == 1 and torch.is_grad_enabled() and numbers <= _FEW_ON_GPU
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    taps = math.prod(getattr(cell, "kernel_size", ()))
    return numbers <= _FEW or (save == "auto" and taps > 9 and is_narrow(x.dtype, "cpu"))


def _refusal(
    engine: str, cell: nn.Module, x: Tensor, state: Any, special: dict[str, Any], other: str | None
) -> str | None:
    name = type(cell).__name__
    if engine == "compiled" and (missing := _not_compiled(x.device.type)):
        return missing
    if names := [option for option, value in special.items() if value]:
        return f"it has no {', '.join(names)}"
    if not isinstance(cell, Cell):
        return f"{name} is no convlstm.cells.Cell"
    if autograd.has_own_forward(cell):
        return f"{name} has a forward of its own"
    if autograd.has_hooks(cell):
        return f"{name} has hooks"
    return None if other else autograd.refusal(cell, x, state)
