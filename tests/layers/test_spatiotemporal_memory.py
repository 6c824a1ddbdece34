"""Spatiotemporal memories, in stacks and within cells, and foreign modules in the list of cells."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn

from convlstm import Cell, ConvGRUCell, ConvLSTM, ConvLSTMCell
from convlstm.cells import GHUCell, STLSTMCell
from convlstm.errors import OptionError, ShapeError
from convlstm.functional.conv import same_conv
from convlstm.layers import ScanOptions, SequenceFlags, StackState, scan


class ZigZagState(NamedTuple):
    h: torch.Tensor


class ZigZagCell(Cell):
    """A toy with the memory of an ST-LSTM: it enters from below, is changed, and leaves upwards."""

    spatiotemporal_memory = True

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.weight = nn.Parameter(0.3 * torch.randn(hidden_dim, input_dim, *self.kernel_size))
        self.gain = nn.Parameter(torch.rand(hidden_dim, 1, 1))

    def initial_state(self, x):
        return ZigZagState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x):
        return same_conv(x, self.weight)

    def step(self, p, state, memory):
        memory = torch.tanh(memory * self.gain + p)
        return ZigZagState(0.5 * state.h + memory), memory


def zig_zag(layer, x):
    """The schedule by hand: frame by frame, and within a frame layer by layer."""
    states = [cell.initial_state(x[:, 0]) for cell in layer.cell_list]
    memory = layer.cell_list[0].initial_memory(x[:, 0])
    outputs = []
    for t in range(x.shape[1]):
        h = x[:, t]
        for n, cell in enumerate(layer.cell_list):
            states[n], memory = cell.step(cell.project(h), states[n], memory)
            h = states[n].h
        outputs.append(h)
    return torch.stack(outputs, dim=1), states, memory


@pytest.fixture
def stack():
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 3, 3, batch_first=True, cell=ZigZagCell).double()
    return layer, torch.randn(2, 5, 2, 4, 4, dtype=torch.float64)


def test_the_memory_passes_up_the_layers_and_returns_to_the_lowest(stack):
    layer, x = stack
    (outputs,), states = layer(x)
    expected, by_hand, memory = zig_zag(layer, x)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close([tuple(s) for s in states.all_layers], [tuple(s) for s in by_hand])
    torch.testing.assert_close(states.memory, memory)


def test_its_state_resumes_the_sequence(stack):
    layer, x = stack
    (whole,), _ = layer(x)
    (first,), states = layer(x[:, :2])
    (second,), _ = layer(x[:, 2:], states)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


def test_its_states_may_be_plain_tuples(stack):
    layer, x = stack
    _, states = layer(x[:, :2])
    (expected,), _ = layer(x, list(states.all_layers))
    for kind in (tuple, list):
        torch.testing.assert_close(layer(x, [kind(state) for state in states.all_layers])[0][0], expected)


class Doubled(ZigZagCell):
    """Doubles the output in its call."""

    def forward(self, x, state=None, memory=None):
        (h,), memory = super().forward(x, state, memory)
        return ZigZagState(2 * h), memory


def test_hooks_and_forwards_of_ones_own_act_at_every_step(stack):
    layer, x = stack
    called = []
    hook = layer.cell_list[1].register_forward_hook(lambda *_: called.append(True))
    layer(x)
    assert len(called) == x.shape[1]
    hook.remove()
    doubled = ConvLSTM(2, 3, 3, 1, batch_first=True, cell=Doubled).double()
    state = memory = None
    for t, frame in enumerate(x.unbind(1)):
        state, memory = doubled.cell_list[0](frame, state, memory)
        torch.testing.assert_close(doubled(x)[0][0][:, t], state.h)


def test_all_layers_are_returned_on_request(stack):
    layer, x = stack
    (last,), _ = layer(x)
    layer.return_all_layers = True
    outputs, states = layer(x)
    torch.testing.assert_close(outputs[-1], last)
    assert [tuple(y.shape) for y in outputs] == [(2, 5, 3, 4, 4)] * 3
    torch.testing.assert_close([y[:, -1] for y in outputs], [state.h for state in states])


def test_masks_lengths_and_resets_reach_the_memory(stack):
    layer, x = stack
    mask = torch.tensor([[True, False, True, True, True], [True] * 5])
    (outputs,), _ = layer(torch.where(mask[..., None, None, None], x, torch.nan), mask=mask)
    torch.testing.assert_close(outputs[0, [0, 2, 3, 4]], layer(x[:1, [0, 2, 3, 4]])[0][0][0])
    (outputs,), states = layer(x, lengths=torch.tensor([3, 5]))
    (alone,), end = layer(x[:1, :3])
    torch.testing.assert_close(outputs[:1, :3], alone)
    torch.testing.assert_close(states.memory[:1], end.memory)
    reset = torch.zeros(2, 5, dtype=torch.bool)
    reset[:, 2] = True
    (outputs,), _ = layer(x, reset=reset)
    torch.testing.assert_close(outputs, torch.cat([layer(x[:, :2])[0][0], layer(x[:, 2:])[0][0]], dim=1))


def test_gradients_are_cut_where_asked(stack):
    _, x = stack
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=ZigZagCell, detach_every=2).double()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0][0][:, 3].sum(), x)
    assert gradient.abs().sum((0, 2, 3, 4)).gt(0).tolist() == [False, False, True, True, False]


class HandingLSTM(ConvLSTMCell):
    """Hands the memory on."""

    spatiotemporal_memory = True

    def step(self, p, state, memory):
        return super().step(p, state), memory


class HandingGRU(ConvGRUCell):
    """Hands the memory on."""

    spatiotemporal_memory = True

    def step(self, p, state, memory):
        return super().step(p, state), memory


@pytest.mark.parametrize(
    "options",
    [
        {"residual": "dense", "norm": "layer"},
        {"residual": "project"},
        {"last_only": True},
        {"zoneout": 0.3},
        {"detach_every": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_memory", [(0,), (1,), (0, 1)], ids=str)
def test_both_schedules_give_equal_numbers_for_every_other_cell(with_memory, options):
    """Layer by layer, and frame by frame with cells that hand a memory on unchanged."""
    plain, handing = [ConvLSTMCell, ConvGRUCell], [HandingLSTM, HandingGRU]
    cells = [handing[n] if n in with_memory else plain[n] for n in range(2)]
    torch.manual_seed(0)
    layer = ConvLSTM(2, [3, 4], 3, None, True, cell=plain, **options).double().eval()
    other = ConvLSTM(2, [3, 4], 3, None, True, cell=cells, **options).double().eval()
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    mask, reset = torch.ones(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    # Missing: in the middle, twice in a row, at the beginning, and where a sequence begins.
    mask[0, 2] = mask[1, 1:3] = mask[2, 0] = mask[2, 3] = False
    reset[2, 3] = reset[0, 1] = True
    flags = {"lengths": torch.tensor([5, 4, 5]), "reset": reset, "mask": mask}
    by_layer, states = layer(x, **flags)
    by_frame, others = other(x, **flags)
    torch.testing.assert_close(by_frame, by_layer)
    gradients = [torch.autograd.grad(outputs[-1].square().sum(), x) for outputs in (by_frame, by_layer)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close([tuple(s) for s in others.all_layers], [tuple(s) for s in states.all_layers])


def test_zoneout_reaches_the_state_and_not_the_memory(stack):
    _, x = stack
    layer = ConvLSTM(2, 3, 3, 1, batch_first=True, cell=ZigZagCell, zoneout=0.25).double().eval()
    (outputs,), _ = layer(x[:, :1])
    cell = layer.cell_list[0]
    new, _ = cell(x[:, 0], cell.initial_state(x[:, 0]), cell.initial_memory(x[:, 0]))
    torch.testing.assert_close(outputs[:, 0], 0.75 * new.h)
    assert (
        torch.equal(layer.train()(x[:, :1])[0][0][:, 0] == 0, layer.eval()(x[:, :1])[0][0][:, 0] == 0)
        is False
    )


def test_an_engine_named_that_cannot_run_a_cell_with_memory_is_refused(stack):
    layer, x = stack
    layer.set_engine("fused")
    layer(x)  # such a cell keeps its step
    called = []
    hook = layer.cell_list[1].register_forward_hook(lambda *_: called.append(True))
    layer(x)  # and its hooks
    layer(x, mask=torch.ones(2, 5, dtype=torch.bool))
    hook.remove()
    assert len(called) == 10
    with pytest.raises(OptionError, match="it has no zoneout"):
        ConvLSTM(2, 3, 3, 2, batch_first=True, cell=ZigZagCell, zoneout=0.2, engine="fused").double()(x)


def test_both_directions_with_a_memory_are_refused():
    with pytest.raises(OptionError, match="a spatiotemporal memory runs forward in time"):
        ConvLSTM(2, 3, 3, 2, cell=ZigZagCell, bidirectional=True)
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True, bidirectional=True, merge="sum")
    layer.cell_list[1] = ZigZagCell(3, 3, 3)
    with pytest.raises(OptionError, match=r"received a cell with one, bidirectional=True.*: leave these out"):
        layer(torch.zeros(1, 2, 2, 4, 4))


def test_a_cell_with_memory_put_into_a_stack_runs_frame_by_frame(stack):
    layer, x = stack
    plain = ConvLSTM(2, 3, 3, 3, batch_first=True).double()
    for n, cell in enumerate(layer.cell_list):
        plain.cell_list[n] = cell
    torch.testing.assert_close(plain(x)[0], layer(x)[0])


class Wrapped(Cell):
    """Delegates to a cell of any kind, whose memory it has if that has one."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True, *, inner=ZigZagCell):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.inner = inner(input_dim, hidden_dim, kernel_size, bias)
        self.spatiotemporal_memory = self.inner.spatiotemporal_memory

    def initial_state(self, x):
        return self.inner.initial_state(x)

    def initial_memory(self, x):
        return self.inner.initial_memory(x)

    def project(self, x):
        return self.inner.project(x)

    def step(self, p, state, *memory):
        return self.inner.step(p, state, *memory)


