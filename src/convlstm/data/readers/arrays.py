"""Arrays in NumPy's files: .npy, and .npz with one or several arrays and, where known, their times."""

import zipfile
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convlstm.data.files import frame_axes
from convlstm.data.readers.base import (
    Reader,
    frames_name,
    in_nanoseconds,
    not_numbers,
    time_in_name,
    utc_times,
)
from convlstm.data.readers.lazy import FileArray, frames_at_once, late, numbered
from convlstm.errors import DataError, reading

if TYPE_CHECKING:
    import xarray as xr

_NPY = b"\x93NUMPY"
_TIMES = ("time", "times", "dates")
_FRAMES = ("time", "y", "x")
_one_at_a_time = Lock()


class Arrays(Reader):
    """Arrays (T, H, W), (T, C, H, W) or, by `frame_axes`, (T, H, W, C) of integers or floats, not scaled.

    In a ``.npz`` each array of frames is a variable; one called ``time``, ``times`` or ``dates`` holds their
    times as datetime64, timedelta64 or ISO 8601 text. A file of one frame may have its time in its name.
    """

    name = "arrays"
    title = "NumPy arrays (.npy; .npz, with times where it has them)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a .npy, and for a .npz that holds an array of three or four axes."""
        if not head.startswith(b"PK\x03\x04"):
            return head.startswith(_NPY)
        try:
            return any(len(shape) in (3, 4) for shape, _ in _members(path).values())
        except (zipfile.BadZipFile, ValueError, EOFError, OSError):
            return False

    def read(self, path: Path) -> "xr.Dataset":
        """The arrays of a file, those of an uncompressed one mapped into memory."""
        with reading(path):
            with path.open("rb") as file:
                single = file.read(len(_NPY)) == _NPY
            if single:
                stored = np.load(path, mmap_mode="r", allow_pickle=False)
                arrays = {"frames": (FileArray(path, stored.shape, partial(_read_npy, path)), stored.dtype)}
                return array_dataset(arrays, None, path)
            members = _members(path)
            times = [name for name in _TIMES if name in members]
            with np.load(path, allow_pickle=False) as content:
                found = content[times[0]] if times else None
            arrays = {
                name: (FileArray(path, shape, partial(_read_npz, path, name)), dtype)
                for name, (shape, dtype) in members.items()
                if len(shape) in (3, 4)
            }
        return array_dataset(arrays, found, path)


def array_dataset(
    arrays: Mapping[str, tuple[FileArray, np.dtype[Any]]], times: NDArray[Any] | None, path: Path | str
) -> "xr.Dataset":
    """Data set of arrays without labels.

    Args:
        arrays: values and dtype in the file by name, of one (T, H, W).
        times: (T,), datetime64, timedelta64 or text; None if unknown.
        path: where they come from.

    Raises:
        DataError: other axes, an empty one, values that are no numbers, or times that do not fit.
    """
    import xarray as xr

    variables: dict[str, xr.Variable] = {}
    for name, (array, dtype) in arrays.items():
        dims = frame_axes(array.shape, f"{name} of {path}")
        if dtype.kind not in "biuf":
            raise DataError(not_numbers(name, path, dtype))
        chunks = (frames_at_once(array.shape), *array.shape[1:])
        variable = xr.Variable(dims, late(array, chunks), {"dtype": str(dtype)})
        variable = variable.transpose("time", "channel", "y", "x", missing_dims="ignore")
        variables[frames_name(name)] = variable
    sizes = {tuple(v.sizes[axis] for axis in _FRAMES): name for name, v in variables.items()}
    if len(sizes) != 1:
        found = ", ".join(f"{name} {size}" for size, name in sizes.items())
        raise DataError(
            f"the arrays of a file must have one number of frames and one size; {path} holds "
            f"{found or 'no array of three or four axes'}: save those that differ apart"
        )
    ((count, _, _),) = sizes
    return xr.Dataset(variables, {"time": ("time", _dates(times, count, path))})


def _dates(times: NDArray[Any] | None, count: int, path: Path | str) -> NDArray[Any]:
    if times is None:
        dated = time_in_name(Path(path).name) if count == 1 else None
        return numbered(count) if dated is None else np.array([dated])
    if len(times := times.ravel()) != count:
        raise DataError(
            f"an array of times must hold one for each frame; {path} holds {len(times)} for {count} frames: "
            "save both from the same sequence"
        )
    if times.dtype.kind in "SU":
        times = utc_times(times, path)
    if times.dtype.kind not in "mM" or np.isnat(times).any():
        raise DataError(
            f"times must be datetime64, timedelta64 or ISO 8601 text, none missing; {path} holds "
            f"{times.dtype}: convert them with numpy.datetime64"
        )
    times = in_nanoseconds(times)
    return times - times.min() if times.dtype.kind == "m" else times


def _members(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each array of a .npz."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    shape, _, dtype = npy_header(member)
                found[name.removesuffix(".npy")] = shape, dtype
    return found


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, True if stored column by column, and dtype of an array; the file is then at its first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _read_npy(path: Path, key: Any) -> NDArray[Any]:
    # Mapped for this call only: an archive may have more files than a process may keep open.
    part: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)[key]
    return part


def _read_npz(path: Path, name: str, key: Any) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            whole = _mapped(file, member.header_offset)
    else:
        with _one_at_a_time:
            whole = _decompressed(path, name, path.stat().st_mtime_ns)
    part: NDArray[Any] = whole[key]
    return part


def _mapped(file: BinaryIO, offset: int) -> NDArray[Any]:
    """Array stored in a zip archive, given where its local header starts."""
    file.seek(offset + 26)  # the lengths of its name and of its further fields, after 26 bytes
    lengths = np.frombuffer(file.read(4), "<u2")
    file.seek(offset + 30 + int(lengths.sum()))
    shape, fortran, dtype = npy_header(file)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


@lru_cache(maxsize=1)
def _decompressed(path: Path, name: str, changed: int) -> NDArray[Any]:
    """Array of a compressed .npz, which cannot be read in parts; the last one read stays in memory."""
    with np.load(path, allow_pickle=False) as content:
        return np.asarray(content[name])
