"""Frames from files: arrays, animations and folders of images, brought to the scale a forecaster works in."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from convlstm.errors import DataError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

#: How long `convlstm.forecasting.files` shows each frame of an animation, in milliseconds, and the comment
#: that says so: there a frame that is shown longer stands for several.
FRAME_MS, COMMENT = 180, b"convlstm: 180 ms a frame"
_IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_AXES = ("frame", "channel", "row", "column")


class Frames(NamedTuple):
    """A sequence in the scale of a forecaster, and what is needed to go back to the scale of its file.

    Attributes:
        values: (T, C, H, W), float32; integers of the file divided by the greatest value of their dtype, so
            that unsigned ones lie in [0, 1]; floats as they are.
        dtype: of the values in the file; `from_unit` takes it.
        notes: sentences for the user: the order of a folder's images, frames that a GIF may have joined.
    """

    values: Tensor
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()


def read_frames(path: str | Path) -> Frames:
    """Read a sequence of frames.

    Arrays (``.npy``; ``.npz`` with one array or one called ``frames``) are (T, H, W), (T, C, H, W) or, with
    more than four rows, (T, H, W, 1) or (T, H, W, 3) and hold floats or integers of 8 or 16 bits. A ``.gif``
    is one channel if all its colours are grey, else red, green and blue; a frame that is shown longer than
    others counts once, unless this library wrote the file. The images of a folder are taken by the numbers in
    their names (2.png before 10.png, t-2 before t-1 before t before t+1), turned as their EXIF orientation
    says; transparency is dropped.

    Args:
        path: a file or a folder of images.

    Returns:
        The frames, scaled as `Frames` says.

    Raises:
        DataError: missing, damaged or of an unknown kind; wrong rank or dtype; NaN; images of unequal sizes.
    """
    path = Path(path)
    notes: list[str] = []
    if path.is_dir():
        files = _images_of(path)
        notes.append(f"{path} holds {len(files)} images, taken from {files[0].name} to {files[-1].name}")
        frames_TCHW = _read_folder(path, files)
    elif not path.exists():
        raise DataError(f"frames must come from an existing file or folder; {path} does not exist: check it")
    elif path.suffix.lower() in (".npy", ".npz"):
        frames_TCHW = _channels_first(read_array(path), path)
    elif path.suffix.lower() == ".gif":
        frames_TCHW = _stack([array for array, _ in _pictures(path, notes)], [], path, palette=True)
    else:
        raise DataError(
            f"frames must come from a .npy, .npz or .gif file or a folder of images; received {path}"
        )
    values = to_unit(frames_TCHW, str(path))
    check_finite(values, str(path), _AXES)
    return Frames(torch.from_numpy(values), frames_TCHW.dtype, tuple(notes))


def to_unit(frames: NDArray[Any], what: str = "frames") -> NDArray[np.float32]:
    """Integers divided by the greatest value of their dtype, floats as they are; float32.

    Raises:
        DataError: another dtype. Integers of 32 and 64 bits are refused because hardly any file uses their
            full range: divided by the greatest value, all of its frames would be almost zero.
    """
    _check_dtype(frames.dtype, what)
    if frames.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which check_finite finds
            return np.ascontiguousarray(frames, dtype=np.float32)
    return np.asarray(frames / np.float32(np.iinfo(frames.dtype).max), dtype=np.float32)


def from_unit(values: NDArray[np.float32], dtype: DTypeLike) -> NDArray[Any]:
    """The inverse of `to_unit`: integers are rounded, values beyond their range become its ends.

    Raises:
        DataError: a dtype that `to_unit` does not take.
    """
    dtype = np.dtype(dtype)
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
        what: what the array is, for the message.
        axes: a name for each axis.

    Raises:
        DataError: with the number of such values and the place of the first.
    """
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if count := int(bad.sum()):
        first = np.unravel_index(int(bad.argmax()), bad.shape)
        place = ", ".join(f"{name} {index}" for name, index in zip(axes, first, strict=True))
        raise DataError(
            f"values must be finite; {what} holds {count} NaN or infinite, the first at {place} "
            "(counted from 0): fill them or leave these out"
        )


def read_array(path: str | Path, *, mapped: bool = False) -> NDArray[Any]:
    """Read the array of a ``.npy`` file, or the only one or the one called ``frames`` of a ``.npz`` file.

    Args:
        path: the file; nothing pickled in it is ever run.
        mapped: leave the values of a ``.npy`` file on the disk until they are used.

    Raises:
        DataError: missing, damaged, or an archive without a clear choice.
    """
    path = Path(path)
    try:
        if mapped:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                return np.asarray(content)
            names = content.files
            if "frames" in names or len(names) == 1:
                return np.asarray(content["frames" if "frames" in names else names[0]])
    except FileNotFoundError:
        raise DataError(
            f"an array must come from an existing file; {path} does not exist: check it"
        ) from None
    except Exception as error:  # damaged files make NumPy raise almost anything
        raise _unreadable(path, error) from error
    raise DataError(
        "an .npz file must hold one array or one called 'frames'; "
        f"{path} holds {', '.join(names) or 'none'}: save the frames alone"
    )


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path} must be a whole, readable {path.suffix or 'file'}; "
        f"reading gave '{error or type(error).__name__}': copy or save it again"
    )


