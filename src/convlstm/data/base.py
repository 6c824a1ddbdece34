"""Base classes of data sources: windows of past and future frames, in three splits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from convlstm.data.specification import Specification
from convlstm.errors import DataError, ShapeError
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


class LabelledWindow(NamedTuple):
    """Window of labelled data; None stands for what a plain `Window`, of which it can be made, does not say.

    Frames hold no NaN: values that were not measured are filled, and the masks tell which they are.

    Attributes:
        past: (K, C, *S), float32, in the scale of the network.
        future: (L, C, *S), float32, directly after the past.
        past_valid: (K, C, *S), bool, true where measured.
        future_valid: (L, C, *S), bool.
        inputs: (K + L, E, *S), float32, extra input channels known for the past and the future.
        times: (K + L,), float64, seconds since 1970-01-01.
        weight: (), float32, of the window in the loss.
    """

    past: Tensor
    future: Tensor
    past_valid: Tensor | None = None
    future_valid: Tensor | None = None
    inputs: Tensor | None = None
    times: Tensor | None = None
    weight: Tensor | None = None


def on_device(window: Window | LabelledWindow, device: torch.device) -> LabelledWindow:
    """The window, or batch of windows, on a device."""
    fields = (None if field is None else field.to(device) for field in window)
    return LabelledWindow(*fields)  # type: ignore[arg-type]


def batch_of(windows: Sequence[Window | LabelledWindow]) -> Window | LabelledWindow:
    """A batch of windows, with a leading axis B; a label that no window has is None in the batch.

    Raises:
        DataError: a label that some windows have and others lack.
        ShapeError: windows of several sizes.
    """
    kind = type(windows[0])
    if not issubclass(kind, Window | LabelledWindow):  # a user's tuple
        made: Window = default_collate(list(windows))
        return made
    if any(type(window) is not kind for window in windows):
        raise DataError(
            "all windows of a batch must be of one class; received Window and LabelledWindow: return one"
        )
    fields = [_stacked(*of_all) for of_all in zip(kind._fields, zip(*windows, strict=True), strict=True)]
    return kind(*fields)  # type: ignore[arg-type]


def _stacked(name: str, values: Sequence[Tensor | None]) -> Tensor | None:
    """One field of the windows of a batch, (B, ...)."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    if len(given) < len(values):
        raise DataError(
            f"all windows of a batch must have the same labels; received {name} for some and None for "
            "others: give it for all, or for none"
        )
    if len(shapes := {tuple(value.shape) for value in given}) > 1:
        raise ShapeError(
            f"all windows of a batch must have one size; {name} has {' and '.join(map(str, sorted(shapes)))}:"
            " cut them to one, or use batch_size=1"
        )
    made: Tensor = default_collate(given)
    return made


def check_labels(window: LabelledWindow, *, batched: bool = False) -> None:
    """Check the labels of a window, or of a batch of windows; labels of another shape may broadcast unseen.

    Raises:
        ShapeError: labels that are not those of the frames.
    """
    lead = tuple(window.past.shape[:1]) if batched else ()
    axis = len(lead)
    length, space = window.past.shape[axis] + window.future.shape[axis], window.past.shape[axis + 2 :]
    channels = 0 if window.inputs is None or window.inputs.ndim <= axis + 1 else window.inputs.shape[axis + 1]
    expected = {
        "past_valid": window.past.shape,
        "future_valid": window.future.shape,
        "inputs": (*lead, length, channels, *space),
        "times": (*lead, length),
        "weight": lead,
    }
    for name, shape in expected.items():
        label = getattr(window, name)
        if label is None:
            continue
        masks = name.endswith("valid")
        if tuple(label.shape) != tuple(shape) or (masks and label.dtype != torch.bool):
            raise ShapeError(
                f"{name} of a window must be {'bool ' * masks}{tuple(shape)}; received {label.dtype} "
                f"{tuple(label.shape)}: give it as LabelledWindow says, or None"
            )


def check_index(index: int, size: int | None) -> None:
    """Refuse the index of a window.

    Args:
        index: as received.
        size: windows of the data set; None for an endless one.

    Raises:
        IndexError: negative, or beyond the last window.
    """
    if index < 0 or (size is not None and index >= size):
        raise IndexError(f"index must be from 0{'' if size is None else f' to {size - 1}'}; received {index}")


class WindowDataset(Dataset[Window | LabelledWindow], ABC):
    """Map-style data set of windows; an index always returns the same window, in any process.

    Attributes:
        endless: every index from 0 up is another window and ``len`` is only the length of an epoch (generated
            data); otherwise indices end at ``len`` (stored data).
    """

    endless: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Window | LabelledWindow: ...


class Source(StoresHyperparameters, ABC):
    """Data source: windows of frames in three splits.

    Attributes:
        past: K, input frames of a window.
        steps: L, frames to forecast.
        channels: C of every frame.
        data_range: largest minus smallest possible value of the data in its unit, for the scores relative to
            it (PSNR, SSIM); that of the specification if there is one, None if unknown.
        extra_channels: E, extra input channels of every window.
        specification: units, transform, grid, time step and splits of labelled data; None for data whose
            values are in the scale of the network already.
    """

    past: int
    steps: int
    channels: int
    extra_channels: int = 0
    specification: Specification | None = None

    @cached_property  # a subclass may set a number
    def data_range(self) -> float | None:
        """See the class."""
        return None if self.specification is None else self.specification.data_range

    @abstractmethod
    def split(self, name: Split) -> WindowDataset:
        """Windows of one split; splits share no underlying image, event or time."""

    @abstractmethod
    def describe(self) -> str:
        """Description of the data in one line, for reports and model folders."""

    def to_units(self, values: Tensor, times: Tensor | None = None) -> Tensor:
        """Values (..., T, C, *S) in the data's unit; unchanged where there is no specification.

        Args:
            values: in the scale of the network.
            times: (..., T), seconds since 1970-01-01.
        """
        return values if self.specification is None else self.specification.to_units(values, times)
