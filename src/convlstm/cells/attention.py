"""Attention over the hidden state of a cell."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from convlstm.cells.convolutions import CONV
from convlstm.cells.recordable import Recordable
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.validation import received

#: A name, a module (copied, so that layers never share one) or what builds a module from hidden_dim.
Attention = str | nn.Module | Callable[[int], nn.Module]


class SpatialAttention(Recordable):
    """One weight per pixel: 1x1 convolution to a quarter of the channels, ReLU, 1x1 convolution, sigmoid.

    Args:
        channels: C of the hidden state.
        axes: number of space axes.
    """

    def __init__(self, channels: int, axes: int = 2) -> None:
        super().__init__()
        reduced = max(1, channels // 4)
        self.reduce = CONV[axes](channels, reduced, 1)
        self.map = CONV[axes](reduced, 1, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Weighted hidden state, (B, C, *S) -> (B, C, *S)."""
        weights = torch.sigmoid(self.map(torch.relu(self.reduce(h))))
        self.record_values(weights=weights)
        return h * weights


class ChannelAttention(Recordable):
    """Squeeze-and-excitation: one weight per channel from its mean (Hu et al. 2018, arXiv:1709.01507).

    Args:
        channels: C of the hidden state.
        axes: number of space axes.
    """

    def __init__(self, channels: int, axes: int = 2) -> None:
        super().__init__()
        reduced = max(1, channels // 4)
        self.squeeze = nn.Linear(channels, reduced)
        self.excite = nn.Linear(reduced, channels)
        self.axes = axes

    def forward(self, h: Tensor) -> Tensor:
        """Weighted hidden state, (B, C, *S) -> (B, C, *S)."""
        weight_BC = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.flatten(2).mean(2)))))
        weights = weight_BC[(..., *(None,) * self.axes)]
        self.record_values(weights=weights)
        return h * weights


def attention_module(attention: Attention | None, channels: int, axes: int) -> nn.Module | None:
    """An attention module for one cell from the option ``attention``."""
    if attention is None:
        return None
    if isinstance(attention, str):
        named = {"spatial": SpatialAttention, "channel": ChannelAttention}
        return named[check_name(attention, named, "attention")](channels, axes)
    if not callable(attention):
        raise OptionError(
            "attention must be spatial, channel, a module or what builds one from the number of channels; "
            f"received {received(attention)}: pass one of these"
        )
    return copy.deepcopy(attention) if isinstance(attention, nn.Module) else attention(channels)


def apply_attention(attention: nn.Module | None, h: Tensor) -> Tensor:
    """The weighted hidden state, (B, C, *S) -> (B, C, *S).

    Raises:
        ShapeError: the module returns another shape.
    """
    if attention is None:
        return h
    weighted: Tensor = attention(h)
    if getattr(weighted, "shape", None) != h.shape:
        found = tuple(weighted.shape) if isinstance(weighted, Tensor) else f"a {type(weighted).__name__}"
        raise ShapeError(
            f"attention must map the hidden state (B, C, *S) = {tuple(h.shape)} to the same shape; "
            f"received {found} from a {type(attention).__name__}: return weights * h"
        )
    return weighted
