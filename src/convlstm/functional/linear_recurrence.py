"""Recurrences that are linear in their state, h_t = a_t h_{t-1} + b_t: their scan, and coefficients."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import ShapeError
from convlstm.validation import check_tensor


def linear_scan(a: Tensor, b: Tensor, h: Tensor, *, forget: bool = False) -> Tensor:
    """All states of h_t = a_t h_{t-1} + b_t by a parallel scan (Blelloch 1990, CMU-CS-90-190).

    Cost and memory are linear in T, the depth is that of log T. The gradient is the reversed recurrence, by
    the same scan, of any order.

    Args:
        a: (B, T, ...).
        b: (B, T, ...), of the same shape and dtype.
        h: (B, ...), the state before the first step.
        forget: True to make a state b where a is 0, even after an infinite or NaN one, whose product with 0
            is NaN.

    Returns:
        The states after each step, (B, T, ...).

    Raises:
        ShapeError: other shapes, or no step.
    """
    for name, tensor in (("a", a), ("b", b), ("h", h)):
        check_tensor(tensor, name)
    if a.shape != b.shape or h.shape != (*b.shape[:1], *b.shape[2:]) or not b.shape[1]:
        shapes = f"{tuple(a.shape)}, {tuple(b.shape)} and {tuple(h.shape)}"
        raise ShapeError(
            f"a and b must be (B, T, ...) with T at least 1, and h (B, ...); received {shapes}: give all the "
            "same axes but that of time"
        )
    if torch.compiler.is_compiling():  # torch 2.7 warns of a Function that it traces
        return _states(a, b, h, forget)
    states: Tensor = _LinearScan.apply(a, b, h, forget)  # type: ignore[no-untyped-call]
    return states


class _LinearScan(torch.autograd.Function):
    """See `linear_scan`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h: Tensor, forget: bool) -> Tensor:
        states = _states(a, b, h, forget)
        ctx.save_for_backward(a, h, states)
        ctx.forget = forget
        return states

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        a, h, states = ctx.saved_tensors
        next_a = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
        # The gradient of each state: g_t = d_t + a_{t+1} g_{t+1}.
        g = linear_scan(next_a.flip(1), d.flip(1), torch.zeros_like(h), forget=ctx.forget).flip(1)
        return g * torch.cat([h[:, None], states[:, :-1]], dim=1), g, a[:, 0] * g[:, 0], None


def _states(a: Tensor, b: Tensor, h: Tensor, forget: bool) -> Tensor:
    """The states after each step, from the one before."""
    return _scan(a, torch.cat([_after(a[:, :1], b[:, :1], h[:, None], forget), b[:, 1:]], dim=1), forget)


def _after(a: Tensor, b: Tensor, h: Tensor, forget: bool) -> Tensor:
    """The state a h + b; with ``forget`` b alone where a is 0."""
    new = torch.addcmul(b, a, h)
    return torch.where(a == 0, b, new) if forget else new


def _scan(a: Tensor, b: Tensor, forget: bool) -> Tensor:
    """The states from zero: steps are joined in pairs, whose states are those of every second step."""
    steps = b.shape[1]
    if steps == 1:
        return b
    even, odd = slice(0, steps // 2 * 2, 2), slice(1, None, 2)
    both = a[:, odd] * a[:, even]
    both = torch.where(a[:, odd] == 0, 0, both) if forget else both
    pairs = _scan(both, _after(a[:, odd], b[:, odd], b[:, even], forget), forget)
    states = torch.empty_like(b)
    states[:, 0], states[:, odd] = b[:, 0], pairs
    between = pairs.narrow(1, 0, (steps - 1) // 2)
    states[:, 2::2] = _after(a[:, 2::2], b[:, 2::2], between, forget)
    return states


def split_coefficients(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients a and b, each (N, C, *S), of both joined, (N, 2C, *S), in at least 32 bits."""
    a, b = widened(coefficients).chunk(2, dim=1)
    return a, b


def min_gru(gates: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of a minimal GRU, h' = (1 - z) h + z g(n) with z = sigmoid(gate).

    In at least 32 bits: in 16, a state that is kept for hundreds of steps would be kept for ever.

    Args:
        gates: pre-activations of z and n, (N, 2C, *S).

    Returns:
        a and b, each (N, C, *S).
    """
    z, n = widened(gates).chunk(2, dim=1)
    return torch.sigmoid(-z), torch.sigmoid(z) * positive(n)


def min_lstm(gates: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of a minimal LSTM, h' = (f h + i g(n)) / (f + i) with f and i sigmoids.

    f / (f + i) is computed by the logarithms of f and i, where both may be too small for their dtype.

    Args:
        gates: pre-activations of f, i and n, (N, 3C, *S).

    Returns:
        a and b, each (N, C, *S), in at least 32 bits.
    """
    f, i, n = widened(gates).chunk(3, dim=1)
    return _normalised(F.logsigmoid(f) - F.logsigmoid(i), n)


def min_exp_lstm(gates: Tensor) -> tuple[Tensor, Tensor]:
    """As `min_lstm`, with exponentials in place of the sigmoids of f and i."""
    f, i, n = widened(gates).chunk(3, dim=1)
    return _normalised(f - i, n)


def _normalised(log_ratio: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients f / (f + i) and i / (f + i) g(n) from log(f / i)."""
    return torch.sigmoid(log_ratio), torch.sigmoid(-log_ratio) * positive(n)


def positive(x: Tensor) -> Tensor:
    """g(x) = x + 0.5 from zero on, sigmoid(x) below: continuous and positive (Feng et al. 2024, B.3)."""
    return torch.relu(x) + torch.sigmoid(x.clamp(max=0))


def widened(x: Tensor) -> Tensor:
    """In float32 if it has 16 bits."""
    return x.float() if x.itemsize < 4 else x


#: Rules by name: coefficients a and b, each (N, C, *S), from planes (N, planes C, *S).
RULES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "affine": split_coefficients,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "min_exp_lstm": min_exp_lstm,
}
#: The number of planes that each takes.
PLANES = {"affine": 2, "min_gru": 2, "min_lstm": 3, "min_exp_lstm": 3}
