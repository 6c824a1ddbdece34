"""Attention between pixels, of a frame or of windows of it, and the self-attention memory of a ConvLSTM."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import ShapeError
from convlstm.functional.linear_recurrence import widened
from convlstm.validation import autocast, check_tensor


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    record: Callable[[Tensor], None] | None = None,
    *,
    empty: Tensor | None = None,
) -> Tensor:
    """Dot-product attention without scaling (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819).

    The softmax is computed in blocks of queries, and again in the backward pass rather than saved, unless it
    is small. With ``record``, inside torch.compile and inside a transform of torch.func it is computed whole
    and saved.

    Args:
        query: (B, D, N).
        key: (B, D, M).
        value: (B, C, M).
        record: called with the softmax, (B, N, M).
        empty: True for keys without a weight, (B, 1, M); None for none.

    Returns:
        ``value softmax(query^T key)^T``, the softmax over M: (B, C, N).

    Raises:
        ShapeError: other shapes.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        check_tensor(tensor, f"{name} (B, channels, pixels)")
    in_space = query.ndim == key.ndim == value.ndim == 3
    if not in_space or query.shape[:2] != key.shape[:2] or key.shape[::2] != value.shape[::2]:
        shapes = f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        raise ShapeError(
            f"query, key and value must be (B, D, N), (B, D, M) and (B, C, M); received {shapes}: flatten "
            "the space axes"
        )
    if autocast(query):  # here, as the backward pass runs without it
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (x if x.dtype == torch.float64 else x.to(dtype) for x in (query, key, value))
    if record or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        weights_BNM = _attention_weights(query, key, empty)
        if record:
            record(weights_BNM)
        return _weighted(weights_BNM, value)
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if not differentiated or _is_small(query, key, value):
        return _attended(query, key, value, empty)
    attended: Tensor = _Attention.apply(query, key, value, empty)  # type: ignore[no-untyped-call]
    return attended


def _attended(query: Tensor, key: Tensor, value: Tensor, empty: Tensor | None) -> Tensor:
    """Attention of all queries, computed in blocks of them."""
    rows = _rows(key)
    blocks = (query,) if query.shape[2] <= rows else torch.split(query, rows, dim=2)
    found = [_weighted(_attention_weights(q, key, empty), value) for q in blocks]
    return found[0] if len(found) == 1 else torch.cat(found, dim=2)


