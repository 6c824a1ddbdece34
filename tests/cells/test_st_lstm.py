"""The ST-LSTM cell against a loop written from its equations, and numbers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from convlstm import ConvLSTM, STLSTMCell
from convlstm.errors import OptionError, ShapeError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv(weight, x):
    """Cross-correlation of x (C, *S) with zeros beyond the border."""
    return np.stack(
        [sum(correlate(a, w, mode="constant") for a, w in zip(x, kernels, strict=True)) for kernels in weight]
    )


def reference_step(cell, x, h, c, m):
    """One step of one sample, gate by gate, each with weights of its own."""
    w = {name.split(".")[0]: p.detach().numpy() for name, p in cell.named_parameters() if "weight" in name}
    x_i, x_f, x_g, x_i2, x_f2, x_g2, x_o = np.split(w["conv_x"], 7)
    h_i, h_f, h_g, h_o = np.split(w["conv_h"], 4)
    m_i, m_f, m_g = np.split(w["conv_m"], 3)
    bias = np.zeros(7 * len(h)) if cell.conv_x.bias is None else cell.conv_x.bias.detach().numpy()
    b_i, b_f, b_g, b_i2, b_f2, b_g2, b_o = bias.reshape(7, len(h), *[1] * (x.ndim - 1))
    g = np.tanh(conv(x_g, x) + conv(h_g, h) + b_g)
    i = sigmoid(conv(x_i, x) + conv(h_i, h) + b_i)
    f = sigmoid(conv(x_f, x) + conv(h_f, h) + b_f + cell.forget_bias)
    c = f * c + i * g
    g2 = np.tanh(conv(x_g2, x) + conv(m_g, m) + b_g2)
    i2 = sigmoid(conv(x_i2, x) + conv(m_i, m) + b_i2)
    f2 = sigmoid(conv(x_f2, x) + conv(m_f, m) + b_f2 + cell.forget_bias)
    m = f2 * m + i2 * g2
    both = np.concatenate([c, m])
    o = sigmoid(conv(x_o, x) + conv(h_o, h) + conv(w["conv_o"], both) + b_o)
    return o * np.tanh(conv(w["conv_last"], both)), c, m, i * g, i2 * g2


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 3),
    hidden=st.integers(1, 3),
    shape=st.lists(st.tuples(st.sampled_from([1, 3, 5]), st.integers(1, 4)), min_size=1, max_size=3),
    bias=st.booleans(),
    forget_bias=st.floats(-1, 1),
    seed=st.integers(0, 99),
)
def test_equals_the_equations_in_plain_loops(inputs, hidden, shape, bias, forget_bias, seed):
    torch.manual_seed(seed)
    kernel, size = zip(*shape, strict=True)
    cell = STLSTMCell(inputs, hidden, kernel, bias, forget_bias=forget_bias).double()
    x = torch.randn(2, inputs, *size, dtype=torch.float64)
    h, c, m = torch.randn(3, 2, hidden, *size, dtype=torch.float64)
    state, memory, added = cell.update(cell.project(x), (h, c), m)
    called, risen = cell(x, (h, c), m)
    for b in range(2):
        expected = reference_step(cell, *(t[b].numpy() for t in (x, h, c, m)))
        for ours, theirs in zip((*state, memory, *added), expected, strict=True):
            np.testing.assert_allclose(ours[b].detach(), theirs, rtol=0, atol=1e-12)
        for ours, theirs in zip((*called, risen), expected[:3], strict=True):
            np.testing.assert_allclose(ours[b].detach(), theirs, rtol=0, atol=1e-12)


def test_golden_values_of_constant_weights():
    """All weights 0.1 and frames 0 1 / 2 3, whose 3x3 sums are 6 everywhere: every gate's sum is 0.6."""
    cell = STLSTMCell(1, 1, 3, bias=False).double()
    with torch.no_grad():
        for weight in cell.parameters():
            weight.fill_(0.1)
    x = torch.arange(4.0, dtype=torch.float64).view(1, 1, 2, 2)
    (h, c), m = cell(x)
    torch.testing.assert_close(
        c, torch.full_like(x, 0.346749439688), rtol=0, atol=1e-9
    )  # sigmoid(.6) tanh(.6)
    torch.testing.assert_close(m, c, rtol=0, atol=0)
    # sigmoid(.6 + .1 * 4 * 2c) tanh(.1 * 2c)
    torch.testing.assert_close(h, torch.full_like(x, 0.0489022788302), rtol=0, atol=1e-9)
    (h, c), m = cell(x, (h, c), m)
    i = sigmoid(0.6 + 0.4 * 0.0489022788302)
    f = sigmoid(1.6 + 0.4 * 0.0489022788302)
    torch.testing.assert_close(
        c, torch.full_like(x, f * 0.346749439688 + i * np.tanh(0.6 + 0.4 * 0.0489022788302))
    )
    f = sigmoid(1.6 + 0.4 * 0.346749439688)
    i = sigmoid(0.6 + 0.4 * 0.346749439688)
    torch.testing.assert_close(
        m, torch.full_like(x, f * 0.346749439688 + i * np.tanh(0.6 + 0.4 * 0.346749439688))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2, 4), r"kernel_size must be odd, .* received \(4, 4\): use 3 or 5"),
        ((1, 2, 3, "no"), "bias must be True or False; received 'no'"),
    ],
)
def test_arguments_that_it_cannot_take(arguments, message):
    with pytest.raises(OptionError, match=message):
        STLSTMCell(*arguments)


def test_layers_of_different_widths_are_refused():
    layers = ConvLSTM(1, [3, 4], 3, batch_first=True, cell=STLSTMCell)
    with pytest.raises(ShapeError, match="must have hidden_dim=4 channels; received 3: give all layers"):
        layers(torch.zeros(1, 2, 1, 5, 5))
