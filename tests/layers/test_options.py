"""All options of a stack at once against plain loops; that each argument does something; what is refused."""

import functools
import inspect
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_stacks import cases
from torch import nn
from torch.testing import assert_close

from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell
from convlstm.errors import ConvLSTMError, OptionError, ShapeError


def compare(case, states=None):
    """Every sample of the stack's outputs and states with the plain loops over that sample alone."""
    outputs, ends = case.call(states=states)
    steps = case.x.shape[1]
    lengths = case.flags.get("lengths", torch.full(case.x.shape[:1], steps)).tolist()
    mask = case.flags.get("mask", torch.ones(case.x.shape[:2], dtype=torch.bool))
    layers = len(case.cells)
    shown = list(range(layers)) if case.options["return_all_layers"] else [layers - 1]
    assert len(outputs) == len(ends) == len(shown)
    for sample, length in enumerate(lengths):
        given_states = None if states is None else [of_sample(s, sample) for s in states.all_layers]
        expected, expected_ends = case.reference(sample, given_states)
        for output, layer in zip(outputs, shown, strict=True):
            short = case.options["last_only"] and layer == layers - 1
            assert output.shape[1] == (1 if short else steps)
            for t, frame in enumerate(expected[layer]):
                # With a connection around the layer, what a missing frame gives is tested by itself.
                if short or mask[sample, t] or case.options["residual"] not in (True, "project"):
                    np.testing.assert_allclose(output[sample, t].detach(), frame, rtol=1e-8, atol=1e-9)
            if not short:
                assert not output[sample, length:].any()
        for end, loops in zip(ends.all_layers, expected_ends, strict=True):
            for a, b in zip(leaves(of_sample(end, sample)), leaves(loops), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def of_sample(state, sample):
    """One sample of a layer's state, as the plain loops take it: a tuple of arrays, or a pair of these."""
    if isinstance(state, torch.Tensor):
        return state[sample].detach().numpy()
    return tuple(of_sample(part, sample) for part in state)


def leaves(state):
    return [state] if isinstance(state, np.ndarray) else [leaf for part in state for leaf in leaves(part)]


@settings(max_examples=200, deadline=None)
@given(case=cases(), states_given=st.booleans())
def test_any_options_together_equal_the_plain_loops(case, states_given):
    compare(case, case.random_states() if states_given else None)


@settings(max_examples=60, deadline=None)
@given(case=cases(kinds=("lstm",), plain_cells=True, detach_every=None, checkpoint=None, zoneout=0.0))
def test_the_fused_engine_equals_the_plain_loops(case):
    """With all options of the stack and flags, peepholes, dilation and padding modes."""
    fused = case.but(engine="fused")
    try:
        fused.call()
    except OptionError:  # it says what it cannot do, and does all the rest
        assume(False)
    compare(fused)


@settings(max_examples=25, deadline=None)
@given(case=cases(activations=("tanh",), target_size=None, last_only=False))
def test_every_flag_together_equals_the_plain_loops(case):
    """As above with the time flags in the foreground."""
    assume(case.flags)
    compare(case, case.random_states())


@pytest.mark.parametrize("residual", [True, "project"])
def test_last_only_of_both_directions_adds_the_last_frame_that_is_there(residual):
    """At a frame beyond its length, what the layer below gives backwards is from before its first step."""
    layer = ConvLSTM(2, 2, 3, 2, True, bidirectional=True, merge="sum", residual=residual, last_only=True)
    x = torch.randn(1, 4, 2, 3, 3)
    assert_close(layer(x, lengths=torch.tensor([2]))[0][0], layer(x[:, :2])[0][0])


def test_last_only_with_lengths_returns_one_frame():
    layer = ConvLSTM(1, 2, 3, 1, batch_first=True, last_only=True)
    x, lengths = torch.randn(2, 4, 1, 5, 6), torch.tensor([2, 4])
    (last,), _ = layer(x, lengths=lengths)
    assert last.shape == (2, 1, 2, 5, 6)
    for sample, length in enumerate(lengths):
        (alone,), _ = layer(x[sample : sample + 1, :length])
        assert_close(last[sample : sample + 1], alone)


def test_states_resume_a_stack_that_pools():
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, target_size=(3, 2))
    x = torch.randn(2, 4, 1, 5, 6)
    (whole,), _ = layer(x)
    (_,), states = layer(x[:, :3])
    assert_close(layer(x[:, 3:], states)[0][0], whole[:, 3:])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_reset_beyond_the_length_is_not_read(bidirectional):
    layer = ConvLSTM(1, 2, 3, 1, batch_first=True, bidirectional=bidirectional)
    x, reset = torch.randn(1, 4, 1, 3, 3), torch.tensor([[False, False, True, False]])
    before = layer(torch.randn(1, 1, 1, 3, 3))[1]
    (short,), end = layer(x, before, lengths=torch.tensor([2]), reset=reset)
    (alone,), expected = layer(x[:, :2], before)
    assert_close(short[:, :2], alone)
    assert_close(end.all_layers, expected.all_layers)