@pytest.mark.parametrize("inner", [ZigZagCell, ConvLSTMCell])
def test_a_wrapper_has_the_memory_of_its_cell(inner):
    torch.manual_seed(0)
    plain = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=inner).double()
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=partial(Wrapped, inner=inner)).double()
    for outer, cell in zip(layer.cell_list, plain.cell_list, strict=True):
        outer.inner = cell
    x = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64)
    outputs, states = layer(x)
    expected, ends = plain(x)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(states.tensors(), ends.tensors())
    result, alone = layer.cell_list[0](x[:, 0]), plain.cell_list[0](x[:, 0])
    if inner is ZigZagCell:
        (result, memory), (alone, other) = result, alone
        torch.testing.assert_close(memory, other)
        again, _ = layer.cell_list[0](x[:, 1], result, memory)
        torch.testing.assert_close(again, plain.cell_list[0](x[:, 1], alone, other)[0])
    torch.testing.assert_close(result, alone)


class Undeclared(Wrapped):
    """Calls a cell with a memory as one without."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.spatiotemporal_memory = False


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_memory_that_is_not_declared_is_named(engine):
    x = torch.zeros(2, 3, 2, 5, 5)
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=Undeclared, engine=engine)
    for call in (layer, layer.stream(2, (5, 5)), layer.cell_list[0]):
        frames = x if call is layer else x[:, 0]
        with pytest.raises(OptionError, match=r"must declare .* received a Undeclared .*: set spatio"):
            call(frames)


def test_an_error_in_a_step_stays_what_it_is():
    class Broken(ConvLSTMCell):
        def step(self, p, state):
            return super().step(p, state + 1)

    with pytest.raises(TypeError, match="can only concatenate"):
        ConvLSTM(2, 3, 3, batch_first=True, cell=Broken)(torch.zeros(2, 3, 2, 5, 5))


class OwnMemory(NamedTuple):
    h: torch.Tensor
    memory: torch.Tensor


class TwoInside(Cell):
    """Two cells with a memory, which passes from one to the other and is part of the state."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.below = ZigZagCell(input_dim, hidden_dim, kernel_size)
        self.above = ZigZagCell(hidden_dim, hidden_dim, kernel_size)

    def initial_state(self, x):
        return OwnMemory(self.below.initial_state(x).h, self.below.initial_memory(x))

    def project(self, x):
        return x

    def step(self, p, state):
        below, memory = self.below(p, (state.h,), state.memory)
        above, memory = self.above(below.h, (state.h,), memory)
        return OwnMemory(above.h, memory)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_cells_with_memory_are_parts_of_a_cell(bidirectional):
    torch.manual_seed(0)
    options = {"batch_first": True, "bidirectional": bidirectional}
    layer = ConvLSTM(2, 3, 3, 2, cell=TwoInside, **options).double()
    x = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64)
    state, outputs = layer.cell_list[0].initial_state(x[:, 0]), []
    for frame in x.unbind(1):
        state = layer.cell_list[0](frame, state)
        outputs.append(state.h)
    below = ConvLSTM(2, 3, 3, 1, batch_first=True, cell=TwoInside).double()
    below.cell_list[0] = layer.cell_list[0]
    torch.testing.assert_close(below(x)[0][0], torch.stack(outputs, 1))
    lengths = torch.tensor([4, 2])
    torch.testing.assert_close(layer(x, lengths=lengths)[0][0][1:, :2], layer(x[1:, :2])[0][0])


