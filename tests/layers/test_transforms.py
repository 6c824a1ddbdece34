"""What PyTorch does with a module: save, copy, move, compile, export, differentiate, parallelise."""

import copy
import io
import json
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from random_stacks import cases
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune
from torch.testing import assert_close

from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell
from convlstm.cells import LSTMState, MinConvGRUCell
from convlstm.errors import OptionError, ShapeError
from convlstm.functional.gates import ACTIVATIONS
from convlstm.layers import BothDirections, StackState

RICH = {
    "plain": lambda: ConvLSTM(1, 2, 3, 2, True),
    "time first": lambda: ConvLSTM(1, 2, 3, 2, return_all_layers=True),
    "options": lambda: ConvLSTM(
        2,
        [2, 3],
        [(3, 2), 3],
        batch_first=True,
        cell=partial(
            ConvLSTMCell, peephole="channel", attention="spatial", padding_mode=("circular", "replicate")
        ),
        norm="group",
        residual="dense",
        dropout=0.3,
        zoneout=0.2,
    ),
    # Of eight channels: a norm over two magnifies the last digit, in which engines may differ.
    "both ways": lambda: ConvGRU(
        1, 8, 3, 2, True, bidirectional=True, merge="mean", residual="project", norm="layer"
    ),
    "pooled": lambda: ConvLSTM(1, 2, 3, 2, True, target_size=(3, 2), restore_size=True, last_only=True),
    "mixed": lambda: ConvLSTM(
        1, 2, 3, None, True, cell=[ConvGRUCell, ConvLSTMCell, ConvRNNCell], checkpoint=2
    ),
}
every_stack = pytest.mark.parametrize("make", RICH.values(), ids=RICH)


def frames(layer, batch=3, steps=3, size=(5, 4)):
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    return torch.randn(*shape, layer.input_dim, *size)


def flat(states):
    if isinstance(states, torch.Tensor):
        return [states]
    return [t for part in getattr(states, "all_layers", states) for t in flat(part)]


def same(a, b):
    assert_close([*a[0], *flat(a[1])], [*b[0], *flat(b[1])], rtol=0, atol=0)


@every_stack
def test_copies_and_pickles_are_equal_and_their_own(make):
    layer = make().eval()
    x = frames(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    others = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)]
    for other in others:
        same(other(x), layer(x))
        assert other.hyperparameters == layer.hyperparameters
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}


def test_any_named_activation_can_be_pickled():
    lost = []
    for name in ACTIVATIONS:
        try:
            pickle.loads(pickle.dumps(ConvLSTM(1, 1, 1, cell=partial(ConvLSTMCell, gate_activation=name))))
        except (pickle.PicklingError, AttributeError):
            lost.append(name)
    assert lost == []


@every_stack
@pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy, lambda s: pickle.loads(pickle.dumps(s))])
def test_states_are_copied_whole(make, copier):
    layer = make().eval()
    x = frames(layer, size=(3, 2))
    _, states = layer(x)
    states = states.detach()
    again = copier(states)
    assert isinstance(again, StackState)
    assert len(again) == len(states)
    same(layer(x, again), layer(x, states))
    assert [t.dtype for t in flat(states.map(torch.Tensor.double))] == [torch.float64] * len(flat(states))
    assert not any(t.requires_grad for t in flat(states))


def test_states_are_what_the_original_returns():
    """A list, of the last layer alone unless asked; h first; `detach` and `map` keep what is not shown."""
    layer = ConvLSTM(1, [2, 3], 3)
    _, states = layer(torch.randn(3, 2, 1, 4, 4))
    assert isinstance(states, list)
    assert len(states) == 1
    h, c = states[-1]
    assert isinstance(states[-1], LSTMState)
    assert states[0][0] is h
    assert h.shape == c.shape == (2, 3, 4, 4)
    assert len(states.detach().all_layers) == len(states.map(torch.neg).all_layers) == 2
    both, _ = ConvLSTM(1, 2, 3, bidirectional=True)(torch.randn(3, 2, 1, 4, 4))[1], None
    assert isinstance(both[0], BothDirections)