@pytest.mark.parametrize("residual", [True, "project"])
def test_a_missing_frame_gives_the_output_of_the_frame_before_also_around_a_connection(residual):
    layer = ConvLSTM(2, 2, 3, 2, batch_first=True, residual=residual, return_all_layers=True)
    mask = torch.tensor([[True, False, False, True]])
    for output in layer(torch.randn(1, 4, 2, 3, 3), mask=mask)[0]:
        assert_close(output[:, 1], output[:, 0])
        assert_close(output[:, 2], output[:, 0])


def test_a_sample_without_any_frame_keeps_the_state_it_came_with():
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, bidirectional=True, return_all_layers=True)
    states = layer(torch.randn(2, 2, 1, 4, 4))[1].map(torch.randn_like)
    mask = torch.tensor([[True] * 3, [False] * 3])
    outputs, ends = layer(
        torch.full((2, 3, 1, 4, 4), torch.nan).index_fill(0, torch.tensor(0), 1.0), states, mask=mask
    )
    for state, end, output in zip(states, ends, outputs, strict=True):
        for before, after in zip(
            [*state.forward, *state.backward], [*end.forward, *end.backward], strict=True
        ):
            assert_close(after[1], before[1], rtol=0, atol=0)
        assert output.isfinite().all()


# For each argument of the constructors, what the change needs around it, and the change.
STACK_CHANGES = {
    "input_dim": ({}, {"input_dim": 3}),
    "hidden_dim": ({}, {"hidden_dim": 3}),
    "kernel_size": ({}, {"kernel_size": (3, 1)}),
    "num_layers": ({}, {"num_layers": 3}),
    "batch_first": ({}, {"batch_first": False}),
    "bias": ({}, {"bias": False}),
    "return_all_layers": ({}, {"return_all_layers": True}),
    "cell": ({}, {"cell": ConvRNNCell}),
    "bidirectional": ({}, {"bidirectional": True}),
    "merge": ({"bidirectional": True, "merge": "sum"}, {"merge": "mean"}),
    "residual": ({}, {"residual": True}),
    "norm": ({}, {"norm": "group"}),
    "dropout": ({}, {"dropout": 0.5}),
    "zoneout": ({}, {"zoneout": 0.5}),
    "target_size": ({}, {"target_size": (2, 3)}),
    "restore_size": ({"target_size": (2, 3)}, {"restore_size": True}),
    "last_only": ({}, {"last_only": True}),
    "detach_every": ({}, {"detach_every": 2}),
    "checkpoint": ({}, {"checkpoint": 2}),
    "engine": ({}, {"engine": "fused"}),  # steps of its own
    "save": ({"engine": "fused"}, {"save": "state"}),  # keeps less
}


