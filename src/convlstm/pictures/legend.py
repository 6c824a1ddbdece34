"""Legend below pictures of frames: texts, single colours, and the classes of rain."""

import math
from typing import TYPE_CHECKING, NamedTuple

from convlstm.pictures.radar import DRY, RadarTable

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

MUTED = (98, 104, 115)
_CLASS, _MARK = 46, 17  # widths of a class and of its colour


class Mark(NamedTuple):
    """Meaning of one colour."""

    colour: tuple[int, int, int]
    text: str


Line = str | Mark | RadarTable  # of the legend: a text, one colour, or the classes of a table


def line_width(line: Line) -> int:
    """Pixels that a line takes."""
    if isinstance(line, str):
        return math.ceil(text_font(12).getlength(line))
    if isinstance(line, Mark):
        return _MARK + math.ceil(text_font(12).getlength(line.text))
    return _CLASS * (len(line.bounds) + 1) + math.ceil(text_font(12).getlength(line.unit)) + 8


def draw_line(pen: "ImageDraw", place: tuple[int, int], line: Line) -> None:
    """A line of the legend, its left end in the middle at a place."""
    x, y = place
    if isinstance(line, str):
        pen.text(place, line, fill=MUTED, font=text_font(12), anchor="lm")
        return
    if isinstance(line, Mark):
        marks = [line]
    else:
        texts = ["dry", *(f"{bound:g}" for bound in line.bounds)]
        marks = [Mark(*pair) for pair in zip((DRY, *line.colours), texts, strict=True)]
        pen.text((x + _CLASS * len(marks), y), line.unit, fill=MUTED, font=text_font(12), anchor="lm")
    for k, (colour, text) in enumerate(marks):
        pen.rectangle((x + _CLASS * k, y - 6, x + _CLASS * k + 12, y + 6), fill=colour)
        pen.text((x + _CLASS * k + _MARK, y), text, fill=MUTED, font=text_font(12), anchor="lm")


def text_font(size: int) -> "FreeTypeFont | ImageFont":
    """The font of all texts in pictures."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