@every_stack
def test_hyperparameters_are_plain_data_that_rebuild_the_stack(make):
    layer = make().eval()
    plain = json.loads(json.dumps(layer.hyperparameters))
    again = type(layer).rebuild(plain).eval()
    again.load_state_dict(layer.state_dict())
    x = frames(layer)
    same(again(x), layer(x))
    assert again.hyperparameters == layer.hyperparameters == plain


@pytest.mark.parametrize(
    ("kernel", "layers"),
    [
        ((3, 5), 1),
        ((3, 5), 2),
        ((3, 3), 1),
        ((3, 3), 3),
        ((3,), 1),
        ((3,), 2),
        ((1, 3, 5), 3),
        ((3, 3), None),
    ],
)
def test_one_kernel_for_all_layers_is_rebuilt_as_one(kernel, layers):
    """As JSON, a kernel of two axes and a list of two layers' kernels look alike."""
    layer = ConvLSTM(1, 2, kernel, layers)
    again = ConvLSTM.rebuild(json.loads(json.dumps(layer.hyperparameters)))
    assert [c.kernel_size for c in again.cell_list] == [kernel] * (layers or 1)


def test_hyperparameters_do_not_follow_a_list_of_the_callers():
    hidden = [2, 3]
    layer = ConvLSTM(1, hidden, 3)
    hidden.append(4)
    assert layer.hyperparameters["hidden_dim"] == [2, 3]


def test_what_was_set_later_is_shown_and_rebuilt():
    layer = ConvLSTM(1, [2, 3], 3, engine="fused").set_engine("reference")
    layer.batch_first = layer.return_all_layers = True
    assert "batch_first=True, return_all_layers=True, engine='reference'" in repr(layer)
    again = ConvLSTM.rebuild(layer.hyperparameters)
    assert len(again(torch.randn(2, 5, 1, 4, 4))[0]) == 2
    assert again.hyperparameters == layer.hyperparameters
    assert layer.hyperparameters["engine"] == "reference"
    assert "engine" not in repr(layer.set_engine("auto"))


