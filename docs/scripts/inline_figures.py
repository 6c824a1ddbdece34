"""MkDocs hook that writes drawn figures into their page, so that they take its colours."""

import html
import re
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[1] / "figures"
_IMAGE = re.compile(r'<img alt="([^"]*)" src="(?:\.\./)*figures/(\w+\.svg)"\s*/?>')


def on_page_content(content: str, /, page: Any, **_: Any) -> str:
    """Content of a page with the figures themselves, in its language, in place of links to them."""
    return _IMAGE.sub(lambda found: _figure(found[2], html.unescape(found[1]), page.file.locale), content)


def _figure(file: str, text: str, language: str) -> str:
    """A figure with the text of its link as its title."""
    translated = FIGURES / file.replace(".svg", f".{language}.svg")
    svg = (translated if translated.exists() else FIGURES / file).read_text(encoding="utf-8")
    return re.sub(r"<title>.*?</title>", f"<title>{html.escape(text)}</title>", svg)
