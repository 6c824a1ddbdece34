"""MkDocs hook that prepares tables for a phone; `docs/site.css` has the rules.

A table of words with three columns or more is marked ``data-stacked``, and its cells know their column: a
narrow screen shows the cells of a row one below the other. A table of numbers is marked ``data-numbers``:
where it scrolls, the names of its rows stay in sight, and long ones may break before a word or a value; what
stands in brackets beside a number, such as a range, is marked ``aside``.
"""

import html
import re
from typing import Any

_TABLE = re.compile(r"<table>\n<thead>\n.*?</table>", re.DOTALL)
_NUMBERS = 'style="text-align: right;"'
_HEADING = re.compile(r"<th[^>]*>(.*?)</th>", re.DOTALL)
_ROW = re.compile(r"<tr>\n<td.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<td(?= |>)")
_NAME = re.compile(r"(?<=<tr>\n<td>)\w{12,}")
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where one begins in a name
_VALUE = re.compile(r'(?<=<td><code>)(\w+=)(?=")')
_ASIDE = re.compile(r"(?<=\d )\([^()<]*\)(?=</)")
_LEAST = 3  # columns that do not stand side by side on a phone


def on_page_content(content: str, /, **_: Any) -> str:
    """Content of a page with such tables marked."""
    return _TABLE.sub(_marked, content)


def _marked(found: re.Match[str]) -> str:
    table = found[0]
    if _NUMBERS in table:
        table = _NAME.sub(lambda name: _WORD.sub("<wbr>", name[0]), table)
        table = _VALUE.sub(r"\1<wbr>", table)
        table = _ASIDE.sub(r'<span class="aside">\g<0></span>', table)
        return table.replace("<table>", "<table data-numbers>", 1)
    columns = [_plain(heading) for heading in _HEADING.findall(table)]
    if len(columns) < _LEAST:
        return table
    table = _ROW.sub(lambda row: _labelled(row[0], columns), table)
    return table.replace("<table>", "<table data-stacked>", 1)


def _plain(heading: str) -> str:
    """Text of a heading, as the value of an attribute."""
    return html.escape(html.unescape(re.sub("<[^>]*>", "", heading)).strip())


def _labelled(row: str, columns: list[str]) -> str:
    """A row whose cells have the headings of their columns, but for the first cell, which names the row."""
    names = iter(["", *columns[1:]])
    return _CELL.sub(lambda _: f'<td data-column="{name}"' if (name := next(names)) else "<td", row)
