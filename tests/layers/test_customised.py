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
from convlstm.engines import available as engines_available
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


def inside_replaced(conv, monkeypatch):
    inner = conv._conv_forward
    conv._conv_forward = lambda x, weight, bias: 0.5 * inner(x, weight, bias)


def call_overridden(conv, monkeypatch):
    conv.__class__ = type(
        "Own", (nn.Conv2d,), {"__call__": lambda self, x: 0.5 * super(type(self), self).__call__(x)}
    )


def changed_by_a_hook_of_all_modules(conv, monkeypatch):
    hooks, key = nn.modules.module._global_forward_hooks, "half"
    monkeypatch.setitem(hooks, key, lambda module, inputs, y: 0.5 * y if module is conv else None)


@pytest.mark.parametrize("engine", ["auto", "fused", "reference"])
@pytest.mark.parametrize("change", [inside_replaced, call_overridden, changed_by_a_hook_of_all_modules])
def test_a_convolution_changed_from_outside_is_the_one_that_runs(engine, change, monkeypatch):
    layer = ConvLSTM(2, 3, 3, batch_first=True, engine=engine)
    stream = layer.stream(2, (6, 5))
    stream(FRAMES[:, 0])
    stream.state = None
    plain = layer(FRAMES)[0][0]
    change(layer.cell_list[0].conv, monkeypatch)
    zeros = torch.zeros(2, 3, 6, 5)
    outputs, *_ = original(layer.cell_list[0], FRAMES, zeros, zeros)
    assert not torch.allclose(outputs, plain, atol=1e-3)
    assert_close(layer(FRAMES)[0][0], outputs)
    for t in range(4):
        assert_close(stream(FRAMES[:, t]), outputs[:, t].detach())


@pytest.mark.parametrize("engine", ["auto", "fused", "reference"])
def test_a_convolution_changed_before_the_layer_was_built_is_the_one_that_runs(engine, monkeypatch):
    inner = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda *arguments: 0.5 * inner(*arguments))
    layer, zeros = ConvLSTM(2, 3, 3, batch_first=True, engine=engine), torch.zeros(2, 3, 6, 5)
    assert_close(layer(FRAMES)[0][0], original(layer.cell_list[0], FRAMES, zeros, zeros)[0])


def test_a_forward_put_in_the_place_of_that_of_all_cells_runs(monkeypatch):
    inner, layer = Cell.forward, ConvLSTM(2, 3, 3, batch_first=True)
    plain = layer(FRAMES)[0][0]
    monkeypatch.setattr(Cell, "forward", lambda *given: LSTMState(*(0.5 * part for part in inner(*given))))
    assert_close(layer(FRAMES[:, :1])[0][0], 0.5 * plain[:, :1])


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
    heard.set_engine(engine)
    maps = []
    handle = heard.cell_list[0].conv.register_forward_hook(lambda module, inputs, y: maps.append(y))
    assert_close(heard(FRAMES), plain(FRAMES))
    assert [tuple(y.shape) for y in maps] == [(2, 3 * family.gates, 6, 5)] * 4
    handle.remove()
    heard(FRAMES)
    assert len(maps) == 4


def test_hooks_on_layers_and_cells_hear_what_the_guide_says():
    """A cell's hook gets a state. A layer's outputs are in lists, in which torch seeks no gradients."""
    layer, x, heard = ConvLSTM(2, 3, 3, batch_first=True), FRAMES.clone().requires_grad_(), []
    layer.register_full_backward_hook(lambda *_: heard.append("layer"))
    (outputs,), _ = layer(x)
    outputs.register_hook(lambda gradient: heard.append(tuple(gradient.shape)))
    outputs.sum().backward()
    assert heard == [(2, 4, 3, 6, 5)]
    maps, gradients = [], []
    layer.cell_list[0].register_forward_hook(lambda cell, inputs, output: maps.append(output.h))
    layer.cell_list[0].register_full_backward_hook(lambda cell, inner, outer: gradients.append(outer[0]))
    (outputs,), _ = layer(x)
    outputs.sum().backward()
    assert_close(torch.stack(maps, 1), outputs)
    assert [tuple(g.shape) for g in gradients] == [(2, 3, 6, 5)] * 4


def test_a_stream_hears_hooks_on_the_convolution_that_come_later():
    layer, maps = ConvLSTM(2, 3, 3, batch_first=True), []
    expected = layer(FRAMES)[0][0].detach()
    stream = layer.stream(2, (6, 5))
    for t in range(4):
        if t == 2:
            layer.cell_list[0].conv.register_forward_hook(lambda module, inputs, y: maps.append(y))
        assert_close(stream(FRAMES[:, t]), expected[:, t])
    assert len(maps) == 2


