"""A run's configuration as a YAML file: from objects, and back to settings."""

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import get_loader

from convlstm.arguments import path_of
from convlstm.data.base import Source
from convlstm.errors import OptionError, RunError
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig

#: Options by name; the parts of a run as ``class_path`` and ``init_args``.
Settings = dict[str, Any]


def configuration(data: Source, model: Forecaster, config: TrainingConfig) -> str:
    """Everything that makes a run, as ``--config`` takes it."""
    settings = dataclasses.asdict(config) | {"data": described(data), "model": described(model)}
    return yaml_of(settings)


def read_settings(path: Path) -> Settings:
    """The content of a configuration file.

    Raises:
        OptionError: missing, unreadable or not a mapping.
    """
    try:
        settings = get_loader("yaml")(path.read_text())
    except OSError as error:
        raise OptionError(
            f"a configuration must be a readable YAML file; {path} gave '{error.strerror}': "
            "--print_config shows one"
        ) from error
    except Exception as error:  # whatever the YAML reader raises
        raise OptionError(
            f"a configuration must be valid YAML; {path} gave '{error}': --print_config shows one"
        ) from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise OptionError(
            f"a configuration must be a mapping of options to values; {path} holds something else: "
            "--print_config shows one"
        )
    return {name.replace("-", "_"): value for name, value in settings.items()}


def yaml_of(settings: Settings) -> str:
    """Settings as the text of a file."""
    import yaml

    return str(yaml.safe_dump(settings, sort_keys=False))


def described(thing: Source | Forecaster) -> dict[str, Any]:
    """A part of a run as a configuration holds it; paths of data are absolute, so that it holds anywhere.

    Raises:
        RunError: an argument that does not fit into a file.
    """
    kind = type(thing)
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    try:
        hints = get_type_hints(kind.__init__)
    except Exception:  # a hint may name what cannot be imported
        hints = {}
    arguments = {}
    for name, value in thing.hyperparameters.items():
        plain = _plain(value)
        given = value is not defaults.get(name) and plain != defaults.get(name)
        arguments[name] = _absolute(plain, _is_path(hints.get(name))) if given else plain
    return {"class_path": path_of(kind), "init_args": arguments}


def _absolute(value: Any, is_path: bool) -> Any:
    """Text that names a file or folder that exists as an absolute path; lists are walked, the rest stays.

    Args:
        value: plain data.
        is_path: whether its type says that it is a path; other text must look like one, by a separator or an
            ending, as a word may happen to be the name of a folder.
    """
    if isinstance(value, list):
        return [_absolute(item, is_path) for item in value]
    if not isinstance(value, str) or not (is_path or os.sep in value or Path(value).suffix):
        return value
    return os.path.abspath(value) if _exists(value) else value


def _exists(text: str) -> bool:
    try:
        return os.path.exists(text)
    except ValueError:  # a null character
        return False


def _is_path(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return (isinstance(kind, type) and issubclass(kind, os.PathLike)) or any(map(_is_path, get_args(hint)))


def _plain(value: Any) -> Any:
    """Values as YAML holds them; classes as jsonargparse reads them."""
    if isinstance(value, dict) and set(value) <= {"class", "arguments"} and "class" in value:
        if "arguments" not in value:
            return value["class"]
        return {
            "class_path": value["class"],
            "init_args": {k: _plain(v) for k, v in value["arguments"].items()},
        }
    if isinstance(value, dict) and value.keys() == {"tuple"}:
        return _plain(value["tuple"])
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RunError(
        "what a run is made of must fit into a file; received an argument that is a "
        f"{type(value).__name__}: save it and give its path"
    )
