"""The API reference: every public name has one place, and docstrings are read as they are meant."""

import re
from importlib import import_module

import pages
import pytest

import convlstm

API = pages.DOCS / "api"
PACKAGES = ("cells", "data", "engines", "layers", "models", "pictures", "scores", "testing", "verification")


def documented():
    """Names of the pages, in their order."""
    return [
        name
        for page in sorted(API.glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]


def test_every_public_name_is_documented_where_it_is_imported_from():
    top = {f"convlstm.{name}" for name in convlstm.__all__ if name != "__version__"}
    below = {
        f"convlstm.{package}.{name}"
        for package in PACKAGES
        for name in import_module(f"convlstm.{package}").__all__
        if name not in convlstm.__all__
    }
    assert sorted((top | below) - set(documented())) == []


def test_each_name_has_one_place_and_can_be_imported():
    names = documented()
    assert len(names) == len(set(names))
    for name in names:
        parent, _, last = name.rpartition(".")
        found = getattr(import_module(parent), last, None) or import_module(name)
        assert found is not None


def test_the_index_lists_every_page():
    listed = re.findall(r"\]\((\w+)\.md\)", (API / "index.md").read_text())
    assert sorted([*listed, "index"]) == sorted(page.stem for page in API.glob("*.md"))


def test_literal_blocks_and_examples_are_those_of_markdown(script):
    pytest.importorskip("griffe")
    text = "Of a::\n\n    b = a\n\nExample:\n    >>> a\n"
    extension = script("docstrings")
    assert extension.markdown(text) == "Of a:\n\n    b = a\n\nExamples:\n    >>> a\n"
    assert extension.comment(["#: one", "a = 0", "#: two", "#: lines", "b = 1"], 5) == "two\nlines"