class _Attention(torch.autograd.Function):
    """See `attend`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, empty: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, key, value, empty)
        return _attended(query, key, value, empty)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, empty = ctx.saved_tensors
        softmax_backward = torch.ops.aten._softmax_backward_data  # it can be differentiated again
        d_queries, rows = [], _rows(key)
        d_key, d_value = (widened(torch.zeros_like(x)) for x in (key, value))
        blocks = (torch.split(x, rows, dim=2) for x in (query, d))
        for q, d_q in zip(*blocks, strict=True):
            weights = _attention_weights(q, key, empty)
            d_scores = softmax_backward(d_q.transpose(1, 2) @ value, weights, 2, weights.dtype)
            d_queries.append(_weighted(d_scores, key))
            d_key += q @ d_scores
            d_value += d_q @ weights
        return torch.cat(d_queries, dim=2), d_key.to(key.dtype), d_value.to(value.dtype), None


#: Elements of the softmax that are in memory at once: as many as the caches of a CPU hold (four times as many
#: took 5 to 40 % longer there), and more elsewhere.
_BLOCK, _BLOCK_ELSEWHERE = 2**19, 2**21
_LEAST_ROWS = 16  # below, products of matrices are slow
#: A softmax of one block is saved if it has at most so many times the elements of query, key and value:
#: without, training of SA-ConvLSTM on 8 x 8 pixels takes 5 % longer, on 16 x 16 no longer. A larger one never
#: is: saved, training of E3D-LSTM takes 2 to 10 % less time, and three times the memory.
_SAVED = 8


def _rows(key: Tensor) -> int:
    """Queries whose softmax over keys (B, D, M) is computed at once."""
    block = _BLOCK if key.device.type == "cpu" else _BLOCK_ELSEWHERE
    return max(_LEAST_ROWS, block // max(1, key.shape[0] * key.shape[2]))


def _is_small(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """True if the whole softmax is one block, and not much larger than what it is made of."""
    elements = query.shape[0] * query.shape[2] * key.shape[2]
    operands = query.numel() + key.numel() + value.numel()
    return query.shape[2] <= _rows(key) and elements <= _SAVED * operands


def _attention_weights(query: Tensor, key: Tensor, empty: Tensor | None) -> Tensor:
    """The softmax of `attend`, (B, N, M)."""
    scores_BNM = query.transpose(1, 2) @ key
    if empty is not None:
        scores_BNM = scores_BNM.masked_fill_(empty, -torch.inf)
    return torch.softmax(scores_BNM, dim=2).to(query.dtype)


def _weighted(weights_BNM: Tensor, value: Tensor) -> Tensor:
    """The weighted sums of a value (B, C, M), (B, C, N).

    In this order, as the gradient of the weights is then a product in their own layout; a transposed one
    takes up to four times as long.
    """
    return (weights_BNM @ value.transpose(1, 2)).transpose(1, 2)


def window_attention(
    qkv: Tensor,
    window: int,
    *,
    heads: int = 1,
    shift: int = 0,
    bias: Tensor | None = None,
    record: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Scaled dot-product attention within square windows of a frame (Liu et al. 2021, arXiv:2103.14030).

    A frame of any size is padded to whole windows, and no pixel attends to the padding. With a shift the
    windows begin that many pixels further down and to the right, those at the end of an axis go on at its
    beginning, and pixels that are no neighbours in the frame do not attend to each other.

    Args:
        qkv: queries, keys and values, (B, 3 C, H, W).
        window: pixels a side.
        heads: of C / heads channels each.
        shift: pixels, below ``window``.
        bias: (heads, window^2, window^2), added to the scores of each query (rows) and key; None for none.
        record: called with the softmax, (B, rows, columns, heads, window^2, window^2), the last two axes a
            query and a key of a window.

    Returns:
        (B, C, H, W).

    Raises:
        ShapeError: channels that heads and three parts do not divide, or a bias of another shape.
    """
    check_tensor(qkv, "qkv (B, 3 C, H, W)")
    if qkv.ndim != 4 or qkv.shape[1] % (3 * heads):
        raise ShapeError(
            f"qkv must be (B, 3 C, H, W) with C a multiple of {heads} heads; received {tuple(qkv.shape)}: "
            "choose channels that heads divide"
        )
    if bias is not None and tuple(bias.shape) != (heads, window**2, window**2):
        raise ShapeError(
            f"bias must be {(heads, window**2, window**2)}; received {tuple(bias.shape)}: give a number for "
            "each head, query and key"
        )
    size = qkv.shape[2:]
    windows = to_windows(qkv.movedim(1, -1), window, shift)
    found = attend_in_windows(windows, size, heads=heads, shift=shift, bias=bias, record=record)
    return from_windows(found, size, shift).movedim(-1, 1)


