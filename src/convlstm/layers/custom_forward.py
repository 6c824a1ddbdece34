"""Calls of stacks whose ``forward`` or ``step`` a user has written."""

import inspect
from typing import Any

from torch import Tensor, nn

from convlstm.errors import OptionError


def takes_two(function: Any) -> bool:
    """True if a function can be called with two arguments by position: frames and states."""
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def state_by_keyword(forward: Any) -> bool:
    """True if a ``forward`` takes ``hidden_state`` elsewhere than in second place."""
    return any(
        p.name == "hidden_state" and (place != 1 or p.kind is p.KEYWORD_ONLY)
        for place, p in enumerate(inspect.signature(forward).parameters.values())
    )


def check_takes_state(module: Any) -> None:
    """Check that a module's ``forward`` takes states besides frames, or raise OptionError."""
    if not (takes_two(module.forward) or state_by_keyword(module.forward)):
        raise OptionError(
            "a stream passes states from call to call, which takes hidden_state; received a "
            f"{type(module).__name__} whose forward has no second argument: add hidden_state=None to it"
        )


def call_with_state(module: Any, frames: Tensor, state: Any) -> Any:
    """Call a module with an overridden ``forward``, with the state in the place where that takes it.

    One that takes none, as the original's, raises NotImplementedError, which becomes an OptionError.
    """
    try:
        if state_by_keyword(module.forward):
            return module(frames, hidden_state=state)
        return module(frames, state)
    except NotImplementedError as error:
        raise OptionError(
            "a step passes the state from call to call; the forward of a "
            f"{type(module).__name__} raised NotImplementedError: let it begin from hidden_state"
        ) from error


def single_output(module: nn.Module, result: Any, axis: int, ndim: int) -> Tensor:
    """The last layer's output of one frame, without the time axis, from the result of a call of the stack.

    The result is outputs (a list, or the last layer's alone), with ``ndim`` axes and time on ``axis``, and
    states; anything else raises OptionError.
    """
    outputs = result[0] if isinstance(result, tuple) and len(result) == 2 else None
    last = outputs[-1] if isinstance(outputs, (list, tuple)) and outputs else outputs
    if not isinstance(last, Tensor) or last.ndim != ndim or last.shape[axis] != 1:
        raise OptionError(
            f"a step needs a call that returns (outputs, states), outputs with one frame on axis {axis}; "
            f"the {type(module).__name__}'s forward returned {_described(result)}: return these, or override "
            "step"
        )
    return last.select(axis, 0)


def _described(result: Any) -> str:
    """Types and shapes of a result."""
    if isinstance(result, Tensor):
        return f"a tensor {tuple(result.shape)}"
    if isinstance(result, (list, tuple)):
        return f"a {type(result).__name__} of {', '.join(map(_described, result)) or 'nothing'}"
    return f"a {type(result).__name__}"
