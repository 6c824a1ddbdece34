"""Griffe extension that reads docstrings as Markdown: their literal blocks, and their examples."""

import re
from typing import Any

from griffe import Extension, Object


class Markdown(Extension):
    """Ends the line before a literal block with one colon, and makes doctests of ``Example:`` sections."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """A docstring whose blocks and examples are those of Markdown and of Google's style."""
    docstring = re.sub(r"::$", ":", docstring, flags=re.MULTILINE)
    return re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
