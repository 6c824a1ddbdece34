"""The options of a command, read by jsonargparse from the signature of its workflow.

What a file holds and what is typed become classes with arguments by `convlstm.workflows.parts`. No text of a
file reaches jsonargparse, which is given the classes alone, once they are allowed.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader, set_parsing_settings
from jsonargparse.typing import register_type

from convlstm.cli import commands
from convlstm.cli.messages import HelpFormatter, no_option, sentence
from convlstm.errors import OptionError
from convlstm.hyperparameters import path_of
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, import_path, run_of
from convlstm.trust import is_dotted
from convlstm.validation import check_path
from convlstm.workflows.class_names import import_named
from convlstm.workflows.configuration import (
    Settings,
    argument_types,
    is_path,
    plain_settings,
    read_yaml,
    yaml_of,
)
from convlstm.workflows.frames import archive_of, is_frames, with_options_of
from convlstm.workflows.parts import (
    CHANNELS,
    DEFAULTS,
    FIELDS,
    PARTS,
    build,
    kind_of,
    merged,
    of_file,
    of_run,
    resolve_parts,
    unbuilt,
)

#: Options of what a command prints, by command, and their help.
SWITCHES = {"evaluate": {"all": "print the tables of all scores, and not of the main ones alone"}}
#: Names, with underscores, and the values that were typed.
Options = list[tuple[str, str | None]]


def _read_value(text: str) -> Any:
    """A typed value: numbers, lists and mappings in braces as YAML has them, all else as text."""
    value = read_yaml(text)
    return text if value is None or (isinstance(value, dict) and text.lstrip()[0] != "{") else value


set_loader("typed", _read_value, (yaml.YAMLError,))
register_type(os.PathLike, str, os.fspath, fail_already_registered=False)  # its own reads null as text
set_parsing_settings(import_path_denylist=[])  # its own list of what no option may name stays in force


class Command:
    """A workflow as a command.

    Args:
        name: of the workflow.
    """

    def __init__(self, name: str) -> None:
        self.name, self.workflow = name, getattr(import_module(f"convlstm.workflows.{name}"), name)
        self.hint, hints = f"see convlstm {name} --help", get_type_hints(self.workflow)
        own = getattr(commands, name)  # whose options say how to print
        hints |= get_type_hints(own)
        known = {**signature(self.workflow).parameters, **signature(own).parameters}
        self.parameters = {n: p for n, p in known.items() if n != "watch" and p.kind is not p.VAR_KEYWORD}
        self.types = {n: _type(n, hints[n]) for n in self.parameters}
        self.types |= dict.fromkeys(SWITCHES.get(name, ()), bool)
        self.arguments = [
            n
            for n, p in self.parameters.items()
            if p.kind is not p.KEYWORD_ONLY and n not in ("out", "steps")
        ]
        several = [n for n in self.arguments if any(get_origin(k) is Sequence for k in get_args(hints[n]))]
        #: The argument that takes all words that are left, such as several paths.
        self.several = several[-1] if several else None
        self.types |= dict.fromkeys(several, list[str])
        #: The parts that have a class by default, and every option that a configuration may hold.
        self.parts = [n for n in DEFAULTS if self.types.get(n) not in (None, Path)]
        self.settings = (*FIELDS, *PARTS) if "config" in self.types else tuple(self.parts)

    @import_path()
    def call(self, command: Callable[..., None], words: list[str]) -> None:
        """Call the command with what was typed, or print its help or its configuration."""
        arguments, options = self.split(words)
        if self.name == "plan":
            arguments, options = self.with_class(arguments, options)
        typed = dict(options)
        helps = typed.keys() & {"help", "h"}
        filed = {} if helps else self.filed(arguments, options)
        resolved = resolve_parts({n: DEFAULTS[n] for n in self.parts}, import_named) | filed
        for n in typed.keys() & {*self.parts}:
            made = archive_of(typed[n]) if n == "data" else None
            made = with_options_of(made, filed.get(n)) if made else made
            made = made or partial(import_named(typed[n] or "", kind_of(n), option=f"--{n}", functions=False))
            resolved = merged(resolved, {n: made})
        functions: dict[str, Any] = {}  # jsonargparse takes those alone whose return type is annotated
        for n, v in options:
            if n in PARTS and n not in self.parts and "." in (v or "") and is_dotted(v):
                found = import_named(v, kind_of(n), option=f"--{n}", functions=n != "callbacks")
                functions |= {} if isinstance(found, type) else {n: found}
        resolved = merged(resolved, {n: partial(function) for n, function in functions.items()})
        chosen = {n: resolved[n].func for n in self.parts}
        parser = self.parser(chosen, bool(helps))
        if helps:
            print(parser.format_help(), end="")
            return
        values = self.parse(parser, self.words(arguments, options, chosen | functions), resolved, chosen)
        # Parts that are not mentioned are left to the run, or to the defaults of the workflow.
        mentioned = {re.split("[.+]", n)[0] for n in typed}
        changes = {n: v for n, v in values.items() if n in self.settings and n in mentioned}
        resolved = merged(resolved, resolve_parts(changes, import_named))
        if "print_config" in typed and "config" in self.types:
            settings = plain_settings(unbuilt(resolved))
            for n in CHANNELS.keys() - resolved["model"].keywords.keys():
                settings["model"]["init_args"].pop(n, None)  # those of the data
            print(yaml_of(settings), end="")
            return
        if "config" in typed or not ("resume" in typed or self.name == "evaluate"):
            mentioned |= {*filed}
        if "config" in self.types and mentioned & {*FIELDS}:
            mentioned.add("config")
        own = {n: v for n, v in values.items() if n in self.types and n not in self.settings}
        command(**own | build(resolved, mentioned))

    def split(self, words: list[str]) -> tuple[list[str], Options]:
        """Arguments, and options with their values; hyphens in names become underscores."""
        switches = {"help", "h", "print_config", *(name for name, kind in self.types.items() if kind is bool)}
        if "config" in self.types:
            switches |= {field.name for field in fields(TrainingConfig) if field.type is bool}
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
            follows = rest and (rest[0] in ("true", "false") if name in switches else rest[0][:2] != "--")
            default = "true" if name in switches else None
            options.append((name, value if equals else rest.pop(0) if follows else default))
            if name == "data" and len(arguments) == len(self.arguments):  # a pattern that the shell expanded
                more = list(takewhile(lambda word: word[:2] != "--" and is_frames(word), rest))
                rest = rest[len(more) :]
                options[-1] = (name, json.dumps([options[-1][1], *more]) if more else options[-1][1])
        place = self.arguments.index(self.several) if self.several else len(arguments)
        if arguments[place:]:
            arguments[place:] = [json.dumps(arguments[place:])]
        if extra := arguments[len(self.arguments) :]:
            usage = " ".join(map(str.upper, self.arguments)) or "options only"
            raise OptionError(
                f"convlstm {self.name} takes {usage}; received {extra[0]!r} as well: {self.hint}"
            )
        return arguments, options

    def with_class(self, arguments: list[str], options: Options) -> tuple[list[str], Options]:
        """MODEL as --model, whose arguments are options then, if it names a class and no folder."""
        if not arguments or os.sep in arguments[0] or os.path.exists(arguments[0]):
            own = [name for name, _ in options if name.startswith("model.")] if arguments else []
            if own:
                raise OptionError(
                    f"a model in a folder has its options there; received --{own[0]} for {arguments[0]}: "
                    "leave it out, or name a class"
                )
            return arguments, options
        self.arguments, self.parts, self.settings = [], ["model"], ("model",)
        self.types["model"] = kind_of("model")
        return [], [("model", arguments[0]), *options]

    def filed(self, arguments: list[str], options: Options) -> Settings:
        """Resolved settings of the run that is resumed or evaluated, and of files; typed ones change them."""
        typed = dict(options)
        trust, resumed = typed.get("trust") or "", RunFolder(Path(typed.get("resume") or ""))
        if self.name == "evaluate":
            run = run_of(check_path(arguments[0], "MODEL")) if arguments else None
            return {} if run is None else {"data": of_run(run, trust, ())["data"]}
        filed = of_run(resumed, trust) if typed.get("resume") and resumed.config.exists() else {}
        for name, value in options:
            if name == "config":
                filed |= of_file(check_path(value or "", "--config"), trust)
        return filed

    def words(self, arguments: list[str], options: Options, chosen: Mapping[str, type]) -> list[str]:
        """Words for jsonargparse: each option with its value, a class before its arguments."""
        filled: Options = [*zip(self.arguments, arguments, strict=False), *options]
        for k, (n, v) in enumerate(filled):
            if "." in n and n.partition(".")[0] not in PARTS:  # jsonargparse takes it for a value
                raise OptionError(no_option(n, f"convlstm {self.name}", self.known(chosen)))
            if n == "callbacks" and v and v[0] not in "[{":  # one class: the first of a list
                n = "callbacks+"
            part, _, argument = n.partition(".")
            if v is None and argument_types(chosen.get(part, dict)).get(argument) is not bool:
                raise OptionError(f"--{n} needs a value; received none: {self.hint}")
            if v is not None and is_path(self.types.get(n)):
                check_path(v, n.upper() if n in self.arguments else f"--{n}")
            filled[k] = (n, "true" if v is None else v)
        filled.sort(key=lambda option: option[0].count(".") * (option[0][:9] != "callbacks"))
        return [f"--{n}={v}" for n, v in filled if n not in (*chosen, "config", "print_config")]

    def known(self, chosen: Mapping[str, type]) -> list[str]:
        """Names of all options, such as ``data.canvas``."""
        known = [f"{part}.{key}" for part, kind in chosen.items() for key in signature(kind).parameters]
        return known + [n for n in (*self.types, *self.settings) if n not in (*self.arguments, *chosen)]

    def parse(
        self, parser: ArgumentParser, words: list[str], resolved: Settings, chosen: Mapping[str, type]
    ) -> dict[str, Any]:
        """Typed values, those of a part under ``class_path`` and ``init_args``.

        Raises:
            OptionError: an unknown option or class, a value of another type, an argument missing.
        """
        outlines = {n: outline for n, made in resolved.items() if n in PARTS and (outline := _outline(made))}
        outlines |= {n: outlines[n].init_args for n in chosen}
        try:
            start = Namespace(outlines)  # type: ignore[no-untyped-call]
            parsed = parser.parse_args(words, namespace=start, defaults=False, _skip_validation=True)
        except ArgumentError as error:
            raise OptionError(sentence(str(error), parser.prog, self.known(chosen))) from error
        values: dict[str, Any] = parsed.as_dict()
        needed = [n for n, p in self.parameters.items() if p.default is p.empty and n not in chosen]
        needed += ["out"] if self.name in ("forecast", "inspect") else []
        for n in needed:
            if values.get(n) is None:
                shown = n.upper() if n in self.arguments else f"--{n}"
                raise OptionError(f"convlstm {self.name} needs {shown}; received none: {self.hint}")
        return values | {
            n: {"class_path": path_of(kind), "init_args": values.get(n)} for n, kind in chosen.items()
        }

    def parser(self, chosen: Mapping[str, type], page: bool) -> ArgumentParser:
        """A parser with an option for everything, for the arguments of the chosen data and model too.

        That of a help page needs no class of Lightning and shows arguments without names.
        """
        doc = docstring_parser.parse(self.workflow.__doc__)
        texts = {p.arg_name: p.description for p in doc.params} | SWITCHES.get(self.name, {})
        texts |= {"json": "print JSON, for a program to read"}
        optional = {n for n in self.arguments if self.parameters[n].default is not Parameter.empty}
        places = [n.upper() + "..." * (n == self.several) for n in self.arguments]
        places = [f"[{p}]" if n in optional else p for n, p in zip(self.arguments, places, strict=True)]
        parser = ArgumentParser(
            prog=f"convlstm {self.name}",
            description=f"{doc.short_description} {doc.long_description or ''}",
            usage=" ".join(["%(prog)s", *places, "[OPTIONS]"]),
            exit_on_error=False,
            allow_abbrev=False,
            print_config=None,
            parser_mode="typed",
            formatter_class=HelpFormatter,
        )
        for name, kind in self.types.items():
            kind = list[kind_of(name)] if name == "callbacks" and not page else kind  # type: ignore[misc]
            default = self.parameters[name].default if name in self.parameters else False
            if name == "config":
                parser.add_class_arguments(TrainingConfig, None)
            elif name in chosen:
                parser.add_class_arguments(chosen[name], name, fail_untyped=False)
            elif page and name in self.arguments:
                given: dict[str, Any] = {"nargs": "?", "default": default} if name in optional else {}
                parser.add_argument(name.upper(), type=str, help=texts.get(name), **given)
            else:
                given = {} if default in (Parameter.empty, ()) else {"default": default}
                parser.add_argument(f"--{name}", type=kind, help=texts.get(name), **given)
        if "config" in self.types:
            parser.add_argument("--config", help="a YAML file of options, such as a run's; typed ones count")
            parser.add_argument("--print_config", action="store_true", help="print all, as --config takes it")
        return parser


def _type(name: str, hint: Any) -> Any:
    """The type that is typed on a command line for an argument of a workflow."""
    if is_path(hint):
        return Path
    if name in ("optimizer", "scheduler"):
        return Callable[[Any], kind_of(name)]
    if name != "trust" and any(get_origin(kind) is Sequence for kind in (hint, *get_args(hint))):
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kind_of(name) if name in DEFAULTS else list if name == "callbacks" else (kinds or [hint])[0]


def _outline(made: Any) -> Any:
    """A resolved part with its classes alone, to which typed arguments may belong; None for anything else."""
    kind, arguments = (made.func, made.keywords) if isinstance(made, partial) else (made, {})
    if not isinstance(kind, type):
        return None
    inner = {name: outline for name, value in arguments.items() if (outline := _outline(value))}
    return Namespace(class_path=path_of(kind), init_args=Namespace(inner))  # type: ignore[no-untyped-call]
