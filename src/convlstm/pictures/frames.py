"""Film strips and animations of frames."""

import io
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.atomic_write import write_atomically
from convlstm.errors import OptionError, ShapeError
from convlstm.extras import check_installed
from convlstm.pictures.colours import (
    DIVERGING,
    MISSING,
    Pixels,
    Scale,
    channel_names,
    channel_scales,
    check_frames,
    error_scales,
    legend,
    paint,
)
from convlstm.pictures.legend import MUTED, Line, Mark, draw_line, line_width, text_font
from convlstm.pictures.radar import NOT_MEASURED, RadarTable, paint_radar
from convlstm.pictures.sizes import MAX_SIDE, MIN_SIDE, enlarge, resize
from convlstm.pictures.video import LAST, mp4
from convlstm.scores.lead_times import lead_text
from convlstm.validation import check_instance, check_number, check_path, check_positive, received

if TYPE_CHECKING:
    from PIL.Image import Image

Limits = tuple[float, float] | list[Scale] | RadarTable | None

_FILM = 512  # pixels of the longer side of an animation of one panel, and of all panels side by side
_MAX_COLUMNS = 10
_GAP, _HEAD, _LINE = 4, 24, 18  # between frames; height of labels above frames; of a line of the legend
_INK, _EDGE, _PAPER = (28, 31, 36), (208, 212, 218), (255, 255, 255)


def film_strip(
    rows: Mapping[str, ArrayLike],
    *,
    past: ArrayLike | None = None,
    signed: Collection[str] = ("error",),
    limits: Limits = None,
    scale: int | None = None,
    step_s: float | None = None,
) -> "Image":
    """Draw a row of frames per name, with the names at the left and the lead times on top.

    Sequences of more than ten frames are divided evenly into blocks below each other. Three channels within
    [0, 1] are red, green and blue; otherwise each channel has a row.

    Args:
        rows: name to (T, C, H, W); rows may differ in T, not in H and W.
        past: (K, C, H, W), drawn as a row of its own above, under the labels t-K+1 ... t.
        signed: names of the rows that hold differences; their colours are symmetric about zero.
        limits: values of black and white in the other rows, or a `Scale` per channel. None takes them from
            the past and the first row that is not signed, so that one extreme forecast does not wash out the
            rest. Limits other than 0 and 1 or 255 are written below the frames. A `RadarTable` gives rain the
            colours of its classes, which are shown there.
        scale: pixels of the picture per pixel of a frame. None enlarges small frames to at least 64 pixels
            and averages large ones to at most 192.
        step_s: seconds between frames: lead times are +5 min, +10 min ... then, and +1, +2 ... without.

    Returns:
        an RGB picture.

    Raises:
        ShapeError: a row is not (T, C, H, W), or frames differ in size.
        OptionError: no row at all, ``scale`` below 1, or Pillow is not installed.
    """
    checked = check_rows(rows, past, signed, limits, scale)
    frames, times = resize(checked, scale, decibels=_in_decibels(checked, signed, limits))
    painted, lines = _paint_rows(frames, signed, limits)
    blocks = []
    if past is not None:
        blocks += list(divide({"past": painted.pop("")}, past=True, step_s=step_s))
    blocks += list(divide(painted, step_s=step_s))
    return _draw_strip(blocks, lines, times)


