"""Arrays in files, read in parts as dask asks for them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import reading

if TYPE_CHECKING:
    from dask.array import Array

CHUNK = 2**18
"""Values that are read at once where the file sets no other size: 1 MiB of float32."""


class FileArray:
    """Array in a file as dask takes it: float32, what reading raises becomes a `DataError`.

    Args:
        path: the file, for messages.
        shape: of the array.
        read: returns a part of the values, given the slices of all axes.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path | str, shape: tuple[int, ...], read: Callable[[Any], Any]) -> None:
        self.path, self.shape, self.ndim, self.read = path, shape, len(shape), read

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        with reading(self.path), np.errstate(over="ignore"):  # beyond float32: infinite
            return np.asarray(self.read(key), self.dtype)


def late(array: FileArray, chunks: Sequence[int]) -> "Array":
    """Dask array over an array in a file.

    Args:
        array: the values.
        chunks: size of a part along each axis.
    """
    from dask.array import from_array

    meta = np.empty((0,) * array.ndim, np.float32)
    values: Array = from_array(  # type: ignore[no-untyped-call]
        array, tuple(chunks), f"frames-{uuid4().hex}", asarray=False, fancy=False, meta=meta
    )
    return values


def frames_at_once(shape: Sequence[int], stored: int = 1) -> int:
    """Frames that are read together: a multiple of what the file stores together, `CHUNK` values or fewer.

    Args:
        shape: (T, ..., H, W).
        stored: frames that the file stores together.
    """
    most = CHUNK // max(1, int(np.prod(shape[1:])))
    return max(1, min(shape[0], stored * max(1, most // stored)))


def delayed_frames(
    loads: Sequence[tuple[Callable[[], NDArray[np.float32]], int]], shape: tuple[int, ...]
) -> "Array":
    """Dask array of parts along time, each loaded by a function.

    Args:
        loads: functions that return frames, and how many.
        shape: of a frame.
    """
    from dask.array import concatenate, from_delayed
    from dask.delayed import delayed

    parts = [
        from_delayed(delayed(load)(), (count, *shape), np.float32)  # type: ignore[no-untyped-call]
        for load, count in loads
    ]
    values: Array = concatenate(parts)  # type: ignore[no-untyped-call]
    return values


def numbered(count: int) -> NDArray[np.timedelta64]:
    """Times of frames without any: a second apart."""
    return np.arange(count).astype("timedelta64[s]").astype("timedelta64[ns]")
