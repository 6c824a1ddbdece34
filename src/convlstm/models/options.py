"""Options that several forecasters have."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convlstm.errors import OptionError
from convlstm.validation import received

#: Activations of the last convolution of a forecaster.
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda y: y,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


def check_list(value: Any, name: str) -> Sequence[Any]:
    """The value of an option that has an entry for each layer or level.

    Raises:
        OptionError: anything but a list or a tuple.
    """
    if not isinstance(value, (list, tuple)):
        raise OptionError(
            f"{name} must hold an entry for each layer or level; received {received(value)}: give a list"
        )
    return value


def check_widths(hidden_dim: Any, each: str = "layer") -> list[int]:
    """The channels of each layer or level, as a list.

    Raises:
        OptionError: anything but a list with one entry at least.
    """
    if not isinstance(hidden_dim, Sequence) or isinstance(hidden_dim, str) or not hidden_dim:
        raise OptionError(
            f"hidden_dim must hold the channels of each {each}; received {received(hidden_dim)}: one {each} "
            "is [64]"
        )
    return list(hidden_dim)


def equal_widths(hidden_dim: Sequence[int]) -> list[int]:
    """Channels of layers that share a spatiotemporal memory.

    Raises:
        OptionError: anything but a list of equal numbers.
    """
    if not isinstance(hidden_dim, Sequence) or len(set(hidden_dim)) != 1:
        raise OptionError(
            "hidden_dim must hold the same number for each layer, as all share the spatiotemporal memory; "
            f"received {hidden_dim!r}: four layers are [64, 64, 64, 64]"
        )
    return list(hidden_dim)
