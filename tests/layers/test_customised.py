"""What users of the single-file original do to a layer: parts replaced or listened to, methods overridden,
states edited."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from convlstm import (
    Cell,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    ConvRNNCell,
    SAConvLSTMCell,
)
from convlstm.cells import LSTMState
from convlstm.errors import OptionError, ShapeError

FRAMES = torch.randn(2, 4, 2, 6, 5, generator=torch.Generator().manual_seed(0))
engines = pytest.mark.parametrize("engine", ["auto", "reference"])


def original(cell, frames, h, c):
    """The original's loop, which calls ``conv`` on frame and hidden state beside each other."""
    outputs = []
    for x in frames.unbind(1):
        i, f, o, g = cell.conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


class Wrapped(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x):
        return 0.5 * super().forward(x)


@engines
@pytest.mark.parametrize(
    "replaced",
    [
        lambda: nn.Conv2d(5, 12, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(5, 12, 5, padding=4, dilation=2),
        lambda: Wrapped(5, 12, 3, padding=1),
        lambda: nn.Sequential(nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.Conv2d(5, 12, 1)),
    ],
)
def test_a_convolution_put_in_its_place_is_the_one_that_runs(engine, replaced):
    layer = ConvLSTM(2, 3, 3, batch_first=True, engine=engine)
    layer.cell_list[0].conv = replaced()
    zeros = torch.zeros(2, 3, 6, 5)
    outputs, h, c = original(layer.cell_list[0], FRAMES, zeros, zeros)
    ours, (state,) = layer(FRAMES)
    assert_close(ours[0], outputs)
    assert_close(state, LSTMState(h, c))
    assert_close(layer.cell_list[0](FRAMES[:, 0])[0], outputs[:, 0])
    stream = layer.stream(2, (6, 5))
    for t in range(4):
        assert_close(stream(FRAMES[:, t]), outputs[:, t].detach())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@engines
@pytest.mark.parametrize(
    "options", [{}, {"padding_mode": "reflect"}, {"dilation": 2, "attention": "channel"}]
)
@pytest.mark.parametrize("kernel", [3, (2, 4)])
@pytest.mark.parametrize("family", [ConvLSTMCell, ConvRNNCell])
def test_hooks_on_the_convolution_hear_every_step_and_change_no_number(engine, options, kernel, family):
    torch.manual_seed(0)
    plain = ConvLSTM(2, 3, kernel, batch_first=True, cell=lambda *sizes: family(*sizes, **options))
    heard = copy.deepcopy(plain)
    heard.engine, maps = engine, []
    handle = heard.cell_list[0].conv.register_forward_hook(lambda module, inputs, y: maps.append(y))
    assert_close(heard(FRAMES), plain(FRAMES))
    assert [tuple(y.shape) for y in maps] == [(2, 3 * family.gates, 6, 5)] * 4
    handle.remove()
    heard(FRAMES)
    assert len(maps) == 4


def test_a_stream_hears_hooks_on_the_convolution_that_come_later():
    layer, maps = ConvLSTM(2, 3, 3, batch_first=True), []
    expected = layer(FRAMES)[0][0].detach()
    stream = layer.stream(2, (6, 5))
    for t in range(4):
        if t == 2:
            layer.cell_list[0].conv.register_forward_hook(lambda module, inputs, y: maps.append(y))
        assert_close(stream(FRAMES[:, t]), expected[:, t])
    assert len(maps) == 2


def test_halves_that_are_applied_apart_stay_what_they_were():
    layer = ConvGRU(2, 3, 3, batch_first=True)
    layer.cell_list[0].conv = nn.Conv2d(5, 9, 3, padding=1, padding_mode="circular")
    with pytest.raises(
        OptionError, match=r"ConvGRUCell, .* must stay as it was built; received Conv2d\(5, 9"
    ):
        layer(FRAMES)


class Doubled(ConvLSTMCell):
    """A half of its own."""

    def recur(self, h):
        return 2 * super().recur(h)


class OwnStep(ConvLSTMCell):
    """A step of its own, from both halves."""

    def step(self, p, state):
        return self.update(p + 0.5 * self.recur(state.h), state)


@pytest.mark.parametrize("cell", [Doubled, OwnStep])
def test_a_subclass_with_a_rule_of_its_own_keeps_it_under_hooks(cell):
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=cell)
    before = layer(FRAMES)
    layer.cell_list[0].conv.register_forward_hook(lambda *_: None)
    assert_close(layer(FRAMES), before)