def _channels_first(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """(T, H, W), (T, C, H, W), (T, H, W, 1) or (T, H, W, 3) as (T, C, H, W)."""
    if array.ndim not in (3, 4) or 0 in array.shape:
        hint = "leave out the batch axis" if array.ndim == 5 else "bring it to one of these"
        raise DataError(
            "frames must be (T, H, W), (T, C, H, W), (T, H, W, 1) or (T, H, W, 3) with no empty axis; "
            f"{path} has shape {array.shape}: {hint}"
        )
    if array.ndim == 3:
        return array[:, None]
    # Frames one or three columns wide of more than four channels do not occur: these are grey or colour.
    return np.moveaxis(array, -1, 1) if array.shape[-1] in (1, 3) and array.shape[1] > 4 else array


def _by_number(stems: Sequence[str]) -> list[list[str | int]]:
    """Sort keys of names: numbers count as numbers, with their sign.

    A hyphen is a sign at the start of a name, after a separator and after a ``t`` alone; elsewhere only if
    another name has a ``+`` or no sign in its place (``step-1``, ``step0``): in ``frame-1``, ``frame-2`` and
    in dates it separates. A name that ends where others have a sign is number 0 (``t``).
    """
    stems = [stem.lower() for stem in stems]
    numbers = [list(re.finditer(r"(?<!\d)([+-]?)(\d+)", stem)) for stem in stems]
    before = [[stem[: number.start()] for number in row] for stem, row in zip(stems, numbers, strict=True)]
    found = [
        (number[1], text)
        for row, texts in zip(numbers, before, strict=True)
        for number, text in zip(row, texts, strict=True)
    ]
    others = {text for sign, text in found if sign != "-"}
    signed = {
        text
        for sign, text in found
        if sign == "+" or (sign == "-" and (text in others or re.search(r"(^|[\W_]|(?<![^\W_])t)$", text)))
    }
    keys: list[list[str | int]] = []
    for stem, row, texts in zip(stems, numbers, before, strict=True):
        key: list[str | int] = []
        end = 0
        for number, text in zip(row, texts, strict=True):
            sign = number[1] if text in signed else ""
            key += [stem[end : number.start() if sign else number.start(2)], int(sign + number[2])]
            end = number.end()
        keys.append([*key, stem[end:], *([0] if stem in signed else [])])
    return keys


def _images_of(folder: Path) -> list[Path]:
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in _IMAGES and file.name[0] != "."
    )
    if not files:
        raise DataError(f"a folder of frames must hold images ({', '.join(_IMAGES)}); {folder} holds none")
    keys = _by_number([file.stem for file in files])
    return [files[k] for k in sorted(range(len(files)), key=keys.__getitem__)]


def _read_folder(folder: Path, files: list[Path]) -> NDArray[Any]:
    arrays, palette = [], False
    for file in files:
        pictures = _pictures(file)
        if len(pictures) > 1:
            raise DataError(
                f"an image file must hold one frame; {file} holds {len(pictures)}: save them apart"
            )
        arrays.append(pictures[0][0])
        palette |= pictures[0][1]
    return _stack(arrays, files, folder, palette=palette)


def _pictures(path: Path, notes: list[str] | None = None) -> list[tuple[NDArray[Any], bool]]:
    """Every frame of an image file as (H, W) or (H, W, 3), with True if its colours came from a palette.

    ``notes`` receives a sentence if the frames are shown for unequal times.
    """
    try:
        from PIL import Image, ImageOps, ImageSequence
    except ImportError as error:
        raise OptionError(f"images need Pillow to be read; {path} is one: pip install pillow") from error
    try:
        with Image.open(path) as image:
            # Pillow takes an animation that was cut between two frames for a shorter one.
            if image.format == "GIF" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
                raise EOFError("the end of the file is missing")
            ours = image.info.get("comment") == COMMENT
            frames = [
                (_pixels(ImageOps.exif_transpose(frame)), frame.info.get("duration", 0))
                for frame in ImageSequence.Iterator(image)
            ]
            times = [shown for _, shown in frames]
            if not ours or any(not shown or shown % FRAME_MS for shown in times):
                if notes is not None and min(times) < max(times):
                    notes.append(
                        f"{path} shows its frames for {min(times):g} to {max(times):g} ms and each is taken "
                        "once: where its writer joined equal frames, some are missing"
                    )
                return [pixels for pixels, _ in frames]
            return [pixels for pixels, shown in frames for _ in range(round(shown / FRAME_MS))]
    except Exception as error:  # and Pillow too
        raise _unreadable(path, error) from error


def _pixels(image: "Image") -> tuple[NDArray[Any], bool]:
    if image.mode in ("L", "F") or image.mode.startswith("I;16"):
        # Sixteen bits may be stored in the other byte order.
        array = np.array(image)
        return array.astype(array.dtype.newbyteorder("=")), False
    if image.mode == "I":  # what some versions of Pillow make of a grey image of 16 bits
        array = np.array(image)
        return (array.astype(np.uint16) if array.min() >= 0 and array.max() < 2**16 else array), False
    if image.mode in ("1", "LA"):
        return np.array(image.convert("L")), False
    return np.array(image.convert("RGB")), image.mode == "P"


def _stack(arrays: list[NDArray[Any]], files: list[Path], path: Path, *, palette: bool) -> NDArray[Any]:
    """Equal images (H, W) or (H, W, 3) as (T, C, H, W); palettes that hold only greys become one channel."""
    if palette:  # the frames of an animation may differ in how their greys are stored
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
