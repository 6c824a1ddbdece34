"""One test for each mistake that is common in copied ConvLSTM code.

B numbers are those of the project's list; those that are proven elsewhere:

====  ==========================================================================================
B1    test_stack.py::test_both_layouts_give_the_same_values_each_in_its_own
B2    test_scan.py::test_permuting_the_batch_permutes_the_outputs_only
B4    test_stack.py::test_causality, test_scan.py::test_no_option_lets_a_frame_reach_outputs_before_it
B6    test_stack.py::test_any_length_equals_the_cells_by_hand
B10   test_every_argument_has_an_effect, in test_options.py here and of the cells
B11   the cells' test_options.py::test_refused_options_say_rule_value_and_remedy
B12   test_stack.py::test_bad_input_is_named
B14   test_stack.py::test_states_of_all_layers_resume_the_sequence
B16   the models' test_encoder_forecaster.py::test_the_encoders_h_and_c_reach_the_forecaster
B17   the models' test_encoder_forecaster.py::test_step_k_depends_on_the_forecast_of_step_k_minus_1
B18   test_stack.py::test_gives_the_numbers_of_the_textbook_loop
B27   the cells' test_options.py::test_the_output_gate_peeks_at_the_new_memory
B30   test_options.py::test_group_norm_has_groups_of_up_to_sixteen_channels_for_any_number
B36   the cells' test_convlstm.py::test_gates_are_in_the_order_i_f_o_g
B42   test_scan.py::test_last_only_of_both_directions_has_each_ones_last_step
====  ==========================================================================================

B22 (a ring buffer of past states) concerns something that is not there: no state is kept but the last.
"""

import copy
import doctest
import importlib
import warnings
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell, SAConvLSTMCell
from convlstm.errors import ShapeError
from convlstm.functional.conv import same_conv

CELLS = [
    ConvLSTMCell,
    partial(ConvLSTMCell, peephole="channel", attention="spatial"),
    ConvGRUCell,
    partial(ConvGRUCell, reset_after=False, attention="channel"),
    ConvRNNCell,
    SAConvLSTMCell,
]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=["lstm", "lstm+", "gru", "gru before", "rnn", "sa"])


def flat(states):
    if isinstance(states, torch.Tensor):
        return [states]
    return [t for part in getattr(states, "all_layers", states) for t in flat(part)]


@every_cell
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 3, 1, 1, 4), (2, 1, 1, 3, 1), (2, 3, 2, 1, 1)])
def test_output_layout_is_the_inputs_and_no_axis_of_one_is_dropped(cell, batch_first, shape):
    """B3."""
    layer = ConvLSTM(shape[2], 2, 3, 2, batch_first=batch_first, cell=cell)
    (y,), states = layer(torch.randn(shape))
    assert y.shape == (*shape[:2], 2, *shape[3:])
    assert all(t.shape[0] == shape[0 if batch_first else 1] for t in flat(states))


@every_cell
def test_outputs_depend_on_the_order_of_frames(cell):
    """B5: time is time, not channels."""
    layer, x = ConvLSTM(1, 2, 3, 1, batch_first=True, cell=cell), torch.randn(1, 3, 1, 4, 4)
    (y,), _ = layer(x)
    (z,), _ = layer(x[:, [1, 0, 2]])
    assert not torch.allclose(y[:, -1], z[:, -1])


def test_each_layer_reads_the_layer_below():
    """B7: equal to two single layers, one on the other; the upper's gradient reaches the lower."""
    layer = ConvLSTM(1, [3, 2], 3, batch_first=True)
    lower, upper = ConvLSTM(1, 3, 3, batch_first=True), ConvLSTM(3, 2, 3, batch_first=True)
    lower.cell_list[0], upper.cell_list[0] = layer.cell_list
    x = torch.randn(2, 4, 1, 5, 5)
    (y,), _ = layer(x)
    assert_close(y, upper(lower(x)[0][0])[0][0])
    y.sum().backward()
    assert layer.cell_list[0].conv.weight.grad.any()


