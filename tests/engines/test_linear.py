"""Linear recurrences by a scan over time are the loop, step by step: forward, gradients, flags, states."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import convlstm.engines.cpu.linear as cpu_linear
from convlstm import ConvGRUCell, ConvLSTM, LinearCell, MinConvGRUCell, MinConvLSTMCell
from convlstm.cells import LinearState
from convlstm.cells.convolutions import same_convolution
from convlstm.engines import Call, available, config, linear, select
from convlstm.errors import OptionError
from convlstm.functional.linear_recurrence import RULES, linear_scan
from convlstm.layers import ScanOptions, SequenceFlags, scan


class Oscillating(LinearCell):
    """Coefficients of both signs, written without any kernel in mind."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.conv = same_convolution(input_dim, 2 * hidden_dim, self.kernel_size, bias)

    def coefficients(self, x):
        a, b = self.conv(x).chunk(2, dim=1)
        return torch.tanh(a), b


MinConvExpLSTMCell = partial(MinConvLSTMCell, exponential_gates=True)
CELLS = {
    "affine": Oscillating,
    "min_gru": MinConvGRUCell,
    "min_lstm": MinConvLSTMCell,
    "min_exp_lstm": MinConvExpLSTMCell,
}
COMPILED = available()["compiled"] is None
ENGINES = ["fused", *(["compiled"] if COMPILED else [])]


def looped(cell, x, h, mask, reset, reverse):
    """The recurrence as a loop over `LinearCell.coefficients`, frame by frame: outputs and last state."""
    steps = x.shape[1]
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        # Of frames in reverse order, a sequence ends where the next one begins.
        starts = reset[:, t + 1] if reverse and t + 1 < steps else reset[:, t] & (not reverse)
        h = torch.where(starts[:, None, None, None], 0, h)
        frame = torch.where(mask[:, t, None, None, None], x[:, t], 0)
        a, b = cell.coefficients(frame)
        h = torch.where(mask[:, t, None, None, None], a * h + b, h)
        outputs[t] = h
    return torch.stack(outputs, dim=1), h


def flags_of(batch, steps):
    mask, reset = torch.rand(batch, steps) > 0.3, torch.rand(batch, steps) > 0.7
    return mask, reset