@pytest.mark.parametrize("options", [ScanOptions(), ScanOptions(checkpoint_every=2)], ids=str)
def test_a_cell_with_memory_alone_is_a_stack_of_one_layer(stack, options):
    _, x = stack
    layer = ConvLSTM(2, 3, 3, 1, batch_first=True, cell=ZigZagCell).double()
    cell, x = layer.cell_list[0], x.requires_grad_()
    mask = torch.tensor([[True, False, True, True, True], [True] * 5])
    reset = torch.tensor([[False, False, False, True, False], [False] * 5])
    (expected,), ends = layer(x, mask=mask, reset=reset)
    outputs, state = scan(cell, x, flags=SequenceFlags(mask, reset), options=options)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close([state.h, state.memory], [ends[-1].h, ends.memory])
    gradients = [torch.autograd.grad(y.square().sum(), x) for y in (outputs, expected)]
    torch.testing.assert_close(*gradients)
    first, middle = scan(cell, x[:, :2])
    second, _ = scan(cell, x[:, 2:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), scan(cell, x)[0])


def test_a_reset_renews_the_memory_where_the_lowest_layer_has_none():
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 3, 3, batch_first=True, cell=[ConvLSTMCell, ZigZagCell, ZigZagCell]).double()
    x, reset = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.bool)
    reset[:, 2] = True
    outputs = layer(x, reset=reset)[0][0]
    torch.testing.assert_close(outputs[:, 2:], layer(x[:, 2:])[0][0])