@pytest.mark.parametrize("hidden", [4, (4, 4), [4, 4]])
@pytest.mark.parametrize("kernel", [3, (3, 3), [3, 3], [(3, 3), (3, 3)], ((3, 3), (3, 3)), [(3, 3), 3]])
def test_sizes_may_be_an_integer_a_tuple_or_a_list(hidden, kernel):
    """B8."""
    layer = ConvLSTM(2, hidden, kernel, 2)
    assert [(c.hidden_dim, c.kernel_size) for c in layer.cell_list] == [(4, (3, 3))] * 2


@pytest.mark.parametrize(
    "module",
    ["layers.recurrent", "layers.stack", "cells.convlstm", "cells.convgru", "models.autoregressive"],
)
def test_examples_in_docstrings_run(module):
    """B8."""
    failed, _ = doctest.testmod(importlib.import_module(f"convlstm.{module}"))
    assert failed == 0


@every_cell
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (3, 5), (2, 3), (2,), (4, 1, 2)], ids=str)
def test_any_kernel_keeps_the_size(cell, kernel):
    """B9: even ones too, over several steps."""
    axes = 2 if isinstance(kernel, int) else len(kernel)
    size = (5, 4, 3)[:axes]
    layer = ConvLSTM(1, 2, kernel, 2, batch_first=True, cell=cell)
    (y,), states = layer(torch.randn(1, 3, 1, *size))
    assert y.shape == (1, 3, 2, *size)
    assert {t.shape[2:] for t in flat(states)} == {torch.Size(size)}


@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, ConvRNNCell])
@pytest.mark.parametrize(("kernel", "dilation"), list(product([2, 3, 4], [1, 2, 3, (2, 3)])))
def test_any_dilation_keeps_the_size(cell, kernel, dilation):
    """B9."""
    layer = ConvLSTM(1, 2, kernel, 1, batch_first=True, cell=partial(cell, dilation=dilation))
    assert layer(torch.randn(1, 2, 1, 5, 4))[0][0].shape == (1, 2, 2, 5, 4)


class Strided(ConvGRUCell):
    """Reads every other pixel of its input; the recurrence keeps the size that is left."""

    def initial_state(self, x):
        return super().initial_state(x[..., ::2, ::2])

    def project(self, x):
        return super().project(x[..., ::2, ::2])


def test_a_stride_acts_on_the_input_once_and_not_on_the_state_at_each_step():
    """B13: there is no stride argument; a cell that strides does so in `project`, out of the recurrence."""
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, cell=[Strided, ConvGRUCell])
    x, reset = torch.randn(2, 5, 1, 8, 6), torch.tensor([[False, True, False, False, False]] * 2)
    (y,), states = layer(x, lengths=torch.tensor([5, 3]), reset=reset[:, :5])
    assert y.shape == (2, 5, 2, 4, 3)
    assert {t.shape[2:] for t in flat(states)} == {torch.Size((4, 3))}


