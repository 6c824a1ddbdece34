"""The options of a command, from the signature of its function, by jsonargparse.

A parameter without a default is an argument, any other an option. The fields of a `TrainingConfig` are
options of their own; a `Source` or `Forecaster` is a class (``--data my_package.MySource``) whose arguments
are options too (``--data.width 8``).
"""

import inspect
import json
import re
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from convlstm.atomic_write import given_path
from convlstm.cli.configuration import Settings, yaml_of
from convlstm.cli.names import (
    factory,
    has_type,
    import_class,
    is_text,
    nearest,
    placeholder,
    plain_factory,
    type_in_words,
)
from convlstm.cli.trusted import typed_settings
from convlstm.cli.words import Option, check_possible, needed, nested, split
from convlstm.data.base import Source
from convlstm.errors import ConvLSTMError, OptionError
from convlstm.hyperparameters import path_of
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig

#: What a part of a run is made of unless a class is named.
DEFAULT_CLASSES: dict[Any, str] = {Source: "convlstm.MovingObjects", Forecaster: "convlstm.EncoderForecaster"}


def call(
    function: Callable[..., Any],
    words: list[str],
    settings: Callable[[list[str], dict[str, str | None]], Settings] | None = None,
) -> None:
    """Call a command with what was typed, or show its help or its configuration.

    Args:
        function: the command.
        words: what was typed after its name.
        settings: from the arguments and options that were typed, those of `parse` as a file would hold them.
    """
    arguments, options = split(function, words)
    if any(name in ("help", "h") for name, _ in options):
        from convlstm.cli.pages import page

        chosen = {name: value for name, value in options if value is not None}
        print(page(command_of(function, chosen, {})), end="")
        return
    printing = any(name == "print_config" for name, _ in options)
    typed = [option for option in options if option[0] != "print_config"]
    command = parse(function, arguments, typed, settings and settings(arguments, dict(typed)))
    if printing and command.config:
        print(command.text(), end="")
        return
    function(**command.build())


def parse(
    function: Callable[..., Any],
    arguments: list[str],
    options: list[Option],
    settings: Settings | None = None,
) -> "Command":
    """Check and understand everything that was given, before anything is done.

    Raises:
        OptionError: an unknown option or class, a value of another type, an argument missing.
    """
    settings = dict(settings or {})
    for name, value in options:
        if name == "config" and _config_of(function):
            trust = dict(options).get("trust") or ()
            settings |= typed_settings(function, given_path("--config", needed(name, value, Path)), trust)
    typed = [(name, value) for name, value in options if name != "config" or not _config_of(function)]
    command = command_of(function, {name: value for name, value in typed if value is not None}, settings)
    command.read(arguments, typed, settings)
    return command


def command_of(function: Callable[..., Any], typed: Mapping[str, Any], settings: Settings) -> "Command":
    """The parser for the classes that were chosen, by an option or in a file."""
    parts = {}
    for name, base in _parts_of(function).items():
        section = settings.get(name)
        in_file = section.get("class_path") if isinstance(section, Mapping) else section
        if name in settings and not section:
            raise OptionError(
                f"{name} in the configuration must hold a class_path; it is empty: leave {name} out for the "
                "default"
            )
        chosen = typed[name] if name in typed else in_file or DEFAULT_CLASSES[base]
        parts[name] = import_class(chosen, base, f"--{name}")
    return Command(function, parts)


