"""MkDocs hook by which long lines of an output wrap; lines of a table do not."""

import html
import re
from typing import Any

#: An output; in code, every line has marked parts.
_OUTPUT = re.compile(r'(?<=<div class="highlight"><pre><span></span><code>)[^<]*\n(?=</code></pre>)')
_NAMED = re.compile(r"\s*\S+\s{2,}(?=\S)")
_ALONE, _AMONG_OTHERS = 48, 89  # characters from which a line wraps: a phone's, and those that a page shows


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with the class ``sentence`` on such lines."""
    return _OUTPUT.sub(_wrapped, content)


def _wrapped(found: re.Match[str]) -> str:
    lines = found[0].splitlines(keepends=True)
    least = _AMONG_OTHERS if lines[1:] else _ALONE
    return "".join(_line(line, least) for line in lines)


def _line(line: str, least: int) -> str:
    """A line; one that wraps goes on below its text where a name stands before it."""
    text = html.unescape(line.rstrip())
    if len(text) < least or text.startswith("|"):
        return line
    name = _NAMED.match(text)
    return f'<span class="sentence" style="--name: {len(name[0]) if name else 2}ch">{line}</span>'
