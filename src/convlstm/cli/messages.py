"""Errors and help pages of jsonargparse in plain words."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

from jsonargparse import DefaultHelpFormatter

from convlstm.validation import with_article
from convlstm.workflows.class_names import import_named
from convlstm.workflows.parts import kind_of

_LIST = "a list such as [8,16]"
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_WORDS |= {"list": _LIST, "tuple": _LIST, "Sequence": _LIST, "PathLike": "a path", "Path": "a path"}


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's, without options that show the help of a class, and with types in fewer words."""

    def add_argument(self, action: Any) -> None:
        """Add an option."""
        if action.metavar == "CONFIG":
            action.metavar, action.help = "CLASS", "name of one of ours, or dotted path; its options follow"
        action.option_strings = [name for name in action.option_strings if name[-1] != "+"]
        if not action.option_strings or not action.option_strings[0].endswith(".help"):
            super().add_argument(action)

    def _expand_help(self, action: Any) -> str:
        text = re.sub(
            r", known subclasses: [^)]*|, default: (null|\(\))|, default: (?=\))",
            "",
            super()._expand_help(action),
        )
        text = re.sub(r"<class '([^']*)'>|Union\[([^()]*)\](?=[,)])|Literal\[([^]]*)\]", r"\1\2\3", text)
        return re.sub(
            r"Unvalidated<ndarray.*?>|``|, null(?=[,)])", lambda found: "array" * (found[0][0] == "U"), text
        )


def sentence(error: str, command: str, known: Sequence[str]) -> str:
    """An error of jsonargparse as rule, value and remedy.

    Args:
        error: its text.
        command: that was typed.
        known: names of options, such as ``data.canvas``.
    """
    keys = dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', error))  # once, also of a union of types
    option = "--" + ".".join(keys)
    unknown = re.search(r"unrecognized arguments: --([^\s=]*)", error)
    unknown = unknown or re.search(r"Option '([^']*)' is not accepted", error)
    if unknown:
        name = unknown[1] if option == "--" else f"{option[2:]}.{unknown[1]}"
        return no_option(name, command, [*known, *_inner(option, error)])
    if named := re.search(r"Expected a dot import path string: (\w+)$", error.strip()):
        part = option[2:].partition(".")[0]
        classes = {kind.__name__.lower(): kind.__name__ for kind in _subclasses(kind_of(part))}
        close = get_close_matches(named[1].lower(), classes, n=1)
        hint = f"did you mean {classes[close[0]]}?" if close else "write module.Name"
        return f"{option} must be the dotted path of a class; received {named[1]!r}: {hint}"
    made = re.search(r"Callable\[.*?(\w+)\] expects", error)
    if made and len(keys) == 1:
        received = re.findall(r"(?:Got|Given) value: (?:Namespace\(class_path=)?'?([\w.]*)", error)[-1]
        rule = f"{option} must be the dotted path of {with_article(made[1])}"
        return f"{rule}; received {received!r}: derive it from {made[1]}"
    inner = re.sub(r"\. Got value: Namespace\(.*", "", error.rpartition("Parser key")[2])
    value = re.search(r"(?:Got value|Given value): ?(.*)", inner)
    if value and (nested := re.match(r'"?NestedArg\(key=\'([^\']*)', value[1])):
        return no_option(f"{option[2:]}.{nested[1]}", command, known)
    kinds = re.search(r"Subtypes: \[(.*)\]|Expected an? (.*)\. Got value", inner)
    names = re.findall(
        r"Literal\[[^]]*\]|\b(?:int|float|bool|str|list|tuple|Sequence|\w*Path\w*)\b",
        kinds[0] if kinds else "",
    )
    if value and names:
        words = [_WORDS.get(n) or re.sub(r"Literal\[|[]']", "", n).replace(", ", " or ") for n in names]
        return f"{option} must be {' or '.join(dict.fromkeys(words))}; received {value[1]!r}"
    lines = [line.strip(" -") for line in error.splitlines()]
    return f"{option} cannot be used: {' '.join(lines[1:] or lines)}: see {command} --help"


def no_option(name: str, command: str, known: Sequence[str]) -> str:
    """The sentence of an option that a command does not have."""
    near = nearest(name, known)
    hint = f"did you mean --{near}?" if near else f"see {command} --help"
    return f"{command} has no option --{name[:80]}; {hint}"


def _subclasses(kind: type) -> set[type]:
    """All classes derived from a class."""
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))


def _inner(option: str, error: str) -> list[str]:
    """The options of the class given to an option."""
    made = re.search(r"Got value: Namespace\(class_path='([\w.]+)'", error)
    return [f"{option[2:]}.{name}" for name in signature(import_named(made[1])).parameters] if made else []


def nearest(name: str, options: Sequence[str]) -> str | None:
    """The option that was most likely meant; ``canvas`` means ``data.canvas``."""
    last = name.rpartition(".")[2]
    same = [option for option in options if option.rpartition(".")[2] == last]
    by_last = {option.rpartition(".")[2]: option for option in reversed(options)}
    near = same or get_close_matches(name, options, n=1, cutoff=0.7)
    near = near or [by_last[match] for match in get_close_matches(last, by_last, n=1, cutoff=0.7)]
    return near[0] if near else None