@dataclass
class Command:
    """A command, the classes of its parts, and the values of its options.

    Args:
        function: what is called in the end.
        parts: the class of each parameter that is a `Source` or a `Forecaster`.
        values: of every option, once read.
        given: parameters, and fields of the configuration, that were mentioned.
        exact: values of options that are passed on as they were given.
        inner: parsers of the options of classes given to options, such as ``--model.cell.width``.
    """

    function: Callable[..., Any]
    parts: dict[str, type]
    values: Namespace = field(default_factory=Namespace)
    given: set[str] = field(default_factory=set)
    exact: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, ArgumentParser] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it is typed."""
        return self.function.__name__

    @property
    def config(self) -> str | None:
        """The parameter that takes a `TrainingConfig`, if there is one."""
        return _config_of(self.function)

    @cached_property
    def arguments(self) -> list[str]:
        """Parameters that are given by position."""
        empty, parameters = inspect.Parameter.empty, inspect.signature(self.function).parameters
        return [n for n, p in parameters.items() if p.default is empty and p.kind is not p.KEYWORD_ONLY]

    @property
    def own(self) -> list[str]:
        """The function's parameters, in their order."""
        return list(inspect.signature(self.function).parameters)

    @property
    def texts(self) -> dict[str, str]:
        """What the docstring says about each parameter."""
        return {
            p.arg_name: p.description or ""
            for p in docstring_parser.parse(self.function.__doc__ or "").params
        }

    @cached_property
    def parser(self) -> ArgumentParser:
        """A jsonargparse parser with an option for everything."""
        parser = ArgumentParser(exit_on_error=False, add_help=False, default_env=False)
        hints = get_type_hints(self.function)
        for name, parameter in inspect.signature(self.function).parameters.items():
            if name == self.config:
                parser.add_class_arguments(TrainingConfig, None)
            elif name in self.parts:
                parser.add_class_arguments(self.parts[name], name, fail_untyped=False)
            else:
                default = None if parameter.default is parameter.empty else parameter.default
                parser.add_argument(f"--{name}", type=hints[name], default=default, help=self.texts.get(name))
        return parser

    @cached_property
    def types(self) -> dict[str, Any]:
        """The type of every option, arguments included."""
        return {
            action.dest: hint
            for action in self.parser._actions
            if action.default != SUPPRESS  # an option of the parser's own, which shows help
            and (hint := getattr(action, "_typehint", None) or action.type) is not None
        }

    def read(self, arguments: list[str], options: list[Option], settings: Settings) -> None:
        """Take values from what was typed and from a file; what was typed counts."""
        if len(arguments) > len(self.arguments):
            extra = arguments[len(self.arguments)]
            raise OptionError(
                f"convlstm {self.name} takes {self.usage() or 'options only'}; received {extra!r} as well: "
                f"see convlstm {self.name} --help"
            )
        typed = [*zip(self.arguments, arguments, strict=False), *options]
        filed = dict(self._flat(settings))
        factories = self._factories({**filed, **dict(typed)})
        known = {**self.types, **factories}
        for name, _ in options:
            if name not in self.parts:
                self._check_known(name, f"--{name}", known)
        for name in filed:
            self._check_known(name, f"{name} in the configuration", known)
        self._check_complete(dict(typed), filed)
        values = [(name, needed(name, value, known[name])) for name, value in typed if name not in self.parts]
        for name, value in values:
            shown = name.upper() if name in self.arguments else f"--{name}"
            check_possible(shown, value, self.types.get(name))
        self.given = {name.partition(".")[0] for name, _ in typed} | {n.partition(".")[0] for n in settings}
        try:
            namespace = self.parser.parse_object(nested(filed), _skip_validation=True)
            self.values = self.parser.parse_args([f"--{n}={v}" for n, v in values], namespace=namespace)
        except ArgumentError as error:
            raise self._blame(error, filed, values, known) from error
        # Where a type allows something else than text, too, the parser reads text as YAML.
        exact = {n: v for n, v in filed.items() if n in self.types and has_type(v, self.types[n])}
        self.exact = {n: v for n, v in exact.items() if n not in dict(values)}
        for name, value in values:
            if name in self.types and is_text(self.types[name]):
                none = value == "null" and NoneType in get_args(self.types[name])
                self.exact[name] = None if none else value

    def build(self) -> dict[str, Any]:
        """The arguments of the function; a part nobody mentioned is left to the function's default."""
        result: dict[str, Any] = {}
        parameters = inspect.signature(self.function).parameters
        if self.config and self.given & {field.name for field in fields(TrainingConfig)}:
            # First, because it is quick to refuse.
            result[self.config] = self._training()
        wanted = self.values.clone()
        for name in set(self.parts) - self.given:
            wanted.pop(name)
        objects = self.parser.instantiate(
            wanted, instantiators=[(self._make, Forecaster, True), (self._make, Source, True)]
        )
        for name in parameters:
            if name in objects and name != self.config and (name in self.given or name not in self.parts):
                result[name] = objects[name]
        return result

    def text(self) -> str:
        """All values as a configuration file."""
        plain = json.loads(self.parser.dump(self.values, format="json"))
        settings = {field.name: plain[field.name] for field in fields(TrainingConfig)}
        for name, chosen in self.parts.items():
            settings[name] = {
                "class_path": path_of(chosen),
                "init_args": plain.get(name, {}) | self._exact_of(name),
            }
        return yaml_of(settings)

    def _training(self) -> TrainingConfig:
        return TrainingConfig(**{field.name: self.values[field.name] for field in fields(TrainingConfig)})

    def _make(self, kind: type, *args: Any, **kwargs: Any) -> Any:
        """Build a part as whoever writes Python would."""
        if issubclass(kind, Forecaster) and self.config:
            import torch

            torch.manual_seed(self.values["seed"])
        part = next((name for name, chosen in self.parts.items() if chosen is kind), "")
        arguments = {name: plain_factory(value) for name, value in kwargs.items()}
        try:
            return kind(*args, **arguments | self._exact_of(part))
        except ConvLSTMError:
            raise
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise OptionError(
                f"--{part} must be a class that its options can build; {path_of(kind)} gave '{reason}': "
                "mend it or its options; --debug shows where"
            ) from error

    def _exact_of(self, part: str) -> dict[str, Any]:
        """Arguments of a part that stay as they were given."""
        return {
            name.partition(".")[2]: value
            for name, value in self.exact.items()
            if name.partition(".")[0] == part
        }

    def _flat(self, settings: Settings) -> Iterable[tuple[str, Any]]:
        """Options of a file under the names they have when typed."""
        for name, value in settings.items():
            if name not in self.parts:
                yield name, value
            elif isinstance(value, Mapping):
                extra = set(value) - {"class_path", "init_args"}
                arguments = value.get("init_args") or {}
                if extra or not isinstance(arguments, Mapping):
                    raise OptionError(
                        f"{name} in the configuration must hold class_path and init_args; received "
                        f"{', '.join(sorted(map(str, extra))) or arguments}: --print_config shows how"
                    )
                given = value.get("class_path")
                if given and import_class(given, object, name) is not self.parts[name]:
                    continue  # arguments of a class that was replaced by an option
                yield from ((f"{name}.{key}", item) for key, item in arguments.items())

    def _factories(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the classes given to options that take a class, such as ``--model.cell``."""
        found: dict[str, Any] = {}
        for name, hint in self.types.items():
            arity, base = factory(hint)
            value = values.get(name)
            value = value.get("class_path") if isinstance(value, Mapping) else value
            if base is None or not isinstance(value, str):
                continue
            made = import_class(value, base, f"--{name}", function=True)
            if isinstance(made, type):
                parser = ArgumentParser(exit_on_error=False, add_help=False)
                parser.add_class_arguments(made, name, fail_untyped=False, skip={arity})
                own = (a for a in parser._actions if hasattr(a, "_typehint") and a.default != SUPPRESS)
                inner = {a.dest: a._typehint for a in own}
                self.inner |= dict.fromkeys(inner, parser)
                found |= inner
        return found

    def _check_known(self, name: str, shown: str, known: Mapping[str, Any]) -> None:
        if name in known and name not in self.arguments:
            return
        options = [*(n for n in known if n not in self.arguments), *self.parts, "help", "debug"]
        options += ["config", "print_config"] if self.config else []
        near = nearest(name, options)
        hint = f"see convlstm {self.name} --help"
        if near:
            hint = f"did you mean {'--' if shown[0] == '-' else ''}{near}?"
        raise OptionError(f"convlstm {self.name} has no option {shown}; {hint}")

    def _check_complete(self, typed: Mapping[str, Any], filed: Mapping[str, Any]) -> None:
        parameters = inspect.signature(self.function).parameters
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in typed and name not in filed:
                what = name.upper() if name in self.arguments else f"--{name}"
                raise OptionError(
                    f"convlstm {self.name} needs {what}, {type_in_words(self.types[name])}; received none: "
                    f"convlstm {self.name} {self.usage()}"
                )

    def usage(self) -> str:
        """What has to be given."""
        parameters = inspect.signature(self.function).parameters
        words = [name.upper() for name in self.arguments]
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in self.arguments:
                words += [f"--{name}", placeholder(self.types[name])]
        return " ".join(words)

    def _blame(
        self, error: Exception, filed: Settings, values: list[tuple[str, str]], known: Mapping[str, Any]
    ) -> OptionError:
        """The one value that is wrong, in a sentence."""
        trials: list[tuple[str, str, Any, Callable[[], Any]]] = [
            (n, f"{n} in the configuration", v, partial(self.parser.parse_object, nested({n: v})))
            for n, v in filed.items()
        ]
        for name, value in values:
            shown = name.upper() if name in self.arguments else f"--{name}"
            parser = self.inner.get(name, self.parser)
            trials.append((name, shown, value, partial(parser.parse_args, [f"--{name}={value}"])))
        for name, shown, value, trial in trials:
            try:
                trial()
            except ArgumentError as reason:
                if not re.search(r"(is|are) required", str(reason)):
                    return OptionError(f"{shown} must be {type_in_words(known[name])}; received {value!r}")
        if missing := re.search(r"required: ([\w.]+)", str(error)):
            name = missing[1]
            part = self.parts.get(name.partition(".")[0])
            return OptionError(
                f"{getattr(part, '__name__', self.name)} needs --{name}, {type_in_words(known.get(name))}; "
                "received none"
            )
        lines = (line.strip(" -") for line in str(error).split("\n") if "Given value" not in line)
        return OptionError(" ".join(lines))


def _parts_of(function: Callable[..., Any]) -> dict[str, type]:
    hints = get_type_hints(function).items()
    return {
        name: base
        for name, hint in hints
        for base in DEFAULT_CLASSES
        if name != "return" and base in (hint, *get_args(hint))
    }


def _config_of(function: Callable[..., Any]) -> str | None:
    hints = get_type_hints(function).items()
    return next((n for n, hint in hints if TrainingConfig in (hint, *get_args(hint)) and n != "return"), None)
