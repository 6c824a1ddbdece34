"""Coefficients of another size than the frames, and a number for one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import ConvLSTM
from convlstm.cells import LinearCell
from convlstm.errors import OptionError, ShapeError


class Cropped(LinearCell):
    """Coefficients of narrower frames, which a compiled scan would write beyond."""

    def __init__(self, input_dim: int, hidden_dim: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Without the first column."""
        return x[..., 1:], x[..., 1:]


class Constant(Cropped):
    """A coefficient that is a number."""

    def coefficients(self, x: Tensor) -> Any:
        """A number and a tensor."""
        return 0.9, x


def test_a_number_for_a_coefficient_is_named_and_how_to_fill_a_tensor() -> None:
    layers = ConvLSTM(3, 3, 3, batch_first=True, cell=Constant)
    with pytest.raises(OptionError, match=r"returned a tuple that holds a float: fill a tensor .*full_like"):
        layers(torch.rand(2, 5, 3, 6, 7))


def test_coefficients_of_another_size_are_one_sentence() -> None:
    layers = ConvLSTM(3, 3, 3, batch_first=True, cell=Cropped)
    with pytest.raises(ShapeError, match="coefficients must both be"):
        layers(torch.rand(2, 5, 3, 6, 7))
