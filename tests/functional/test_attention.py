"""Attention within windows, against a loop over pairs of pixels."""

import pytest
import torch

from convlstm.errors import ShapeError
from convlstm.functional.attention import window_attention


def place(index, size, window, shift):
    """Window, side of the frame and place in the window of a pixel on one axis, after the shift."""
    moved = (index - shift) % (-(-size // window) * window)
    return moved // window, index < shift, moved % window


def by_pairs(qkv, window, heads, shift, bias):
    """Each pixel looks at those in its window that are on its side of the frame."""
    batch, channels, height, width = qkv.shape
    query, key, value = qkv.view(batch, 3, heads, channels // (3 * heads), height, width).unbind(1)
    out = torch.zeros_like(value)
    where = {
        (i, j): (place(i, height, window, shift), place(j, width, window, shift))
        for i in range(height)
        for j in range(width)
    }
    for i, j in where:
        (row, above, r), (column, left, c) = where[i, j]
        seen = [
            (k, m, s[2] * window + t[2])
            for (k, m), (s, t) in where.items()
            if (s[:2], t[:2]) == ((row, above), (column, left))
        ]
        at = tuple(torch.tensor(axis) for axis in zip(*seen, strict=True))
        scores = torch.einsum("bhd,bhdn->bhn", query[..., i, j], key[..., at[0], at[1]])
        scores = scores / query.shape[2] ** 0.5 + bias[:, r * window + c, at[2]]
        out[..., i, j] = torch.einsum("bhn,bhdn->bhd", scores.softmax(2), value[..., at[0], at[1]])
    return out.flatten(1, 2)


@pytest.mark.parametrize(
    ("size", "window", "heads", "shift"),
    [
        ((4, 4), 2, 1, 0),
        ((5, 7), 3, 2, 0),
        ((5, 7), 3, 2, 1),
        ((6, 6), 3, 1, 2),
        ((2, 9), 4, 2, 2),
        ((1, 1), 4, 1, 1),
    ],
)
def test_pixels_look_at_their_window(size, window, heads, shift):
    torch.manual_seed(0)
    qkv = torch.randn(2, 12, *size, dtype=torch.float64)
    bias = torch.randn(heads, window**2, window**2, dtype=torch.float64)
    found = window_attention(qkv, window, heads=heads, shift=shift, bias=bias)
    torch.testing.assert_close(found, by_pairs(qkv, window, heads, shift, bias))
    without = by_pairs(qkv, window, heads, shift, torch.zeros_like(bias))
    torch.testing.assert_close(window_attention(qkv, window, heads=heads, shift=shift), without)


def test_channels_and_biases_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="C a multiple of 2 heads; received"):
        window_attention(torch.zeros(1, 9, 4, 4), 2, heads=2)
    with pytest.raises(ShapeError, match=r"bias must be \(1, 4, 4\); received \(1, 9, 9\)"):
        window_attention(torch.zeros(1, 9, 4, 4), 2, bias=torch.zeros(1, 9, 9))
