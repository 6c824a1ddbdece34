"""The memory in memory and MIM against the paper's equations, golden numbers and numbers of public code."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convlstm import MIM, ConvLSTM, MIMCell
from convlstm.cells import MIMNCell, MIMSCell
from convlstm.errors import OptionError, ShapeError

#: What OpenSTL's code gave, for the test below.
OPENSTL = [
    0.0005776829132827469,
    0.013525631958413368,
    0.004253842930963049,
    -0.0014329177339681733,
    0.003574875625605323,
    0.007011095306486661,
    0.0019350721965755626,
    0.006254925905029681,
    -0.000649622393992793,
]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def filled(module):
    """The module in float64, each weight a sine."""
    module.double().eval()
    with torch.no_grad():
        for k, (_, tensor) in enumerate(sorted(module.state_dict().items())):
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) + k)
            tensor.copy_(0.4 * wave.view_as(tensor))
    return module


def waves(*shape):
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def gate(weights, name, number, gates, x, part=slice(None)):
    """One gate's part from x (B, C, H, W): its rows of a stacked kernel, over a part of its channels."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    rows = slice(len(weight) // gates * number, len(weight) // gates * (number + 1))
    kernel = weight[rows, part]
    return F.conv2d(x, kernel, None if bias is None else bias[rows], padding=kernel.shape[-1] // 2)


def module(weights, name, x, h, c, forget):
    """An LSTM with peepholes, gate by gate."""
    i, g, f, o = (
        gate(weights, f"{name}conv_x", k, 4, x) + gate(weights, f"{name}conv_h", k, 4, h) for k in range(4)
    )
    w_i, w_f, w_o = weights[f"{name}peephole"]
    c = c / (1 + torch.exp(-f - w_f * c - forget)) + torch.tanh(g) / (1 + torch.exp(-i - w_i * c))
    return torch.tanh(c) / (1 + torch.exp(-o - w_o * c)), c


def by_the_equations(weights, frames, hidden, forget):
    """The fields h, c, d, n, s and the memory m after each frame (B, C, H, W); nothing of the library."""
    zero = frames[0].new_zeros(len(frames[0]), hidden, *frames[0].shape[2:])
    h = c = d = n = s = m = zero
    before, after = frames[0], []  # no change at the first step
    for x in frames:
        d, n = module(weights, "non_stationary.lstm.", x - before, d, n, forget)
        t, s = module(weights, "stationary.", d, c, s, forget)
        i, g, f, o = (gate(weights, "conv_x", k, 4, x) for k in range(4))
        i_h, g_h, o_h = (gate(weights, "conv_h", k, 3, h) for k in range(3))
        i_m, g_m, f_m, o_m = (gate(weights, "conv_m", k, 4, m) for k in range(4))
        c = t + torch.sigmoid(i + i_h) * torch.tanh(g + g_h)
        m = torch.sigmoid(f + f_m + forget) * m + torch.sigmoid(i + i_m) * torch.tanh(g + g_m)
        read = gate(weights, "conv_last", 0, 1, c, slice(hidden))
        read = read + gate(weights, "conv_last", 0, 1, m, slice(hidden, None))
        h = torch.sigmoid(o + o_h + o_m) * torch.tanh(read)
        before = x
        after.append((h, c, d, n, s, m))
    return after


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 3),
    hidden=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    bias=st.booleans(),
    forget=st.sampled_from([0.0, 1.0, 2.5]),
    steps=st.integers(1, 4),
)
def test_it_follows_the_equations(inputs, hidden, kernel, size, bias, forget, steps):
    cell = filled(MIMCell(inputs, hidden, kernel, bias, forget_bias=forget))
    frames, state, memory = waves(steps, 2, inputs, *size), None, None
    for x, expected in zip(frames, by_the_equations(cell.state_dict(), frames, hidden, forget), strict=True):
        state, memory = cell(x, state, memory)
        assert_close((*state[:5], memory), expected)
        assert torch.equal(state.x, x)


def test_the_modules_are_cells():
    """The stationary one on a sequence, and the other one on its differences."""
    stationary, changes = filled(MIMSCell(2, 3, 3)), filled(MIMNCell(2, 3, 3))
    frames, a, b = waves(3, 1, 2, 4, 5), None, None
    zeros = frames.new_zeros(1, 3, 4, 5)
    expected, before = (zeros, zeros), frames[0]
    for x in frames:
        a, b = stationary(x - before, a), changes(x, b)
        expected, before = module(stationary.state_dict(), "", x - before, *expected, 1.0), x
        assert_close(tuple(a), expected)
        assert_close(tuple(b[:2]), expected)


def test_golden_numbers():
    """All weights 0.1, and the frames 0 ... 5 and 6 ... 11."""
    cell = MIMCell(1, 1, 3).double()
    for tensor in cell.state_dict().values():
        tensor.fill_(0.1)
    frames = torch.arange(12.0, dtype=torch.float64).view(2, 1, 1, 2, 3)
    state, memory = cell(frames[1], *cell(frames[0]))
    golden = {
        "h": [0.2573912005, 0.303011071, 0.2785495376],
        "c": [1.2343129937, 1.3779755377, 1.2607766823],
        "d": [0.6948159514, 0.756144002, 0.6948159514],
        "n": [0.9639686199, 1.027087457, 0.9639686199],
        "s": [0.4300080028, 0.5826477922, 0.4492568939],
    }
    for name, values in golden.items():
        assert_close(getattr(state, name).flatten(), f64(values * 2), rtol=0, atol=1e-9)
    expected = f64([1.4745862899, 1.7620471722, 1.6537308543] * 2)
    assert_close(memory.flatten(), expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_two_layers_give_the_numbers_of_openstl():
    """chengtan9907/OpenSTL c74deb5, openstl.models.MIM_Model(2, [2, 2]), patch_size=2, 3 frames after 3.

    It had the weights of this model, each peephole repeated over all pixels. Its second call on the same
    frames differed by 2e-3.
    """
    model = filled(MIM(1, [2, 2], 3, 2))
    past = waves(2, 3, 1, 4, 6)
    for _ in range(2):
        assert_close(model(past, 3).flatten()[::17], f64(OPENSTL), rtol=0, atol=1e-14)


def test_the_published_model_is_the_default():
    """38.04 M parameters in OpenSTL, with peepholes of 16 x 16 pixels and three convolutions never used."""
    per_pixel, unused = 6 * 3 * 128 * (16 * 16 - 1), 3 * 256 * 128
    ours = sum(p.numel() for p in MIM().parameters())
    assert ours + per_pixel + unused == pytest.approx(38.04e6, abs=5e3)


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="hidden_dim must hold the same number for each layer"):
        MIM(hidden_dim=[2, 3])
    with pytest.raises(ShapeError, match="the spatiotemporal memory must have hidden_dim=3 channels"):
        ConvLSTM(1, [2, 3], 3, batch_first=True, cell=MIMCell)(torch.rand(1, 2, 1, 4, 4))
