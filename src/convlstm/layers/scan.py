"""The only loop over time."""

from typing import Any

import torch
from torch import Tensor

from convlstm.cells.base import Cell


def scan(cell: Cell, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Run a cell over a sequence.

    The input's part of all steps is one call of `Cell.project`; what is left in the loop is `Cell.step`. A
    cell with hooks or a ``forward`` of its own is called step by step instead, so that these always run.

    Args:
        cell: the recurrence.
        x: (B, T, C, *S), T at least 1.
        state: the state before the first frame; None for the cell's initial one.

    Returns:
        The outputs (B, T, hidden_dim, *S) and the state after the last frame.
    """
    if state is None:
        state = cell.initial_state(x[:, 0])
    if _steps_are_enough(cell):
        projected = cell.project(x.flatten(0, 1))
        inputs, step = projected.view(*x.shape[:2], *projected.shape[1:]), cell.step
    else:
        inputs, step = x, cell.__call__
    outputs = []
    for p in inputs.unbind(1):
        state = step(p, state)
        outputs.append(state.h)
    return torch.stack(outputs, dim=1), state


def _steps_are_enough(cell: Cell) -> bool:
    """Whether `step` may be called directly: nobody listens to the cell's call or has written his own."""
    hooks = (cell._forward_hooks, cell._forward_pre_hooks, cell._backward_hooks, cell._backward_pre_hooks)
    return type(cell).forward is Cell.forward and not any(hooks)
