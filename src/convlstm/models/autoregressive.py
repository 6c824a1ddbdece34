"""Forecasters that make one frame at a time and read each as the input of the next."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from convlstm.cells.overrides import are_replaced, methods_of
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.frames import pad_to_multiple
from convlstm.models.base import Forecaster, check_past
from convlstm.validation import check_same_kind, check_tensor, received


class AutoregressiveForecaster(Forecaster):
    """A forecaster that is written as one step of time.

    A subclass writes `start` and `step`; rollout, scheduled sampling and streaming are provided. The carry is
    any nested structure of tensors, each with the batch on its first axis; it is passed in and returned,
    never kept on the module and never changed in place. A model whose levels need certain frame sizes sets
    ``size_multiple``, or overrides `pad`: frames are padded once, at the beginning, and forecasts are cropped
    once, at the end. A model that reads an observed frame in another way than its own forecasts overrides
    `observe`. A model with ``extra_channels`` is given frames of C + E channels and returns frames of C. A
    model that adds a term to the loss of its training overrides `penalty`.

    Attributes:
        size_multiple: height and width of the frames that `step` reads are multiples of it.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> class NextFrame(AutoregressiveForecaster):
        ...     def __init__(self, channels=1, hidden_dim=8):
        ...         super().__init__()
        ...         self.layers = ConvLSTM(channels, hidden_dim, 3, batch_first=True)
        ...         self.head = torch.nn.Conv2d(hidden_dim, channels, 1)
        ...
        ...     def start(self, past):
        ...         return self.layers(past[:, :-1])[1] if past.shape[1] > 1 else None
        ...
        ...     def step(self, frame, carry):
        ...         output, carry = self.layers.step(frame, carry)
        ...         return frame + self.head(output), carry
        >>> NextFrame()(torch.rand(2, 5, 1, 16, 16), steps=3).shape
        torch.Size([2, 3, 1, 16, 16])
    """

    size_multiple: int = 1

    @abstractmethod
    def start(self, past: Tensor) -> Any:
        """The carry after all frames of the past but the last, which the first `step` reads.

        Args:
            past: (B, K, C, *S), K at least 1; with K = 1 the initial carry. C + E channels with extra inputs.
        """

    @abstractmethod
    def step(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """One step of time.

        Args:
            frame: (B, C, *S), the newest frame: observed, true (teacher forcing) or forecast; C + E channels
                with extra inputs.
            carry: of `start` or of the step before.

        Returns:
            The forecast of the next frame (B, C, *S), and the carry.
        """

    def observe(self, frame: Tensor, carry: Any) -> Any:
        """The carry after an observed frame that is followed by another one; by default that of `step`.

        It must give what `start` gives for a past with one more frame.
        """
        return _checked(self, self.step(frame, carry), frame)[1]

    def pad(self, frames: Tensor) -> Tensor:
        """Frames (B, T, C, *S) padded at the end of each space axis to a size that the model can read.

        By default the border is repeated, to multiples of ``size_multiple``.
        """
        return pad_to_multiple(frames, self.size_multiple)

    def forward(
        self,
        past: Tensor,
        steps: int,
        *,
        future: Tensor | None = None,
        forced: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Forecast.

        Args:
            past: (B, K, C, *S).
            steps: L, at least 1.
            future: (B, L, C, *S), the true frames, for teacher forcing in training.
            forced: (B, L), or (B, L, C, *S) for single pixels, bool; where it is true, the true frame instead
                of the forecast of that step is the input of the next step.
            inputs: (B, K + L, E, *S), the extra input channels; only for a model with ``extra_channels``.

        Returns:
            (B, L, C, *S).

        Raises:
            ShapeError: wrong rank, channels, length, dtype or device; ``future`` without ``forced``.
            OptionError: ``steps`` below 1.
        """
        return self._forecast(past, steps, future, forced, inputs)[0]

    def penalty(self, carry: Any) -> Tensor | None:
        """A number that training adds to the loss, from the carry after the last step; None for none."""
        return None

    def with_penalty(self, past: Tensor, steps: int, **options: Any) -> tuple[Tensor, Tensor | None]:
        """The forecast, as `forward` gives it for the same arguments, and its `penalty`.

        Raises:
            OptionError: a subclass that overrides both `forward` and `penalty`, and not this method.
        """
        if not are_replaced(self, _PENALTY):
            return super().with_penalty(past, steps, **options)
        if are_replaced(self, _FORWARD):
            raise OptionError(
                "a forecaster with a penalty and a forward of its own must have a with_penalty of its own as "
                f"well; received {type(self).__name__}: override it, or write start and step alone"
            )
        forecast, carry = self._forecast(past, steps, **options)
        return forecast, self.penalty(carry)

    def _forecast(
        self,
        past: Tensor,
        steps: int,
        future: Tensor | None = None,
        forced: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """The forecast (B, L, C, *S) and the carry after its last step."""
        check_past(past, steps, channels=getattr(self, "channels", None))
        check_same_kind(self, past, "past")
        _check_forcing(past, steps, future, forced)
        _check_inputs(self, past, steps, inputs)
        if future is not None:
            check_same_kind(self, future, "future")
        size, length = past.shape[3:], past.shape[1]
        if inputs is not None:
            inputs = self.pad(inputs)
        past, future = self.pad(past), None if future is None else self.pad(future)
        if forced is not None and forced.ndim > 2:
            forced = self.pad(forced.to(past)).bool()
        if inputs is not None:
            past, inputs = torch.cat([past, inputs[:, :length]], dim=2), inputs[:, length:]
        newest = past[:, -1].clone()  # `start` and `step` may change what they are given
        return self._rollout(newest, self.start(past), steps, size, future, forced, inputs)

    def _rollout(
        self,
        frame: Tensor,
        carry: Any,
        steps: int,
        size: Sequence[int],
        future: Tensor | None = None,
        forced: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Forecasts (B, L, C, *S) of a size, after a padded frame and the carry before it; the last carry.

        The frame has its extra inputs; ``inputs`` (B, L, E, *S) are those of the frames after it.
        """
        forecasts: list[Tensor] = []
        dtype = frame.dtype  # under autocast a step may return 16 bits
        for k in range(steps):
            frame, carry = _checked(self, self.step(frame.clone(), carry), frame)
            forecasts.append(frame)
            if future is not None and forced is not None and k + 1 < steps:
                use_truth = forced[:, k]
                if forced.ndim == 2:
                    use_truth = use_truth.view(-1, *(1,) * (frame.ndim - 1))
                frame = torch.where(use_truth, future[:, k], frame)
            if inputs is not None:
                frame = torch.cat([frame, inputs[:, k]], dim=1)
        inside: Any = (..., *(slice(length) for length in size))
        return torch.stack(forecasts, dim=1)[inside].to(dtype), carry

    def stream(self) -> "ForecastStream":
        """A session that is given observed frames one at a time and forecasts at any moment, no gradients.

        Raises:
            OptionError: a subclass or a model with a `forward` of its own, which a session does not call.

        Example:
            >>> import torch
            >>> from convlstm import EncoderForecaster
            >>> session = EncoderForecaster(hidden_dim=[8]).eval().stream()
            >>> for frame in torch.rand(5, 1, 1, 32, 32):
            ...     session.update(frame)
            >>> session.forecast(3).shape
            torch.Size([1, 3, 1, 32, 32])
        """
        if are_replaced(self, _FORWARD):
            raise OptionError(
                "a stream calls start, observe and step, and would leave out what an overridden forward "
                f"adds; received {type(self).__name__}, which has one: write start and step alone, or "
                "override stream as well"
            )
        return ForecastStream(self)


_FORWARD = methods_of(AutoregressiveForecaster, "forward")
_PENALTY = methods_of(AutoregressiveForecaster, "penalty")


class ForecastStream:
    """A forecaster that is given one observed frame at a time; `AutoregressiveForecaster.stream` makes it.

    `forecast` gives what the model gives for all frames so far as the past, and leaves the state as it is.
    """

    def __init__(self, model: AutoregressiveForecaster) -> None:
        self._model = model
        self._size: tuple[int, ...] = ()
        self._frame: Tensor | None = None
        self._carry: Any = None

    @torch.no_grad()
    def update(self, frame: Tensor, inputs: Tensor | None = None) -> None:
        """Read an observed frame (B, C, *S), with its extra inputs (B, E, *S) if the model reads any.

        Raises:
            ShapeError: another shape than the first frame's, or another dtype or device than the model's;
                extra inputs other than the model's.
        """
        check_tensor(frame, "a frame (B, C, *S)")
        if frame.ndim != 4:
            raise ShapeError(
                f"a frame must be (B, C, H, W); received shape {tuple(frame.shape)}: a stream takes one step "
                "of time, the model (B, K, C, H, W)"
            )
        # A copy, as the caller may write the next frame into the same memory.
        model, sequence = self._model, frame.clone().unsqueeze(1)
        check_past(sequence, 1, channels=getattr(model, "channels", None))
        if self._frame is not None and tuple(frame.shape) != self.shape:
            raise ShapeError(
                f"a frame must be (B, C, *S) = {self.shape}, as the first one of the stream; received "
                f"{tuple(frame.shape)}: make another stream for another batch or size"
            )
        check_same_kind(model, frame, "a frame")
        if inputs is not None:
            check_tensor(inputs, "inputs (B, E, *S)")
        _check_inputs(model, sequence, 0, None if inputs is None else inputs.unsqueeze(1))
        if inputs is not None:
            sequence = torch.cat([sequence, inputs.unsqueeze(1)], dim=2)
        padded = model.pad(sequence)
        if self._frame is None:
            self._size, self._carry = tuple(frame.shape[2:]), model.start(padded.clone())
        else:
            self._carry = model.observe(self._frame, self._carry)
        self._frame = padded[:, 0]

    @torch.no_grad()
    def forecast(self, steps: int, inputs: Tensor | None = None) -> Tensor:
        """The forecast (B, steps, C, *S) of the frames after the newest one.

        Args:
            steps: L.
            inputs: (B, L, E, *S), extra inputs of the frames to forecast, if the model reads any.

        Raises:
            OptionError: ``steps`` below 1, or no frame yet.
            ShapeError: extra inputs other than the model's.
        """
        if self._frame is None:
            raise OptionError("a forecast needs at least one frame; received none: call update(frame) first")
        check_past(self._frame.unsqueeze(1), steps)
        newest = torch.empty(self.shape, device="meta").unsqueeze(1)
        _check_inputs(self._model, newest, steps - 1, inputs)
        inputs = None if inputs is None else self._model.pad(inputs)
        return self._model._rollout(self._frame, self._carry, steps, self._size, inputs=inputs)[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the frames, (B, C, *S); empty before the first one."""
        if self._frame is None:
            return ()
        batch, channels = self._frame.shape[:2]
        return (batch, channels - self._model.extra_channels, *self._size)

    def copy(self) -> "ForecastStream":
        """A second session with the same state, which goes on independently."""
        other = ForecastStream(self._model)
        state = (self._size, self._frame, self._carry)
        other._size, other._frame, other._carry = tree_map_only(Tensor, torch.clone, state)
        return other


def _checked(model: AutoregressiveForecaster, result: Any, frame: Tensor) -> tuple[Tensor, Any]:
    """The result of a step, if it is a frame of the shape of the one before, and a carry."""
    pair = isinstance(result, tuple) and len(result) == 2
    made = result[0] if pair else result
    batch, channels, *space = frame.shape
    expected = (batch, channels - model.extra_channels, *space)
    if pair and isinstance(made, Tensor) and tuple(made.shape) == expected:
        return made, result[1]
    found = f"a tensor {tuple(made.shape)}" if isinstance(made, Tensor) else received(made)
    raise ShapeError(
        f"the step of a {type(model).__name__} must return the next frame {expected} and the "
        f"carry; received {found}{' and a carry' if pair else ''}: return (frame, carry)"
    )


def _check_forcing(past: Tensor, steps: int, future: Tensor | None, forced: Tensor | None) -> None:
    """Check the true frames and the flags of teacher forcing."""
    if future is None and forced is None:
        return
    if future is None or forced is None:
        raise ShapeError(
            "future and forced must be given together; received only one of them: pass both or none"
        )
    check_tensor(future, "future (B, L, C, *S)")
    check_tensor(forced, "forced (B, L)")
    expected = (past.shape[0], steps, *past.shape[2:])
    if tuple(future.shape) != expected:
        raise ShapeError(
            f"future must hold the frames of all steps, {expected}; received {tuple(future.shape)}: pass "
            f"{steps} frame(s)"
        )
    if tuple(forced.shape) not in (expected[:2], expected) or forced.dtype != torch.bool:
        raise ShapeError(
            f"forced must be bool (B, L) = {expected[:2]}; received {forced.dtype} {tuple(forced.shape)}: "
            "one flag per sample and step, or one per pixel"
        )


def _check_inputs(model: Forecaster, past: Tensor, steps: int, inputs: Tensor | None) -> None:
    """Check the extra input channels."""
    expected = (past.shape[0], past.shape[1] + steps, model.extra_channels, *past.shape[3:])
    found = None if inputs is None else tuple(check_tensor(inputs, "inputs (B, K + L, E, *S)").shape)
    if found != (expected if model.extra_channels else None):
        raise ShapeError(
            f"inputs must be {expected if model.extra_channels else 'left out'} for a model with "
            f"extra_channels={model.extra_channels}; received {found}: give the extra channels of past and "
            "future frames"
        )
