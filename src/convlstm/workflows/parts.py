"""The parts of a run, from settings to objects.

Two steps: `resolve` replaces every name by the class or function that the caller allows, and builds nothing;
`build` calls the classes.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from torch import nn

from convlstm.data.base import Source
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.hyperparameters import path_of
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, run_of
from convlstm.trust import Trust, packages
from convlstm.workflows.classes import Find, import_named, is_importable, kind_of, our_class, takes_class
from convlstm.workflows.configuration import (
    Parts,
    Settings,
    UnknownCallback,
    argument_types,
    is_path,
    read_settings,
)

#: Classes that a run is made of unless it names others.
DEFAULTS = {"data": "convlstm.MovingObjects", "model": "convlstm.EncoderForecaster"}
#: The parts of a run that are classes with arguments.
PARTS = (*DEFAULTS, "optimizer", "scheduler", "callbacks")
#: The options of a `TrainingConfig`.
FIELDS = tuple(field.name for field in dataclasses.fields(TrainingConfig))

_KINDS = (nn.Module, Source)  # of the classes that arguments may be


def resolve(settings: Settings, find: Find) -> Settings:
    """Settings with classes and partials in place of their names; nothing is built.

    Args:
        settings: as `read_settings` gives them; values may be objects already.
        find: gives the class or function under a dotted path.

    Raises:
        OptionError: an option or an argument that does not exist, or of another form.
        ConvLSTMError: whatever ``find`` raises.
    """
    resolved: Settings = {}
    for name, value in settings.items():
        if name == "callbacks":
            sections = value if isinstance(value, list | tuple) else [value]
            resolved[name] = tuple(_part(name, section, find) for section in sections if section)
        elif name in DEFAULTS or (name in PARTS and value is not None):
            resolved[name] = _part(name, value, find)
        elif name in FIELDS:
            resolved[name] = value
        elif name not in PARTS:
            _check_key(name)
            near = get_close_matches(name, (*FIELDS, *PARTS), n=1)
            hint = f"did you mean {near[0]}?" if near else "--print_config shows all"
            raise OptionError(f"there is no option {name} in the configuration; {hint}")
    return resolved


def build(resolved: Settings, only: Iterable[str] = (*PARTS, "config")) -> Settings:
    """The objects that resolved settings describe: ``data``, ``model``, ``config`` and so on, where given.

    The weights of the model are drawn from the seed of the configuration.

    Args:
        resolved: by `resolve`.
        only: names of the parts to build.
    """
    only = set(only)
    config = TrainingConfig(**{name: resolved[name] for name in FIELDS if name in resolved})
    built: Settings = {"config": config} if "config" in only else {}
    for name in PARTS:
        if name not in only or name not in resolved:
            continue
        made = resolved[name]
        if name == "model":
            torch.manual_seed(config.seed)
        built[name] = _built(name, made) if name in DEFAULTS else made
    return built


def load(
    run: RunFolder, trust: str | Sequence[str] = (), only: Iterable[str] = (*PARTS, "config")
) -> Settings:
    """The parts of a run by name, with fresh weights.

    Args:
        run: whose configuration is read.
        trust: names of packages whose classes may be loaded.
        only: names of the parts to build.

    Raises:
        ConvLSTMError: as `run_settings` and `build`.
    """
    only = tuple(only)
    return build(resolve(*run_settings(run, trust, only)), only)


def run_settings(
    run: RunFolder, trust: str | Sequence[str] = (), only: Iterable[str] = PARTS
) -> tuple[Settings, Find]:
    """The settings of a run, once their classes are allowed, and the function that gives these classes.

    Args:
        run: whose configuration is read.
        trust: names of packages whose classes may be loaded.
        only: parts that are wanted; data and model are always there.

    Raises:
        OptionError: as `read_settings`.
        RunError: it does not say what the run is made of, a module is not found, or a class is of a package
            that is not trusted.
    """
    settings = read_settings(run.config)
    for name in DEFAULTS:
        if not settings.get(name):
            raise RunError(
                f"the configuration of a run must hold its {name}; {run.config} holds none: put back "
                "the file as train wrote it"
            )
    settings = {k: v for k, v in settings.items() if k not in PARTS or k in DEFAULTS or k in only}
    run.find_modules(packages(trust))
    find = Trust(packages(trust), inside=run.path).find
    check_classes(settings, run.path, find)
    return settings, find


def read_configuration(path: Path, trust: str | Sequence[str] = ()) -> Settings:
    """The settings of a file given by ``--config``.

    A file in the current folder may name any class, unless that folder is a run; the classes that a file in
    another folder names are checked as those of a run are.
    """
    settings, run = read_settings(path), run_of(path.parent)
    of_run = run is not None and run.config.resolve() == path.resolve() and run.checkpoints.exists()
    if of_run or path.parent.resolve() != Path.cwd():
        check_classes(settings, path.parent, Trust(packages(trust), inside=path.parent).find)
    return settings


def check_classes(settings: Settings, folder: Path, find: Find) -> None:
    """Check every class that settings name, without importing what is not allowed.

    Raises:
        RunError: a class that may not be loaded; nesting that is too deep.
    """
    try:
        resolve(settings, find)
    except RecursionError:
        raise RunError(
            f"the configuration in {folder} must hold plain data; its nesting is too deep: put back the file "
            "as train wrote it"
        ) from None


def chosen_classes(settings: Settings, names: Iterable[str], typed: Mapping[str, Any]) -> dict[str, type]:
    """The class of each part that has one by default: as typed, as in the settings, or the default."""
    chosen = {}
    for name in names:
        section = settings.get(name) or DEFAULTS[name]
        path = section.get("class_path") or DEFAULTS[name] if isinstance(section, Mapping) else section
        path = typed.get(name, path)
        chosen[name] = import_named(path, kind_of(name), option=f"--{name}", functions=False)
    return chosen


def merged(settings: Settings, typed: Settings) -> Settings:
    """Settings with those typed in place; arguments of a class that was replaced are dropped."""
    result = dict(settings)
    for name, value in typed.items():
        old = {"class_path": settings[name]} if isinstance(settings.get(name), str) else settings.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and "class_path" in old.keys() & value.keys():
            same = import_named(old["class_path"]) is import_named(value["class_path"])
            arguments = merged((same and old.get("init_args")) or {}, value.get("init_args") or {})
            value = {"class_path": value["class_path"], "init_args": arguments}
        result[name] = value
    return result


def unbuilt(resolved: Settings) -> Parts:
    """Parts for `configuration` alone: their arguments are there, their constructors have not run."""
    parts = {}
    for name in DEFAULTS:
        _check_complete(name, resolved[name])
        kind = resolved[name].func
        parts[name] = kind.__new__(kind, **resolved[name].keywords)
    config = TrainingConfig(**{name: resolved[name] for name in FIELDS if name in resolved})
    others = {name: resolved[name] for name in PARTS[2:] if name in resolved}
    return Parts(config=config, **parts, **others)


def check_channels(model: Forecaster, channels: int, remedy: str) -> None:
    """Check that a model takes frames with so many channels, or else say what to do.

    Raises:
        OptionError: it was built for another number.
    """
    built_for = getattr(model, "channels", channels)
    if built_for != channels:
        raise OptionError(
            f"the channels of the model must be those of the frames, {channels}; received {built_for}: "
            f"{remedy}"
        )


def _check_key(name: Any, place: str = "") -> None:
    if not isinstance(name, str) or "." in name:
        raise OptionError(
            f"{place}{name} must stand in the init_args of what it belongs to, under names without dots; a "
            "configuration has it elsewhere: --print_config shows where"
        )


def _part(name: str, section: Any, find: Find) -> Any:
    """A part as a partial of its class."""
    if callable(section):
        return section
    if not section:
        raise OptionError(
            f"{name} in the configuration must hold a class_path; it is empty: leave it out for the default"
        )
    spec = {"class_path": section} if isinstance(section, str) else section
    path = isinstance(spec, Mapping) and spec.get("class_path", DEFAULTS.get(name))
    if name == "callbacks" and path and spec.get("init_args", {}) is None:
        return UnknownCallback(str(path))
    made = _class_with_arguments(spec, path, find, name, kind_of(name))
    return made if isinstance(made, partial) else partial(made)


def _class_with_arguments(spec: Any, path: Any, find: Find, name: str, kind: Any) -> Any:
    """A class, or a partial of it with the arguments that stand beside it."""
    arguments = spec.get("init_args") or {} if isinstance(spec, Mapping) else None
    if not path or not isinstance(arguments, Mapping) or set(spec) - {"class_path", "init_args"}:
        raise OptionError(
            f"{name} in the configuration must hold class_path and init_args; received {str(spec)[:200]}: "
            "--print_config shows how"
        )
    found = our_class(path, kind) if isinstance(path, str) and "." not in path else None
    found = found or find(path, kind, functions=name not in ("data", "model", "callbacks"))
    types = argument_types(found)
    for key in arguments:
        _check_key(key, f"{name}.")
    made = {key: _argument(value, types.get(key), find, f"{name}.{key}") for key, value in arguments.items()}
    return partial(found, **made) if made else found


def _argument(value: Any, hint: Any, find: Find, name: str) -> Any:
    """An argument with classes in place of their names, and of the type that files have no form for."""
    if isinstance(value, Mapping) and "class_path" in value:
        return _class_with_arguments(value, value["class_path"], find, name, _KINDS)
    if isinstance(value, Mapping):
        return {key: _argument(item, None, find, f"{name}.{key}") for key, item in value.items()}
    options = (hint, *get_args(hint))
    kinds = [get_origin(option) or option for option in options]
    if isinstance(value, list | tuple):
        item_hint = next((types[0] for option in options if (types := _items(option))), None)
        items = [_argument(item, item_hint, find, name) for item in value]
        return tuple(items) if isinstance(value, tuple) or (tuple in kinds and list not in kinds) else items
    if not isinstance(value, str):
        return value
    if takes_class(hint):
        # A class inside quotes or YAML is checked too, although text is not parsed as YAML here.
        names = re.findall(r"[^\W\d][\w.]*", value) if value[:1] in ("{", "[", "'", '"') else [value]
        found = [find(path, _KINDS) for path in names if is_importable(path)]
        return found[0] if found and names == [value] else our_class(value, _KINDS) or value
    return Path(value) if any(map(is_path, kinds)) and str not in kinds and value else value


def _items(kind: Any) -> tuple[Any, ...]:
    """The types of the items of a list or tuple type."""
    origin = get_origin(kind)
    return get_args(kind) if isinstance(origin, type) and issubclass(origin, Sequence) else ()


def _check_complete(name: str, made: partial[Any]) -> None:
    """Check that a class has all arguments that it needs.

    Raises:
        OptionError: one is missing.
    """
    kind = made.func
    try:
        inspect.signature(kind).bind(**made.keywords)
    except TypeError as error:
        if missing := re.search("missing a required.*argument: '(.*)'", str(error)):
            raise OptionError(
                f"{kind.__name__} needs --{name}.{missing[1]}; received none: convlstm train --{name} "
                f"{path_of(kind)} --help lists its options"
            ) from error


def _built(name: str, made: partial[Any]) -> Any:
    """An object from its class and arguments.

    Raises:
        OptionError: an argument that is missing, or that the constructor refuses.
    """
    kind = made.func
    _check_complete(name, made)
    try:
        return made()
    except ConvLSTMError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise OptionError(
            f"--{name} must be a class that its options can build; {path_of(kind)} gave '{reason}': "
            "mend it or its options; --debug shows where"
        ) from error
