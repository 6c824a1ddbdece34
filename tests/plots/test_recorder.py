"""Recording inside models: values from the equations, every engine, masks, gradients, limits and errors."""

import copy
import pickle
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import convlstm
from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell, StackForecaster
from convlstm.cells import (
    CausalLSTMCell,
    Cell,
    E3DLSTMCell,
    GHUCell,
    LSTMState,
    MAUCell,
    MIMCell,
    MinConvLSTMCell,
    PhyCell,
    Recordable,
    SAConvLSTMCell,
    SpaceTimeAttentionCell,
    STLSTMCell,
    SwinLSTMCell,
    TrajGRUCell,
)
from convlstm.errors import ConvLSTMError, OptionError


def steps_of(cell: ConvLSTMCell, frames: list[Tensor]) -> list[dict[str, Tensor]]:
    """States and gates of a `ConvLSTMCell` from its equations, by step and name."""
    n, inputs = cell.hidden_dim, frames[0].shape[1]
    w_x, w_h = cell.conv.weight[:, :inputs], cell.conv.weight[:, inputs:]
    h = c = frames[0].new_zeros(len(frames[0]), n, *frames[0].shape[2:])
    found = []
    for x in frames:
        gates = F.conv2d(x, w_x, cell.conv.bias, padding=1) + F.conv2d(h, w_h, padding=1)
        i, f, o = (1 / (1 + torch.exp(-gates[:, k * n : (k + 1) * n])) for k in range(3))
        g = torch.tanh(gates[:, 3 * n :])
        c = f * c + i * g
        h = o * torch.tanh(c)
        found.append({"h": h, "c": c, "i": i, "f": f, "o": o, "g": g})
    return found


def lstm(cell: ConvLSTMCell, frames: list[Tensor]) -> dict[str, Tensor]:
    """The same over time, (B, T, C, H, W) each."""
    steps = steps_of(cell, frames)
    return {name: torch.stack([step[name] for step in steps], 1).detach() for name in steps[0]}


def network(layers: int = 2, **options) -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(2, 4, 3, layers, batch_first=True, **options)


