"""Images, one frame or an animation a file, their values the codes of the file, not scaled."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlstm.data.files import (
    check_depth,
    greatest_code,
    is_smaller_copy,
    other_dtype,
    pictures,
    stack_pictures,
)
from convlstm.data.readers.base import Reader, time_in_name
from convlstm.data.readers.lazy import FileArray, frames_at_once, late, numbered
from convlstm.errors import DataError, reading
from convlstm.extras import check_installed

if TYPE_CHECKING:
    import xarray as xr
    from PIL.Image import Image

_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"P2", b"P3", b"P5", b"P6")
_SEQUENCES = ("GIF", "TIFF", "PNG", "WEBP")  # others, such as MPO, hold views of one moment
_GREY = {"1": np.uint8, "L": np.uint8, "LA": np.uint8, "F": np.float32, "I": np.int32}
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_NO_DATA = 42113  # tag of a GeoTIFF, by GDAL: the value that stands for not measured, as text


class Images(Reader):
    """Images and animations; greys are the codes of the file (of 1 bit 0 and 255), colours three channels.

    What a GeoTIFF says is not measured (GDAL's no-data value) is NaN; its places are not read.

    A folder of images is an archive of files of one frame: their times stand in their names, else their
    order is that of the numbers in them.
    """

    name = "images"
    title = "images and animations (png, jpg, tif, gif, webp, bmp, pgm)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True by the first bytes."""
        webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
        bmp = head.startswith(b"BM") and head[6:10] == b"\0\0\0\0"
        return webp or bmp or head.startswith(_STARTS)

    def read(self, path: Path) -> "xr.Dataset":
        """One variable, ``frames``, (time, y, x) or, in colour, (time, channel, y, x)."""
        import xarray as xr

        with reading(path):
            found = _header(path)
        shape = (len(found.times), *((3,) if found.colour else ()), *found.size)
        read = partial(_read, path, found)
        values = late(FileArray(path, shape, read), (frames_at_once(shape), *shape[1:]))
        attributes: dict[str, Any] = {"dtype": str(found.dtype)}
        if found.dtype in (np.uint8, np.uint16):
            attributes["valid_range"] = (0, found.greatest or np.iinfo(found.dtype).max)
        attributes |= {"bilevel": True} if found.bilevel else {}
        dims = ("time", "channel", "y", "x") if found.colour else ("time", "y", "x")
        coordinates: dict[str, Any] = {"time": found.times}
        coordinates |= {"channel": ["red", "green", "blue"]} if found.colour else {}
        return xr.Dataset({"frames": (dims, values, attributes)}, coordinates)


class _Header(NamedTuple):
    size: tuple[int, int]
    colour: bool
    dtype: np.dtype[Any]
    times: NDArray[Any]
    code: np.float32 | None  # of pixels that were not measured
    greatest: int | None = None  # code of what Pillow scales to the greatest of the dtype
    bilevel: bool = False  # of one bit a pixel


def _header(path: Path) -> _Header:
    check_installed("PIL", f"{path} needs Pillow")
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(path)
    except UnidentifiedImageError as error:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise
        raise DataError(
            f"a TIFF must be whole and hold one band or colours, in 32 bits at most; {path} cannot be read "
            "as one: convert it, as by gdal_translate -b 1 -ot Float32, or copy it again"
        ) from error
    with opened as image:
        check_depth(image, path)
        greatest, other = greatest_code(image), other_dtype(image)
        height, width = image.height, image.width
        if image.getexif().get(_ORIENTATION) in _TURNED:
            height, width = width, height
        mode, form, code = image.mode, image.format, _code(image)
        times = _times(image, path)
    if mode == "P" or len(times) > 1:  # which a palette decides
        frames_TCHW = _decoded(path)
        colour = frames_TCHW.shape[1] == 3
        return _Header((height, width), colour, frames_TCHW.dtype, times, code, None if colour else greatest)
    dtype = (
        np.uint16 if mode.startswith("I;16") or (mode, form) == ("I", "PPM") else _GREY.get(mode, np.uint8)
    )
    colour = mode not in _GREY and dtype != np.uint16
    return _Header((height, width), colour, other or np.dtype(dtype), times, code, greatest, mode == "1")


def _code(image: "Image") -> np.float32 | None:
    """The value of pixels that were not measured; None if the file states none."""
    stated = image.getexif().get(_NO_DATA)
    try:
        return None if stated is None else np.float32(str(stated).strip(" \0"))
    except ValueError:
        return None


def _times(image: "Image", path: Path) -> NDArray[Any]:
    """Times of the frames: from the name for one, by their durations for an animation."""
    count = getattr(image, "n_frames", 1) if image.format in _SEQUENCES else 1
    if count == 1:
        return _times_of_one(path)
    durations = []
    for k in range(count):
        image.seek(k)
        if not is_smaller_copy(image):
            durations.append(image.info.get("duration", 0))
    if len(durations) == 1:
        return _times_of_one(path)
    if not all(durations):
        return numbered(len(durations))
    milliseconds = np.cumsum([0, *durations[:-1]])
    return np.rint(milliseconds * 1e6).astype("timedelta64[ns]")


def _times_of_one(path: Path) -> NDArray[Any]:
    dated = time_in_name(path.name)
    return numbered(1) if dated is None else np.array([dated])


def _decoded(path: Path) -> NDArray[Any]:
    """Frames (T, C, H, W)."""
    found = pictures(path)
    arrays, palettes = [array for array, _ in found], any(palette for _, palette in found)
    return stack_pictures(arrays, [path] * len(arrays), path, palette=palettes or len(arrays) > 1)


def _read(path: Path, found: _Header, key: Any) -> NDArray[Any]:
    frames_TCHW = _decoded(path)
    part: NDArray[Any] = (frames_TCHW if frames_TCHW.shape[1] == 3 else frames_TCHW[:, 0])[key]
    if found.greatest is not None:
        part = np.rint(part * (found.greatest / np.iinfo(found.dtype).max))
    if found.code is None:
        return part
    values = part.astype(np.float32)
    return np.where(values == found.code, np.float32(np.nan), values)
