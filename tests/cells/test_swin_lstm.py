"""The LSTM of Swin Transformer blocks against its equations, pixel by pixel in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from torch.testing import assert_close

from convlstm import SwinLSTMCell
from convlstm.errors import OptionError


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(x, w, window, heads, shift):
    """Each pixel (H, W, C) attends to those in its window, of windows that begin ``shift`` pixels further."""
    height, width, channels = x.shape
    query, key, value = np.split(linear(x, w, "qkv"), 3, axis=-1)
    result, size = np.zeros_like(x), channels // heads
    for i, j, head in np.ndindex(height, width, heads):
        own = slice(head * size, (head + 1) * size)
        scores, values = [], []
        for a, b in np.ndindex(height, width):
            if all((p - shift) // window == (q - shift) // window for p, q in ((i, a), (j, b))):
                place = (i - a + window - 1) * (2 * window - 1) + j - b + window - 1
                score = query[i, j, own] @ key[a, b, own] / np.sqrt(size)
                scores.append(score + w["position_bias"][place, head])
                values.append(value[a, b, own])
        weights = np.exp(np.array(scores) - max(scores))
        result[i, j, own] = weights @ np.array(values) / weights.sum()
    return linear(result, w, "proj")


def block(y, u, w, window, heads, shift):
    x = layer_norm(y, w, "norm1")
    if u is not None:
        x = linear(np.concatenate([x, layer_norm(u, w, "norm1")], axis=-1), w, "red")
    y = y + attention(x, w, window, heads, shift)
    inner = linear(layer_norm(y, w, "norm2"), w, "fc1")
    return y + linear(inner * (1 + erf(inner / np.sqrt(2))) / 2, w, "fc2")


def swin_lstm(x, h, c, blocks, window, heads):
    """Equations 1 to 5 for one frame (H, W, C)."""
    z = block(x, h, blocks[0], window, heads, 0)
    for k, w in enumerate(blocks[1:], start=1):
        odd = k % 2 == 1
        shift = window // 2 if odd and min(x.shape[:2]) > window else 0
        z = block(z, None if odd else x, w, window, heads, shift)
    f = 1 / (1 + np.exp(-z))
    c = f * (c + np.tanh(z))
    return f * np.tanh(c), c


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 4),
    size_of_head=st.integers(1, 2),
    heads=st.integers(1, 2),
    window=st.integers(1, 4),
    depth=st.integers(1, 4),
    bias=st.booleans(),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_two_steps_are_those_of_the_equations(channels, size_of_head, heads, window, depth, bias, size):
    torch.manual_seed(0)
    cell = SwinLSTMCell(channels, heads * size_of_head, window, bias, depth=depth, heads=heads).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(0, 0.7)
    weights = {name: tensor.detach().numpy() for name, tensor in cell.state_dict().items()}
    blocks = [
        {name.removeprefix(own): w for name, w in weights.items() if name.startswith(own)}
        for own in (f"blocks.{k}." for k in range(depth))
    ]
    frames, state = torch.randn(2, 2, channels, *size, dtype=torch.float64), None
    expected = [[np.zeros((*size, cell.hidden_dim))] * 2] * 2
    for frame in frames:
        state = cell(frame, state)
        for b, x in enumerate(frame.numpy()):
            x = x.transpose(1, 2, 0)
            if "embed.weight" in weights:
                x = x @ weights["embed.weight"][:, :, 0, 0].T + weights["embed.bias"]
            expected[b] = swin_lstm(x, *expected[b], blocks, window, heads)
        for tensor, arrays in zip(state, zip(*expected, strict=True), strict=True):
            assert_close(tensor, torch.from_numpy(np.stack(arrays)).movedim(-1, 1))


def test_golden_values():
    """With no weights but the identity of the first addition, z = x."""
    cell = SwinLSTMCell(2, 2, 2)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
    h, c = cell(torch.arange(2.0).view(1, 2, 1, 1))
    assert_close(c.flatten(), torch.tensor([0.0, 0.556775]), rtol=1e-5, atol=0)  # sigmoid(1) tanh(1)
    assert_close(h.flatten(), torch.tensor([0.0, 0.369604]), rtol=1e-5, atol=0)  # sigmoid(1) tanh(c)


def test_one_head_for_32_channels():
    assert SwinLSTMCell(1, 128, 2).heads == 4
    assert SwinLSTMCell(1, 5, 2).heads == 1


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        ((2, 3), {}, r"square windows on two space axes; received kernel_size=\(2, 3\): give one integer"),
        ((3,), {}, r"square windows on two space axes; received kernel_size=\(3,\)"),
        (2, {"heads": 3}, "hidden_dim must be a multiple of heads=3; received 4: give another heads"),
    ],
)
def test_other_sizes_are_refused(kernel, options, message):
    with pytest.raises(OptionError, match=message):
        SwinLSTMCell(2, 4, kernel, **options)
