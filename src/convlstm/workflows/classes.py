"""Classes by their names: those that the user wrote, and which class an argument takes."""

import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args, get_origin

import torch
from torch import nn

from convlstm.data.base import Source
from convlstm.errors import OptionError
from convlstm.models.base import Forecaster
from convlstm.trust import Trust, is_dotted

_FRAMES = (".npy", ".npz", ".gif", ".png", ".jpg", ".tif", ".tiff", ".mp4", ".nc", ".h5", ".hdf5", ".zarr")
_HOMES = ("convlstm", "convlstm.data", "convlstm.models", "convlstm.cells")


#: Gives the class or function under a dotted path, called as `Trust.find`.
Find = Callable[..., Any]


def our_class(name: str, kind: Any = object) -> Any:
    """The class of this package of a name without dots; None if there is none."""
    return next(
        (
            found
            for home in _HOMES
            if isinstance(found := getattr(import_module(home), name, None), type) and issubclass(found, kind)
        ),
        None,
    )


def import_named(path: Any, kind: Any = object, *, functions: bool = True, option: str = "") -> Any:
    """The class under a dotted path that the user wrote, or of a short name of ours.

    Args:
        path: such as ``my_package.MyModel``.
        kind: the class that it must be a subclass of.
        functions: whether it may also be a function.
        option: name of the option, to open messages.

    Raises:
        OptionError: it cannot be imported, or is something else.
    """
    wanted = kind.__name__ if kind in (Source, Forecaster) else "class"
    rule = f"{option or 'a class in the configuration'} must be the dotted path of a {wanted}"
    module, _, name = str(path).rpartition(".")
    if os.path.exists(str(path)) or str(path).lower().endswith(_FRAMES):
        raise OptionError(
            f"{rule}; received {str(path)!r}, which is a file of frames: write a class that reads it "
            f"(docs/guide.md, Your own frames) and give {option} my_module.MyClass {option}.path {path}; "
            f"images of objects that move are given by {option}.images"
        )
    if not is_dotted(str(path)):
        raise OptionError(f"{rule}; received {str(path)[:100]!r}: write module.Name")
    if not module:
        if found := our_class(name, kind):
            return found
        names = {name for home in _HOMES for name in dir(import_module(home)) if our_class(name, kind)}
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "write module.Name"
        raise OptionError(f"{rule}; received {path!r}: {hint}")
    try:
        ours = f"{module}.".startswith("convlstm.")  # which may have another name today
        found = Trust().find(str(path), (nn.Module, Source)) if ours else getattr(import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise OptionError(
            f"{rule}; importing {path!r} gave '{type(error).__name__}: {error}': check the spelling, or run "
            "where it can be found"
        ) from error
    if isinstance(found, type) and issubclass(found, kind) and not inspect.isabstract(found):
        return found
    if isinstance(found, type):
        hint = "abstract: give a class derived from it" if issubclass(found, kind) else "none: derive it"
        raise OptionError(f"{rule}; received {path!r}, which is {hint} from {wanted}")
    # A function of the interpreter's makes none of our objects, whatever it would do when called.
    if not functions or not inspect.isroutine(found) or inspect.isbuiltin(found):
        raise OptionError(f"{rule}; received {path!r}, which holds {found!r}")
    return found


def kind_of(part: str) -> type:
    """The base class of a part of a run."""
    if part == "callbacks":
        from convlstm.training.processes import Callback

        return Callback
    kinds = {"data": Source, "model": Forecaster, "optimizer": torch.optim.Optimizer}
    return kinds.get(part, torch.optim.lr_scheduler.LRScheduler)


def takes_class(hint: Any) -> bool:
    """True if an argument of this type may be a class, a function or an object of a class."""
    if get_origin(hint) in (Callable, type):
        return True
    plain = ("builtins", "pathlib", "os", "types", "typing", "collections.abc")
    return any(map(takes_class, get_args(hint))) or (isinstance(hint, type) and hint.__module__ not in plain)


def is_importable(path: str) -> bool:
    """True for the path of something in a module; a file's name, such as weights.npy, is none."""
    root, dot, _ = path.partition(".")
    return bool(dot) and is_dotted(path) and (root in sys.modules or find_spec(root) is not None)
