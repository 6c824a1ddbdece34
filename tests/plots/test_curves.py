import itertools
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convlstm.plots.curves import Line, _spread, line_chart, outside
from convlstm.scores.digits import in_text, short


def chart(*values: list[float], **options) -> str:
    lines = [Line(name=f"name {k}", values=v, slot=k) for k, v in enumerate(values)]
    options = {"x_label": "lead time", "y_label": "per pixel"} | options
    return line_chart(range(1, len(values[0]) + 1), lines, **options)


def texts(svg: str) -> list[str]:
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]


@pytest.mark.parametrize(
    ("value", "text", "tick"),
    [
        (0.123456, "0.1235", "0.1235"),
        (0.00963, "0.009630", "0.00963"),
        (1234567.0, "1.235e6", "1.235e6"),
        (1e-7, "1.000e−7", "1e−7"),
        (-2.0, "−2.000", "−2"),
        (math.nan, "n/a", "n/a"),
        (-math.inf, "n/a", "n/a"),
    ],
)
def test_numbers_in_sentences_have_the_digits_of_tables_and_ticks_are_short(value, text, tick):
    assert in_text(value) == text
    assert short(value) == tick


def test_a_chart_is_one_element_that_names_its_lines_and_axes():
    shown = texts(chart([1, 2, 3], [3, 2, 1]))
    assert {"name 0", "name 1", "lead time", "per pixel", "1", "2", "3"} <= set(shown)


def test_every_colour_is_a_variable_of_the_page():
    svg = chart([1, 2, 3], [3, 2, 1], reference=(2.0, "zero"))
    assert not re.search(r"(fill|stroke): ?#", svg)
    assert {"--line-0", "--line-1", "--ink", "--muted", "--rule"} - {"--ink"} <= set(
        re.findall(r"--[\w-]+", svg)
    )


def test_the_models_line_is_the_heaviest():
    svg = chart([1, 2, 3], [3, 2, 1])
    widths = dict(re.findall(r"stroke: var\(--line-(\d)\); stroke-width: ([\d.]+)", svg)[::-1])
    strokes = re.findall(r"stroke(?:-dasharray: [\d.,]+)?[^\"]*?var\(--line-0\); stroke-width: ([\d.]+)", svg)
    assert max(map(float, strokes)) == 3.0
    assert all(float(width) < 3.0 for slot, width in widths.items() if slot != "0")


def test_points_lie_where_their_values_say():
    svg = chart([0.0, 1.0, 2.0])
    path = re.search(r'<path d="([^"]*)" clip-path[^>]*stroke: var\(--line-0\)', svg)
    assert path is not None
    points = re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])
    (x1, y1), (x2, y2), (x3, y3) = [(float(x), float(y)) for x, y in points]
    assert x2 - x1 == pytest.approx(x3 - x2, abs=1e-3)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=1e-3)
    assert y1 > y2 > y3  # up the page


def test_only_wide_positive_errors_are_logarithmic_and_say_so():
    assert "per pixel (log scale)" in texts(chart([1e-3, 1e-1], log=True))
    assert "per pixel" in texts(chart([1e-3, 1e-1]))
    assert "per pixel" in texts(chart([1e-3, 2e-3], log=True))
    assert "per pixel" in texts(chart([0.0, 2e-3], log=True))


@pytest.mark.parametrize(
    "values",
    [[math.nan], [0.5], [math.nan, math.inf, 1.0], [0.0] * 5, [1e300, 1e305], [-1e-300, 1e-300], [5.0] * 30],
)
def test_any_values_give_a_chart(values: list[float]):
    shown = texts(chart(values, log=True))
    assert ("no finite value" in shown) == (not any(map(math.isfinite, values)))


def ticks(svg: str) -> list[float]:
    """The numbers at the y axis."""
    return [float(t.replace("−", "-")) for t in texts(svg) if re.fullmatch(r"−?[\d.]+(e−?\d+)?", t)][3:]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("wild", [50.0, -50.0, 1e300, math.inf])