def test_a_memory_of_another_size_is_refused(stack):
    layer, x = stack
    _, states = layer(x[..., :3])
    states = StackState(layer(x)[1].all_layers, 1, states.memory)
    with pytest.raises(ShapeError, match=r"the spatiotemporal memory must fit .* \(2, 3, 4, 4\); received"):
        layer(x, states)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 3, 1, 1), (2, 3, 4, 5), (2, 3, 4)])
def test_a_memory_that_a_cell_would_broadcast_is_refused(shape):
    """A memory of one sequence, or of one pixel, was repeated for all without a word."""
    with pytest.raises(ShapeError, match=r"fit batch and frames, \(2, 3, 4, 4\); received"):
        STLSTMCell(1, 3, 3)(torch.zeros(2, 1, 4, 4), None, torch.zeros(shape))
    with pytest.raises(ShapeError, match="the spatiotemporal memory .* received"):
        STLSTMCell(1, 3, 3)(torch.zeros(2, 1, 4, 4), None, "zeros")


def test_a_stack_with_memory_is_streamed_from_a_state(stack):
    layer, x = stack
    _, states = layer(x[:, :2])
    session = layer.stream(2, (4, 4))
    session.state = states
    torch.testing.assert_close(session(x[:, 2]), layer(x[:, :3])[0][0][:, 2].detach())


class TwoFields(NamedTuple):
    h: torch.Tensor
    c: torch.Tensor


class NoMemory(ZigZagCell):
    """Gives a state of two tensors, which is no pair of state and memory."""

    def step(self, p, state, memory):
        return TwoFields(*super().step(p, state, memory)[0], memory)


class BareState(ZigZagCell):
    """Gives the hidden state in place of the state."""

    def step(self, p, state, memory):
        (h,), memory = super().step(p, state, memory)
        return h, memory


class NothingRises(ZigZagCell):
    """Gives no memory."""

    def step(self, p, state, memory):
        return super().step(p, state, memory)[0], None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (NoMemory, r"must return \(state, memory\); the NoMemory's returned a TwoFields: return both"),
        (BareState, r"tensors h in a ZigZagState; the BareState's returned a tensor: return a ZigZagState"),
        (NothingRises, r"must return \(state, memory\); the NothingRises's returned a tuple that holds"),
    ],
)
def test_what_a_step_with_memory_must_return_is_named(cell, message):
    layer, x = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=cell), torch.randn(2, 3, 2, 4, 4)
    for call in (lambda: layer(x), lambda: layer.cell_list[0](x[:, 0])):
        with pytest.raises(OptionError, match=message):
            call()