@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, ConvRNNCell, SAConvLSTMCell])
def test_a_pruned_cell_alone_learns_and_stays_pruned(cell):
    made = cell(2, 4, 3)
    conv = made.lstm.conv if cell is SAConvLSTMCell else made.conv
    prune.l1_unstructured(conv, "weight", 0.5)
    mask, state = conv.weight_mask.bool(), None
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for frame in FRAMES.unbind(1):
        state = made(frame, None if state is None else type(state)(*(t.detach() for t in state)))
        optimizer.zero_grad()
        state.h.square().sum().backward()
        optimizer.step()
        before = made(frame).h
        with torch.no_grad():
            conv.weight_orig[mask] += 0.1
            assert not torch.equal(made(frame).h, before)
            conv.weight_orig[~mask] += 0.1
            conv.weight_orig[mask] -= 0.1
            assert_close(made(frame).h, before)


@engines
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.spectral_norm.*deprecated")
def test_hooks_compute_a_weight_once_a_sequence(engine):
    layer = ConvLSTM(2, 3, 3, batch_first=True, engine=engine)
    nn.utils.spectral_norm(layer.cell_list[0].conv)
    computed = []
    (hook,) = layer.cell_list[0].conv._forward_pre_hooks.values()
    compute = hook.compute_weight
    hook.compute_weight = lambda *a, **k: computed.append(1) or compute(*a, **k)
    layer(FRAMES)
    assert len(computed) == 1
    layer.cell_list[0](FRAMES[:, 0])
    assert len(computed) == 2


class Learned(ConvLSTMCell):
    """A state to begin with that is learned, where the original has it."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.first = nn.Parameter(torch.full((3, 1, 1), 0.5))

    def init_hidden(self, batch_size, image_size):
        h, c = super().init_hidden(batch_size, image_size)
        return h + self.first, c


@engines
def test_init_hidden_says_where_a_sequence_begins(engine):
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=Learned, engine=engine)
    zeros = torch.zeros(2, 3, 6, 5)
    outputs, _, _ = original(layer.cell_list[0], FRAMES, zeros + 0.5, zeros)
    ours, _ = layer(FRAMES)
    assert_close(ours[0], outputs)
    ours[0].sum().backward()
    assert layer.cell_list[0].first.grad.abs().min() > 0
    assert_close(layer.cell_list[0](FRAMES[:, 0])[0], outputs[:, 0])
    starts = torch.tensor([[False, False, True, False]] * 2)
    assert_close(layer(FRAMES, reset=starts)[0][0][:, 2:], layer(FRAMES[:, 2:])[0][0])


def test_both_ways_to_begin_may_be_overridden_by_way_of_those_above():
    class Twice(ConvLSTMCell):
        def init_hidden(self, batch_size, image_size):
            h, c = super().init_hidden(batch_size, image_size)
            return h + 1, c

        def initial_state(self, x):
            state = super().initial_state(x)
            return state._replace(c=state.c + 2)

    h, c = Twice(2, 3, 3).initial_state(FRAMES[:, 0])
    assert h.eq(1).all()
    assert c.eq(2).all()


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"target_size": (3, 2)}])
def test_a_layers_init_hidden_can_be_called_by_a_forward_of_ones_own(options):
    class Own(ConvLSTM):
        def _init_hidden(self, batch_size, image_size):
            return super()._init_hidden(batch_size, image_size)

        def forward(self, input_tensor, hidden_state=None):
            begun = self._init_hidden(len(input_tensor), input_tensor.shape[3:])
            return super().forward(input_tensor, begun)

    layer, plain = (kind(2, [3, 4], 3, batch_first=True, **options) for kind in (Own, ConvLSTM))
    plain.load_state_dict(layer.state_dict())
    assert_close(layer(FRAMES), plain(FRAMES))


def test_a_layers_init_hidden_alone_is_not_overridden_in_vain():
    class Begins(ConvLSTM):
        def _init_hidden(self, batch_size, image_size):
            return None

    with pytest.raises(
        OptionError, match="a Begins with an _init_hidden of its own: override init_hidden of"
    ):
        Begins(2, 3, 3)


class FirstParameter(ConvLSTMCell):
    """The state to begin with is the parameter itself."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.first = nn.Parameter(torch.rand(2, 3, 6, 5))

    def init_hidden(self, batch_size, image_size):
        return self.first, self.first


