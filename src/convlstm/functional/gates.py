"""Activations by name, and the pointwise equations of an LSTM."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import ShapeError
from convlstm.validation import check_tensor, received

Activation = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """The input itself."""
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
    record: Callable[..., None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Hidden and cell state of an LSTM from its pre-activations (Shi et al. 2015, arXiv:1506.04214).

    With the gates stacked in the order i, f, o, g, and peepholes w (zero without them)::

        i  = gate(i + w_i * c)
        f  = gate(f + w_f * c)
        c' = f * c + i * candidate(g)
        o  = gate(o + w_o * c')
        h' = o * output(c')

    Args:
        gates: pre-activations, (B, 4C, *S).
        c: cell state, (B, C, *S).
        peepholes: w_i, w_f, w_o, each (C, *S) or (C, 1, ...); the output gate reads the new cell state.
        gate: activation of i, f, o.
        candidate: activation of g.
        output: activation of the new cell state.
        record: called with the values of the gates, i, f, o and g, by name.

    Returns:
        h' and c', each (B, C, *S).

    Raises:
        ShapeError: other shapes.
    """
    check_tensor(gates, "gates (B, 4C, *S)")
    check_tensor(c, "c (B, C, *S)")
    if gates.ndim != c.ndim or c.ndim < 2 or gates.shape[1] != 4 * c.shape[1]:
        raise ShapeError(
            f"gates must be (B, 4C, *S) and c (B, C, *S); received {tuple(gates.shape)} and "
            f"{tuple(c.shape)}: stack the four gates' pre-activations along the channels"
        )
    i, f, o, g = gates.chunk(4, dim=1)
    if peepholes is not None:
        if not isinstance(peepholes, (tuple, list)) or len(peepholes) != 3:
            raise ShapeError(
                f"peepholes must be three tensors; received {received(peepholes)}: pass w_i, w_f, w_o"
            )
        i, f = i + peepholes[0] * c, f + peepholes[1] * c
    f, i, g = gate(f), gate(i), candidate(g)
    c = f * c + i * g
    o = gate(o if peepholes is None else o + peepholes[2] * c)
    if record is not None:
        record(i=i, f=f, o=o, g=g)
    return o * output(c), c