@engines
def test_a_convolution_put_in_its_place_serves_a_gru_too(engine):
    layer = ConvGRU(2, 3, 3, batch_first=True, engine=engine)
    layer.cell_list[0].conv = nn.Conv2d(5, 9, 3, padding=1, padding_mode="circular")
    circular = functools.partial(ConvGRUCell, padding_mode="circular")
    expected = ConvGRU(2, 3, 3, batch_first=True, cell=circular)
    expected.load_state_dict(layer.state_dict())
    assert_close(layer(FRAMES)[0], expected(FRAMES)[0])


def test_a_module_that_need_not_be_affine_is_refused_by_a_gru():
    layer = ConvGRU(2, 3, 3, batch_first=True)
    layer.cell_list[0].conv = nn.Sequential(nn.Conv2d(5, 9, 3, padding=1), nn.ReLU())
    with pytest.raises(OptionError, match="ConvGRUCell must be a convolution or an adapter .* a Sequential"):
        layer(FRAMES)


class Adapter(nn.Module):
    """What peft puts in a convolution's place: it holds the convolution, and adds a path of few channels."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Conv2d(base_layer.in_channels, 2, 3, padding=1, bias=False)
        self.up = nn.Conv2d(2, base_layer.out_channels, 1, bias=bool(base_layer.bias is not None))

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))

    def merged(self):
        """The convolution that does the same."""
        conv, base = nn.Conv2d(*self.base_layer.weight.shape[1::-1], 3, padding=1), self.base_layer
        conv.weight.data = base.weight + torch.einsum(
            "or,rikl->oikl", self.up.weight[..., 0, 0], self.down.weight
        )
        conv.bias.data = base.bias + self.up.bias
        return conv


class OwnGates(ConvGRUCell):
    """Takes the halves in a step of its own."""

    def step(self, p, state):
        return super().step(2 * p, state)


class OwnStep(ConvLSTMCell):
    """A step of its own, with all gates halved."""

    def step(self, p, state):
        return self.update(0.5 * self.preactivations(p, state.h), state)


@engines
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "cell",
    [
        ConvGRUCell,
        functools.partial(ConvGRUCell, reset_after=False, attention="channel"),
        OwnGates,
        OwnStep,
        ConvLSTMCell,
    ],
)
def test_adapters_around_a_convolution_act_and_learn(engine, nested, cell):
    """As a layer whose convolution has their weights: by halves too, in streams, and in one of each layer."""
    torch.manual_seed(0)
    layer = ConvGRU(2, 3, 3, 2, batch_first=True, cell=cell, engine=engine)
    merged = copy.deepcopy(layer)
    for place, plain in zip(layer.cell_list, merged.cell_list, strict=True):
        place.conv = Adapter(place.conv)
        plain.conv.load_state_dict(place.conv.merged().state_dict())
        if nested:
            place.conv = Adapter(place.conv.base_layer)
            inner = copy.deepcopy(place.conv)
            place.conv.base_layer = Adapter(place.conv.base_layer)
            inner.base_layer = place.conv.base_layer.merged()
            plain.conv.load_state_dict(inner.merged().state_dict())
    outputs, states = layer(FRAMES)
    expected, ends = merged(FRAMES)
    assert_close(outputs, expected)
    assert_close([tuple(s) for s in states], [tuple(s) for s in ends])
    outputs[0].square().sum().backward()
    assert all(p.grad.any() for name, p in layer.named_parameters() if "down" in name or "up" in name)
    stream = layer.stream(2, (6, 5))
    for t in range(4):
        assert_close(stream(FRAMES[:, t]), expected[0][:, t].detach())


@pytest.mark.parametrize("cell", [ConvGRUCell, ConvLSTMCell])
def test_an_adapter_acts_around_a_convolution_of_two_paddings(cell):
    padded = functools.partial(cell, padding_mode=("replicate", "circular"))
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=padded)
    before = layer(FRAMES)[0]
    adapter = layer.cell_list[0].conv = Adapter(layer.cell_list[0].conv)
    with torch.no_grad():
        adapter.up.weight.zero_()
        adapter.up.bias.zero_()
    assert_close(layer(FRAMES)[0], before)
    adapter.up.bias.data.fill_(1.0)
    adapter.base_layer.bias.data.sub_(1.0)
    assert_close(layer(FRAMES)[0], before)


class Doubled(ConvLSTMCell):
    """Reads twice the hidden state."""

    def preactivations(self, x, h):
        return super().preactivations(x, 2 * h)


class DoubledGRU(ConvGRUCell):
    """Reads twice the hidden state in its gates."""

    def project_hidden(self, h, gates=slice(None)):
        return 2 * super().project_hidden(h, gates)


@pytest.mark.parametrize("cell", [Doubled, DoubledGRU, OwnStep, ConvGRUCell])
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
@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, ConvRNNCell])
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.spectral_norm.*deprecated")
def test_weights_that_a_hook_computes_are_used_and_learn(engine, cell):
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=cell, engine=engine).eval()
    plain = copy.deepcopy(layer)
    conv = nn.utils.spectral_norm(layer.cell_list[0].conv)
    outputs = layer(FRAMES)[0]
    plain.cell_list[0].conv.weight.data.copy_(conv.weight)
    assert_close(outputs, plain(FRAMES)[0])
    outputs[0].sum().backward()
    assert conv.weight_orig.grad.any()


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


@engines
def test_a_sequence_goes_on_where_init_hidden_says_where_one_begins(engine):
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=Learned, engine=engine).eval()
    whole = layer(FRAMES)[0][0]
    first, states = layer(FRAMES[:, :2])
    rest, _ = layer(FRAMES[:, 2:], states)
    assert_close(torch.cat([first[0], rest[0]], dim=1), whole)
    session = layer.stream(batch_size=2, size=(6, 5))
    frames = [session(frame).clone() for frame in FRAMES.unbind(1)]
    assert_close(torch.stack(frames, dim=1), whole)


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


def test_the_only_output_of_a_stack_with_memory_is_not_the_state():
    class WithMemory(Cell):
        spatiotemporal_memory = True

        def initial_state(self, x):
            return LSTMState(*x.new_zeros(2, len(x), 2, *x.shape[2:]).unbind())

        def project(self, x):
            return x

        def step(self, p, state, memory):
            return LSTMState(torch.tanh(p + state.h), state.c + p), memory + p

    make = lambda inputs, hidden, kernel, bias: WithMemory(inputs, hidden, kernel)  # noqa: E731
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


class Shrinking(ConvLSTMCell):
    """Reads every other pixel."""

    def initial_state(self, x):
        return super().initial_state(x[..., ::2, ::2])

    def project(self, x):
        return super().project(x[..., ::2, ::2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(None), ShapeError, r"\(B, T, C, H, W\) must be a tensor; received a NoneType"),
        (
            lambda layer: layer(FRAMES.numpy()),
            ShapeError,
            "received an ndarray: convert it with torch.as_tensor",
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
            r"received a list with tensors in it: for one layer pass \[\(h,\)\]",
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
        (
            lambda layer: layer(FRAMES, (torch.zeros(2, 3, 6, 5),) * 2),
            ShapeError,
            r"one state per layer; received a tuple with tensors in it: for one layer pass \[\(h, c\)\]",
        ),
        (
            lambda layer: ConvLSTM(2, 3, 3, 2, True)(FRAMES, [torch.zeros(2, 3, 6, 5)] * 2),
            ShapeError,
            r"received a list with tensors in it: for one layer pass \[\(h, c\)\]",
        ),
        (
            lambda layer: layer(FRAMES, layer(FRAMES)[1][0]),
            ShapeError,
            r"received a LSTMState with tensors in it: for one layer pass \[\(h, c\)\]",
        ),
        (
            lambda layer: ConvGRU(2, 3, 3, batch_first=True)(FRAMES, torch.zeros(2, 3, 6, 5)),
            ShapeError,
            r"one state per layer; received a tensor: for one layer pass \[\(h,\)\]",
        ),
        (
            lambda layer: layer(torch.nested.nested_tensor([FRAMES[0], FRAMES[1, :2]], layout=torch.jagged)),
            ShapeError,
            "must be one dense tensor; received a nested tensor: pad it with .* as lengths=",
        ),
        (
            lambda layer: layer.cell_list[0](torch.nested.nested_tensor([FRAMES[0, 0]], layout=torch.jagged)),
            ShapeError,
            "must be one dense tensor; received a nested tensor",
        ),
        (
            lambda layer: layer(FRAMES.to_sparse()),
            ShapeError,
            r"must be a dense tensor; received torch\.sparse_coo: convert it with to_dense\(\)",
        ),
        *(
            (
                lambda layer, residual=residual: ConvLSTM(
                    2, 2, 3, 2, True, cell=Shrinking, residual=residual
                )(FRAMES),
                ShapeError,
                r"residual joins .*; received \(6, 5\) in and \(3, 3\) out of layer 0: leave residual out",
            )
            for residual in (True, "project", "dense")
        ),
        *(
            (
                lambda layer, option=option, value=value: ConvLSTM(
                    **ConvLSTM(2, 3, 3, **{option: value}).hyperparameters
                ),
                OptionError,
                rf"{option} must be a class or a factory; received {{.*: pass the hyperparameters to "
                r"rebuild, as in ConvLSTM\.rebuild\(layer\.hyperparameters\)",
            )
            for option, value in (
                ("cell", ConvGRUCell),
                ("cell", functools.partial(ConvLSTMCell, forget_bias=1.0)),
                ("cell", [ConvGRUCell, ConvLSTMCell]),
                ("norm", nn.BatchNorm2d),
            )
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


class Scaled(ConvLSTM):
    """A forward of its own around the stack's."""

    def forward(self, x, hidden_state=None, **flags):
        outputs, states = super().forward(x, hidden_state, **flags)
        return [2 * y for y in outputs], states


