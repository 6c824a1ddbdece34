"""The documentation: snippets run, commands parse, links lead somewhere, translations are current."""

import functools
import hashlib
import os
import re
import shlex
import sys

import pages
import pytest

from convlstm.cli import commands
from convlstm.cli.main import COMMANDS, main

ENGLISH = sorted(
    path
    for path in pages.DOCS.rglob("*.md")
    if not path.name.endswith(".zh.md") and path.parent.name != "scripts"
)
CHINESE = sorted(pages.DOCS.rglob("*.zh.md"))
BESIDE = [pages.ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")]


def name(path):
    return str(path.relative_to(pages.DOCS))


def cases(language):
    """Each fence of a language; translations have the same."""
    return [
        pytest.param(path, k, id=f"{name(path)}-{k}")
        for path in ENGLISH
        for k, _ in enumerate(pages.fences(path, language))
    ]


@pytest.mark.parametrize(("path", "number"), cases("python"))
def test_every_snippet_runs_and_prints_what_the_page_shows(path, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.run(pages.fences(path, "python")[number], f"snippet {number} of {name(path)}")


def typed(code):
    """The words of each `convlstm` command of a fence, without those of a pipe."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["convlstm"]:
            yield words[1 : words.index("|") if "|" in words else None]


@pytest.mark.parametrize(("path", "number"), cases("sh"))
def test_every_command_has_the_options_that_it_is_given(path, number, tmp_path, monkeypatch, capsys):
    """Parsed, and not run; classes of the page's own modules are imported."""
    monkeypatch.chdir(pages.ROOT)
    monkeypatch.syspath_prepend(tmp_path)
    for fence in pages.fences(path, "python"):
        if fence.title:
            (tmp_path / fence.title).write_text(fence.code)
            monkeypatch.delitem(sys.modules, fence.title.removesuffix(".py"), raising=False)
    called = []
    for command in COMMANDS:
        parsed = functools.wraps(getattr(commands, command))(lambda **_: called.append(True))
        monkeypatch.setattr(commands, command, parsed)
    monkeypatch.setattr("convlstm.cli.options.build", lambda *_: {})  # of files that are not there
    lines = list(typed(pages.fences(path, "sh")[number].code))
    for words in lines:
        assert main(words) == 0, capsys.readouterr().err
    helps = sum("--help" in words or "--print_config" in words or "--version" in words for words in lines)
    assert len(called) == len(lines) - helps


DESCRIBED = [
    pytest.param(path, fence, id=f"{name(path)}-{k}")
    for path in ENGLISH
    for k, fence in enumerate(pages.fences(path, "sh"))
    if fence.output is not None and fence.code.startswith("convlstm describe")
]


@pytest.mark.skipif("CONVLSTM_DATA" not in os.environ, reason="CONVLSTM_DATA names no folder of real data")
@pytest.mark.parametrize(("path", "fence"), DESCRIBED)
def test_real_files_are_described_as_the_page_shows(path, fence, monkeypatch, capsys):
    monkeypatch.chdir(os.environ["CONVLSTM_DATA"])
    monkeypatch.setenv("COLUMNS", "80")
    (words,) = typed(fence.code)
    assert main(words) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == fence.output.splitlines()


@pytest.mark.parametrize("path", [*ENGLISH, *CHINESE, *BESIDE], ids=lambda path: path.name)
def test_links_lead_to_pages_and_headings_that_exist(path):
    for target in pages.links(path):
        file, _, anchor = target.partition("#")
        reached = path.parent / file if file else path
        assert reached.exists(), target
        if anchor and not anchor.startswith("convlstm."):  # those of the API are made by mkdocstrings
            assert anchor in [slug for _, slug in pages.headings(reached)], target


@pytest.mark.parametrize("path", [*ENGLISH, *CHINESE], ids=name)
def test_lists_and_tables_follow_an_empty_line(path):
    """Python-Markdown takes them for text of the paragraph otherwise; GitHub does not."""
    begins = r"^(?![-*] |[|>#]|\d+\. | |$).*\n(?:[-*] |1\. |\|).*"
    assert not re.findall(begins, pages.prose(path), re.MULTILINE)


def test_each_page_has_one_place_in_the_navigation():
    text = (pages.ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"\S+\.md$", text[text.index("\nnav:") :], re.MULTILINE)
    assert sorted(listed) == sorted(map(name, ENGLISH))


@pytest.mark.parametrize("path", [p for p in ENGLISH if p.parent.name in ("data", "extend")], ids=name)
def test_a_page_says_what_commonly_goes_wrong_and_how_it_is_checked(path):
    """Translations have the same headings."""
    found = re.findall("^## (.*)$", pages.prose(path), re.MULTILINE)
    assert {"What commonly goes wrong", "How it is checked"} <= {*found}


def test_start_own_data_and_extend_are_translated():
    translated = [path.with_name(path.name.replace(".zh.md", ".md")) for path in CHINESE]
    own = [path for path in ENGLISH if path.parent.name in ("data", "extend")]
    assert {pages.DOCS / "index.md", *own} <= {*translated}


@pytest.mark.parametrize("path", CHINESE, ids=name)
def test_a_translation_is_that_of_the_page_as_it_is(path):
    """Fences are the same, and so are headings: their levels and anchors, written out as ``{#...}``."""
    english = path.with_name(path.name.replace(".zh.md", ".md"))
    assert pages.fences(path) == pages.fences(english)
    assert pages.headings(path) == pages.headings(english)
    digest = hashlib.sha256(english.read_bytes()).hexdigest()[:16]
    front = re.match(r"---\ntranslates: (\w+)\n---\n", path.read_text())
    assert front is not None, f"{name(path)} must begin with ---, translates: {digest}, ---"
    assert front[1] == digest, f"{name(english)} changed: translate what did, then write translates: {digest}"
