"""The eidetic LSTM and E3D-LSTM against the equations, golden numbers and numbers of public code."""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import convlstm
from convlstm import E3DLSTM, ConvLSTM, E3DLSTMCell
from convlstm.errors import OptionError, ShapeError

#: What OpenSTL's cell gave, by channels, for the test below.
OPENSTL = {
    1: [
        0.3408707582812321,
        0.11468459189684221,
        -0.13644013973020358,
        0.10774850894433054,
        0.3386488610411383,
    ],
    3: [
        -0.11904987958385245,
        -0.03729128369474662,
        0.13343938606236838,
        -0.2528936326873556,
        -0.1341220489642214,
        0.030992108068033757,
    ],
}


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def filled(module):
    """The module in float64, each weight a sine, around 1 for the scale of the normalisation."""
    module.double().eval()
    with torch.no_grad():
        for k, (name, tensor) in enumerate(sorted(module.state_dict().items())):
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) + k)
            tensor.copy_(0.4 * wave.view_as(tensor) + name.endswith("norm.weight"))
    return module


def waves(*shape, function=torch.sin):
    return function(torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def gate(weights, name, number, gates, x):
    """One gate's part from one clip x (C, D, H, W), with zeros around it, more at the end."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    rows = slice(len(weight) // gates * number, len(weight) // gates * (number + 1))
    around = [n for k in reversed(weight.shape[2:]) for n in ((k - 1) // 2, k // 2)]
    return F.conv3d(F.pad(x[None], around), weight[rows], None if bias is None else bias[rows])[0]


def recall(query, memories):
    """For each position of a query (C, *S), the mean of all memories' positions, weighed by likeness."""
    found, rows = torch.zeros_like(query), torch.cat([memory.flatten(1) for memory in memories], dim=1).T
    for place in product(*map(range, query.shape[1:])):
        likeness = torch.stack([torch.exp(row @ query[(slice(None), *place)]) for row in rows])
        found[(slice(None), *place)] = likeness @ rows / likeness.sum()
    return found


def by_the_equations(weights, clips, hidden, history, forget):
    """h, c and m after each clip (C, D, H, W) of one sequence; nothing of the library."""
    h = m = clips[0].new_zeros(hidden, *clips[0].shape[1:])
    cells, after = [h], []
    for x in clips:
        i, g, r, o, i_, g_, f_ = (gate(weights, "conv_x", k, 7, x) for k in range(7))
        i_h, g_h, r_h, o_h = (gate(weights, "conv_h", k, 4, h) for k in range(4))
        i_m, f_m, g_m, m_m = (gate(weights, "conv_m", k, 4, m) for k in range(4))
        kept = cells[-1] + recall(torch.sigmoid(r + r_h), cells[-history:])
        kept = (kept - kept.mean()) / torch.sqrt(kept.var(correction=0) + 1e-5)
        scale, shift = (weights[f"norm.{name}"].view(-1, 1, 1, 1) for name in ("weight", "bias"))
        c = scale * kept + shift + torch.sigmoid(i + i_h) * torch.tanh(g + g_h)
        m = torch.sigmoid(f_ + f_m + forget) * torch.tanh(m_m)
        m = m + torch.sigmoid(i_ + i_m) * torch.tanh(g_ + g_m)
        o = torch.sigmoid(torch.tanh(o + o_h + gate(weights, "conv_o", 0, 1, torch.cat([c, m]))))
        h = o * torch.tanh(gate(weights, "conv_last", 0, 1, torch.cat([c, m])))
        cells.append(c)
        after.append((h, c, m))
    return after


@settings(max_examples=20, deadline=None)
@given(
    inputs=st.integers(1, 2),
    hidden=st.integers(1, 3),
    kernel=st.sampled_from([(1, 1, 1), (2, 3, 3), (2, 1, 2), (3, 3, 1)]),
    size=st.tuples(st.integers(1, 2), st.integers(2, 3), st.integers(1, 2)),
    bias=st.booleans(),
    forget=st.sampled_from([0.0, 1.0]),
    history=st.integers(1, 3),
    steps=st.integers(1, 4),
)
def test_it_follows_the_equations(inputs, hidden, kernel, size, bias, forget, history, steps):
    cell = filled(E3DLSTMCell(inputs, hidden, kernel, bias, history=history, forget_bias=forget))
    clips, state, memory = waves(steps, 2, inputs, *size).requires_grad_(), None, None
    weights = dict(cell.named_parameters())
    samples = [by_the_equations(weights, sample, hidden, history, forget) for sample in clips.unbind(1)]
    for k, x in enumerate(clips):
        state, memory = cell(x, state, memory)
        expected = tuple(map(torch.stack, zip(*(sample[k] for sample in samples), strict=True)))
        assert_close((state.h, state.c[:, -1], memory), expected)
    ends, inputs = (state.h, expected[0]), (clips, *weights.values())
    assert_close(*(torch.autograd.grad(h.square().sum(), inputs, allow_unused=True) for h in ends))


def bytes_saved(history):
    """By autograd, for the backward pass of two layers of four channels over six clips of 128 positions."""
    torch.manual_seed(0)
    cell, held = partial(E3DLSTMCell, history=history), {}
    layers = ConvLSTM(1, [4, 4], (2, 3, 3), batch_first=True, cell=cell)

    def count(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = layers(torch.rand(1, 6, 1, 2, 8, 8))[0][0]
    assert outputs.requires_grad
    return sum(held.values())


def test_recalls_save_the_cell_states_and_not_their_weights():
    """Four channels in float32 and a flag for each position of the history; it has 128 weights for each."""
    assert bytes_saved(history=9) - bytes_saved(history=3) <= 6 * 2 * 6 * 128 * (4 * 4 + 1)


def test_golden_numbers():
    """All weights 0.1, the scale of the normalisation 1, and the clips 0 ... 11 and 12 ... 23."""
    cell = E3DLSTMCell(1, 1, (2, 3, 3), history=2).double()
    for name, tensor in cell.state_dict().items():
        tensor.fill_(1.0 if name == "norm.weight" else 0.1)
    clips = torch.arange(24.0, dtype=torch.float64).view(2, 1, 1, 2, 2, 3)
    state, memory = cell(clips[1], *cell(clips[0]))
    golden = [
        (state.h, [0.1973463991, 0.2833726077, 0.2445086351], [0.0643314328, 0.2465696531, 0.13458434]),
        (
            state.c[:, -1],
            [1.0201541665, 2.2041935953, 1.7286744939],
            [-0.6042075878, 1.876884081, 0.3738195415],
        ),
        (memory, [1.7479024941, 1.8857628938, 1.7497230283], [1.4864660413, 1.6332903838, 1.4883626441]),
    ]
    for tensor, first, second in golden:
        assert_close(tensor.flatten(), f64(first * 2 + second * 2), rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "size"), [(1, (1, 3, 4)), (3, (1, 1, 1))])
def test_it_gives_the_numbers_of_openstl(channels, size):
    """chengtan9907/OpenSTL c74deb5, openstl.modules.Eidetic3DLSTMCell(2, channels, 1, H, W, (1, 3, 3), 1, 0).

    Where its attention mixes nothing: one channel, or one position. Its memory is the same at every step.
    Weights as here: conv_gm is conv_m, conv_new_cell and conv_new_gm are the halves of conv_o, _norm_c_t is
    norm, repeated over all positions.
    """
    cell, state = filled(E3DLSTMCell(2, channels, (1, 3, 3), False, history=4)), None
    memory = waves(2, channels, *size, function=torch.cos)
    for clip in waves(4, 2, 2, *size):
        state, _ = cell(clip, state, memory)
    found = state.h.flatten()[:: 5 if channels == 1 else 1]
    assert_close(found, f64(OPENSTL[channels]), rtol=0, atol=1e-14)


@torch.no_grad()
def test_a_history_that_is_not_full_is_read_alike_where_python_cannot_tell_how_full_it_is():
    """Recorded and inside torch.func all of it is read, and what is empty has no weight."""
    torch.manual_seed(0)
    layer = ConvLSTM(1, 2, (2, 3, 3), batch_first=True, cell=partial(E3DLSTMCell, history=4)).double()
    x = torch.rand(3, 6, 1, 2, 4, 3, dtype=torch.float64)
    lengths = torch.tensor([6, 2, 4])
    for options in ({}, {"lengths": lengths}):
        plain = layer(x, **options)[0][0]
        with convlstm.record(layer) as tape:
            assert_close(layer(x, **options)[0][0], plain)
        (name,) = tape.layers
        assert tape[name, "attention"].shape[:3] == (3, 6, 24 * 4)
        call = partial(torch.func.functional_call, layer, args=(x,), kwargs=options)
        weights = {name: w[None] for name, w in layer.named_parameters()}
        assert_close(torch.func.vmap(lambda w, call=call: call(w)[0][0])(weights)[0], plain)
        assert_close(layer(x[1:2, :2])[0][0], plain[1:2, :2])


def test_it_is_compiled_as_one_graph():
    """Asking whether Python may read how full the history is broke the graph."""
    layer = ConvLSTM(1, 2, (2, 3, 3), batch_first=True, cell=E3DLSTMCell)
    x = torch.rand(2, 3, 1, 2, 4, 3)
    assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x)[0][0], layer(x)[0][0])


