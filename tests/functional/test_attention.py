"""Attention, of all pixels and within windows, against loops over pixels."""

import pytest
import torch
from torch.testing import assert_close

from convlstm import SAConvLSTMForecaster
from convlstm.errors import ShapeError
from convlstm.functional import attention
from convlstm.functional.attention import attend, window_attention
from convlstm.models.memory import CallSizes, inference_bytes, training_bytes


def query_by_query(query, key, value, empty):
    """Each query looks at the keys that are not empty."""
    samples = []
    for q, k, v, left_out in zip(query, key, value, empty, strict=True):
        likeness = [torch.exp(one @ k[:, ~left_out[0]]) for one in q.T]
        samples.append(torch.stack([v[:, ~left_out[0]] @ (x / x.sum()) for x in likeness], dim=1))
    return torch.stack(samples)


def drawn(dtype=torch.float64):
    """Queries, keys and values of two samples, and which keys are empty, others in each sample."""
    torch.manual_seed(0)
    shapes = (2, 3, 5), (2, 3, 7), (2, 4, 7)
    empty = torch.tensor([[[False] * 7], [[True, True, False, True, False, False, False]]])
    return *(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes), empty


@pytest.mark.parametrize(("block", "saved"), [(1, 8), (2 * 7 * 2, 8), (2**22, 0), (2**22, 8)])
def test_attention_is_that_of_each_query(monkeypatch, block, saved):
    """In blocks of one query, of two with one left over, all, and all saved; gradients of both orders too."""
    monkeypatch.setattr(attention, "_BLOCK", block)
    monkeypatch.setattr(attention, "_SAVED", saved)
    monkeypatch.setattr(attention, "_LEAST_ROWS", 1)
    *inputs, empty = drawn()
    for left_out in (empty, None):
        expected = query_by_query(*inputs, torch.zeros_like(empty) if left_out is None else left_out)
        found = attend(*inputs, empty=left_out)
        assert_close(found, expected, rtol=0, atol=1e-14)
        wave = torch.sin(torch.arange(40.0, dtype=torch.float64)).view_as(found)
        gradients = (torch.autograd.grad(y, inputs, wave) for y in (found, expected))
        assert_close(*gradients, rtol=0, atol=1e-14)
        assert torch.autograd.gradgradcheck(lambda *x, e=left_out: attend(*x, empty=e), inputs)


def test_attention_that_is_recorded_compiled_or_transformed_is_the_same():
    *inputs, empty = drawn()
    expected = attend(*inputs, empty=empty)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    weights = []
    recorded = attend(*inputs, weights.append, empty=empty)
    assert_close(recorded, inputs[2] @ weights[0].transpose(1, 2), rtol=0, atol=0)
    compiled = torch.compile(attend, backend="eager", fullgraph=True)(*inputs, empty=empty)
    for found in (recorded, compiled):
        assert_close(found, expected)
        assert_close(torch.autograd.grad(found.square().sum(), inputs), gradients)
    by_func = torch.func.grad(lambda *x: attend(*x, empty=empty).square().sum(), argnums=(0, 1, 2))
    assert_close(by_func(*inputs), gradients)


def test_attention_in_mixed_precision(monkeypatch):
    """The backward pass, outside of autocast, computes in 16 bits as well."""
    *inputs, empty = drawn(torch.float32)
    expected = attend(*inputs, empty=empty)
    gradients = torch.autograd.grad(expected.sum(), inputs)
    monkeypatch.setattr(attention, "_BLOCK", 1)
    monkeypatch.setattr(attention, "_LEAST_ROWS", 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*inputs, empty=empty)
    assert found.dtype == torch.bfloat16
    assert_close(found.float(), expected, rtol=0, atol=0.02)
    assert_close(torch.autograd.grad(found.float().sum(), inputs), gradients, rtol=0, atol=0.03)


def test_gradients_are_summed_over_blocks_in_32_bits(monkeypatch):
    """Ones for each of 600 queries: in bfloat16 they would add up to 256."""
    monkeypatch.setattr(attention, "_BLOCK", 1)
    monkeypatch.setattr(attention, "_LEAST_ROWS", 1)
    value = torch.ones(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    attend(value.new_zeros(1, 1, 600), value.new_zeros(1, 1, 1), value).sum().backward()
    assert value.grad == 600


def test_a_small_softmax_is_saved_and_a_large_one_computed_again():
    """Of 8 and of 96 pixels: 64 numbers beside 72 of query, key and value, 9216 beside 864."""

    def saved(pixels):
        shapes = []
        operands = torch.randn(3, 1, 3, pixels, requires_grad=True).unbind()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: shapes.append(x.shape) or x, lambda x: x):
            attend(*operands)
        return shapes

    assert (1, 8, 8) in saved(8)
    assert set(saved(96)) == {(1, 3, 96)}


def test_memory_of_attention_among_all_pixels_is_not_their_square():
    """A softmax among 96 x 96 pixels is 324 MiB."""
    model, frames = SAConvLSTMForecaster(hidden_dim=[4], patch_size=1), CallSizes((96, 96), 1, 1)
    assert inference_bytes(model, frames) < 2**26
    assert training_bytes(model, frames).most < 2**27


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
