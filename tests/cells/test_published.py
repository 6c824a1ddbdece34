"""Cells of public code equal the cells of the equations where their weights are equal over all pixels.

The numbers that public code gives are in tests/models/test_convert.py.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from convlstm import ConvLSTM
from convlstm.cells import E3DLSTMCell, MAUCell, MIMCell, STLSTMCell
from convlstm.cells.published import PublishedE3DLSTMCell, PublishedMAUCell, PublishedMIMCell
from convlstm.errors import OptionError, ShapeError

#: A cell of the equations, one of public code, the kernel and the size of the maps.
PAIRS = [
    (MIMCell, PublishedMIMCell, (3, 3), (5, 4)),
    (MAUCell, PublishedMAUCell, (3, 3), (5, 4)),
    (E3DLSTMCell, PublishedE3DLSTMCell, (1, 3, 3), (2, 5, 4)),  # without a border along the first axis
]


def frames(size, steps=4):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, steps, 3, *size, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(("ours", "published", "kernel", "size"), PAIRS)
def test_weights_that_are_equal_over_all_pixels_give_the_equations(ours, published, kernel, size):
    torch.manual_seed(0)
    one = ConvLSTM(3, 3, kernel, batch_first=True, cell=ours).double()
    other = ConvLSTM(3, 3, kernel, batch_first=True, cell=partial(published, image_size=size)).double()
    for parameter in one.parameters():
        parameter.data.normal_(0, 0.4)
    shapes = {name: w.shape for name, w in other.state_dict().items()}
    state = {
        name: w.reshape(*w.shape, *(1,) * (len(shapes[name]) - w.ndim))
        for name, w in one.state_dict().items()
    }
    assert any(w.shape != shapes[name] for name, w in state.items())
    other.load_state_dict({name: w.expand(shapes[name]).clone() for name, w in state.items()})
    x = frames(size)
    torch.testing.assert_close(other(x)[0][0], one(x)[0][0], rtol=1e-12, atol=1e-12)
    with pytest.raises(ShapeError, match="are for maps of"):
        other(x[..., 1:])


def test_a_chain_of_mim_cells_goes_on_from_its_states_and_is_reset():
    mim = partial(PublishedMIMCell, image_size=(5, 4))
    cells = [
        STLSTMCell,
        partial(mim, above=True),
        partial(mim, below=True, above=True),
        partial(mim, below=True),
    ]
    layers = ConvLSTM(3, 3, 3, 4, batch_first=True, cell=cells, bias=False).double()
    x = frames((5, 4))
    whole = layers(x)[0][-1]
    _, states = layers(x[:, :2])
    torch.testing.assert_close(layers(x[:, 2:], states)[0][-1], whole[:, 2:])
    session = layers.stream(batch_size=2, size=(5, 4))
    torch.testing.assert_close(torch.stack([session(frame).clone() for frame in x.unbind(1)], 1), whole)
    reset = torch.zeros(2, 4, dtype=torch.bool)
    reset[:, 2] = True
    torch.testing.assert_close(layers(x, reset=reset)[0][-1][:, 2:], layers(x[:, 2:])[0][-1])
    alone = [cells[0], *(partial(mim) for _ in range(3))]
    other = ConvLSTM(3, 3, 3, 4, batch_first=True, cell=alone, bias=False).double()
    other.load_state_dict(layers.state_dict())
    assert not torch.allclose(other(x)[0][-1], whole)


def test_the_bug_of_the_eidetic_cell_keeps_its_memory():
    x = frames((2, 5, 4))[:, 0]
    for bug in (None, "memory_and_recall"):
        cell = PublishedE3DLSTMCell(3, 3, (2, 3, 3), image_size=(2, 5, 4), published_bug=bug).double()
        memory = torch.randn_like(x)
        assert torch.equal(cell(x, None, memory)[1], memory) == bool(bug)
    with pytest.raises(
        OptionError, match="published_bug must be one of memory_and_recall; received 'memory'"
    ):
        PublishedE3DLSTMCell(3, 3, (2, 3, 3), image_size=(2, 5, 4), published_bug="memory")


@pytest.mark.parametrize("kernel", [(2, 4, 4), (2, 3, 4), (2, 3, 3), (1, 3, 3)])
def test_maps_of_any_kernel_are_brought_to_the_size_of_the_input(kernel):
    """As OpenSTL interpolates them, also those that an even kernel makes larger by one."""
    cell = PublishedE3DLSTMCell(3, 3, kernel, image_size=(2, 5, 4)).double()
    x, conv = frames((2, 5, 4))[:, 0], cell.conv_x
    maps = F.conv3d(x, conv.weight, conv.bias, padding=conv.padding)
    torch.testing.assert_close(cell.project(x), F.interpolate(maps, size=(2, 5, 4)), rtol=0, atol=0)


@pytest.mark.parametrize("size", [5, (5,), (5, 0)])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(OptionError, match="image_size must h"):
        PublishedMAUCell(3, 3, 3, image_size=size)
