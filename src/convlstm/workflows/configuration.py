"""The YAML file of a run's configuration: read as plain settings, written from objects.

A class stands in the file as its dotted path or, with arguments, as ``class_path`` and ``init_args``, the
format of jsonargparse.
"""

import dataclasses
import glob
import inspect
import os
import re
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import yaml

from convlstm.data.base import Source
from convlstm.errors import OptionError, RunError
from convlstm.hyperparameters import describe, path_of
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig

#: Options by name, as a file holds them.
Settings = dict[str, Any]
#: Stands in a configuration for an array, which is given again to go on with its run.
IN_MEMORY = "(an array in memory)"

# YAML 1.1 takes 1e-4 for text; people, JSON and jsonargparse take it for a number.
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
_FIRST = list("-+.0123456789")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The objects of a run.

    Args:
        data: where frames come from.
        model: what is trained.
        config: settings of the training.
        optimizer: class or `functools.partial`, called with the parameters and ``lr``.
        scheduler: class or partial, called with the optimizer.
        callbacks: of Lightning: classes, partials or objects.
    """

    data: Source
    model: Forecaster
    config: TrainingConfig
    optimizer: Callable[..., Any] | None = None
    scheduler: Callable[..., Any] | None = None
    callbacks: tuple[Any, ...] = ()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Loader of plain data: numbers as in `_FLOAT`, dates as text, no duplicate keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping; PyYAML itself keeps the last of duplicate keys."""
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for k, (tag, name) in enumerate(keys) if (tag, name) in keys[:k]]:
            raise yaml.constructor.ConstructorError(problem=f"{twice[0]} is given twice")
        return dict(super().construct_mapping(node, deep))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Dumper that quotes text which `_Loader`, jsonargparse or YAML 1.1 reads as another type."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FIRST)


def read_yaml(text: str) -> Any:
    """Parse YAML into plain data."""
    return yaml.load(text, Loader=_Loader)


