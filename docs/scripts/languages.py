"""MkDocs hook that leaves the languages of a page to the menu, and keeps one page for what is not there.

For each language in the head of a page, the theme asks for a sitemap beside that page, which there is not.
"""

import re
from typing import Any

_ALTERNATE = re.compile(r'\s*<link rel="alternate" href="[^"]*" hreflang="\w+">')
#: The page of an address that is not there.
_MISSING: dict[str, str] = {}


def on_post_page(output: str, /, **_: Any) -> str:
    """A page without links to other languages in its head."""
    return _ALTERNATE.sub("", output)


def on_post_template(output: str, /, *, template_name: str, **_: Any) -> str:
    """A page without a source, likewise; of the languages' 404.html, all one file, the first stays."""
    output = _ALTERNATE.sub("", output)
    return _MISSING.setdefault(template_name, output) if template_name == "404.html" else output
