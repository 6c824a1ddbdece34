"""Base classes of data sources: windows of past and future frames, in three splits."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from convlstm.hyperparameters import StoresHyperparameters

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Window(NamedTuple):
    """Past frames and the future frames that followed them; batches of windows have a leading axis B.

    Attributes:
        past: (K, C, *S), float32.
        future: (L, C, *S), float32, directly after the past.
    """

    past: Tensor
    future: Tensor


class WindowDataset(Dataset[Window], ABC):
    """Map-style data set of windows; an index always returns the same window, in any process.

    Attributes:
        endless: every index from 0 up is another window and ``len`` is only the length of an epoch (generated
            data); otherwise indices end at ``len`` (stored data).
    """

    endless: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Window: ...


class Source(StoresHyperparameters, ABC):
    """Data source: windows of frames in three splits.

    Attributes:
        past: K, input frames of a window.
        steps: L, frames to forecast.
        channels: C of every frame.
        data_range: largest minus smallest possible value of the data, for the scores relative to it (PSNR,
            SSIM); None if unknown.
    """

    past: int
    steps: int
    channels: int
    data_range: float | None = None

    @abstractmethod
    def split(self, name: Split) -> WindowDataset:
        """Windows of one split; splits share no underlying image, event or time."""

    @abstractmethod
    def describe(self) -> str:
        """Description of the data in one line, for reports and model folders."""
