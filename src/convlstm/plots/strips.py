"""Frames in a row: film strips and animations, pixel for pixel, without smoothing."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from convlstm.atomic_write import write_atomically
from convlstm.errors import OptionError, ShapeError
from convlstm.forecasting.colours import (
    DIVERGING,
    Pixels,
    Scale,
    channel_names,
    channel_scales,
    check_frames,
    error_scales,
    legend,
    paint,
    stacked,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

LEAST_SIDE = 64
_LINE = 18  # height of a line of the legend
_INK, _MUTED, _PAPER = (28, 31, 36), (98, 104, 115), (255, 255, 255)
_INK_DARK, _MUTED_DARK, _PAPER_DARK = (232, 234, 237), (154, 160, 171), (22, 24, 28)


def magnification(height: int, width: int) -> int:
    """Smallest whole number that makes the longer side of a frame at least ``LEAST_SIDE`` pixels."""
    return max(1, math.ceil(LEAST_SIDE / max(height, width)))


def enlarge(pixels: Pixels, times: int) -> Pixels:
    """Repeat every pixel ``times`` times along H and W of (T, H, W, 3)."""
    return pixels.repeat(times, axis=1).repeat(times, axis=2)


def film_strip(
    rows: Mapping[str, ArrayLike],
    *,
    past: ArrayLike | None = None,
    signed: Collection[str] = ("error",),
    limits: tuple[float, float] | None = None,
    scale: int | None = None,
    dark: bool = False,
) -> "Image":
    """Draw one row of frames per name: names at the left, lead times +1, +2... on top.

    Frames of three channels within [0, 1] are red, green and blue; of all others each channel has a row.

    Args:
        rows: name to (T, C, H, W); rows may differ in T, not in H and W.
        past: (K, C, H, W), drawn as a row of its own above, under the labels t-K+1 ... t.
        signed: names of rows that hold differences; their colours are symmetric about zero.
        limits: values of black and white in the other rows; None takes those that nearly all values of the
            past and the first row that is not signed lie within, so that one wild forecast does not wash out
            the rest. Where they are not 0 and 1 or 255, a line below the frames says so.
        scale: pixels on the picture per pixel of a frame; None makes frames at least 64 pixels long.
        dark: light text on a dark ground.

    Returns:
        an RGB picture.

    Raises:
        ShapeError: a row is not (T, C, H, W), or frames differ in size.
        OptionError: no row at all, or ``scale`` below 1.
    """
    frames = _check_rows(rows, past, scale)
    height, width = next(iter(frames.values())).shape[2:]
    times = scale or magnification(height, width)
    pictures, lines = _paint_rows(frames, signed, limits)
    known = _by_channel({"past": pictures.pop("")} if past is not None else {})
    painted = _by_channel(pictures)
    blocks = [(known, True)] if known else []
    return _Sheet(height * times, width * times, [*known, *painted], dark).draw(
        [*blocks, (painted, False)], times, lines
    )


def _by_channel(pictures: Mapping[str, Sequence[Pixels]]) -> dict[str, Pixels]:
    """The pictures of every row under names of their own."""
    return {
        label: picture
        for name, channels in pictures.items()
        for label, picture in zip(channel_names(name, len(channels)), channels, strict=True)
    }


def _check_rows(
    rows: Mapping[str, ArrayLike], past: ArrayLike | None, scale: int | None
) -> dict[str, NDArray[Any]]:
    """The rows as arrays of one frame size, the past under the empty name first."""
    if not rows:
        raise OptionError("rows must name at least one row of frames; received none: pass {'truth': frames}")
    if scale is not None and scale < 1:
        raise OptionError(f"scale must be at least 1; received {scale}")
    frames = {} if past is None else {"": check_frames(past, "past")}
    frames |= {name: check_frames(row, f"row {name!r}") for name, row in rows.items()}
    sizes = {name or "past": row.shape[2:] for name, row in frames.items()}
    if len(set(sizes.values())) > 1:
        raise ShapeError(
            "all rows must hold frames of one size H, W; received "
            + ", ".join(f"{n} {s}" for n, s in sizes.items())
        )
    return frames


def _paint_rows(
    frames: Mapping[str, NDArray[Any]], signed: Collection[str], limits: tuple[float, float] | None
) -> tuple[dict[str, list[Pixels]], list[str]]:
    """Every row in colour, a picture a channel, and the lines of the legend."""
    plain = [name for name in frames if name not in signed]
    reference = [frames[name] for name in plain[: 2 if plain[:1] == [""] else 1]]
    pictures: dict[str, list[Pixels]] = {}
    lines: dict[str, None] = {}
    for name, row in frames.items():
        channels = row.shape[1]
        like = [values for values in reference if values.shape[1] == channels]
        scales = channel_scales(*(like or [row]))
        if name in signed:
            errors = [frames[n] for n in frames if n in signed and frames[n].shape[1] == channels]
            scales = error_scales(errors, like, len(scales))
            lines |= dict.fromkeys(legend([], scales))
        else:
            if limits is not None:
                scales = [Scale(*limits)] * (1 if channels == 3 else channels)
            lines |= dict.fromkeys(legend(scales))
        pictures[name] = paint(row, scales, signed=name in signed)
    return pictures, list(lines)


class _Sheet:
    """Places frames and labels on one picture."""

    def __init__(self, height: int, width: int, names: Sequence[str], dark: bool) -> None:
        self.height, self.width = height, width
        self.ink, self.muted, self.paper = (
            (_INK_DARK, _MUTED_DARK, _PAPER_DARK) if dark else (_INK, _MUTED, _PAPER)
        )
        self.gap = 4
        self.names_font = _font(13)
        self.labels_font = _font(12)
        self.left = math.ceil(max(self.names_font.getlength(_clip(name)) for name in names)) + 24
        self.head = 24

    def draw(
        self, blocks: Sequence[tuple[Mapping[str, Pixels], bool]], times: int, lines: Sequence[str]
    ) -> "Image":
        from PIL import Image, ImageDraw

        columns = max(len(row) for rows, _ in blocks for row in rows.values())
        total = sum(self.head + len(rows) * (self.height + self.gap) for rows, _ in blocks) + 8 * len(blocks)
        right = max(
            [
                columns * (self.width + self.gap),
                *(math.ceil(self.labels_font.getlength(line)) for line in lines),
            ]
        )
        size = (self.left + right + 8, total + 4 + _LINE * len(lines))
        picture = Image.new("RGB", size, self.paper)
        pen = ImageDraw.Draw(picture)
        top = 4
        for rows, is_past in blocks:
            count = max(len(row) for row in rows.values())
            for k in range(count):
                centre = self.left + k * (self.width + self.gap) + self.width // 2
                label = past_label(k, count) if is_past else f"+{k + 1}"
                pen.text((centre, top + 12), label, fill=self.muted, font=self.labels_font, anchor="mm")
            top += self.head
            for name, row in rows.items():
                middle = (self.left - 12, top + self.height // 2)
                pen.text(middle, _clip(name), fill=self.ink, font=self.names_font, anchor="rm")
                for k, frame in enumerate(enlarge(row, times)):
                    picture.paste(Image.fromarray(frame), (self.left + k * (self.width + self.gap), top))
                top += self.height + self.gap
            top += 8
        for k, line in enumerate(lines):
            place = (self.left, top + _LINE * k + _LINE // 2)
            pen.text(place, line, fill=self.muted, font=self.labels_font, anchor="lm")
        return picture


def past_label(index: int, length: int) -> str:
    """Name of frame ``index`` of a past of ``length`` frames: t-9, ..., t-1, t."""
    return "t" if index == length - 1 else f"t-{length - 1 - index}"


def _clip(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def animation(
    rows: Mapping[str, ArrayLike],
    path: Path | str,
    *,
    past: ArrayLike | None = None,
    signed: Collection[str] = ("error",),
    limits: tuple[float, float] | None = None,
    scale: int | None = None,
    frame_ms: int = 180,
    dark: bool = False,
) -> Path:
    """Write a GIF that plays the rows side by side: first the past in every panel, then what followed.

    Colours are those of `film_strip`; the channels that have a row there lie below each other here.

    Args:
        rows: panel name to (L, C, H, W), L the same for all.
        path: ending in ``.gif``; replaced only when the new file is complete.
        past: (K, C, H, W), played first; panels of differences stay empty meanwhile.
        signed: names of panels that hold differences.
        limits: as for ``film_strip``.
        scale: pixels on the picture per pixel of a frame; None makes frames at least 128 pixels long.
        frame_ms: milliseconds a frame stays; the last stays five times as long.
        dark: light text on a dark ground.

    Returns:
        ``path``.

    Raises:
        ShapeError: a row is not (T, C, H, W), or rows differ in length or size.
        OptionError: no row, another ending, or ``scale`` or ``frame_ms`` below 1.
        RunError: the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".gif":
        raise OptionError(f"path of an animation must end in .gif; received {str(path)!r}")
    if frame_ms < 1:
        raise OptionError(f"frame_ms must be at least 1; received {frame_ms}")
    frames = _check_rows(rows, past, scale)
    lengths = {name: len(row) for name, row in frames.items() if name}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"all panels must have the same number of frames; received {lengths}")
    times = scale or 2 * magnification(*next(iter(frames.values())).shape[2:])
    channels, lines = _paint_rows(frames, signed, limits)
    painted = {name: stacked([enlarge(row, times) for row in rows]) for name, rows in channels.items()}
    pictures = _panels(painted, signed, lines, dark)
    durations = [frame_ms] * (len(pictures) - 1) + [5 * frame_ms]
    film = io.BytesIO()
    pictures[0].save(film, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    write_atomically(target, film.getvalue())
    return target


def _panels(
    painted: dict[str, Pixels], signed: Collection[str], lines: Sequence[str], dark: bool
) -> list["Image"]:
    """One picture per moment, the past first."""
    from PIL import Image, ImageDraw

    past = painted.pop("", None)
    ink, muted, paper = (_INK_DARK, _MUTED_DARK, _PAPER_DARK) if dark else (_INK, _MUTED, _PAPER)
    steps, _, width = next(iter(painted.values())).shape[:3]
    height = max(row.shape[1] for row in painted.values())
    edge, gap, head, foot = 12, 12, 30, 26
    right = max([len(painted) * (width + gap) - gap, *(math.ceil(_font(12).getlength(t)) for t in lines)])
    size = (2 * edge + right, head + height + foot + _LINE * len(lines))
    pictures = []
    known = 0 if past is None else len(past)
    for moment in range(-known, steps):
        picture = Image.new("RGB", size, paper)
        pen = ImageDraw.Draw(picture)
        for place, (name, row) in enumerate(painted.items()):
            left = edge + place * (width + gap)
            pen.text((left + width // 2, head // 2), _clip(name), fill=ink, font=_font(14), anchor="mm")
            if moment >= 0:
                picture.paste(Image.fromarray(row[moment]), (left, head))
            elif past is not None and name not in signed:
                picture.paste(Image.fromarray(past[moment + known]), (left, head))
            else:
                # Nothing to compare yet: the colour of no error.
                pen.rectangle((left, head, left + width - 1, head + height - 1), fill=DIVERGING[2][1])
        label = f"{'forecast ' if known else ''}+{moment + 1}"
        if moment < 0:
            label = f"past {past_label(moment + known, known)}"
        under = head + height + foot
        pen.text((size[0] // 2, under - foot // 2), label, fill=muted, font=_font(13), anchor="mm")
        for k, line in enumerate(lines):
            pen.text((edge, under + _LINE * k), line, fill=muted, font=_font(12), anchor="la")
        pictures.append(picture)
    return pictures
