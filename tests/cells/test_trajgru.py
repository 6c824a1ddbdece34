"""The trajectory GRU against its equations in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.signal import correlate
from torch.testing import assert_close

from convlstm import ConvGRUCell, TrajGRUCell
from convlstm.cells import GRUState
from convlstm.errors import OptionError


def convolved(x, weight, bias):
    """Frames (C, H, W) convolved with (O, C, k, k), zeros outside."""
    reach = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    return np.stack([correlate(padded, w, "valid", "direct")[0] for w in weight]) + bias[:, None, None]


def warped(x, flow):
    rows, columns = np.mgrid[: x.shape[1], : x.shape[2]]
    at = [rows + flow[0], columns + flow[1]]
    return np.stack([map_coordinates(channel, at, order=1, mode="grid-constant") for channel in x])


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def trajgru(x, h, w, links):
    """One step of equations 4 and 5 on one frame, with a weight for each gate."""
    q = leaky(convolved(x, w["xq"], w["q"]) + convolved(h, w["hq"], 0 * w["q"]))
    flows = convolved(q, w["flow"], w["f"])
    at_links = [warped(h, -flows[2 * k : 2 * k + 2]) for k in range(links)]
    part = {}
    for gate in "rzn":
        part[gate] = sum(np.tensordot(w["h" + gate][:, k], at_links[k], axes=1) for k in range(links)) + w[
            "b" + gate
        ].reshape(-1, 1, 1)
    r = sigmoid(convolved(x, w["xr"], w["r"]) + part["r"])
    z = sigmoid(convolved(x, w["xz"], w["z"]) + part["z"])
    n = leaky(convolved(x, w["xn"], w["n"]) + r * part["n"])
    return z * h + (1 - z) * n


def separate(cell):
    """The cell's weights, one for each gate and link."""
    state = {name: tensor.detach().numpy() for name, tensor in cell.state_dict().items()}
    zero = np.zeros(1)
    w = {"xq": state["flow_x.weight"], "hq": state["flow_h.weight"], "flow": state["flow.weight"]}
    w["q"] = state.get("flow_x.bias", np.zeros(cell.flow_dim))
    w["f"] = state.get("flow.bias", np.zeros(2 * cell.links))
    for k, gate in enumerate("rzn"):
        own = slice(k * cell.hidden_dim, (k + 1) * cell.hidden_dim)
        w["x" + gate] = state["conv_x.weight"][own]
        w[gate] = state["conv_x.bias"][own] if cell.conv_x.bias is not None else zero.repeat(cell.hidden_dim)
        mixed = state["conv_h.weight"][own].reshape(cell.hidden_dim, cell.hidden_dim, cell.links)
        w["h" + gate] = mixed.transpose(0, 2, 1)
        w["b" + gate] = state["conv_h.bias"][own] if cell.conv_h.bias is not None else zero
    return w


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 2),
    hidden=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    links=st.integers(1, 3),
    bias=st.booleans(),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_three_steps_are_those_of_the_equations(channels, hidden, kernel, links, bias, size):
    torch.manual_seed(0)
    cell = TrajGRUCell(channels, hidden, kernel, bias, links=links, flow_dim=2).double()
    with torch.no_grad():
        cell.flow.weight.mul_(8)  # flows of more than a pixel
    frames, state = torch.randn(3, 2, channels, *size, dtype=torch.float64), None
    expected = np.zeros((2, hidden, *size))
    for frame in frames:
        state = cell(frame, state)
        expected = np.stack(
            [trajgru(x, h, separate(cell), links) for x, h in zip(frame.numpy(), expected, strict=True)]
        )
        assert_close(state.h, torch.from_numpy(expected))


def test_golden_values():
    """Weights of 0.1; one link reads half a row further down, the other one column further left."""
    cell = TrajGRUCell(1, 1, 1, links=2, flow_dim=1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(0.1)
        cell.flow.weight.zero_()
        cell.flow.bias.copy_(torch.tensor([-0.5, 0.0, 0.0, 1.0]))
    ramp = torch.arange(6.0).view(1, 1, 3, 2)
    (h,) = cell(torch.ones(1, 1, 3, 2), GRUState(ramp))
    # At the first pixel the links read 1 and 0: r = z = sigmoid(0.2 + 0.2), n = 0.2 + 0.2 r.
    assert_close(h[0, 0, 0, 0], torch.tensor(0.2 * (1 - 0.598688) * (1 + 0.598688)), rtol=1e-5, atol=0)
    expected = [0.128315, 0.768469, 1.453695, 2.334509, 2.635847, 3.812184]
    assert_close(h.flatten(), torch.tensor(expected), rtol=1e-5, atol=0)


def test_without_flow_it_is_a_gru():
    """All links end where they begin: a ConvGRU with a recurrent kernel of 1, but for the leaky candidate."""
    torch.manual_seed(0)
    cell = TrajGRUCell(2, 3, 3, links=1).double()
    gru = ConvGRUCell(2, 3, 3, candidate_activation=torch.nn.functional.leaky_relu).double()
    with torch.no_grad():
        cell.flow.weight.zero_()
        cell.flow.bias.zero_()
        cell.conv_x.weight.abs_()  # the candidate stays positive, where slopes do not matter
        cell.conv_h.weight.abs_()
        cell.conv_x.bias.fill_(0.5)
        cell.conv_h.bias.zero_()
        gru.conv.weight.zero_()
        gru.conv.weight[:, :2] = cell.conv_x.weight
        gru.conv.weight[:, 2:, 1:2, 1:2] = cell.conv_h.weight
        gru.conv.bias.fill_(0.5)
    x, h = torch.rand(2, 2, 2, 5, 4, dtype=torch.float64)[0], torch.rand(2, 3, 5, 4, dtype=torch.float64)
    assert_close(cell(x, GRUState(h)), gru(x, GRUState(h)))


def test_it_has_the_published_number_of_parameters():
    """HKO-7's cell has one bias more in its flow network, of which only the sum matters."""
    channels, n, links = 4, 6, 13
    published = 3 * n * (9 * channels + 1) + 3 * n * (links * n + 1)
    published += 32 * (25 * channels + 25 * n + 2) + 2 * links * (800 + 1)
    assert sum(p.numel() for p in TrajGRUCell(channels, n, 3).parameters()) == published - 32


def test_one_space_axis_is_refused():
    with pytest.raises(OptionError, match=r"two space axes; received kernel_size=\(3,\): use a ConvGRUCell"):
        TrajGRUCell(2, 3, (3,))