class LastAlone(ConvLSTM):
    """Returns the last layer's outputs without a list."""

    def forward(self, x, hidden_state=None):
        outputs, states = super().forward(x, hidden_state)
        return torch.relu(outputs[-1]), states


class Skip(ConvLSTM):
    """The guide's connection from the input to the output, which keeps the size."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.skip = nn.Conv2d(2, 3, 1)

    def forward(self, x, hidden_state=None):
        outputs, states = super().forward(x, hidden_state)
        skipped = self.skip(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return [*outputs[:-1], outputs[-1] + skipped], states


class Pooled(ConvLSTM):
    """The guide's layer for any resolution, which works at one size."""

    def forward(self, x, hidden_state=None):
        small = nn.functional.adaptive_avg_pool2d(x.flatten(0, 1), (4, 4)).unflatten(0, x.shape[:2])
        return super().forward(small, hidden_state)


class OwnStates(ConvLSTM):
    """Keeps a count beside the stack's states."""

    def forward(self, x, hidden_state=None):
        states, count = (None, torch.zeros(())) if hidden_state is None else hidden_state
        outputs, states = super().forward(x, states)
        return [outputs[-1] + count], (states, count + 1)


class OwnStep(ConvLSTM):
    def step(self, frame, state=None):
        output, state = super().step(frame, state)
        return -output, state


