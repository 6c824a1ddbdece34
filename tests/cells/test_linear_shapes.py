"""Coefficients of another size than the frames."""

import pytest
import torch
from torch import Tensor

from convlstm import ConvLSTM
from convlstm.cells import LinearCell
from convlstm.errors import ShapeError


class Cropped(LinearCell):
    """Coefficients of narrower frames, which a compiled scan would write beyond."""

    def __init__(self, input_dim: int, hidden_dim: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Without the first column."""
        return x[..., 1:], x[..., 1:]


def test_coefficients_of_another_size_are_one_sentence() -> None:
    layers = ConvLSTM(3, 3, 3, batch_first=True, cell=Cropped)
    with pytest.raises(ShapeError, match="coefficients must both be"):
        layers(torch.rand(2, 5, 3, 6, 7))
