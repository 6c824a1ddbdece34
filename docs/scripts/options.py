"""MkDocs hook: where names may break, long ones after an underscore or ``=``, ``--data.crop`` nowhere."""

import re
from typing import Any

_CODE = re.compile(r"(?<!</span>)<code>[^<]*</code>")
_OPTION = re.compile(r"(?<!\w)--\w[\w.]*")
_LONG = re.compile(r"(?<![\w.-])\w{20,}")
_ARGUMENT = re.compile(r'(?<![\w.-])\w{8,}=(?="\w{8})')
_DOTTED = re.compile(r'(?<=<span class="doc doc-object-name )[^<]*(?=</span>)')


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with such places in names of its lines and headings marked."""
    content = _DOTTED.sub(lambda heading: heading[0].replace(".", ".<wbr>"), content)
    return _CODE.sub(_marked, content)


def _marked(code: re.Match[str]) -> str:
    parted = _ARGUMENT.sub(r"\g<0><wbr>", code[0])
    parted = _LONG.sub(lambda name: name[0].replace("_", "_<wbr>"), parted)
    return _OPTION.sub(r'<span class="option">\g<0></span>', parted)