class Forwarding(ConvLSTM):
    """The habit of subclassing the original."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_subclass_that_hands_its_arguments_on_is_rebuilt():
    layer = Forwarding(1, 2, 3, 2, batch_first=True)
    again = Forwarding.rebuild(layer.hyperparameters)
    assert again.state_dict().keys() == layer.state_dict().keys()
    assert again.batch_first


@pytest.mark.parametrize("activation", [torch.sigmoid, torch.tanh, nn.functional.silu, nn.PReLU])
def test_functions_and_classes_of_torch_can_be_saved(activation, tmp_path):
    layer = ConvLSTM(1, 2, 3, cell=partial(ConvLSTMCell, gate_activation=activation))
    again = ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path))
    x = frames(layer)
    same(again(x), layer(x))


@every_stack
def test_hooks_fire_once_a_step_with_the_state_and_change_no_number(make):
    layer = make().eval()
    x = frames(layer, steps=4)
    expected = layer(x)
    steps = 4
    cells = [*layer.cell_list, *getattr(layer, "reverse_cell_list", [])]
    seen = {n: [] for n in range(len(cells))}
    handles = [
        cell.register_forward_hook(lambda cell, inputs, state, n=n: seen[n].append(state))
        for n, cell in enumerate(cells)
    ]
    hooked = layer(x)
    assert [len(states) for states in seen.values()] == [steps] * len(cells)
    for states, end in zip(seen.values(), hooked[1].all_layers, strict=False):
        if not layer._convlstm_options.scan.zoneout:  # which mixes the state behind the cell
            assert_close(states[-1].h, end.h if hasattr(end, "h") else end.forward.h)
    assert_close([*hooked[0], *flat(hooked[1])], [*expected[0], *flat(expected[1])])
    for handle in handles:
        handle.remove()
    layer(x)
    assert [len(states) for states in seen.values()] == [steps] * len(cells)


@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_full_backward_hook"])
def test_other_hooks_fire_once_a_step_too(register):
    layer, seen = ConvLSTM(1, 2, 3, 1, True), []
    getattr(layer.cell_list[0], register)(lambda *arguments: seen.append(arguments[0]))
    layer(torch.randn(2, 4, 1, 3, 3, requires_grad=True))[0][0].sum().backward()
    assert len(seen) == 4


def test_a_hook_may_replace_the_state():
    layer, x = ConvLSTM(1, 2, 3, 1, True), torch.randn(1, 3, 1, 3, 3)
    layer.cell_list[0].register_forward_hook(lambda cell, inputs, state: state._replace(h=0 * state.h))
    assert not layer(x)[0][0].any()


class Original(nn.Module):
    """A cell with the single-file original's call, and nothing of ours."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.hidden_dim = hidden
        self.conv = nn.Conv2d(channels + hidden, 4 * hidden, 3, padding=1)

    def forward(self, input_tensor, cur_state):
        h, c = cur_state
        i, f, o, g = self.conv(torch.cat([input_tensor, h], dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def init_hidden(self, batch_size, image_size):
        shape = (batch_size, self.hidden_dim, *image_size)
        return torch.zeros(shape), torch.zeros(shape)


def test_foreign_cells_run_with_masks_resets_both_directions_and_streaming():
    layer = ConvLSTM(1, 2, 3, 2, True, bidirectional=True, merge="sum", checkpoint=2).double()
    foreign = copy.deepcopy(layer)
    for cells in (foreign.cell_list, foreign.reverse_cell_list):
        for n, cell in enumerate(cells):
            cells[n] = Original(cell.input_dim, 2).double()
    foreign.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 1, 5, 4, dtype=torch.float64)
    flags = {
        "mask": torch.tensor([[True, False, True, True]] * 2),
        "lengths": torch.tensor([4, 3]),
        "reset": torch.tensor([[False, False, True, False], [False] * 4]),
    }
    ours, theirs = layer(x, **flags), foreign(x, **flags)
    assert_close([*ours[0], *flat(ours[1])], [*theirs[0], *flat(theirs[1])])
    again = foreign(x, theirs[1])
    assert_close(again[0], layer(x, ours[1])[0])


@every_stack
def test_functional_call_uses_the_weights_it_is_given(make):
    layer, other = make().eval(), make().eval()
    x = frames(layer)
    same(torch.func.functional_call(layer, dict(other.named_parameters()), (x,)), other(x))


def test_functional_call_with_checkpoint_is_refused():
    """The weights are swapped back before the backward pass computes a segment again: wrong gradients."""
    layer, other = (ConvLSTM(1, 2, 3, 1, True, checkpoint=2) for _ in "ab")
    x = torch.randn(2, 4, 1, 4, 4, requires_grad=True)
    outputs, _ = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))
    with pytest.raises(OptionError, match="with the module's own weights; these were swapped since"):
        outputs[0].sum().backward()


def test_an_ensemble_by_vmap_over_weights():
    layers = [ConvLSTM(1, 2, 3, 2, True, norm="layer").double().eval() for _ in range(3)]
    weights, _ = torch.func.stack_module_state(layers)
    x, mask = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64), torch.tensor([[True, False, True]] * 2)

    def outputs(weights):
        return torch.func.functional_call(layers[0], weights, (x,), {"mask": mask})[0][0]

    together = torch.func.vmap(outputs)(weights)
    assert_close(together, torch.stack([layer(x, mask=mask)[0][0] for layer in layers]))


@every_stack
def test_built_on_the_meta_device_and_filled_later(make):
    layer = make().eval()
    with torch.device("meta"):
        empty = make().eval()
        outputs, _ = empty(frames(empty))
    assert all(p.is_meta for p in [*empty.parameters(), *outputs])
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(layer.state_dict())
    x = frames(layer)
    same(filled(x), layer(x))


def test_orthogonal_and_forget_bias_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        layer = ConvLSTM(1, 2, 3, cell=partial(ConvLSTMCell, recurrent_init="orthogonal", forget_bias=1.0))
    assert all(p.is_meta for p in layer.parameters())


