"""The parts of a run, from names and arguments to classes, and from classes to objects.

`resolve` replaces every name by the class or function that the caller allows and builds nothing: each part
becomes a `functools.partial` of its class. `merged` puts other arguments in place; `build` calls the classes.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import torch

from convlstm.data.base import Source
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.hyperparameters import path_of
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, run_of
from convlstm.trust import Trust, is_dotted, packages
from convlstm.validation import check_instance, check_positive
from convlstm.workflows.class_names import MODULES_AND_SOURCES, import_named, our_class
from convlstm.workflows.configuration import (
    IN_MEMORY,
    Parts,
    Settings,
    UnknownCallback,
    argument_types,
    is_path,
    read_settings,
    takes_class,
)
from convlstm.workflows.frames import archive_of

#: Classes that a run is made of unless it names others.
DEFAULTS = {"data": "convlstm.MovingObjects", "model": "convlstm.EncoderForecaster"}
#: The parts of a run that are classes with arguments.
PARTS = (*DEFAULTS, "optimizer", "scheduler", "callbacks")
#: Arguments of a model that must be as the attributes of the data.
CHANNELS = {"channels": "channels", "extra_channels": "extra input channels"}
#: The options of a `TrainingConfig`.
FIELDS = tuple(field.name for field in dataclasses.fields(TrainingConfig))
#: Gives the class or function under a dotted path, called as `Trust.find`.
Find = Callable[..., Any]

_CODE = {"reader": Callable[..., Any]}  # arguments of archives inside a mapping that name a function


def resolve_parts(settings: Settings, find: Find) -> Settings:
    """Settings with classes and partials in place of their names; nothing is built.

    Args:
        settings: as `read_settings` gives them.
        find: gives the class or function under a dotted path.

    Raises:
        OptionError: an option or an argument that does not exist, or of another form.
        ConvLSTMError: whatever ``find`` raises.
    """
    resolved: Settings = {}
    try:
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
    except RecursionError:
        raise RunError(
            "a configuration must hold plain data; its nesting is too deep: put back the one written"
        ) from None
    return resolved


def merged(resolved: Settings, changes: Settings) -> Settings:
    """Resolved settings with others in place; arguments of a class that is replaced are dropped."""
    result = dict(resolved)
    for name, new in changes.items():
        old, kind = resolved.get(name), getattr(new, "func", new)
        if isinstance(old, partial) and old.func is kind:
            new = partial(kind, **merged(old.keywords, getattr(new, "keywords", {})))
        result[name] = new
    return result


def build(resolved: Settings, only: Iterable[str] = (*PARTS, "config")) -> Settings:
    """The objects that resolved settings describe: ``data``, ``model``, ``config`` and so on, where given.

    The weights of the model are drawn from the seed of the configuration; its channels are those of the data
    unless given.

    Args:
        resolved: by `resolve`.
        only: names of the parts to build.
    """
    only, config = set(only), _config(resolved)
    built: Settings = {"config": config} if "config" in only else {}
    for name in PARTS:
        if name in only and name in resolved:
            made = resolved[name]
            if name == "model":
                torch.manual_seed(config.seed)
                made = _with_channels(made, built.get("data"))
            built[name] = _built(name, made) if name in DEFAULTS else made
    return built


def unbuilt(resolved: Settings) -> Parts:
    """Parts for `configuration` alone: their arguments are there, their constructors have not run."""
    parts = {name: resolved[name] for name in PARTS[2:] if name in resolved}
    for name in DEFAULTS:
        kind: Any = _complete(name, resolved[name]).func
        parts[name] = kind.__new__(kind, **resolved[name].keywords)
    return Parts(config=_config(resolved), **parts)


def load_parts(
    run: RunFolder, trust: str | Sequence[str] = (), only: Iterable[str] = (*PARTS, "config")
) -> Settings:
    """The parts of a run by name, with fresh weights; arguments and errors as those of `of_run`."""
    only = tuple(only)
    return build(of_run(run, trust, only), only)


def of_run(run: RunFolder, trust: str | Sequence[str] = (), only: Iterable[str] = PARTS) -> Settings:
    """The resolved settings of a run, whose classes are checked before any is imported.

    Args:
        run: whose configuration is read.
        trust: names of packages whose classes may be loaded.
        only: parts that are wanted; data and model are always there.

    Raises:
        OptionError: as `read_settings` and `resolve`.
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
    return resolve_parts(settings, Trust(packages(trust), inside=run.path).find)


def of_file(path: Path, trust: str | Sequence[str] = ()) -> Settings:
    """The resolved settings of a file given by ``--config``.

    A file in the current folder may name any class, unless that folder is a run; the classes that a file in
    another folder names are checked as those of a run are.
    """
    settings, run = read_settings(path), run_of(path.parent)
    is_run = run is not None and run.config.resolve() == path.resolve() and run.checkpoints.exists()
    strange = is_run or path.parent.resolve() != Path.cwd()
    return resolve_parts(
        settings, Trust(packages(trust), inside=path.parent).find if strange else import_named
    )


def check_parts(data: Source | None, model: Forecaster | None) -> None:
    """Check the data and the model that a workflow is given, where it is.

    Raises:
        OptionError: an object of another class, or one whose constructor left out what every such object has;
            frames of other channels or extra inputs than the model was built for.
    """
    if data is not None:
        remedy = "pass an object of a class of data, such as MovingObjects(), the path of frames or an array"
        check_instance(data, Source, "data", remedy)
        for name in ("past", "steps", "channels"):
            check_positive(getattr(data, name, None), f"{name} of {type(data).__name__}")
    if model is not None:
        check_instance(model, Forecaster, "model", "pass one, such as EncoderForecaster()")
        if "_modules" not in vars(model):
            raise OptionError(
                f"a model must be a whole module; received a {type(model).__name__} without parameters: call "
                "super().__init__() first in its constructor"
            )
    for name, what in CHANNELS.items() if data is not None and model is not None else ():
        there, built_for = getattr(data, name), getattr(model, name, None)
        reads_none = not built_for and name not in inspect.signature(type(model)).parameters
        if built_for not in (None, there) and not reads_none:
            raise OptionError(
                f"the {what} of the model must be those of the data, {there}; received {built_for}: use "
                f"--model.{name} {there}, or data with those of the model"
            )