FRAMES = torch.rand(3, 5, 2, 7, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("engine", ["auto", "reference", "fused", "compiled"])
def test_states_and_gates_are_those_of_the_equations(engine):
    """In every layer, whichever engine was asked for; the output is what the engine itself computes."""
    net = network(engine=engine)
    plain = net(FRAMES)[0][0]
    with convlstm.record(net) as tape:
        outputs = net(FRAMES)[0][0]
    assert tape.layers == ("cell_list.0", "cell_list.1")
    assert tape.values("cell_list.1") == ("h", "c", "i", "f", "o", "g")
    assert tape.steps("cell_list.1") == [0, 1, 2, 3, 4]
    x = FRAMES
    for name, cell in zip(tape.layers, net.cell_list, strict=True):
        expected = lstm(cell, list(x.unbind(1)))
        for value in tape.values(name):
            assert_close(tape[name, value], expected[value])
            assert not tape[name, value].requires_grad
        x = expected["h"]
    assert torch.equal(tape["cell_list.1", "h"], outputs.detach())
    assert_close(outputs, plain)
    assert tape.nbytes == 2 * 6 * 3 * 5 * 4 * 7 * 6 * 4


def test_gru_gates():
    torch.manual_seed(0)
    net = ConvGRU(2, 4, 3, batch_first=True)
    with convlstm.record(net) as tape:
        net(FRAMES)
    assert tape.values("cell_list.0") == ("h", "r", "z", "n")
    h = tape["cell_list.0", "h"]
    before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
    z, n, r = (tape["cell_list.0", value] for value in "znr")
    assert_close(h, (1 - z) * n + z * before)
    w, cell = net.cell_list[0].conv.weight, net.cell_list[0]
    gate = F.conv2d(FRAMES[:, 3], w[:4, :2], cell.conv.bias[:4], padding=1)
    assert_close(r[:, 3], torch.sigmoid(gate + F.conv2d(before[:, 3], w[:4, 2:], padding=1)).detach())


def test_both_directions_with_lengths():
    """Steps stand at the index of their frame; a padded frame carries the state, and its gates are NaN."""
    net = network(1, bidirectional=True)
    lengths = torch.tensor([5, 3, 4])
    with convlstm.record(net) as tape:
        outputs = net(FRAMES, lengths=lengths)[0][0]
    forward, backward = (tape[name, "h"] for name in ("cell_list.0", "reverse_cell_list.0"))
    present = torch.arange(5) < lengths[:, None]
    assert torch.equal(torch.cat([forward, backward], dim=2)[present], outputs.detach()[present])
    for sample, length in enumerate(lengths):
        frames = list(FRAMES[sample : sample + 1, :length].unbind(1))
        ahead, back = lstm(net.cell_list[0], frames), lstm(net.reverse_cell_list[0], frames[::-1])
        for value in "hcifog":
            got = tape["cell_list.0", value][sample : sample + 1], ahead[value]
            assert_close(got[0][:, :length], got[1])
            got = tape["reverse_cell_list.0", value][sample : sample + 1], back[value].flip(1)
            assert_close(got[0][:, :length], got[1])
        assert tape["cell_list.0", "f"][sample, length:].isnan().all()
        for value in "hc":  # carried on, and in the other direction not begun
            carried = tape["cell_list.0", value][sample, length - 1 :]
            assert torch.equal(carried, carried[:1].expand_as(carried))
            assert not tape["reverse_cell_list.0", value][sample, length:].any()


def test_samples_that_batch_normalisation_leaves_out():
    """A cell with batch statistics is called with the samples that are present alone."""

    class Normed(ConvLSTMCell):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.norm = nn.BatchNorm2d(16)

        def preactivations(self, x, h):
            return self.norm(super().preactivations(x, h))

    torch.manual_seed(0)
    net = ConvLSTM(2, 4, 3, batch_first=True, cell=Normed)
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 1, 0], [1, 1, 0, 0, 0]]).bool()
    with convlstm.record(net, gradients=True) as tape:
        outputs = net(FRAMES, mask=mask)[0][0]
        outputs.square().sum().backward()
    f = tape["cell_list.0", "f"]
    assert torch.equal(tape["cell_list.0", "h"], outputs.detach())
    assert torch.equal(f.isnan().flatten(2).all(2), ~mask)
    assert torch.equal(f.isnan().flatten(2).any(2), ~mask)
    i, g, c, o = (tape["cell_list.0", value] for value in "igco")
    assert_close(c[:, 1][0], (f[:, 1] * c[:, 0] + i[:, 1] * g[:, 1])[0])
    assert_close(outputs[1, 3], (o * c.tanh())[1, 3])
    gradient = tape.gradient("cell_list.0", "f")
    assert torch.equal((gradient != 0).flatten(2).any(2), mask & (torch.arange(5) > 0))