class OnlyInitialState(ConvLSTMCell):
    """Says it where cells of this library do."""

    def initial_state(self, x):
        return LSTMState(*(state + 0.5 for state in super().initial_state(x)))


def test_both_ways_to_say_where_a_sequence_begins_agree():
    cell = OnlyInitialState(2, 3, 3)
    assert_close(cell.init_hidden(2, (6, 5)), cell.initial_state(FRAMES[:, 0]))
    assert cell.init_hidden(2, (6, 5)).h.unique().tolist() == [0.5]
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=FirstParameter)
    first = layer.cell_list[0].first
    _, states = layer(FRAMES[:, :2], [(first, first)])
    assert_close(layer(FRAMES[:, :2])[1][0], states[0])
    by_hand = layer.cell_list[0]
    by_hand.init_hidden = lambda batch_size, image_size: (torch.zeros(2, 3, 6, 5),) * 2
    assert not layer(FRAMES[:, :1])[1][0].c.equal(states[0].c)
    assert_close(layer(FRAMES)[1][0], layer(FRAMES, [(torch.zeros(2, 3, 6, 5),) * 2])[1][0])


@pytest.mark.parametrize("all_layers", [False, True])
def test_states_edited_in_place_are_the_states(all_layers):
    layer = ConvLSTM(2, [3, 3], 3, 2, True, True, all_layers)
    _, states = layer(FRAMES)
    for n in range(len(states)):
        states[n] = [tensor.detach() * 2 for tensor in states[n]]
    by_hand = list(layer(FRAMES)[1].all_layers)
    by_hand[-len(states) :] = [LSTMState(h * 2, c * 2) for h, c in by_hand[-len(states) :]]
    assert_close(layer(FRAMES, states), layer(FRAMES, by_hand))
    if all_layers:
        assert not any(tensor.requires_grad for tensor in states.tensors())
    states.clear()
    with pytest.raises(ShapeError, match=f"one state per layer \\(2\\); received {0 if all_layers else 1}"):
        layer(FRAMES, states)


def test_states_pass_through_files_trees_and_pickle(tmp_path):
    layer = ConvLSTM(2, [3, 3], 3, batch_first=True, bidirectional=True)
    _, states = layer(FRAMES)
    states = states.detach()
    torch.save(states, tmp_path / "states.pt")
    for again in (
        torch.load(tmp_path / "states.pt", weights_only=True),
        pickle.loads(pickle.dumps(states)),
        copy.deepcopy(states),
        tree_map(torch.clone, states),
    ):
        assert (type(again), len(again)) == (type(states), 1)
        assert_close(again.tensors(), states.tensors())
        assert_close(layer(FRAMES, again), layer(FRAMES, states))


@engines
@pytest.mark.parametrize("training", [False, True])
def test_the_only_output_is_not_the_state(engine, training):
    layer = ConvLSTM(2, 3, 3, batch_first=True, last_only=True, engine=engine)
    with torch.set_grad_enabled(training):
        outputs, states = layer(FRAMES)
        kept = states[-1].h.clone()
        outputs[-1].mul_(2)
    assert torch.equal(states[-1].h, kept)


