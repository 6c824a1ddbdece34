"""Activations by name, and their gradients, in torch's operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convlstm.functional.gates import ACTIVATIONS

#: Names of the activations that have kernels, by function.
NAMES = {function: name for name, function in ACTIVATIONS.items()}


def is_named(function: Any) -> bool:
    """True for one of `NAMES`; a user's need not be hashable, as an object of a dataclass."""
    try:
        return function in NAMES
    except TypeError:
        return False


def activation(name: str, x: Tensor) -> Tensor:
    """An activation at x, in a new tensor."""
    y = ACTIVATIONS[name](x)
    return y.clone() if y is x else y


def activation_backward(name: str, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of x from the gradient of y = activation(x)."""
    result: Tensor = _BACKWARD[name](gradient, x, y)
    return result


# The operators that autograd calls: autograd itself is disabled inside a custom operator.
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "sigmoid": lambda d, x, y: torch.ops.aten.sigmoid_backward(d, y),
    "hard_sigmoid": lambda d, x, y: torch.ops.aten.hardsigmoid_backward(d, x),
    "tanh": lambda d, x, y: torch.ops.aten.tanh_backward(d, y),
    "hard_tanh": lambda d, x, y: torch.ops.aten.hardtanh_backward(d, x, -1, 1),
    "relu": lambda d, x, y: torch.ops.aten.threshold_backward(d, y, 0),
    "leaky_relu": lambda d, x, y: torch.ops.aten.leaky_relu_backward(d, x, 0.01, False),
    "elu": lambda d, x, y: torch.ops.aten.elu_backward(d, 1, 1, 1, False, x),
    "silu": lambda d, x, y: torch.ops.aten.silu_backward(d, x),
    "gelu": lambda d, x, y: torch.ops.aten.gelu_backward(d, x),
    "softsign": lambda d, x, y: d * (1 - y.abs()).square(),
    "identity": lambda d, x, y: d,
}
