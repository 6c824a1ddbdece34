"""Frames in a row: film strips and animations, pixel for pixel, without smoothing."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import OptionError, ShapeError
from convlstm.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

Pixels = NDArray[np.uint8]

LEAST_SIDE = 64
GREY_LIMITS = ((0.0, 1.0), (0.0, 255.0))
MISSING = (109, 92, 128)

# Signed values: dark at zero, so that a black frame without error stays black beside a frame of black ground;
# blue and orange differ for every kind of colour vision, and grow lighter together on both sides.
DIVERGING = (
    (-1.0, (184, 218, 255)),
    (-0.5, (54, 128, 214)),
    (0.0, (14, 14, 16)),
    (0.5, (214, 96, 30)),
    (1.0, (255, 214, 165)),
)
# Values without a natural black and white: matplotlib's viridis at ten places, uniform to the eye.
SEQUENTIAL = (
    (0.0, (68, 1, 84)),
    (0.125, (71, 45, 123)),
    (0.25, (59, 82, 139)),
    (0.375, (44, 114, 142)),
    (0.5, (33, 145, 140)),
    (0.625, (40, 174, 128)),
    (0.75, (94, 201, 98)),
    (0.875, (173, 220, 48)),
    (0.9375, (215, 226, 25)),
    (1.0, (253, 231, 37)),
)
GREY = ((0.0, (0, 0, 0)), (1.0, (255, 255, 255)))

_INK, _MUTED, _PAPER = (28, 31, 36), (98, 104, 115), (255, 255, 255)
_INK_DARK, _MUTED_DARK, _PAPER_DARK = (232, 234, 237), (154, 160, 171), (22, 24, 28)


def value_limits(*frames: ArrayLike) -> tuple[float, float]:
    """Values that become the two ends of the colours.

    Args:
        frames: arrays of any shape; values that are not finite are left out.

    Returns:
        (0, 1) for frames within [0, 1], (0, 255) for frames of uint8, else the least and the greatest value.
    """
    arrays = [np.asarray(f) for f in frames]
    if arrays and all(a.dtype == np.uint8 for a in arrays):
        return 0.0, 255.0
    finite = [a[np.isfinite(a)] for a in arrays]
    low = min((float(a.min()) for a in finite if a.size), default=0.0)
    high = max((float(a.max()) for a in finite if a.size), default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def error_limit(*errors: ArrayLike) -> float:
    """The greatest absolute finite value, rounded up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    arrays = [np.abs(np.asarray(e, dtype=np.float64)) for e in errors]
    greatest = max((float(a[np.isfinite(a)].max()) for a in arrays if np.isfinite(a).any()), default=0.0)
    if greatest == 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(greatest))
    return next(
        float(f"{step * unit:.2g}")
        for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
        if greatest <= step * unit * 1.0001
    )


def paint(frames: ArrayLike, limits: tuple[float, float], *, signed: bool = False) -> Pixels:
    """Colour frames.

    Three channels are red, green and blue; one channel is grey where ``limits`` are (0, 1) or (0, 255) and
    viridis elsewhere; of any other number of channels the first is shown. Signed frames take diverging
    colours of the mean over channels (of the first, where only the first is shown). Values beyond the limits
    take the colour of the nearest end, values that are not numbers a mauve of their own.

    Args:
        frames: (T, C, H, W).
        limits: values of the first and the last colour.
        signed: whether zero is the middle.

    Returns:
        (T, H, W, 3), uint8.

    Raises:
        ShapeError: ``frames`` is not (T, C, H, W) or is empty.
    """
    x_TCHW = check_frames(frames, "frames").astype(np.float64)
    low, high = limits
    if x_TCHW.shape[1] == 3 and signed:
        x_TCHW = x_TCHW.mean(axis=1, keepdims=True)
    elif x_TCHW.shape[1] != 3:
        x_TCHW = x_TCHW[:, :1]
    missing_THW = np.isnan(x_TCHW).any(axis=1)
    unit_TCHW = np.clip((x_TCHW - low) / (high - low), 0, 1)
    unit_TCHW = np.where(np.isnan(unit_TCHW), 0, unit_TCHW)
    if x_TCHW.shape[1] == 3:
        rgb = np.moveaxis(unit_TCHW, 1, -1) * 255
    else:
        stops = DIVERGING if signed else GREY if limits in GREY_LIMITS else SEQUENTIAL
        first, last = stops[0][0], stops[-1][0]
        places = [(place - first) / (last - first) for place, _ in stops]
        rgb = np.stack(
            [np.interp(unit_TCHW[:, 0], places, [colour[k] for _, colour in stops]) for k in range(3)],
            axis=-1,
        )
    pixels = np.rint(rgb).astype(np.uint8)
    pixels[missing_THW] = MISSING
    return pixels


