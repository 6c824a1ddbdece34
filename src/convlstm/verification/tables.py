"""Tables of text, in Markdown and in the width of a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from convlstm.scores.digits import aligned

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text


#: Headings of columns over all lead times.
OVERALL = ("mean", "overall")


class Grid(NamedTuple):
    """Table of text with a name for every row.

    Attributes:
        title: heading.
        note: below it.
        corner: heading of the first column, that of the names; "lead" tells that the columns are lead times,
            and those over all of them, `OVERALL`.
        names: of the rows.
        columns: cells by heading.
    """

    title: str
    note: str
    corner: str
    names: list[str]
    columns: dict[str, list[str]]


def markdown(grid: Grid) -> str:
    """A table in Markdown, aligned as plain text."""
    columns = [[grid.corner, *grid.names], *([key, *aligned(texts)] for key, texts in grid.columns.items())]
    widths = [max(3, *map(len, column)) for column in columns]
    columns[0] = [name.ljust(widths[0]) for name in columns[0]]
    rows = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in zip(*columns, strict=True)
    ]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    head = [f"**{grid.title}**", *([grid.note] if grid.note else []), ""]
    return "\n".join([*head, rows[0], rule, *rows[1:]])


class Screen:
    """Tables in the width of the console they are printed on."""

    def __init__(self, grids: list[Grid]) -> None:
        self.grids = grids

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["Text"]:
        names = max(len(name) for grid in self.grids for name in [grid.corner, *grid.names])
        # Long names are wrapped, so that four numbers fit beside them.
        names = min(names, max(options.max_width - 4 * 12, 8))
        width = options.max_width - names
        by_lead = [grid for grid in self.grids if grid.corner == "lead"]
        leads = _leads(by_lead, width) if by_lead else []
        for grid in self.grids:
            columns = list(grid.columns)
            if grid.corner == "lead":
                columns = [*leads, *(key for key in columns if key in OVERALL)]
            yield from _rich(grid, _parts(grid, columns, width), names)


def _leads(grids: list[Grid], available: int) -> list[str]:
    """Lead times, evenly spaced, that fit the width in all tables, beside the columns over all of them."""
    leads = [key for key in grids[0].columns if key not in OVERALL]
    widths = {key: max(_width(key, grid.columns[key]) for grid in grids) for key in leads}
    others = ([_width(key, texts) for key, texts in grid.columns.items() if key in OVERALL] for grid in grids)
    available -= max(map(sum, others))
    for count in range(len(leads), 2, -1):
        if sum(widths[key] for key in _evenly(leads, count)) <= available:
            return _evenly(leads, count)
    return _evenly(leads, 2)


def _evenly(leads: list[str], count: int) -> list[str]:
    places = {round(k * (len(leads) - 1) / max(count - 1, 1)) for k in range(min(count, len(leads)))}
    return [leads[place] for place in sorted(places)]


def _parts(grid: Grid, keys: list[str], available: int) -> list[list[str]]:
    """Columns in as few groups as fit the width, each with about as many columns."""
    for count in range(1, len(keys) + 1):
        parts = [[str(key) for key in part] for part in np.array_split(keys, count)]
        if all(sum(_width(key, grid.columns[key]) for key in part) <= available for part in parts):
            return parts
    return [[key] for key in keys]


def _width(key: str, texts: list[str]) -> int:
    """Width of a column with the gap before it."""
    return max(map(len, [key, *aligned(texts)])) + 2


def _rich(grid: Grid, parts: list[list[str]], name_width: int) -> Iterator["Text"]:
    """Title and note, then the lines of each group of columns, followed by an empty one."""
    from rich.text import Text

    yield Text(grid.title, style="bold")
    yield from [Text(grid.note, style="dim")] if grid.note else []
    for part in parts:
        columns = [
            [cell.rjust(_width(key, grid.columns[key])) for cell in [key, *aligned(grid.columns[key])]]
            for key in part
        ]
        header = grid.corner.ljust(name_width) + "".join(column.pop(0) for column in columns)
        yield Text(header, style="bold")
        yield Text("─" * len(header), style="dim")
        for name, *cells in zip(grid.names, *columns, strict=True):
            line = Text(name[:name_width].ljust(name_width))
            for cell in cells:
                line.append(cell, style="bold green" if "*" in cell else "bold" if "~" in cell else "")
            yield line
            yield from (Text(name[k : k + name_width]) for k in range(name_width, len(name), name_width))
        yield Text("")
