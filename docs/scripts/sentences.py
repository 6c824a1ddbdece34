"""MkDocs hook by which an output of one long line, such as the sentence of an error, wraps."""

import re
from typing import Any

_LINE = re.compile(r'<div class="highlight">(<pre><span></span><code>[^\n<]{60,}\n</code></pre>)')


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with the class ``sentence`` on such outputs."""
    return _LINE.sub(r'<div class="highlight sentence">\1', content)
