"""MkDocs hook by which long lines of an output wrap, shorter ones on a phone; lines of a table do not."""

import html
import re
from typing import Any

#: An output; in code, every line has marked parts.
_OUTPUT = re.compile(r'(?<=<div class="highlight"><pre><span></span><code>)[^<]*\n(?=</code></pre>)')
_NAMED = re.compile(r"\s*\S+(?: \S+)?\s{2,}(?=\S)|\s+")
_TABLE = re.compile(r"\||.*\S {2,}\S.*\S {2,}\S|.*[─▁]{4}|[^=]{1,40} = ")  # or an equation
_ALONE, _AMONG_OTHERS = 48, 89  # characters from which a line wraps: a phone's, and those that a page shows


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with the classes ``sentence`` and ``phone-sentence`` on such lines."""
    return _OUTPUT.sub(_wrapped, content)


def _wrapped(found: re.Match[str]) -> str:
    lines = found[0].splitlines(keepends=True)
    least = _AMONG_OTHERS if lines[1:] else _ALONE
    return "".join(_line(line, least) for line in lines)


def _line(line: str, least: int) -> str:
    """A line; one that wraps goes on below its text where a name or spaces stand before it."""
    text = html.unescape(line.rstrip())
    if len(text) < _ALONE or _TABLE.match(text):
        return line
    name = _NAMED.match(text)
    kind = "sentence" if len(text) >= least else "phone-sentence"
    return f'<span class="{kind}" style="--name: {len(name[0]) if name else 2}ch">{line}</span>'
