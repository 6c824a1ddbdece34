"""Batch normalisation in training: statistics of the frames that are there, each counted once."""

import copy
import importlib
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from convlstm import Cell, ConvGRU, ConvLSTM, ConvLSTMCell
from convlstm.cells import GRUState
from convlstm.engines import has_own_forward
from convlstm.testing import check_cell

scan_module = importlib.import_module("convlstm.layers.scan")  # whose name in the package is the function's

LENGTHS = torch.tensor([5, 2, 3])


class InProject(ConvLSTMCell):
    """Normalises what depends on the input alone."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.batch_norm = nn.BatchNorm2d(self.input_dim)

    def project(self, x):
        return self.batch_norm(super().project(x))


class InStep(ConvLSTMCell):
    """Normalises the sums of the gates at every step."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.batch_norm = nn.BatchNorm2d(self.gates * self.hidden_dim)

    def preactivations(self, x, h):
        return self.batch_norm(super().preactivations(x, h))


class Called(InStep):
    """Is run by its own forward."""

    def forward(self, x, state=None):
        return super().forward(x, state)


class Normed(Cell):
    """Has a spatiotemporal memory, normalised at every step."""

    spatiotemporal_memory = True

    def __init__(self, *sizes):
        super().__init__(*sizes[:3])
        self.batch_norm = nn.BatchNorm2d(self.hidden_dim)

    def initial_state(self, x):
        return GRUState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x):
        return x.mean(dim=1, keepdim=True)

    def step(self, p, state, memory):
        memory = self.batch_norm(memory + p * torch.arange(3, dtype=p.dtype)[:, None, None])
        return GRUState(0.5 * state.h + memory), memory