def check_frames(frames: ArrayLike, what: str) -> NDArray[Any]:
    """Return ``frames`` as an array (T, C, H, W).

    Raises:
        ShapeError: another rank, or an axis of length 0.
    """
    array = np.asarray(frames)
    if array.ndim != 4 or 0 in array.shape:
        raise ShapeError(f"{what} must be (T, C, H, W) with no empty axis; received shape {array.shape}")
    return array


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

    Args:
        rows: name to (T, C, H, W); rows may differ in T, not in H and W.
        past: (K, C, H, W), drawn as a row of its own above, under the labels t-K+1 ... t.
        signed: names of rows that hold differences; their colours are symmetric about zero.
        limits: values of the first and last colour of the other rows; None takes ``value_limits`` of the past
            and the first row that is not signed, so that one wild forecast does not wash out the rest.
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
    painted = _paint_rows(frames, signed, limits)
    blocks = [] if past is None else [({"past": painted.pop("")}, True)]
    return _Sheet(height * times, width * times, [*painted, "past"], dark).draw(
        [*blocks, (painted, False)], times
    )


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
) -> dict[str, Pixels]:
    plain = [name for name in frames if name not in signed]
    reference = [frames[name] for name in plain[: 2 if plain[:1] == [""] else 1]]
    low_high = limits or value_limits(*reference)
    bound = error_limit(*(frames[name] for name in frames if name in signed))
    return {
        name: paint(row, (-bound, bound), signed=True) if name in signed else paint(row, low_high)
        for name, row in frames.items()
    }


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

    def draw(self, blocks: Sequence[tuple[Mapping[str, Pixels], bool]], times: int) -> "Image":
        from PIL import Image, ImageDraw

        columns = max(len(row) for rows, _ in blocks for row in rows.values())
        total = sum(self.head + len(rows) * (self.height + self.gap) for rows, _ in blocks) + 8 * len(blocks)
        size = (self.left + columns * (self.width + self.gap) + 8, total + 4)
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
    painted = {name: enlarge(row, times) for name, row in _paint_rows(frames, signed, limits).items()}
    pictures = _panels(painted, signed, dark)
    durations = [frame_ms] * (len(pictures) - 1) + [5 * frame_ms]
    film = io.BytesIO()
    pictures[0].save(film, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    write_atomically(target, film.getvalue())
    return target


def _panels(painted: dict[str, Pixels], signed: Collection[str], dark: bool) -> list["Image"]:
    """One picture per moment, the past first."""
    from PIL import Image, ImageDraw

    past = painted.pop("", None)
    ink, muted, paper = (_INK_DARK, _MUTED_DARK, _PAPER_DARK) if dark else (_INK, _MUTED, _PAPER)
    steps, height, width = next(iter(painted.values())).shape[:3]
    edge, gap, head, foot = 12, 12, 30, 26
    size = (2 * edge + len(painted) * (width + gap) - gap, head + height + foot)
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
        pen.text((size[0] // 2, size[1] - foot // 2), label, fill=muted, font=_font(13), anchor="mm")
        pictures.append(picture)
    return pictures
