"""Hooks of a module, and methods of it that are replaced from outside."""

from collections.abc import Mapping
from typing import Any

import torch.nn.modules.module as nn_module
from torch import nn

from convlstm.cells.recordable import recorders_of


def has_hooks(module: nn.Module, *, recorders: bool = True) -> bool:
    """True if a module has forward or backward hooks; those of recorders count only if asked."""
    others = module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(others) or len(module._forward_hooks) > (0 if recorders else len(recorders_of(module)))


def methods_of(kind: type[nn.Module], *names: str) -> dict[str, Any]:
    """Methods of a class as they are now; kept from when the library was imported, for `are_replaced`."""
    return {name: getattr(kind, name) for name in names if hasattr(kind, name)}


def are_replaced(module: nn.Module, methods: Mapping[str, Any]) -> bool:
    """True if one of `methods_of` is overridden: by a subclass, on the module, or on the class itself."""
    kind, own = type(module), module.__dict__
    return any(name in own or getattr(kind, name, None) is not method for name, method in methods.items())


def all_modules_have_hooks() -> bool:
    """True if there are hooks of all modules, as `register_module_forward_hook` of torch makes them."""
    return bool(
        nn_module._global_forward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_backward_pre_hooks
        or nn_module._global_backward_hooks
    )