LAYERS = {
    "norm": lambda **how: ConvLSTM(2, 3, 3, 2, batch_first=True, norm=nn.BatchNorm2d, **how),
    "norm of a GRU": lambda **how: ConvGRU(2, [3, 4], 3, batch_first=True, norm=nn.BatchNorm2d, **how),
    "in project": lambda **how: ConvLSTM(2, 3, 3, 2, batch_first=True, cell=InProject, **how),
    "in step": lambda **how: ConvLSTM(2, 3, 3, 2, batch_first=True, cell=InStep, **how),
    "in a forward": lambda **how: ConvLSTM(2, 3, 3, 2, batch_first=True, cell=Called, **how),
    "tracked instance norm": lambda **how: ConvLSTM(
        2, 3, 3, 2, batch_first=True, norm=partial(nn.InstanceNorm2d, track_running_stats=True), **how
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def frames(steps=5, batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, steps, 2, 6, 5, dtype=torch.float64, generator=generator)


def trained_once(layer, x, **flags):
    """Outputs, gradients and buffers after one training step."""
    layer = copy.deepcopy(layer).train()
    outputs, _ = layer(x, **flags)
    valid = torch.arange(x.shape[1]) < flags.get("lengths", torch.tensor([x.shape[1]]))[:, None]
    seen = outputs[-1][valid.expand(len(x), -1)]
    seen.square().sum().backward()
    return seen, [p.grad for p in layer.parameters()], [b.double() for b in layer.buffers()]


@every_layer
def test_padding_changes_neither_outputs_nor_gradients_nor_buffers(name):
    torch.manual_seed(0)
    layer, x = LAYERS[name]().double(), frames()
    longer = torch.cat([x, frames(steps=4)], dim=1)
    expected = trained_once(layer, x, lengths=LENGTHS)
    assert_close(trained_once(layer, longer, lengths=LENGTHS), expected)
    # A sample without a frame counts for nothing either.
    mask = torch.arange(5) < LENGTHS[:, None]
    more, flags = torch.cat([x, frames(batch=1)]), torch.cat([mask, torch.zeros(1, 5, dtype=torch.bool)])
    layer_alone, layer_more = (copy.deepcopy(layer).train() for _ in range(2))
    alone, beside = layer_alone(x, mask=mask)[0][-1], layer_more(more, mask=flags)[0][-1]
    assert_close(beside[:3][mask], alone[mask])
    assert_close([*layer_more.buffers()], [*layer_alone.buffers()])


def test_statistics_are_those_of_the_frames_that_are_there():
    """Written out: one layer, its outputs at valid frames normalised over all of them together."""
    torch.manual_seed(0)
    layer, x = ConvLSTM(2, 3, 3, batch_first=True, norm=nn.BatchNorm2d).double(), frames()
    bare = ConvLSTM(2, 3, 3, batch_first=True).double()
    bare.load_state_dict({k: v for k, v in layer.state_dict().items() if "norm" not in k})
    valid = torch.arange(5) < LENGTHS[:, None]
    h = bare(x, lengths=LENGTHS)[0][0][valid]  # (N, C, H, W)
    mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=False)
    expected = (h - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    assert_close(layer(x, lengths=LENGTHS)[0][0][valid], expected)
    assert_close(layer.norm_list[0].running_mean, 0.1 * mean)
    # At a gap the output is that of the frame before, here too.
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2:4] = False
    outputs = layer(x, mask=mask)[0][0]
    assert_close(outputs[1, 2], outputs[1, 1])
    assert_close(outputs[1, 3], outputs[1, 1])


@pytest.mark.parametrize("name", ["in project", "in step", "in a forward"])
def test_checkpointing_counts_each_frame_once(name):
    torch.manual_seed(0)
    plain, x = LAYERS[name]().double(), frames()
    segments = LAYERS[name](checkpoint=2).double()
    segments.load_state_dict(plain.state_dict())
    assert_close(trained_once(segments, x), trained_once(plain, x))
    assert_close(trained_once(segments, x, lengths=LENGTHS), trained_once(plain, x, lengths=LENGTHS))


def test_project_sees_all_frames_at_once_as_on_a_gpu(monkeypatch):
    torch.manual_seed(0)
    layer, x = LAYERS["in project"]().double(), frames()
    expected = trained_once(layer, x, lengths=LENGTHS)
    tracked = int(expected[2][2])
    assert tracked == 1  # one call, not one a frame
    # The GPU's way to run a cell, on a CPU.
    monkeypatch.setattr(scan_module, "frame_by_frame_on", set())
    assert_close(trained_once(layer, x, lengths=LENGTHS), expected)


def test_project_of_all_frames_at_once_gives_the_numbers_of_each(monkeypatch):
    """Without statistics of the batch: one call a layer on a GPU, one a frame on a CPU."""
    torch.manual_seed(0)
    calls = []

    class Counting(ConvLSTMCell):
        def project(self, x):
            calls.append(len(x))
            return super().project(x)

    layer, x = ConvLSTM(2, 3, 3, batch_first=True, cell=Counting, engine="reference").double(), frames()
    expected = trained_once(layer, x, lengths=LENGTHS)
    assert calls == [3] * 5
    monkeypatch.setattr(scan_module, "frame_by_frame_on", set())
    assert_close(trained_once(layer, x, lengths=LENGTHS), expected)
    assert calls == [3] * 5 + [15]


def test_with_a_spatiotemporal_memory_padding_is_left_out_at_every_step():
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 3, 2, batch_first=True, cell=Normed, norm=nn.BatchNorm2d).double()
    x = frames()
    longer = torch.cat([x, frames(steps=4)], dim=1)
    expected = trained_once(layer, x, lengths=LENGTHS)
    assert_close(trained_once(layer, longer, lengths=LENGTHS), expected)


@pytest.mark.parametrize("cell", [InProject, InStep])
def test_cells_with_batch_normalisation_pass_the_battery(cell):
    check_cell(cell)


class ByHand(nn.Module):
    """Statistics of the batch, which the loop cannot tell from another module's, as it is not torch's."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels, 1, 1))

    def forward(self, x):
        if not self.training:
            return x - self.running_mean
        mean = x.mean((0, 2, 3))[:, None, None]
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
        return x - mean


class InStepByHand(InStep):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.batch_norm = ByHand(self.gates * self.hidden_dim)


def test_the_battery_notices_statistics_over_padding():
    with pytest.raises(AssertionError, match="padding_does_not_reach_training"):
        check_cell(InStepByHand)


def test_a_forward_put_on_the_instance_runs():
    torch.manual_seed(0)
    layer, x = ConvLSTM(2, 3, 3, batch_first=True), frames().float()
    cell = layer.cell_list[0]
    expected = layer(0.5 * x)[0][0]
    own = cell.forward
    cell.forward = lambda frame, state=None: own(0.5 * frame, state)
    assert has_own_forward(cell)
    assert_close(layer(x)[0][0], expected)