def animation(
    rows: Mapping[str, ArrayLike],
    path: Path | str,
    *,
    past: ArrayLike | None = None,
    signed: Collection[str] = ("error",),
    limits: Limits = None,
    scale: int | None = None,
    frame_ms: int = 180,
    moments: Sequence[str] = (),
    step_s: float | None = None,
) -> Path:
    """Write a GIF or an MP4 that plays the rows side by side, the past first.

    Colours are those of `film_strip`; channels that have a row each there are stacked vertically here. After
    a past, what follows it has a dark border, an orange one beside colours.

    Args:
        rows: panel name to (L, C, H, W), L the same for all.
        path: file name ending in ``.gif``, or in ``.mp4`` for a video (H.264, by PyAV); an existing file is
            replaced once the new one is complete.
        past: (K, C, H, W), played first; panels of differences are blank meanwhile.
        signed: names of the panels that hold differences.
        limits: as in `film_strip`.
        scale: pixels of the picture per pixel of a frame; None makes them at least 512 pixels long side by
            side, and each at least 128.
        frame_ms: duration of a frame in milliseconds; the last one stays five times as long.
        moments: time of every frame, of the past and what follows, written beside its label.
        step_s: as in `film_strip`.

    Returns:
        ``path``.

    Raises:
        ShapeError: a row is not (T, C, H, W), or rows differ in length or size.
        OptionError: no row, another ending, ``scale`` or ``frame_ms`` below 1, or Pillow or PyAV is not
            installed.
        RunError: the file cannot be written.
    """
    target = check_path(path, "path of an animation")
    if (ending := target.suffix.lower()) not in (".gif", ".mp4"):
        raise OptionError(f"path of an animation must end in .gif or .mp4; received {str(path)!r}")
    if ending == ".mp4":
        check_installed("av", "MP4 videos need PyAV")
    check_positive(frame_ms, "frame_ms", most=60_000)
    frames = check_rows(rows, past, signed, limits, scale)
    lengths = {name: len(row) for name, row in frames.items() if name}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"all panels must have the same number of frames; received {lengths}")
    if moments and len(moments) != (played := len(frames.get("", ())) + max(lengths.values())):
        raise OptionError(
            f"moments must name the time of each of the {played} frames; received {len(moments)}: name all"
        )
    side = max(2 * MIN_SIDE, math.ceil(_FILM / len(lengths)))
    frames, times = resize(frames, scale, side, decibels=_in_decibels(frames, signed, limits))
    painted, lines = _paint_rows(frames, signed, limits)
    panels = {name: _stack([enlarge(c, times) for c in channels]) for name, channels in painted.items()}
    pictures = _draw_panels(panels, signed, lines, moments, step_s)
    if ending == ".mp4":
        write_atomically(target, mp4(pictures, frame_ms))
        return target
    file = io.BytesIO()
    durations = [frame_ms] * (len(pictures) - 1) + [LAST * frame_ms]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    write_atomically(target, file.getvalue())
    return target


class StripRow(NamedTuple):
    """Frames beside each other; ``channel`` is empty if one picture shows all channels."""

    name: str
    channel: str
    pixels: Pixels


class StripBlock(NamedTuple):
    """Rows of at most ten frames each, one below the other, with a label for every column.

    Attributes:
        labels: t-2, t-1, t of a past, or -10 min, -5 min, 0 min; +1, +2, +3 otherwise, or +5 min ...
        rows: one per name and channel.
    """

    labels: list[str]
    rows: list[StripRow]


def divide(
    painted: Mapping[str, Sequence[Pixels]], *, past: bool = False, step_s: float | None = None
) -> Iterator[StripBlock]:
    """Divide rows of frames evenly into blocks of at most ten columns.

    Args:
        painted: (T, H, W, 3) for every channel, by name; T may differ.
        past: label the frames as those of a past, t-T+1 ... t.
        step_s: as in `film_strip`.
    """
    length = max(len(channels[0]) for channels in painted.values())
    rows = [
        StripRow(name, channel.removeprefix(", "), pixels)
        for name, channels in painted.items()
        for channel, pixels in zip(channel_names("", len(channels)), channels, strict=True)
    ]
    for part in np.array_split(np.arange(length), math.ceil(length / _MAX_COLUMNS)):
        start, stop = int(part[0]), int(part[-1]) + 1
        labels = [
            past_label(k, length, step_s) if past else lead_text(k + 1, step_s) for k in range(start, stop)
        ]
        yield StripBlock(labels, [row._replace(pixels=row.pixels[start:stop]) for row in rows])


def past_label(index: int, length: int, step_s: float | None = None) -> str:
    """Label of frame ``index`` of a past of ``length`` frames: t-9, ..., t-1, t, or -45 min ... 0 min."""
    if step_s is not None:
        return lead_text(index - length + 1, step_s)
    return "t" if index == length - 1 else f"t-{length - 1 - index}"


