"""SA-ConvLSTM against its equations in plain loops, golden numbers, and numbers of public code.

Those of tsugumi-sys/SA-ConvLSTM-Pytorch were made with SAMConvLSTMCell at f207344, float64, on weights and
frames of the formulas below.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate
from torch.testing import assert_close

from convlstm import SAConvLSTMCell
from convlstm.cells import sa_convlstm_weights
from convlstm.errors import OptionError

SHAPES = {
    "convlstm_cell.conv": (12, 5, 3, 3),
    "attention_memory.query_h": (2, 3, 1, 1),
    "attention_memory.key_h": (2, 3, 1, 1),
    "attention_memory.value_h": (3, 3, 1, 1),
    "attention_memory.z_h": (3, 3, 1, 1),
    "attention_memory.key_m": (2, 3, 1, 1),
    "attention_memory.value_m": (3, 3, 1, 1),
    "attention_memory.z_m": (3, 3, 1, 1),
    "attention_memory.w_z": (6, 6, 1, 1),
    "attention_memory.w": (9, 9, 1, 1),
}
#: h, c and m after two frames, four values of each and the sum of squares.
NUMBERS = {
    "tanh": [
        ([0.0326575237061, -0.028523569668, 0.0306813973327, -0.0154023649527], 0.076901413907),
        ([-0.178654458899, 0.255792000764, -0.13702944388, 0.118552598337], 5.68450712049),
        ([0.066235647294, -0.0657572756414, 0.0624704266778, -0.0342230704526], 0.391781616046),
    ],
    "relu": [
        ([0.00887684483236, -0.030662511997, 0.00887787510744, -0.017697848085], 0.0692035485414),
        ([0, 0.265245646995, 0, 0.123908245937], 4.4775447565),
        ([0.0186720215348, -0.0709825068193, 0.0186741458429, -0.0394812709535], 0.377426302605),
    ],
}


def formula(name, shape):
    wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + sum(map(ord, name)))
    if len(shape) > 1:
        return wave.view(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.1 * wave + name.endswith("weight")


def public_weights(prefix=""):
    shapes = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()}
    shapes |= {f"convlstm_cell.W_c{gate}": (3, 4, 5) for gate in "ifo"}
    return {prefix + name: formula(name, shape) for name, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, w):
    """ConvLSTM of Lin et al., equation 1, with peepholes: x (C, H, W), h and c (hidden, H, W)."""
    kernel, entering = w["lstm.conv.weight"], np.concatenate([x, h])
    rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
    padded = np.pad(entering, [(0, 0), (rows, rows), (columns, columns)])
    gates = np.stack([correlate(padded, k, "valid", "direct")[0] for k in kernel])
    gates += w.get("lstm.conv.bias", np.zeros(len(kernel)))[:, None, None]
    i, f, o, g = np.split(gates, 4)
    w_i, w_f, w_o = w.get("lstm.peephole_weight", np.zeros((3, len(h), 1, 1)))
    c = sigmoid(f + w_f * c) * c + sigmoid(i + w_i * c) * np.tanh(g)
    return sigmoid(o + w_o * c) * np.tanh(c), c


def attended(query, key, value):
    """For each pixel, the values (C, pixels) of all pixels weighed by the softmax of q k."""
    found = np.zeros((len(value), query.shape[1]))
    for a in range(query.shape[1]):
        scores = np.array([query[:, a] @ key[:, b] for b in range(key.shape[1])])
        weights = np.exp(scores - scores.max())
        for b in range(key.shape[1]):
            found[:, a] += weights[b] / weights.sum() * value[:, b]
    return found


def memory_module(h, m, w):
    """Equations 2 to 6, of h and m (hidden, H, W); every map is 1x1."""

    def mapped(name, x):
        return w[f"{name}.weight"][:, :, 0] @ x + w[f"{name}.bias"][:, None]

    size, h, m = h.shape, h.reshape(len(h), -1), m.reshape(len(m), -1)
    query = mapped("query", h)
    of_h = attended(query, mapped("key", h), mapped("value", h))
    of_m = attended(query, mapped("key_m", m), mapped("value_m", m))
    z = mapped("mix", np.concatenate([of_h, of_m]))
    i, g, o = np.split(mapped("gates", np.concatenate([z, h])), 3)
    m = (1 - sigmoid(i)) * m + sigmoid(i) * np.tanh(g)
    return (sigmoid(o) * m).reshape(size), m.reshape(size)


@settings(max_examples=15, deadline=None)
@given(
    inputs=st.integers(1, 3),
    hidden=st.integers(1, 4),
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 5)]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    bias=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "attention_dim": st.integers(1, 3),
            "mix_dim": st.integers(1, 5),
            "peephole": st.just("channel"),
        },
    ),
)
def test_two_steps_are_those_of_the_equations(inputs, hidden, kernel, size, bias, options):
    torch.manual_seed(0)
    cell = SAConvLSTMCell(inputs, hidden, kernel, bias, **options).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    w = {name: tensor.detach().numpy() for name, tensor in cell.named_parameters()}
    x = torch.randn(2, 2, inputs, *size, dtype=torch.float64)
    state = cell(x[:, 1], cell(x[:, 0]))
    for b in range(2):
        h, c, m = np.zeros((3, hidden, *size))
        for t in range(2):
            h, c = lstm(x[b, t].numpy(), h, c, w)
            h, m = memory_module(h, m, w)
        for tensor, expected in zip(state, (h, c, m), strict=True):
            np.testing.assert_allclose(tensor[b].detach(), expected, rtol=0, atol=1e-12)


def test_golden_numbers():
    """All weights 0.5, no biases, one channel of one pixel, x = 1: both attentions give the value itself."""
    cell = SAConvLSTMCell(1, 1, 1).double()
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.fill_(0.5 * name.endswith("weight"))
    h, c, m = (tensor.item() for tensor in cell(torch.ones(1, 1, 1, 1, dtype=torch.float64)))
    assert c == pytest.approx(0.2876491366, abs=1e-10)  # sigmoid(0.5) tanh(0.5)
    # h = sigmoid(0.5) tanh(c) = 0.1742697187, z = 0.5 * 0.5 h, gates = 0.5 (z + h) = 0.625 h
    assert m == pytest.approx(0.0571961736, abs=1e-10)  # sigmoid(0.625 h) tanh(0.625 h)
    assert h == pytest.approx(0.0301539803, abs=1e-10)  # sigmoid(0.625 h) m


@pytest.mark.parametrize("activation", NUMBERS)
def test_a_cell_gives_the_numbers_of_the_public_code(activation):
    options = {"candidate_activation": activation, "output_activation": activation}
    cell = SAConvLSTMCell(
        2, 3, 3, attention_dim=2, mix_dim=6, peephole="pixel", image_size=(4, 5), **options
    ).double()
    weights = public_weights("sequential.sam-convlstm1.sam_convlstm_cell.")
    cell.load_state_dict(sa_convlstm_weights(weights))
    frames = torch.sin(0.3 * torch.arange(160, dtype=torch.float64)).view(2, 2, 2, 4, 5) / 2 + 0.5
    state = None
    for frame in frames:
        state = cell(frame, state)
    for tensor, (values, squares) in zip(state, NUMBERS[activation], strict=True):
        expected = torch.tensor(values, dtype=torch.float64)
        assert_close(tensor.flatten()[::30], expected, rtol=1e-10, atol=1e-12)
        assert_close(tensor.square().sum().item(), squares, rtol=1e-10, atol=0)


def test_without_peepholes_as_saved_on_a_gpu():
    weights = {name: w for name, w in public_weights().items() if "W_c" not in name}
    converted = sa_convlstm_weights(weights)
    SAConvLSTMCell(2, 3, 3, attention_dim=2, mix_dim=6).double().load_state_dict(converted)
    assert not any("peephole" in name for name in converted)


def test_other_weights_are_refused():
    with pytest.raises(OptionError, match=r"one cell of SA-ConvLSTM-Pytorch, .* received 0 of them: pass"):
        sa_convlstm_weights({"conv.weight": torch.zeros(1)})
    with pytest.raises(OptionError, match="received 2 of them"):
        sa_convlstm_weights(public_weights("a.") | public_weights("b."))
    with pytest.raises(OptionError, match="weights must be a state dict; received None: pass one"):
        sa_convlstm_weights(None)
    part = {"convlstm_cell.conv.weight": torch.zeros(12, 5, 3, 3)}
    with pytest.raises(OptionError, match="must be those of a whole cell .* received 1, .* 'conv.bias'"):
        sa_convlstm_weights(part)
