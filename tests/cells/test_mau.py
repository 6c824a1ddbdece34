"""The motion-aware unit and MAU against the paper's equations, golden numbers and numbers of public code."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convlstm import MAU, ConvLSTM, MAUCell
from convlstm.errors import OptionError

#: What OpenSTL's code gave, for the tests below.
OPENSTL = {
    "s": [
        -0.11371414933566779,
        -0.006745753523851261,
        -0.6283442206177369,
        -1.0450437513532465,
        0.28272948917337515,
        -0.0037284633708747628,
        1.1763501233613893,
    ],
    "t": [
        -0.9985651979977191,
        -0.999789038542535,
        0.05786063776771691,
        -0.8482924108413158,
        0.3830503760557814,
        -0.8063212938028497,
        -1.113979901598797,
    ],
    "normal": [
        -0.3973798896469188,
        -0.28951878232730677,
        -0.3363170164730779,
        -0.3653011817042105,
        -0.37380829011877853,
        -0.3363962536008329,
        -0.3441537454882835,
        -0.35651075326565596,
        -0.3713205032578303,
    ],
    "recall": [
        -0.37242993393555873,
        -0.23298962932356473,
        -0.2976247741110863,
        -0.3257128213660151,
        -0.3435416312643965,
        -0.2712766775450671,
        -0.30387646116919864,
        -0.31674151263171685,
        -0.34103452078760055,
    ],
}


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def filled(module):
    """The module in float64 with weights made by a formula: a sine, around 1 for scales of normalisations."""
    module.double().eval()
    with torch.no_grad():
        for k, (name, tensor) in enumerate(sorted(module.state_dict().items())):
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) + k).view_as(tensor)
            tensor.copy_(0.4 * wave + (name.endswith("1.weight") and tensor.ndim == 1))
    return module


def waves(*shape):
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def by_the_equations(weights, frames, hidden, tau):
    """S and T of each step for one sequence of frames (C, H, W), gate by gate; nothing of the library."""

    def normalised(name, x, number, gates):
        """The gate of that number of a normalised convolution: all its gates share mean and variance."""
        weight, bias = weights[f"{name}.0.weight"], weights.get(f"{name}.0.bias")
        y = F.conv2d(x[None], weight, bias, padding=weight.shape[-1] // 2)[0]
        y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
        y = y * weights[f"{name}.1.weight"].view(-1, 1, 1) + weights[f"{name}.1.bias"].view(-1, 1, 1)
        return y[len(y) // gates * number : len(y) // gates * (number + 1)]

    size = frames[0].shape[1:]
    past = [(torch.zeros_like(frames[0]), frames[0].new_zeros(hidden, *size))] * tau
    outputs = []
    for s in frames:
        query = normalised("conv_s_next", s, 0, 1)
        recent = past[-tau:]
        scores = [((query * before).sum() / query.numel() ** 0.5).exp() for before, _ in recent]
        trend = sum(score / sum(scores) * t for score, (_, t) in zip(scores, recent, strict=True))
        u = torch.sigmoid(normalised("conv_t_next", past[-1][1], 0, 1))
        fused = u * past[-1][1] + (1 - u) * trend
        g_t, t_t, t_s = (normalised("conv_t", fused, k, 3) for k in range(3))
        g_s, s_t, s_s = (normalised("conv_s", s, k, 3) for k in range(3))
        t = torch.sigmoid(g_t) * t_t + torch.sigmoid(-g_t) * s_t
        h = torch.sigmoid(g_s) * s_s + torch.sigmoid(-g_s) * t_s
        past.append((s, t))
        outputs.append((h, t))
    return outputs


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 3),
    hidden=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(2, 4), st.integers(1, 4)),
    bias=st.booleans(),
    tau=st.integers(1, 4),
    steps=st.integers(1, 5),
)
def test_it_follows_the_equations(inputs, hidden, kernel, size, bias, tau, steps):
    cell = filled(MAUCell(inputs, hidden, kernel, bias, tau=tau))
    frames, state = waves(2, steps, inputs, *size), None
    expected = [by_the_equations(cell.state_dict(), list(x), hidden, tau) for x in frames]
    for k in range(steps):
        state = cell(frames[:, k], state)
        assert_close(state.h, torch.stack([of_sample[k][0] for of_sample in expected]))
        assert_close(state.t[:, -1], torch.stack([of_sample[k][1] for of_sample in expected]))
        assert_close(state.s[:, -1], frames[:, k])


def test_golden_numbers():
    """All weights 0.1, scales 1, and the frames 0 ... 5 and 6 ... 11."""
    cell = MAUCell(1, 1, 3, tau=2).double()
    for name, tensor in cell.state_dict().items():
        tensor.fill_(1.0 if name.endswith("1.weight") else 0.1)
    frames = torch.arange(12.0, dtype=torch.float64).view(2, 1, 1, 2, 3)
    state = cell(frames[1], cell(frames[0]))
    assert_close(state.h.flatten(), f64([-0.8762202014, 1.1613696615, 0.7144995886] * 2), rtol=0, atol=1e-9)
    assert_close(state.t[0, :, 0, 0, 0], f64([-0.5073835915, -0.8535594604]), rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_cell_gives_the_numbers_of_openstl():
    """chengtan9907/OpenSTL c74deb5, openstl.modules.MAUCell(2, 2, 4, 5, 3, 1, tau=3, "normal").

    Same names of weights; each scale and shift of its normalisations was repeated over all pixels.
    """
    cell, state = filled(MAUCell(2, 2, 3, tau=3)), None
    for frame in waves(2, 4, 2, 4, 5).unbind(1):
        state = cell(frame, state)
    assert_close(state.h.flatten()[::13], f64(OPENSTL["s"]), rtol=0, atol=1e-12)
    assert_close(state.t[:, -1].flatten()[::13], f64(OPENSTL["t"]), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["normal", "recall"])
def test_the_forecaster_gives_the_numbers_of_openstl(mode):
    """openstl.models.MAU_Model(2, [2, 2]), sr_size=4, tau=2, that model_mode; three frames after three."""
    model = filled(MAU(1, [2, 2], 3, tau=2, recall=mode == "recall"))
    forecast = model(waves(2, 3, 1, 8, 12), 3)
    assert_close(forecast.flatten()[::71], f64(OPENSTL[mode]), rtol=0, atol=1e-12)


def test_the_published_model_is_the_default():
    """4.484 M parameters in OpenSTL with normalisations of 16 x 16 pixels and two convolutions never used."""
    model = MAU()
    per_pixel = 4 * 8 * 64 * 2 * (16 * 16 - 1)
    unused = (2 * 64 + 1) * 64 + 3
    assert sum(p.numel() for p in model.parameters()) + per_pixel + unused == pytest.approx(4.484e6, abs=5e2)


def test_recall_needs_maps_that_can_be_added():
    with pytest.raises(OptionError, match="recall needs a first and a last layer of the same hidden_dim"):
        MAU(1, [3, 4], 3, recall=True)


def test_frames_of_one_pixel_are_normalised():
    outputs, _ = ConvLSTM(1, 8, 3, 2, batch_first=True, cell=MAUCell)(torch.rand(1, 2, 1, 1, 1))
    assert outputs[0].isfinite().all()


@torch.no_grad()
def test_autocast_leaves_the_history_as_it_is():
    """A history in which every step is the same is blended to itself, not to its nearest in 16 bits."""
    cell, x = MAUCell(2, 3, 3), torch.rand(1, 2, 5, 5)
    t, s, blended = torch.tensor(1 + 2**-10), torch.rand(1, 5, 2, 5, 5), []
    state = cell.initial_state(x)
    state = state._replace(t=t.expand_as(state.t).contiguous(), s=s)
    cell.conv_t.register_forward_pre_hook(lambda _, inputs: blended.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        cell(x, state)
    assert_close(blended[0], t.expand_as(blended[0]), rtol=1e-6, atol=0)