def streamed(layer, x):
    with torch.no_grad():
        session = layer.stream(len(x), x.shape[3:])
        return torch.stack([session(frame).clone() for frame in x.unbind(1)], dim=1)


@pytest.mark.parametrize("engine", ["auto", "fused", "compiled", "reference"])
@pytest.mark.parametrize("kind", [Scaled, LastAlone, Skip, Pooled])
def test_a_forward_of_a_subclass_takes_effect_in_streams(kind, engine):
    if engine == "compiled" and engines_available()["compiled"]:
        pytest.skip("no compiler here")
    torch.manual_seed(0)
    layer = kind(2, 3, 3, 2, batch_first=True, engine=engine).eval()
    outputs = layer(FRAMES)[0]
    last = outputs[-1] if isinstance(outputs, list) else outputs
    assert_close(streamed(layer, FRAMES), last)


def test_what_else_changes_a_call_takes_effect_in_streams():
    torch.manual_seed(0)
    plain = ConvLSTM(2, 3, 3, 2, batch_first=True).eval()
    expected = plain(FRAMES)[0][-1]

    def double(module, inputs, result):
        return [2 * y for y in result[0]], result[1]

    hooked = copy.deepcopy(plain)
    session = hooked.stream(2, (6, 5))
    session(FRAMES[:, 0])
    handle = hooked.register_forward_hook(double)  # while the stream is running
    assert_close(session(FRAMES[:, 1]), 2 * expected[:, 1])
    handle.remove()
    assert_close(session(FRAMES[:, 2]), expected[:, 2])
    halved = copy.deepcopy(plain)
    halved.register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0], *inputs[1:]))
    assert_close(streamed(halved, FRAMES), plain(0.5 * FRAMES)[0][-1])
    instance = copy.deepcopy(plain)
    instance.forward = lambda *inputs: double(None, inputs, plain.forward(*inputs))
    assert_close(streamed(instance, FRAMES), 2 * expected)
    counted = expected + torch.arange(4.0)[:, None, None, None]
    for kind, effect in ((OwnStep, -expected), (OwnStates, counted)):
        layer = kind(2, 3, 3, 2, batch_first=True)
        layer.load_state_dict(plain.state_dict())
        assert_close(streamed(layer, FRAMES), effect)
    session = layer.stream(2, (6, 5))  # states of another kind can be kept and gone back to
    first = session(FRAMES[:, 0]).clone()
    kept = session.state
    second = session(FRAMES[:, 1]).clone()
    session.state = kept
    assert torch.equal(session(FRAMES[:, 1]), second)
    session.state = None
    assert torch.equal(session(FRAMES[:, 0]), first)