def test_a_strided_stack_resumes_from_its_states():
    """B13 and B15: a child of a built-in cell may give its state another size than the frames'."""
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, cell=[Strided, ConvGRUCell])
    x = torch.randn(2, 5, 1, 8, 6)
    (whole,), _ = layer(x)
    _, states = layer(x[:, :3])
    assert_close(layer(x[:, 3:], states)[0][0], whole[:, 3:])


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("all_layers", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_the_states_a_call_returned_resume_every_layer(layers, all_layers, both):
    """B15: backwards too, where the state is what the frames behind have left."""
    layer = ConvLSTM(1, 2, 3, layers, True, return_all_layers=all_layers, bidirectional=both).double()
    full = copy.deepcopy(layer)
    full.return_all_layers = True
    x = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    _, states = layer(x)
    outputs, ends = layer(x, states)
    again, expected = full(x, full(x)[1].all_layers)
    assert_close(outputs[-1], again[-1])
    assert_close(flat(ends), flat(expected))
    assert len(flat(ends)) == 2 * layers * (2 if both else 1)
    assert not torch.allclose(outputs[-1], layer(x)[0][-1])


def test_training_from_state_to_state_neither_fails_nor_grows():
    """B19: fifty batches, each from the state of the one before; the graph ends where it is detached."""

    def depth(tensor):
        seen, front = set(), [tensor.grad_fn]
        while front:
            node = front.pop()
            if node is not None and node not in seen:
                seen.add(node)
                front += [n for n, _ in node.next_functions]
        return len(seen)

    layer, states, depths = ConvLSTM(1, 2, 3, 2, batch_first=True), None, []
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(50):
        (y,), states = layer(torch.randn(2, 2, 1, 4, 4), states)
        loss = y.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states = states.detach()
        depths.append(depth(loss))
    assert len(set(depths[1:])) == 1


@every_cell
def test_nothing_is_left_on_the_module(cell):
    """B20: no attribute, buffer or hidden state changes by a call, and a call forgets the ones before."""
    layer, x = (
        ConvLSTM(1, 2, 3, 2, batch_first=True, bidirectional=True, cell=cell),
        torch.randn(2, 3, 1, 4, 4),
    )

    def held():
        return {
            (name, key): id(value)
            for name, module in layer.named_modules()
            for key, value in [*vars(module).items(), *module._parameters.items(), *module._buffers.items()]
        }

    before = held()
    (y,), _ = layer(x)
    layer(torch.randn(5, 2, 1, 7, 3), lengths=torch.tensor([1, 2, 2, 1, 1]))
    assert held() == before
    assert torch.equal(layer(x)[0][0], y)


@every_cell
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_states_have_the_models_dtype_with_every_option_of_the_stack(cell, dtype):
    """B21."""
    options = {
        "norm": "group",
        "residual": "project",
        "target_size": (3, 3),
        "restore_size": True,
        "dropout": 0.5,
    }
    layer = ConvLSTM(1, 2, 3, 2, True, cell=cell, bidirectional=True, zoneout=0.5, checkpoint=2, **options)
    layer = layer.to(dtype)
    mask = torch.tensor([[True, False, True]] * 2)
    (y,), states = layer(torch.randn(2, 3, 1, 4, 5, dtype=dtype), mask=mask, lengths=torch.tensor([2, 3]))
    assert {t.dtype for t in [y, *flat(states)]} == {dtype}
    y.sum().backward()
    assert all(p.grad.dtype == dtype for p in layer.parameters())


@every_cell
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_streams_and_trains(cell, dtype):
    """B21: states go back in under autocast, with masks, near the numbers without it."""
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, cell=cell)
    x, mask = torch.rand(2, 4, 1, 4, 4), torch.tensor([[True, True, True, False]] * 2)
    with torch.autocast("cpu", dtype=dtype):
        _, states = layer(x[:, :2])
        (y,), _ = layer(x[:, 2:], states, mask=mask[:, 2:])
    y.float().sum().backward()
    assert_close(y.float(), layer(x, mask=mask)[0][0][:, 2:], rtol=0, atol=2e-2)


@every_cell
@pytest.mark.parametrize("inputs", [1, 5])
def test_states_have_the_channels_of_the_hidden_state(cell, inputs):
    """B23: inputs and hidden channels differ, the axis of channels is the second."""
    layer = ConvLSTM(inputs, [3, 4], 3, batch_first=True, return_all_layers=True, cell=cell)
    outputs, states = layer(torch.randn(2, 3, inputs, 6, 7))
    assert [y.shape for y in outputs] == [(2, 3, 3, 6, 7), (2, 3, 4, 6, 7)]
    assert [{t.shape for t in state} for state in states] == [{(2, 3, 6, 7)}, {(2, 4, 6, 7)}]


PEEPHOLES = [{"peephole": "channel"}, {"peephole": "pixel", "image_size": (4, 5)}]


@pytest.mark.parametrize("options", PEEPHOLES, ids=["channel", "pixel"])
def test_peepholes_are_there_before_the_first_call_and_each_is_trained(options):
    """B24: parameters, leaves, in the state dict; moved by `to`, and by one step of training."""
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, cell=partial(ConvLSTMCell, **options))
    names = {name for name, p in layer.named_parameters() if p.is_leaf}
    assert names == set(layer.state_dict())
    assert {f"cell_list.{n}.peephole_weight" for n in (0, 1)} <= names
    optimizer = torch.optim.SGD(layer.parameters(), 1.0)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    layer(torch.randn(2, 4, 1, 4, 5))[0][0].square().sum().backward()
    optimizer.step()
    for name, p in layer.named_parameters():
        rows = p.flatten(1) if "peephole" in name else p[None].flatten(1)
        moved = (
            rows != (before[name].flatten(1) if "peephole" in name else before[name][None].flatten(1))
        ).any(1)
        assert moved.all(), name
    assert {p.dtype for p in layer.double().parameters()} == {torch.float64}