def fingerprint(make, base, monkeypatch):
    """All that can be seen of a stack: shapes, values, gradients, how often its cells step, what it keeps."""
    torch.manual_seed(0)
    layer = make(**base).train()
    counted = Counter()
    scan = sys.modules["convlstm.layers.scan"]  # a method replaced on a cell's class would choose the engine
    step = scan.run_step
    monkeypatch.setattr(scan, "run_step", lambda *a: (counted.update(["step"]), step(*a))[1])
    torch.manual_seed(1)
    x = torch.randn(3, 4, base["input_dim"], 4, 5, requires_grad=True)
    kept = []
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            outputs, states = layer(x)
    except OptionError as error:
        return str(error)
    # The end alone, so that gradients show how far back they reach.
    sum(
        (y * torch.linspace(0, 1, y[0, -1].numel()).view_as(y[0, -1])).flatten(2)[:, -1].sum()
        for y in outputs
    ).backward()
    monkeypatch.undo()
    tensors = [*outputs, *(t for state in states for t in nested(state)), x.grad]
    tensors += [p.grad for p in layer.parameters()]
    return [t.detach().tolist() for t in tensors], counted["step"], sum(kept)


def nested(state):
    return [state] if isinstance(state, torch.Tensor) else [t for part in state for t in nested(part)]


@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
# An engine is the one argument that must not change anything.
@pytest.mark.parametrize("name", list(inspect.signature(ConvLSTM).parameters))
def test_every_argument_has_an_effect(stack, name, monkeypatch):
    """B10. An argument added without an entry fails by its name, one without an effect by its numbers."""
    assert list(inspect.signature(stack).parameters) == list(inspect.signature(ConvLSTM).parameters)
    base = {"input_dim": 2, "hidden_dim": 2, "kernel_size": 3, "num_layers": 2, "batch_first": True}
    base["engine"] = "reference"  # whose steps can be counted
    needed, change = STACK_CHANGES[name]
    before = fingerprint(stack, base | needed, monkeypatch)
    assert before == fingerprint(stack, base | needed, monkeypatch)
    assert before != fingerprint(stack, base | needed | change, monkeypatch)


CALL_FLAGS = {
    "hidden_state": lambda layer, x: layer(torch.randn_like(x))[1],
    "mask": lambda layer, x: torch.tensor([[True, False, True]] * 2),
    "lengths": lambda layer, x: torch.tensor([2, 3]),
    "reset": lambda layer, x: torch.tensor([[False, True, False]] * 2),
}


@pytest.mark.parametrize(
    "name", [n for n in inspect.signature(ConvLSTM.forward).parameters if n not in ("self", "input_tensor")]
)
def test_every_argument_of_the_call_has_an_effect(name):
    """B10, for what is passed with the sequence."""
    layer, x = ConvLSTM(1, 2, 3, 2, batch_first=True), torch.randn(2, 3, 1, 4, 4)
    assert not torch.equal(layer(x)[0][0], layer(x, **{name: CALL_FLAGS[name](layer, x)})[0][0])


def test_dropout_drops_whole_channels_between_layers_the_same_at_all_times():
    layer = ConvRNNStackOfOnes(4, dropout=0.5)
    torch.manual_seed(0)
    (y,), _ = layer(torch.ones(50, 3, 4, 2, 2))
    values = y[:, :, 0].unique().tolist()
    assert values == [0.0, 2.0, 4.0, 6.0, 8.0]  # of four channels, each dropped or doubled
    assert (y == y[:, :1, :, :1, :1]).all()
    assert torch.equal(layer.eval()(torch.ones(1, 3, 4, 2, 2))[0][0], torch.full((1, 3, 4, 2, 2), 4.0))


