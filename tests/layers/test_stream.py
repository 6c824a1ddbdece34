"""A stream gives frame by frame what the stack gives for the whole sequence."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell
from convlstm.cells import Cell, GRUState, LSTMState
from convlstm.engines.direct import accumulates_in_place
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.stack import Stack


class WithMemory(Cell):
    """A memory that spatiotemporal_memory the layers, as in PredRNN."""

    spatiotemporal_memory = True

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.gain = nn.Parameter(torch.rand(hidden_dim, 1, 1))

    def initial_state(self, x):
        return GRUState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x):
        return x.mean(dim=1, keepdim=True)

    def step(self, p, state, memory):
        memory = torch.tanh(memory * self.gain + p)
        return GRUState(0.5 * state.h + memory), memory


STACKS = {
    "lstm": lambda: ConvLSTM(2, [5, 3], 3, batch_first=True),
    "time first": lambda: ConvLSTM(2, [5, 3], 3, return_all_layers=True),
    "gru": lambda: ConvGRU(2, [4, 4], (3, 2), 2),
    "one axis": lambda: ConvLSTM(2, 4, (3,), 2, batch_first=True),
    "three axes": lambda: ConvLSTM(2, 4, (3, 1, 3), 2, batch_first=True),
    "options": lambda: ConvLSTM(
        2, 4, 3, 2, cell=partial(ConvLSTMCell, peephole="channel", dilation=2, padding_mode="reflect")
    ),
    "fused": lambda: ConvLSTM(2, 4, 3, 2, engine="fused"),
    "attention": lambda: ConvLSTM(2, 4, 3, 2, cell=partial(ConvLSTMCell, attention="channel")),
    "connections": lambda: ConvLSTM(2, 4, 3, 2, residual="project", norm="group"),
    "another size": lambda: ConvLSTM(2, 4, 3, 2, target_size=(3, 3), restore_size=True),
    "memory": lambda: ConvLSTM(2, 4, 3, 2, cell=WithMemory),
    "reference": lambda: ConvLSTM(2, 4, 3, 2, engine="reference"),
}


def whole(stack, x, states=None):
    """The last layer's outputs, batch first, and the states of the stack at the end."""
    with torch.no_grad():
        outputs, ends = stack(x if stack.batch_first else x.transpose(0, 1), states)
    return (outputs[-1] if stack.batch_first else outputs[-1].transpose(0, 1)), ends


def frame_by_frame(session, x):
    return torch.stack([session(frame).clone() for frame in x.unbind(1)], dim=1)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_a_stream_is_the_stack(name, mixed):
    torch.manual_seed(0)
    stack, size = STACKS[name](), (6, 7, 5)
    size = size[: len(stack.kernel_size[0])]
    x = torch.randn(3, 7, 2, *size)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        session = stack.stream(3, size)
        assert session.state is None
        outputs, ends = whole(stack, x)
        first = frame_by_frame(session, x[:, :3])
        middle = session.state
        second = frame_by_frame(session, x[:, 3:])
        close = partial(assert_close, rtol=0, atol=2e-2 if mixed else 1e-6)
        close(torch.cat([first, second], dim=1), outputs)
        found = session.state
        assert len(found) == len(ends)
        for ours, theirs in zip(found.tensors(), ends.tensors(), strict=True):
            close(ours, theirs)
        # The state is nobody else's, and can be gone back to, from one stream to another and to the stack.
        session.state = middle
        assert torch.equal(frame_by_frame(session, x[:, 3:]), second)
        other = stack.stream(3, size)
        other.state = middle
        assert torch.equal(frame_by_frame(other, x[:, 3:]), second)
        close(whole(stack, x[:, 3:], middle)[0], second)
        session.state = None
        close(frame_by_frame(session, x[:, :3]), first)


def test_a_stream_notices_new_weights_and_dtypes():
    torch.manual_seed(0)
    stack = ConvLSTM(2, 4, 3, 2, batch_first=True)
    x = torch.randn(1, 4, 2, 5, 5)
    session = stack.stream(1, (5, 5))
    frame_by_frame(session, x[:, :2])
    before = whole(stack, x[:, :2])[1]
    with torch.no_grad():
        stack.cell_list[1].conv.weight.mul_(2)
    assert_close(frame_by_frame(session, x[:, 2:]), whole(stack, x[:, 2:], before)[0])
    session.state = None
    stack.double()
    assert_close(frame_by_frame(session, x.double()), whole(stack, x.double())[0])


