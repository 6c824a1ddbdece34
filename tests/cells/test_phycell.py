"""The physical cell against its equations in NumPy, and the moments of its filters."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate
from torch.testing import assert_close

from convlstm import PhyCell
from convlstm.cells import GRUState


def convolved(x, weight, bias):
    """A frame (C, *S) convolved with (O, C, *kernel), zeros outside."""
    padded = np.pad(x, [(0, 0), *((k // 2, k // 2) for k in weight.shape[2:])])
    result = np.stack([correlate(padded, w, "valid", "direct")[0] for w in weight])
    return result + bias.reshape(-1, *(1,) * (x.ndim - 1))


def normalised(y, groups, weight, bias):
    result = np.empty_like(y)
    for part in np.split(np.arange(len(y)), groups):
        result[part] = (y[part] - y[part].mean()) / np.sqrt(y[part].var() + 1e-5)
    shape = (-1, *(1,) * (y.ndim - 1))
    return result * weight.reshape(shape) + bias.reshape(shape)


def phycell(x, h, w, groups):
    """Equations 4 to 8 for one frame."""
    if "embed.weight" in w:
        x = convolved(x, w["embed.weight"], w["embed.bias"])
    derivatives = convolved(h, w["derivatives.weight"], w["derivatives.bias"])
    derivatives = normalised(derivatives, groups, w["norm.weight"], w["norm.bias"])
    predicted = h + convolved(derivatives, w["combine.weight"], w["combine.bias"])
    gain = convolved(x, w["gain_x.weight"], w["gain_x.bias"])
    gain = 1 / (1 + np.exp(-gain - convolved(h, w["gain_h.weight"], 0 * w["gain_x.bias"])))
    return predicted + gain * (x - predicted)


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 3),
    hidden=st.integers(1, 3),
    kernel=st.sampled_from([(3,), (3, 3), (3, 5), (3, 1, 3)]),
    bias=st.booleans(),
    size=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_two_steps_are_those_of_the_equations(channels, hidden, kernel, bias, size):
    torch.manual_seed(0)
    cell = PhyCell(channels, hidden, kernel, bias).double()
    with torch.no_grad():
        for parameter in cell.norm.parameters():
            parameter.normal_()
    w = {name: tensor.detach().numpy() for name, tensor in cell.named_parameters()}
    for name in ("embed", "derivatives", "combine", "gain_x"):
        if f"{name}.weight" in w:
            w.setdefault(f"{name}.bias", np.zeros(len(w[f"{name}.weight"])))
    size = size[: len(kernel)]
    frames = torch.randn(2, 2, channels, *size, dtype=torch.float64)
    expected = np.random.default_rng(0).normal(size=(2, hidden, *size))
    state = GRUState(torch.from_numpy(expected))
    for frame in frames:
        state = cell(frame, state)
        expected = np.stack(
            [phycell(x, h, w, math.prod(kernel[1:])) for x, h in zip(frame.numpy(), expected, strict=True)]
        )
        assert_close(state.h, torch.from_numpy(expected))


def test_golden_values():
    """A prediction of 0.9 more, from nine normalised derivatives of 1, and a gain of a quarter."""
    cell = PhyCell(1, 1, 3)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.norm.bias.fill_(1)
        cell.combine.weight.fill_(0.1)
        cell.gain_x.bias.fill_(-math.log(3))
    frame, state = torch.arange(4.0).view(1, 1, 2, 2), GRUState(torch.ones(1, 1, 2, 2))
    assert_close(cell(frame, state).h.flatten(), torch.tensor([1.425, 1.675, 1.925, 2.175]))


def derivative_filters(size):
    """One filter for each pair of orders of a derivative, by the Taylor expansion: (size^2, size, size)."""
    offset = np.arange(size) - (size - 1) // 2
    powers = np.stack([offset.astype(float) ** i / math.factorial(i) for i in range(size)])
    one_axis = np.linalg.inv(powers).T  # row a sums to 1 with offset^a / a! and to 0 with other powers
    return np.einsum("au,bv->abuv", one_axis, one_axis).reshape(-1, size, size)


def test_filters_of_derivatives_have_no_moment_loss():
    """And they are: on a polynomial the filter of orders (1, 2) gives that derivative."""
    filters = derivative_filters(5)
    cell = PhyCell(2, 2, 5).double()
    with torch.no_grad():
        cell.derivatives.weight.copy_(torch.from_numpy(filters)[:, None].expand(-1, 2, -1, -1))
    assert cell.moment_loss() < 1e-20
    rows, columns = np.mgrid[:7, :7] - 3.0
    found = correlate(rows**3 * columns**2, filters[1 * 5 + 2], "valid")
    np.testing.assert_allclose(found, (3 * rows**2 * 2)[2:-2, 2:-2], atol=1e-9)


def test_a_moment_that_is_off_is_squared_and_averaged():
    """One moment of one filter off by 3 in one of two channels: 9 over 81 moments of 9 filters."""
    cell = PhyCell(2, 2, 3).double()
    filters = torch.from_numpy(derivative_filters(3))[:, None].repeat(1, 2, 1, 1)
    filters[4, 1] += 3 * filters[7, 1]
    with torch.no_grad():
        cell.derivatives.weight.copy_(filters)
    assert_close(cell.moment_loss(), torch.tensor(9 / 81, dtype=torch.float64))
