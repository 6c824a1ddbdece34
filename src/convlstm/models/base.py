"""The contract of a forecaster: frames in, frames out."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from convlstm.errors import ShapeError
from convlstm.hub import Pretrained
from convlstm.validation import check_positive, check_tensor, received


class Forecaster(Pretrained, ABC):
    """Forecasts the frames after a past, for any number of steps and any size.

    A subclass writes ``forward(past, steps)`` and never sees a future frame. One that can be trained by
    scheduled sampling takes, as optional keywords, ``future`` (B, steps, C, *S) and ``forced`` (B, steps),
    bool: where ``forced[b, k]`` is true, frame k of the future takes the place of the forecast of step k as
    the input of step k + 1. One that reads extra input channels, known for the past and the future, sets
    ``extra_channels`` and takes ``inputs`` (B, K + steps, E, *S) as a keyword. One may also take ``valid``
    (B, K, C, *S), bool, true where the past was measured, and ``times`` (B, K + steps), seconds since
    1970-01-01; either may be None. `run_forecaster` passes what a model takes.
    `AutoregressiveForecaster` does all of this for a model written as one step.

    Attributes:
        extra_channels: E, extra input channels; 0 for none.
    """

    extra_channels: int = 0

    @abstractmethod
    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Forecast.

        Args:
            past: (B, K, C, *S).
            steps: L, at least 1.

        Returns:
            (B, L, C, *S), dtype and device of ``past``.
        """

    def with_penalty(self, past: Tensor, steps: int, **options: Any) -> tuple[Tensor, Tensor | None]:
        """The forecast of a call, and a number that training adds to the loss; None for none."""
        return self(past, steps, **options), None


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; then every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def run_forecaster(
    model: Forecaster,
    past: Tensor,
    steps: int,
    inputs: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    times: Tensor | None = None,
    **forcing: Any,
) -> Tensor:
    """Forecast with what a model takes of the labels of a window.

    Args:
        model: the forecaster.
        past: (B, K, C, *S).
        steps: L.
        inputs: (B, K + L, E, *S), extra inputs that are there; None for none.
        valid: (B, K, C, *S), bool, measured pixels of the past; None if all are.
        times: (B, K + L), seconds since 1970-01-01; None if unknown.
        forcing: ``future`` and ``forced``, for scheduled sampling.

    Raises:
        ShapeError: the model reads extra inputs and there are none, or others.
    """
    forecast: Tensor = model(past, steps, **forcing, **labels_taken(model, inputs, valid, times))
    return forecast


def check_forecast(model: nn.Module, forecast: Any, past: Tensor, steps: int) -> Tensor:
    """Check the forecast of a model; one of another shape would broadcast against the truth unseen.

    Raises:
        ShapeError: anything but a tensor (B, L, C, *S).
    """
    expected = (past.shape[0], steps, *past.shape[2:])
    if isinstance(forecast, Tensor) and tuple(forecast.shape) == expected:
        return forecast
    found = f"a tensor {tuple(forecast.shape)}" if isinstance(forecast, Tensor) else received(forecast)
    raise ShapeError(
        f"the forecast of a {type(model).__name__} must be (B, L, C, H, W) = {expected}; received {found}: "
        "return the frames of all steps in one tensor"
    )


def labels_taken(
    model: Forecaster, inputs: Tensor | None, valid: Tensor | None, times: Tensor | None
) -> dict[str, Tensor | None]:
    """The labels of a window that a model takes, by name; arguments and errors of `run_forecaster`."""
    wanted = getattr(model, "extra_channels", 0)
    there = 0 if inputs is None else inputs.shape[2]
    if wanted and there != wanted:
        raise ShapeError(
            f"{type(model).__name__} reads {wanted} extra input channel(s); received {there}: give windows "
            f"with as many, or build it with extra_channels={there}"
        )
    taken = inspect.signature(model.forward).parameters
    labels = {name: value for name, value in (("valid", valid), ("times", times)) if name in taken}
    return labels | ({"inputs": inputs} if wanted else {})


def check_past(past: Tensor, steps: int, *, channels: int | None = None, least: int = 1) -> None:
    """Check the arguments of a forecaster before any arithmetic.

    Args:
        past: should be (B, K, C, H, W).
        steps: should be at least 1.
        channels: C the forecaster was built for; None if any will do.
        least: the least K it needs.

    Raises:
        ShapeError: no tensor, wrong rank, channels, too few frames or empty ones.
        OptionError: ``steps`` below 1 or no integer.
    """
    check_tensor(past, "past (B, K, C, H, W)")
    if past.ndim != 5:
        hint = "add a batch axis with past[None]" if past.ndim == 4 else "permute the axes to this order"
        raise ShapeError(f"past must be (B, K, C, H, W); received shape {tuple(past.shape)}: {hint}")
    if channels is not None and past.shape[2] != channels:
        raise ShapeError(
            f"past must have {channels} channel(s) on axis 2 of (B, K, C, H, W); received "
            f"{tuple(past.shape)}: use a model built with channels={past.shape[2]}"
        )
    if past.shape[1] < least:
        raise ShapeError(
            f"past must hold at least {least} frame(s); received {past.shape[1]}: give a longer past"
        )
    if 0 in past.shape:
        raise ShapeError(
            f"past must hold frames with pixels; received shape {tuple(past.shape)}: leave empty batches out"
        )
    check_positive(steps, "steps")
