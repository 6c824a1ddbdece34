"""The figures of stacks and skip connections."""

import pytest


@pytest.mark.parametrize("name", ["structure", "skip_connections"])
def test_a_figure_is_that_which_the_script_draws(script, name):
    drawn = script("structure")
    assert (drawn.FIGURES / f"{name}.svg").read_text() == drawn.figure(name), "run docs/scripts/structure.py"
