"""Our own cells and layers under the contract batteries, and batteries that notice a broken contract."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from convlstm import (
    CausalLSTMCell,
    Cell,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    ConvRNNCell,
    E3DLSTMCell,
    GHUCell,
    MAUCell,
    MIMCell,
    MinConvGRUCell,
    MinConvLSTMCell,
    PhyCell,
    SAConvLSTMCell,
    STLSTMCell,
    SwinLSTMCell,
    TrajGRUCell,
)
from convlstm.cells import LSTMState, MIMNCell, MIMSCell, SpaceTimeAttentionCell
from convlstm.errors import ConvLSTMError, OptionError, ShapeError
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
    E3DLSTMCell: {"history": 2, "forget_bias": 0.0},
    MAUCell: {"tau": 3},
    MIMCell: {"forget_bias": 0.0},
    MIMNCell: {"forget_bias": 0.0},
    MIMSCell: {"forget_bias": 0.0},
    SAConvLSTMCell: {"attention_dim": 2, "mix_dim": 5, "peephole": "channel"},
    STLSTMCell: {"forget_bias": 0.0},
    SpaceTimeAttentionCell: {"heads": 3, "window": 2, "history": 3},
    CausalLSTMCell: {"forget_bias": 0.0, "published_bug": "memory"},
    GHUCell: {},
    PhyCell: {},
    SwinLSTMCell: {"depth": 3, "heads": 3},
    TrajGRUCell: {"links": 3, "flow_dim": 4},
    MinConvGRUCell: {},
    MinConvLSTMCell: {"exponential_gates": True},
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


class Claims(MinimalCell):
    """Reads its output, and says that it does not."""

    reads_output = False


class Doubled(torch.autograd.Function):
    """A product with a number, whose gradient is twice what it should be."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, factor):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        x, factor = ctx.saved_tensors
        return gradient * factor, 2 * (gradient * x).sum()


class WrongGradient(MinimalCell):
    """Has a parameter whose gradient is wrong; those of the frames are right."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.factor = nn.Parameter(torch.tensor(1.1))

    def project(self, x):
        return Doubled.apply(super().project(x), self.factor)


class KeepsWeights(MinimalCell):
    """Keeps a copy of its weight for calls without gradients, which loading does not change."""

    kept = None

    def project(self, x):
        if torch.is_grad_enabled():
            return super().project(x)
        self.kept = self.weight.clone() if self.kept is None else self.kept
        return same_conv(x, self.kept.to(x))


@pytest.mark.parametrize(
    "broken", [Forgetful, Peeking, Fixed, Idle, Deaf, Claims, WrongGradient, KeepsWeights]
)
def test_broken_cells_are_caught(broken):
    with pytest.raises(AssertionError, match=r"^\w+: "):
        check_cell(broken)


class PartlyFrozen(MinimalCell):
    """Has a parameter that is not trained."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.factor = nn.Parameter(torch.tensor(0.7), requires_grad=False)

    def project(self, x):
        return self.factor * super().project(x)


def test_a_frozen_parameter_keeps_the_contract():
    check_cell(PartlyFrozen)


class CountedState(NamedTuple):
    h: torch.Tensor
    age: torch.Tensor  # int64 (B,)


class Counted(MinimalCell):
    """Averages over all frames so far, whose number it counts."""

    def initial_state(self, x):
        return CountedState(*super().initial_state(x), x.new_zeros(x.shape[0], dtype=torch.int64))

    def step(self, p, state):
        new, share = super().step(p, MinimalState(state.h)).h, (1 / (state.age + 1)).to(p.dtype)
        share = share.view(-1, 1, 1, 1)
        return CountedState(share * new + (1 - share) * state.h, state.age + 1)


class FlaggedState(NamedTuple):
    h: torch.Tensor
    wet: torch.Tensor  # bool (B, hidden_dim, H, W)


class Flagged(MinimalCell):
    """Doubles what comes to pixels that were once above zero."""

    def initial_state(self, x):
        (h,) = super().initial_state(x)
        return FlaggedState(h, torch.zeros_like(h, dtype=torch.bool))

    def step(self, p, state):
        (h,) = super().step(p, MinimalState(state.h))
        return FlaggedState(torch.where(state.wet, 2 * h, h), state.wet | (h > 0))


class TurningState(NamedTuple):
    h: torch.Tensor
    z: torch.Tensor  # complex (B, hidden_dim, H, W)


