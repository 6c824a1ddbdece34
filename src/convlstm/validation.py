"""Checks of single arguments for every folder: each returns the value or raises rule, value and remedy.

Public functions and constructors call them before any work, with the argument's ``value`` and its ``name``,
which opens the message. Checks of several arguments together stay with the function that takes these.
"""

import math
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from operator import ge, gt, le, lt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from convlstm.errors import OptionError, ShapeError

if TYPE_CHECKING:  # torch takes a second to import, and arguments of the command line are checked without
    from torch import Tensor, nn

Value = TypeVar("Value")

#: The largest size or count that an option may have unless a smaller limit is given.
LARGEST = 2**31 - 1


def received(value: object) -> str:
    """A value in an error message: short plain data as it is written, anything else by its class."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, bytes, Real, os.PathLike, list, tuple, dict, set)):
        shown = repr(value)
        if len(shown) <= 80 and "\n" not in shown:
            return shown
        if isinstance(value, (str, bytes, Real)):
            return f"{shown[:80]}..."
    return with_article(type(value).__name__)


def check_integer(value: Any, name: str, *, least: int | None = None, most: int | None = None) -> int:
    """An integer, of Python or numpy, between two limits (None for none) that are allowed; no bool."""
    if not is_integer(value):
        rule = "an integer" if least is None else f"an integer of at least {least}"
        raise OptionError(f"{name} must be {rule}; received {received(value)}: give a whole number")
    if least is not None and value < least:
        raise OptionError(f"{name} must be at least {least}; received {received(value)}: raise it")
    if most is not None and value > most:
        raise OptionError(f"{name} must be at most {most}; received {received(value)}: lower it")
    return int(value)


def check_positive(value: Any, name: str, *, most: int = LARGEST) -> int:
    """An integer of at least 1: sizes, channels, counts."""
    return check_integer(value, name, least=1, most=most)


def check_non_negative(value: Any, name: str, *, most: int = LARGEST) -> int:
    """An integer of at least 0: indices, numbers of workers."""
    return check_integer(value, name, least=0, most=most)


def check_seed(value: Any, name: str = "seed") -> int:
    """A seed: an integer from 0 to 2^63 - 1, which Python, numpy and torch all take."""
    return check_integer(value, name, least=0, most=2**63 - 1)


def check_integers(value: Any, length: int, name: str) -> tuple[int, ...]:
    """A tuple of integers of at least 1, one per space axis; a list, a tuple or a `torch.Size` is given."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != length:
        raise OptionError(
            f"{name} must have one entry per space axis ({length}); received {received(value)}: give a tuple"
        )
    if not all(is_integer(entry) and entry >= 1 for entry in value):
        raise OptionError(
            f"{name} must hold integers of at least 1; received {received(value)}: give whole numbers"
        )
    return tuple(int(entry) for entry in value)


