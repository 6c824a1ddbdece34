"""Minimal convolutional GRU and LSTM: their equations, the authors' code, and coefficients of one's own."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from convlstm import ConvLSTM, LinearCell, MinConvGRUCell, MinConvLSTMCell
from convlstm.cells import LinearState
from convlstm.errors import OptionError, ShapeError

MinConvExpLSTMCell = partial(MinConvLSTMCell, exponential_gates=True)
CELLS = {"gru": MinConvGRUCell, "lstm": MinConvLSTMCell, "exp_lstm": MinConvExpLSTMCell}


def convolved(x, weight, bias):
    """Cross-correlation of a frame (C, H, W) with one gate's weights (D, C, K, L) and bias (D,), in NumPy."""
    _, height, width = x.shape
    rows, columns = weight.shape[2:]
    padded = np.pad(x, ((0, 0), ((rows - 1) // 2, rows // 2), ((columns - 1) // 2, columns // 2)))
    y = np.zeros((len(weight), height, width))
    for i in range(rows):
        for j in range(columns):
            y += np.einsum("dc,chw->dhw", weight[:, :, i, j], padded[:, i : i + height, j : j + width])
    return y + bias[:, None, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def positive(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def equation(name, gates, h):
    """The new state of the papers' step from the pre-activations of the gates, one by one."""
    if name == "gru":
        z, n = gates
        return (1 - sigmoid(z)) * h + sigmoid(z) * positive(n)
    f, i, n = gates
    f, i = (np.exp(f), np.exp(i)) if name == "exp_lstm" else (sigmoid(f), sigmoid(i))
    return f / (f + i) * h + i / (f + i) * positive(n)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(list(CELLS)),
    bias=st.booleans(),
    kernel=st.tuples(*[st.sampled_from([1, 3])] * 2),
    size=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    steps=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_a_layer_is_the_papers_equations(name, bias, kernel, size, channels, steps, seed):
    inputs, hidden = channels
    torch.manual_seed(seed)
    layer = ConvLSTM(inputs, hidden, kernel, 1, True, bias, cell=CELLS[name]).double()
    x, h = torch.randn(2, steps, inputs, *size).double(), torch.randn(2, hidden, *size).double()
    (y,), _ = layer(x, [LinearState(h)])
    conv = layer.cell_list[0].conv
    weights = conv.weight.detach().numpy().reshape(-1, hidden, inputs, *kernel)
    biases = conv.bias.detach().numpy() if bias else np.zeros(len(weights) * hidden)
    for b in range(2):
        state = h[b].numpy()
        for t in range(steps):
            frame = x[b, t].numpy()
            gates = [convolved(frame, w, c) for w, c in zip(weights, biases.reshape(-1, hidden), strict=True)]
            state = equation(name, gates, state)
            assert_close(y[b, t], torch.from_numpy(state), rtol=1e-11, atol=1e-11)


# What the authors' code gives, https://github.com/AdaptiveAILab/minconvrnns at 2458af6, its MinConvGRUCell,
# MinConvLSTMCell and MinConvExpLSTMCell in float64 with the weights and frames of the test: from the initial
# state of their parallel form, 0.5, and in their step by step form from 0; the last number is a sum of all.
AUTHORS = {
    ("gru", 0.5): (0.4719815755, 4.1266339107, 0.791351911, 1567.3810716525),
    ("gru", 0.0): (0.0033753522, 4.1263475211, 0.7912829913, 1530.8720393356),
    ("lstm", 0.5): (0.3133279666, 5.4448916678, 1.7983160943, 1414.7983970226),
    ("lstm", 0.0): (0.0439595124, 5.4021872976, 1.7235344333, 1341.0220085809),
    ("exp_lstm", 0.5): (0.3142918432, 5.8867849197, 2.2021284199, 1636.9538852855),
    ("exp_lstm", 0.0): (0.0437325285, 5.8549025714, 2.0096232281, 1553.8122936809),
}


@pytest.mark.parametrize(("name", "start"), AUTHORS)
def test_the_authors_code_gives_the_same(name, start):
    x = torch.cos(0.7 * torch.arange(2 * 5 * 3 * 4 * 5).double()).view(2, 5, 3, 4, 5)
    layer = ConvLSTM(3, 3, 3, batch_first=True, cell=CELLS[name]).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.arange(parameter.numel()).double().sin().view(parameter.shape))
    (y,), _ = layer(x, [LinearState(torch.full((2, 3, 4, 5), start).double())])
    found = y[0, 0, 0, 0, 0], y[1, 2, 1, 1, 2], y[1, 4, 2, 3, 4], y.sum()
    assert_close(
        torch.stack(found), torch.tensor(AUTHORS[name, start], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


GOLDEN = {
    "gru": (0.7102219368, 1.0374856497, 1.2186138523),
    "lstm": (0.55, 0.875, 1.0875),
    "exp_lstm": (0.55, 0.875, 1.0875),
}


@pytest.mark.parametrize(("name", "golden"), GOLDEN.items())
def test_golden_values(name, golden):
    """A 1x1 kernel of weight 0.1 and bias 0.1 over a pixel with the values 5, 6 and 7."""
    layer = ConvLSTM(1, 1, 1, batch_first=True, cell=CELLS[name]).double()
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.1)
    (y,), _ = layer(torch.arange(5.0, 8.0).double().view(1, 3, 1, 1, 1))
    assert_close(y.flatten(), torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_scan_by_logarithms_gives_the_same():
    """Heinsen 2023, arXiv:2311.06281, as both papers use it: a sum of logarithms and a log-sum-exp."""
    torch.manual_seed(0)
    gates, h = torch.randn(7, 4, 3, 3).double(), torch.rand(2, 3, 3).double() + 0.1
    z, n = gates.chunk(2, dim=1)
    log_a, log_b = (
        nn.functional.logsigmoid(-z),
        nn.functional.logsigmoid(z) + torch.where(n >= 0, n.clamp(min=0) + 0.5, n.sigmoid()).log(),
    )
    total = log_a.cumsum(0)
    values = torch.cat([h.log()[None], log_b - total]).logcumsumexp(0)[1:]
    cell = MinConvGRUCell(4, 2, 1, bias=False).double()
    cell.conv.weight.data.copy_(torch.eye(4).view(4, 4, 1, 1))
    state = LinearState(h[None])
    for t, expected in enumerate((total + values).exp()):
        state = cell(gates[t : t + 1], state)
        assert_close(state.h[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("far", [200.0, -200.0])
def test_gates_far_out_stay_finite_and_sum_to_one(name, far):
    """In float32, where both sigmoids of an LSTM's gates are zero."""
    cell = CELLS[name](1, 2, 1)
    nn.init.constant_(cell.conv.weight, far)
    nn.init.zeros_(cell.conv.bias)
    x = torch.ones(1, 1, 2, 2).requires_grad_()
    a, b = cell.coefficients(x)
    candidate = far + 0.5 if far > 0 else 0.0
    expected = {"gru": float(far < 0)}.get(name, 0.5)
    assert_close(a, torch.full_like(a, expected))
    assert_close(b, torch.full_like(b, (1 - expected) * candidate))
    assert torch.autograd.grad(a.sum() + b.sum(), x)[0].isfinite().all()


class Wrong(LinearCell):
    """Returns what it is given."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True, *, pair=None):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.pair = pair

    def coefficients(self, x):
        return self.pair(x)


@pytest.mark.parametrize(
    ("pair", "error", "message"),
    [
        (lambda x: x, OptionError, r"two tensors, a and b; the Wrong's returned a tensor: return a, b"),
        (
            lambda x: (x, 1.0),
            OptionError,
            r"two tensors, a and b; the Wrong's returned a tuple that holds a float: fill a tensor",
        ),
        (
            lambda x: (x[:1, :, :1, :1], x),
            ShapeError,
            r"both be \(N, hidden_dim=2, \*S\); the Wrong's returned \(1, 2, 1, 1\) and \(\d+, 2, 4, 4\): e",
        ),
        (lambda x: (x[:, :1], x[:, :1]), ShapeError, r"hidden_dim=2, \*S\); the Wrong's returned .*: expand"),
    ],
)
def test_other_coefficients_are_refused_in_a_sentence(pair, error, message):
    layer = ConvLSTM(2, 2, 3, batch_first=True, cell=partial(Wrong, pair=pair))
    for steps in (1, 3):
        with pytest.raises(error, match=f"coefficients must .*{message}"):
            layer(torch.zeros(2, steps, 2, 4, 4))