def test_no_new_weights_get_the_address_of_those_that_a_stream_was_made_for():
    """It would take them for the old ones; but these are let go at the next frame."""
    torch.manual_seed(0)
    stack, x = ConvLSTM(2, 4, 3, batch_first=True, bias=False), torch.randn(1, 1, 2, 5, 5)
    session, conv = stack.stream(1, (5, 5)), stack.cell_list[0].conv
    first = torch.randn(conv.weight.shape).numpy()
    memory = weakref.ref(first)
    conv.weight = nn.Parameter(torch.from_numpy(first))
    del first
    session(x[:, 0])
    conv.weight = nn.Parameter(torch.randn(conv.weight.shape))
    assert memory() is not None
    session.state = None
    assert_close(session(x[:, 0]), stack(x)[0][0][:, 0].detach())
    assert memory() is None


def test_a_stream_goes_on_in_and_out_of_inference_mode():
    torch.manual_seed(0)
    for stack in (STACKS["lstm"](), STACKS["connections"]()):
        x, found = torch.randn(1, 4, 2, 5, 5), []
        session = stack.stream(1, (5, 5))
        for frame, mode in zip(x.unbind(1), (True, False, False, True), strict=True):
            with torch.inference_mode(mode):
                found.append(session(frame).clone())
        assert_close(torch.stack(found, dim=1), whole(stack, x)[0])


@pytest.mark.parametrize("name", ["lstm", "memory", "reference"])
def test_a_state_is_set_in_any_form_and_mode(name):
    torch.manual_seed(0)
    stack, x = STACKS[name](), torch.randn(1, 3, 2, 5, 5)
    session = stack.stream(1, (5, 5))
    with torch.inference_mode():
        frame_by_frame(session, x)
    session.state = None  # outside, as between two videos
    first = frame_by_frame(session, x)
    trained = stack(x if stack.batch_first else x.transpose(0, 1))[1]  # with a graph behind it
    plain = trained if name == "memory" else [tuple(state) for state in trained.all_layers]
    for states in (trained, plain, [None, *trained.all_layers[1:]]):
        with torch.inference_mode():
            session.state = states
        assert not any(tensor.requires_grad for tensor in session.state.tensors())
        assert len(session.state) == len(trained)
        assert_close(frame_by_frame(session, x), whole(stack, x, states)[0])
    session.state = None
    assert_close(frame_by_frame(session, x), first)
    stack.double()
    session.state = trained.map(torch.Tensor.double)
    assert session(x[:, 0].double()).dtype == torch.float64


def test_a_stream_hears_hooks_that_come_later_and_another_engine():
    stack, x = ConvLSTM(2, 4, 3, 2), torch.randn(1, 2, 5, 5)
    session, heard = stack.stream(1, (5, 5)), []
    session(x)
    stack.cell_list[1].register_forward_hook(lambda *_: heard.append(1))
    session(x)
    session(x)
    assert heard == [1, 1]
    stack.set_engine("fused")
    with pytest.raises(OptionError, match="hooks"):
        session(x)


def test_a_call_that_is_replaced_on_the_class_of_all_stacks_is_that_of_a_stream(monkeypatch):
    stack, frame = ConvLSTM(2, 4, 3, batch_first=True), torch.randn(1, 2, 5, 5)
    expected = 2 * stack(frame[:, None])[0][0][:, 0].detach()
    forward = Stack.forward

    def doubled(self, *arguments, **options):
        (outputs,), states = forward(self, *arguments, **options)
        return [2 * outputs], states

    monkeypatch.setattr(Stack, "forward", doubled)
    assert_close(stack.stream(1, (5, 5))(frame), expected)


def doubled(cell):
    """An update of the cell's own, set on the instance."""
    update = cell.update
    cell.update = lambda gates, state: LSTMState(*(2 * part for part in update(gates, state)))


def with_another_class(cell):
    cell.__class__ = type("Own", (ConvLSTMCell,), {"update": lambda self, gates, state: state})


def with_other_activations(cell):
    cell.output_activation = torch.relu


@pytest.mark.parametrize("engine", ["auto", "fused"])
@pytest.mark.parametrize("change", [doubled, with_another_class, with_other_activations])
def test_a_stream_hears_rules_that_come_later(change, engine):
    torch.manual_seed(0)
    stack = ConvLSTM(2, [3, 3], 3, batch_first=True, engine=engine)
    session, x = stack.stream(1, (6, 5)), torch.randn(1, 4, 2, 6, 5)
    for frame in x[:, :2].unbind(1):
        session(frame)
    state = session.state
    change(stack.cell_list[0])
    outputs, _ = whole(stack, x[:, 2:], state)
    assert_close(torch.stack([session(frame).clone() for frame in x[:, 2:].unbind(1)], dim=1), outputs)


