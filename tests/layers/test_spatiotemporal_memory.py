"""Memories that climb the layers, and foreign modules in the list of cells."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from convlstm import Cell, ConvGRUCell, ConvLSTM, ConvLSTMCell
from convlstm.errors import OptionError
from convlstm.functional.conv import same_conv


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


def test_the_memory_climbs_and_returns_to_the_bottom(stack):
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
def test_both_schedules_give_equal_numbers_for_every_other_cell(options):
    torch.manual_seed(0)
    layer = ConvLSTM(2, [3, 4], 3, None, True, cell=[ConvLSTMCell, ConvGRUCell], **options).double().eval()
    x = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    mask, reset = torch.ones(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    # Missing: in the middle, twice in a row, at the beginning, and where a sequence begins.
    mask[0, 2] = mask[1, 1:3] = mask[2, 0] = mask[2, 3] = False
    reset[2, 3] = reset[0, 1] = True
    flags = {"lengths": torch.tensor([5, 4, 5]), "reset": reset, "mask": mask}
    by_layer, states = layer(x, **flags)
    layer._convlstm_options = replace(layer._convlstm_options, time_major=True)
    by_frame, others = layer(x, **flags)
    torch.testing.assert_close(by_frame, by_layer)
    gradients = [torch.autograd.grad(outputs[-1].square().sum(), x) for outputs in (by_frame, by_layer)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close([tuple(s) for s in others.all_layers], [tuple(s) for s in states.all_layers])


def test_zoneout_reaches_a_cell_whose_memory_climbs(stack):
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


def test_an_engine_named_that_cannot_serve_climbing_layers_is_refused(stack, monkeypatch):
    layer, x = stack
    layer.set_engine("fused")
    layer(x)  # such a cell keeps its step
    with pytest.raises(OptionError, match="it has no zoneout"):
        ConvLSTM(2, 3, 3, 2, batch_first=True, cell=ZigZagCell, zoneout=0.2, engine="fused").double()(x)


def test_what_cannot_climb_is_named():
    with pytest.raises(OptionError, match="a spatiotemporal memory runs forward in time"):
        ConvLSTM(2, 3, 3, 2, cell=ZigZagCell, bidirectional=True)


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
def test_what_a_climbing_step_must_return_is_named(cell, message):
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
