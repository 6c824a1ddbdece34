"""MkDocs hook by which the name of an option, such as ``--data.crop``, is not broken after its dashes."""

import re
from typing import Any

_CODE = re.compile(r"(?<!</span>)<code>[^<]*</code>")
_OPTION = re.compile(r"(?<!\w)--\w[\w.]*")


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with the class ``option`` on such names in its lines."""
    return _CODE.sub(lambda code: _OPTION.sub(r'<span class="option">\g<0></span>', code[0]), content)
