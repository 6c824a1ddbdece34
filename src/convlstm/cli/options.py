"""The options of a command, read by jsonargparse: typed words and configuration files become objects."""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader, set_parsing_settings

from convlstm.atomic_write import given_path
from convlstm.cli.messages import HelpFormatter, sentence
from convlstm.errors import OptionError
from convlstm.hyperparameters import path_of
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, run_of
from convlstm.trust import Trust, packages
from convlstm.workflows.configuration import Settings, configuration, is_path, read_settings, read_yaml
from convlstm.workflows.parts import (
    DEFAULTS,
    FIELDS,
    PARTS,
    build,
    check_classes,
    import_named,
    kind_of,
    resolve,
    run_settings,
    unbuilt,
)

#: Names, with underscores, and the values that were typed.
Options = list[tuple[str, str | None]]
Command = Callable[..., None]

_MOST_FOLDERS = 500  # a path of more overflows Python's stack


def _read_value(text: str) -> Any:
    """A typed value: numbers, lists and mappings in braces as YAML has them, all else as text."""
    value = read_yaml(text)
    return text if value is None or (isinstance(value, dict) and text.lstrip()[0] != "{") else value


set_loader("typed", _read_value, (yaml.YAMLError,))
set_parsing_settings(
    import_path_denylist=[]
)  # jsonargparse's own list of what no option may name is in force


def call(command: Command, words: list[str]) -> None:
    """Call a command with what was typed, or print its help or its configuration."""
    arguments, options = _split(command, words)
    typed, parameters = dict(options), inspect.signature(command).parameters
    if typed.keys() & {"help", "h"}:
        print(_parser(command, _chosen(parameters, typed, {}), flat=True).format_help(), end="")
        return
    settings = _settings(command, arguments, options)
    values, settings = _parse(command, arguments, options, settings)
    if "print_config" in typed and "config" in parameters:
        print(configuration(unbuilt(resolve(DEFAULTS | settings, import_named))), end="")
        return
    # What nobody mentioned is left to the run, or to the defaults of the workflow.
    of_run = "resume" in typed or command.__name__ == "evaluate"
    mentioned = {name.partition(".")[0] for name in typed} | ({*settings} if not of_run else set())
    only = [*mentioned, *(["config"] if "config" in parameters and mentioned & {*FIELDS} else [])]
    command(**values | build(resolve(settings, import_named), only))


def _split(command: Command, words: list[str]) -> tuple[list[str], Options]:
    """Arguments, and options with their values; hyphens in names become underscores."""
    hints = get_type_hints(command)
    switches = {"help", "h", "print_config", *(name for name, hint in hints.items() if hint is bool)}
    arguments: list[str] = []
    options: Options = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and word != "-h":
            raise OptionError(f"options must begin with two hyphens; received {word}: write --{name}")
        name = name.replace("-", "_").replace(".init_args.", ".").removesuffix(".class_path")
        follows = rest and (rest[0].lower() in ("true", "false") if name in switches else rest[0][:2] != "--")
        default = "true" if name in switches else None
        options.append((name, value if equals else rest.pop(0) if follows else default))
    return arguments, options


def _settings(command: Command, arguments: list[str], options: Options) -> Settings:
    """Settings that typed ones start from: of the run that is resumed or evaluated, and of ``--config``.

    A file in the current folder is the user's own word, unless that folder is a run; the classes that one in
    another folder names are judged as those of a run are.
    """
    typed = dict(options)
    trust = typed.get("trust") or ""
    if command.__name__ == "evaluate":
        run = run_of(Path(arguments[0])) if arguments and arguments[0] else None
        return {} if run is None else {"data": run_settings(run, trust, ())[0]["data"]}
    resumed = typed.get("resume")
    run = RunFolder(Path(resumed)) if resumed else None
    settings = run_settings(run, trust)[0] if run is not None and run.config.exists() else {}
    for name, value in options:
        if name == "config":
            path = given_path("--config", value or "")
            read, run = read_settings(path), run_of(path.parent)
            of_run = run is not None and run.config.resolve() == path.resolve() and run.checkpoints.exists()
            if of_run or path.parent.resolve() != Path.cwd():
                check_classes(read, path.parent, Trust(packages(trust), inside=path.parent).find)
            settings |= read
    return settings


