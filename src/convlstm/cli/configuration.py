"""A run's configuration as a YAML file: from objects, and back to settings."""

import dataclasses
import os
from pathlib import Path
from typing import Any

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
    settings = dataclasses.asdict(config) | {"data": _described(data), "model": _described(model)}
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


def _described(thing: Source | Forecaster) -> dict[str, Any]:
    """A part of a run as a configuration holds it."""
    arguments = {name: _plain(value) for name, value in thing.hyperparameters.items()}
    return {"class_path": path_of(type(thing)), "init_args": arguments}


def _plain(value: Any) -> Any:
    """Values as YAML holds them; classes as jsonargparse reads them."""
    if isinstance(value, dict) and set(value) <= {"class", "arguments"} and "class" in value:
        if "arguments" not in value:
            return value["class"]
        return {
            "class_path": value["class"],
            "init_args": {k: _plain(v) for k, v in value["arguments"].items()},
        }
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