def test_a_forward_that_no_stream_can_be_made_of_is_refused_in_words():
    class Bare(ConvLSTM):
        def forward(self, x, hidden_state=None):
            return super().forward(x, hidden_state)[0][-1]

    class Mean(ConvLSTM):
        def forward(self, x, hidden_state=None):
            outputs, states = super().forward(x, hidden_state)
            return outputs[-1].mean(1), states

    class Stateless(ConvLSTM):
        def forward(self, x):
            return super().forward(x)

    for kind, received in ((Bare, r"a tensor \(2, 1, 3, 6, 5\)"), (Mean, r"a tensor \(2, 3, 6, 5\)")):
        with pytest.raises(OptionError, match=rf"{kind.__name__}'s forward returned .*{received}"):
            streamed(kind(2, 3, 3, batch_first=True), FRAMES)
    with pytest.raises(OptionError, match="takes hidden_state; received a Stateless whose forward"):
        Stateless(2, 3, 3, batch_first=True).stream(2, (6, 5))


def test_a_step_is_one_frame_of_a_call():
    torch.manual_seed(0)
    for layer in (
        ConvLSTM(2, 3, 3, 2, batch_first=True),
        ConvGRU(2, [3, 4], 3, return_all_layers=True, residual="project", norm="group"),
        ConvLSTM(2, 3, 3, 2, target_size=(3, 3), restore_size=True),
    ):
        x = FRAMES if layer.batch_first else FRAMES.transpose(0, 1)
        outputs, ends = layer(x)
        state = None
        for t in range(4):
            y, state = layer.step(FRAMES[:, t], state)
            assert_close(y, outputs[-1].select(1 if layer.batch_first else 0, t))
        assert_close(state.tensors(), ends.tensors())


#: Names that the original and its copies give to attributes, and those that this library's stack once had.
# fmt: off
NAMES = [
    "activation", "attention", "axes", "backward", "backward_cells", "bn", "buffer", "cell",
    "cells", "channels", "checkpoint", "climbs", "config", "conv", "conv_out", "convs", "decoder",
    "depth", "detach_every", "device", "dilation", "dim", "directions", "drop", "dropout",
    "effective_padding", "encoder", "engine", "extra", "features", "flatten", "forget_bias",
    "forward_cells", "fusion", "gates", "groups", "h", "head", "height", "hidden",
    "hidden_channels", "hidden_size", "image_size", "in_channels", "init_states", "input_channels",
    "input_shape", "input_size", "inputs", "inner", "keep", "kernel", "last_only", "layer",
    "layers", "length", "lengths", "linear", "mask", "memory", "merge", "model", "modes", "module",
    "name", "norm", "norm_list", "norms", "num_classes", "num_directions", "num_features",
    "options", "out", "out_channels", "output", "output_dim", "outputs", "p", "padding", "params",
    "plan", "pool", "projection", "reducer", "reset", "residual", "restore_size", "reverse",
    "reverse_cell_list", "reverse_net", "save", "seq_len", "sequence_length", "shape", "size",
    "skip", "skip_list", "spatial", "state", "states", "statistics", "steps", "stride",
    "target_size", "teacher", "time", "time_major", "timeline", "transform", "width", "widths",
    "zoneout", "_all_layers", "_build", "_cells", "_drops", "_forward", "_hidden", "_init_weights",
    "_layer", "_layers", "_norm", "_options", "_plan", "_run", "_states", "_steps"
]
# fmt: on


