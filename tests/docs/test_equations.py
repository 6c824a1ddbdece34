"""The equations of the documentation as MathML."""

import importlib.util

import pages
import pytest

pytest.importorskip("latex2mathml")


@pytest.fixture
def hook():
    spec = importlib.util.spec_from_file_location("equations", pages.DOCS / "scripts" / "equations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equations_become_mathml_and_other_text_stays(hook):
    content = (
        '<p>of <span class="arithmatex">\\(a &lt; b\\)</span></p><div class="arithmatex">\\[c\n= d\\]</div>'
    )
    made = hook.on_page_content(content, page=None, config=None, files=None)
    assert made.startswith('<p>of <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">')
    assert "<mi>a</mi><mo>&#x0003C;</mo><mi>b</mi>" in made
    assert '<div class="equation"><math' in made
    assert "\\" not in made


def test_rows_are_aligned_and_an_environment_that_is_not_known_is_refused(hook):
    block = '<div class="arithmatex">\\[\\begin{{{0}}} a &amp;= b \\\\ c &amp;= d \\end{{{0}}}\\]</div>'
    assert hook.on_page_content(block.format("aligned")).count("<mtr>") == 2
    with pytest.raises(ValueError, match="latex2mathml knows"):
        hook.on_page_content(block.format("gathered"))
