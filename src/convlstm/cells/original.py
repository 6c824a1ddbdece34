"""The single-file ConvLSTM's older constructor, static helpers and pickles, as its users' code has them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn

from convlstm.errors import OptionError, RunError

Constructor = TypeVar("Constructor", bound=Callable[..., None])


def takes_no_input_size(constructor: Constructor) -> Constructor:
    """Decorate a constructor to refuse the older (input_size, input_dim, hidden_dim, ...) in words."""
    parameters = inspect.signature(constructor).parameters.values()
    most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) - 1

    @functools.wraps(constructor)
    def checked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        # By position: a size first, a kernel in fourth place, a number of layers in fifth; or one too many.
        first, _, _, fourth, fifth = (*args, *(None,) * 5)[:5]
        pairs = isinstance(first, (tuple, list)) or isinstance(fourth, (tuple, list))
        if "input_size" in kwargs or pairs or fifth not in (None, False, True) or len(args) > most:
            refuse_input_size(type(self))
        constructor(self, *args, **kwargs)

    return cast(Constructor, checked)


def refuse_input_size(kind: type) -> None:
    """Refuse the size of the frames as an argument.

    Raises:
        OptionError: always.
    """
    raise OptionError(
        "sizes are read from the frames, and arguments begin with input_dim, hidden_dim, kernel_size; "
        f"received a {kind.__name__} in the older form (input_size, input_dim, ...): leave input_size out"
    )


def check_built(module: nn.Module, attribute: str) -> None:
    """Check that a module was made by its constructor here, and not unpickled from the original's class.

    Args:
        module: a layer or a cell.
        attribute: one that the constructor sets, and the original does not.

    Raises:
        RunError: a pickle of the original under the name of a class of ours.
    """
    if attribute not in module.__dict__:
        name = type(module).__name__
        raise RunError(
            f"a {name} must have been built by its constructor; received one unpickled from another "
            f"implementation's {name}, of which only the weights fit: build a {name} and pass the other's "
            "state_dict() to its load_state_dict"
        )


class OriginalHelpers:
    """The static helpers of the original's ConvLSTM, for subclasses that call them."""

    @staticmethod
    def _extend_for_multilayer(param: Any, num_layers: int) -> Any:
        """A list as it is, anything else once for each layer."""
        return param if isinstance(param, list) else [param] * num_layers

    @staticmethod
    def _check_kernel_size_consistency(kernel_size: Any) -> None:
        """Refuse what is neither a tuple nor a list of tuples; the constructor here takes more."""
        lists = isinstance(kernel_size, list) and all(isinstance(kernel, tuple) for kernel in kernel_size)
        if not (isinstance(kernel_size, tuple) or lists):
            raise OptionError(f"kernel_size must be a tuple or a list of tuples; received {kernel_size!r}")
