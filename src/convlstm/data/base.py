"""What every source of frames offers: windows of past and future frames, in three splits."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from convlstm.hyperparameters import StoresHyperparameters

Split = Literal["train", "validation", "test"]


class Window(NamedTuple):
    """A past and the future that followed it; batches of windows carry a leading B.

    Attributes:
        past: (K, C, *S), float32.
        future: (L, C, *S), float32, the L frames directly after the past.
    """

    past: Tensor
    future: Tensor


class WindowDataset(Dataset[Window], ABC):
    """Windows by index; the same index always gives the same window, in any process.

    Attributes:
        endless: every index from 0 up is a window of its own and ``len`` is only the length of an epoch
            (generated data); otherwise indices end at ``len`` (stored data).
    """

    endless: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Window: ...


class Source(StoresHyperparameters, ABC):
    """Where frames come from.

    Attributes:
        past: K, frames a forecaster is given.
        steps: L, frames it has to forecast.
        channels: C of every frame.
        data_range: largest minus smallest value that the data can take, for scores relative to it (PSNR,
            SSIM); None if it is unknown.
    """

    past: int
    steps: int
    channels: int
    data_range: float | None = None

    @abstractmethod
    def split(self, name: Split) -> WindowDataset:
        """The windows of one split; splits share no underlying image, event or moment."""

    @abstractmethod
    def describe(self) -> str:
        """One line of text about the data, for reports and model folders."""
