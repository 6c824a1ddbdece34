"""Attention between pixels, and the self-attention memory of a ConvLSTM."""

import torch
from torch import Tensor

from convlstm.errors import ShapeError
from convlstm.validation import check_tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Dot-product attention without scaling (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819).

    Args:
        query: (B, D, N).
        key: (B, D, M).
        value: (B, C, M).

    Returns:
        ``value softmax(query^T key)^T``, the softmax over M: (B, C, N).

    Raises:
        ShapeError: other shapes.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        check_tensor(tensor, f"{name} (B, channels, pixels)")
    if not query.ndim == key.ndim == value.ndim == 3 or key.shape[2] != value.shape[2]:
        shapes = f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        raise ShapeError(
            f"query, key and value must be (B, D, N), (B, D, M) and (B, C, M); received {shapes}: flatten "
            "the space axes"
        )
    weights_BNM = torch.softmax(query.transpose(1, 2) @ key, dim=2)
    return value @ weights_BNM.transpose(1, 2)


def sa_memory_update(gates: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Update a self-attention memory (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819, equation 6).

    With the gates stacked in the order i, g, o::

        m' = (1 - sigmoid(i)) m + sigmoid(i) tanh(g)
        h' = sigmoid(o) m'

    Args:
        gates: pre-activations, (B, 3C, N).
        m: (B, C, N).

    Returns:
        h' and m', each (B, C, N).

    Raises:
        ShapeError: other shapes.
    """
    check_tensor(gates, "gates (B, 3C, N)")
    check_tensor(m, "m (B, C, N)")
    if gates.ndim != 3 or m.shape != (gates.shape[0], gates.shape[1] // 3, gates.shape[2]):
        raise ShapeError(
            f"gates must be (B, 3C, N) and m (B, C, N); received {tuple(gates.shape)} and {tuple(m.shape)}: "
            "flatten the space axes"
        )
    i, g, o = gates.chunk(3, dim=1)
    i = torch.sigmoid(i)
    m = (1 - i) * m + i * torch.tanh(g)
    return torch.sigmoid(o) * m, m
