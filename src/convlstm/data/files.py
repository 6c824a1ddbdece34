"""Frames from files: arrays, animations and folders of images, scaled for a forecaster."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from convlstm.errors import DataError, reading
from convlstm.extras import check_installed
from convlstm.validation import check_path, received

if TYPE_CHECKING:
    from PIL.Image import Image

#: Endings of images in a folder of frames.
IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_BITS, _SAMPLE_FORMAT, _SUBFILE, _SAMPLES, _EXTRA_SAMPLES = 258, 339, 254, 277, 338  # tags of a TIFF
_NO_FRAME = 0b101  # bits of the kind of a page: reduced, mask
_FEW_BITS = {"L;2": 3, "L;4": 15}  # greatest code by Pillow's raw mode
_AXES = ("frame", "channel", "row", "column")


class ScaledFrames(NamedTuple):
    """A sequence in the scale of a forecaster, and the dtype that `from_unit` needs to invert the scaling.

    Attributes:
        values: (T, C, H, W), float32; integers divided by the greatest value of their dtype (unsigned ones
            lie in [0, 1]), floats unchanged.
        dtype: of the values in the file.
        notes: sentences for the user: the order of a folder's images, the limits of GIF as a data format.
    """

    values: Tensor
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()


def read_frames(path: str | Path | Sequence[str | Path]) -> ScaledFrames:
    """Read a sequence of frames.

    Arrays (``.npy``; ``.npz`` with one array or one called ``frames``) are (T, H, W), (T, C, H, W) or, by
    `frame_axes`, (T, H, W, C), and hold floats or integers of 8 or 16 bits. A ``.gif`` holds pictures of 8
    bits: one channel if all its colours are grey, otherwise red, green and blue. The images of a folder are
    sorted by the numbers in their names (2.png before 10.png, t-2 before t-1 before t before t+1) and rotated
    to their EXIF orientation; transparency is dropped.

    Args:
        path: a file or a folder of images, or several images.

    Returns:
        The frames, scaled as documented in `ScaledFrames`.

    Raises:
        DataError: missing, damaged or of an unknown kind; wrong rank or dtype; NaN; images of unequal sizes.
    """
    given = [check_path(each, "path of frames") for each in path] if isinstance(path, list | tuple) else []
    path = given[0].parent if given else check_path(path, "path of frames")
    notes: list[str] = []
    if others := [file for file in given if file.suffix.lower() not in IMAGES]:
        raise DataError(
            f"several files of frames must be images ({', '.join(IMAGES)}); received {others[0]}: give one "
            "file, or a folder of images"
        )
    if given or path.is_dir():
        files = _images_of(path, given or [*path.iterdir()])
        if not given:
            check_endings(files)
        notes.append(f"{path} holds {len(files)} images, taken from {files[0].name} to {files[-1].name}")
        frames_TCHW = _read_folder(path, files)
    elif not path.exists():
        raise DataError(f"frames must come from an existing file or folder; {path} does not exist: check it")
    elif path.suffix.lower() in (".npy", ".npz"):
        frames_TCHW = _channels_first(read_array(path), path)
    elif path.suffix.lower() == ".gif":
        frames_TCHW = stack_pictures([array for array, _ in pictures(path)], [], path, palette=True)
        notes.append(
            f"{path} is read as pictures ({len(frames_TCHW)}), 0 to 255 as 0 to 1: a GIF holds no scale of "
            "its values, and frames that repeat may have been stored as one"
        )
    else:
        raise DataError(
            f"frames must come from a .npy, .npz or .gif file or a folder of images; received {path}"
        )
    values = to_unit(frames_TCHW, str(path))
    check_finite(values, str(path), _AXES)
    return ScaledFrames(torch.from_numpy(values), frames_TCHW.dtype, tuple(notes))


def to_unit(frames: NDArray[Any], what: str = "frames") -> NDArray[np.float32]:
    """Integers divided by the greatest value of their dtype, floats unchanged; float32.

    Raises:
        DataError: another dtype. Integers of 32 and 64 bits are refused because files rarely use their full
            range: divided by the greatest value, all values would be almost zero.
    """
    _check_dtype(frames.dtype, what)
    if frames.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32: infinite, refused by check_finite
            return np.ascontiguousarray(frames, dtype=np.float32)
    return np.asarray(frames / np.float32(np.iinfo(frames.dtype).max), dtype=np.float32)


def from_unit(values: NDArray[np.float32], dtype: DTypeLike) -> NDArray[Any]:
    """Inverse of `to_unit`; integers are rounded and clipped to their range.

    Raises:
        DataError: a dtype that `to_unit` does not take.
    """
    try:
        dtype = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise DataError(f"dtype must be one of numpy; received {received(dtype)}: pass np.uint8") from error
    _check_dtype(dtype, "the file to write")
    if dtype.kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(values.astype(np.float64) * ends.max), ends.min, ends.max).astype(dtype)


def _check_dtype(dtype: np.dtype[Any], what: str) -> None:
    if dtype.kind != "f" and not (dtype.kind in "iu" and dtype.itemsize <= 2):
        raise DataError(
            f"frames must be floats or integers of 8 or 16 bits; {what} holds {dtype}: convert it, to uint8 "
            "with 0 as black and 255 as white, say"
        )


def check_finite(array: NDArray[Any], what: str, axes: Sequence[str]) -> None:
    """Refuse NaN and infinity.

    Args:
        array: floats; integers always pass.
        what: name of the array in the message.
        axes: name of each axis.

    Raises:
        DataError: with the number of such values and the position of the first.
    """
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if count := int(bad.sum()):
        first = np.unravel_index(int(bad.argmax()), bad.shape)
        position = ", ".join(f"{name} {index}" for name, index in zip(axes, first, strict=True))
        raise DataError(
            f"values must be finite; {what} holds {count} NaN or infinite, the first at {position} "
            "(counted from 0): fill them or leave these out"
        )


def read_array(path: str | Path, *, mapped: bool = False) -> NDArray[Any]:
    """Read the array of a ``.npy`` file, or of a ``.npz`` file the only one or the one called ``frames``.

    Args:
        path: the file; pickled objects are refused.
        mapped: memory-map a ``.npy`` file.

    Raises:
        DataError: missing, damaged, or an archive of several arrays none of which is called ``frames``.
    """
    path = check_path(path, "path of an array")
    if not path.exists():
        raise DataError(f"an array must come from an existing file; {path} does not exist: check it")
    with _whole(path):
        if mapped:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                return np.asarray(content)
            names = content.files
            if "frames" in names or len(names) == 1:
                return np.asarray(content["frames" if "frames" in names else names[0]])
    raise DataError(
        "an .npz file must hold one array or one called 'frames'; "
        f"{path} holds {', '.join(names) or 'none'}: save the frames alone"
    )


def _whole(path: Path) -> AbstractContextManager[None]:
    return reading(path, f"be a whole, readable {path.suffix or 'file'}", "copy or save it again")


def frame_axes(shape: Sequence[int], where: str) -> tuple[str, ...]:
    """Names of the axes of an array of frames, by its shape.

    Args:
        shape: (T, H, W), (T, C, H, W), or (T, H, W, C) of at most four channels and more rows and columns:
            frames of five channels and more that are four columns wide do not occur.
        where: the array, for messages.

    Raises:
        DataError: another number of axes, or an empty one.
    """
    if len(shape) not in (3, 4) or 0 in shape:
        hint = "leave out the batch axis" if len(shape) == 5 else "bring it to one of these"
        raise DataError(
            "frames must be (T, H, W), (T, C, H, W) or (T, H, W, C) with no empty axis; "
            f"{where} has shape {tuple(shape)}: {hint}"
        )
    if len(shape) == 3:
        return ("time", "y", "x")
    last = shape[-1] <= 4 < min(shape[1:3])
    return ("time", "y", "x", "channel") if last else ("time", "channel", "y", "x")


def _channels_first(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """(T, H, W), (T, C, H, W) or (T, H, W, C) as (T, C, H, W)."""
    axes = frame_axes(array.shape, str(path))
    return np.moveaxis(array, axes.index("channel"), 1) if "channel" in axes else array[:, None]


def by_number(stems: Sequence[str]) -> list[list[str | int]]:
    """Sort keys of file names, with signed numbers in numerical order.

    A hyphen is a sign at the start of a name, after a separator and after a single ``t``; elsewhere only if
    another name has a ``+`` or no sign at the same position (``step-1``, ``step0``): in ``frame-1``,
    ``frame-2`` and in dates it is a separator. A name that ends where others have a sign is number 0 (``t``).
    """
    stems = [stem.lower() for stem in stems]
    numbers = [list(re.finditer(r"(?<!\d)([+-]?)(\d+)", stem)) for stem in stems]
    found = [(number[1], number.string[: number.start()]) for row in numbers for number in row]
    others = {text for sign, text in found if sign != "-"}
    signed = {
        text
        for sign, text in found
        if sign == "+" or (sign == "-" and (text in others or re.search(r"(^|[\W_]|(?<![^\W_])t)$", text)))
    }
    keys: list[list[str | int]] = []
    for stem, row in zip(stems, numbers, strict=True):
        key: list[str | int] = []
        end = 0
        for number in row:
            sign = number[1] if stem[: number.start()] in signed else ""
            key += [stem[end : number.start() if sign else number.start(2)], int(sign + number[2])]
            end = number.end()
        keys.append([*key, stem[end:], *([0] if stem in signed else [])])
    return keys


def _images_of(folder: Path, found: Sequence[Path]) -> list[Path]:
    files = sorted(file for file in found if file.suffix.lower() in IMAGES and file.name[0] != ".")
    if not files:
        raise DataError(f"a folder of frames must hold images ({', '.join(IMAGES)}); {folder} holds none")
    keys = by_number([file.stem for file in files])
    return [files[k] for k in sorted(range(len(files)), key=keys.__getitem__)]


def check_endings(files: Sequence[Path]) -> None:
    """Refuse images of a folder whose names differ in their ending alone: they show one frame.

    Raises:
        DataError: two such images.
    """
    found: dict[Path, Path] = {}
    for file in files:
        if (other := found.setdefault(file.with_suffix(""), file)) != file and file.suffix.lower() in IMAGES:
            raise DataError(
                f"images of a folder must have names of their own; {other} and {file.name} differ in their "
                f"ending alone: give a pattern, {file.parent}/*{file.suffix}, or list the files"
            )


def _read_folder(folder: Path, files: list[Path]) -> NDArray[Any]:
    arrays, palette = [], False
    for file in files:
        found = pictures(file)
        if len(found) > 1:
            raise DataError(
                f"an image file must hold one frame; {file} holds {len(found)}: save each in its own file"
            )
        arrays.append(found[0][0])
        palette |= found[0][1]
    return stack_pictures(arrays, files, folder, palette=palette)


def pictures(path: Path) -> list[tuple[NDArray[Any], bool]]:
    """Every frame of an image file as (H, W) or (H, W, 3), with True if its colours came from a palette."""
    check_installed("PIL", f"{path} needs Pillow")
    from PIL import Image, ImageOps, ImageSequence

    with _whole(path), Image.open(path) as image:
        check_depth(image, path)
        # Pillow reads an animation that was cut between two frames as a shorter one.
        if image.format == "GIF" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
            raise EOFError("the end of the file is missing")
        found = []
        for frame in ImageSequence.Iterator(image):
            if is_smaller_copy(frame):
                continue
            dtype = other_dtype(frame)
            array, palette = _pixels(ImageOps.exif_transpose(frame))
            found.append((array if dtype is None else array.astype(dtype), palette))
    if {array.dtype.name for array, _ in found} == {"uint16", "int32"}:  # as some have no negative value
        return [(array.astype(np.int32), palette) for array, palette in found]
    return found


def check_depth(image: "Image", path: Path) -> None:
    """Refuse colours of more than 8 bits, of which Pillow reads the first 8, and bands that it leaves out.

    Raises:
        DataError: such an image.
    """
    tags = getattr(image, "tag_v2", {})
    if 0 in np.ravel(tags.get(_EXTRA_SAMPLES, ())):  # neither colour nor transparency
        raise DataError(
            f"an image must have one band, or red, green and blue; {path} has {tags.get(_SAMPLES)} bands, of "
            "which some would be lost: save its bands as images of their own, or all as .npy"
        )
    code = greatest_code(image)
    if len(image.getbands()) > 1 and (";16" in str(_decoder(image)) or (code is not None and code > 255)):
        raise DataError(
            f"images in colour must have 8 bits a channel; {path} has 16, of which half would be lost: save "
            "its channels as grey images of 16 bits, or all as .npy"
        )


def is_smaller_copy(image: "Image") -> bool:
    """True for a page of a TIFF that is no frame: a smaller copy of another (an overview), or its mask."""
    return bool(getattr(image, "tag_v2", {}).get(_SUBFILE, 0) & _NO_FRAME)


def greatest_code(image: "Image") -> int | None:
    """Greatest code of a PPM, or of greys of 2 or 4 bits, which Pillow scales to 255 or 65535; else None."""
    arguments = _decoder(image)
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if mode in _FEW_BITS:
        return _FEW_BITS[mode]
    scaled = image.format == "PPM" and isinstance(arguments, tuple) and len(arguments) == 2
    return int(arguments[1]) if scaled else None


def _decoder(image: "Image") -> Any:
    """Arguments of Pillow's decoder of an image that was opened and is not read yet."""
    tiles = getattr(image, "tile", None)
    return tiles[0][3] if tiles else None


