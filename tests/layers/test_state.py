"""States: converted as modules are, saved and loaded, of whatever kind."""

import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import nn

from convlstm import Cell, ConvLSTM
from convlstm.cells import register_state
from convlstm.errors import OptionError, ShapeError


def flat(states):
    if isinstance(states, torch.Tensor):
        return [states]
    return [t for part in getattr(states, "all_layers", states) for t in flat(part)]


class MixedState(NamedTuple):
    """Of every kind of dtype."""

    h: torch.Tensor
    steps: torch.Tensor
    phase: torch.Tensor
    seen: torch.Tensor


class MixedCell(Cell):
    """Counts its steps and turns a phase."""

    def __init__(self, *sizes):
        super().__init__(*sizes[:3])
        self.weight = nn.Parameter(torch.ones(sizes[1], sizes[0], 1, 1))

    def initial_state(self, x):
        h = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        return MixedState(h, torch.zeros_like(h, dtype=torch.long), torch.ones_like(h) + 0j, h > 0)

    def project(self, x):
        return nn.functional.conv2d(x, self.weight)

    def step(self, p, state):
        return MixedState(p + state.h, state.steps + 1, state.phase * 1j, state.seen | (p > 0))


@pytest.mark.parametrize("way", [(torch.float64,), ("cpu", torch.float64), (torch.zeros(1).double(),)])
def test_a_dtype_is_that_of_floating_point_tensors(way):
    _, states = ConvLSTM(1, 2, 3, 2, cell=MixedCell, bidirectional=True, merge="sum")(
        torch.rand(3, 1, 1, 4, 4)
    )
    converted = states.to(*way)
    assert [t.dtype for t in flat(converted)] == 4 * [torch.float64, torch.long, torch.complex64, torch.bool]
    for new, old in zip(flat(converted), flat(states), strict=True):
        assert torch.equal(new.to(old.dtype), old)
    assert {t.device.type for t in flat(states.to("meta"))} == {"meta"}
    assert torch.equal(converted[0].forward.phase, -1j * torch.ones(1, 2, 4, 4))
    for wrong in (torch.long, torch.bool, torch.complex64):
        with pytest.raises(OptionError, match="converted to a floating-point dtype; received torch"):
            states.to(wrong)


@pytest.mark.parametrize("what", ["states", "a layer's state", "a cell's state"])
def test_states_of_ones_own_are_loaded_in_the_program_that_made_them(what, tmp_path):
    """Another class each time, as by a notebook's cell that is run again: the newest one is meant."""

    class OwnState(NamedTuple):
        h: torch.Tensor

    kind = globals()["OwnState"] = OwnState
    kind.__qualname__ = "OwnState"

    class OwnCell(MixedCell):
        def initial_state(self, x):
            return kind(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

        def step(self, p, state):
            return kind(p + state.h)

    x = torch.rand(3, 1, 1, 4, 4)
    made = OwnCell(1, 2, 3)(x[0]) if what == "a cell's state" else ConvLSTM(1, 2, 3, cell=OwnCell)(x)[1]
    made = made[0] if what == "a layer's state" else made
    torch.save(made, tmp_path / "states.pt")
    read = torch.load(tmp_path / "states.pt")
    assert type(read[0] if what == "states" else read) is kind
    assert torch.equal(flat(read)[0], flat(made)[0])


def test_registering_a_state_in_another_process(tmp_path):
    """The module that registers it is all that is imported there; nothing is registered by a trace."""
    (tmp_path / "own_state.py").write_text(
        "from typing import NamedTuple\nimport torch\nfrom convlstm.cells import register_state\n"
        "@register_state\nclass Kept(NamedTuple):\n    h: torch.Tensor\n"
    )
    write = "import torch, own_state; torch.save(own_state.Kept(torch.ones(2)), 'kept.pt')"
    read = "import torch, own_state; assert torch.load('kept.pt').h.sum() == 2"
    for code in (write, read):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    with pytest.raises(OptionError, match="must be a NamedTuple class; received the class tuple: derive"):
        register_state(tuple)
    compiled = torch.compile(ConvLSTM(1, 2, 3, cell=MixedCell), backend="eager", fullgraph=True)
    assert compiled(torch.rand(3, 1, 1, 4, 4))[0][0].shape == (3, 1, 2, 4, 4)


def test_a_memory_format_is_that_of_frames():
    _, states = ConvLSTM(2, 3, 3, batch_first=True)(torch.randn(1, 2, 2, 6, 5))
    moved = states.to(memory_format=torch.channels_last)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in moved.tensors())


def test_a_state_that_was_replaced_is_checked_again():
    """The stack's own states of a call of the same kind are not."""
    layer, x = ConvLSTM(1, [2, 2], 3, batch_first=True, return_all_layers=True), torch.zeros(1, 2, 1, 4, 4)
    states = layer(x)[1]
    layer(x, states)
    kept, states[0] = states[0], type(states[0])(*(part[..., :3] for part in states[0]))
    with pytest.raises(
        ShapeError, match=r"the state of layer 0 must fit batch, cell and frames, h \(1, 2, 4, 4\)"
    ):
        layer(x, states)
    states[0] = kept
    with pytest.raises(ShapeError, match=r"h \(1, 2, 5, 4\); received \(1, 2, 4, 4\)"):
        layer(x.new_zeros(1, 2, 1, 5, 4), states)


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_outputs_do_not_share_memory_with_states(engine):
    """Of a single frame too, so that outputs may be changed in place."""
    layer = ConvLSTM(1, [2, 2], 3, batch_first=True, return_all_layers=True, engine=engine)
    with torch.no_grad():
        outputs, states = layer(torch.rand(1, 1, 1, 4, 4))
    before = [state.h.clone() for state in states]
    for output in outputs:
        output.zero_()
    for state, h in zip(states, before, strict=True):
        torch.testing.assert_close(state.h, h, rtol=0, atol=0)
