"""Names that are typed: classes by their dotted path, the nearest known option, types in plain words."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from inspect import isabstract, isbuiltin, isroutine
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from convlstm.errors import OptionError
from convlstm.trust import is_dotted

# Where the types lie that no class is given for.
_PLAIN = ("typing", "builtins", "pathlib", "os", "types")
# Where a name without dots is looked for.
_FRAMES = (".npy", ".npz", ".gif", ".png", ".jpg", ".tif", ".tiff", ".mp4", ".nc", ".h5", ".hdf5", ".zarr")
_HOMES = ("convlstm", "convlstm.data", "convlstm.models", "convlstm.cells")


def import_class(path: Any, base: Any, option: str, *, function: bool = False) -> Any:
    """The class under a dotted path; a short name for one of ours.

    Args:
        path: such as ``my_package.MyModel``.
        base: what it has to be a subclass of; `object` for anything.
        option: where it was given, to open the message.
        function: take a function that makes instances as well.

    Raises:
        OptionError: it cannot be imported, or is something else.
    """
    what = f"the dotted path of a {base.__name__}" if base is not object else "the dotted path of a class"
    module, _, name = str(path).rpartition(".")
    if os.path.exists(str(path)) or str(path).lower().endswith(_FRAMES):
        raise OptionError(
            f"{option} must be {what}; received {str(path)!r}, which is a file of frames: write a class that "
            f"reads it (docs/guide.md, Your own frames) and give {option} my_module.MyClass {option}.path "
            f"{path}; images of objects that move are given by {option}.images"
        )
    if not is_dotted(str(path)):
        raise OptionError(f"{option} must be {what}; received {str(path)[:100]!r}: write module.Name")
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
    if isinstance(found, type):
        return found
    # A function of the interpreter's makes none of our objects, whatever it would do when called.
    own = isroutine(found) and not isbuiltin(found) and found.__module__ not in sys.stdlib_module_names
    if not (function and own):
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


def factory(hint: Any) -> tuple[int, Any]:
    """How many arguments a class that an option takes is called with, and its base; else (0, None)."""
    for option in (hint, *get_args(hint)):
        if get_origin(option) is Callable:
            arguments, made = get_args(option)
            # A forward reference that cannot be resolved says nothing about the class.
            base = made if isinstance(made, type) else object
            return len(arguments) if isinstance(arguments, list) else 0, base
        if isinstance(option, type) and option.__module__ not in _PLAIN:
            return 0, option
    return 0, None


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value of a file needs no conversion."""
    origin, arguments = get_origin(hint), get_args(hint)
    if str(hint) in ("typing.Any", "Untyped"):
        return not (isinstance(value, dict) and "class_path" in value)
    if origin in (Union, UnionType):
        return factory(hint)[1] is None and any(has_type(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(has_type(item, arguments[1]) for item in value.values())
    return type(value) is hint


def is_path(hint: Any) -> bool:
    """True if values of a type, or some of them, are paths."""
    kind = get_origin(hint) or hint
    return (isinstance(kind, type) and issubclass(kind, os.PathLike)) or any(map(is_path, get_args(hint)))


def is_text(hint: Any) -> bool:
    """Whether what is typed is text or a path, whatever it looks like."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    others = [option for option in options if option not in (str, NoneType)]
    return str in options and all("PathLike" in str(o) or "ndarray" in str(o) for o in others)


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


def plain_factory(value: Any) -> Any:
    """A class with some arguments set, as `functools.partial` writes it; jsonargparse wraps it in its own."""
    if isinstance(value, partial) and value.args and isinstance(value.args[-1], type):
        return partial(value.args[-1], **value.keywords) if value.keywords else value.args[-1]
    return value