def test_the_memory_lives():
    """A step returns another memory, and its kernel learns; in public code neither is so."""
    layers = ConvLSTM(1, [2, 2], (2, 3, 3), batch_first=True, cell=E3DLSTMCell)
    outputs, states = layers(torch.rand(1, 3, 1, 2, 4, 4))
    outputs[0][:, -1].square().sum().backward()
    assert states.memory.abs().min() > 0
    assert all(cell.conv_m.weight.grad.abs().min() > 0 for cell in layers.cell_list)


@torch.no_grad()
def test_a_step_reads_the_last_frames_of_the_window():
    """Zeros stand before the first frame, the newest one is the deepest."""
    model = E3DLSTM(1, [2, 2], 3, patch_size=1, window=3, history=2).eval()
    past = torch.rand(2, 4, 1, 5, 6)
    padded = torch.cat([past.new_zeros(2, 2, 1, 5, 6), past], dim=1)
    clips = torch.stack([padded[:, t : t + 3].transpose(1, 2) for t in range(4)], dim=1)
    output = model.layers(clips)[0][0][:, -1]
    assert_close(model(past, 1)[:, 0], model.head(output).squeeze(2))


def test_the_published_model_is_the_default():
    """51.35 M parameters in OpenSTL, with normalisations of 2 x 16 x 16 positions."""
    model = E3DLSTM()
    per_position = 4 * 2 * 128 * (2 * 16 * 16 - 1)
    assert sum(p.numel() for p in model.parameters()) + per_position == pytest.approx(51.35e6, abs=5e3)
    assert model.layers.cell_list[0].history == 20


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="hidden_dim must hold the same number for each layer"):
        E3DLSTM(hidden_dim=[2, 3])
    with pytest.raises(ShapeError, match="the spatiotemporal memory must have hidden_dim=3 channels"):
        ConvLSTM(1, [2, 3], 3, batch_first=True, cell=E3DLSTMCell)(torch.rand(1, 2, 1, 4, 4))


def test_frames_of_one_value_are_normalised():
    outputs, _ = ConvLSTM(1, 1, (3, 3, 3), batch_first=True, cell=E3DLSTMCell)(torch.rand(1, 2, 1, 1, 1, 1))
    assert outputs[0].isfinite().all()
