"""The arguments of a constructor as plain data, so that what was built can be built again."""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from convlstm.errors import RunError, check_name


class RemembersArguments:
    """A class whose instances know what they were built from."""

    _arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the constructor's arguments wherever a class is described, not those of ``__new__``."""
        super().__init_subclass__(**kwargs)
        signature, _ = _signatures(cls)
        cls.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments before the constructor sees them.

        Raises:
            OptionError: a keyword that the constructor does not have, with the nearest that it has.
        """
        self = super().__new__(cls)
        signature, below = _signatures(cls)
        _, *known = signature.parameters.values()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known):
            for name in kwargs:
                cls._check_argument(name, [p.name for p in known if p.kind is not p.VAR_POSITIONAL])
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return self  # the constructor will say what is wrong; unpickling restores the attribute itself
        bound.apply_defaults()
        arguments = {name: copy(value) for name, value in list(bound.arguments.items())[1:]}
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name)
            elif parameter.kind is parameter.VAR_POSITIONAL:  # handed on to the constructor below
                arguments |= dict(zip(below, arguments.pop(name), strict=False))
        self.__dict__["_arguments"] = arguments
        return self

    @classmethod
    def _check_argument(cls, name: str, known: list[str]) -> None:
        """Check that the constructor has an argument of a name."""
        check_name(name, known, f"an argument of {cls.__name__}")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments, with the defaults that it names, as plain data; classes by their path.

        ``cls.rebuild(hyperparameters)`` gives the same architecture again.

        Raises:
            RunError: an argument that cannot be written down, such as a lambda or a module.
        """
        return {name: describe(value) for name, value in self._arguments.items()}


def _signatures(kind: type) -> tuple[inspect.Signature, list[str]]:
    """Of the constructor, and the arguments by position of the one that it hands its ``*args`` on to."""
    signatures = [
        inspect.signature(vars(base)["__init__"]) for base in kind.__mro__ if "__init__" in vars(base)
    ]
    named = [s for s in signatures if all(p.kind is not p.VAR_POSITIONAL for p in s.parameters.values())]
    return signatures[0], list(named[0].parameters)[1:] if named else []


def copy(value: Any) -> Any:
    """A list or dictionary of its own, which the caller cannot change; anything else as it is."""
    return value.copy() if isinstance(value, list | dict) else value


def describe(value: Any) -> Any:
    """A class, function or `functools.partial` as plain data; lists are walked, the rest stays as it is."""
    if isinstance(value, partial):
        if value.args:
            raise RunError(f"a factory that is saved must be a partial with keywords only; received {value}")
        return {
            "class": path_of(value.func),
            "arguments": {k: describe(v) for k, v in value.keywords.items()},
        }
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, nn.Module):
        raise RunError(
            f"an argument that is saved must be plain data or a class; received a {type(value).__name__} "
            "object: give its class, or a functools.partial of it"
        )
    if isinstance(value, np.generic):  # a number of numpy's
        return value.item()
    return {"class": path_of(value)} if callable(value) else value


def resolve(value: Any) -> Any:
    """The inverse of `describe`.

    Raises:
        RunError: a class that cannot be imported, or a function that builds no part of a model.
    """
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if not isinstance(value, dict) or "class" not in value:
        return value
    module, _, name = value["class"].rpartition(".")
    own = module not in _IMPORTED_HERE and module in sys.modules
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RunError(
            f"the classes a model is made of must be importable; {value['class']} gave '{error}': "
            "run where that module can be found (PYTHONPATH)"
        ) from error
    if not own:
        _IMPORTED_HERE.add(module)
    if not _builds_models(found, module, own):
        if not own:  # so that whoever imports it after reading this has imported it
            _IMPORTED_HERE.discard(module)
            sys.modules.pop(module, None)
        raise RunError(
            "a model must be made of modules and of functions of torch, or of a file of yours "
            f"that is imported already; received {value['class']}: import that file, or make it an nn.Module"
        )
    arguments = {k: resolve(v) for k, v in value.get("arguments", {}).items()}
    return partial(found, **arguments) if arguments else found


#: Modules that were imported because a file named them.
_IMPORTED_HERE: set[str] = set()


def _builds_models(found: Any, module: str, own: bool) -> bool:
    """Whether something named in a file that may be a stranger's can be called.

    Args:
        found: what it names.
        module: where.
        own: whether the program had imported that module by itself.
    """
    if isinstance(found, type) and issubclass(found, nn.Module):
        return True
    home = module.partition(".")[0]
    if home == "torch":  # not `torch.load`, which is written in Python
        return module == "torch.nn.functional" or (
            module in ("torch", "torch.special", "torch._C._special") and inspect.isbuiltin(found)
        )
    written: str = getattr(found, "__module__", None) or ""
    if home == "convlstm":
        return written.startswith(("convlstm.cells.", "convlstm.functional.", "convlstm.models."))
    # What others wrote and installed may do anything; who wrote a file beside the program knows what it does.
    place = Path(getattr(sys.modules[module], "__file__", None) or sys.prefix).parts
    installed = {"site-packages", "dist-packages"} & set(place) or home in sys.stdlib_module_names
    return own and not installed and written.partition(".")[0] == home


def path_of(thing: Any) -> str:
    """The shortest dotted path under which a class or function can be imported, so that files may move.

    Raises:
        RunError: a lambda, or something defined inside a function.
    """
    name = thing.__qualname__.removeprefix("_VariableFunctionsClass.")  # as torch's own functions are called
    if "<" in name:
        raise RunError(
            f"a class that is saved must be importable by name; received {thing.__module__}.{name}: define "
            "it in a module"
        )
    parts = thing.__module__.split(".")
    homes = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return next(f"{home}.{name}" for home in homes if getattr(sys.modules.get(home), name, None) is thing)
