"""MkDocs hook: ``--data.crop`` is not broken after its dashes, a long name only after an underscore."""

import re
from typing import Any

_CODE = re.compile(r"(?<!</span>)<code>[^<]*</code>")
_OPTION = re.compile(r"(?<!\w)--\w[\w.]*")
_LONG = re.compile(r"(?<![\w.-])\w{20,}")


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with such names in its lines marked."""
    return _CODE.sub(_marked, content)


def _marked(code: re.Match[str]) -> str:
    parted = _LONG.sub(lambda name: name[0].replace("_", "_<wbr>"), code[0])
    return _OPTION.sub(r'<span class="option">\g<0></span>', parted)
