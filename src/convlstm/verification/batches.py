"""Batches of windows as a verification takes them: on the model's device, and in the unit that is scored."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

from convlstm.data.base import LabelledWindow, Window, check_labels, on_device
from convlstm.errors import OptionError, ShapeError
from convlstm.models.base import Forecaster, run_forecaster
from convlstm.validation import check_tensor, received

#: From the scale of the network to the unit that is scored: frames (B, T, C, H, W), times (B, T) or None.
ToUnits = Callable[[Tensor, Tensor | None], Tensor]

_MOST_VALUES = 2**23  # of the future of the windows that are forecast at once


def batches_on_device(
    batches: Iterable[Window | LabelledWindow], model: nn.Module
) -> Iterator[LabelledWindow]:
    """Windows on the device of the model's parameters; unchanged if it has none."""
    parameter = next(model.parameters(), None)
    try:
        windows = iter(batches)
    except TypeError:
        raise OptionError(
            f"batches must be iterable; received {received(batches)}: pass a DataLoader of windows"
        ) from None
    for window in windows:
        if not (isinstance(window, tuple | list) and len(window) in (2, len(LabelledWindow._fields))):
            raise ShapeError(
                f"a batch must be past and future; received {received(window)}: batch windows with a "
                "DataLoader"
            )
        past, future = check_tensor(window[0], "past"), check_tensor(window[1], "future")
        if past.ndim != 5 or past.shape[0] != future.shape[0] or past.shape[2:] != future.shape[2:]:
            raise ShapeError(
                "a batch must be past (B, K, C, H, W) and future (B, L, C, H, W); received "
                f"{tuple(past.shape)} and {tuple(future.shape)}: batch windows with a DataLoader"
            )
        labelled = LabelledWindow(*window)
        check_labels(labelled, batched=True)
        device = past.device if parameter is None else parameter.device
        yield on_device(labelled, device)


def in_parts(windows: Iterable[LabelledWindow]) -> Iterator[LabelledWindow]:
    """Batches of fewer windows where their frames are so large that many forecasts would fill the memory."""
    for batch in windows:
        cases = max(1, _MOST_VALUES // max(1, batch.future[0].numel()))
        for k in range(0, len(batch.future), cases):
            yield LabelledWindow(*(None if field is None else field[k : k + cases] for field in batch))  # type: ignore[arg-type]


def forecast_of(model: Forecaster, window: LabelledWindow, to_units: ToUnits | None) -> Tensor:
    """Forecast (B, L, C, H, W) of the future of a batch in the unit that is scored."""
    forecast = run_forecaster(
        model,
        window.past,
        window.future.shape[1],
        window.inputs,
        valid=window.past_valid,
        times=window.times,
    )
    return in_units(forecast, window, to_units)


def in_units(
    frames: Tensor, window: LabelledWindow, to_units: ToUnits | None, *, first: int | None = None
) -> Tensor:
    """Frames (B, T, C, H, W) in the unit that is scored.

    Args:
        frames: at times of the window.
        window: whose times are taken.
        to_units: None for frames that are in that unit.
        first: index of their first time in the window; K, the first of the future, if None.
    """
    if to_units is None:
        return frames
    first = window.past.shape[1] if first is None else first
    times = None if window.times is None else window.times[:, first : first + frames.shape[1]]
    return to_units(frames, times)
