"""The classes that a run names in its configuration, judged before any is imported; see `convlstm.trust`."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

from torch import nn

from convlstm.cli.configuration import Settings, read_settings
from convlstm.data.base import Source
from convlstm.models.base import Forecaster
from convlstm.training.run import run_of
from convlstm.trust import Trust, packages

_PARTS: dict[str, Any] = {"data": Source, "model": Forecaster}


def typed_settings(function: Callable[..., Any], path: Path, trust: str | Sequence[str]) -> Settings:
    """The settings of a file given by ``--config``: the user's own word, unless it lies in a run folder.

    Raises:
        OptionError: as `read_settings`.
        RunError: as `check_classes`.
    """
    settings, run = read_settings(path), run_of(path.parent)
    if run is not None and run.config.resolve() == path.resolve() and run.checkpoints.exists():
        check_classes(function, settings, run.path, trust)
    return settings


def check_classes(
    function: Callable[..., Any], settings: Settings, folder: Path, trust: str | Sequence[str]
) -> None:
    """Check every class that the settings of a run name, without importing what is not trusted.

    Args:
        function: the command that takes the settings.
        settings: of the run.
        folder: of the run, from inside which nothing is imported.
        trust: names of the packages that are trusted.

    Raises:
        RunError: a class of a package that is not trusted, or of another kind.
    """
    from convlstm.cli.options import DEFAULT_CLASSES, Command

    known = Trust(packages(trust), inside=folder)
    parts = {}
    for name, kind in _PARTS.items():
        section = settings.get(name)
        path = section.get("class_path") if isinstance(section, Mapping) else section
        path = path or DEFAULT_CLASSES[kind]
        if not (isinstance(path, str) and "." not in path):  # a name without a dot is one of ours
            parts[name] = known.find(path, kind, functions=False)
    types = Command(function, parts).types
    for name in parts:
        section = settings.get(name)
        arguments = section.get("init_args") if isinstance(section, Mapping) else None
        for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
            for path in _class_paths(value, _takes_class(types.get(f"{name}.{key}"))):
                known.find(path, (nn.Module, Source))


def _class_paths(value: Any, text: bool) -> Iterator[str]:
    """The dotted paths in a value: each ``class_path``, and text that may be one.

    Args:
        value: of an argument.
        text: whether the argument takes a class, so that text may name one.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name == "class_path" and isinstance(item, str) and "." in item:
                yield item
            else:
                yield from _class_paths(item, text)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _class_paths(item, text)
    elif text and isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
        root, dot, _ = value.partition(".")
        if dot and (
            root in sys.modules or find_spec(root) is not None
        ):  # a file's name, such as weights.npy, is no path of a class
            yield value


def _takes_class(hint: Any) -> bool:
    """True if an argument of this type may be a class, a function or an object of a class."""
    if get_origin(hint) in (Callable, type):
        return True
    plain = ("builtins", "pathlib", "os", "types", "typing", "collections.abc")
    return any(map(_takes_class, get_args(hint))) or (isinstance(hint, type) and hint.__module__ not in plain)
