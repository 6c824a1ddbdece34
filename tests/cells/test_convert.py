"""Weights of public ConvGRUs in our cell, against loops written from the equations of each."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from convlstm import ConvGRU, ConvGRUCell
from convlstm.cells import gru_weights, lstm_weights
from convlstm.errors import OptionError, ShapeError

INPUT, HIDDEN, KERNEL = 2, 3, (3, 5)
PADDING = tuple(k // 2 for k in KERNEL)


def draw(seed, *channels):
    """Weights and biases of convolutions with (outputs, inputs) channels each."""
    generator = torch.Generator().manual_seed(seed)
    new = partial(torch.randn, generator=generator, dtype=torch.float64)
    weights = [0.3 * new(n, m, *KERNEL) for n, m in channels]
    return weights, [new(n) for n, _ in channels]


def conv(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=PADDING)


def joint_gates(weights, biases, x, h):
    """conv_gates over [x, h] gives r and z, conv_can over [x, r h] the candidate; z takes the new."""
    sums = conv(torch.cat([x, h], 1), weights[0], biases[0])
    r, z = sums.sigmoid().split(HIDDEN, dim=1)
    n = conv(torch.cat([x, r * h], 1), weights[1], biases[1]).tanh()
    return (1 - z) * h + z * n


def three_convolutions(weights, biases, x, h):
    """reset_gate, update_gate and out_gate over [x, h]; z takes the new."""
    r = conv(torch.cat([x, h], 1), weights[0], biases[0]).sigmoid()
    z = conv(torch.cat([x, h], 1), weights[1], biases[1]).sigmoid()
    n = conv(torch.cat([x, h * r], 1), weights[2], biases[2]).tanh()
    return h * (1 - z) + n * z


def hidden_before_input(weights, biases, x, h):
    """convz, convr and convq over [h, x]; z takes the new."""
    z = conv(torch.cat([h, x], 1), weights[0], biases[0]).sigmoid()
    r = conv(torch.cat([h, x], 1), weights[1], biases[1]).sigmoid()
    q = conv(torch.cat([r * h, x], 1), weights[2], biases[2]).tanh()
    return (1 - z) * h + z * q


def rectified(weights, biases, x, h):
    """Read gate, update gate and a ReLU over [x, r h]; z keeps the old."""
    r = conv(torch.cat([x, h], 1), weights[0], biases[0]).sigmoid()
    z = conv(torch.cat([x, h], 1), weights[1], biases[1]).sigmoid()
    n = conv(torch.cat([x, r * h], 1), weights[2], biases[2]).relu()
    return z * h + (1 - z) * n


def input_and_hidden_apart(weights, biases, x, h):
    """i2h and h2h, each of all three gates, the reset gate after h2h; z keeps the old."""
    i = conv(x, weights[0], biases[0]).split(HIDDEN, dim=1)
    j = conv(h, weights[1], biases[1]).split(HIDDEN, dim=1)
    r, z = (i[0] + j[0]).sigmoid(), (i[1] + j[1]).sigmoid()
    n = (i[2] + r * j[2]).tanh()
    return z * h + (1 - z) * n


def six_convolutions(weights, biases, x, h):
    """Wz, Wr, W over x and Uz, Ur, U over h, the reset gate before U; z takes the new."""
    z = (conv(x, weights[0], biases[0]) + conv(h, weights[3], biases[3])).sigmoid()
    r = (conv(x, weights[1], biases[1]) + conv(h, weights[4], biases[4])).sigmoid()
    n = (conv(x, weights[2], biases[2]) + conv(r * h, weights[5], biases[5])).tanh()
    return (1 - z) * h + z * n


JOINT = INPUT + HIDDEN
# The step, the channels of its convolutions, how many of them are over the hidden state, options of
# `gru_weights`, and of the cell.
CODES = {
    "joint gates": (
        joint_gates,
        [(2 * HIDDEN, JOINT), (HIDDEN, JOINT)],
        0,
        {"gates": "rzn", "update": "new"},
    ),
    "three convolutions": (three_convolutions, [(HIDDEN, JOINT)] * 3, 0, {"gates": "rzn", "update": "new"}),
    "hidden first": (
        hidden_before_input,
        [(HIDDEN, JOINT)] * 3,
        0,
        {"gates": "zrn", "update": "new", "hidden_first": True},
    ),
    "rectified": (rectified, [(HIDDEN, JOINT)] * 3, 0, {"gates": "rzn", "update": "old"}),
    "apart, reset after": (
        input_and_hidden_apart,
        [(3 * HIDDEN, INPUT), (3 * HIDDEN, HIDDEN)],
        1,
        {"gates": "rzn", "update": "old", "reset_after": True},
    ),
    "apart, reset before": (
        six_convolutions,
        [(HIDDEN, INPUT)] * 3 + [(HIDDEN, HIDDEN)] * 3,
        3,
        {"gates": "zrn", "update": "new"},
    ),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("code", CODES)
def test_weights_of_public_gated_units_give_their_numbers(code, bias):
    step, channels, over_hidden, options = CODES[code]
    weights, biases = draw(0, *channels)
    biases = biases if bias else [None] * len(biases)
    last = len(weights) - over_hidden
    given = [biases[:last], biases[last:]] if bias else [[], []]
    state = gru_weights(
        weights[:last], given[0], hidden_kernels=weights[last:], hidden_biases=given[1], **options
    )
    cell = partial(
        ConvGRUCell,
        reset_after=options.get("reset_after", False),
        candidate_activation="relu" if step is rectified else "tanh",
    )
    layer = ConvGRU(INPUT, HIDDEN, KERNEL, batch_first=True, bias=bias, cell=cell).double()
    layer.cell_list[0].load_state_dict(state)
    x = torch.randn(2, 4, INPUT, 6, 7, dtype=torch.float64)
    h, expected = torch.zeros(2, HIDDEN, 6, 7, dtype=torch.float64), []
    for frame in x.unbind(1):
        h = step(weights, biases, frame, h)
        expected.append(h)
    assert_close(layer(x)[0][0], torch.stack(expected, 1))


def test_parameters_of_modules_are_taken_and_left_alone():
    convs = [torch.nn.Conv2d(JOINT, 2 * HIDDEN, 3), torch.nn.Conv2d(JOINT, HIDDEN, 3)]
    before = [p.detach().clone() for c in convs for p in c.parameters()]
    state = gru_weights([c.weight for c in convs], [c.bias for c in convs], gates="rzn", update="new")
    assert not any(t.requires_grad for t in state.values())
    assert all(
        torch.equal(a, p) for a, p in zip(before, (p for c in convs for p in c.parameters()), strict=True)
    )


@pytest.mark.parametrize(
    ("kernels", "options", "error", "message"),
    [
        ([(9, 5, 3)], {"gates": "rzz"}, OptionError, "gates must be a permutation of 'rzn'; received 'rzz'"),
        ([(9, 5, 3)], {"update": "both"}, OptionError, "update must be one of new, old; received 'both'"),
        ([(6, 5, 3)], {}, ShapeError, r"biases must be \(6,\) in all; received \[\(9,\)\]: pass that"),
        ([(3, 5, 3), (5, 5, 3)], {}, ShapeError, "pass each convolution of the cell once"),
        ([(9, 2, 3)], {}, ShapeError, "over input [+] hidden channels"),
        ([(9, 2, 3)], {"hidden_kernels": [np.zeros((9, 3, 5))]}, ShapeError, "kernels of one size"),
        (
            [(9, 2, 3)],
            {"hidden_kernels": [np.zeros((9, 4, 3))]},
            ShapeError,
            "kernels must have 3 hidden rows",
        ),
    ],
)
def test_unfit_kernels_are_named(kernels, options, error, message):
    with pytest.raises(error, match=message):
        gru_weights(
            [np.zeros(k) for k in kernels], [np.zeros(9)], **{"gates": "rzn", "update": "old"} | options
        )


@pytest.mark.parametrize("kernel", [lambda w: w[::-1], lambda w: w.astype(">f8"), np.asfortranarray])
def test_arrays_of_any_layout_and_byte_order_are_taken(kernel):
    given = kernel(np.random.default_rng(0).normal(size=(8, 5, 3, 3)))
    found = lstm_weights(given[:, :3], given[:, 3:], gates="ifog")["conv.weight"]
    assert_close(found, torch.tensor(given.astype(float).tolist()).double())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ones: lstm_weights(ones(4, 2, 3, 3).int(), ones(4, 1, 3, 3), gates="ifog"), "floating-point"),
        (lambda ones: gru_weights([], gates="rzn", update="new"), r"their rows alone; received \[\]"),
        (lambda ones: gru_weights([ones(9)], gates="rzn", update="new"), r"kernels must have 3 hidden rows"),
        (
            lambda ones: gru_weights([ones(2, 2, 3, 3), ones(1, 2, 5, 5)], gates="rzn", update="new"),
            r"must differ in their rows alone; received \[\(2, 2, 3, 3\), \(1, 2, 5, 5\)\]: pass",
        ),
        (
            lambda ones: gru_weights([ones(3, 2, 3, 3)], np.ones(3), gates="rzn", update="new"),
            "kernels and biases must be lists; received an ndarray: one per convolution",
        ),
    ],
)
def test_weights_of_no_cell_are_refused_in_a_sentence(call, message):
    with pytest.raises(ShapeError, match=message):
        call(torch.ones)