@pytest.mark.parametrize("options", PEEPHOLES, ids=["channel", "pixel"])
def test_peepholes_are_saved_and_read_back(options, tmp_path):
    """B25."""
    layer = ConvLSTM(1, 2, 3, 2, batch_first=True, cell=partial(ConvLSTMCell, **options))
    with torch.no_grad():
        for cell in layer.cell_list:
            cell.peephole_weight.normal_()
    x = torch.randn(2, 3, 1, 4, 5)
    assert torch.equal(ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path))(x)[0][0], layer(x)[0][0])


@pytest.mark.parametrize("peephole", [None, *PEEPHOLES], ids=["none", "channel", "pixel"])
@pytest.mark.parametrize("attention", [None, "spatial", "channel"])
@pytest.mark.parametrize("norm", [None, "group", "layer"])
def test_every_gate_listens_to_the_frame_and_to_the_hidden_state(peephole, attention, norm):
    """B26: for all pairs of options, the weights of each gate over x and over h get a gradient."""
    cell = partial(ConvLSTMCell, attention=attention, **(peephole or {}))
    layer = ConvLSTM(3, 3, 3, 1, batch_first=True, norm=norm, cell=cell)
    (y,), _ = layer(torch.randn(2, 4, 3, 4, 5))
    (y * torch.randn_like(y)).sum().backward()
    for gate in layer.cell_list[0].conv.weight.grad.chunk(4):
        assert gate[:, :3].abs().sum() > 0
        assert gate[:, 3:].abs().sum() > 0


def test_weights_trained_at_one_size_run_at_another():
    """B28: whatever the options, but for pixel peepholes, which say what to use instead."""
    cell = partial(ConvLSTMCell, peephole="channel", attention="channel")
    layer = ConvLSTM(
        1,
        4,
        3,
        2,
        True,
        cell=cell,
        norm="layer",
        residual="project",
        bidirectional=True,
        zoneout=0.1,
        dropout=0.1,
    )
    layer(torch.randn(2, 3, 1, 8, 8))[0][0].sum().backward()
    for size in ((6, 10), (1, 1), (13, 2)):
        assert layer(torch.randn(1, 2, 1, *size))[0][0].shape[3:] == size
    fixed = ConvLSTM(1, 2, 3, 2, True, cell=partial(ConvLSTMCell, peephole="pixel", image_size=(8, 8)))
    fixed(torch.randn(2, 3, 1, 8, 8))
    with pytest.raises(ShapeError, match="use peephole=channel for frames of any size"):
        fixed(torch.randn(2, 3, 1, 6, 10))


