"""Attention between pixels, and the memory it writes to."""

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every pixel's mean of the values, weighted by how well its query fits their keys; no scaling.

    Args:
        query: (B, D, N).
        key: (B, D, M).
        value: (B, C, M).

    Returns:
        (B, C, N), softmax over M of query^T key, times value.
    """
    weights_BNM = torch.softmax(query.transpose(1, 2) @ key, dim=2)
    return value @ weights_BNM.transpose(1, 2)


def sa_memory_update(gates: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Update a self-attention memory (Lin et al. 2020, equation 6).

    With the gates stacked in the order i, g, o::

        m' = (1 - sigmoid(i)) m + sigmoid(i) tanh(g)
        h' = sigmoid(o) m'

    Args:
        gates: (B, 3C, N), before the nonlinearities.
        m: (B, C, N).

    Returns:
        h' and m', each (B, C, N).
    """
    i, g, o = gates.chunk(3, dim=1)
    i = torch.sigmoid(i)
    m = (1 - i) * m + i * torch.tanh(g)
    return torch.sigmoid(o) * m, m
