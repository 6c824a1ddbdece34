"""What was typed after a command, taken apart into arguments and options."""

import os
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from convlstm.atomic_write import given_path
from convlstm.cli.names import is_path, type_in_words
from convlstm.errors import OptionError

#: A name, with underscores, and what was given as its value.
Option = tuple[str, str | None]

_MOST_FOLDERS = 500


def split(function: Callable[..., Any], words: list[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Arguments, and options with their values; hyphens in names become underscores."""
    flags = {name for name, hint in get_type_hints(function).items() if hint is bool}
    flags |= {"help", "h", "print_config"}
    arguments: list[str] = []
    options: list[tuple[str, str | None]] = []
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
        if equals:
            options.append((name, value))
        elif rest and (rest[0].lower() in ("true", "false") if name in flags else rest[0][:2] != "--"):
            options.append((name, rest.pop(0)))
        else:
            options.append((name, None))
    return arguments, options


def needed(name: str, value: str | None, hint: Any) -> str:
    """The value of an option, or ``true`` for a switch.

    Raises:
        OptionError: none was typed.
    """
    if value is not None:
        return value
    if hint is bool:
        return "true"
    raise OptionError(f"--{name} needs a value, {type_in_words(hint)}; received none")


def check_possible(shown: str, value: str, hint: Any) -> None:
    """Refuse what no file system takes; a path of very many folders overflows Python's stack.

    Args:
        shown: what was given, to open the message.
        value: as it was typed.
        hint: the type of it.

    Raises:
        OptionError: a null character, an empty path, or one of very many folders.
    """
    path = is_path(hint)
    if path:
        given_path(shown, value)
    if "\0" in value or (path and value.count(os.sep) > _MOST_FOLDERS):
        kind = "a path" if path else "text without null characters"
        raise OptionError(f"{shown} must be {kind}; received {value[:100]!r}")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as dictionaries within dictionaries.

    Raises:
        OptionError: a name that has a value of its own and names below it.
    """
    result: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split(".")
        place = result
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise OptionError(
                    f"{name} must stand in the init_args of what it belongs to; received {part}: {place!r} "
                    f"beside it: give {part} a class_path and init_args"
                )
        place[last] = value
    return result
