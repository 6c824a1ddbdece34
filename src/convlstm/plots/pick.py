"""Options of a recording: steps, channels and values to keep."""

from collections.abc import Iterable, Sequence
from typing import Any

from convlstm.errors import OptionError
from convlstm.validation import check_bool, check_positive, is_integer, received


class Pick:
    """The options of `record`, checked."""

    def __init__(self, steps: Any, channels: Any, values: Any, gradients: bool, limit: int) -> None:
        chosen = None if steps is None else _indices(steps, "steps")
        self.steps = frozenset(chosen) if isinstance(chosen, list) else chosen
        self.channels = None if channels is None else _indices(channels, "channels")
        self.values = None if values is None else checked_names(values, "values")
        self.gradients = check_bool(gradients, "gradients")
        self.limit = check_positive(limit, "limit")

    def has_step(self, step: int) -> bool:
        """True if a step is recorded."""
        return self.steps is None or step in self.steps


def ends(values: Sequence[int]) -> Sequence[int]:
    """Values that hold the greatest and the least: of a range, which may be too long for a list, two."""
    return [*values[:1], *values[-1:]] if isinstance(values, range) else values


def _indices(values: Any, what: str) -> list[int] | range:
    iterable = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    chosen = list(ends(values)) if iterable else []
    if not chosen or not all(is_integer(value) and value >= 0 for value in chosen):
        raise OptionError(
            f"{what} must be a range or a list of integers from 0 on, or None for all; received "
            f"{received(values)}: pass at least one, such as [0, 1]"
        )
    return values if isinstance(values, range) else [int(value) for value in chosen]


def checked_names(values: Any, what: str) -> list[str]:
    """Check names, and return them as a list.

    Raises:
        OptionError: no collection of names, or an empty one.
    """
    chosen = [] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if not chosen or not all(isinstance(value, str) for value in chosen):
        raise OptionError(
            f"{what} must be a list of names, or None for all; received {received(values)}: pass at least "
            "one, in a list"
        )
    return chosen