def ConvRNNStackOfOnes(channels, **options):
    """Two layers, the first handing its input on, the second summing its channels; no memory."""
    cell = functools.partial(ConvRNNCell, activation="identity")
    layer = ConvLSTM(channels, channels, 1, 2, batch_first=True, bias=False, cell=cell, **options)
    with torch.no_grad():
        for number, cell in enumerate(layer.cell_list):
            weight = torch.eye(channels) if number == 0 else torch.ones(channels, channels)
            cell.conv.weight.zero_()
            cell.conv.weight[:, :channels, 0, 0] = weight
    return layer


def test_zoneout_keeps_about_its_share_of_the_state():
    layer = ConvLSTM(1, 2, 3, 1, batch_first=True, zoneout=0.25)
    state = layer(torch.randn(4, 1, 1, 20, 20))[1].map(torch.randn_like)
    _, end = layer(torch.randn(4, 1, 1, 20, 20), state)
    for before, after in zip(state[0], end[0], strict=True):
        assert 0.2 < (before == after).float().mean() < 0.3


def test_zoneout_mixes_states_of_two_dtypes_outside_training():
    layer = ConvLSTM(1, 2, 3, batch_first=True, zoneout=0.25, cell=ConvRNNCell).eval()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(torch.ones(1, 3, 1, 4, 4))[0][0]
    assert_close(mixed.float(), layer(torch.ones(1, 3, 1, 4, 4))[0][0], rtol=0.03, atol=0.01)