@pytest.mark.parametrize("value", [None, 7, nn.Dropout2d(0.2), nn.ModuleList([nn.Identity()])], ids=str)
def test_attributes_of_a_subclass_change_no_number(value):
    class Before(ConvLSTM):
        def __init__(self, *sizes, **options):
            if not isinstance(value, nn.Module):
                for name in NAMES:
                    setattr(self, name, value)
            super().__init__(*sizes, **options)

    class After(ConvLSTM):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            for name in NAMES:
                setattr(self, name, value)

    rich = {"residual": True, "dropout": 0.0, "zoneout": 0.1, "last_only": True}
    for options in ({}, rich, {"target_size": (4, 4), "restore_size": True}):
        torch.manual_seed(0)
        plain = ConvLSTM(2, 2, 3, 2, batch_first=True, **options).eval()
        for kind in (Before, After):
            layer = kind(2, 2, 3, 2, batch_first=True, **options).eval()
            layer.load_state_dict(plain.state_dict())
            expected, states = plain(FRAMES)
            outputs, found = layer(FRAMES, lengths=torch.tensor([4, 4]))
            assert_close(outputs, expected)
            assert_close(found.tensors(), states.tensors())
            assert_close(streamed(layer, FRAMES), streamed(plain, FRAMES))
            if kind is Before and not isinstance(value, nn.Module):
                assert all(getattr(layer, name) is value for name in NAMES)


def test_what_a_stack_keeps_has_names_that_no_user_would_choose():
    documented = {"input_dim", "hidden_dim", "kernel_size", "num_layers", "batch_first", "bias"}
    documented |= {"return_all_layers", "cell_list"}
    layer = ConvLSTM(2, 3, 3, 2)
    own = (vars(layer).keys() | layer._modules.keys()) - vars(nn.Module()).keys()
    assert {name for name in own if not name.startswith("_convlstm")} == documented
    assert layer.hidden_dim == [3, 3]
    assert layer.kernel_size == [(3, 3), (3, 3)]


class BiConvLSTM(ConvLSTM):
    """The popular guide's layer for both directions, as it is written there."""

    def __init__(self, input_dim, hidden_dim, kernel_size, num_layers, batch_first=True):
        super().__init__(input_dim, hidden_dim, kernel_size, num_layers, batch_first=batch_first)
        self.reverse_cell_list = nn.ModuleList(
            [
                ConvLSTMCell(input_dim if n == 0 else hidden_dim, hidden_dim, kernel_size, True)
                for n in range(num_layers)
            ]
        )

    def forward(self, input_tensor, hidden_state=None):
        forward_output, forward_state = super().forward(input_tensor, hidden_state)
        backward_output, backward_state = super().forward(torch.flip(input_tensor, [1]), hidden_state)
        backward_output = torch.flip(backward_output[-1], [1])
        return torch.cat([forward_output[-1], backward_output], dim=2), (forward_state, backward_state)


def test_the_guides_layer_for_both_directions_runs_as_in_the_original():
    torch.manual_seed(0)
    layer = BiConvLSTM(2, 3, 3, 2)
    plain = ConvLSTM(2, 3, 3, 2, batch_first=True)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("reverse")})
    output, (forward, backward) = layer(FRAMES)
    there, ends = plain(FRAMES)
    back, starts = plain(FRAMES.flip(1))
    assert_close(output, torch.cat([there[-1], back[-1].flip(1)], dim=2))
    assert_close([*forward.tensors(), *backward.tensors()], [*ends.tensors(), *starts.tensors()])


def test_the_states_that_a_deeper_stack_shows_begin_a_shallower_one():
    torch.manual_seed(0)
    encoder, decoder = ConvLSTM(2, 3, 3, 3, batch_first=True), ConvLSTM(2, 3, 3, 1, batch_first=True)
    _, states = encoder(FRAMES)
    assert len(states) == 1
    expected = decoder(FRAMES, [tuple(states[0])])[0][0]
    assert_close(decoder(FRAMES, states)[0][0], expected)
    session = decoder.stream(2, (6, 5))
    session.state = states
    assert_close(session(FRAMES[:, 0]), expected[:, 0].detach())
    # Three shown states begin three layers, and the same depth resumes whole.
    whole = ConvLSTM(2, 3, 3, 3, batch_first=True, return_all_layers=True)
    _, all_three = whole(FRAMES)
    assert_close(encoder(FRAMES, all_three)[0], encoder(FRAMES, [*all_three])[0])
    again = encoder(FRAMES, states)[1]
    assert_close(again.tensors(), encoder(FRAMES, states.all_layers)[1].tensors())
    with pytest.raises(ShapeError, match=r"one state per layer \(2\); received 3"):
        ConvLSTM(2, 3, 3, 2, batch_first=True)(FRAMES, states)
