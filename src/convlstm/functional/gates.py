"""The pointwise half of gated recurrences."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """No nonlinearity."""
    return x


#: Activations that may be given by name.
ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "hard_tanh": F.hardtanh,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "softsign": F.softsign,
    "identity": identity,
}


def lstm_gates(
    gates: Tensor,
    c: Tensor,
    *,
    peepholes: tuple[Tensor, Tensor, Tensor] | None = None,
    gate: Activation = torch.sigmoid,
    candidate: Activation = torch.tanh,
    output: Activation = torch.tanh,
) -> tuple[Tensor, Tensor]:
    """Update an LSTM's memory from the sums that enter its gates.

    With the gates stacked in the order i, f, o, g, and peepholes w (zero without them)::

        i  = gate(i + w_i * c)
        f  = gate(f + w_f * c)
        c' = f * c + i * candidate(g)
        o  = gate(o + w_o * c')
        h' = o * output(c')

    Args:
        gates: (B, 4C, *S), before the nonlinearities.
        c: (B, C, *S), the memory.
        peepholes: w_i, w_f, w_o, each (C, *S) or (C, 1, ...); the output gate sees the new memory.
        gate: nonlinearity of i, f, o.
        candidate: nonlinearity of g.
        output: nonlinearity of the new memory on its way out.

    Returns:
        h' and c', each (B, C, *S).
    """
    i, f, o, g = gates.chunk(4, dim=1)
    if peepholes is not None:
        i, f = i + peepholes[0] * c, f + peepholes[1] * c
    c = gate(f) * c + gate(i) * candidate(g)
    if peepholes is not None:
        o = o + peepholes[2] * c
    return gate(o) * output(c), c