def gradients(outputs, inputs):
    loss = sum((y.double() * torch.arange(y.numel()).view(y.shape).double().sin()).sum() for y in outputs)
    return torch.autograd.grad(loss, inputs)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(CELLS)),
    steps=st.integers(2, 13),
    reverse=st.booleans(),
    flagged=st.tuples(st.booleans(), st.booleans()),
    chunk=st.integers(1, 14),
    last_only=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_torch_form_is_the_loop(name, steps, reverse, flagged, chunk, last_only, seed):
    """In float64, with any mask, resets and state, in chunks of any length; outputs, state and gradients."""
    torch.manual_seed(seed)
    cell = CELLS[name](2, 3, (1, 3)).double()
    x, h = torch.randn(2, steps, 2, 2, 3).double(), torch.randn(2, 3, 2, 3).double()
    x, h = x.requires_grad_(), h.requires_grad_()
    mask, reset = flags_of(2, steps)
    mask, reset = mask if flagged[0] else mask | True, reset if flagged[1] else reset & False
    flags = SequenceFlags(mask if flagged[0] else None, reset if flagged[1] else None)
    inputs = [x, h, *cell.parameters()]
    y, last = looped(cell, x, h, mask, reset, reverse)
    y = last[:, None] if last_only else y
    with pytest.MonkeyPatch.context() as patch:
        # Up to four frames are computed together in four times the bytes.
        patch.setitem(config.linear_chunk_bytes, "cpu", (8 if chunk > 4 else 2) * h.numel() * chunk)
        outputs, state = scan(
            cell, x, LinearState(h), flags, reverse=reverse, last_only=last_only, engine="fused"
        )
    found, expected = (outputs, state.h), (y, last)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert_close(gradients(found, inputs), gradients(expected, inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 9, 3, 4, 5), (1, 4, 3, 17, 21), (3, 2, 16, 8, 8)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.skipif(not COMPILED, reason="no compiler")
def test_kernels_are_the_loop(name, reverse, shape):
    """In float32, beside the loop in float64: parts of vectors, and more elements than a block has."""
    torch.manual_seed(0)
    cell = CELLS[name](2, shape[2], 3)
    x, h = torch.randn(*shape[:2], 2, *shape[3:]), torch.randn(shape[0], *shape[2:])
    mask, reset = flags_of(*shape[:2])
    results = []
    for dtype in (torch.float32, torch.float64):
        cell, inputs = cell.to(dtype), [t.to(dtype).requires_grad_() for t in (x, h)]
        if dtype == torch.float64:
            found = looped(cell, *inputs, mask, reset, reverse)
        else:
            flags = SequenceFlags(mask, reset)
            y, state = scan(
                cell, inputs[0], LinearState(inputs[1]), flags, reverse=reverse, engine="compiled"
            )
            found = y, *state
        results.append([t.double() for t in (*found, *gradients(found, [*inputs, *cell.parameters()]))])
    for ours, right in zip(*results, strict=True):
        assert (ours - right).norm() <= 1e-6 * right.norm()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.skipif(not COMPILED, reason="no compiler")
def test_each_kernel_is_the_torch_form(rule, dtype):
    """By the operators alone: 16 bits, gates far out, a gradient of only one of the two results."""
    torch.manual_seed(0)
    h, planes = torch.randn(2, 5, 3, 7), 5 * torch.randn(2, 6, (3 if "lstm" in rule else 2) * 5, 3, 7)
    planes[0, 0], planes[1, 1] = (0, 0) if rule == "affine" else (300, -60)
    others = (*flags_of(2, 6), rule, True)
    planes = planes.to(dtype)
    results = torch.ops.convlstm.linear_scan(planes, h, *others)
    assert_close(results, linear.linear_states(planes, h, *others), rtol=2e-6, atol=1e-5)
    assert cpu_linear.kernels() is not None
    for some in ((torch.randn(2, 6, 5, 3, 7), None), (None, torch.randn(2, 5, 3, 7))):
        found = torch.ops.convlstm.linear_scan_backward(planes, h, *others, results[0], *some)
        leaves = planes.clone().requires_grad_(), h.clone().requires_grad_()
        pairs = zip(linear.linear_states(*leaves, *others), some, strict=True)
        ys, ds = zip(*[(y, d) for y, d in pairs if d is not None], strict=True)
        close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}
        assert_close(found, torch.autograd.grad(ys, leaves, ds), **close)


@pytest.mark.parametrize("far", [-90.0, -1000.0])
@pytest.mark.skipif(not COMPILED, reason="no compiler")
def test_gates_far_below_zero_keep_their_ratio(far):
    """Both sigmoids of a minimal LSTM are then too small for a float, and their ratio is not."""
    torch.manual_seed(0)
    planes, h = torch.randn(2, 5, 9, 3, 7), torch.randn(2, 3, 3, 7)
    planes[:, :, :6] += far
    planes[:, 2, :3] += 300  # one of both alone
    planes[:, 3, 3:6] -= 2 * far
    leaves, results = (planes.requires_grad_(), h.requires_grad_()), []
    for form in (torch.ops.convlstm.linear_scan, linear.linear_states):
        found = form(*leaves, None, None, "min_lstm", False)
        results.append([*found, *gradients(found, leaves)])
    assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_library_that_does_not_compile_leaves_the_torch_form(monkeypatch):
    found = []
    for kernels in (cpu_linear.kernels, lambda: None):
        monkeypatch.setattr(cpu_linear, "kernels", kernels)
        torch.manual_seed(0)
        layer = ConvLSTM(2, 3, 3, batch_first=True, cell=MinConvGRUCell, engine="auto")
        y = layer(torch.randn(2, 5, 2, 4, 4))[0][0]
        found.append((y, *torch.autograd.grad(y.square().sum(), layer.parameters())))
    assert_close(*found)


@pytest.mark.parametrize("name", CELLS)
def test_first_and_second_derivatives(name):
    torch.manual_seed(0)
    cell = CELLS[name](1, 2, 1).double()
    x, h = (torch.randn(2, *shape).double().requires_grad_() for shape in ((5, 1, 2, 1), (2, 2, 1)))
    flags = SequenceFlags(*flags_of(2, 5))

    def function(x, h, *weights):
        y, state = scan(cell, x, LinearState(h), flags, reverse=True, engine="fused")
        return y, *state

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(function, (x, h, *cell.parameters()))


