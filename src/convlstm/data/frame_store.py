"""Values of labelled frames in one unit, read when they are asked for and kept while memory allows."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float32]
_KEPT_BYTES = 2**30


class FrameStore:
    """Reader of frames by their index; the frames read last stay in memory, up to 1 GiB in all workers.

    Args:
        frames: (time, channel, y, x).
        convert: to the unit wanted.
    """

    def __init__(self, frames: "xr.DataArray", convert: Callable[[Floats], Floats]) -> None:
        self._frames, self._convert = frames, convert
        self._kept: OrderedDict[int, Floats] = OrderedDict()
        self._most = _KEPT_BYTES // max(1, 4 * int(np.prod(self.shape)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H and W."""
        channels, height, width = self._frames.shape[1:]
        return channels, height, width

    def read(self, indices: Sequence[int]) -> list[Floats | None]:
        """Frames (C, H, W), NaN where not measured; None for a negative index, a frame that is missing."""
        absent = sorted({index for index in indices if index >= 0} - self._kept.keys())
        for first, last in _runs(absent):
            # Not by threads: those that dask keeps are missing in a worker, which would wait for them.
            chunk = self._frames.data[first : last + 1].compute(scheduler="synchronous")
            values = np.asarray(chunk, np.float32)
            for index, frame in zip(range(first, last + 1), self._convert(values), strict=True):
                self._kept[index] = frame
        found = [self._kept[index] if index >= 0 else None for index in indices]
        for index in indices:
            if index >= 0:
                self._kept.move_to_end(index)
        worker = get_worker_info()
        most = self._most // (worker.num_workers if worker else 1)
        while len(self._kept) > max(1, most):
            self._kept.popitem(last=False)
        return found


def seconds(coordinate: "xr.DataArray") -> NDArray[np.float64]:
    """Times in seconds since 1970-01-01, or since the first frame where there are no dates."""
    times = coordinate.values
    kind = "datetime64[us]" if times.dtype.kind == "M" else "timedelta64[us]"
    found: NDArray[np.float64] = times.astype(kind).astype(np.int64) / 1e6
    return found


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of consecutive indices, which are read at once."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs
