"""Cells as public code has them, where that is not their equations: for weights that were trained with it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells.base import Cell
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.cells.e3d_lstm import E3DLSTMCell
from convlstm.cells.mau import MAUCell
from convlstm.cells.mim import MIMCell, MIMNState, MIMState
from convlstm.errors import ShapeError, check_name
from convlstm.validation import check_bool, check_integers

_E3D_BUG = "memory_and_recall"


class NoMemoryLSTMCell(ConvLSTMCell):
    """A ConvLSTM whose output h' = o tanh(g) leaves out its cell state, as in OpenSTL up to version 0.3.0."""

    def update(self, gates: Tensor, state: LSTMState) -> LSTMState:
        """The new state from the pre-activations i, f, o, g and the old state."""
        _, _, o, g = gates.chunk(4, dim=1)
        return LSTMState(torch.sigmoid(o) * torch.tanh(g), super().update(gates, state).c)


class PublishedMIMCell(MIMCell):
    """A `MIMCell` with the peepholes and the non-stationary modules of OpenSTL and the authors.

    Each pixel has peepholes of its own. The non-stationary module of the lowest layer reads how the input
    changes; that of each other layer reads the output of the one below, which comes with the spatiotemporal
    memory, (B, 2 hidden_dim, *S). OpenSTL also keeps the state of the stationary module from one batch to the
    next, so that a forecast depends on what ran before; here each sequence begins with zeros, as the first
    batch does there. It leaves out the non-stationary modules at the first step, where without a bias they
    give zeros.

    Args:
        input_dim, hidden_dim, kernel_size, bias, forget_bias: as for `MIMCell`.
        image_size: rows and columns of the maps.
        below: True if the layer below is such a cell too.
        above: True if the layer above is.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        image_size: Sequence[int],
        below: bool = False,
        above: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias, forget_bias=forget_bias)
        self.image_size = _image_size(self, image_size)
        self.below, self.above = check_bool(below, "below"), check_bool(above, "above")
        for module in (self.stationary, self.non_stationary.lstm):
            module.peephole = nn.Parameter(torch.zeros(3, self.hidden_dim, *self.image_size))

    def project(self, x: Tensor) -> Tensor:
        """The input itself."""
        _check_size(self, x)
        return x

    def initial_memory(self, x: Tensor) -> Tensor:
        """Zeros, with those of the module below, if there is one."""
        return super().initial_memory(x).repeat(1, 1 + self.below, *(1,) * (x.ndim - 2))

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[MIMState, Tensor]:  # type: ignore[override]
        """The new state and spatiotemporal memory, with the output of the module for the layer above."""
        before = MIMNState(state.d, state.n, state.x, state.begun)
        if self.below:
            memory, x = torch.split(memory, self.hidden_dim, dim=1)
            lstm = self.non_stationary.lstm
            d, n = lstm.step(lstm.project(x), LSTMState(state.d, state.n))
            change = MIMNState(d, n, state.x, torch.ones_like(state.begun))
        else:
            change = self.non_stationary.step(p, before)
        state, memory = self.update(p, state, memory, change)
        return state, torch.cat([memory, state.d], dim=1) if self.above else memory


class PublishedMAUCell(MAUCell):
    """A `MAUCell` whose normalisations have a weight for every pixel, as in OpenSTL and the authors' code.

    Args:
        input_dim, hidden_dim, kernel_size, bias, tau: as for `MAUCell`.
        image_size: rows and columns of the maps.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        image_size: Sequence[int],
        tau: int = 5,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias, tau=tau)
        self.image_size = _image_size(self, image_size)
        normalised: list[Any] = [self.conv_t, self.conv_t_next, self.conv_s, self.conv_s_next]
        for module in normalised:
            module[1] = nn.LayerNorm([module[0].out_channels, *self.image_size])

    def project(self, x: Tensor) -> Tensor:
        """The input S, the query N_q(S) and N_s(S), (N, 2 input_dim + 3 hidden_dim, *S)."""
        _check_size(self, x)
        return super().project(x)


class PublishedE3DLSTMCell(E3DLSTMCell):
    """An `E3DLSTMCell` as OpenSTL has it.

    The normalisation has a weight for every pixel, and convolutions have no border before and after the first
    axis, so that they give one map for a window of two, which stands for both. With its bug the memory never
    changes, and the recall mixes channels with positions.

    Args:
        input_dim, hidden_dim, kernel_size, bias, history, forget_bias: as for `E3DLSTMCell`.
        image_size: frames of the window, rows and columns of the maps.
        published_bug: ``memory_and_recall``; None for the equations.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        image_size: Sequence[int],
        published_bug: str | None = None,
        history: int = 5,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias, history=history, forget_bias=forget_bias)
        self.image_size = _image_size(self, image_size)
        if published_bug is not None:
            check_name(published_bug, (_E3D_BUG,), "published_bug")
        self.published_bug = published_bug
        self.norm = nn.LayerNorm([self.hidden_dim, *self.image_size])
        for name in ("conv_x", "conv_h", "conv_m", "conv_o"):
            conv: Any = getattr(self, name)
            has_bias = conv.bias is not None
            setattr(self, name, _NoBorder(conv.in_channels, conv.out_channels, self.kernel_size, has_bias))

    def project(self, x: Tensor) -> Tensor:
        """The gates' part from the input, (N, 7 hidden_dim, *S)."""
        _check_size(self, x)
        return super().project(x)

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[Any, Tensor]:  # type: ignore[override]
        """The new state and spatiotemporal memory, (B, hidden_dim, *S)."""
        state, new = super().step(p, state, memory)
        return state, memory if self.published_bug else new

    def _recall(self, query: Tensor, history: Tensor, steps: Tensor) -> Tensor:
        if not self.published_bug:
            return super()._recall(query, history, steps)
        mixed = _regrouped(history.flatten(0, 1)).view_as(history)
        recalled = super()._recall(_regrouped(query), mixed, steps)
        return recalled.flatten(2).transpose(1, 2).reshape(query.shape)


def _regrouped(x: Tensor) -> Tensor:
    """Maps (N, C, *S) whose values, in their order in memory, are taken for those of (N, *S, C)."""
    return x.reshape(len(x), -1, x.shape[1]).transpose(1, 2).reshape(x.shape)


class _NoBorder(nn.Conv3d):
    """A convolution without a border along its first axis, whose maps are repeated to the input's size."""

    def __init__(self, inputs: int, outputs: int, kernel_size: tuple[int, ...], bias: bool) -> None:
        depth, height, width = kernel_size
        padding = (0, height // 2, width // 2)
        super().__init__(inputs, outputs, (depth, height, width), padding=padding, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Maps (N, C', *S) of (N, C, *S)."""
        y = super().forward(input)
        if y.shape[2] == 1 and y.shape[3:] == input.shape[3:]:  # as `interpolate` would, without a copy
            return y.expand(-1, -1, *input.shape[2:])
        return F.interpolate(y, size=input.shape[2:])


def _image_size(cell: Cell, image_size: Any) -> tuple[int, ...]:
    return tuple(check_integers(image_size, len(cell.kernel_size), "image_size"))


def _check_size(cell: Any, x: Tensor) -> None:
    """Refuse maps of another size than that of the weights.

    Raises:
        ShapeError: with both sizes.
    """
    if tuple(x.shape[2:]) != cell.image_size:
        raise ShapeError(
            f"published weights of a {type(cell).__name__} are for maps of {cell.image_size}; received "
            f"{tuple(x.shape[2:])}: give frames of the size that they were trained with"
        )