def other_dtype(image: "Image") -> np.dtype[Any] | None:
    """The dtype in a TIFF of integers whose sign Pillow takes otherwise; None for other images."""
    tags = getattr(image, "tag_v2", {})
    bits, kind = (np.ravel(tags.get(tag, 1))[0] for tag in (_BITS, _SAMPLE_FORMAT))
    if (image.mode, bits, kind) == ("L", 8, 2):
        return np.dtype(np.int8)
    return np.dtype(np.uint32) if (image.mode, bits, kind) == ("I", 32, 1) else None


def _pixels(image: "Image") -> tuple[NDArray[Any], bool]:
    if image.mode in ("L", "F") or image.mode.startswith("I;16"):
        # Sixteen bits may be stored in the other byte order than the machine's.
        array = np.array(image)
        return array.astype(array.dtype.newbyteorder("=")), False
    if image.mode == "I":  # grey images of 16 bits in some versions of Pillow
        array = np.array(image)
        return (array.astype(np.uint16) if array.min() >= 0 and array.max() < 2**16 else array), False
    if image.mode in ("1", "LA"):
        return np.array(image.convert("L")), False
    return np.array(image.convert("RGB")), image.mode == "P"


def stack_pictures(
    arrays: list[NDArray[Any]], files: list[Path], path: Path, *, palette: bool
) -> NDArray[Any]:
    """Images of one size, (H, W) or (H, W, 3), as (T, C, H, W); palettes of greys only become one channel."""
    if palette:  # some frames of an animation may be stored as grey and others as colour
        arrays = [a if a.ndim == 3 else np.stack([a] * 3, axis=-1) for a in arrays]
        if all((a == a[..., :1]).all() for a in arrays):
            arrays = [a[..., 0] for a in arrays]
    for k, array in enumerate(arrays):
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise DataError(
                f"images of a sequence must have one size, kind of colour and dtype; {files[0].name} is "
                f"{_kind(arrays[0])}, {files[k].name} is {_kind(array)}: convert the images of {path}"
            )
    frames = np.stack(arrays)
    return frames[:, None] if frames.ndim == 3 else np.moveaxis(frames, -1, 1)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.shape[0]} x {array.shape[1]} {'grey' if array.ndim == 2 else 'colour'} {array.dtype}"
