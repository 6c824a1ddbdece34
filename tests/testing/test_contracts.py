"""Our own cells and layers under the contract batteries, and batteries that notice a broken contract."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn

from convlstm import Cell, ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell, SAConvLSTMCell
from convlstm.cells import LSTMState
from convlstm.functional.conv import same_conv
from convlstm.testing import CELL_CHECKS, LAYER_CHECKS, check_cell, check_layer

COMMON = {"dilation": 2, "padding_mode": "reflect", "recurrent_init": "orthogonal", "attention": "spatial"}
OPTIONS = {
    ConvLSTMCell: COMMON
    | {
        "gate_activation": "hard_sigmoid",
        "candidate_activation": "relu",
        "output_activation": nn.PReLU,
        "forget_bias": 1.0,
        "peephole": "channel",
    },
    ConvGRUCell: COMMON
    | {"reset_after": False, "gate_activation": "hard_sigmoid", "candidate_activation": "softsign"},
    ConvRNNCell: COMMON | {"activation": "relu"},
    SAConvLSTMCell: {"attention_dim": 2, "peephole": "channel"},
}


@pytest.mark.parametrize("check", CELL_CHECKS)
@pytest.mark.parametrize("cell", OPTIONS)
def test_cells(cell, check):
    check(cell)


@pytest.mark.parametrize("cell", OPTIONS)
def test_options_have_an_effect(cell, monkeypatch):
    monkeypatch.setattr("convlstm.testing.cells.CELL_CHECKS", ())
    check_cell(cell, OPTIONS[cell])


LAYERS = {
    "gru": lambda n: ConvGRU(n, [4, 3], [3, 5], None, True, True, True),
    "both ways": lambda n: ConvLSTM(n, 3, 3, 1, True, True, True, bidirectional=True),
    "dense": lambda n: ConvLSTM(n, [3, 4], 3, None, True, True, True, residual="dense", norm="layer"),
    "project": lambda n: ConvLSTM(
        n, 4, 3, 2, True, True, True, residual="project", norm="group", dropout=0.3
    ),
    "mixed cells": lambda n: ConvLSTM(n, 3, 3, None, True, True, True, cell=[ConvGRUCell, ConvLSTMCell]),
    "options": lambda n: ConvLSTM(
        n,
        3,
        3,
        2,
        True,
        True,
        True,
        cell=partial(
            ConvLSTMCell, peephole="channel", attention="channel", padding_mode=("circular", "replicate")
        ),
    ),
}


@pytest.mark.parametrize("check", LAYER_CHECKS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers(make, check):
    if make is LAYERS["both ways"] and check.__name__ in ("a_state_resumes_the_sequence",):
        pytest.skip("the backward half of a frame has seen the frames behind it")
    check(make)


class MinimalState(NamedTuple):
    h: torch.Tensor


class MinimalCell(Cell):
    """The documentation's example: a leaky average of what the input says, written in twenty lines."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True, *, leak=0.5):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.weight = nn.Parameter(0.1 * torch.randn(hidden_dim, input_dim, *self.kernel_size))
        self.mix = nn.Parameter(0.1 * torch.randn(hidden_dim, hidden_dim, *self.kernel_size))
        self.leak = leak

    def initial_state(self, x):
        return MinimalState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x):
        return same_conv(x, self.weight)

    def step(self, p, state):
        return MinimalState(self.leak * state.h + torch.tanh(p + same_conv(state.h, self.mix)))


def test_the_documented_cell_keeps_the_contract():
    check_cell(MinimalCell, {"leak": 0.9})


class Forgetful(MinimalCell):
    """Keeps its state on the module."""

    def step(self, p, state):
        self.kept = MinimalState(torch.tanh(p + same_conv(getattr(self, "kept", state).h.detach(), self.mix)))
        return self.kept


class Peeking(MinimalCell):
    """Projects each frame with the mean of all that it is given."""

    def project(self, x):
        return super().project(x - x.mean(0, keepdim=True))


class Fixed(MinimalCell):
    """Has a parameter of a fixed size."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.map = nn.Parameter(torch.ones(5, 4))

    def step(self, p, state):
        return super().step(p * self.map, state)


class Idle(MinimalCell):
    """Has a parameter that does nothing."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.idle = nn.Parameter(torch.ones(3))


class Deaf(MinimalCell):
    """Does not listen to its state."""

    def step(self, p, state):
        return MinimalState(torch.tanh(p + 0 * same_conv(state.h, self.mix)))


@pytest.mark.parametrize("broken", [Forgetful, Peeking, Fixed, Idle, Deaf])
def test_broken_cells_are_caught(broken):
    with pytest.raises((AssertionError, RuntimeError)):
        check_cell(broken)


def test_an_option_without_effect_is_caught(monkeypatch):
    class Ignores(MinimalCell):
        def __init__(self, *sizes, gain=1.0, **options):
            super().__init__(*sizes, **options)

    monkeypatch.setattr("convlstm.testing.cells.CELL_CHECKS", ())
    with pytest.raises(AssertionError, match=r"gain=2\.0 has no effect"):
        check_cell(Ignores, {"gain": 2.0})


def test_a_broken_layer_is_caught_and_named():
    class Acausal(ConvLSTM):
        def forward(self, x, state=None, **options):
            outputs, states = super().forward(x, state, **options)
            return [out + out.mean(1, keepdim=True) for out in outputs], states

    with pytest.raises(AssertionError, match="a_state_resumes_the_sequence"):
        check_layer(lambda n: Acausal(n, 3, 3, 1, True, True, True))


def test_a_state_type_of_ones_own_is_kept():
    state = ConvLSTMCell(1, 2, 3)(torch.zeros(1, 1, 3, 3), LSTMState(*torch.zeros(2, 1, 2, 3, 3)))
    assert isinstance(state, LSTMState)