@every_cell
def test_no_step_writes_into_what_it_was_given(cell):
    """B29: neither values nor versions of its arguments change, so that a graph through them stays valid."""
    made = cell(1, 2, (3, 3), True)
    p = made.project(torch.randn(2, 1, 4, 4)).detach().requires_grad_()
    state = [torch.randn_like(t) for t in made.initial_state(torch.zeros(2, 1, 4, 4))]
    state = type(made.initial_state(torch.zeros(2, 1, 4, 4)))(*state)
    before = [t.clone() for t in (p, *state)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that anomaly detection is slow
        with torch.autograd.detect_anomaly():
            made.step(p, state).h.sum().backward()
    for a, b in zip(before, (p, *state), strict=True):
        assert torch.equal(a, b)
        assert b._version == 0


def test_no_two_models_layers_or_directions_share_storage():
    """B31: not even where one factory, with modules among its options, builds all of them."""
    cell = partial(ConvLSTMCell, gate_activation=nn.PReLU(), attention=nn.Conv2d(2, 2, 1), peephole="channel")
    models = [
        ConvLSTM(1, 2, 3, 2, cell=cell, bidirectional=True, merge="sum", norm="group", residual="project")
        for _ in range(2)
    ]
    tensors = [t for model in models for t in model.state_dict().values()]
    assert len({t.data_ptr() for t in tensors}) == len(tensors)
    assert len(tensors) == 2 * (4 * 6 + 2 * 3)


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_every_parameter_is_used(cell, bias):
    """B32: none is registered without being in the graph, which would trouble distributed training."""
    layer = ConvLSTM(1, 3, 3, 2, bias=bias, cell=cell, bidirectional=True, residual="project", norm="layer")
    layer(torch.randn(3, 2, 1, 4, 4))[0][0].square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []
    assert any("bias" in name for name, _ in ConvLSTM(1, 3, 3, cell=cell).named_parameters())
    assert bias or not any(
        "conv.bias" in name or "reset_bias" in name for name, _ in layer.named_parameters()
    )


@every_cell
@pytest.mark.parametrize("hidden", [1, 3, 5, 7])
def test_odd_numbers_of_channels(cell, hidden):
    """B33."""
    layer = ConvLSTM(3, hidden, 3, 2, batch_first=True, cell=cell, bidirectional=True)
    assert layer(torch.randn(1, 2, 3, 4, 4))[0][0].shape == (1, 2, 2 * hidden, 4, 4)


def test_an_even_kernel_worked_out_by_hand():
    """B34: two taps reach one pixel behind; four reach one before and two behind."""
    x = torch.tensor([[[1.0, 2.0, 4.0]]])
    two = same_conv(x, torch.tensor([[[1.0, 10.0]]]))
    four = same_conv(x, torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]]))
    assert two[0, 0].tolist() == [21.0, 42.0, 4.0]
    assert four[0, 0].tolist() == [4210.0, 421.0, 42.0]
    dilated = same_conv(x, torch.tensor([[[1.0, 10.0]]]), dilation=(2,))
    assert dilated[0, 0].tolist() == [20.0, 41.0, 2.0]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("zeros", [210.0, 421.0, 42.0]),
        ("replicate", [211.0, 421.0, 442.0]),
        ("reflect", [212.0, 421.0, 242.0]),
        ("circular", [214.0, 421.0, 142.0]),
    ],
)
def test_padding_modes_worked_out_by_hand(mode, expected):
    """B34's neighbour: what lies beyond the border of 1, 2, 4."""
    x = torch.tensor([[[1.0, 2.0, 4.0]]])
    y = same_conv(x, torch.tensor([[[1.0, 10.0, 100.0]]]), padding_mode=(mode,))
    assert y[0, 0].tolist() == expected


def test_every_tensor_of_a_stack_moves_and_copies_with_it():
    """B35: no cell in a plain list, no state on the module."""
    cell = partial(ConvLSTMCell, peephole="channel", attention="spatial", gate_activation=nn.PReLU)
    layer = ConvLSTM(2, 2, 3, 2, cell=cell, bidirectional=True, norm="group", residual="project")

    def tensors(value, seen):
        if id(value) in seen:
            return []
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            return [value]
        if isinstance(value, dict):
            return [t for v in value.values() for t in tensors(v, seen)]
        if isinstance(value, list | tuple):
            return [t for v in value for t in tensors(v, seen)]
        return tensors(vars(value), seen) if isinstance(value, nn.Module) else []

    registered = {id(t) for t in layer.state_dict(keep_vars=True).values()}
    assert {id(t) for t in tensors(layer, set())} == registered
    moved = copy.deepcopy(layer).to("meta", torch.float16)
    assert {(t.device.type, t.dtype) for t in tensors(moved, set())} == {("meta", torch.float16)}
    assert {t.device.type for t in tensors(layer, set())} == {"cpu"}


@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
def test_one_pixel_that_is_not_a_number_stays_under_its_mask(stack):
    """B45: unmasked it spreads over map, layers and all gradients; masked it touches nothing."""
    layer = stack(1, 4, 3, 2, batch_first=True)
    x = torch.randn(1, 10, 1, 16, 16)
    mask = torch.ones(1, 10, dtype=torch.bool)
    mask[0, 4] = False
    x[0, 4, 0, 8, 8] = torch.nan
    (spread,), _ = layer(x)
    assert spread.isnan().any()
    (y,), _ = layer(x, mask=mask)
    y[..., :2, :2].square().sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    (z,), _ = layer(x.nan_to_num(123.0), mask=mask)
    z[..., :2, :2].square().sum().backward()
    assert y.isfinite().all()
    assert torch.equal(y, z)
    for a, p in zip(gradients, layer.parameters(), strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, p.grad)