def test_the_scan_alone_can_be_differentiated_three_times():
    a, b, h = (torch.randn(1, *shape).double().requires_grad_() for shape in ((6, 2), (6, 2), (2,)))
    assert torch.autograd.gradgradcheck(
        lambda a, b, h: torch.autograd.grad(linear_scan(a, b, h).sin().sum(), (a, b, h), create_graph=True),
        (a, b, h),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_several_vectors_at_once(engine):
    layer = ConvLSTM(2, 3, 3, batch_first=True, cell=MinConvGRUCell, engine=engine)
    x = torch.randn(1, 5, 2, 4, 4, requires_grad=True)
    outputs = layer(x)[0][0]
    d = torch.randn(2, *outputs.shape)
    (together,) = torch.autograd.grad(outputs, x, d, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(outputs, x, part, retain_graph=True)[0] for part in d]
    assert_close(together, torch.stack(one_by_one))


@pytest.mark.skipif(not COMPILED, reason="no compiler")
def test_kernels_leave_second_derivatives_to_the_torch_form():
    found = []
    for engine in ("compiled", "fused"):
        torch.manual_seed(0)
        layer = ConvLSTM(2, 3, 3, 2, True, cell=MinConvLSTMCell, engine=engine)
        x = torch.randn(2, 6, 2, 4, 4).requires_grad_()
        (d,) = torch.autograd.grad(layer(x)[0][0].sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(d.square().sum(), [x, *layer.parameters()]))
    assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
def test_under_torch_compile(engine, mixed):
    torch.compiler.reset()
    torch.manual_seed(0)
    layer = ConvLSTM(2, [3, 4], 3, batch_first=True, cell=MinConvGRUCell, engine=engine)
    x, (mask, reset), nodes = torch.randn(2, 5, 2, 4, 6).requires_grad_(), flags_of(2, 5), []

    def backend(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    results = []
    for call in (layer, torch.compile(layer, fullgraph=True, backend=backend)):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            outputs, states = call(x, mask=mask, reset=reset)
        found = [*outputs, *states.tensors()]
        results.append([*found, *gradients(found, [x, *layer.parameters()])])
    assert_close(*results)
    assert ("convlstm.linear_scan.default" in nodes) == (engine == "compiled")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.skipif(not COMPILED, reason="no compiler")
def test_the_operators_keep_torchs_rules(rule):
    planes, h = torch.randn(2, 3, 6, 4), torch.randn(2, 2 if "lstm" in rule else 3, 4)
    others = *flags_of(2, 3), rule, False
    operators, leaves = torch.ops.convlstm, (planes.requires_grad_(), h.requires_grad_())
    torch.library.opcheck(operators.linear_scan.default, (*leaves, *others))
    states, _ = operators.linear_scan(*leaves, *others)
    arguments = (planes.detach(), h.detach(), *others, states.detach(), states.detach(), None)
    torch.library.opcheck(
        operators.linear_scan_backward.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


class Halved(MinConvGRUCell):
    """Forgets faster, by coefficients of its own."""

    def coefficients(self, x):
        a, b = super().coefficients(x)
        return 0.5 * a, b


class Stepping(MinConvGRUCell):
    """A step that is not linear."""

    def step(self, p, state):
        return LinearState(torch.tanh(super().step(p, state).h))


class Started(MinConvGRUCell):
    """Starts from a learnt state."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size, bias)
        self.start = nn.Parameter(torch.rand(hidden_dim, 1, 1))

    def initial_state(self, x):
        (h,) = super().initial_state(x)
        return LinearState(h + self.start.to(h.dtype))


class Normalised(Oscillating):
    """Normalises over the batch."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size, bias)
        self.conv = nn.Sequential(self.conv, nn.BatchNorm2d(2 * hidden_dim))


@pytest.mark.parametrize("cell", [Halved, Stepping, Started, Normalised])
@pytest.mark.parametrize("training", [False, True])
def test_what_a_subclass_overrides_takes_effect_in_every_engine(cell, training):
    results, (mask, reset) = [], flags_of(3, 6)
    for engine in ("reference", "auto", *ENGINES):
        torch.manual_seed(0)
        layer = ConvLSTM(2, 3, 3, 2, True, cell=cell, bidirectional=True, engine=engine).train(training)
        x = torch.randn(3, 6, 2, 4, 4).requires_grad_()
        outputs, states = layer(x, mask=mask, reset=reset)
        found = [*outputs, *states.tensors()]
        results.append([*found, *gradients(found, [x, *layer.parameters()]), *layer.buffers()])
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_coefficients_that_are_replaced_on_the_class_itself_take_effect(engine, monkeypatch):
    torch.manual_seed(0)
    layer, x = ConvLSTM(2, 3, 3, 1, True, cell=MinConvGRUCell, engine=engine), torch.randn(3, 6, 2, 4, 4)
    halved = ConvLSTM(2, 3, 3, 1, True, cell=Halved, engine="reference")
    halved.load_state_dict(layer.state_dict())
    expected, own = halved(x)[0][0], MinConvGRUCell.coefficients

    def coefficients(self, x):
        a, b = own(self, x)
        return 0.5 * a, b

    monkeypatch.setattr(MinConvGRUCell, "coefficients", coefficients)
    assert_close(layer(x)[0][0], expected)


def test_which_engine_runs_a_linear_recurrence():
    def chosen(cell, engine="auto", steps=3, dtype=torch.float32, **flags):
        x = torch.zeros(1, steps, 1, 4, 4, dtype=dtype)
        cell = cell.to(dtype)
        return select(engine, Call(cell, x, cell.initial_state(x[:, 0]), **flags))

    cell, fast = MinConvGRUCell(1, 2, 3), ENGINES[-1]
    assert chosen(cell) == fast
    assert chosen(Halved(1, 2, 3)) == chosen(Oscillating(1, 2, 3)) == fast
    assert chosen(MinConvGRUCell(1, 2, 3), dtype=torch.float64) == "fused"
    assert chosen(Stepping(1, 2, 3)) == chosen(Stepping(1, 2, 3), "fused") == "reference"
    assert chosen(MinConvGRUCell(1, 2, 3), steps=1) == "reference"
    assert chosen(Started(1, 2, 3)) == fast
    assert chosen(Started(1, 2, 3), reset=torch.ones(1, 3, dtype=torch.bool)) == "reference"
    assert chosen(MinConvGRUCell(1, 2, 3), reference_only=("zoneout",)) == "reference"
    with pytest.raises(OptionError, match="it has no zoneout"):
        chosen(MinConvGRUCell(1, 2, 3), "fused", reference_only=("zoneout",))
    rules = {name: linear.rule_of(make(1, 2, 3))[0] for name, make in CELLS.items()}
    assert rules == {name: name for name in CELLS}
    assert linear.rule_of(Halved(1, 2, 3))[0] == "affine"
    assert linear.rule_of(ConvGRUCell(1, 2, 3)) is None


@pytest.mark.parametrize(
    "options", [{"checkpoint": 3}, {"detach_every": 2}, {"zoneout": 0.3}, {"residual": True}]
)
def test_options_of_a_stack_are_those_of_the_loop(options):
    results = []
    for engine in ("reference", "auto"):
        torch.manual_seed(0)
        layer = ConvLSTM(2, 2, 3, 2, True, cell=MinConvLSTMCell, engine=engine, **options).eval()
        x = torch.randn(2, 7, 2, 4, 4).requires_grad_()
        outputs, states = layer(x)
        found = [*outputs, *states.tensors()]
        results.append([*found, *gradients(found, [x, *layer.parameters()])])
    assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixed_with", [[MinConvGRUCell, ConvGRUCell], [ConvGRUCell, MinConvLSTMCell]])
def test_streams_and_mixed_stacks(mixed_with):
    """Frame by frame by the same weights, also above and below layers that other engines run."""
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 3, None, True, cell=mixed_with, return_all_layers=True)
    x = torch.randn(2, 6, 2, 5, 4)
    outputs, states = layer(x)
    stream = layer.stream(2, (5, 4))
    for t, frame in enumerate(x.unbind(1)):
        assert_close(stream(frame), outputs[-1][:, t])
    assert_close([tuple(s) for s in stream.state], [tuple(s) for s in states])


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("name", CELLS)
def test_a_thousand_frames_stay_right(name, mode):
    """Outputs and gradients, beside the loop in float64; coefficients have 32 bits in every mode."""
    torch.manual_seed(0)
    layer = ConvLSTM(1, 3, 3, 2, True, cell=CELLS[name])
    x, exact = torch.randn(2, 1000, 1, 3, 3), ConvLSTM(1, 3, 3, 2, True, cell=CELLS[name]).double()
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    exact.load_state_dict(layer.to(dtype).state_dict())
    exact.set_engine("reference")
    results = []
    for each, frames in ((layer, x.to(dtype)), (exact, x.to(dtype).double())):
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast" and each is layer):
            y = each(frames)[0][0]
        results.append([y, *torch.autograd.grad(y.double().mean(), each.parameters())])
        assert all(t.isfinite().all() for t in results[-1])
    tolerance = 1e-5 if mode == "float32" else 0.02
    for ours, right in zip(*results, strict=True):
        assert (ours.double() - right).norm() < tolerance * right.norm()


@pytest.mark.parametrize("engine", ["reference", *ENGINES])
def test_a_state_that_is_kept_for_long_fades_under_autocast(engine):
    """A gate of 0.0009, which 16 bits tell from zero but 1 minus which they do not tell from 1."""
    layer = ConvLSTM(1, 1, 1, batch_first=True, cell=MinConvGRUCell, engine=engine)
    conv, gate = layer.cell_list[0].conv, 1 / (1 + math.exp(7))
    nn.init.zeros_(conv.weight)
    conv.bias.data.copy_(torch.tensor([-7.0, 0.5]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        (y,), _ = layer(torch.zeros(1, 1000, 1, 1, 1))
    steps = torch.arange(1, 1001)
    assert_close(y.flatten(), 1 - (1 - gate) ** steps, rtol=1e-4, atol=0)


def test_truncation_and_recomputation_by_the_scan_itself():
    """Segments of the scan, forward and reversed, as `ScanOptions` asks for them."""
    cell, x = MinConvGRUCell(1, 2, 1).double(), torch.randn(1, 7, 1, 2, 2).double()
    for reverse in (False, True):
        for options in (ScanOptions(detach_every=3), ScanOptions(checkpoint_every=2)):
            results = []
            for engine in ("reference", "fused"):
                y, state = scan(cell, x, reverse=reverse, options=options, engine=engine)
                results.append([y, *gradients((y, *state), [*cell.parameters()])])
            assert_close(*results)


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_may_be_changed_in_place(engine, last_only, dtype):
    """As nn.ReLU(inplace=True) behind a layer does: neither the state nor the gradients change."""
    gradients = []
    for name in (engine, "reference"):
        torch.manual_seed(0)
        options = {"batch_first": True, "cell": MinConvLSTMCell, "last_only": last_only}
        layer = ConvLSTM(2, [3, 4], 3, engine=name, **options).to(dtype)
        x = torch.randn(2, 5, 2, 6, 5, dtype=dtype).requires_grad_()
        outputs, states = layer(x)
        h = states[0].h.detach().clone()
        outputs[0].mul_(3)
        assert torch.equal(states[0].h, h)
        loss = outputs[0].square().sum() + states[0].h.sum()
        gradients.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
    assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_does_not_hold_on_to_the_frames_before_it(engine, dtype):
    layer = ConvLSTM(2, [3, 4], 3, batch_first=True, cell=MinConvGRUCell, engine=engine).to(dtype)
    with torch.no_grad():
        _, states = layer(torch.randn(2, 50, 2, 6, 5, dtype=dtype))
    for state in states:
        assert state.h.untyped_storage().nbytes() == state.h.nbytes


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("engine", ["reference", "fused", "compiled"])
def test_a_reset_forgets_a_state_that_is_not_finite(engine, reverse, value):
    """A sequence packed behind one with such a frame is its own, whatever the engine."""
    torch.manual_seed(0)
    cell = MinConvGRUCell(2, 3, 3)
    x, reset = torch.randn(2, 9, 2, 4, 4), torch.zeros(2, 9, dtype=torch.bool)
    reset[:, 4] = True
    own = slice(0, 4) if reverse else slice(4, None)
    x[:, 7 if reverse else 1] = value
    y, _ = scan(cell, x, flags=SequenceFlags(reset=reset), reverse=reverse, engine=engine)
    expected, _ = scan(cell, x[:, own], reverse=reverse)
    assert_close(y[:, own], expected)
    assert not y[:, 7 if reverse else 1].isfinite().all()