def test_after_the_first_frame_a_cpu_allocates_nothing():
    stack, x = ConvLSTM(8, [32, 16], 3), torch.randn(1, 8, 32, 32)
    if not accumulates_in_place(x):
        pytest.skip("this torch has no convolution that adds in place")
    session = stack.stream(1, (32, 32))
    session(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as run:
        session(x)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in run.events())
    assert taken == 0


def test_no_gradients_and_hooks_are_heard():
    stack = ConvLSTM(2, 4, 3)
    heard = []
    stack.cell_list[0].register_forward_hook(lambda *_: heard.append(1))
    session = stack.stream(1, (5, 5))
    assert not session(torch.randn(1, 2, 5, 5, requires_grad=True)).requires_grad
    assert heard == [1]


def test_what_a_stream_refuses():
    with pytest.raises(OptionError, match="bidirectional=True"):
        ConvLSTM(2, 4, 3, bidirectional=True).stream(1, (5, 5))
    stack = ConvLSTM(2, 4, 3)
    with pytest.raises(OptionError, match=r"size.*received \(5,\)"):
        stack.stream(1, (5,))
    with pytest.raises(OptionError, match="batch_size"):
        stack.stream(0, (5, 5))
    session = stack.stream(1, (5, 5))
    session(torch.zeros(1, 2, 5, 5))
    before = session.state
    with pytest.raises(ShapeError, match=r"\(1, 2, 5, 5\).*received \(1, 2, 5, 6\)"):
        session(torch.zeros(1, 2, 5, 6))
    with pytest.raises(ShapeError, match="dtype"):
        session(torch.zeros(1, 2, 5, 5, dtype=torch.float64))
    with pytest.raises(ShapeError, match="the state of layer 0"):
        session.state = stack.stream(2, (5, 5))._stack(torch.zeros(1, 2, 2, 5, 5))[1]
    for ours, theirs in zip(session.state.tensors(), before.tensors(), strict=True):
        assert torch.equal(ours, theirs)
    forced = ConvLSTM(2, 4, 3, engine="fused")
    forced.cell_list[0].register_forward_hook(lambda *_: None)
    with pytest.raises(OptionError, match="hooks"):
        forced.stream(1, (5, 5))(torch.zeros(1, 2, 5, 5))


def test_a_cell_of_ones_own_streams():
    class Sum(nn.Module):
        """The single-file original's cell call, with addition in the place of a convolution."""

        def __init__(self, input_dim, hidden_dim, kernel_size, bias):
            super().__init__()
            self.hidden_dim, self.weight = hidden_dim, nn.Parameter(torch.ones(()))

        def init_hidden(self, batch_size, image_size):
            return (torch.zeros(batch_size, self.hidden_dim, *image_size),) * 2

        def forward(self, x, state):
            return state[0] + self.weight * x, state[1]

    stack, x = ConvLSTM(2, 2, 3, cell=Sum), torch.randn(1, 4, 2, 3, 3)
    assert_close(frame_by_frame(stack.stream(1, (3, 3)), x), x.cumsum(1))


class KeepsTheFrame(Cell):
    """Its state holds the frame before, the very tensor that it was given."""

    def initial_state(self, x):
        return LSTMState(torch.zeros_like(x), torch.zeros_like(x))

    def project(self, x):
        return x

    def step(self, p, state):
        return LSTMState(torch.tanh(p - state.c), p)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_next_frame_may_be_written_into_the_memory_of_the_one_before(layers):
    make = lambda inputs, hidden, kernel, bias: KeepsTheFrame(inputs, hidden, kernel)  # noqa: E731
    stack, x = ConvLSTM(2, 2, 3, layers, batch_first=True, cell=make), torch.randn(1, 4, 2, 3, 3)
    session, memory = stack.stream(1, (3, 3)), torch.empty(1, 2, 3, 3)
    outputs = [session(memory.copy_(frame)).clone() for frame in x.unbind(1)]
    assert_close(torch.stack(outputs, dim=1), stack(x)[0][0])


class ReadsInPlace(KeepsTheFrame):
    def project(self, x):
        return x.relu_()

    def step(self, p, state):
        return LSTMState(torch.tanh(p - 0.5 * state.h - 0.1), state.c)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_projection_in_place_gives_the_numbers_of_the_whole_sequence(mixed):
    make = lambda inputs, hidden, kernel, bias: ReadsInPlace(inputs, hidden, kernel)  # noqa: E731
    cells = [ConvLSTMCell if mixed else make, make]
    stack = ConvLSTM(2, 2, 3, 2, batch_first=True, cell=cells, engine="reference")
    x = torch.randn(1, 4, 2, 3, 3)
    with torch.no_grad():
        (whole,), _ = stack(x.clone())
    assert_close(frame_by_frame(stack.stream(1, (3, 3)), x.clone()), whole)


