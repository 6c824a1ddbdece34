"""Windows of labelled frames as a data set."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.base import LabelledWindow, WindowDataset, check_index
from convlstm.data.extra_inputs import INPUTS, extra_inputs
from convlstm.data.frame_store import FrameStore
from convlstm.data.sampling import Crop, CropSampler
from convlstm.data.specification import Specification
from convlstm.data.transforms import Transform
from convlstm.data.units import least_rain
from convlstm.errors import DataError


class ArchiveWindows(WindowDataset):
    """Windows of whole frames or of crops in their middle, each once, or random crops without end.

    Args:
        store: reader of the frames.
        times: (N,), of all frames.
        frames_WT: (W, K + L), indices of the frames of every window; negative where one is missing.
        specification: of the data.
        static: (S, H, W), fields that do not change.
        sampler: draws the crops; each window once if None.
        crop: height and width of a crop; whole frames if None.
        size: crops of an epoch; W if None.
        flip: turn random crops upside down, and left to right, each in half of the cases.
        seed: of the crops.
    """

    def __init__(
        self,
        store: FrameStore,
        times: NDArray[np.float64],
        frames_WT: NDArray[np.int64],
        specification: Specification,
        static: NDArray[np.float32],
        *,
        sampler: CropSampler | None = None,
        crop: tuple[int, int] | None = None,
        size: int | None = None,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        self.store, self.times, self.frames_WT = store, times, frames_WT
        self.specification, self.static = specification, static
        self.transform = specification.built_transform()
        self.sampler, self.crop, self.seed = sampler, crop, seed
        self.endless = sampler is not None
        self.flip = flip and self.endless
        self._size = size or len(frames_WT)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> LabelledWindow:
        check_index(index, None if self.endless else len(self))
        size = self.crop or self.store.shape[1:]
        free = [whole - cut for whole, cut in zip(self.store.shape[1:], size, strict=True)]
        crop = Crop(index, free[0] // 2, free[1] // 2, 1.0)
        # A random generator per window makes it independent of order and process.
        random = np.random.Generator(np.random.PCG64((self.seed, index)))
        if self.sampler is not None:
            crop = self.sampler.draw(random)
        rows, columns = slice(crop.row, crop.row + size[0]), slice(crop.column, crop.column + size[1])
        indices = self.frames_WT[crop.window]
        times = window_times(self.times, indices, self.specification.step_s)
        frames = self.store.read(indices.tolist())
        shape = next(frame.shape for frame in frames if frame is not None)
        missing = np.full(shape, np.nan, np.float32)
        values = np.stack([(missing if frame is None else frame)[:, rows, columns] for frame in frames])
        turned = tuple(axis for axis in (-2, -1) if self.flip and random.integers(2))
        values, static = (np.flip(x, turned) for x in (values, self.static[:, rows, columns]))
        return self._window(values.copy(), times, crop.weight, static)

    def _window(
        self,
        values: NDArray[np.float32],
        times: NDArray[np.float64],
        weight: float,
        static: NDArray[np.float32],
    ) -> LabelledWindow:
        past = self.specification.past
        frames, valid = scaled(values, times, self.transform, self.specification.units)
        names = [name for name in self.specification.inputs if name in INPUTS]
        extra = extra_inputs(names, times, valid.numpy(), past, static)
        return LabelledWindow(
            frames[:past],
            frames[past:],
            valid[:past],
            valid[past:],
            torch.from_numpy(extra),
            torch.from_numpy(times),
            torch.tensor(weight, dtype=torch.float32),
        )


def scaled(
    values: NDArray[np.float32], times: NDArray[np.float64], transform: Transform, units: str
) -> tuple[Tensor, Tensor]:
    """Frames (T, C, H, W) in the scale of a network, 0 where not measured, and the mask of the measured.

    Raises:
        DataError: negative values in a scale whose zero is dry, which a code not declared would become.
    """
    measured = np.isfinite(values)
    if transform.dry == 0 and (low := values.min(initial=0, where=measured)) < least_rain(units):
        raise DataError(
            f"rain must not be negative; received {low:g}: make it NaN if it stands for not measured, or "
            "declare the code by --data.missing in training"
        )
    valid = torch.from_numpy(measured)
    transformed = transform.forward(torch.from_numpy(values), torch.from_numpy(times))
    return torch.where(valid, transformed, 0), valid


def window_times(
    times: NDArray[np.float64], indices: NDArray[np.int64], step_s: float
) -> NDArray[np.float64]:
    """Times (T,) of the frames of a window; those of missing frames are a whole number of steps later."""
    places = np.arange(len(indices))
    there = np.maximum.accumulate(np.where(indices >= 0, places, 0))
    found: NDArray[np.float64] = times[indices[there]] + (places - there) * step_s
    return found