def clip_text(text: str, length: int = 24) -> str:
    """Text of one line and at most ``length`` characters, with an ellipsis if it was longer."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def check_rows(
    rows: Mapping[str, ArrayLike],
    past: ArrayLike | None,
    signed: Collection[str],
    limits: Limits,
    scale: int | None = None,
) -> dict[str, NDArray[Any]]:
    """The rows as arrays of one frame size, the past first under an empty name; arguments as in `film_strip`.

    Raises:
        ShapeError: a row is not (T, C, H, W), or frames differ in size.
        OptionError: no row at all, another option out of its range, or Pillow is not installed.
    """
    _check_colours(signed, limits)
    check_instance(rows, Mapping, "rows", "pass {'truth': frames}")
    if not rows or "" in rows:
        names = "an empty name" if rows else "none"
        raise OptionError(f"rows must name every row of frames; received {names}: pass {{'truth': frames}}")
    frames = {} if past is None else {"": check_frames(past, "past")}
    frames |= {name: check_frames(row, f"row {name!r}") for name, row in rows.items()}
    if len({row.shape[2:] for row in frames.values()}) > 1:
        sizes = ", ".join(f"{name or 'past'} {row.shape[2:]}" for name, row in frames.items())
        raise ShapeError(f"all rows must hold frames of one size H, W; received {sizes}")
    if scale is not None:
        check_positive(scale, "scale", most=max(1, MAX_SIDE // max(frames[next(iter(rows))].shape[2:])))
    check_installed("PIL", "pictures need Pillow")
    return frames


def _check_colours(signed: Collection[str], limits: Limits) -> None:
    check_instance(signed, (tuple, list, set, frozenset), "signed", "pass a list of names of rows")
    if limits is None or isinstance(limits, RadarTable):
        return
    if isinstance(limits, list) and all(isinstance(each, Scale) for each in limits):
        return
    if not isinstance(limits, tuple) or len(limits) != 2:
        raise OptionError(f"limits must be two numbers; received {received(limits)}: pass (0, 1)")
    check_number(limits[1], "the upper limit", above=check_number(limits[0], "the lower limit"))


def _in_decibels(names: Iterable[str], signed: Collection[str], limits: Limits) -> list[str]:
    """Names of the rows that hold decibels."""
    logarithmic = isinstance(limits, RadarTable) and limits.logarithmic
    return [name for name in names if name not in signed] if logarithmic else []


def row_scales(
    frames: Mapping[str, NDArray[Any]], signed: Collection[str], limits: Limits
) -> dict[str, list[Scale] | RadarTable]:
    """The colours of every row: a scale for each picture of a frame, or the classes of rain.

    Args:
        frames: (T, C, H, W) by name, a past first under an empty name.
        signed: names of the rows that hold differences.
        limits: as in `film_strip`.
    """
    unsigned = [name for name in frames if name not in signed]
    reference = [frames[name] for name in unsigned[: 2 if unsigned[:1] == [""] else 1]]
    found: dict[str, list[Scale] | RadarTable] = {}
    for name, row in frames.items():
        channels = row.shape[1]
        like = [values for values in reference if values.shape[1] == channels]
        scales = channel_scales(*(like or [row]))
        if name in signed:
            errors = [frames[n] for n in frames if n in signed and frames[n].shape[1] == channels]
            found[name] = error_scales(errors, like, len(scales))
        elif isinstance(limits, tuple) and not isinstance(limits, RadarTable):
            found[name] = [Scale(*limits)] * (1 if channels == 3 else channels)
        else:
            found[name] = scales if limits is None else limits
    return found


def _paint_rows(
    frames: Mapping[str, NDArray[Any]], signed: Collection[str], limits: Limits
) -> tuple[dict[str, list[Pixels]], list[Line]]:
    """Colours of every row, one picture per channel, and the lines of the legend."""
    painted: dict[str, list[Pixels]] = {}
    lines: dict[Line, None] = {}
    for name, scales in row_scales(frames, signed, limits).items():
        row = frames[name]
        if isinstance(scales, RadarTable):
            painted[name] = paint_radar(row, scales)
            lines[scales] = None
        else:
            painted[name] = paint(row, scales, signed=name in signed)
            lines |= dict.fromkeys(legend([], scales) if name in signed else legend(scales))
        if np.isnan(row).any():
            lines[Mark(NOT_MEASURED if isinstance(scales, RadarTable) else MISSING, "not measured")] = None
    return painted, list(lines)


def _stack(channels: Sequence[Pixels]) -> Pixels:
    """Channels below each other, (T, H', W, 3), with two grey rows between them."""
    gap = np.full((len(channels[0]), 2, *channels[0].shape[2:]), 128, np.uint8)
    parts = [part for channel in channels for part in (gap, channel)]
    return np.concatenate(parts[1:], axis=1)


def _row_name(row: StripRow) -> str:
    return clip_text(f"{row.name}, {row.channel}" if row.channel else row.name)


def _draw_strip(blocks: Sequence[StripBlock], lines: Sequence[Line], times: int) -> "Image":
    from PIL import Image, ImageDraw

    height, width = (times * side for side in blocks[0].rows[0].pixels.shape[1:3])
    names, labels = text_font(13), text_font(12)
    left = math.ceil(max(names.getlength(_row_name(row)) for block in blocks for row in block.rows)) + 24
    total = sum(_HEAD + len(block.rows) * (height + _GAP) + 8 for block in blocks)
    columns = max(len(block.labels) for block in blocks)
    right = max([columns * (width + _GAP), *map(line_width, lines)])
    picture = Image.new("RGB", (left + right + 8, total + 4 + _LINE * len(lines)), _PAPER)
    pen = ImageDraw.Draw(picture)
    top = 4
    for block in blocks:
        for k, label in enumerate(block.labels):
            centre = (left + k * (width + _GAP) + width // 2, top + _HEAD // 2)
            pen.text(centre, label, fill=MUTED, font=labels, anchor="mm")
        top += _HEAD
        for row in block.rows:
            middle = (left - 12, top + height // 2)
            pen.text(middle, _row_name(row), fill=_INK, font=names, anchor="rm")
            for k, frame in enumerate(enlarge(row.pixels, times)):
                x = left + k * (width + _GAP)
                picture.paste(Image.fromarray(frame), (x, top))
                # Without an edge, white frames cannot be told from a white page.
                pen.rectangle((x - 1, top - 1, x + width, top + height), outline=_EDGE)
            top += height + _GAP
        top += 8
    for k, line in enumerate(lines):
        draw_line(pen, (left, top + _LINE * k + _LINE // 2), line)
    return picture


def _draw_panels(
    panels: dict[str, Pixels],
    signed: Collection[str],
    lines: Sequence[Line],
    moments: Sequence[str],
    step_s: float | None,
) -> list["Image"]:
    """One picture per time, the past (under an empty name) first."""
    from PIL import Image, ImageDraw

    past = panels.pop("", np.zeros((0, 1, 1, 3), np.uint8))
    steps, _, width = next(iter(panels.values())).shape[:3]
    height = max(panel.shape[1] for panel in panels.values())
    single = next(iter(panels)) if len(panels) == 1 else ""  # named in the label below
    edge, gap, head, foot = 12, 12, 12 if single else 30, 26
    across = len(panels) * (width + gap) - gap
    right = max([across, *map(line_width, (single, *lines))])
    size = (2 * edge + right, head + height + foot + _LINE * len(lines))
    known = len(past)
    grey = not set(panels) & set(signed) and all((p == p[..., :1]).all() for p in panels.values())
    border = _INK if grey else DIVERGING[3][1]  # which stands out from radar's dark ground
    pictures = []
    for time in range(-known, steps):
        picture = Image.new("RGB", size, _PAPER)
        pen = ImageDraw.Draw(picture)
        for k, (name, panel) in enumerate(panels.items()):
            x = edge + k * (width + gap)
            if not single:
                middle = (x + width // 2, head // 2)
                pen.text(middle, clip_text(name), fill=_INK, font=text_font(14), anchor="mm")
            box = (x - 1, head - 1, x + width, head + panel.shape[1])
            if time < 0 and name in signed:
                pen.rectangle(box, fill=DIVERGING[2][1])  # no difference yet
            elif time < 0:
                picture.paste(Image.fromarray(past[time + known]), (x, head))
            else:
                picture.paste(Image.fromarray(panel[time]), (x, head))
            if time >= 0 and known:
                pen.rectangle((x - 3, head - 3, box[2] + 2, box[3] + 2), outline=border, width=3)
            else:
                pen.rectangle(box, outline=_EDGE)
        name = "past" if time < 0 else clip_text(single)
        lead = past_label(time + known, known, step_s) if time < 0 else lead_text(time + 1, step_s)
        label = f"{name} {lead}" + (f"   {moments[time + known]}" if moments else "")
        under = head + height + foot
        middle = (edge + across // 2, under - foot // 2)
        pen.text(middle, label.strip(), fill=MUTED, font=text_font(13), anchor="mm")
        for k, line in enumerate(lines):
            draw_line(pen, (edge, under + _LINE * k + 7), line)
        # A palette holds every grey, but not every colour.
        pictures.append(picture.convert("L") if grey else picture)
    return pictures
