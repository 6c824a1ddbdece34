"""The page of cells: a section and a figure of each, drawn with the gates that the cell has."""

import inspect
import re

import pages
import pytest
import torch

from convlstm import cells

PAGE = pages.DOCS / "cells.md"
CELLS = {
    name: getattr(cells, name)
    for name in cells.__all__
    if inspect.isclass(getattr(cells, name)) and issubclass(getattr(cells, name), cells.Cell)
}
DOCUMENTED = sorted(set(CELLS) - {"Cell"})


def test_every_cell_has_a_section_with_its_equations_figure_and_source():
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert sorted(sections) == DOCUMENTED
    for name, text in sections.items():
        assert "$$" in text, name
        assert f"](figures/{name}.svg)" in text
        assert "Source: " in text
        for reference in re.findall(r"arXiv:[\d.]+\d", inspect.getdoc(CELLS[name]).split("\n\n")[0]):
            assert reference in text, name


def test_figures_are_those_that_the_script_draws(script):
    drawn = script("cells")
    files = {name: drawn.FIGURES / f"{name}.svg" for name in drawn.DRAWN}
    assert sorted(drawn.DRAWN) == DOCUMENTED
    for name, file in files.items():
        assert file.read_text() == drawn.figure(name), f"run docs/scripts/cells.py: {name} changed"


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"LinearCell"}))
def test_strips_have_a_part_for_each_gate_of_the_weights(script, name):
    cell = CELLS[name](3, 8, 4 if name == "SwinLSTMCell" else 3)
    for parameters, (_, slots) in script("cells").STRIPS[name].items():
        module = cell.get_submodule(parameters)
        weight = (module if hasattr(module, "weight") else module[0]).weight
        assert weight.shape[0] == 8 * len(slots.split()), parameters


@pytest.mark.parametrize("name", ["STLSTMCell", "CausalLSTMCell", "E3DLSTMCell", "MIMSCell", "MIMCell"])
def test_gates_of_the_table_are_those_of_the_convolution_over_the_frame(script, name):
    row = re.search(rf"^\| \[{name}\].*$", PAGE.read_text(), re.MULTILINE)[0]
    assert row.split("|")[2].strip().split(", ") == script("cells").STRIPS[name]["conv_x"][1].split()


def test_the_order_of_gates_in_the_figure_is_that_of_the_cell(script):
    """A gate that is shut by its bias changes what the equations say that it changes."""
    for name, gate in (("ConvLSTMCell", "f"), ("ConvGRUCell", "z")):
        cell = CELLS[name](1, 2, 3)
        place = script("cells").STRIPS[name]["conv"][1].split().index(gate)
        with torch.no_grad():
            cell.conv.weight.zero_()
            cell.conv.bias.zero_()
            cell.conv.bias.view(-1, 2)[place] = 50.0  # open: what was remembered stays
        state = cell.initial_state(torch.zeros(1, 1, 4, 4))
        state = state._replace(**{state._fields[-1]: torch.full((1, 2, 4, 4), 0.5)})
        kept = getattr(cell(torch.zeros(1, 1, 4, 4), state), state._fields[-1])
        assert torch.allclose(kept, torch.full_like(kept, 0.5))
