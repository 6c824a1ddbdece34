"""The contract of a recurrence that is linear in its state."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.cells.base import Cell, described, register_state
from convlstm.errors import OptionError, ShapeError
from convlstm.functional.linear_recurrence import split_coefficients


class LinearState(NamedTuple):
    """State of a linear recurrence: the output ``h``, (B, hidden_dim, *S)."""

    h: Tensor


register_state(LinearState, "convlstm.cells")


class LinearCell(Cell):
    """One step of a recurrence that is linear in its state, h_t = a_t h_{t-1} + b_t.

    a and b depend on the frame alone. A subclass writes `coefficients`; its layers compute those of many
    frames at once and all states by a parallel scan over time, in training as in forecasts, and one frame
    after the other in a stream, by the same weights.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> from convlstm.cells.convolutions import same_convolution
        >>> class LeakyAverage(LinearCell):
        ...     def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        ...         super().__init__(input_dim, hidden_dim, kernel_size)
        ...         self.conv = same_convolution(input_dim, hidden_dim, self.kernel_size, bias)
        ...
        ...     def coefficients(self, x):
        ...         b = self.conv(x)
        ...         return torch.full_like(b, 0.9), 0.1 * b
        >>> layers = ConvLSTM(1, 8, 3, 2, batch_first=True, cell=LeakyAverage)
        >>> layers(torch.zeros(2, 1000, 1, 8, 8))[0][0].shape
        torch.Size([2, 1000, 8, 8, 8])
    """

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients a and b, each (N, hidden_dim, *S), of frames (N, input_dim, *S), one by one."""

    def initial_state(self, x: Tensor) -> LinearState:
        """Zeros, (B, hidden_dim, *S)."""
        return LinearState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x: Tensor) -> Tensor:
        """The coefficients a and b, joined, (N, 2 hidden_dim, *S).

        Raises:
            OptionError: `coefficients` returns anything but two tensors.
            ShapeError: these are not (N, hidden_dim, *S).
        """
        return torch.cat(self._checked(self.coefficients(x), x), dim=1)

    def step(self, p: Tensor, state: Any) -> LinearState:
        """The new state, in the dtype of the old one."""
        a, b = split_coefficients(p)
        self.record_values(a=a, b=b)
        return LinearState((a * state.h + b).to(state.h.dtype))

    def _checked(self, pair: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        name = type(self).__name__
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)):
            remedy = "return a, b"
            if isinstance(pair, tuple) and len(pair) == 2:
                remedy = "fill a tensor with a number, as torch.full_like(b, 0.9)"
            raise OptionError(
                f"coefficients must return two tensors, a and b; the {name}'s returned {described(pair)}: "
                f"{remedy}"
            )
        a, b = pair
        if not a.shape == b.shape == (x.shape[0], self.hidden_dim, *x.shape[2:]):
            raise ShapeError(
                f"coefficients must both be (N, hidden_dim={self.hidden_dim}, *S); the {name}'s returned "
                f"{tuple(a.shape)} and {tuple(b.shape)}: expand what does not depend on the frame"
            )
        return a, b