def check_number(
    value: Any,
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """A finite real number within limits, of which ``least`` and ``most`` are allowed; no bool."""
    rules = (
        ("at least", least, ge),
        ("greater than", above, gt),
        ("at most", most, le),
        ("below", below, lt),
    )
    limits = [(words, limit, holds) for words, limit, holds in rules if limit is not None]
    rule = " and ".join(f"{words} {limit}" for words, limit, _ in limits) or "a finite number"
    if not is_number(value):
        raise OptionError(f"{name} must be {rule}; received {received(value)}: give a number")
    if not all(holds(float(value), limit) for _, limit, holds in limits):
        raise OptionError(f"{name} must be {rule}; received {received(value)}: give a number in that range")
    return float(value)


def check_probability(value: Any, name: str) -> float:
    """A number from 0 to 1."""
    return check_number(value, name, least=0, most=1)


def check_bool(value: Any, name: str) -> bool:
    """True or False, of Python or numpy; 0 and 1 as well."""
    if not (isinstance(value, Integral) or type(value).__name__ in ("bool", "bool_")) or value not in (0, 1):
        raise OptionError(f"{name} must be True or False; received {received(value)}: give one of these")
    return bool(value)


def check_path(value: Any, name: str) -> Path:
    """The path of a file or folder, from text or a path.

    Raises:
        OptionError: anything else, such as None, a number or bytes; an empty text, which would mean the
            current folder; a name that no system takes.
    """
    if isinstance(value, (str, os.PathLike)) and not os.fspath(value):
        raise OptionError(
            f"{name} must be a path; received an empty one, as an unset shell variable gives: write . for "
            "the current folder"
        )
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise OptionError(f"{name} must be a path; received {received(value)}: give text or a pathlib.Path")
    try:
        parts = os.fsencode(value).split(os.fsencode(os.sep))
    except UnicodeEncodeError:
        parts = [b"\0"]
    if any(b"\0" in part or len(part) > 255 for part in parts) or len(parts) > 500:
        raise OptionError(
            f"{name} must be a path that the system takes: at most 500 folders, names of at most 255 "
            f"bytes, no null characters; received {received(os.fspath(value))}: shorten or correct it"
        )
    return Path(value)


def check_instance(
    value: Any, kind: type[Value] | tuple[type[Value], ...], name: str, remedy: str = ""
) -> Value:
    """An object of a class or of one of several, not the class itself.

    The remedy says what to do with a value of another class, such as a path that can be loaded.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, kinds):
        return value
    rule = " or ".join(with_article(each.__name__) for each in kinds)
    if isinstance(value, type) and issubclass(value, kinds):
        remedy = f"call it, {value.__name__}(...)"
    raise OptionError(f"{name} must be {rule}; received {received(value)}{remedy and f': {remedy}'}")


def check_callable(value: Any, name: str, remedy: str = "pass a function or a class") -> Callable[..., Any]:
    """Something that can be called."""
    if not callable(value):
        raise OptionError(f"{name} must be callable; received {received(value)}: {remedy}")
    function: Callable[..., Any] = value
    return function


def check_tensor(value: Any, name: str) -> "Tensor":
    """One dense tensor: ShapeError for an array or a packed, nested or sparse tensor."""
    import torch

    if not isinstance(value, torch.Tensor):
        packed = "sequences of different lengths are padded and passed with lengths="
        kind = received(value) if isinstance(value, type) else with_article(type(value).__name__)
        raise ShapeError(
            f"{name} must be a tensor; received {kind}: "
            + (packed if type(value).__name__ == "PackedSequence" else "convert it with torch.as_tensor")
        )
    if value.is_nested:
        raise ShapeError(
            f"{name} must be one dense tensor; received a nested tensor: pad it with "
            "torch.nested.to_padded_tensor(x, 0.0) and pass the sequences' own numbers of frames as lengths="
        )
    if value.layout is not torch.strided:
        raise ShapeError(
            f"{name} must be a dense tensor; received {value.layout}: convert it with to_dense()"
        )
    return value


def check_same_kind(module: "nn.Module", x: "Tensor", what: str) -> None:
    """Check that a tensor has a module's dtype, or one that autocast converts (not float64), and device."""
    weight = _first_parameter(module)
    if weight is None or (weight.device == x.device and weight.dtype == x.dtype):
        return
    import torch

    mixed = autocast(x) and x.is_floating_point() and torch.float64 not in (x.dtype, weight.dtype)
    if weight.device != x.device or not mixed:
        raise ShapeError(
            f"{what} must have the {type(module).__name__}'s dtype and device, {weight.dtype} on "
            f"{weight.device}; received {x.dtype} on {x.device}: convert one of them with to(...)"
        )


def _first_parameter(module: "nn.Module") -> "Tensor | None":
    """The first of ``module.parameters()``, found several times as fast."""
    for weight in module._parameters.values():
        if weight is not None:
            return weight
    for part in module._modules.values():
        if part is not None and (first := _first_parameter(part)) is not None:
            return first
    return None


def autocast(x: "Tensor") -> bool:
    """True under autocast for a tensor's device."""
    import torch

    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def is_integer(value: object) -> bool:
    """True for an integer of Python or numpy that is no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """True for a finite real number of Python or numpy that is no bool."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def with_article(name: str) -> str:
    """A name after a or an, as it is pronounced."""
    return (
        f"{'an' if name[0] in 'AEIOUaeio' or name[:2] in ('LR', 'LS') or name == 'ndarray' else 'a'} {name}"
    )
