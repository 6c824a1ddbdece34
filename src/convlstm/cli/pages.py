"""Help pages: every option of a command with its meaning, its kind of value and its default."""

import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

import docstring_parser

from convlstm.cli.names import placeholder
from convlstm.cli.options import Command

_INDENT = 28


def page(command: Command) -> str:
    """The help page of a command."""
    width = min(shutil.get_terminal_size().columns, 100)
    doc = docstring_parser.parse(command.function.__doc__ or "")
    lines = [f"usage: convlstm {command.name} {command.usage()}".rstrip() + " [OPTIONS]", ""]
    for text in (doc.short_description, doc.long_description):
        for paragraph in (text or "").split("\n\n"):
            if paragraph:
                lines += [*textwrap.wrap(_plain(paragraph), width), ""]
    rows = {action.dest: action for action in command.parser._actions if action.dest in command.types}
    top = [name for name in rows if "." not in name]
    own = [name for name in top if name in command.own]
    if command.arguments:
        lines += _section("arguments", (_row(rows[n], n.upper()) for n in command.arguments), width)
    lines += _section(
        "options", [*(_row(rows[n]) for n in own if n not in command.arguments), *_common(command)], width
    )
    if command.config:
        lines += _section("training", (_row(rows[n]) for n in top if n not in own), width)
    for part, kind in command.parts.items():
        path = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
        first = docstring_parser.parse(kind.__doc__ or "").short_description or ""
        # The defaults of an evaluation are those of the run, whatever the class says.
        inner = [_row(rows[n], default=bool(command.config)) for n in rows if n.startswith(f"{part}.")]
        choose = (
            f"--{part} CLASS",
            f"{_plain(command.texts.get(part, ''))} By dotted path; its options follow.",
        )
        lines += _section(part, [choose, *inner], width, note=f"{path}: {_plain(first)}")
    lines += textwrap.wrap(
        "Hyphens may be typed for the underscores in names. Lists are typed as '[8,16]'.", width
    )
    return "\n".join(lines) + "\n"


def _common(command: Command) -> list[tuple[str, str]]:
    rows = []
    if command.config:
        rows += [
            ("--config FILE", "take options from a YAML file, such as a run's config.yaml; typed ones count"),
            ("--print_config", "print all options as --config takes them, and stop"),
        ]
    about = " (of the classes named by --data and --model, too)" if command.config else ""
    return [*rows, ("--debug", "show the traceback of an error"), ("-h, --help", f"this page{about}")]


def _row(action: Any, name: str | None = None, *, default: bool = True) -> tuple[str, str]:
    hint = getattr(action, "_typehint", None) or action.type
    text = _plain(action.help or "").removesuffix(".")
    shown = _value(action.default) if default and name is None else ""
    flag = hint is bool and action.default is False
    label = f"--{action.dest}" if flag else f"--{action.dest} {placeholder(hint)}"
    # The hard space keeps the two words on one line.
    return name or label, f"{text} [default:\u00a0{shown}]" if shown else text


def _value(default: Any) -> str:
    if default is None or default is False:
        return ""
    if isinstance(default, list | tuple):
        return "'[" + ",".join(map(str, default)) + "]'" if default else ""
    # The path of a function says less than the text beside it.
    return "" if callable(default) or str(default).count(".") > 1 else str(default).lower()


def _section(title: str, rows: Iterable[tuple[str, str]], width: int, note: str = "") -> list[str]:
    lines = [f"{title}:"]
    if note:
        lines += [*textwrap.wrap(note, width, initial_indent="  ", subsequent_indent="  ")]
    for label, text in rows:
        head = f"  {label}"
        if len(head) > _INDENT - 2:
            lines.append(head)
            head = ""
        body = textwrap.wrap(text, max(width - _INDENT, 30)) or [""]
        body = [line.replace("\u00a0", " ") for line in body]
        lines.append(f"{head:{_INDENT}}{body[0]}".rstrip())
        lines += [" " * _INDENT + line for line in body[1:]]
    return [*lines, ""]


def _plain(text: str) -> str:
    """Without the marks of reStructuredText and its line breaks."""
    return re.sub(r"`+([^`]*)`+", r"\1", " ".join(text.split()))
