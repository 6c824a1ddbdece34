"""The causal LSTM and the gradient highway unit against loops written from their equations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from convlstm import CausalLSTMCell, ConvLSTM, GHUCell
from convlstm.errors import OptionError, ShapeError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv(weight, x):
    """Cross-correlation of x (C, *S) with zeros beyond the border."""
    return np.stack(
        [sum(correlate(a, w, mode="constant") for a, w in zip(x, kernels, strict=True)) for kernels in weight]
    )


def weights_of(cell):
    return {name.split(".")[0]: p.detach().numpy() for name, p in cell.named_parameters() if "weight" in name}


def biases_of(cell, gates, axes):
    bias = cell.conv_x.bias
    values = np.zeros(gates * cell.hidden_dim) if bias is None else bias.detach().numpy()
    return values.reshape(gates, cell.hidden_dim, *[1] * axes)


def reference_step(cell, x, h, c, m, c_of_gates):
    """One step of one sample, gate by gate, each with weights of its own."""
    w, b = weights_of(cell), cell.forget_bias
    x_i, x_f, x_g, x_i2, x_f2, x_g2, x_o = np.split(w["conv_x"], 7)
    h_i, h_f, h_g, h_o = np.split(w["conv_h"], 4)
    c_i, c_f, c_g = np.split(w["conv_c"], 3)
    m_i, m_f, m_m = np.split(w["conv_m"], 3)
    n_i, n_g, n_f, n_o = np.split(w["conv_c2m"], 4)
    b_i, b_f, b_g, b_i2, b_f2, b_g2, b_o = biases_of(cell, 7, x.ndim - 1)
    i = sigmoid(conv(x_i, x) + conv(h_i, h) + conv(c_i, c_of_gates) + b_i)
    f = sigmoid(conv(x_f, x) + conv(h_f, h) + conv(c_f, c_of_gates) + b_f + b)
    g = np.tanh(conv(x_g, x) + conv(h_g, h) + conv(c_g, c_of_gates) + b_g)
    c = f * c + i * g
    i2 = sigmoid(conv(x_i2, x) + conv(n_i, c) + conv(m_i, m) + b_i2)
    f2 = sigmoid(conv(x_f2, x) + conv(n_f, c) + conv(m_f, m) + b_f2 + b)
    g2 = np.tanh(conv(x_g2, x) + conv(n_g, c) + b_g2)
    m = f2 * np.tanh(conv(m_m, m)) + i2 * g2
    o = np.tanh(conv(x_o, x) + conv(h_o, h) + conv(n_o, c) + conv(w["conv_om"], m) + b_o)
    return o * np.tanh(conv(w["conv_last"], np.concatenate([c, m]))), c, m


SIZES = {
    "inputs": st.integers(1, 3),
    "hidden": st.integers(1, 3),
    "shape": st.lists(st.tuples(st.sampled_from([1, 3, 5]), st.integers(1, 4)), min_size=1, max_size=3),
    "bias": st.booleans(),
    "seed": st.integers(0, 99),
}


@settings(max_examples=25, deadline=None)
@given(**SIZES, forget_bias=st.floats(-1, 1), bug=st.sampled_from([None, "memory"]))
def test_a_causal_lstm_equals_the_equations_in_plain_loops(
    inputs, hidden, shape, bias, seed, forget_bias, bug
):
    torch.manual_seed(seed)
    kernel, size = zip(*shape, strict=True)
    cell = CausalLSTMCell(inputs, hidden, kernel, bias, forget_bias=forget_bias, published_bug=bug).double()
    x = torch.randn(2, inputs, *size, dtype=torch.float64)
    h, c, m = torch.randn(3, 2, hidden, *size, dtype=torch.float64)
    state, memory = cell(x, (h, c), m)
    for sample in range(2):
        tensors = [t[sample].numpy() for t in (x, h, c, m)]
        expected = reference_step(cell, *tensors, tensors[3 if bug else 2])
        for ours, theirs in zip((*state, memory), expected, strict=True):
            np.testing.assert_allclose(ours[sample].detach(), theirs, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(**SIZES)
def test_a_gradient_highway_unit_equals_the_equations_in_plain_loops(inputs, hidden, shape, bias, seed):
    torch.manual_seed(seed)
    kernel, size = zip(*shape, strict=True)
    cell = GHUCell(inputs, hidden, kernel, bias).double()
    with torch.no_grad():  # the initial weights would make all candidates almost zero
        for parameter in cell.parameters():
            parameter.normal_()
    x = torch.randn(2, inputs, *size, dtype=torch.float64)
    z = torch.randn(2, hidden, *size, dtype=torch.float64)
    (new,) = cell(x, (z,))
    weights = weights_of(cell)
    x_p, x_u = np.split(weights["conv_x"], 2)
    z_p, z_u = np.split(weights["conv_h"], 2)
    b_p, b_u = biases_of(cell, 2, len(size))
    for sample in range(2):
        a, b = x[sample].numpy(), z[sample].numpy()
        u = sigmoid(conv(x_u, a) + conv(z_u, b) + b_u)
        expected = u * np.tanh(conv(x_p, a) + conv(z_p, b) + b_p) + (1 - u) * b
        np.testing.assert_allclose(new[sample].detach(), expected, rtol=0, atol=1e-12)


def test_golden_values_of_constant_weights():
    """All weights 0.1 and frames 0 1 / 2 3, whose 3x3 sums are 6 everywhere, from zero memories."""
    x = torch.arange(4.0, dtype=torch.float64).view(1, 1, 2, 2)
    cells = CausalLSTMCell(1, 1, 3, bias=False).double(), GHUCell(1, 1, 3, bias=False).double()
    with torch.no_grad():
        for cell in cells:
            for weight in cell.parameters():
                weight.fill_(0.1)
    (h, c), m = cells[0](x)
    # c' = sigmoid(.6) tanh(.6), m' = sigmoid(a) tanh(a) of a = .6 + .4 c', and
    # h' = tanh(.6 + .4 c' + .4 m') tanh(.1 (c' + m'))
    golden = {"h": 0.055513821173, "c": 0.346749439688, "m": 0.42521770997}
    for ours, theirs in zip((h, c, m), golden.values(), strict=True):
        torch.testing.assert_close(ours, torch.full_like(x, theirs), rtol=0, atol=1e-9)
    (z,) = cells[1](x)
    torch.testing.assert_close(
        z, torch.full_like(x, 0.346749439688), rtol=0, atol=1e-9
    )  # sigmoid(.6) tanh(.6)


def test_the_gradient_highway_starts_with_the_weights_of_the_authors():
    cell = GHUCell(8, 8, 3)
    for conv_ in (cell.conv_x, cell.conv_h):
        assert 0.00099 < conv_.weight.abs().max() < 0.001


def test_arguments_that_it_cannot_take():
    with pytest.raises(OptionError, match="kernel_size must be odd"):
        CausalLSTMCell(1, 2, (3, 2))
    with pytest.raises(OptionError, match="published_bug must be one of memory; received 'cell'"):
        CausalLSTMCell(1, 2, 3, published_bug="cell")


def test_layers_of_different_widths_are_refused():
    layers = ConvLSTM(1, [3, 4], 3, batch_first=True, cell=CausalLSTMCell)
    with pytest.raises(ShapeError, match="must have hidden_dim=4 channels; received 3: give all layers"):
        layers(torch.zeros(1, 2, 1, 5, 5))