def test_the_only_output_of_a_climbing_stack_is_not_the_state():
    class Climbing(Cell):
        climbs = True

        def initial_state(self, x):
            return LSTMState(*x.new_zeros(2, len(x), 2, *x.shape[2:]).unbind())

        def project(self, x):
            return x

        def step(self, p, state, memory):
            return LSTMState(torch.tanh(p + state.h), state.c + p), memory + p

    make = lambda inputs, hidden, kernel, bias: Climbing(inputs, hidden, kernel)  # noqa: E731
    outputs, states = ConvLSTM(2, 2, 3, batch_first=True, last_only=True, cell=make)(FRAMES)
    kept = states[-1].h.clone()
    outputs[-1].mul_(2)
    assert torch.equal(states[-1].h, kept)


def test_a_state_put_back_to_the_initial_one_passes_through():
    layer = ConvLSTM(2, [3, 3], 3, 2, True, True, True)
    _, states = layer(FRAMES)
    states[0] = None
    assert states.detach()[0] is None
    assert_close(layer(FRAMES, states)[1][0], layer(FRAMES)[1][0])


def test_a_stream_in_use_is_copied_and_pickled_where_it_stands():
    layer = ConvLSTM(2, 3, 3, batch_first=True)
    stream = layer.stream(2, (6, 5))
    expected = layer(FRAMES)[0][0].detach()
    stream(FRAMES[:, 0])
    for again in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        for t in range(1, 4):
            assert_close(again(FRAMES[:, t]), expected[:, t])
    assert_close(stream(FRAMES[:, 1]), expected[:, 1])


def test_what_a_reset_ends_is_added_to_no_missing_frame_after_it():
    layer = ConvLSTM(2, 2, 3, batch_first=True, residual=True)
    mask = torch.tensor([[True, True, False, True]] * 2)
    starts = torch.tensor([[False, False, True, False]] * 2)
    first = layer(FRAMES, mask=mask, reset=starts)[0][0]
    other = torch.cat([FRAMES[:, :2] + 3, FRAMES[:, 2:]], dim=1)
    assert_close(layer(other, mask=mask, reset=starts)[0][0][:, 2:], first[:, 2:])
    assert not first[:, 2].any()


def test_a_state_that_is_no_tuple_is_refused():
    class Bare(Cell):
        def initial_state(self, x):
            return x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])

        def project(self, x):
            return x

        def step(self, p, state):
            return state + p[:, :1]

    layer = ConvLSTM(2, 2, 3, batch_first=True, cell=lambda n, m, k, bias: Bare(n, m, k))
    with pytest.raises(
        OptionError, match="initial_state must return a NamedTuple .* the Bare's returned a tensor"
    ):
        layer(FRAMES)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(inplace=True), lambda: nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)]
)
def test_an_activation_in_place_is_refused(activation):
    if not isinstance(activation, nn.Module):
        activation = activation()
    with pytest.raises(OptionError, match="output_activation must leave its input as it is"):
        ConvLSTMCell(2, 3, 3, output_activation=activation)


