"""MkDocs hook that leaves the languages of a page to the menu.

For each of them in the head of a page, the theme asks for a sitemap beside that page, which there is not.
"""

import re
from typing import Any

_ALTERNATE = re.compile(r'\s*<link rel="alternate" href="[^"]*" hreflang="\w+">')


def on_post_page(output: str, /, **_: Any) -> str:
    """A page without links to other languages in its head."""
    return _ALTERNATE.sub("", output)


def on_post_template(output: str, /, **_: Any) -> str:
    """The page of an address that is not there, likewise."""
    return _ALTERNATE.sub("", output)