def read_settings(path: Path) -> Settings:
    """The content of a configuration file.

    Raises:
        OptionError: missing, unreadable or not a mapping.
    """
    try:
        settings = read_yaml(path.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the YAML reader raises
        system = error.strerror if isinstance(error, OSError) else None
        raise OptionError(
            f"a configuration must be {'a readable YAML file' if system else 'valid YAML'}; {path} gave "
            f"'{system or error}': --print_config shows one"
        ) from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise OptionError(
            f"a configuration must be a mapping of options to values; {path} holds something else: "
            "--print_config shows one"
        )
    return {name.replace("-", "_"): value for name, value in settings.items()}


def configuration(parts: Parts) -> str:
    """The text of a run's configuration file, which ``--config`` reads."""
    return yaml_of(plain_settings(parts))


def yaml_of(settings: Settings) -> str:
    """Settings as the text of a file."""
    return str(yaml.dump(settings, Dumper=_Dumper, sort_keys=False))


def plain_settings(parts: Parts) -> Settings:
    """Options of a run as plain data.

    Raises:
        RunError: an argument that does not fit into a file.
    """
    settings = dataclasses.asdict(parts.config)
    settings |= {"data": plain_part(parts.data), "model": plain_part(parts.model)}
    factories = {"optimizer": parts.optimizer, "scheduler": parts.scheduler}
    settings |= {
        name: _plain(describe(made), text=True) for name, made in factories.items() if made is not None
    }
    if parts.callbacks:
        settings["callbacks"] = [_described_callback(callback) for callback in parts.callbacks]
    return settings


def plain_part(thing: Source | Forecaster) -> dict[str, Any]:
    """A part of a run as a configuration holds it; paths of data are absolute, so that it holds anywhere.

    An array in memory is `IN_MEMORY`, whatever its values.

    Raises:
        RunError: an argument that does not fit into a file.
    """
    kind, arguments = type(thing), {}
    types, parameters = argument_types(kind), inspect.signature(kind).parameters
    for name, value in thing.hyperparameters.items():
        if isinstance(thing, Source) and is_array(value):
            value = IN_MEMORY
        plain = _plain(value, text=takes_class(types.get(name)))
        default = parameters[name].default if name in parameters else None
        is_default = value is default or plain == default
        path = is_path(types.get(name))
        arguments[name] = plain if is_default else _absolute(plain, text_is_path=path)
    return {"class_path": path_of(kind), "init_args": arguments}


def is_array(value: Any) -> bool:
    """True for frames in memory, of numpy, torch or xarray."""
    return hasattr(value, "dims") or hasattr(value, "__array__")


@dataclasses.dataclass(frozen=True)
class UnknownCallback:
    """A callback that was an object when its run began, of which a configuration has the class alone."""

    path: str

    def __call__(self) -> None:
        """Raise an error, as the arguments are unknown.

        Raises:
            RunError: always.
        """
        raise RunError(
            "a callback that was made in Python is given again when its run goes on; received no "
            f"{self.path}: call convlstm.train(resume=..., callbacks=[...])"
        )


def _described_callback(callback: Any) -> Any:
    """A class or a partial with its arguments; an object, whose arguments are unknown, by its class alone."""
    if isinstance(callback, type | partial):
        return _plain(describe(callback if isinstance(callback, partial) else partial(callback)))
    path = callback.path if isinstance(callback, UnknownCallback) else path_of(type(callback))
    return {"class_path": path, "init_args": None}


def _absolute(value: Any, *, text_is_path: bool) -> Any:
    """Text that names something that exists as an absolute path, in lists and mappings too; the rest stays.

    Text is taken for a path if the argument's type is one, or if it has a separator or a file extension; a
    pattern only by its type.
    """
    if isinstance(value, list):
        return [_absolute(item, text_is_path=text_is_path) for item in value]
    if isinstance(value, dict):  # such as the arguments of an archive
        return {name: _absolute(item, text_is_path=name == "path") for name, item in value.items()}
    if isinstance(value, str) and (text_is_path or os.sep in value or Path(value).suffix):
        with suppress(ValueError):  # a null character
            if os.path.exists(value):
                return os.path.abspath(value)
            if text_is_path and glob.has_magic(value):
                return os.path.join(glob.escape(os.getcwd()), value)
    return value


def _plain(value: Any, *, text: bool = False) -> Any:
    """Values as YAML holds them; classes as jsonargparse reads them.

    Args:
        value: as `describe` gives it.
        text: write a class without arguments as its dotted path alone, for an argument whose type says that
            such text is a class; a string argument may hold the same text.
    """
    match value:
        case {"class": path, **others} if not others:
            return path if text else {"class_path": path}
        case {"class": path, "arguments": arguments, **others} if not others:
            return {"class_path": path, "init_args": _plain(arguments)}
        case {"tuple": items, **others} if not others:
            return _plain(items, text=text)
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item, text=text) for item in value]
        case os.PathLike():
            return str(value)
        case None | bool():
            return value
        case int():  # numbers and text of a class of its own, such as an enumeration, as plain ones
            return int(value)
        case float():
            return float(value)
        case str():
            return "".join(value)
    raise RunError(
        "what a run is made of must fit into a file; received an argument that is a "
        f"{type(value).__name__}: save it and give its path"
    )


def argument_types(made: Any) -> dict[str, Any]:
    """The type of each argument of a class or a function, those that ``**kwargs`` hands on included."""
    types: dict[str, Any] = {}
    for home in reversed(made.__mro__) if isinstance(made, type) else [made]:
        with_types = vars(home).get("__init__") if isinstance(home, type) else home
        try:
            types |= get_type_hints(with_types)
        except Exception:  # a hint may name what cannot be imported
            continue
    return types


def is_path(hint: Any) -> bool:
    """True if values of a type, or some of them, are paths."""
    kind = get_origin(hint) or hint
    return (isinstance(kind, type) and issubclass(kind, os.PathLike)) or any(map(is_path, get_args(hint)))


def takes_class(hint: Any) -> bool:
    """True if an argument of this type may be a class, a function or an object of a class."""
    if get_origin(hint) in (Callable, type):
        return True
    plain = ("builtins", "pathlib", "os", "types", "typing", "collections.abc")
    return any(map(takes_class, get_args(hint))) or (isinstance(hint, type) and hint.__module__ not in plain)