def test_without_training_zoneout_is_what_training_gives_on_average():
    layer = ConvLSTM(1, 2, 3, 1, batch_first=True, zoneout=0.25)
    x = torch.randn(1, 1, 1, 6, 6)
    with torch.no_grad():
        state = layer(x)[1].map(torch.randn_like)
        drawn = [layer(x, state)[1][0] for _ in range(4000)]
        for n, expected in enumerate(layer.eval()(x, state)[1][0]):
            assert_close(torch.stack([end[n] for end in drawn]).mean(0), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("hidden", [1, 3, 16, 33, 64])
def test_group_norm_has_groups_of_up_to_sixteen_channels_for_any_number(hidden):
    """B30 and B33: groups by integer division would be none for few channels; odd numbers work."""
    layer = ConvLSTM(1, hidden, 3, 1, batch_first=True, norm="group")
    (y,), _ = layer(torch.randn(2, 2, 1, 6, 6))
    groups = max(1, hidden // 16) if hidden % 16 == 0 else layer.norm_list[0].num_groups
    assert hidden % groups == 0
    assert groups == layer.norm_list[0].num_groups
    by_group = y.detach().unflatten(2, (groups, -1)).flatten(3)
    assert_close(by_group.mean(-1), torch.zeros(2, 2, groups), rtol=0, atol=1e-5)


def test_group_norm_takes_one_frame_of_one_channel_and_pixel():
    """Two such frames work, so that a stream of single ones would fail where the sequence does not."""
    layer = ConvLSTM(1, 1, 3, 1, batch_first=True, norm="group")
    assert layer(torch.ones(1, 2, 1, 1, 1))[0][0].shape == (1, 2, 1, 1, 1)
    assert layer(torch.ones(1, 1, 1, 1, 1))[0][0].shape == (1, 1, 1, 1, 1)


def test_a_norm_factory_is_called_with_the_channels_of_each_layer():
    seen = []
    layer = ConvLSTM(
        1,
        [2, 3],
        3,
        bidirectional=True,
        norm=lambda n: seen.append(n) or nn.BatchNorm2d(n),
        return_all_layers=True,
    )
    layer(torch.randn(2, 2, 1, 4, 4))
    assert seen == [4, 6]


def test_options_of_cells_differ_by_layer():
    cells = [functools.partial(ConvGRUCell, dilation=2), functools.partial(ConvLSTMCell, peephole="channel")]
    layer = ConvLSTM(1, (4, 3), [3, (1, 5)], cell=cells, batch_first=True)
    _, states = layer(torch.randn(2, 3, 1, 6, 5))
    assert layer.cell_list[0].dilation == (2, 2)
    assert layer.cell_list[1].peephole_weight.shape == (3, 3, 1, 1)
    assert [tuple(s._fields) for s in states.all_layers] == [("h",), ("h", "c")]
    resumed, _ = layer(torch.randn(2, 1, 1, 6, 5), states)
    assert resumed[0].shape == (2, 1, 3, 6, 5)


def refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "concta"}, r"merge must be one of .*; received 'concta'; did you mean 'concat'\?"),
        (
            {"residual": "projekt"},
            r"residual must be one of .*; received 'projekt'; did you mean 'project'\?",
        ),
        ({"norm": "grop"}, r"norm must be one of .*; received 'grop'; did you mean 'group'\?"),
        (
            {"residual": True, "hidden_dim": [1, 2]},
            r"residual=True needs as many channels .* use residual='project'",
        ),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1; received 1.0"),
        ({"zoneout": -0.1}, "zoneout must be at least 0 and below 1; received -0.1"),
        (
            {"dropout": 0.5, "num_layers": 1},
            "dropout acts between layers and needs two at least; received 0.5 with one",
        ),
        ({"target_size": (2,)}, r"target_size must have one entry per space axis \(2\); received \(2,\)"),
        (
            {"residul": True},
            "an argument of ConvLSTM must be one of .*; received 'residul'; did you mean 'residual'",
        ),
        ({"merge": "sum"}, "merge joins both directions; received 'sum' without bidirectional=True"),
        ({"restore_size": True}, "restore_size undoes target_size; received restore_size=True without"),
        ({"detach_every": 0}, "detach_every must be at least 1 step, or None for never; received 0"),
        ({"checkpoint": -1}, "checkpoint must be at least 1 step, or None for never; received -1"),
        ({"kernel_size": [3, (3, 3, 3)]}, "kernel_size must have the same number of axes in all layers"),
        ({"kernel_size": (3, 3, 3, 3)}, "kernel_size must be a positive integer or a tuple of one to three"),
        (
            {"kernel_size": [3, 3, 3]},
            r"kernel_size must hold one entry per layer \(2\); received \[3, 3, 3\]",
        ),
        ({"cell": [ConvLSTMCell]}, r"cell must hold one entry per layer \(2\)"),
        (
            {"num_layers": None, "hidden_dim": [1, 2], "kernel_size": [3, 3, 3]},
            r"lists must have one entry per layer; received lengths \{'hidden_dim': 2, 'kernel_size': 3\}",
        ),
    ],
)
def test_refused_options_say_rule_value_and_remedy(options, message):
    base = {"input_dim": 1, "hidden_dim": 1, "kernel_size": 3, "num_layers": 2}
    refused(lambda: ConvLSTM(**(base | options)), OptionError, message)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_dim": [], "num_layers": None},
        {"num_layers": 2.0},
        {"target_size": 4},
        {"target_size": (0, 2)},
        {"target_size": (1.5, 2)},
        {"detach_every": 1.5},
        {"checkpoint": 1.5},
        {"norm": 3},
        {"cell": 3},
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused_by_the_constructor(options):
    base = {"input_dim": 1, "hidden_dim": 1, "kernel_size": 3, "num_layers": 2}
    name = next(iter(options))
    refused(lambda: ConvLSTM(**(base | options)), OptionError, rf"^{name} .*received")


