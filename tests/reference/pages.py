"""Pages of Markdown: their fences, headings and links."""

import contextlib
import doctest
import io
import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)```(\w*) *(.*?)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
INCLUDE = re.compile(r'^--8<-- "(.*)"$', re.MULTILINE)


class Fence(NamedTuple):
    """A block of code of a page, without the indentation of its fence."""

    language: str
    title: str
    code: str
    output: str | None  # of the ```text fence right after it, if there is one


def fences(path: Path, language: str | None = None) -> list[Fence]:
    """Fences of a page, in their order; those of one language alone if it is given."""
    text = path.read_text()
    found = []
    blocks = list(FENCE.finditer(text))
    for k, block in enumerate(blocks):
        indent, name, attributes, code = block.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        title = re.search('title="(.*?)"', attributes)
        after = blocks[k + 1] if k + 1 < len(blocks) else None
        output = None
        if after and after[2] == "text" and not text[block.end() : after.start()].strip():
            output = re.sub(f"^{after[1]}", "", after[4], flags=re.MULTILINE)
        found.append(Fence(name, title[1] if title else "", code, output))
    return [fence for fence in found if language in (None, fence.language)]


def prose(path: Path) -> str:
    """Text of a page without fences and front matter, and with the files that it includes."""
    text = re.sub(r"\A---\n.*?^---\n", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = INCLUDE.sub(lambda name: (ROOT / name[1]).read_text(), text)
    return FENCE.sub("", text)


def headings(path: Path) -> list[tuple[int, str]]:
    """Level and anchor of each heading of a page."""
    found = []
    for marks, title in re.findall(r"^(#+) +(.+?) *$", prose(path), re.MULTILINE):
        given = re.search(r"\{ *#([\w-]+) *\}$", title)
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")
        found.append((len(marks), given[1] if given else slug))
    return found


def links(path: Path) -> list[str]:
    """Targets of the links and pictures of a page, those of other sites left out."""
    text = re.sub("`[^`\n]*`", "", prose(path))
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="(.*?)"', text)
    return [target for target in targets if not re.match("[a-z]+:", target)]


def run(fence: Fence, name: str) -> None:
    """Run a fence as the main part of a module, and compare what it prints with what the page shows.

    Raises:
        AssertionError: other output; ``...`` in the page stands for any text.
    """
    program = types.ModuleType("page")
    sys.modules["page"] = program  # as a script or a notebook is a module
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(fence.code, name, "exec"), program.__dict__)
    finally:
        del sys.modules["page"]
    if fence.output is not None:
        same = doctest.OutputChecker().check_output(fence.output, printed.getvalue(), doctest.ELLIPSIS)
        assert same, f"{name} prints\n{printed.getvalue()}"