def test_a_line_that_is_far_does_not_widen_the_axis(log, wild):
    lines = [
        Line(name="a", values=[1.0, 1.5, 2.0], slot=0),
        Line(name="b", values=[2.0, 2.5, 3.0], slot=1),
        Line(name="far", values=[3.0, 4.0, wild], slot=2, far=True),
    ]
    svg = line_chart([1, 2, 3], lines, x_label="x", y_label="y", log=log)
    assert max(ticks(svg)) <= 4
    assert min(ticks(svg)) >= 0
    shown = [text for text in texts(svg) if text.startswith("far")]
    assert shown == ["far ↓" if wild < 0 else "far ↑"]
    assert [line.name for line in outside(lines)] == ["far"]
    assert not outside([replace(line, far=False) for line in lines])
    assert not outside([lines[0], lines[1], replace(lines[2], values=[1.0, 2.0, 3.0])])


def test_lines_that_are_all_far_still_have_an_axis():
    assert "no finite value" not in texts(
        line_chart([1, 2], [Line(name="a", values=[5, 6], slot=1, far=True)], x_label="x", y_label="y")
    )


def test_what_is_not_finite_leaves_a_gap():
    assert chart([1.0, 2.0, 3.0, 4.0]).count("<use") == 4
    assert chart([1.0, math.nan, 3.0, math.inf]).count("<use") == 2


def test_a_name_is_text_and_never_markup():
    svg = line_chart(
        [1, 2], [Line(name="<b>$x_1$</b>", values=[1, 2], slot=0)], x_label="x", y_label='"y" & z'
    )
    assert "<b>$x_1$</b>" in texts(svg)
    assert '"y" & z' in texts(svg)


def test_charts_of_one_page_share_no_identifier():
    ids = [set(re.findall(r' id="([^"]*)"', chart([1.0, k]))) for k in (2.0, 3.0)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_the_same_chart_is_the_same_text():
    assert chart([1.0, 2.0]) == chart([1.0, 2.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_names_never_touch_and_stay_in_order(wanted: list[float]):
    placed = _spread(sorted(wanted), [0.08] * len(wanted))
    gaps = [b - a for a, b in itertools.pairwise(placed)]
    assert all(gap >= 0.08 - 1e-9 for gap in gaps)
    assert placed[0] >= -0.12 - 1e-9
    assert placed[-1] <= 1.05 + 1e-9


def test_names_that_do_not_touch_stay_where_their_lines_end():
    assert _spread([0.1, 0.5, 0.9], [0.08] * 3) == pytest.approx([0.1, 0.5, 0.9])
    assert _spread([0.5, 0.5], [0.08, 0.16]) == pytest.approx([0.44, 0.56])


def test_bands_are_drawn_behind_lines_and_widen_the_range():
    plain = [Line(name="a", values=[1.0, 2.0, 3.0], slot=0)]
    banded = [replace(plain[0], band=[(0.5, 1.5), (1.0, 8.0), (math.nan, math.nan)])]
    options = {"x_label": "lead time", "y_label": "per pixel"}
    without, with_it = (line_chart(range(1, 4), lines, **options) for lines in (plain, banded))
    assert "fill-opacity: 0.16" in with_it
    assert "fill-opacity: 0.16" not in without
    assert "8" in texts(with_it)
    assert "8" not in texts(without)
    far = [*plain, Line(name="b", values=[1.0, 2.0, 3.0], slot=1, far=True, band=[(0, 90.0)] * 3)]
    assert "80" not in texts(line_chart(range(1, 4), far, **options))


def test_a_logarithmic_x_axis_has_powers_of_two():
    lines = [Line(name="a", values=[1.0, 30.0, 3.0], slot=0)]
    svg = line_chart([2.2, 9.1, 40.0], lines, x_label="wavelength", y_label="power", log=True, log_x=True)
    assert {"4", "8", "16", "32"} <= set(texts(svg))
    assert "3" not in texts(svg)
