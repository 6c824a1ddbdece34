"""The pointwise half of gated recurrences."""

import torch
from torch import Tensor


def lstm_gates(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Update an LSTM's memory from the sums that enter its gates.

    With the gates stacked in the order i, f, o, g::

        i, f, o = sigmoid(i), sigmoid(f), sigmoid(o)
        g  = tanh(g)
        c' = f * c + i * g
        h' = o * tanh(c')

    Args:
        gates: (B, 4C, *S), before the nonlinearities.
        c: (B, C, *S), the memory.

    Returns:
        h' and c', each (B, C, *S).
    """
    i, f, o, g = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c