def kind_of(part: str) -> type:
    """The base class of a part of a run."""
    if part == "callbacks":
        from convlstm.training.processes import Callback

        return Callback
    kinds = {"data": Source, "model": Forecaster, "optimizer": torch.optim.Optimizer}
    return kinds.get(part, torch.optim.lr_scheduler.LRScheduler)


def _is_importable(path: str) -> bool:
    """True for the path of something in a module; a file's name, such as weights.npy, is none."""
    root, dot, _ = path.partition(".")
    return bool(dot) and is_dotted(path) and (root in sys.modules or find_spec(root) is not None)


def _config(resolved: Settings) -> TrainingConfig:
    return TrainingConfig(**{name: resolved[name] for name in FIELDS if name in resolved})


def _check_key(name: Any, place: str = "") -> None:
    if not isinstance(name, str) or "." in name:
        raise OptionError(
            f"{place}{name} must stand in the init_args of what it belongs to, under names without dots; a "
            "configuration has it elsewhere: --print_config shows where"
        )


def _part(name: str, section: Any, find: Find) -> Any:
    """A part as a partial of its class."""
    if not section:
        raise OptionError(
            f"{name} in the configuration must hold a class_path; it is empty: leave it out for the default"
        )
    if name == "data" and (archive := archive_of(section)):
        return archive
    spec = {"class_path": section} if isinstance(section, str) else section
    if name in DEFAULTS and isinstance(spec, Mapping):
        spec = {"class_path": DEFAULTS[name], **spec}
    if name == "callbacks" and isinstance(spec, Mapping) and spec.get("init_args", {}) is None:
        return UnknownCallback(str(spec.get("class_path")))
    made = _class_with_arguments(spec, find, name, kind_of(name))
    return made if isinstance(made, partial) else partial(made)


def _class_with_arguments(spec: Any, find: Find, name: str, kind: Any) -> Any:
    """A class, or a partial of it with the arguments that stand beside it."""
    path, arguments = (
        (spec.get("class_path"), spec.get("init_args") or {}) if isinstance(spec, Mapping) else (0, 0)
    )
    if not path or not isinstance(arguments, Mapping) or set(spec) - {"class_path", "init_args"}:
        raise OptionError(
            f"{name} in the configuration must hold class_path and init_args; received {str(spec)[:200]}: "
            "--print_config shows how"
        )
    short = isinstance(path, str) and "." not in path  # which means one of ours or nothing
    found = (import_named if short else find)(path, kind, functions=name not in (*DEFAULTS, "callbacks"))
    for key in arguments:
        _check_key(key, f"{name}.")
    types = argument_types(found)
    made = {key: _argument(value, types.get(key), find, f"{name}.{key}") for key, value in arguments.items()}
    return partial(found, **made) if made else found


def _argument(value: Any, hint: Any, find: Find, name: str) -> Any:
    """An argument with classes in place of their names, and of the type that files have no form for."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            return _class_with_arguments(value, find, name, MODULES_AND_SOURCES)
        return {key: _argument(item, _CODE.get(key), find, f"{name}.{key}") for key, item in value.items()}
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
        found = [find(path, MODULES_AND_SOURCES) for path in names if _is_importable(path)]
        return found[0] if found and names == [value] else our_class(value, MODULES_AND_SOURCES) or value
    return Path(value) if any(map(is_path, kinds)) and str not in kinds and value else value


def _items(kind: Any) -> tuple[Any, ...]:
    """The types of the items of a list or tuple type."""
    origin = get_origin(kind)
    return get_args(kind) if isinstance(origin, type) and issubclass(origin, Sequence) else ()


def _with_channels(made: partial[Any], data: Source | None) -> partial[Any]:
    """The class of a model with the channels of the data, where it takes any and is given none."""
    known = inspect.signature(made.func).parameters
    taken = [name for name in CHANNELS if name in known and hasattr(data, name)]
    return partial(made.func, **{name: getattr(data, name) for name in taken} | made.keywords)


def _complete(name: str, made: partial[Any]) -> partial[Any]:
    """A class with its arguments, once none that it needs is missing."""
    try:
        inspect.signature(made.func).bind(**made.keywords)
    except TypeError as error:
        if missing := re.search("missing a required.*argument: '(.*)'", str(error)):
            raise OptionError(
                f"{made.func.__name__} needs --{name}.{missing[1]}; received none: convlstm train --{name} "
                f"{path_of(made.func)} --help lists its options"
            ) from error
    return made


def _built(name: str, made: partial[Any]) -> Any:
    """An object from its class and arguments; what the constructor raises in one sentence."""
    if IN_MEMORY in made.keywords.values():
        raise RunError(
            "a run on an array in memory needs the same array again; received none: go on by "
            "convlstm.train(resume=..., data=...), evaluate by convlstm.evaluate(..., data=...)"
        )
    try:
        return _complete(name, made)()
    except ConvLSTMError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise OptionError(
            f"--{name} must be a class that its options can build; {path_of(made.func)} gave '{reason}': "
            "mend it or its options; --debug shows where"
        ) from error
