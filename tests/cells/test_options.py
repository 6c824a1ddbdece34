"""Each cell's options, all together, against plain loops; that each does something; what is refused."""

import inspect
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import reference_loops
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_stacks import CELLS, cell_options, randomise
from torch import nn

from convlstm import ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell, SAConvLSTMCell
from convlstm.cells import GRUState, LSTMState
from convlstm.errors import ConvLSTMError, OptionError, ShapeError
from convlstm.functional.conv import same_conv
from convlstm.functional.gates import ACTIVATIONS


@st.composite
def cells(draw, activations=tuple(reference_loops.ACTIVATIONS)):
    """A cell of any kind with any options, its twin in plain loops, a frame and a state."""
    kind = draw(st.sampled_from(list(CELLS)))
    axes = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 4 if axes < 3 else 3)) for _ in range(axes))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    inputs, hidden = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    options = draw(cell_options(kind, kernel, size, activations))
    torch.manual_seed(draw(st.integers(0, 99)))
    cell = CELLS[kind](inputs, hidden, kernel, draw(st.booleans()), **options).double()
    randomise(cell)
    x = torch.randn(2, inputs, *size, dtype=torch.float64)
    state = [torch.randn(2, hidden, *size, dtype=torch.float64) for _ in cell.initial_state(x)]
    weights = {name: w.numpy() for name, w in cell.state_dict().items()}
    return cell, reference_loops.Cell(kind, hidden, axes, weights, options), x, state


@settings(max_examples=120, deadline=None)
@given(drawn=cells())
def test_any_options_together_equal_the_equations_in_plain_loops(drawn):
    cell, plain, x, state = drawn
    new = cell(x, state)
    for b in range(len(x)):
        expected = plain.step(x[b].numpy(), tuple(t[b].numpy() for t in state))
        for a, e in zip(new, expected, strict=True):
            np.testing.assert_allclose(a[b].detach(), e, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_named_activations_are_what_their_names_say(name):
    """None is missing from the reference, and each agrees with it over the line."""
    x = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(
        ACTIVATIONS[name](torch.from_numpy(x)), reference_loops.ACTIVATIONS[name](x), atol=1e-12
    )


@settings(max_examples=25, deadline=None)
@given(drawn=cells(activations=("sigmoid", "tanh", "softsign", "silu")))
def test_gradients_of_any_options_agree_with_finite_differences(drawn):
    cell, _, x, state = drawn
    tensors = [t[:1].requires_grad_() for t in (x, *state)]
    assert torch.autograd.gradcheck(lambda x, *state: tuple(cell(x, state)), tensors, fast_mode=True)


def test_golden_values_of_a_gru_worked_out_by_hand():
    """One pixel, x = 1, h = 0.5; weights of [x, h] for r, z, n below; b_u = 0.7, no other bias."""
    weight = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]).view(3, 2, 1, 1)
    x, h = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)
    r, z = 1 / (1 + np.exp(-0.2)), 1 / (1 + np.exp(-0.5))
    expected = {
        True: (1 - z) * np.tanh(0.5 + r * (0.3 + 0.7)) + z * 0.5,
        False: (1 - z) * np.tanh(0.5 + 0.6 * r * 0.5) + z * 0.5,
    }
    for after, value in expected.items():
        cell = ConvGRUCell(1, 1, 1, reset_after=after)
        with torch.no_grad():
            cell.conv.weight.copy_(weight)
            cell.conv.bias.zero_()
            if after:
                cell.reset_bias.fill_(0.7)
        assert cell(x, GRUState(h)).h.item() == pytest.approx(value, abs=1e-6)


def test_the_output_gate_peeks_at_the_new_memory():
    """B27. All sums zero but g = 2: c' = 0.5 c + 0.5 tanh 2; with w_o = 3 alone, o = sigmoid(3 c')."""
    cell = ConvLSTMCell(1, 1, 1, peephole="channel")
    with torch.no_grad():
        cell.conv.weight.zero_()
        cell.conv.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 2.0]))
        cell.peephole_weight.zero_()
        cell.peephole_weight[2] = 3.0
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    c = 0.5 + 0.5 * np.tanh(2.0)
    new = cell(zero, LSTMState(zero, one))
    assert new.c.item() == pytest.approx(c, abs=1e-6)
    assert new.h.item() == pytest.approx(np.tanh(c) / (1 + np.exp(-3 * c)), abs=1e-6)


