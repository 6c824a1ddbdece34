"""A call of a cell: its frames, state and options."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

#: What is saved for the backward pass: the pre-activations, or the state alone, from which they are computed.
SAVES = ("auto", "gates", "state")


@dataclass  # frozen, it would take a microsecond more
class Call:
    """A cell over a sequence of frames.

    Attributes:
        cell: the recurrence.
        x: (B, T, C, *S), zero where missing.
        state: before the first step.
        mask: (B, T) bool, which frames are present; None for all. Missing ones leave the state unchanged.
        reset: (B, T) bool, frames before which the state is reset to zero, in the order of computation; None
            for none.
        reverse: run from the last frame to the first.
        last_only: return only the output of the last step, as T = 1.
        any_layout: outputs are read by another layer only, and may have any memory layout and 16 bits.
        zero_state: the state is zero.
        save: what is saved for the backward pass, one of `SAVES`.
        reference_only: options in use that only the reference supports, by name.
    """

    cell: Any
    x: Tensor
    state: Any
    mask: Tensor | None = None
    reset: Tensor | None = None
    reverse: bool = False
    last_only: bool = False
    any_layout: bool = False
    zero_state: bool = False
    save: str = "auto"
    reference_only: tuple[str, ...] = ()

    def segment(self, begin: int, x: Tensor, state: Any) -> "Call":
        """The call for a part of the frames, of which the first is frame ``begin``, from a given state."""
        length, steps = x.shape[1], self.x.shape[1]
        if length == steps:
            return self if x is self.x else replace(self, x=x, state=state)
        zero_state = self.zero_state and (begin + length == steps if self.reverse else begin == 0)
        mask, reset = (None if f is None else f[:, begin : begin + length] for f in (self.mask, self.reset))
        return replace(self, x=x, state=state, mask=mask, reset=reset, zero_state=zero_state)