class Turning(MinimalCell):
    """A wave that turns by a learnt angle at every step."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.angle = nn.Parameter(torch.tensor(0.3))

    def initial_state(self, x):
        (h,) = super().initial_state(x)
        return TurningState(h, torch.complex(h, torch.zeros_like(h)))

    def step(self, p, state):
        (h,) = super().step(p, MinimalState(state.h))
        z = self.leak * state.z * torch.polar(torch.ones_like(self.angle), self.angle) + torch.complex(h, p)
        return TurningState(torch.tanh(z.real), z)


OTHER_DTYPES = [Counted, Flagged, Turning]


@pytest.mark.parametrize("cell", OTHER_DTYPES)
def test_states_of_any_dtype_keep_the_contract(cell):
    check_cell(cell, {"leak": 0.9})


@pytest.mark.parametrize("cell", OTHER_DTYPES)
def test_streams_keep_states_of_any_dtype(cell):
    layer, x = ConvLSTM(1, 2, 3, 2, True, cell=cell, return_all_layers=True), torch.randn(2, 4, 1, 5, 4)
    outputs, states = layer(x)
    stream = layer.stream(2, (5, 4))
    for t, frame in enumerate(x.unbind(1)):
        if t == 2:  # as a session that is kept between two frames
            kept, stream = stream.state, layer.stream(2, (5, 4))
            stream.state = kept
        assert_close(stream(frame), outputs[-1][:, t])
    assert_close([tuple(s) for s in stream.state], [tuple(s) for s in states])


@pytest.mark.parametrize("training", [True, False])
def test_zoneout_holds_complex_numbers_and_leaves_counts_alone(training):
    x = torch.randn(2, 1, 1, 5, 4)
    plain = ConvLSTM(1, 2, 3, batch_first=True, cell=Turning)
    z = plain(x)[1][0].z
    layer = ConvLSTM(1, 2, 3, batch_first=True, cell=Turning, zoneout=0.25).train(training)
    layer.load_state_dict(plain.state_dict())
    held = layer(x)[1][0].z
    if training:
        assert 0 < (held == 0).sum() < held.numel()
        assert_close(held[held != 0], z[held != 0])
    else:
        assert_close(held, 0.75 * z)
    counting = ConvLSTM(1, 2, 3, batch_first=True, cell=Counted, zoneout=0.25).train(training)
    assert counting(x)[1][0].age.tolist() == [1, 1]


class Stale(Counted):
    """Counts, and does not look at the count."""

    def step(self, p, state):
        return CountedState(MinimalCell.step(self, p, MinimalState(state.h)).h, torch.ones_like(state.age))


class Inner(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


class Nested(MinimalCell):
    """Has a state within its state."""

    def initial_state(self, x):
        (h,) = super().initial_state(x)
        return CountedState(h, Inner(h, h))

    def step(self, p, state):
        (h,) = super().step(p, MinimalState(state.h))
        return CountedState(h, Inner(h, h))


class NestedLater(MinimalCell):
    """Puts a state within the state in its step."""

    def step(self, p, state):
        return MinimalState(super().step(p, state))


class InParts(MinimalCell):
    """Projects to two tensors."""

    def project(self, x):
        return super().project(x), x

    def step(self, p, state):
        return super().step(p[0], state)


class Bare(MinimalCell):
    """Gives the hidden state itself."""

    def step(self, p, state):
        return super().step(p, state).h


class Plain(MinimalCell):
    """Gives a plain tuple."""

    def step(self, p, state):
        return tuple(super().step(p, state))


class PlainFirst(MinimalCell):
    """Begins with a plain tuple."""

    def initial_state(self, x):
        return tuple(super().initial_state(x))


class BareFirst(MinimalCell):
    """Begins with the hidden state itself."""

    def initial_state(self, x):
        return super().initial_state(x).h


class Growing(MinimalCell):
    """Pads by one pixel too much."""

    def step(self, p, state):
        return MinimalState(nn.functional.pad(super().step(p, state).h, (0, 1, 0, 0)))


STRANGE = {
    Nested: r"initial_state must return .* Nested's returned a CountedState that holds a Inner: put all",
    NestedLater: "step must return .* NestedLater's returned a MinimalState that holds a MinimalState: ret",
    InParts: "project must return one tensor; the InParts's returned a tuple: join the parts with torch.cat",
    Bare: "step must return .* tensors h in a MinimalState; the Bare's returned a tensor: return a MinimalS",
    Plain: "step must return .* Plain's returned a tuple: return a MinimalState",
    PlainFirst: "initial_state must return .* PlainFirst's returned a tuple: put all tensors",
    BareFirst: "initial_state must return .* BareFirst's returned a tensor: put all tensors",
    Growing: r"step must keep the shapes .*, h \(\d, 3, \d, \d\); the Growing's returned .*: pad",
}


@pytest.mark.parametrize(("cell", "message"), STRANGE.items())
def test_other_states_are_judged_in_a_sentence(cell, message):
    with pytest.raises(AssertionError, match=f"^state_is_named_and_fits: {message}"):
        check_cell(cell)


@pytest.mark.parametrize(("cell", "message"), STRANGE.items())
def test_layers_refuse_other_states_in_the_same_sentence(cell, message):
    """Also one frame, the cell alone, and where each step is a call that hooks listen to."""
    layer, x = ConvLSTM(2, 3, 3, 2, True, cell=cell, bidirectional=True), torch.randn(2, 3, 2, 5, 4)
    calls = [lambda: layer(x), lambda: layer(x[:, :1]), lambda: layer.cell_list[0](x[:, 0])]
    for call in calls:
        with pytest.raises(OptionError if "shapes" not in message else ShapeError, match=message):
            call()
    layer.cell_list[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ConvLSTMError, match=message):
        layer(x)


def test_a_whole_number_without_effect_is_caught():
    with pytest.raises(AssertionError, match=r"output_depends_on_input_and_state: age has no effect"):
        check_cell(Stale)


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


def test_a_layer_that_changes_the_state_given_is_caught():
    class Overwrites(ConvLSTM):
        def forward(self, x, state=None, **options):
            result = super().forward(x, state, **options)
            for layer in state or ():
                layer.h.data.zero_()  # unseen by autograd
            return result

    with pytest.raises(AssertionError, match="a_state_resumes_the_sequence: a call must leave the state"):
        check_layer(lambda n: Overwrites(n, 3, 3, 1, True, True, True))


def test_a_state_type_of_ones_own_is_kept():
    state = ConvLSTMCell(1, 2, 3)(torch.zeros(1, 1, 3, 3), LSTMState(*torch.zeros(2, 1, 2, 3, 3)))
    assert isinstance(state, LSTMState)


class Dropping(MinimalCell):
    """Drops at every step."""

    def step(self, p, state):
        return super().step(torch.nn.functional.dropout(p, 0.5, self.training), state)


def test_what_draws_at_random_in_each_step_is_not_called_wrong():
    check_cell(Dropping)
    check_layer(lambda n: ConvLSTM(n, 3, 3, 2, True, True, True, zoneout=0.2))