def _parse(
    command: Command, arguments: list[str], options: Options, settings: Settings
) -> tuple[dict[str, Any], Settings]:
    """Typed values of the command's own parameters, and the settings with the typed ones in place.

    Raises:
        OptionError: an unknown option or class, a value of another type, an argument missing.
    """
    name, parameters = command.__name__, inspect.signature(command).parameters
    positional = [n for n, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    if extra := arguments[len(positional) :]:
        usage = " ".join(map(str.upper, positional)) or "options only"
        raise OptionError(
            f"convlstm {name} takes {usage}; received {extra[0]!r} as well: see convlstm {name} --help"
        )
    chosen, filed = _chosen(parameters, dict(options), settings), _chosen(parameters, {}, settings)
    for part in chosen.keys() & dict(options).keys():
        if chosen[part] is not filed[part] or part not in settings:
            settings = settings | {part: {"class_path": path_of(chosen[part])}}
    filled = [*zip(positional, arguments, strict=False), *options]
    hints, shown = get_type_hints(command), {n: n.upper() if n in positional else f"--{n}" for n, _ in filled}
    for n, v in filled:
        if v is not None and is_path(hints.get(n)):
            given_path(shown[n], v)
        if v is not None and ("\0" in v or v.count(os.sep) > _MOST_FOLDERS):
            raise OptionError(
                f"{shown[n]} must be a path or text without null characters; received {v[:99]!r}"
            )
    # A class before its arguments.
    filled = sorted(filled, key=lambda option: option[0].count("."))
    words = [(n, v) for n, v in filled if n not in (*chosen, "config", "print_config")]
    known = [f"{part}.{key}" for part, kind in chosen.items() for key in inspect.signature(kind).parameters]
    known += [n for n in parameters if n not in positional] + [*(FIELDS if "config" in parameters else ())]
    outlines = {n: _outline(made) for n, made in resolve(settings, import_named).items() if n in PARTS}
    start = Namespace({n: outline for n, outline in outlines.items() if outline})  # type: ignore[no-untyped-call]
    values = _read(_parser(command, chosen), words, start, known)
    for n, parameter in parameters.items():
        if parameter.default is parameter.empty and values.get(n) is None:
            missing = n.upper() if n in positional else f"--{n}"
            raise OptionError(f"convlstm {name} needs {missing}; received none: see convlstm {name} --help")
    wanted = (*FIELDS, *PARTS) if "config" in parameters else chosen
    own = {n: v for n, v in values.items() if n in parameters and n not in wanted}
    return own, _merged(settings, {n: v for n, v in values.items() if n in wanted})


def _outline(made: Any) -> Any:
    """A resolved part with its classes alone, to which typed arguments may belong; None for anything else."""
    kind, arguments = (made.func, made.keywords) if isinstance(made, partial) else (made, {})
    if not isinstance(kind, type):
        return None
    inner = {name: outline for name, value in arguments.items() if (outline := _outline(value))}
    return Namespace(class_path=path_of(kind), init_args=Namespace(inner))  # type: ignore[no-untyped-call]


def _merged(settings: Settings, typed: Settings) -> Settings:
    """Settings with those typed in place; arguments of a class that was replaced are dropped."""
    result = dict(settings)
    for name, value in typed.items():
        old = {"class_path": settings[name]} if isinstance(settings.get(name), str) else settings.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and "class_path" in old.keys() & value.keys():
            same = import_named(old["class_path"]) is import_named(value["class_path"])
            arguments = _merged((same and old.get("init_args")) or {}, value.get("init_args") or {})
            value = {"class_path": value["class_path"], "init_args": arguments}
        result[name] = value
    return result


def _chosen(parameters: Mapping[str, Any], typed: Mapping[str, Any], settings: Settings) -> dict[str, type]:
    """The class of each part that has one by default: as typed, as in a file, or that of the default."""
    chosen = {}
    for name in (name for name in DEFAULTS if name in parameters and "Path" not in str(parameters[name])):
        section = settings.get(name) or DEFAULTS[name]
        path = section.get("class_path") or DEFAULTS[name] if isinstance(section, Mapping) else section
        chosen[name] = import_named(typed.get(name, path), kind_of(name), option=f"--{name}", functions=False)
    return chosen


def _parser(command: Command, chosen: Mapping[str, type], *, flat: bool = False) -> ArgumentParser:
    """A parser with an option for everything.

    Args:
        command: whose parameters become options.
        chosen: classes of data and model.
        flat: list the arguments of these classes and what is read before, for a help page.
    """
    name, hints = command.__name__, get_type_hints(command)
    doc = docstring_parser.parse(getattr(import_module(f"convlstm.workflows.{name}"), name).__doc__)
    texts = {p.arg_name: p.description for p in doc.params}
    parser = ArgumentParser(
        prog=f"convlstm {name}",
        description=f"{doc.short_description} {doc.long_description or ''}",
        usage="%(prog)s [OPTIONS]",
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
        parser_mode="typed",
        formatter_class=HelpFormatter,
    )
    for name, parameter in inspect.signature(command).parameters.items():
        hint = (
            next(iter(get_args(hints[name])), hints[name])
            if NoneType in get_args(hints[name])
            else hints[name]
        )
        default = None if parameter.default is parameter.empty else parameter.default
        if name == "config":
            parser.add_class_arguments(TrainingConfig, None)
        elif name in chosen and flat:
            parser.add_class_arguments(chosen[name], name, fail_untyped=False)
        elif name in chosen:
            parser.add_argument(
                f"--{name}", type=kind_of(name), default={"class_path": path_of(chosen[name])}
            )
        else:
            if name == "callbacks" and not flat:
                hint = list[kind_of(name)]  # type: ignore[misc]
            parser.add_argument(f"--{name}", type=hint, default=default, help=texts.get(name))
    if flat and "config" in hints:
        parser.add_argument(
            "--config", help="a YAML file of options, such as a run's config.yaml; typed ones count"
        )
        parser.add_argument(
            "--print_config", action="store_true", help="print all options as --config takes them"
        )
    return parser


def _read(parser: ArgumentParser, options: Options, start: Namespace, known: list[str]) -> dict[str, Any]:
    """Typed values by name; an option without a value is a switch, if it can be true."""
    words, bare = [f"--{n}" if v is None else f"--{n}={v}" for n, v in options], ""
    while True:
        try:
            read = parser.parse_args(words, namespace=start.clone(), defaults=False, _skip_validation=True)
            if bare and read[bare[2:].replace(".", ".init_args.")] is not True:
                raise OptionError(f"{bare} needs a value; received none: see {parser.prog} --help")
            return dict(read.as_dict())
        except ArgumentError as error:
            found = re.search("argument (--[^ /]*).*: expected one argument", str(error))
            if bare or not found or found[1] not in words:
                hint = f"{bare} needs a value; received none: see {parser.prog} --help"
                raise OptionError(hint if bare else sentence(str(error), parser.prog, known)) from error
            bare = found[1]
            words[words.index(bare)] = f"{bare}=true"