def test_flags_on_the_meta_device():
    with torch.device("meta"):
        layer = ConvLSTM(1, 2, 3, 1, True)
        mask = torch.ones(2, 3, dtype=torch.bool)
        x = torch.empty(2, 3, 1, 4, 4)
        assert layer(x, mask=mask, reset=mask)[0][0].shape == (2, 3, 2, 4, 4)


def test_lengths_on_the_meta_device():
    with torch.device("meta"):
        layer, x = ConvLSTM(1, 2, 3, 1, True), torch.empty(2, 3, 1, 4, 4)
        assert layer(x, lengths=torch.ones(2, dtype=torch.int64))[0][0].shape == (2, 3, 2, 4, 4)


def test_compiles_as_one_graph_with_flags_states_and_gradients():
    layer = ConvLSTM(1, 2, 3, 2, True, bidirectional=True, residual="project", norm="group").double().eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 1, 4, 5, dtype=torch.float64)
    flags = {"mask": torch.tensor([[True, False, True]] * 2), "lengths": torch.tensor([3, 2])}
    _, states = layer(x)
    states = states.detach()
    results = []
    for each in (layer, compiled):
        layer.zero_grad()
        outputs, ends = each(x, states, **flags)
        sum(y.square().sum() for y in [*outputs, *flat(ends)]).backward()
        results.append([*outputs, *flat(ends), *(p.grad.clone() for p in layer.parameters())])
    assert_close(*results)
    assert isinstance(ends, StackState)


def test_lengths_out_of_range_fail_in_a_compiled_and_in_an_exported_graph():
    """Where their values are not known while it is traced, the graph itself looks at them."""
    layer, x, good = ConvLSTM(1, 2, 3, batch_first=True), torch.randn(2, 4, 1, 5, 4), torch.tensor([2, 4])
    exported = torch.export.export(layer, (x,), kwargs={"lengths": good}).module()
    for call in (torch.compile(layer, backend="aot_eager", fullgraph=True), exported):
        assert_close(call(x, lengths=good)[0], layer(x, lengths=good)[0])
        for bad in ([0, 4], [2, 5], [-1, 2]):
            with pytest.raises(RuntimeError, match="lengths must lie between 1 and T"):
                call(x, lengths=torch.tensor(bad))
    with pytest.raises(ShapeError, match=r"between 1 and T = 4; received \[2, 5\]"):
        layer(x, lengths=torch.tensor([2, 5]))


@pytest.mark.parametrize("name", ["options", "mixed"])
def test_compiles_as_one_graph_with_every_option(name):
    layer = RICH[name]().eval()
    x = frames(layer)
    a, b = layer(x), torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert_close([*a[0], *flat(a[1])], [*b[0], *flat(b[1])])


@pytest.mark.parametrize("name", ["plain", "time first", "options", "both ways"])
def test_exported_once_runs_at_other_batches_and_sizes(name):
    layer = RICH[name]().eval()
    # The engine of an export; a norm over two channels magnifies the last digit.
    layer.set_engine("reference")
    free = torch.export.Dim.DYNAMIC
    batch = 0 if layer.batch_first else 1
    program = torch.export.export(layer, (frames(layer),), dynamic_shapes=({batch: free, 3: free, 4: free},))
    for other in ((2, 3, (7, 9)), (6, 3, (4, 11))):
        x = frames(layer, *other)
        a, b = layer(x), program.module()(x)
        assert_close([*a[0], *flat(a[1])], [*b[0], *flat(b[1])])


def test_exported_with_state_in_and_out():
    """One step of a stream as a program: what a deployment runs."""
    layer = ConvLSTM(1, 2, 3, 2, True).eval()
    x = torch.randn(2, 3, 1, 5, 4)
    _, states = layer(x)
    states = states.detach()
    program = torch.export.export(layer, (x[:, :1], states)).module()
    outputs, ends = program(x[:, 1:2], states)
    a = layer(x[:, 1:2], states)
    assert_close([*outputs, *flat(ends)], [*a[0], *flat(a[1])])


