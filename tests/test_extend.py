"""The cells and forecasters that the pages on extending show keep the contracts."""

import sys
import types

import pages
import pytest

from convlstm.testing import check_cell, check_forecaster


@pytest.fixture
def shown(request, monkeypatch):
    """The class of a name, from the snippets of a page."""
    page, name, *_ = request.param
    fences = pages.fences(pages.DOCS / "extend" / page, "python")
    program = types.ModuleType(f"page_with_{name}")  # torch.export of torch 2.7 keeps modules by name
    monkeypatch.setitem(sys.modules, program.__name__, program)
    (code,) = (fence.code for fence in fences if f"class {name}(" in fence.code)
    exec(compile(code, page, "exec"), program.__dict__)
    return getattr(program, name)


@pytest.mark.parametrize(
    ("shown", "options"),
    [
        (("own_cell.md", "LeakyCell"), {"leak": 0.5}),
        (("own_cell.md", "GatedAverage"), None),
        (("own_cell.md", "HighwayCell"), None),
        (("activations.md", "Coupled"), None),
    ],
    indirect=["shown"],
)
def test_cells(shown, options):
    check_cell(shown, options)


@pytest.mark.parametrize(
    "shown", [("own_forecaster.md", "NextFrame"), ("own_forecaster.md", "Trend")], indirect=True
)
def test_forecasters(shown):
    check_forecaster(shown)