def flag_errors():
    x = torch.zeros(2, 3, 1, 4, 4)
    mask = torch.ones(2, 3, dtype=torch.bool)
    return [
        (
            x,
            {"mask": mask.float()},
            r"mask must be bool \(B, T\) = \(2, 3\), batch first; received torch.float32 \(2, 3\)",
        ),
        (
            x,
            {"mask": mask.T},
            r"mask must be bool \(B, T\) = \(2, 3\), batch first; received torch.bool \(3, 2\)",
        ),
        (x, {"reset": mask[:, :2]}, r"reset must be bool \(B, T\) = \(2, 3\).*received torch.bool \(2, 2\)"),
        (
            x,
            {"lengths": torch.tensor([0, 3])},
            r"lengths must lie between 1 and T = 3; received \[0, 3\]: l",
        ),
        (x, {"lengths": torch.tensor([1, 4])}, r"lengths must lie between 1 and T = 3; received \[1, 4\]"),
        (
            x,
            {"lengths": torch.tensor([1.0, 3.0])},
            r"lengths must be integers \(B,\) = \(2,\); received torch.float32",
        ),
        (
            x,
            {"lengths": torch.tensor([3])},
            r"lengths must be integers \(B,\) = \(2,\); received torch.int64 \(1,\): give one per sequence",
        ),
        (x, {"lengths": [1j, 3]}, r"lengths must be integers .* received torch.complex64 \(2,\)"),
        (x, {"mask": mask.to("meta")}, "mask must be on the device of the frames, cpu; received one on meta"),
        (
            x[:1],
            {},
            r"layer 0 must fit .*, h \(1, 2, 4, 4\); received \(2, 2, 4, 4\)",
        ),
        (
            x[..., :3],
            {},
            r"the state of layer 0 must fit .* h \(2, 2, 4, 3\); received \(2, 2, 4, 4\): it belongs",
        ),
        (
            torch.zeros(2, 3, 5, 4, 4),
            {},
            r"input_dim=1 channels on axis 2 .* \(2, 3, 5, 4, 4\): build the layer with input_dim=5",
        ),
        (
            x.double(),
            {},
            "must have the ConvLSTM's dtype and device, torch.float32 on cpu; received torch.float64",
        ),
        (
            x.to(torch.uint8),
            {},
            "s dtype and device, torch.float32 on cpu; received torch.uint8 on cpu: convert one",
        ),
        (
            x.to("meta"),
            {},
            "s dtype and device, torch.float32 on cpu; received torch.float32 on meta",
        ),
    ]


@pytest.mark.parametrize(
    ("x", "flags", "message"), flag_errors(), ids=lambda v: v[:40] if isinstance(v, str) else ""
)
def test_refused_calls_say_rule_and_value(x, flags, message):
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True)
    states = layer(torch.zeros(2, 1, 1, 4, 4))[1]
    refused(lambda: layer(x, states, **flags), ShapeError, message)


def test_numbers_in_64_bits_are_refused_under_autocast_which_leaves_them_as_they_are():
    x, layer = torch.zeros(2, 3, 1, 4, 4), ConvLSTM(1, 2, 3, batch_first=True)
    state = layer.double()(x.double())[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.double())[0][0].dtype == torch.float64
        refused(lambda: layer(x), ShapeError, "device, torch.float64 on cpu; received torch.float32")
        layer.float()
        refused(lambda: layer(x.double()), ShapeError, "torch.float32 on cpu; received torch.float64 on cpu")
        refused(lambda: layer(x, list(state)), ShapeError, "torch.float32 on cpu; received torch.float64")
        assert layer(x.bfloat16())[0][0].dtype in (torch.float32, torch.bfloat16)