def test_statistics_of_batch_normalisation_are_those_without_a_recorder():
    class Normalised(ConvLSTMCell):
        def __init__(self, input_dim, *others):
            super().__init__(input_dim, *others)
            self.norm = nn.BatchNorm2d(input_dim)

        def project(self, x):
            return super().project(self.norm(x))

    plain, recorded = network(cell=Normalised).train(), network(cell=Normalised).train()
    expected = plain(FRAMES)[0][0]
    with convlstm.record(recorded) as tape:
        assert torch.equal(recorded(FRAMES)[0][0], expected)
    assert_close(recorded.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert torch.equal(tape["cell_list.1", "h"], expected.detach())
    assert tape.values("cell_list.0") == ("h", "c", "i", "f", "o", "g")


def test_zoneout_is_in_the_state():
    net = network(1, zoneout=0.5).eval()
    with convlstm.record(net) as tape:
        outputs = net(FRAMES)[0][0]
    assert torch.equal(tape["cell_list.0", "h"], outputs.detach())


def test_autocast():
    net = network(1)
    with torch.autocast("cpu", torch.bfloat16), convlstm.record(net) as tape:
        outputs = net(FRAMES)[0][0]
    h, o, c = (tape["cell_list.0", value] for value in "hoc")
    assert o.dtype == torch.bfloat16
    assert c.dtype == torch.float32
    assert torch.equal(h, outputs.detach().to(h.dtype))
    assert torch.equal(h, o * c.tanh())


def test_gradients():
    """They are those of autograd, of states and gates, with recomputed segments and with a mask too."""
    for options in ({}, {"checkpoint": 2}):
        net = network(1, **options)
        with convlstm.record(net, gradients=True) as tape:
            loss = net(FRAMES)[0][0][:, 2:].pow(3).sum()
        loss.backward()
        steps = steps_of(net.cell_list[0], list(FRAMES.unbind(1)))
        total = torch.stack([step["h"] for step in steps], 1)[:, 2:].pow(3).sum()
        for value in "hcifog":
            tensors = [step[value] for step in steps]
            gradients = torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
            pairs = zip(gradients, tensors, strict=True)
            expected = [torch.zeros_like(t) if g is None else g for g, t in pairs]
            assert_close(tape.gradient("cell_list.0", value), torch.stack(expected, 1))
        assert tape.nbytes == 2 * 6 * FRAMES[:, :, :1].numel() * 4 * 4
        assert tape.steps("cell_list.0") == [0, 1, 2, 3, 4]


def test_gradients_of_several_backward_passes_add_up():
    net = network(1)
    with convlstm.record(net, values=["c"], gradients=True) as tape:
        loss = net(FRAMES)[0][0].sum()
    loss.backward(retain_graph=True)
    once = tape.gradient("cell_list.0", "c")
    loss.backward()
    assert torch.equal(tape.gradient("cell_list.0", "c"), 2 * once)
    assert once.abs().sum() > 0


def test_picking_layers_steps_channels_and_values():
    net = network(3)
    with convlstm.record(net) as whole:
        net(FRAMES)
    with convlstm.record(net, ["cell_list.1"], range(1, 5, 2), [3, 0], ["c", "f"]) as tape:
        net(FRAMES)
    assert tape.layers == ("cell_list.1",)
    assert tape.values("cell_list.1") == ("c", "f")
    assert tape.steps("cell_list.1") == [1, 3]
    for value in ("c", "f"):
        assert_close(tape["cell_list.1", value], whole["cell_list.1", value][:, 1::2, [3, 0]])
    with convlstm.record(net, ["cell_list"], [0], values=["h"]) as tape:
        net(FRAMES)
    assert tape.layers == ("cell_list.0", "cell_list.1", "cell_list.2")


def test_picked_steps_of_the_backward_direction_are_those_frames():
    net = network(1, bidirectional=True)
    with convlstm.record(net) as whole:
        net(FRAMES)
    with convlstm.record(net, steps=[4]) as tape:
        net(FRAMES)
    got = tape["reverse_cell_list.0", "f"]
    assert torch.equal(got, whole["reverse_cell_list.0", "f"][:, 4:])


def test_a_stream_goes_on_where_the_call_before_ended():
    """Also one whose buffers were made before the recording; frame by frame as all at once."""
    net = network().eval()
    with convlstm.record(net) as whole, torch.no_grad():
        net(FRAMES)
    stream = net.stream(3, (7, 6))
    for frame in FRAMES[:, :2].unbind(1):
        stream(frame)
    with convlstm.record(net) as tape, torch.no_grad():
        for frame in FRAMES[:, 2:].unbind(1):
            stream(frame)
    for value in "hcf":
        assert_close(tape["cell_list.1", value], whole["cell_list.1", value][:, 2:])
    expected = net(torch.cat([FRAMES, FRAMES[:, :1]], dim=1))[0][0][:, -1]
    assert_close(stream(FRAMES[:, 0]), expected.detach())  # it runs on, unrecorded
    assert tape.steps("cell_list.1") == [0, 1, 2]


def test_two_recorders_at_once():
    net = network()
    with convlstm.record(net, values=["f"]) as outer:
        net(FRAMES[:, :2])
        with convlstm.record(net, ["cell_list.1"]) as inner:
            net(FRAMES[:, 2:3])
        net(FRAMES[:, 3:])
    assert outer.steps("cell_list.1") == [0, 1, 2, 3, 4]
    assert inner.steps("cell_list.1") == [0]
    assert torch.equal(outer["cell_list.1", "f"][:, 2], inner["cell_list.1", "f"][:, 0])


def hooks(module: nn.Module) -> int:
    """Hooks and recorders that are on a module or its parts."""
    return sum(len(m._forward_hooks) + len(m._forward_hooks_always_called) for m in module.modules()) + sum(
        "_recorders" in vars(m) for m in module.modules()
    )


def test_nothing_is_left_behind():
    """After the block, and after an exception in it or in the model; the model still pickles to the same."""
    net = network(cell=partial(ConvLSTMCell, attention="spatial"))
    before = pickle.dumps(net)
    with convlstm.record(net):
        assert hooks(net) == 2 * 2 + 4  # a hook on each cell; cells and their attention know the recorder
        net(FRAMES)
    assert hooks(net) == 0
    with pytest.raises(KeyError), convlstm.record(net):
        raise KeyError
    with pytest.raises(ConvLSTMError), convlstm.record(net):
        net(FRAMES[:, :, :1])
    assert hooks(net) == 0
    assert pickle.dumps(net) == before


class Breaking(ConvLSTMCell):
    """A cell that raises an exception at its third step, once."""

    calls = 0

    def step(self, p, state):
        new = super().step(p, state)
        self.calls += 1
        if self.calls == 3:
            raise KeyError
        return new


def test_an_exception_inside_a_step_is_no_step():
    net = network(1, cell=Breaking)
    with convlstm.record(net) as tape:
        with pytest.raises(KeyError):
            net(FRAMES)
        net.cell_list[0](FRAMES[:, 0])  # called by itself
        net(FRAMES)
    assert tape.steps("cell_list.0") == [0, 1, *range(5, 11)]  # frames 2 to 4 were never reached
    f = tape["cell_list.0", "f"]
    assert torch.equal(f[:, 2], f[:, 0])
    assert torch.equal(f[:, 2], f[:, 3])


def test_a_rule_that_a_subclass_overrides():
    """It works as before; what it hands over is recorded, here without an input gate."""

    class Coupled(ConvLSTMCell):
        def update(self, gates, state):
            _, f, o, g = gates.chunk(4, dim=1)
            f = torch.sigmoid(f)
            self.record_values(f=f)
            c = f * state.c + (1 - f) * torch.tanh(g)
            return LSTMState(torch.sigmoid(o) * torch.tanh(c), c)

    net = network(1, cell=Coupled)
    with convlstm.record(net) as tape:
        outputs = net(FRAMES)[0][0]
    assert tape.values("cell_list.0") == ("h", "c", "f")
    assert torch.equal(tape["cell_list.0", "h"], outputs.detach())
    assert torch.equal(outputs, net(FRAMES)[0][0])


def test_channels_of_a_state_whose_first_tensor_has_none():
    class Counted(NamedTuple):
        count: Tensor
        h: Tensor

    class Counting(ConvLSTMCell):
        def initial_state(self, x):
            h = super().initial_state(x).h
            return Counted(torch.zeros(len(h), dtype=torch.long), h)

        def step(self, p, state):
            return Counted(state.count + 1, super().step(p, LSTMState(state.h, state.h)).h)

    net = network(1, cell=Counting)
    with convlstm.record(net, channels=[1, 3]) as tape:
        outputs = net(FRAMES)[0][0]
    assert tape["cell_list.0", "count"].tolist() == [[1, 2, 3, 4, 5]] * 3
    assert torch.equal(tape["cell_list.0", "h"], outputs[:, :, [1, 3]].detach())


def test_a_range_of_channels_is_never_made_a_list_before_it_is_checked():
    net = network(1)
    with convlstm.record(net, channels=range(1, 4, 2)) as tape:
        outputs = net(FRAMES)[0][0]
    assert torch.equal(tape["cell_list.0", "h"], outputs[:, :, [1, 3]].detach())
    with (
        pytest.raises(OptionError, match="channels must be below 4, .*; received 999999999999: pick"),
        convlstm.record(net, channels=range(10**12)),
    ):
        net(FRAMES)


def test_a_part_of_a_cell_and_an_attention_module():
    class Mine(Recordable):
        def forward(self, h):
            weights = torch.sigmoid(h.mean(1, keepdim=True))
            self.record_values(weights=weights)
            return h * weights

    net = network(1, cell=partial(ConvLSTMCell, attention=Mine()))
    with convlstm.record(net) as tape:
        net(FRAMES)
    h = tape["cell_list.0", "h"]
    assert tape.values("cell_list.0") == ("h", "c", "attention.weights", "i", "f", "o", "g")
    expected = torch.sigmoid(h[:, :-1].mean(2, keepdim=True))
    assert_close(tape["cell_list.0", "attention.weights"][:, 1:], expected)
    for kind, shape in {"spatial": (1, 7, 6), "channel": (4, 1, 1)}.items():
        net = network(1, cell=partial(ConvLSTMCell, attention=kind))
        with convlstm.record(net) as tape:
            net(FRAMES)
        assert tape["cell_list.0", "attention.weights"].shape == (3, 5, *shape)


def test_self_attention_maps():
    """Channel q of a map is where pixel q looks: weights that sum to one over the frame."""
    torch.manual_seed(0)
    net = ConvLSTM(2, 4, 3, batch_first=True, cell=SAConvLSTMCell)
    with convlstm.record(net, gradients=True) as tape:
        net(FRAMES)[0][0].square().sum().backward()
    attention = tape["cell_list.0", "attention"]
    assert attention.shape == (3, 5, 42, 7, 6)
    assert_close(attention.sum((3, 4)), torch.ones(3, 5, 42))
    cell, i, f, g, o = net.cell_list[0], *(tape["cell_list.0", f"lstm.{v}"] for v in "ifgo")
    c = tape["cell_list.0", "c"]
    h = (o[:, 0] * c[:, 0].tanh()).flatten(2)
    scores = cell.query(h).transpose(1, 2) @ cell.key(h)
    assert_close(attention[:, 0].flatten(2), scores.softmax(2).detach())
    assert_close(c[:, 1], f[:, 1] * c[:, 0] + i[:, 1] * g[:, 1])
    i, g, m, o = (tape["cell_list.0", name] for name in ("i_m", "g_m", "m", "o_m"))
    assert_close(m[:, 1], (1 - i[:, 1]) * m[:, 0] + i[:, 1] * g[:, 1])
    assert_close(tape["cell_list.0", "h"], o * m)
    assert tape.gradient("cell_list.0", "attention").shape == attention.shape


def test_window_maps():
    """Weights of pixel q of its window, shifted or not, sum to one over the window's pixels in the frame."""
    torch.manual_seed(0)
    net = ConvLSTM(2, 4, 4, batch_first=True, cell=SwinLSTMCell)
    with convlstm.record(net) as tape:
        net(torch.rand(2, 3, 2, 8, 8))
    for block, shift in enumerate((0, 2)):
        maps = tape["cell_list.0", f"blocks.{block}.attention"].roll((-shift, -shift), (3, 4))
        assert maps.shape == (2, 3, 16, 8, 8)
        windows = maps.unflatten(4, (2, 4)).unflatten(3, (2, 4)).sum((4, 6))
        assert_close(windows, torch.ones(2, 3, 16, 2, 2))
        assert maps.var(2).sum() > 0
    f, g, c, h = (tape["cell_list.0", value] for value in "fgch")
    assert_close(c[:, 1], f[:, 1] * (c[:, 0] + g[:, 1]))
    assert_close(h, f * c.tanh())


def rule_st(v, old):
    c = v["f"] * old["c"] + v["i"] * v["g"]
    return {"c": c, "memory": v["f_m"] * old["memory"] + v["i_m"] * v["g_m"]}


#: How a step's state follows from recorded values and from those of the step before.
RULES = {
    STLSTMCell: rule_st,
    CausalLSTMCell: lambda v, old: {"c": v["f"] * old["c"] + v["i"] * v["g"]},
    GHUCell: lambda v, old: {"h": v["u"] * v["p"] + (1 - v["u"]) * old["h"]},
    TrajGRUCell: lambda v, old: {"h": (1 - v["z"]) * v["n"] + v["z"] * old["h"]},
    MinConvLSTMCell: lambda v, old: {"h": v["a"] * old["h"] + v["b"]},
    MIMCell: lambda v, old: {
        "memory": v["f_m"] * old["memory"] + v["i_m"] * v["g_m"],
        "n": v["non_stationary.lstm.f"] * old["n"] + v["non_stationary.lstm.i"] * v["non_stationary.lstm.g"],
        "d": v["non_stationary.lstm.o"] * v["n"].tanh(),
        "c": v["stationary.o"] * v["s"].tanh() + v["i"] * v["g"],
    },
    PhyCell: lambda v, old: {"h": v["predicted"] + v["gain"] * (v["input"] - v["predicted"])},
    MAUCell: lambda v, old: {"attention": v["attention"] / v["attention"].sum(1, keepdim=True)},
    SpaceTimeAttentionCell: lambda v, old: {
        "attention_time": v["attention_time"] / v["attention_time"].sum(1, keepdim=True)
    },
}


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_values_of_the_other_cells(kind):
    """What a cell hands over are the values that its state was computed from."""
    torch.manual_seed(0)
    net = ConvLSTM(4, 4, 3, batch_first=True, cell=kind)
    frames = torch.rand(2, 3, 4, 6, 6)
    with convlstm.record(net, gradients=True) as tape:
        net(frames)[0][0].square().sum().backward()
    name = "cell_list.0"
    old, new = ({v: tape[name, v][:, t] for v in tape.values(name)} for t in (1, 2))
    for value, expected in RULES[kind](new | {"input": frames[:, 2]}, old).items():
        assert_close(new[value], expected)
    for value in tape.values(name):
        if value not in ("begun", "x", "s") or (kind is MIMCell and value == "s"):
            assert tape.gradient(name, value).shape == tape[name, value].shape


def test_three_space_axes_and_a_recall():
    net = ConvLSTM(1, 4, (2, 3, 3), batch_first=True, cell=E3DLSTMCell)
    with convlstm.record(net, values=["attention", "f_m"]) as tape:
        net(torch.rand(1, 3, 1, 2, 3, 3))
    attention = tape["cell_list.0", "attention"]
    assert attention.shape == (1, 3, 18 * 5, 2, 3, 3)
    assert_close(attention.unflatten(2, (18, 5)).sum((3, 4, 5, 6)), torch.ones(1, 3, 18))


FORECASTERS = {
    "PredRNN": lambda: convlstm.PredRNN(1, [4, 4], 3, 2),
    "PredRNNv2": lambda: convlstm.PredRNNv2(1, [4, 4], 3, 2),
    "PredRNNPlusPlus": lambda: convlstm.PredRNNPlusPlus(1, [4, 4], 3, 2),
    "EncoderForecaster": lambda: convlstm.EncoderForecaster(1),
    "PhyDNet": lambda: convlstm.PhyDNet(1, 4, [4, 4], 3),
    "ConvLSTMTransformer": lambda: convlstm.ConvLSTMTransformer(1, [4, 4]),
    "MAU": lambda: convlstm.MAU(1),
    "SwinLSTM": lambda: convlstm.SwinLSTM(1),
    "TrajGRUForecaster": lambda: convlstm.TrajGRUForecaster(1),
    "StackForecaster": lambda: StackForecaster(1, [4, 4], 3, 2),
}


@pytest.mark.parametrize("name", FORECASTERS)
def test_inside_a_forecaster(name):
    """Every cell of it, for all frames of the past and the forecast; the forecast stays what it was."""
    torch.manual_seed(0)
    model = FORECASTERS[name]().eval()
    past = torch.rand(1, 3, 1, 32, 32)
    with torch.no_grad():
        plain = model(past, 2)
        with convlstm.record(model) as tape:
            forecast = model(past, 2)
    assert_close(forecast, plain)
    outermost = set()
    for path, module in model.named_modules():
        if isinstance(module, Cell) and not any(path.startswith(f"{other}.") for other in outermost):
            outermost.add(path)
    assert set(tape.layers) == outermost
    for layer in tape.layers:
        h = tape[layer, "h"]
        assert h.shape[:2] in {(1, 4), (1, 3), (1, 2)}
        assert h.isfinite().all()
        assert h.var() > 0


def test_a_compiled_model():
    """It runs uncompiled in the block, and compiled after it."""
    net = network(1)
    compiled = torch.compile(net, backend="eager")
    expected = compiled(FRAMES)[0][0]
    with convlstm.record(compiled) as tape:
        outputs = compiled(FRAMES)[0][0]
    assert tape.layers == ("cell_list.0",)
    assert tape.values("cell_list.0") == ("h", "c", "i", "f", "o", "g")
    assert_close(outputs, expected)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_close(compiled(FRAMES)[0][0], expected)


def test_models_are_compiled_again_after_the_last_of_several_recorders_whichever_ends_first():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    square = torch.compile(torch.square, backend=backend)
    first, last = convlstm.record(network(1)), convlstm.record(network(1))
    with ExitStack() as ends_last:
        with ExitStack() as ends_first:
            ends_first.enter_context(first)
            ends_last.enter_context(last)
        square(FRAMES)
        assert not compiled
    square(FRAMES)
    assert compiled


def test_other_modules():
    """The result of any module outside the cells is its output."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    with convlstm.record(net, layers=["1"]) as tape:
        y = net(FRAMES[0])
    assert tape.values("1") == ("output",)
    assert torch.equal(tape["1", "output"][:, 0], y.detach())
    with pytest.raises(OptionError, match="must contain a cell .* received a Seq"), convlstm.record(net):
        pass


def test_a_cell_by_itself():
    """What is kept stays when the state is changed in place afterwards."""
    cell = ConvLSTMCell(2, 4, 3)
    with convlstm.record(cell) as tape, torch.no_grad():
        state = cell(FRAMES[:, 0])
        new = cell(FRAMES[:, 1], state)
        for tensor in (*state, *new):
            tensor.zero_()
    expected = lstm(cell, list(FRAMES[:, :2].unbind(1)))
    assert tape.layers == ("",)
    assert tape.steps("") == [0, 1]
    for value in "hcifog":
        assert_close(tape["", value], expected[value])


def test_the_limit_is_never_passed():
    net = network()
    step = 6 * 3 * 4 * 7 * 6 * 4
    with convlstm.record(net, limit=10 * step) as tape:
        net(FRAMES)
    assert tape.nbytes == 10 * step
    tape = None
    with pytest.raises(OptionError) as error, convlstm.record(net, limit=10 * step - 1) as tape:
        net(FRAMES)
    assert tape.nbytes == 5 * step
    assert hooks(net) == 0
    assert str(error.value) == (
        "a recording must fit into limit=120,959 bytes; received at least 120,960, of which a step of "
        "'cell_list.1' takes 12,096: pick layers=, steps=, channels= or values=, or raise limit"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["cell_list.7"]}, r"must be among cell_list\.0, cell_list\.1, .*received 'cell_list\.7'"),
        ({"layers": "cell_list.0"}, "layers must be a list of names, or None for all; received"),
        ({"layers": []}, "layers must be a list of names"),
        ({"steps": [-1]}, "steps must be a range or a list of integers from 0 on"),
        ({"steps": [5, 8]}, r"steps must be below 5, as many as ran; received \[5, 8\]"),
        ({"steps": range(5, 10**12)}, "steps must be below 5"),
        ({"steps": range(3, -2, -1)}, "steps must be a range"),
        ({"steps": range(0)}, "steps must be a range"),
        ({"steps": 3}, "steps must be a range or a list of integers from 0 on"),
        ({"channels": [4]}, r"channels must be below 4, .* of layer 'cell_list\.0'; received 4"),
        ({"channels": []}, "channels must be a range"),
        ({"values": ["z"]}, "values must be one of c, f, g, h, i, o; received 'z'"),
        ({"gradients": 2}, "gradients must be"),
        ({"limit": 0}, "limit must be"),
    ],
)
def test_bad_options(options, message):
    net = network()
    with pytest.raises(OptionError, match=message), convlstm.record(net, **options):
        net(FRAMES)
    assert hooks(net) == 0


def test_bad_reading():
    net = network()
    with convlstm.record(net, values=["h", "f"]) as tape:
        with pytest.raises(OptionError, match="must hold a call of the model"):
            tape.values("cell_list.0")
        net(FRAMES)
        with pytest.raises(OptionError, match=r"must be one of cell_list\.0, cell_list\.1; received 'cell'"):
            tape["cell", "h"]
        with pytest.raises(OptionError, match=r"recorded value of 'cell_list\.0' must be one of f, h"):
            tape["cell_list.0", "c"]
        with pytest.raises(OptionError, match=r"read as tape\[layer, value\]"):
            tape["cell_list.0"]
        with pytest.raises(OptionError, match="gradient must be recorded before it is read"):
            tape.gradient("cell_list.0", "f")
        with convlstm.record(net, steps=range(5, 10**12)) as other:
            net(FRAMES)
            net.cell_list[1](FRAMES.new_zeros(3, 4, 7, 6))
        with pytest.raises(OptionError, match=r"received none of 'cell_list\.0', which ran 5 steps: pick"):
            other["cell_list.0", "h"]
        assert other.steps("cell_list.1") == [5]
        net(FRAMES[:2])
        with pytest.raises(OptionError, match="must have one batch and size"):
            tape["cell_list.0", "f"]
    with pytest.raises(ConvLSTMError, match="model must be"), convlstm.record("net"):
        pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_made_in_the_block_is_that_of_a_plain_model(protocol):
    net = network(cell=partial(ConvLSTMCell, attention="spatial"))
    expected, plain = net(FRAMES)[0][-1], pickle.dumps(net, protocol)
    called = []
    own = net.cell_list[0].register_forward_hook(lambda *_: called.append(1), always_call=True)
    with convlstm.record(net) as tape, convlstm.record(net, ["cell_list.0"]):
        net(FRAMES)
        with pytest.raises(AttributeError):  # the lambda; a hook of one's own is still there
            pickle.dumps(net.cell_list[0], protocol)
        own.remove()
        written = pickle.dumps(net, protocol)
        copied = pickle.loads(written)
        assert hooks(copied) == 0
        assert torch.equal(copied(FRAMES)[0][-1], expected)
    assert written == plain
    assert len(tape.steps("cell_list.0")) == FRAMES.shape[1]
    assert called


def test_a_copy_made_in_the_block_records_nothing_of_its_own():
    net = network(1)
    with convlstm.record(net) as tape:
        copied = copy.deepcopy(net)
        assert hooks(copied) == 0
        copied(FRAMES)
    assert tape.layers == ()
    assert hooks(copied) == 0
    assert "__reduce_ex__" not in vars(copied.cell_list[0])
    assert torch.equal(copied(FRAMES)[0][0], net(FRAMES)[0][0])
