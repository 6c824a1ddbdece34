"""Rows of three columns of words are stacked on a phone, rows of numbers keep their names in sight."""

import pages


def table(*rows, align=None):
    """A table as Python-Markdown writes it, headings first."""

    def line(row, kind):
        style = f' style="text-align: {align};"' if align else ""
        cells = [f"<{kind}{style * (k > 0)}>{cell}</{kind}>\n" for k, cell in enumerate(row)]
        return f"<tr>\n{''.join(cells)}</tr>\n"

    body = "".join(line(row, "td") for row in rows[1:])
    return f"<table>\n<thead>\n{line(rows[0], 'th')}</thead>\n<tbody>\n{body}</tbody>\n</table>"


def test_cells_of_three_columns_know_their_column(script):
    made = script("stacked_tables").on_page_content(
        table(("", "in <code>a</code>", 'of "b" &amp; c'), ("one", "<td-like> two", "three"))
    )
    assert made.startswith("<table data-stacked>\n")
    assert '<td>one</td>\n<td data-column="in a">' in made
    assert '<td data-column="of &quot;b&quot; &amp; c">three</td>' in made


def test_centred_cells_know_their_column_too(script):
    made = script("stacked_tables").on_page_content(table(("a", "b", "c"), ("1", "2", "3"), align="center"))
    assert '<td data-column="c" style="text-align: center;">3</td>' in made


def test_two_columns_stay_as_they_are(script):
    content = table(("you want", "write"), ("a", "b"))
    assert script("stacked_tables").on_page_content(content) == content


def test_tables_of_numbers_have_names_that_may_break(script):
    content = table(("ms", "a", "b"), ("SAConvLSTMForecaster", "1", "2"), ("MIM", "1", "2"), align="right")
    made = script("stacked_tables").on_page_content(content)
    assert made.startswith("<table data-numbers>\n")
    assert "<td>SA<wbr>Conv<wbr>LSTM<wbr>Forecaster</td>" in made
    assert "data-column" not in made
    assert made.count("<wbr>") == 3


def test_what_is_in_brackets_beside_a_number_is_marked(script):
    content = table(
        ("ms", "a"), ('<code>engine="fused"</code>', "1.5 (2x)"), ("name (x)", "3"), align="right"
    )
    made = script("stacked_tables").on_page_content(content)
    assert '1.5 <span class="aside">(2x)</span></td>' in made
    assert "<td>name (x)</td>" in made
    assert '<td><code>engine=<wbr>"fused"</code></td>' in made


def test_the_style_of_the_site_has_rules_for_both_kinds():
    style = (pages.DOCS / "site.css").read_text()
    assert "table[data-stacked]" in style
    assert "table[data-numbers]" in style
