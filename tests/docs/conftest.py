"""Scripts of the documentation as modules."""

import importlib.util

import pages
import pytest


@pytest.fixture
def script(monkeypatch):
    """A function that loads a script of docs/scripts by its name."""
    folder = pages.DOCS / "scripts"
    monkeypatch.syspath_prepend(folder)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"documentation_{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
