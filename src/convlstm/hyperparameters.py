"""The arguments of a constructor as plain data, so that what was built can be built again."""

import inspect
import sys
from functools import partial
from itertools import accumulate
from typing import Any, Self

import numpy as np
from torch import nn

from convlstm.errors import RunError, check_name
from convlstm.trust import Trust


class StoresHyperparameters:
    """A class whose objects store the arguments of their constructor."""

    _convlstm_arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class the signature of its constructor, which that of ``__new__`` would hide."""
        super().__init_subclass__(**kwargs)
        signature, _ = _signatures(cls)
        cls.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Store the arguments before the constructor runs.

        Raises:
            OptionError: a keyword that the constructor does not have, with the nearest that it has.
        """
        self = super().__new__(cls)
        signature, of_base = _signatures(cls)
        _, *known = signature.parameters.values()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known):
            for name in kwargs:
                cls._check_argument(name, [p.name for p in known if p.kind is not p.VAR_POSITIONAL])
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return self  # the constructor raises the same; unpickling restores the attribute
        bound.apply_defaults()
        arguments = {name: copy_containers(value) for name, value in list(bound.arguments.items())[1:]}
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name)
            elif parameter.kind is parameter.VAR_POSITIONAL:  # passed on to the constructor of a base class
                arguments |= dict(zip(of_base, arguments.pop(name), strict=False))
        self.__dict__["_convlstm_arguments"] = arguments
        return self

    @classmethod
    def _check_argument(cls, name: str, known: list[str]) -> None:
        """Check that the constructor has an argument of a name."""
        check_name(name, known, f"an argument of {cls.__name__}")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments and defaults as plain data, from which ``cls.rebuild`` builds it again.

        Raises:
            RunError: an argument that cannot be written down, such as a lambda or a module.
        """
        return {name: describe(value) for name, value in self._convlstm_arguments.items()}


def _signatures(kind: type) -> tuple[inspect.Signature, list[str]]:
    """Signature of the constructor, and the names of the arguments to which it passes its ``*args`` on."""
    signatures = [
        inspect.signature(vars(base)["__init__"]) for base in kind.__mro__ if "__init__" in vars(base)
    ]
    named = [s for s in signatures if all(p.kind is not p.VAR_POSITIONAL for p in s.parameters.values())]
    return signatures[0], list(named[0].parameters)[1:] if named else []


def copy_containers(value: Any) -> Any:
    """Copy lists, tuples and dictionaries at any depth, but not what they hold."""
    if isinstance(value, dict):
        return {name: copy_containers(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(copy_containers, value))
    return value


def describe(value: Any) -> Any:
    """Convert an argument to data that JSON holds; `resolve` is the inverse.

    A class or function becomes ``{"class": path}``, a `functools.partial` has its ``arguments`` beside it, if
    any, a tuple becomes ``{"tuple": [...]}``; lists and dictionaries are converted item by item.

    Raises:
        RunError: an object that cannot be imported by name, a module, or a dictionary with other keys than
            text, or with the keys "class" or "tuple".
    """
    if isinstance(value, partial):
        if value.args:
            raise RunError(f"a factory that is saved must be a partial with keywords only; received {value}")
        arguments = {k: describe(v) for k, v in value.keywords.items()}
        return {"class": path_of(value.func)} | ({"arguments": arguments} if arguments else {})
    if isinstance(value, list | tuple):
        items = [describe(item) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or value.keys() & {"class", "tuple"}:
            raise RunError(
                "a dictionary that is saved must have keys that are text, and neither 'class' nor 'tuple'; "
                f"received {value}: name them otherwise"
            )
        return {name: describe(item) for name, item in value.items()}
    if isinstance(value, nn.Module):
        raise RunError(
            f"an argument that is saved must be plain data or a class; received a {type(value).__name__} "
            "object: give its class, or a functools.partial of it"
        )
    if isinstance(value, np.generic):  # a number of numpy's
        return value.item()
    return {"class": path_of(value)} if callable(value) else value


def resolve(value: Any, trust: Trust | None = None) -> Any:
    """Convert what `describe` returned to the argument.

    Args:
        value: plain data.
        trust: rules for the classes that it names; no package is trusted if None.

    Raises:
        RunError: a class or function that may not be loaded, cannot be imported, or is of another kind.
    """
    if isinstance(value, list):
        return [resolve(item, trust) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(resolve(item, trust) for item in value["tuple"])
    if "class" not in value:
        return {name: resolve(item, trust) for name, item in value.items()}
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict) or value.keys() - {"class", "arguments"}:
        raise RunError(f"a class must have arguments by name; received {str(value)[:200]}")
    found = (trust or Trust()).find(value["class"])
    arguments = {name: resolve(item, trust) for name, item in arguments.items()}
    return partial(found, **arguments) if arguments else found


def path_of(thing: Any) -> str:
    """Return the shortest dotted path by which a class or function is imported, so that files may move.

    The path of a class that was defined again under its name, as by running a cell of a notebook twice, means
    the newer definition.

    Raises:
        RunError: no name in a module: a lambda, an object, or a definition inside a function, a class or
            `exec`.
    """
    home, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if isinstance(home, str) and isinstance(name, str):
        name = name.removeprefix("_VariableFunctionsClass.")  # as torch's own functions are called
        for module in accumulate(home.split("."), "{}.{}".format):
            if getattr(sys.modules.get(module), name, None) is thing:
                return f"{module}.{name}"
        newer = getattr(sys.modules.get(home), name, None)
        if isinstance(newer, type) == isinstance(thing, type) and (home, name) == (
            getattr(newer, "__module__", None),
            getattr(newer, "__qualname__", None),
        ):
            return f"{home}.{name}"
    received = f"{home}.{name}" if isinstance(name, str) else repr(thing)
    raise RunError(
        f"a class that is saved must be importable by name; received {received}: define it at the top of a "
        "module, under that name"
    )
