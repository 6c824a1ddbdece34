"""Which engines there are, and which of them serves a call."""

from typing import Any

import torch
from torch import Tensor, nn

from convlstm.engines.fused import refusal
from convlstm.errors import OptionError, check_name

#: ``reference``: the loop over time as it is written; ``fused``: `convlstm.engines.fused`; ``auto``: the
#: fastest that serves the call.
ENGINES = ("auto", "fused", "reference")


def available() -> dict[str, str | None]:
    """For each engine None if it runs on this machine, or else the reason why it does not."""
    return {"reference": None, "fused": None}


def select(engine: str, cell: nn.Module, x: Tensor, state: Any, special: dict[str, Any]) -> str:
    """The engine that runs a call: ``reference`` or ``fused``.

    ``auto`` leaves float64 to the reference: who asks for that dtype checks numbers, and the reference can be
    differentiated twice.

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
    names = [name for name, value in special.items() if value]
    reason = f"it has no {', '.join(names)}" if names else refusal(cell, x, state)
    if reason is None:
        return "reference" if engine == "auto" and x.dtype == torch.float64 else "fused"
    if engine == "fused":
        raise OptionError(
            f"engine must be able to serve the call; received engine='fused', which cannot because {reason}: "
            "use engine='auto'"
        )
    return "reference"
