"""The stack: the original's interface and numbers, layouts, states, errors."""

import functools

import pytest
import torch

from convlstm import ConvLSTM, ConvLSTMCell
from convlstm.errors import ConvLSTMError, OptionError, ShapeError


def by_hand(layer, x):
    """Every layer's outputs and last state, cell call by cell call; x (B, T, C, H, W)."""
    outputs, states = [], []
    for cell in layer.cell_list:
        state, steps = None, []
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
            steps.append(state.h)
        x = torch.stack(steps, dim=1)
        outputs.append(x)
        states.append(state)
    return outputs, states


def joint_convolution_step(conv, x, h, c):
    """The textbook form: one convolution over [x, h] by the module itself, which the library never calls."""
    i, f, o, g = torch.chunk(conv(torch.cat([x, h], 1)), 4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def test_gives_the_numbers_of_the_textbook_loop():
    torch.manual_seed(0)
    layer = ConvLSTM(2, [5, 3], [(3, 5), (1, 3)], num_layers=2, batch_first=True, return_all_layers=True)
    x = torch.randn(3, 7, 2, 6, 9)
    outputs, states = layer(x)
    for cell, out, state in zip(layer.cell_list, outputs, states, strict=True):
        h = c = torch.zeros(3, cell.hidden_dim, 6, 9)
        for t in range(7):
            h, c = joint_convolution_step(cell.conv, x[:, t], h, c)
            torch.testing.assert_close(out[:, t], h, rtol=0, atol=1e-6)
        torch.testing.assert_close(state.h, h, rtol=0, atol=1e-6)
        torch.testing.assert_close(state.c, c, rtol=0, atol=1e-6)
        x = out


@pytest.mark.parametrize("all_layers", [True, False])
def test_state_dict_has_the_originals_names_and_order(all_layers):
    layer = ConvLSTM(2, 4, (3, 3), 2, return_all_layers=all_layers)
    shapes = {name: tuple(p.shape) for name, p in layer.state_dict().items()}
    assert shapes == {
        "cell_list.0.conv.weight": (16, 6, 3, 3),
        "cell_list.0.conv.bias": (16,),
        "cell_list.1.conv.weight": (16, 8, 3, 3),
        "cell_list.1.conv.bias": (16,),
    }


def test_both_layouts_give_the_same_values_each_in_its_own():
    torch.manual_seed(0)
    first = ConvLSTM(2, 3, 3, 2, batch_first=True)
    second = ConvLSTM(2, 3, 3, 2, batch_first=False)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 5, 2, 4, 6)
    (a,), (state_a,) = first(x)
    (b,), (state_b,) = second(x.transpose(0, 1))
    assert b.shape == (5, 2, 3, 4, 6)
    torch.testing.assert_close(a, b.transpose(0, 1))
    torch.testing.assert_close(tuple(state_a), tuple(state_b))


@pytest.mark.parametrize("length", [1, 2, 12, 37])
def test_any_length_equals_the_cells_by_hand(length):
    layer = ConvLSTM(1, [3, 2], 3, 2, batch_first=True, return_all_layers=True)
    x = torch.randn(2, length, 1, 5, 4)
    outputs, states = layer(x)
    expected, last = by_hand(layer, x)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close([tuple(s) for s in states], [tuple(s) for s in last])


def test_states_of_all_layers_resume_the_sequence():
    layer = ConvLSTM(1, [3, 4, 2], 3, 3, batch_first=True, return_all_layers=True)
    x = torch.randn(2, 9, 1, 5, 4)
    whole, end = layer(x)
    first, state = layer(x[:, :4])
    second, resumed = layer(x[:, 4:], state)
    for a, b, c in zip(whole, first, second, strict=True):
        torch.testing.assert_close(a, torch.cat([b, c], dim=1))
    torch.testing.assert_close([tuple(s) for s in end], [tuple(s) for s in resumed])


@pytest.mark.parametrize(
    ("kernel", "space"), [(3, (7, 5)), ((5,), (9,)), ((3, 1, 3), (4, 3, 5)), ((2, 4), (5, 6))]
)
def test_one_two_and_three_space_axes_and_even_kernels(kernel, space):
    layer = ConvLSTM(2, 3, kernel, 2, batch_first=True)
    outputs, states = layer(torch.zeros(2, 3, 2, *space))
    assert outputs[0].shape == (2, 3, 3, *space)
    assert states[0].c.shape == (2, 3, *space)


def test_causality():
    """Changing a frame changes the outputs from it on, and none before."""
    layer = ConvLSTM(1, 3, 3, 2, batch_first=True)
    x = torch.randn(1, 6, 1, 4, 4)
    (before,), _ = layer(x)
    x[:, 3] += 1
    (after,), _ = layer(x)
    changed = (before != after).flatten(2).any(dim=2)[0]
    assert changed.tolist() == [False, False, False, True, True, True]


def test_every_parameter_gets_a_gradient():
    layer = ConvLSTM(1, [3, 2], 3, 2, batch_first=True)
    outputs, _ = layer(torch.randn(2, 4, 1, 5, 5))
    outputs[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_a_hook_or_an_overridden_forward_runs_step_by_step():
    layer = ConvLSTM(1, 2, 3, 1, batch_first=True)
    seen = []
    layer.cell_list[0].register_forward_hook(lambda cell, inputs, state: seen.append(state))
    (outputs,), _ = layer(torch.randn(1, 4, 1, 5, 5))
    assert [torch.equal(state.h, outputs[:, t]) for t, state in enumerate(seen)] == [True] * 4

    class Halved(ConvLSTMCell):
        def forward(self, input_tensor, cur_state=None):
            state = super().forward(input_tensor, cur_state)
            return state._replace(h=state.h / 2)

    torch.manual_seed(1)
    halved = ConvLSTM(1, 2, 3, 1, batch_first=True, cell=Halved)
    x = torch.randn(1, 4, 1, 5, 5)
    torch.testing.assert_close(halved(x)[0], by_hand(halved, x)[0])


def test_a_cell_factory_reaches_every_layer():
    layer = ConvLSTM(1, 2, 3, 2, cell=functools.partial(ConvLSTMCell, forget_bias=9.0))
    assert all(cell.conv.bias[2:4].min() > 8 for cell in layer.cell_list)


def test_bad_input_is_named():
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True)
    with pytest.raises(
        ShapeError, match=r"must be \(B, T, C, H, W\); received shape \(5, 2, 4, 4\): add the missing"
    ):
        layer(torch.zeros(5, 2, 4, 4))
    with pytest.raises(ShapeError, match=r"input_dim=2 channels on axis 2 of \(B, T, C, H, W\)"):
        layer(torch.zeros(1, 2, 5, 4, 4))
    with pytest.raises(ShapeError, match="at least one frame; received shape"):
        layer(torch.zeros(1, 0, 2, 4, 4))
    with pytest.raises(ShapeError, match=r"one state per layer \(2\); received 1"):
        layer(torch.zeros(1, 1, 2, 4, 4), [None])
    with pytest.raises(OptionError, match=r"hidden_dim must hold one entry per layer \(2\); received \[3\]"):
        ConvLSTM(2, [3], 3, 2)
    with pytest.raises(OptionError, match="num_layers must be at least 1; received 0"):
        ConvLSTM(2, 3, 3, 0)
    assert issubclass(ShapeError, ConvLSTMError)
    assert issubclass(ConvLSTMError, ValueError)
