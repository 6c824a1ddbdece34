"""The API reference: every public name has one place, and docstrings are read as they are meant."""

import re
from importlib import import_module

import pages
import pytest

import convlstm

API = pages.DOCS / "api"
PACKAGES = (
    "cells",
    "data",
    "engines",
    "layers",
    "models",
    "pictures",
    "plots",
    "scores",
    "testing",
    "verification",
)


def documented():
    """Names of the pages, in their order."""
    return [
        name
        for page in sorted(API.glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]


def named(name):
    """What has a dotted name."""
    parent, _, last = name.rpartition(".")
    return getattr(import_module(parent), last, None) or import_module(name)


def test_every_public_name_is_documented():
    """In `convlstm` and its packages; what two of them export has one place."""
    here = {id(named(name)) for name in documented()}
    packages = ("convlstm", *(f"convlstm.{package}" for package in PACKAGES))
    public = [f"{package}.{name}" for package in packages for name in import_module(package).__all__]
    missing = [name for name in public if not name.endswith("__") and id(named(name)) not in here]
    assert missing == []


def test_each_name_has_one_place_in_the_package_that_exports_it():
    names = documented()
    assert len(names) == len({id(named(name)) for name in names})
    exported = {id(getattr(convlstm, name)): f"convlstm.{name}" for name in convlstm.__all__}
    assert [name for name in names if exported.get(id(named(name)), name) != name] == []


def test_the_index_lists_every_page():
    listed = re.findall(r"\]\((\w+)\.md\)", (API / "index.md").read_text())
    assert sorted([*listed, "index"]) == sorted(page.stem for page in API.glob("*.md"))


def test_literal_blocks_and_examples_are_those_of_markdown(script):
    pytest.importorskip("griffe")
    text = "Of a::\n\n    b = a\n\nExample:\n    >>> a\n"
    extension = script("docstrings")
    assert extension.markdown(text) == "Of a:\n\n    b = a\n\nExamples:\n    >>> a\n"
    assert extension.comment(["#: one", "a = 0", "#: two", "#: lines", "b = 1"], 5) == "two\nlines"


def test_a_return_value_of_several_lines_is_one():
    griffe = pytest.importorskip("griffe")
    written = (pages.ROOT / "mkdocs.yml").read_text()
    options = {name: text == "true" for name, text in re.findall(r"^ +(returns_\w+): (\w+)$", written, re.M)}
    text = "Return it.\n\nReturns:\n    The outputs: of (T = 1 with\n    ``last``), and the states.\n"
    (value,) = griffe.parse_google(griffe.Docstring(text), **options)[-1].value
    assert "T = 1 with\n``last``), and" in value.description
