"""The catalogue of forecasters as text: two lines or more of each, which can be read at 80 columns."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convlstm.workflows.models import PAST, SIZE, STEPS, Entry

if TYPE_CHECKING:
    from rich.text import Text

_HEADINGS = ("name", "parameters", "multiply-adds", "source")
_NOTE = (
    f"multiply-adds: of convolutions and matrix products, in a forecast of {STEPS} frames of {SIZE} x {SIZE} "
    f"after {PAST}, with default arguments; nothing else is counted"
)


def catalogue(entries: Sequence[Entry], width: int) -> "Text":
    """The entries, each with its numbers and its source, and its summary below.

    Args:
        entries: of `convlstm.workflows.models.models`.
        width: columns of the terminal.
    """
    from rich.text import Text

    first = max(len(_HEADINGS[0]), *(len(entry.name) for entry in entries))

    def row(name: str, parameters: str, operations: str, source: str) -> str:
        numbers = f"{parameters:>{len(_HEADINGS[1])}}  {operations:>{len(_HEADINGS[2])}}"
        start = f"{name:<{first}}  {numbers}  "
        return textwrap.fill(start + source, width, subsequent_indent=" " * len(start)).rstrip()

    shown = Text(no_wrap=True)
    shown.append(row(*_HEADINGS) + "\n", style="bold")
    for entry in entries:
        line = row(entry.name, quantity(entry.parameters), quantity(entry.multiply_adds), entry.source)
        shown.append(line[: len(entry.name)], style="bold")
        shown.append(line[len(entry.name) :] + "\n")
        shown.append(textwrap.indent(textwrap.fill(entry.summary, width - 2), "  ") + "\n")
    shown.append("\n" + textwrap.fill(_NOTE, width), style="dim")
    return shown


def quantity(number: int) -> str:
    """A count to three digits, with k, M, G or T for powers of a thousand."""
    scaled, prefix = float(number), ""
    for next_prefix in "kMGT":
        if scaled < 999.5:
            break
        scaled, prefix = scaled / 1000, next_prefix
    digits = 0 if not prefix or scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f} {prefix}".rstrip()
