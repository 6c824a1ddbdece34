"""The classes that a run names in its configuration, judged before any is imported; see `convlstm.trust`."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

from torch import nn

from convlstm.cli.configuration import Settings, parts_in, read_settings
from convlstm.cli.names import import_class
from convlstm.data.base import Source
from convlstm.errors import RunError
from convlstm.models.base import Forecaster
from convlstm.training.run_folder import run_of
from convlstm.trust import Trust, is_dotted, packages

_PARTS: dict[str, Any] = {"data": Source, "model": Forecaster}


def typed_settings(function: Callable[..., Any], path: Path, trust: str | Sequence[str]) -> Settings:
    """The settings of a file given by ``--config``.

    A file in the current folder is the user's own word, unless that folder is a run; the classes that one in
    another folder names are judged as those of a run are.

    Raises:
        OptionError: as `read_settings`.
        RunError: as `check_classes`.
    """
    settings, run = read_settings(path), run_of(path.parent)
    of_run = run is not None and run.config.resolve() == path.resolve() and run.checkpoints.exists()
    if of_run or path.parent.resolve() != Path.cwd():
        check_classes(function, settings, path.parent, trust)
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
        OptionError: a short name that is none of ours.
        RunError: a class of a package that is not trusted, or of another kind; a key with a dot.
    """
    known = Trust(packages(trust), inside=folder)
    try:
        _check_paths(function, settings, known)
    except RecursionError:
        raise RunError(
            f"the configuration in {folder} must hold plain data; its nesting is too deep: put back the file "
            "as train wrote it"
        ) from None


def _check_paths(function: Callable[..., Any], settings: Settings, known: Trust) -> None:
    """Check the path of every class in the settings."""
    from convlstm.cli.options import DEFAULT_CLASSES, Command

    parts = {}
    for name, kind in _PARTS.items():
        section = settings.get(name)
        path = section.get("class_path") if isinstance(section, Mapping) else section
        path = path or DEFAULT_CLASSES[kind]
        dotted = not isinstance(path, str) or "." in path
        # A name without a dot is one of ours.
        parts[name] = (
            known.find(path, kind, functions=False) if dotted else import_class(path, kind, f"--{name}")
        )
    types = Command(function, parts).types
    for name, value in settings.items():
        _check_key(name)
        arguments = value.get("init_args") if name in parts and isinstance(value, Mapping) else None
        for key, item in arguments.items() if isinstance(arguments, Mapping) else ():
            _check_key(key)
            for path in _class_paths(item, _takes_class(types.get(f"{name}.{key}"))):
                known.find(path, (nn.Module, Source))


def _check_key(key: str) -> None:
    """Refuse a key with a dot, as only a command line has them: ``model.cell`` would pass by its section."""
    if "." in str(key):
        raise RunError(
            "options of the parts of a run must stand in their init_args, under names without dots; its "
            f"configuration has {str(key)[:80]!r}: put back the file as train wrote it"
        )


def _class_paths(value: Any, text: bool) -> Iterator[str]:
    """The dotted paths in a value: each ``class_path``, and text that may be one.

    Args:
        value: of an argument; text in it is read as YAML too.
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
    elif isinstance(value, str):
        # The parser of options reads text as YAML, which may hold a class_path, or the text in quotes.
        if (read := parts_in(value)) != value:
            yield from _class_paths(read, text)
        root, dot, _ = value.partition(".")
        # A file's name, such as weights.npy, is no path of a class.
        if text and dot and is_dotted(value) and (root in sys.modules or find_spec(root) is not None):
            yield value


def _takes_class(hint: Any) -> bool:
    """True if an argument of this type may be a class, a function or an object of a class."""
    if get_origin(hint) in (Callable, type):
        return True
    plain = ("builtins", "pathlib", "os", "types", "typing", "collections.abc")
    return any(map(_takes_class, get_args(hint))) or (isinstance(hint, type) and hint.__module__ not in plain)