def test_exported_program_is_written_and_read(tmp_path):
    layer = ConvLSTM(1, 2, 3, 2, True).eval()
    x = torch.randn(2, 3, 1, 5, 4)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    outputs, _ = torch.export.load(tmp_path / "layer.pt2").module()(x)
    assert_close(outputs, layer(x)[0])


@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, MinConvGRUCell])
def test_traced_by_make_fx(cell):
    layer = ConvLSTM(2, 16, 3, batch_first=True, cell=cell)
    x, other = torch.randn(2, 2, 6, 2, 16, 16)
    graph = make_fx(lambda frames: layer(frames)[0][0])(x)
    assert_close(graph(other), layer(other)[0][0])
    with pytest.raises(OptionError, match="the call is being exported or traced"):
        make_fx(lambda frames: layer.set_engine("fused")(frames)[0][0])(x)


@settings(max_examples=6, deadline=None)
@given(case=cases(activations=("sigmoid", "tanh", "softsign"), last_only=False, detach_every=None))
def test_first_and_second_derivatives_agree_with_finite_differences(case):
    x = (case.x / 2).requires_grad_()

    def function(*_):  # the differences are taken by changing x and the parameters themselves
        outputs, states = case.call(x)
        return (*outputs, *flat(states))

    inputs = (x, *case.layer.parameters())
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    twice = (x, max(case.layer.parameters(), key=torch.numel))
    assert torch.autograd.gradgradcheck(lambda *_: function()[0], twice, fast_mode=True, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    case=cases(
        flags=False,
        activations=("sigmoid", "tanh", "softsign"),
        channels=(3, 4),
        length=(3, 4),
        smallest=2,
        target_size=None,
        dropout=0.0,
        zoneout=0.0,
    )
)
def test_every_parameter_gets_a_gradient_for_any_options(case):
    """From states that are not zero, with which nothing recurrent has an effect on the first step.

    Without zoneout, which by chance keeps a whole small state as it was. Frames of two pixels a side at
    least: a dilated even kernel has all its taps beyond the border of one.
    """
    with torch.no_grad():
        for name, parameter in case.layer.named_parameters():
            if name.endswith(("reduce.bias", "squeeze.bias")):
                parameter.fill_(2.0)  # so that no ReLU of an attention is off everywhere
    case.layer.train()
    states = case.random_states()
    outputs, ends = case.call(states=states)
    loss = sum((t * torch.randn_like(t)).sum() for t in [*outputs, *flat(ends)])
    loss.backward()
    silent = [n for n, p in case.layer.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in case.layer.parameters())


@every_stack
def test_any_memory_format_of_the_input(make):
    layer = make().eval()
    x = frames(layer)
    expected = layer(x)
    strided = x.movedim(2, -1).contiguous().movedim(-1, 2)
    assert_close([*layer(strided)[0]], [*expected[0]])
    wide = torch.stack([x, x], dim=-1)[..., 0]
    same(layer(wide), expected)


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_pruned_convolution_learns_and_stays_pruned(engine):
    torch.manual_seed(0)
    layer = ConvLSTM(1, 4, 3, batch_first=True, engine=engine)
    conv, x = layer.cell_list[0].conv, torch.randn(2, 3, 1, 5, 5)
    prune.l1_unstructured(conv, "weight", amount=0.5)
    gone = conv.weight_mask == 0
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    session = layer.stream(2, (5, 5))
    for _ in range(2):
        plain = ConvLSTM(1, 4, 3, batch_first=True, engine="reference")
        plain.cell_list[0].conv.weight.data = torch.where(gone, 0, conv.weight_orig.detach())
        plain.cell_list[0].conv.bias.data = conv.bias.detach()
        outputs = layer(x)[0][0]
        session.state = None
        assert_close(outputs, plain(x)[0][0])
        assert_close(session(x[:, 0]), outputs[:, 0].detach())
        optimizer.zero_grad()
        outputs.square().sum().backward()
        assert not conv.weight_orig.grad[gone].any()
        assert conv.weight_orig.grad[~gone].any()
        optimizer.step()
