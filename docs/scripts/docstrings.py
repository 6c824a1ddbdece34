"""Griffe extension that reads docstrings as Markdown, and comments ``#:`` above names as docstrings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension, Object


class Markdown(Extension):
    """Ends the line before a literal block with one colon, and makes doctests of ``Example:`` sections."""

    def on_attribute(self, *, attr: Attribute, **_: Any) -> None:
        """Take the comment above a name for its docstring."""
        if attr.docstring is None and isinstance(attr.filepath, Path) and attr.lineno:
            text = comment(attr.filepath.read_text(encoding="utf-8").splitlines(), attr.lineno)
            attr.docstring = Docstring(text, parent=attr) if text else None

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """A docstring whose blocks and examples are those of Markdown and of Google's style."""
    docstring = re.sub(r"::$", ":", docstring, flags=re.MULTILINE)
    return re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)


def comment(lines: Sequence[str], number: int) -> str:
    """The comment ``#:`` right above a line, which has a number from 1."""
    found: list[str] = []
    while len(found) < number - 1 and lines[number - 2 - len(found)].startswith("#:"):
        found.insert(0, lines[number - 2 - len(found)].removeprefix("#:").strip())
    return "\n".join(found)