@pytest.mark.parametrize("kind", list(CELLS))
def test_orthogonal_kernels_have_orthonormal_rows_gate_by_gate(kind):
    cell = CELLS[kind](2, 4, (3, 5), recurrent_init="orthogonal")
    for kernel in cell.conv.weight[:, 2:].split(4):
        torch.testing.assert_close(kernel.flatten(1) @ kernel.flatten(1).T, torch.eye(4), rtol=0, atol=1e-5)
    torch.manual_seed(0)
    plain = CELLS[kind](2, 4, 3).conv.weight[:, :2]
    torch.manual_seed(0)
    assert torch.equal(plain, CELLS[kind](2, 4, 3, recurrent_init="orthogonal").conv.weight[:, :2])


def test_an_activation_that_learns_is_a_parameter_of_each_cell_of_its_own():
    shared = nn.PReLU(init=0.3)
    first, second = (ConvLSTMCell(1, 2, 3, gate_activation=shared, output_activation=nn.PReLU) for _ in "ab")
    assert {"gate_activation.weight", "output_activation.weight"} <= dict(first.named_parameters()).keys()
    assert first.gate_activation.weight is not second.gate_activation.weight
    assert first.gate_activation.weight is not shared.weight
    first(torch.randn(1, 1, 4, 4), first.init_hidden(1, (4, 4))).h.sum().backward()
    assert first.gate_activation.weight.grad.any()


@dataclass
class Steeper:
    """A function with a parameter, which as any dataclass with ``==`` is not hashable."""

    factor: float

    def __call__(self, x):
        return torch.tanh(self.factor * x)


@pytest.mark.parametrize("engine", ["auto", "fused", "compiled"])
def test_an_activation_need_not_be_hashable(engine):
    layer = ConvLSTM(1, 2, 3, cell=partial(ConvLSTMCell, candidate_activation=Steeper(2)), engine=engine)
    x = torch.randn(3, 1, 1, 4, 4)
    outputs = layer(x)[0][0]
    layer.cell_list[0].candidate_activation = lambda x: torch.tanh(2 * x)
    assert torch.equal(outputs, layer(x)[0][0])


def test_attention_of_ones_own_as_module_class_or_factory():
    x = torch.randn(1, 2, 4, 4)
    own = nn.Conv2d(3, 3, 1)
    for attention in (own, lambda channels: nn.Conv2d(channels, channels, 1)):
        cell = ConvLSTMCell(2, 3, 3, attention=attention)
        assert "attention.weight" in dict(cell.named_parameters())
        assert cell.attention.weight is not own.weight
        assert cell(x, [torch.randn(1, 3, 4, 4)] * 2).h.shape == (1, 3, 4, 4)


class MapOnly(nn.Module):
    """The attention of a popular guide: one weight per pixel, not multiplied by what it weighs."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, h):
        return torch.sigmoid(self.conv(h))


class ChannelWeights(nn.Module):
    """One weight per channel, which a convolution would take for a frame of one pixel."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, h):
        return torch.sigmoid(h.mean((2, 3), keepdim=True))


