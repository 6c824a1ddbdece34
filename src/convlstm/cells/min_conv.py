"""The minimal convolutional GRU and LSTM, whose gates do not depend on the state."""

from abc import abstractmethod

from torch import Tensor

from convlstm.cells.convolutions import same_convolution
from convlstm.cells.linear import LinearCell
from convlstm.functional.linear_recurrence import PLANES, RULES
from convlstm.validation import check_bool


class MinConvCell(LinearCell):
    """A linear recurrence whose coefficients follow by a rule from one convolution over the frame."""

    def __init__(
        self, input_dim: int, hidden_dim: int, kernel_size: int | tuple[int, ...], bias: bool = True
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        gates = PLANES[self.rule] * self.hidden_dim
        self.conv = same_convolution(self.input_dim, gates, self.kernel_size, bias)

    @property
    @abstractmethod
    def rule(self) -> str:
        """One of `convlstm.functional.linear_recurrence.RULES`."""

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients a and b, each (N, hidden_dim, *S), of frames (N, input_dim, *S)."""
        return RULES[self.rule](self.conv(x))


class MinConvGRUCell(MinConvCell):
    """One step of a minimal convolutional GRU (Horuz et al. 2025, arXiv:2508.03614; Feng et al. 2024).

    With ``*`` a convolution, and g(n) = n + 0.5 from zero on, sigmoid(n) below (arXiv:2410.01201)::

        z, n = W * x + b
        h'   = (1 - sigmoid(z)) h + sigmoid(z) g(n)

    The authors compute the recurrence by logarithms, since their scan divides by products of the factors of
    h; ours does not divide. Their parallel form starts from h = g(0) = 0.5, their step by step form from 0,
    as this cell does: pass 0.5 as the state for the numbers of the former. ``conv.weight`` is theirs.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h.
        kernel_size: one integer per space axis.
        bias: True for a bias b.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> layers = ConvLSTM(1, 8, 3, 2, batch_first=True, cell=MinConvGRUCell)
        >>> layers(torch.zeros(2, 100, 1, 16, 16))[0][0].shape
        torch.Size([2, 100, 8, 16, 16])
    """

    rule = "min_gru"


class MinConvLSTMCell(MinConvCell):
    """One step of a minimal convolutional LSTM (Horuz et al. 2025, arXiv:2508.03614).

    With ``*`` a convolution and g as for `MinConvGRUCell`, whose notes hold here too::

        f, i, n = W * x + b
        f, i    = sigmoid(f), sigmoid(i)              exp(f), exp(i) with exponential_gates
        h'      = (f h + i g(n)) / (f + i)

    Args:
        input_dim, hidden_dim, kernel_size, bias: as for `MinConvGRUCell`.
        exponential_gates: True for the paper's MinConvExpLSTM.
    """

    exponential_gates = False  # while the constructor of the base class asks for the rule

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        exponential_gates: bool = False,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias)
        self.exponential_gates = check_bool(exponential_gates, "exponential_gates")

    @property
    def rule(self) -> str:
        """See `MinConvCell`."""
        return "min_exp_lstm" if self.exponential_gates else "min_lstm"

    def extra_repr(self) -> str:
        """The options."""
        return f"exponential_gates={self.exponential_gates}"