def test_refused_states_say_rule_value_and_remedy():
    x = torch.zeros(2, 3, 1, 4, 4)
    layer, other = ConvLSTM(1, 2, 3, 2, batch_first=True), ConvLSTM(1, 3, 3, 2, batch_first=True)
    refused(
        lambda: layer(x, other(x)[1]),
        ShapeError,
        r"layer 0 must fit .* \(2, 2, 4, 4\); received \(2, 3, 4, 4\): it belongs",
    )
    deeper = ConvLSTM(1, 2, 3, 3, batch_first=True)
    refused(
        lambda: layer(x, deeper(x)[1]),
        ShapeError,
        r"one state per layer \(2\); received 3: pass the list that the call",
    )
    refused(lambda: layer(x, list(layer(x)[1])), ShapeError, r"one state per layer \(2\); received 1")
    refused(lambda: layer(x, torch.nn.Linear(1, 1)), ShapeError, "hidden_state must be a list .* a Linear:")
    for change in ("double", "meta"):
        states = layer(x)[1].map(lambda t, c=change: t.double() if c == "double" else t.to(c))
        refused(
            lambda s=states: layer(x, s),
            ShapeError,
            r"the dtype and device of the frames, .*; received .*: convert it",
        )
    both = ConvLSTM(1, 2, 3, 2, batch_first=True, bidirectional=True)
    gru = ConvGRU(1, 2, 3, 2, batch_first=True)
    refused(
        lambda: both(x, gru(x)[1]),
        ShapeError,
        "layer 0 must be a pair, forward and backward; received a GRUState",
    )


@pytest.mark.parametrize(
    ("into", "of"),
    [
        ((ConvGRU, False), (ConvLSTM, False)),
        ((ConvLSTM, False), (ConvGRU, False)),
        ((ConvLSTM, False), (ConvLSTM, True)),
        ((ConvGRU, True), (ConvLSTM, True)),
        ((ConvGRU, False), (ConvGRU, True)),
    ],
)
def test_the_state_of_another_kind_of_stack_is_refused(into, of):
    x = torch.zeros(2, 3, 1, 4, 4)
    layer, other = (
        kind(1, 2, 3, 2, batch_first=True, bidirectional=both, return_all_layers=True)
        for kind, both in (into, of)
    )
    refused(lambda: layer(x, other(x)[1]), ShapeError, r"the state of layer 0 .*received")


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (3, 3, 3)])
@pytest.mark.parametrize("rank", range(2, 8))
def test_any_rank_but_the_right_one_is_refused_by_a_typed_error(kernel, rank):
    layer = ConvLSTM(1, 2, kernel, 1, batch_first=True)
    if rank != 3 + len(kernel):
        refused(lambda: layer(torch.zeros((1,) * rank)), ConvLSTMError, r"must be \(B, T, C.* received shape")


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_zero_and_one_are_refused_by_a_typed_error(rank):
    layer = ConvLSTM(1, 2, 3, 1, batch_first=False)
    refused(lambda: layer(torch.zeros((1,) * rank)), ShapeError, r"must be \(T, B, C.* received shape")


def test_channels_before_time_are_recognised():
    """The layout (B, C, T, H, W) of 3-D convolutions is the commonest mistake (B3)."""
    layer = ConvLSTM(3, 2, 3, 1, batch_first=True)
    refused(
        lambda: layer(torch.zeros(2, 3, 5, 8, 8)),
        ShapeError,
        r"received shape \(2, 3, 5, 8, 8\).*axis 1, use",
    )


def test_channels_last_are_recognised():
    layer = ConvLSTM(3, 2, 3, 1, batch_first=True)
    refused(
        lambda: layer(torch.zeros(2, 5, 8, 8, 3)),
        ShapeError,
        r"channels seem to be on axis 4, use movedim\(4, 2\)",
    )


@pytest.mark.parametrize(
    "cell",
    [
        functools.partial(ConvLSTMCell, peephole="pixel", image_size=(4, 4)),
        functools.partial(ConvLSTMCell, padding_mode="reflect", dilation=3),
    ],
    ids=["pixel", "reflect"],
)
def test_frames_that_do_not_fit_are_refused_before_any_arithmetic(cell, monkeypatch):
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, cell=[ConvLSTMCell, cell])

    def arithmetic(*_, **__):
        raise AssertionError("a convolution ran before the check")

    for axes in (1, 2, 3):
        monkeypatch.setitem(
            __import__("convlstm.functional.conv", fromlist=["_CONV"])._CONV, axes, arithmetic
        )
    refused(lambda: layer(torch.zeros(2, 3, 1, 3, 4)), ShapeError, "received")