class Pair(nn.Module):
    """Output and weights, as torch's own attention gives them."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, h):
        return h, h


@pytest.mark.parametrize(
    "family", [*CELLS.values(), partial(ConvGRUCell, reset_after=False), SAConvLSTMCell], ids=str
)
@pytest.mark.parametrize(
    ("attention", "received"),
    [(MapOnly, r"\(2, 1, 4, 5\)"), (ChannelWeights, r"\(2, 3, 1, 1\)"), (Pair, "a tuple")],
)
def test_attention_of_another_shape_is_refused_with_the_remedy(family, attention, received):
    rule = r"attention must map the hidden state \(B, C, \*S\) = \(2, 3, 4, 5\) to the same shape"
    message = f"{rule}; received {received} from a {attention.__name__}: return weights [*] h$"
    cell = partial(family, attention=attention)
    x = torch.randn(2, 2, 2, 4, 5)
    for call in (lambda: cell(2, 3, 3)(x[:, 0]), lambda: ConvLSTM(2, 3, 3, batch_first=True, cell=cell)(x)):
        with pytest.raises(ShapeError, match=message):
            call()


def test_the_update_rule_alone_can_be_replaced():
    class Coupled(ConvLSTMCell):
        """The forget gate is one minus the input gate."""

        def update(self, gates, state):
            i, _, o, g = gates.chunk(4, dim=1)
            i = torch.sigmoid(i)
            c = (1 - i) * state.c + i * torch.tanh(g)
            return LSTMState(torch.sigmoid(o) * torch.tanh(c), c)

    cell, x = Coupled(1, 2, 3), torch.randn(1, 1, 4, 4)
    h, c = torch.randn(2, 1, 2, 4, 4)
    gates = cell.conv(torch.cat([x, h], 1)).chunk(4, dim=1)
    expected = (1 - torch.sigmoid(gates[0])) * c + torch.sigmoid(gates[0]) * torch.tanh(gates[3])
    torch.testing.assert_close(cell(x, (h, c)).c, expected, rtol=0, atol=1e-6)


# For each argument of a cell, what the change needs around it, and the change.
CHANGES = {
    "input_dim": ({}, {"input_dim": 3}),
    "hidden_dim": ({}, {"hidden_dim": 4}),
    "kernel_size": ({}, {"kernel_size": (3, 1)}),
    "bias": ({}, {"bias": False}),
    "gate_activation": ({}, {"gate_activation": "hard_sigmoid"}),
    "candidate_activation": ({}, {"candidate_activation": "softsign"}),
    "output_activation": ({}, {"output_activation": "softsign"}),
    "activation": ({}, {"activation": "relu"}),
    "forget_bias": ({}, {"forget_bias": 1.0}),
    "peephole": ({}, {"peephole": "channel"}),
    "image_size": ({"peephole": "pixel", "image_size": (4, 5)}, {"image_size": (5, 4)}),
    "dilation": ({}, {"dilation": 2}),
    "padding_mode": ({}, {"padding_mode": "circular"}),
    "recurrent_init": ({}, {"recurrent_init": "orthogonal"}),
    "attention": ({}, {"attention": "spatial"}),
    "reset_after": ({}, {"reset_after": False}),
}


def arguments(cell):
    named = dict(inspect.signature(cell).parameters)
    if named.pop("options", None):
        named |= dict.fromkeys(["dilation", "padding_mode", "recurrent_init", "attention"])
    return list(named)


@pytest.mark.parametrize(
    ("cell", "name"),
    [(cell, name) for cell in (ConvLSTMCell, ConvGRUCell, ConvRNNCell) for name in arguments(cell)],
)
def test_every_argument_has_an_effect(cell, name):
    """B10. An argument added without an entry fails by its name, one without an effect by its numbers."""
    needed, change = CHANGES[name]

    def seen(options):
        torch.manual_seed(0)
        made = cell(**({"input_dim": 2, "hidden_dim": 3, "kernel_size": 3} | options))
        size = options.get("image_size", (4, 5))
        torch.manual_seed(1)
        state = [torch.randn_like(t) for t in made.init_hidden(2, size)]
        with torch.no_grad():
            for p in made.parameters():
                p.add_(torch.linspace(-0.1, 0.1, p.numel()).view_as(p))
        new = made(torch.randn(2, made.input_dim, *size), state)
        return [t.tolist() for t in new] + [len(list(made.parameters()))]

    assert seen(needed) == seen(needed)
    assert seen(needed) != seen(needed | change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gate_activation": "sigmod"},
            r"gate_activation must be one of .*; received 'sigmod'; did you mean 'sigmoid'\?",
        ),
        (
            {"candidate_activation": "tan"},
            r"candidate_activation must be .* received 'tan'; did you mean 'tanh'\?",
        ),
        ({"output_activation": 3}, "output_activation must be a name, a function or a module; received 3"),
        (
            {"peephole": "chanel"},
            r"peephole must be one of channel, pixel; received 'chanel'; did you mean 'channel'\?",
        ),
        (
            {"attention": "spatal"},
            r"attention must be one of channel, spatial; received 'spatal'; did you mean 'spatial'",
        ),
        (
            {"padding_mode": "circlar"},
            r"padding_mode must be one of .*; received 'circlar'; did you mean 'circular'\?",
        ),
        (
            {"padding_mode": ["zeros"]},
            r"padding_mode must have one entry per space axis \(2\); received \['zeros'\]",
        ),
        (
            {"recurrent_init": "ortogonal"},
            r"recurrent_init must be .* received 'ortogonal'; did you mean 'orthogonal'\?",
        ),
        ({"dilation": 0}, "dilation must be at least 1; received 0"),
        ({"dilation": (1, 1, 2)}, r"dilation must have one entry per space axis \(2\); received \(1, 1, 2\)"),
        (
            {"peephole": "pixel"},
            "image_size and peephole=pixel go together; .* or peephole=channel, which fits any size",
        ),
        ({"image_size": (4, 4)}, r"image_size and peephole=pixel go together; received image_size=\(4, 4\)"),
        (
            {"peephole": "pixel", "image_size": (4,)},
            r"image_size must have one entry per space axis \(2\); received \(4,\)",
        ),
    ],
)
def test_refused_options_say_rule_value_and_remedy(options, message):
    """B11: what cannot work is refused when the cell is built."""
    with pytest.raises(OptionError, match=message):
        ConvLSTMCell(2, 3, 3, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation": 1.5},
        {"dilation": (1.5, 1)},
        {"attention": 3},
        {"padding_mode": 3},
        {"image_size": (0, 4), "peephole": "pixel"},
        {"image_size": (2.5, 4), "peephole": "pixel"},
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused_by_the_constructor(options):
    with pytest.raises(OptionError, match=rf"^{next(iter(options))} .*received"):
        ConvLSTMCell(2, 3, 3, **options)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_a_frame_smaller_than_the_reach_of_a_padding_mode_is_refused(mode):
    cell = ConvLSTMCell(1, 1, (3, 7), padding_mode=["zeros", mode])
    with pytest.raises(
        ShapeError, match=f"padding_mode={mode} needs .* received size 2 for a reach of 3 on space axis 1"
    ):
        cell(torch.zeros(1, 1, 4, 2))


def test_pixel_peepholes_at_another_size_are_refused():
    cell = ConvLSTMCell(1, 1, 3, peephole="pixel", image_size=(4, 5))
    with pytest.raises(
        ShapeError, match=r"fixes the size of frames to \(4, 5\); received \(5, 4\): use peephole=channel"
    ):
        cell(torch.zeros(1, 1, 5, 4))


def test_pixel_peepholes_of_one_pixel_fit_one_pixel_only():
    cell = ConvLSTMCell(1, 1, 3, peephole="pixel", image_size=(1, 1))
    with pytest.raises(ShapeError, match=r"fixes the size of frames to \(1, 1\)"):
        cell(torch.zeros(1, 1, 5, 4))


@pytest.mark.parametrize("kind", list(CELLS))
@pytest.mark.parametrize("wrong", ["batch", "size", "channels", "dtype", "device", "kind", "number"])
def test_a_state_that_does_not_fit_is_refused_by_the_cell(kind, wrong):
    """A batch of one and a size of one would broadcast: a wrong result without a word."""
    cell, x = CELLS[kind](1, 2, 3), torch.zeros(2, 1, 4, 4)
    good = cell.initial_state(x)
    bad = {
        "batch": lambda: [t[:1] for t in good],
        "size": lambda: [t[..., :1] for t in good],
        "channels": lambda: [t[:, :1] for t in good],
        "dtype": lambda: [t.double() for t in good],
        "device": lambda: [t.to("meta") for t in good],
        "kind": lambda: [*good, good[0]],
        "number": list,
    }[wrong]()
    with pytest.raises(ConvLSTMError, match="state .*received"):
        cell(x, bad)


@pytest.mark.parametrize("change", [torch.float64, torch.uint8, "meta"], ids=str)
def test_a_frame_of_another_dtype_or_device_is_refused_by_the_cell(change):
    with pytest.raises(ShapeError, match="dtype and device, .* received"):
        ConvLSTMCell(1, 2, 3)(torch.zeros(2, 1, 4, 4).to(change))


def test_h_and_c_of_init_hidden_are_two_tensors():
    """In the original they are, and writing into one leaves the other."""
    h, c = ConvLSTMCell(1, 2, 3).init_hidden(1, (4, 4))
    h.fill_(1.0)
    assert not c.any()


@pytest.mark.parametrize("kind", [ConvLSTMCell, ConvRNNCell])
@pytest.mark.parametrize(
    "options", [{}, {"padding_mode": ("circular", "replicate")}, {"dilation": (1, 2), "attention": "spatial"}]
)
@pytest.mark.parametrize("kernel", [(3, 3), (3, 2)])
def test_the_convolution_is_called_once_with_frame_and_hidden_state(kind, options, kernel):
    """Whatever its kernel and padding, with the numbers of two convolutions by parts of its weight."""
    torch.manual_seed(0)
    cell, calls = kind(2, 3, kernel, **options), []
    cell.conv.register_forward_hook(lambda conv, inputs, output: calls.append((inputs[0], output)))
    x, h = torch.randn(2, 2, 5, 6), torch.randn(2, 3, 5, 6)
    assert cell.project(x) is x
    cell(x, type(cell.initial_state(x))(*[h] * len(cell.state_class._fields)))
    ((both, gates),) = calls
    weighted = h if cell.attention is None else cell.attention(h)
    torch.testing.assert_close(both, torch.cat([x, weighted], dim=1), rtol=0, atol=0)
    parts = {"dilation": cell.dilation, "padding_mode": cell.padding_mode}
    expected = same_conv(x, cell.conv.weight[:, :2], cell.conv.bias, **parts)
    expected = expected + same_conv(weighted, cell.conv.weight[:, 2:], **parts)
    torch.testing.assert_close(gates, expected)
