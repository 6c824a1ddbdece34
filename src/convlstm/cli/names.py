"""Names that are typed: classes by their dotted path, the nearest known option, types in plain words."""

import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from inspect import isabstract
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from convlstm.errors import OptionError

# Where a name without dots is looked for.
_HOMES = ("convlstm", "convlstm.data", "convlstm.models", "convlstm.cells")


def import_class(path: Any, base: Any, option: str) -> Any:
    """The class, or a function that makes its instances, under a dotted path; a short name for one of ours.

    Args:
        path: such as ``my_package.MyModel``.
        base: what it has to be a subclass of; `object` for anything.
        option: where it was given, to open the message.

    Raises:
        OptionError: it cannot be imported, or is something else.
    """
    what = f"the dotted path of a {base.__name__}" if base is not object else "the dotted path of a class"
    module, _, name = str(path).rpartition(".")
    if not module:
        module = next((home for home in _HOMES if hasattr(import_module(home), name)), "")
    if not module:
        ours = [n for home in _HOMES for n, v in vars(import_module(home)).items() if _fits(v, base)]
        near = get_close_matches(str(path), ours, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"one of ours is {ours[0]}"
            if ours
            else "write module.Name"
        )
        raise OptionError(f"{option} must be {what}; received {path!r}: {hint}")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise OptionError(
            f"{option} must be {what}; importing {path!r} gave '{type(error).__name__}: {error}': check the "
            "spelling, or run where it can be found"
        ) from error
    if isinstance(found, type) and not _fits(found, base):
        reason = f"none: derive it from {base.__name__}"
        if issubclass(found, base):
            reason = "abstract: give a class derived from it"
        raise OptionError(f"{option} must be {what}; received {path!r}, which is {reason}")
    if not callable(found):
        raise OptionError(f"{option} must be {what}; received {path!r}, which holds {found!r}")
    return found


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that was most likely meant; ``canvas`` means ``data.canvas``."""
    known = list(dict.fromkeys(options))
    last = name.rpartition(".")[2]
    same = [option for option in known if option.rpartition(".")[2] == last]
    by_last = {option.rpartition(".")[2]: option for option in reversed(known)}
    near = same or get_close_matches(name, known, n=1, cutoff=0.7)
    if not near:
        near = [by_last[match] for match in get_close_matches(last, by_last, n=1, cutoff=0.7)]
    return near[0] if near else None


def type_in_words(hint: Any) -> str:
    """What values of a type look like, to follow ``must be``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is Callable or getattr(origin, "__name__", "") == "Callable":
        return "the dotted path of a class or function"
    if origin is not None and isinstance(origin, type) and issubclass(origin, list | tuple):
        return f"a list of {_many(arguments)}"
    if getattr(origin, "__name__", "") == "Sequence":
        return f"a list of {_many(arguments)}"
    if arguments:
        return " or ".join(dict.fromkeys(type_in_words(a) for a in arguments if _typeable(a)))
    if isinstance(hint, type) and issubclass(hint, os.PathLike):
        return "a path"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(hint, f"a {getattr(hint, '__name__', hint)}")


def placeholder(hint: Any) -> str:
    """What stands for a value of a type on a help page."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if getattr(origin, "__name__", "") == "Callable":
        return "CLASS"
    if getattr(origin, "__name__", "") == "Sequence" or origin in (list, tuple):
        inner = placeholder(arguments[0]) if arguments else "VALUE"
        return f"[{inner},{inner}]" if origin is tuple else f"[{inner},...]"
    if arguments:
        return "|".join(dict.fromkeys(placeholder(a) for a in arguments if _typeable(a)))
    if isinstance(hint, type) and issubclass(hint, os.PathLike):
        return "PATH"
    return {int: "N", float: "X", bool: "true|false", str: "NAME"}.get(hint, "VALUE")


def _typeable(hint: Any) -> bool:
    """Whether a value of this type can be typed."""
    return hint is not NoneType and "ndarray" not in str(hint)


def _many(arguments: tuple[Any, ...]) -> str:
    named: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}
    fixed = f"{len(arguments)} " if len(arguments) > 1 and Ellipsis not in arguments else ""
    first = arguments[0] if arguments else None
    example = " such as [8,16]" if first is int else ""
    return f"{fixed}{named.get(first, 'values')}{example}"


def _fits(value: Any, base: Any) -> bool:
    return isinstance(value, type) and issubclass(value, base) and not isabstract(value)