@pytest.mark.parametrize("shape", [(1, 3, 6, 5), (2, 3, 1, 1)])
def test_compiled_layers_check_their_states_too(shape):
    layer, small = ConvLSTM(2, 3, 3, batch_first=True), torch.ones(shape)
    try:
        with pytest.raises(ShapeError, match="must fit batch, cell and frames"):
            torch.compile(layer, backend="eager")(FRAMES, [(small, small)])
    finally:
        torch.compiler.reset()  # what was given up while it was traced would not be traced again


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(None), ShapeError, r"\(B, T, C, H, W\) must be a tensor; received a NoneType"),
        (
            lambda layer: layer(FRAMES.numpy()),
            ShapeError,
            "received a ndarray: convert it with torch.as_tensor",
        ),
        (
            lambda layer: layer(nn.utils.rnn.pack_sequence([torch.zeros(3, 2)])),
            ShapeError,
            "received a PackedSequence: sequences of different lengths are padded and passed with lengths=",
        ),
        (lambda layer: layer(FRAMES, mask=[[True]]), ShapeError, r"mask \(B, T\) must be a tensor"),
        (lambda layer: layer(FRAMES, reset=np.ones((2, 4), bool)), ShapeError, r"reset \(B, T\) must be"),
        (
            lambda layer: layer(FRAMES, mask=torch.ones(2, 4)),
            ShapeError,
            r"\.bool\(\) turns numbers into flags",
        ),
        (
            lambda layer: layer(FRAMES, [(None, None)]),
            ShapeError,
            "LSTMState; received NoneType and NoneType",
        ),
        (
            lambda layer: ConvGRU(2, 3, 3, batch_first=True)(FRAMES, [torch.zeros(2, 3, 6, 5)]),
            ShapeError,
            "must hold the tensors h of a GRUState; received Tensor: pass what",
        ),
        (lambda layer: layer.cell_list[0](None), ShapeError, r"a frame \(B, C, H, W\) must be a tensor"),
        (lambda layer: ConvLSTM(2, 3, "same"), OptionError, "kernel_size must be .*; received 'same'"),
        (lambda layer: ConvLSTM(2, 3, 3.0), OptionError, r"kernel_size must be .*; received 3\.0"),
        (
            lambda layer: ConvLSTM(64, 32, 3, True),
            OptionError,
            "num_layers must be an integer .*; received True",
        ),
        (lambda layer: ConvLSTM(2, 3, 3, dropout="0.5"), OptionError, "dropout must be at least 0 .*'0.5'"),
        (lambda layer: ConvLSTM(2, 3, 3, checkpoint=True), OptionError, "checkpoint must be at least 1 step"),
        (
            lambda layer: ConvLSTM(2, 3, 3, cell="gru"),
            OptionError,
            "cell must be a class or a factory; .*'gru'",
        ),
        (
            lambda layer: ConvLSTM(2, 3, 3, cell=ConvLSTMCell(2, 3, 3)),
            OptionError,
            "cell must be what builds a module for each layer; received a ConvLSTMCell that is built: pass",
        ),
        (
            lambda layer: ConvLSTM(2, 3, 3, norm=nn.BatchNorm2d(3)),
            OptionError,
            "norm must be what builds a module for each layer; received a BatchNorm2d that is built",
        ),
        (
            lambda layer: ConvLSTM(2, 3, 3, peephole="channel"),
            OptionError,
            r"one of the cell: pass cell=functools\.partial\(ConvLSTMCell, peephole=\.\.\.\)",
        ),
    ],
)
def test_common_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(ConvLSTM(2, 3, 3, batch_first=True))


def test_numbers_of_numpy_are_numbers(tmp_path):
    layer = ConvLSTM(np.int64(2), np.int32(3), (np.int64(3), 3), np.int64(1), batch_first=True)
    assert layer(FRAMES)[0][0].shape == (2, 4, 3, 6, 5)
    assert ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path)).hidden_dim == [3]


def test_what_is_printed_tells_layers_apart():
    cell = functools.partial(ConvLSTMCell, gate_activation="hard_sigmoid", padding_mode="circular")
    shown = repr(ConvLSTM(2, 3, 3, 1, True, cell=cell, residual="project", engine="reference"))
    for part in (
        "num_layers=1, batch_first=True, residual='project', engine='reference'",
        "gate_activation=hardsigmoid, candidate_activation=tanh, output_activation=tanh",
        "padding_mode=circular",
    ):
        assert part in shown
    assert "batch_first" not in repr(ConvLSTM(2, 3, 3))


def test_states_move_as_tensors_do():
    layer = ConvLSTM(2, [3, 3], 3, batch_first=True)
    _, states = layer(FRAMES)
    double = states.to(torch.float64)
    assert {tensor.dtype for tensor in double.tensors()} == {torch.float64}
    assert_close(double.to(torch.float32).tensors(), states.tensors())