def attend_in_windows(
    qkv: Tensor,
    size: Sequence[int],
    *,
    heads: int,
    shift: int,
    bias: Tensor | None,
    record: Callable[[Tensor], None] | None,
) -> Tensor:
    """`window_attention`, with windows as `to_windows` arranges them.

    Args:
        qkv: queries, keys and values, (B, rows, columns, window, window, 3 C).
        size: H and W of the frame.
        heads: as there.
        shift: as there.
        bias: as there.
        record: as there.

    Returns:
        (B, rows, columns, window, window, C).
    """
    (_, rows, columns, window, _), width = qkv.shape[:5], qkv.shape[5] // (3 * heads)
    pixels = window**2
    split_NPAHD = qkv.reshape(-1, pixels, 3, heads, width)
    query, key, value = split_NPAHD.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2).unbind(0)
    scores = torch.bmm(query, key.transpose(1, 2)).view(-1, rows, columns, heads, pixels, pixels)
    apart = _pixels_apart(size, window, shift, qkv.device)
    if apart is not None:
        bias = (scores.new_zeros(()) if bias is None else bias).masked_fill(apart, -math.inf)
    scores = scores * width**-0.5 if bias is None else torch.add(bias, scores, alpha=width**-0.5)
    weights = torch.softmax(scores, dim=-1)
    if record is not None:
        record(weights)
    found_NHPD = torch.bmm(weights.view(-1, pixels, pixels), value).view(-1, heads, pixels, width)
    return found_NHPD.transpose(1, 2).reshape(-1, rows, columns, window, window, heads * width)


def to_windows(x: Tensor, window: int, shift: int = 0) -> Tensor:
    """A frame (B, H, W, C), padded to whole windows, as (B, rows, columns, window, window, C)."""
    batch, height, width, channels = x.shape
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    if height % window or width % window:
        x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
    x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
    return x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)


def from_windows(x: Tensor, size: Sequence[int], shift: int = 0) -> Tensor:
    """The frame (B, H, W, C) of a size that `to_windows` has cut."""
    batch, rows, columns, window, _, channels = x.shape
    x = x.transpose(2, 3).reshape(batch, rows * window, columns * window, channels)
    return (torch.roll(x, (shift, shift), (1, 2)) if shift else x)[:, : size[0], : size[1]]


def window_maps(weights: Tensor, window: int, *, shift: int, size: Sequence[int]) -> Tensor:
    """Weights of `window_attention` as maps: each pixel's by a query of the window that it is in.

    Args:
        weights: (B, rows, columns, heads, window^2, window^2).
        window: pixels a side.
        shift: of the windows, in pixels.
        size: H and W of the frame.

    Returns:
        (B, heads window^2, H, W), a channel for each head and place of the query in its window.
    """
    by_key = torch.unflatten(weights.flatten(3, 4).transpose(-2, -1), 3, (window, window))
    return from_windows(by_key, size, shift).movedim(-1, 1)


def _pixels_apart(size: Sequence[int], window: int, shift: int, device: torch.device) -> Tensor | None:
    """True where query and key are no neighbours in the frame or one is padding; None if there are none.

    (rows, columns, 1, window^2, window^2), to broadcast with scores of several heads.
    """
    if not shift and all(length % window == 0 for length in size):
        return None
    row, column = (_sides(length, window, shift, device) for length in size)
    side_RCP = (3 * row[:, None, :, None] + column[:, None]).flatten(2)
    return (side_RCP[..., :, None] != side_RCP[..., None, :]).unsqueeze(2)


def _sides(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """For the pixels of a shifted axis, (windows, window): 0; 1 from its other end; 2 in the padding."""
    count = (size + window - 1) // window
    index = torch.arange(count * window, device=device).view(count, window)
    side = (index >= count * window - shift).long()
    if size % window:
        side = torch.where((index + shift) % (count * window) < size, side, 2)
    return side


def sa_memory_update(
    gates: Tensor, m: Tensor, record: Callable[..., None] | None = None
) -> tuple[Tensor, Tensor]:
    """Update a self-attention memory (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819, equation 6).

    With the gates stacked in the order i, g, o::

        m' = (1 - sigmoid(i)) m + sigmoid(i) tanh(g)
        h' = sigmoid(o) m'

    Args:
        gates: pre-activations, (B, 3C, N).
        m: (B, C, N).
        record: called with the values of the gates, i, g and o, by name.

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
    i, g, o = torch.sigmoid(i), torch.tanh(g), torch.sigmoid(o)
    if record is not None:
        record(i=i, g=g, o=o)
    m = (1 - i) * m + i * g
    return o * m, m