def test_thousands_of_frames_keep_no_tensor():
    stream = STACKS["lstm"]().stream(1, (8, 8))
    frames = torch.rand(16, 1, 2, 8, 8)

    def living():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    for k in range(16):
        stream(frames[k])
    before = living()
    for k in range(2000):
        stream(frames[k % 16])
    assert living() <= before


def test_eight_threads_on_one_layer_give_equal_bits():
    model = STACKS["lstm"]().eval()
    clips = torch.rand(16, 1, 4, 2, 12, 12)

    def run(clip):
        with torch.no_grad():
            return model(clip)[0][0]

    expected = [run(clip) for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, alone in zip(pool.map(run, clips), expected, strict=True):
                assert torch.equal(got, alone)


class ByName(ConvLSTM):
    """Takes an argument of its own before the states."""

    def forward(self, x, scale=2.0, hidden_state=None):
        outputs, states = super().forward(x, hidden_state)
        return [scale * outputs[-1]], states


class KeywordOnly(ConvLSTM):
    def forward(self, x, *, hidden_state=None):
        outputs, states = super().forward(x, hidden_state)
        return [2 * outputs[-1]], states


class Counting(ConvLSTM):
    """Has a counter called step."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.step = 0


class Shared(ConvLSTM):
    """Has the step that training and validation of a Lightning module share."""

    def step(self, batch):
        return self(batch)[0][-1].mean()


class AsTheOriginal(ConvLSTM):
    def forward(self, x, hidden_state=None):
        if hidden_state is not None:
            raise NotImplementedError()
        return super().forward(x)


@pytest.mark.parametrize("kind", [ByName, KeywordOnly, Counting, Shared])
def test_a_stream_finds_the_states_of_a_forward_and_leaves_other_steps_alone(kind):
    torch.manual_seed(0)
    layer, x = kind(2, 3, 3, 2, batch_first=True).eval(), torch.randn(1, 3, 2, 6, 5)
    outputs = layer(x)[0][-1].detach()
    session = layer.stream(1, (6, 5))
    for t in range(3):
        assert_close(session(x[:, t]), outputs[:, t])


def test_a_stream_of_what_takes_no_states_and_frames_that_are_none_are_named():
    session = AsTheOriginal(2, 3, 3, batch_first=True).stream(1, (6, 5))
    session(torch.zeros(1, 2, 6, 5))
    with pytest.raises(OptionError, match="forward of a AsTheOriginal raised NotImplementedError: let it"):
        session(torch.zeros(1, 2, 6, 5))
    plain = ConvLSTM(2, 3, 3).stream(1, (6, 5))
    nested = torch.nested.nested_tensor([torch.zeros(2, 6, 5)], layout=torch.jagged)
    for frame, received in ((nested, "a nested tensor"), (np.zeros((1, 2, 6, 5)), "an ndarray")):
        with pytest.raises(ShapeError, match=rf"a frame \(B, C, \*S\) must be .*; received {received}"):
            plain(frame)
    layer, x = ConvLSTM(2, 3, 3, batch_first=True), torch.zeros(1, 2, 2, 6, 5)
    states = torch.nested.nested_tensor([torch.zeros(3, 6, 5)], layout=torch.jagged)
    for wrong, received in (
        ({"hidden_state": [(states, states)]}, "state of layer 0, h, .* a nested tensor"),
        ({"lengths": states}, r"lengths \(B,\) .* a nested tensor"),
        ({"hidden_state": 0}, "hidden_state must be a list .* received 0"),
    ):
        with pytest.raises(ShapeError, match=received):
            layer(x, **wrong)


def test_hooks_of_all_modules_are_called_in_a_stream():
    torch.manual_seed(0)
    layer, x = ConvLSTM(2, 3, 3, batch_first=True), torch.randn(1, 1, 2, 6, 5)
    session = layer.stream(1, (6, 5))

    def double(module, inputs, result):
        return ([2 * y for y in result[0]], result[1]) if isinstance(module, ConvLSTM) else None

    handle = nn.modules.module.register_module_forward_hook(double)
    try:
        assert_close(session(x[:, 0]), layer(x)[0][0][:, 0].detach())
    finally:
        handle.remove()


def test_a_step_of_something_else_than_a_frame_is_refused():
    with pytest.raises(
        ShapeError, match=r"with 2 space axes; received shape \(1, 2, 1, 6, 5\): a step takes no"
    ):
        ConvLSTM(1, 3, 3).step(torch.rand(1, 2, 1, 6, 5))
    with pytest.raises(OptionError, match="a step reads frames as they come; received a stack with bidirect"):
        ConvLSTM(1, 3, 3, bidirectional=True).step(torch.rand(1, 1, 6, 5))
