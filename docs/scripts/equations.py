"""MkDocs hook that turns the TeX of a page into MathML, which browsers show without a script or a network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

#: What `pymdownx.arithmatex` makes of ``$a$`` and of ``$$a$$``, with its option `generic`.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
#: A prime as an exponent, which browsers make too small and too high to be seen.
PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>")


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with MathML in place of TeX."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    content = BLOCK.sub(_block, content)
    return PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>', content)


def _block(found: re.Match[str]) -> str:
    tex = html.unescape(found[1]).replace("{aligned}", "{split}")  # the same, of a name that latex2mathml has
    mathml = convert(tex, display="block")
    if "<mi>&</mi>" in mathml:
        raise ValueError(f"equations must use an environment that latex2mathml knows; received {tex}")
    return f'<div class="equation">{mathml}</div>'
