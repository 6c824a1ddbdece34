"""The ConvLSTM cell against its equations in plain loops, numbers worked out by hand, and its contract."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm.cells import Cell, ConvLSTMCell, LSTMState
from convlstm.errors import OptionError, ShapeError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference_step(x, h, c, weight, bias):
    """One step pixel by pixel in float64: x (C, H, W), h and c (hidden, H, W), gates i, f, o, g."""
    hidden, height, width = h.shape
    entering = np.concatenate([x, h])
    _, channels, rows, columns = weight.shape
    # Zero padding to the same size puts the larger half of an even kernel's border behind.
    top, left = (rows - 1) // 2, (columns - 1) // 2
    gates = np.zeros((4 * hidden, height, width))
    for gate in range(4 * hidden):
        for y in range(height):
            for z in range(width):
                total = bias[gate]
                for k in range(channels):
                    for dy in range(rows):
                        for dz in range(columns):
                            yy, zz = y + dy - top, z + dz - left
                            if 0 <= yy < height and 0 <= zz < width:
                                total += weight[gate, k, dy, dz] * entering[k, yy, zz]
                gates[gate, y, z] = total
    i, f, o, g = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@settings(max_examples=15, deadline=None)
@given(
    inputs=st.integers(1, 3),
    hidden=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_equals_the_equations_in_plain_loops(inputs, hidden, kernel, size, seed):
    torch.manual_seed(seed)
    cell = ConvLSTMCell(inputs, hidden, kernel).double()
    x = torch.randn(2, inputs, *size, dtype=torch.float64)
    h, c = torch.randn(2, 2, hidden, *size, dtype=torch.float64)
    new = cell(x, (h, c))
    weight, bias = cell.conv.weight.detach().numpy(), cell.conv.bias.detach().numpy()
    for b in range(2):
        expected_h, expected_c = reference_step(x[b].numpy(), h[b].numpy(), c[b].numpy(), weight, bias)
        np.testing.assert_allclose(new.h[b].detach(), expected_h, rtol=0, atol=1e-12)
        np.testing.assert_allclose(new.c[b].detach(), expected_c, rtol=0, atol=1e-12)


def test_gates_are_in_the_order_i_f_o_g():
    """With a bias on one gate only and no weights, each gate's role shows in numbers worked out by hand."""
    cell = ConvLSTMCell(1, 1, 1)
    x, state = torch.zeros(1, 1, 1, 1), LSTMState(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    expected = {  # (h, c) from c = 1, all other gates' sums 0: sigmoid 0.5, tanh 0
        0: (0.5 * np.tanh(0.5), 0.5),
        1: (0.5 * np.tanh(sigmoid(2.0)), sigmoid(2.0)),
        2: (sigmoid(2.0) * np.tanh(0.5), 0.5),
        3: (0.5 * np.tanh(0.5 + 0.5 * np.tanh(2.0)), 0.5 + 0.5 * np.tanh(2.0)),
    }
    for gate, (h, c) in expected.items():
        with torch.no_grad():
            cell.conv.weight.zero_()
            cell.conv.bias.zero_()
            cell.conv.bias[gate] = 2.0
        new = cell(x, state)
        assert new.h.item() == pytest.approx(h, abs=1e-7)
        assert new.c.item() == pytest.approx(c, abs=1e-7)


def test_golden_values_of_constant_weights_and_arange_input():
    cell = ConvLSTMCell(1, 1, 3)
    with torch.no_grad():
        cell.conv.weight.fill_(0.1)
        cell.conv.bias.zero_()
    h, c = cell(torch.arange(9.0).view(1, 1, 3, 3) / 10)
    sums = np.array(
        [[0.08, 0.15, 0.12], [0.21, 0.36, 0.27], [0.20, 0.33, 0.24]]
    )  # of the 3 x 3 neighbours / 10
    expected_c = sigmoid(sums) * np.tanh(sums)
    np.testing.assert_allclose(c[0, 0].detach(), expected_c, atol=1e-6)
    np.testing.assert_allclose(h[0, 0].detach(), sigmoid(sums) * np.tanh(expected_c), atol=1e-6)


def test_forget_bias_is_added_to_the_forget_gate_alone():
    torch.manual_seed(3)
    plain = ConvLSTMCell(2, 4, 3)
    torch.manual_seed(3)
    raised = ConvLSTMCell(2, 4, 3, forget_bias=1.5)
    difference = raised.conv.bias - plain.conv.bias
    assert torch.allclose(difference[4:8], torch.tensor(1.5))
    assert not difference[:4].any()
    assert not difference[8:].any()


def test_any_dtype_and_autocast():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        cell = ConvLSTMCell(2, 3, 3).to(dtype)
        assert cell(torch.zeros(1, 2, 4, 4, dtype=dtype)).h.dtype == dtype
    cell = ConvLSTMCell(2, 3, 3)
    x = torch.rand(1, 2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = cell(x)
    assert state.c.dtype == torch.float32  # the memory must not lose bits from step to step
    torch.testing.assert_close(state.h.float(), cell(x).h, rtol=0, atol=5e-3)


def test_the_originals_keywords_and_init_hidden():
    cell = ConvLSTMCell(input_dim=2, hidden_dim=3, kernel_size=(3, 3), bias=True)
    h, c = cell.init_hidden(4, (5, 6))
    assert h.shape == c.shape == (4, 3, 5, 6)
    x = torch.rand(4, 2, 5, 6)
    torch.testing.assert_close(cell(input_tensor=x, cur_state=[h, c]), cell(x))


def test_bad_input_is_named():
    cell = ConvLSTMCell(2, 3, 3)
    with pytest.raises(ShapeError, match=r"must be \(B, C, H, W\); received shape \(1, 5, 2, 4, 4\)"):
        cell(torch.zeros(1, 5, 2, 4, 4))
    with pytest.raises(ShapeError, match=r"input_dim=2 channels on axis 1 .* received shape \(1, 3, 4, 4\)"):
        cell(torch.zeros(1, 3, 4, 4))
    with pytest.raises(OptionError, match=r"kernel_size must be .* received \(3, 0\)"):
        ConvLSTMCell(2, 3, (3, 0))
    with pytest.raises(OptionError, match="hidden_dim must be at least 1; received 0"):
        ConvLSTMCell(2, 0, 3)
    with pytest.raises(OptionError, match="forget_bias needs bias=True"):
        ConvLSTMCell(2, 3, 3, bias=False, forget_bias=1.0)


def test_the_earlier_word_for_a_spatiotemporal_memory_still_declares_one():
    with pytest.warns(DeprecationWarning, match="climbs was renamed; .* Older that .* spatiotemporal_memory"):

        class Older(Cell):
            climbs = True

    assert Older.spatiotemporal_memory
    assert not Cell.spatiotemporal_memory
