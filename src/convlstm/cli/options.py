"""The options of a command, read by jsonargparse from the signature of its workflow.

What is typed and what a configuration file holds become one set of settings, from which
`convlstm.workflows.parts` makes objects.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader, set_parsing_settings

from convlstm.cli.messages import HelpFormatter, sentence
from convlstm.errors import OptionError
from convlstm.hyperparameters import path_of
from convlstm.training.config import TrainingConfig
from convlstm.training.run_folder import RunFolder, run_of
from convlstm.validation import check_path
from convlstm.workflows.classes import import_named, kind_of
from convlstm.workflows.configuration import Settings, argument_types, configuration, is_path, read_yaml
from convlstm.workflows.parts import (
    DEFAULTS,
    FIELDS,
    PARTS,
    build,
    chosen_classes,
    merged,
    read_configuration,
    resolve,
    run_settings,
    unbuilt,
)

#: Names, with underscores, and the values that were typed.
Options = list[tuple[str, str | None]]


def _read_value(text: str) -> Any:
    """A typed value: numbers, lists and mappings in braces as YAML has them, all else as text."""
    value = read_yaml(text)
    return text if value is None or (isinstance(value, dict) and text.lstrip()[0] != "{") else value


set_loader("typed", _read_value, (yaml.YAMLError,))
set_parsing_settings(
    import_path_denylist=[]
)  # jsonargparse's own list of what no option may name is in force


class Command:
    """A workflow as a command.

    Args:
        name: of the workflow.
    """

    def __init__(self, name: str) -> None:
        self.workflow = getattr(import_module(f"convlstm.workflows.{name}"), name)
        self.name, hints = name, get_type_hints(self.workflow)
        parameters = {n: p for n, p in signature(self.workflow).parameters.items() if n != "watch"}
        self.types = {n: _type(n, hints[n]) for n in parameters}
        self.arguments = [n for n, p in parameters.items() if p.kind is not p.KEYWORD_ONLY and n != "out"]
        self.required = [n for n, p in parameters.items() if p.default is Parameter.empty]
        self.required += ["out"] if name == "forecast" else []
        self.defaults = {
            n: p.default for n, p in parameters.items() if p.default not in (Parameter.empty, ())
        }
        #: The parts that have a class by default, and every option that a configuration may hold.
        self.classes = [n for n in DEFAULTS if self.types.get(n) not in (None, Path)]
        self.settings = (*FIELDS, *PARTS) if "config" in parameters else tuple(self.classes)

    def call(self, command: Callable[..., None], words: list[str]) -> None:
        """Call the command with what was typed, or print its help or its configuration."""
        arguments, options = self.split(words)
        typed = dict(options)
        if typed.keys() & {"help", "h"}:
            print(self.parser(chosen_classes({}, self.classes, typed), flat=True).format_help(), end="")
            return
        values, settings = self.parse(arguments, options, self.filed(arguments, options))
        if "print_config" in typed and "config" in self.types:
            print(configuration(unbuilt(resolve(DEFAULTS | settings, import_named))), end="")
            return
        # Parts that are not mentioned are left to the run, or to the defaults of the workflow.
        mentioned = {re.split("[.+]", name)[0] for name in typed}
        of_run = "resume" in typed or self.name == "evaluate"
        mentioned |= {*settings} if "config" in typed or not of_run else set()
        only = [*mentioned, *(["config"] if "config" in self.types and mentioned & {*FIELDS} else [])]
        command(**values | build(resolve(settings, import_named), only))

    def split(self, words: list[str]) -> tuple[list[str], Options]:
        """Arguments, and options with their values; hyphens in names become underscores."""
        switches = {"help", "h", "print_config", *(name for name, kind in self.types.items() if kind is bool)}
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
        if extra := arguments[len(self.arguments) :]:
            usage = " ".join(map(str.upper, self.arguments)) or "options only"
            hint = f"see convlstm {self.name} --help"
            raise OptionError(f"convlstm {self.name} takes {usage}; received {extra[0]!r} as well: {hint}")
        return arguments, options

    def filed(self, arguments: list[str], options: Options) -> Settings:
        """Settings that typed ones start from: of the run that is resumed or evaluated, and of files."""
        typed = dict(options)
        trust, resumed = typed.get("trust") or "", typed.get("resume")
        if self.name == "evaluate":
            run = run_of(Path(arguments[0])) if arguments and arguments[0] else None
            return {} if run is None else {"data": run_settings(run, trust, ())[0]["data"]}
        settings: Settings = {}
        if resumed and RunFolder(Path(resumed)).config.exists():
            settings = run_settings(RunFolder(Path(resumed)), trust)[0]
        for name, value in options:
            if name == "config":
                settings |= read_configuration(check_path(value or "", "--config"), trust)
        return settings

    def parse(
        self, arguments: list[str], options: Options, settings: Settings
    ) -> tuple[dict[str, Any], Settings]:
        """Typed values of the workflow's own parameters, and the settings with the typed ones in place.

        Raises:
            OptionError: an unknown option or class, a value of another type, an argument missing.
        """
        chosen = chosen_classes(settings, self.classes, dict(options))
        filed = chosen_classes(settings, self.classes, {})
        for part in chosen.keys() & dict(options).keys():
            if chosen[part] is not filed[part] or part not in settings:
                settings = settings | {part: {"class_path": path_of(chosen[part])}}
        filled: Options = [*zip(self.arguments, arguments, strict=False), *options]
        for k, (n, v) in enumerate(filled):
            part, _, argument = n.partition(".")
            if v is None and argument_types(chosen.get(part, dict)).get(argument) is not bool:
                raise OptionError(f"--{n} needs a value; received none: see convlstm {self.name} --help")
            filled[k] = (n, "true" if v is None else v)
            if v is not None and is_path(self.types.get(n)):
                check_path(v, n.upper() if n in self.arguments else f"--{n}")
        # A class before its arguments; those of a callback follow it.
        filled.sort(key=lambda option: option[0].count(".") * (option[0][:9] != "callbacks"))
        words = [f"--{n}={v}" for n, v in filled if n not in (*chosen, "config", "print_config")]
        outlines = {n: _outline(made) for n, made in resolve(settings, import_named).items() if n in PARTS}
        start = Namespace({n: outline for n, outline in outlines.items() if outline})  # type: ignore[no-untyped-call]
        parser = self.parser(chosen)
        try:
            values = parser.parse_args(
                words, namespace=start, defaults=False, _skip_validation=True
            ).as_dict()
        except ArgumentError as error:
            known = [f"{part}.{key}" for part, kind in chosen.items() for key in signature(kind).parameters]
            known += [n for n in (*self.types, *self.settings) if n not in (*self.arguments, *chosen)]
            raise OptionError(sentence(str(error), parser.prog, known)) from error
        if missing := [n for n in self.required if values.get(n) is None]:
            shown = missing[0].upper() if missing[0] in self.arguments else f"--{missing[0]}"
            raise OptionError(
                f"convlstm {self.name} needs {shown}; received none: see convlstm {self.name} --help"
            )
        typed = {n: v for n, v in values.items() if n in self.settings}
        own = {n: v for n, v in values.items() if n in self.types and n not in typed}
        return own, merged(settings, typed)

    def parser(self, chosen: Mapping[str, type], *, flat: bool = False) -> ArgumentParser:
        """A parser with an option for everything.

        Args:
            chosen: classes of data and model.
            flat: list the arguments of these classes and what is read before, for a help page.
        """
        doc = docstring_parser.parse(self.workflow.__doc__)
        texts = {p.arg_name: p.description for p in doc.params}
        parser = ArgumentParser(
            prog=f"convlstm {self.name}",
            description=f"{doc.short_description} {doc.long_description or ''}",
            usage=" ".join(["%(prog)s", *map(str.upper, self.arguments), "[OPTIONS]"]),
            exit_on_error=False,
            allow_abbrev=False,
            print_config=None,
            parser_mode="typed",
            formatter_class=HelpFormatter,
        )
        for name, kind in self.types.items():
            if name == "config":
                parser.add_class_arguments(TrainingConfig, None)
            elif name in chosen and flat:
                parser.add_class_arguments(chosen[name], name, fail_untyped=False)
            else:
                default = {"class_path": path_of(chosen[name])} if name in chosen else self.defaults.get(name)
                kind = list[kind_of(name)] if name == "callbacks" and not flat else kind  # type: ignore[misc]
                flag = name.upper() if flat and name in self.arguments else f"--{name}"
                extra: dict[str, Any] = {"default": default} if flag[0] == "-" else {}
                extra |= {"required": True} if extra and flat and name in self.required else {}
                parser.add_argument(flag, type=kind, help=texts.get(name), **extra)
        if flat and "config" in self.types:
            parser.add_argument("--config", help="a YAML file of options, such as a run's; typed ones count")
            parser.add_argument("--print_config", action="store_true", help="print all, as --config takes it")
        return parser


def _type(name: str, hint: Any) -> Any:
    """The type that is typed on a command line for an argument of a workflow."""
    if is_path(hint):
        return Path
    if name in ("optimizer", "scheduler"):
        return Callable[[Any], kind_of(name)]
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kind_of(name) if name in DEFAULTS else list if name == "callbacks" else (kinds or [hint])[0]


def _outline(made: Any) -> Any:
    """A resolved part with its classes alone, to which typed arguments may belong; None for anything else."""
    kind, arguments = (made.func, made.keywords) if isinstance(made, partial) else (made, {})
    if not isinstance(kind, type):
        return None
    inner = {name: outline for name, value in arguments.items() if (outline := _outline(value))}
    return Namespace(class_path=path_of(kind), init_args=Namespace(inner))  # type: ignore[no-untyped-call]