class ForeignCell(nn.Module):
    """A module with the single-file original's cell call, written by somebody else."""

    def __init__(self, input_dim, hidden_dim):
        super().__init__()
        self.hidden = hidden_dim
        self.conv = nn.Conv2d(input_dim + hidden_dim, 2 * hidden_dim, 3, padding=1)

    def forward(self, input_tensor, cur_state):
        h, c = cur_state
        a, b = self.conv(torch.cat([input_tensor, h], dim=1)).chunk(2, dim=1)
        c = 0.5 * c + torch.tanh(a)
        return torch.sigmoid(b) * c, c

    def init_hidden(self, batch_size, image_size):
        zeros = torch.zeros(batch_size, self.hidden, *image_size)
        return zeros, zeros


@pytest.mark.parametrize("bidirectional", [False, True])
def test_foreign_cells_in_the_list_run_as_they_are(bidirectional):
    torch.manual_seed(0)
    layer = ConvLSTM(
        2, 3, 3, 2, batch_first=True, bidirectional=bidirectional, merge="sum" if bidirectional else "concat"
    )
    layer.cell_list[1] = foreign = ForeignCell(3, 3)
    x = torch.randn(2, 4, 2, 5, 5)
    below = ConvLSTM(2, 3, 3, 1, batch_first=True)
    below.cell_list[0] = layer.cell_list[0]
    outputs, states = layer(x)
    if not bidirectional:
        h = c = torch.zeros(2, 3, 5, 5)
        for t, frame in enumerate(below(x)[0][0].unbind(1)):
            h, c = foreign(frame, (h, c))
            torch.testing.assert_close(outputs[0][:, t], h)
        torch.testing.assert_close(states[-1][0], h)
        again, _ = layer(x[:, 3:], layer(x[:, :3])[1])
        torch.testing.assert_close(again[0][:, 0], outputs[0][:, 3])
    lengths = torch.tensor([4, 2])
    torch.testing.assert_close(layer(x, lengths=lengths)[0][0][1:, :2], layer(x[1:, :2])[0][0])


def test_a_loop_that_passes_state_and_memory_as_one_is_told_to_unpack_them():
    cell, frame = ZigZagCell(2, 3, 3), torch.rand(1, 2, 4, 4)
    result = cell(frame, None)
    with pytest.raises(
        ShapeError, match=r"received ZigZagState and Tensor: .* apart, state, memory = cell\(frame, state, m"
    ):
        cell(frame, result)
    state, memory = cell(frame, *result)
    assert (type(state), memory.shape) == (ZigZagState, (1, 3, 4, 4))


class ReadsInPlace(ZigZagCell):
    """Begins with an activation that changes the frame it is given."""

    def project(self, x):
        return super().project(x.relu_() if self.training else x.relu())


@pytest.mark.parametrize("cell", [ZigZagCell, STLSTMCell, GHUCell])
def test_what_reads_an_output_may_change_it_and_the_state_stays(cell):
    torch.manual_seed(0)
    below = [STLSTMCell, cell]
    in_place = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=below, norm=lambda _: nn.ReLU(inplace=True))
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=below, norm=lambda _: nn.ReLU())
    in_place.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 2, 4, 4)
    torch.testing.assert_close(in_place(x), layer(x))


@pytest.mark.parametrize("below", [STLSTMCell, GHUCell, ConvLSTMCell])
@pytest.mark.parametrize("above", [GHUCell, ReadsInPlace])
def test_a_projection_in_place_leaves_the_state_of_the_layer_below(below, above):
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 3, 3, batch_first=True, cell=[below, ReadsInPlace, above], engine="reference")
    x = torch.randn(2, 4, 2, 4, 4)
    with torch.no_grad():
        changed, states = layer.train()(x)
        expected, others = layer.eval()(x)
    torch.testing.assert_close((changed, states), (expected, others))


class Flattens(Cell):
    """Takes a frame for one in the usual memory format, as `view` does."""

    def initial_state(self, x):
        return ZigZagState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x):
        return x.view(len(x), -1)

    def step(self, p, state):
        return ZigZagState(torch.tanh(p.view(state.h.shape) + state.h))


def test_a_frame_has_the_usual_memory_format():
    flattens = lambda inputs, hidden, kernel, bias: Flattens(inputs, hidden, kernel)  # noqa: E731
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=[STLSTMCell, flattens], norm="layer")
    assert layer(torch.randn(2, 4, 2, 4, 4))[0][0].is_contiguous()


def test_a_projection_that_is_no_tensor_is_named():
    class Twice(ZigZagCell):
        def project(self, x):
            return super().project(x), x

    with pytest.raises(OptionError, match="project must return one tensor; the Twice's returned a tuple"):
        ConvLSTM(2, 3, 3, batch_first=True, cell=Twice)(torch.randn(2, 4, 2, 4, 4))
