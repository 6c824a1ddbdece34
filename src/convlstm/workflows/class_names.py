"""Classes and functions by the names that users write."""

import inspect
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn

from convlstm.data.base import Source
from convlstm.errors import OptionError
from convlstm.models.base import Forecaster
from convlstm.trust import Trust, is_dotted
from convlstm.validation import with_article

#: Kinds of the classes that arguments may be.
MODULES_AND_SOURCES = (nn.Module, Source)
_HOMES = ("convlstm", "convlstm.data", "convlstm.models", "convlstm.cells")


def import_named(path: Any, kind: Any = object, *, functions: bool = True, option: str = "") -> Any:
    """The class under a dotted path that the user wrote, or of a short name of ours.

    Args:
        path: such as ``my_package.MyModel``.
        kind: the class that it must be a subclass of.
        functions: True if it may also be a function.
        option: name of the option, to open messages.

    Raises:
        OptionError: it cannot be imported, or is something else.
    """
    path, wanted = str(path), kind.__name__ if isinstance(kind, type) and kind is not object else "class"
    rule = f"{option or 'a class in the configuration'} must be the dotted path of {with_article(wanted)}"
    rule += " or the path of frames" if kind is Source else ""
    module, _, name = path.rpartition(".")
    if not module and is_dotted(path) and (found := our_class(name, kind)):
        return found
    if not module or not is_dotted(path):
        raise OptionError(f"{rule}; received {path[:100]!r}: {_hint(path, kind)}")
    try:
        ours = f"{module}.".startswith("convlstm.")  # which may have another name today
        found = Trust().find(path, MODULES_AND_SOURCES) if ours else getattr(import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise OptionError(
            f"{rule}; importing {path!r} gave '{type(error).__name__}: {error}': check the spelling, or run "
            "where it can be found"
        ) from error
    if isinstance(found, type):
        if issubclass(found, kind) and not inspect.isabstract(found):
            return found
        hint = "abstract: give a class derived from it" if issubclass(found, kind) else "none: derive it"
        raise OptionError(f"{rule}; received {path!r}, which is {hint} from {wanted}")
    # A function of Python's own makes none of our objects, whatever it would do when called.
    home = str(getattr(found, "__module__", None)).partition(".")[0]
    pythons = inspect.isbuiltin(found) or home in sys.stdlib_module_names
    if pythons or not functions or not inspect.isroutine(found):
        raise OptionError(f"{rule}; received {path!r}, which holds {found!r:.80}: name a class")
    return found


def our_class(name: str, kind: Any = object) -> Any:
    """The class of this package of a name without dots; None if there is none."""
    for home in _HOMES:
        found = getattr(import_module(home), name, None)
        if isinstance(found, type) and issubclass(found, kind) and not inspect.isabstract(found):
            return found
    return None


def _hint(name: str, kind: Any) -> str:
    """The names of our classes nearest to one that is none, or where they are listed."""
    names = {each for home in _HOMES for each in dir(import_module(home)) if our_class(each, kind)}
    known = {each.lower(): each for each in names}
    if near := [known[each] for each in get_close_matches(name.lower(), known, cutoff=0.7)]:
        return f"did you mean {', '.join(near[:-1]) + ' or ' if near[1:] else ''}{near[-1]}?"
    return "convlstm models lists ours" if kind is Forecaster else "write module.Name"
