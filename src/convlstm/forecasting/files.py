"""Forecast files: arrays, animations and film strips, by the ending of their name."""

import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from convlstm.atomic_write import check_writable, write_atomically
from convlstm.data.files import COMMENT, FRAME_MS, check_finite, from_unit
from convlstm.errors import OptionError, RunError, ShapeError, check_name
from convlstm.forecasting.colours import UNIT, channel_scales, legend, paint, stacked

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".gif", ".npy", ".npz", ".png")

_COLUMNS, _LEAST_SIDE, _MOST_SIDE, _GAP, _HEAD = 10, 64, 192, 4, 20
_LABEL, _EDGE = (98, 104, 115), (208, 212, 218)


def write_frames(
    path: str | Path,
    frames: Tensor | NDArray[Any],
    *,
    dtype: DTypeLike = np.float32,
    past: Tensor | NDArray[Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a forecast; the ending of ``path`` says how.

    - ``.npz``: ``frames`` and, if given, ``past``; ``.npy``: the forecast alone. Both (T, C, H, W), in
      ``dtype``.
    - ``.gif``: the past, then the forecast, one pixel per pixel. A grey one gives back the values of 8-bit
      frames exactly; neighbouring frames that are equal are stored once and shown longer, and are read
      back as often as they were.
    - ``.png``: a film strip, ten frames a row: the past, labelled t-9 ... t, above the forecast, labelled
      +1, +2 ...; frames of more than 192 pixels a side are averaged to that.

    Pictures show [0, 1] from black to white: always for frames of 8 bits, else if most values of the past
    (without one, of the forecast) lie within and use it. Otherwise black and white are limits that all but
    the most extreme of these lie within; a film strip says which. Three channels within [0, 1] are red,
    green and blue; other channels lie below each other.

    Args:
        path: where to; its folder must exist.
        frames: the forecast (L, C, H, W) as the model gave it.
        dtype: of the values in the file, as in the `Frames` that were read: integers are scaled back to
            their range.
        past: (K, C, H, W), in the same scale as ``frames``.
        overwrite: replace a file that exists.

    Returns:
        ``path``.

    Raises:
        OptionError: an ending that is none of these.
        ShapeError: not (T, C, H, W), or past and forecast that do not fit.
        DataError: NaN in the forecast or the past.
        RunError: the file exists or cannot be written; what was there stays.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    values = {"frames": _array(frames, "frames")} | ({} if past is None else {"past": _array(past, "past")})
    if len({array.shape[1:] for array in values.values()}) > 1:
        raise ShapeError(
            "past and forecast must have the same channels and size; "
            f"received {values['past'].shape} and {values['frames'].shape}"
        )
    write_atomically(path, _encode(values, path.suffix.lower(), dtype))
    return path


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a path that `write_frames` could not write, before any forecast is made.

    Raises:
        OptionError: an unknown ending.
        RunError: the folder is missing or no folder, or the file exists and ``overwrite`` is off.
    """
    path = Path(path)
    check_name(path.suffix.lower(), ENDINGS, f"the ending of {path.name}")
    if not path.parent.is_dir():
        raise RunError(
            f"a forecast must go to an existing folder; {path.parent} is none: make it or choose another"
        )
    if path.is_dir():
        raise RunError(f"a forecast must go to a file; {path} is a folder: choose another name")
    if os.path.lexists(path) and not overwrite:
        raise RunError(
            "a forecast must not replace a file unasked; "
            f"{path} exists: choose another name or pass overwrite"
        )
    check_writable(path.parent)


def _array(frames: Tensor | NDArray[Any], what: str) -> NDArray[np.float32]:
    array: NDArray[np.float32] = torch.as_tensor(frames).detach().float().cpu().numpy()
    if array.ndim != 4 or 0 in array.shape:
        hint = ": take one case, forecast[0]" if array.ndim == 5 else ""
        raise ShapeError(
            f"{what} must be (T, C, H, W) with no empty axis; received shape {array.shape}{hint}"
        )
    check_finite(array, what, ("frame", "channel", "row", "column"))
    return array


def _encode(values: dict[str, NDArray[np.float32]], ending: str, dtype: DTypeLike) -> bytes:
    """The content of the file, whole before any of it is written."""
    file = io.BytesIO()
    if ending == ".npz":
        arrays = {name: from_unit(array, dtype) for name, array in values.items()}
        np.savez_compressed(file, allow_pickle=False, **arrays)
    elif ending == ".npy":
        np.save(file, from_unit(values["frames"], dtype), allow_pickle=False)
    elif ending == ".gif":
        pictures, _ = _pictures(values, dtype)
        first, *rest = pictures.get("past", []) + pictures["frames"]
        how: dict[str, Any] = {"duration": FRAME_MS, "loop": 0, "comment": COMMENT}
        first.save(file, format="GIF", save_all=True, append_images=rest, **how)
    else:
        _film_strip(*_pictures(values, dtype)).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _pictures(
    values: dict[str, NDArray[np.float32]], dtype: DTypeLike
) -> tuple[dict[str, list["Image"]], list[str]]:
    """Every frame as a picture, grey or red, green and blue, and the lines of a legend."""
    try:
        from PIL import Image
    except ImportError as error:
        raise OptionError(
            "pictures need Pillow to be written; it is not installed: pip install pillow, or write .npz"
        ) from error
    reference = values.get("past", values["frames"])
    scales = channel_scales(reference)
    if np.dtype(dtype) == np.uint8:
        scales = [UNIT] * (1 if reference.shape[1] == 3 else reference.shape[1])
    pictures = {}
    for name, array in values.items():
        pixels = stacked(paint(array, scales))
        # One byte a pixel where there is no colour: a grey animation gives back its values exactly.
        grey = len(scales) > 1 or reference.shape[1] == 1
        pictures[name] = [Image.fromarray(frame[..., 0] if grey else frame) for frame in pixels]
    return pictures, legend(scales)


def _film_strip(pictures: dict[str, list["Image"]], lines: list[str]) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    width, height = pictures["frames"][0].size
    longer = max(width, height)
    times = math.ceil(_LEAST_SIDE / longer) if longer < _LEAST_SIDE else min(1, _MOST_SIDE / longer)
    width, height = max(1, round(width * times)), max(1, round(height * times))
    how = Image.Resampling.NEAREST if times >= 1 else Image.Resampling.BOX
    past = [(f"t-{k}" if k else "t", image) for k, image in enumerate(pictures.get("past", [])[::-1])][::-1]
    forecast = [(f"+{k}", image) for k, image in enumerate(pictures["frames"], 1)]
    rows = [part[k : k + _COLUMNS] for part in (past, forecast) for k in range(0, len(part), _COLUMNS)]
    columns = max(map(len, rows))
    font = ImageFont.load_default(size=12)
    right = max([columns * (width + _GAP), *(math.ceil(font.getlength(line)) + _GAP for line in lines)])
    under = len(rows) * (_HEAD + height)
    strip = Image.new("RGB", (_GAP + right, under + _HEAD * len(lines) + _GAP), "white")
    pen = ImageDraw.Draw(strip)
    for k, line in enumerate(lines):
        pen.text((_GAP, under + _HEAD * k + _HEAD // 2), line, fill=_LABEL, font=font, anchor="lm")
    for k, row in enumerate(rows):
        for j, (label, image) in enumerate(row):
            left, top = _GAP + j * (width + _GAP), k * (_HEAD + height)
            middle = (left + width // 2, top + _HEAD // 2)
            pen.text(middle, label, fill=_LABEL, font=font, anchor="mm")
            strip.paste(image.resize((width, height), how), (left, top + _HEAD))
            # White frames would have no end on a white page.
            pen.rectangle((left - 1, top + _HEAD - 1, left + width, top + _HEAD + height), outline=_EDGE)
    return strip
