"""The fast engines are the reference: outputs, states, gradients, whatever the options and the dtype."""

import gc
import sys
import tracemalloc
from functools import partial
from threading import Thread

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell, MinConvGRUCell, SAConvLSTMCell
from convlstm.engines import autograd, available, buffer_pool, config, dispatch, plan, triton
from convlstm.engines.buffer_pool import BufferPool
from convlstm.engines.cpu import compiler, library
from convlstm.errors import OptionError, ShapeError
from convlstm.functional.gates import ACTIVATIONS

FAST = ["fused", *(["compiled"] if compiler.unavailable() is None else [])]
# Few, as each choice is compiled; together they are all there are. Gates are bounded: without a bound numbers
# grow out of every dtype.
CHOICES = [
    ("sigmoid", "tanh", "tanh"),
    ("hard_sigmoid", "silu", "identity"),
    ("softsign", "gelu", "elu"),
    ("hard_tanh", "leaky_relu", "relu"),
]


def flat(states):
    if isinstance(states, torch.Tensor):
        return [states]
    return [t for part in getattr(states, "all_layers", states) for t in flat(part)]


def results(layer, x, states, flags, seed=3):
    """Outputs and states; and gradients of a random loss of all of them, by everything that goes in."""
    outputs, ends = layer(x, states, **flags)
    found = [*outputs, *flat(ends)]
    generator = torch.Generator().manual_seed(seed)
    loss = sum((t.double() * torch.randn(t.shape, generator=generator)).sum() for t in found)
    inputs = [x, *layer.parameters(), *([] if states is None else flat(states))]
    return found, torch.autograd.grad(loss, inputs)


def draw_case(draw, dtype, engine):
    axes = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(3, 5)) for _ in range(axes))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    gate, candidate, output = draw(st.sampled_from([CHOICES[0], *CHOICES]))
    options = {
        "gate_activation": gate,
        "candidate_activation": candidate,
        "dilation": draw(st.sampled_from([1, 1, 2])),
        "padding_mode": draw(st.sampled_from(["zeros", "zeros", "replicate", "circular"])),
    }
    stack = draw(st.sampled_from([ConvLSTM, ConvLSTM, ConvGRU]))
    if stack is ConvLSTM:
        peephole = draw(st.sampled_from([None, "channel", "pixel"]))
        options |= {"output_activation": output, "peephole": peephole}
        options["image_size"] = size if peephole == "pixel" else None
    hidden = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 2)))]
    layer = stack(
        draw(st.integers(1, 3)),
        hidden,
        [kernel] * len(hidden),
        batch_first=draw(st.booleans()),
        bias=draw(st.booleans()),
        return_all_layers=draw(st.booleans()),
        cell=partial(stack.default_cell, **options),
        bidirectional=draw(st.booleans()),
        last_only=draw(st.booleans()),
        engine=engine,
        save=draw(st.sampled_from(["gates", "state"])),
    )
    return layer.to(dtype), size


@st.composite
def cases(draw, dtype, engine):
    """A layer with random weights, frames, states if any, and flags."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layer, size = draw_case(draw, dtype, engine)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    x = torch.randn(*shape, layer.input_dim, *size, dtype=dtype).requires_grad_()
    flags = {}
    if draw(st.booleans()):
        flags["mask"] = torch.rand(batch, steps) > 0.3
    if draw(st.booleans()):
        flags["reset"] = torch.rand(batch, steps) > 0.7
    if draw(st.booleans()):
        flags["lengths"] = torch.randint(1, steps + 1, (batch,))
    layer.set_engine("reference")  # hypothesis limits the time of a draw, in which nothing is compiled
    with torch.no_grad():
        states = layer(x, None)[1].map(torch.randn_like).map(torch.Tensor.requires_grad_)
    layer.set_engine(engine)
    if draw(st.booleans()):
        states = None
    return layer, x, states, flags, draw(st.sampled_from([1, 2000, 1 << 20]))


def double(tensor):
    return tensor.detach().double().requires_grad_()


def in_pieces(case):
    """The results of a fast engine that works in chunks of a drawn size."""
    layer, x, states, flags, chunk = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.chunk_bytes, "cpu", chunk)
        patch.setitem(config.input_chunk_bytes, "cpu", chunk // 2)
        return results(layer, x, states, flags)


@settings(max_examples=80, deadline=None)
@given(case=cases(torch.float64, "fused"))
def test_float64_is_the_reference(case):
    """To the accuracy of torch's sigmoid; on outputs in the same layout, so that a view() goes on working."""
    layer, x, states, flags, _ = case
    ours = in_pieces(case)
    layer.set_engine("reference")
    theirs = results(layer, x, states, flags)
    for a, b in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]], strict=True):
        assert_close(a, b, rtol=0, atol=1e-9 * max(1.0, b.detach().abs().max().item()))
    assert [a.stride() for a in ours[0]] == [b.stride() for b in theirs[0]]


def errors(case):
    """For each result its distance from the reference in float64, the reference's own, and its scale."""
    layer, x, states, flags, _ = case
    ours = in_pieces(case)
    layer.set_engine("reference")
    theirs = results(layer, x, states, flags)
    truth = results(layer.double(), double(x), None if states is None else states.map(double), flags)
    for a, b, c in zip(*([*found[0], *found[1]] for found in (ours, theirs, truth)), strict=True):
        yield (a - c).abs().max(), (b - c).abs().max(), max(1.0, c.detach().abs().max().item())


@pytest.mark.parametrize("engine", FAST)
def test_float32_errs_as_the_reference_does(engine):
    """Against the reference in float64: some roundings more, where activations let numbers grow."""

    @settings(max_examples=80, deadline=None)
    @given(case=cases(torch.float32, engine))
    def agree(case):
        for error, reference, scale in errors(case):
            assert error <= 10 * reference + 1e-5 * scale

    agree()


@pytest.mark.parametrize("engine", FAST)
def test_bfloat16_errs_as_the_reference_does(engine):
    """To eight of the dtype's steps more, as a tensor of one number may be exact by chance.

    Against the reference in float64; without activations whose slopes a rounding turns, and draws in which
    numbers grow until the reference itself errs by a tenth.
    """

    @settings(max_examples=60, deadline=None)
    @given(case=cases(torch.bfloat16, engine))
    def agree(case):
        layer, x, *_ = case
        assume(layer.cell_list[0].gate_activation in (torch.sigmoid, torch.nn.functional.softsign))
        assume(x.ndim < 6 or x.shape[3] > 1)  # torch 2.13's conv3d in bfloat16 is wrong at depth one
        found = [*errors(case)]
        assume(all(reference <= 0.1 * scale for _, reference, scale in found))
        for error, reference, scale in found:
            assert error <= 3 * reference + 8 * 2**-8 * scale

    agree()


def test_the_choices_are_all_activations():
    assert {name for choice in CHOICES for name in choice} == set(ACTIVATIONS)


def layer_and_frames(engine="fused", steps=6, size=(9, 8), dtype=torch.float32, stack=ConvLSTM, **options):
    torch.manual_seed(0)
    layer = stack(3, [8, 6], 3, batch_first=True, return_all_layers=True, engine=engine, **options)
    return layer.to(dtype), torch.randn(2, steps, 3, *size, dtype=dtype)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(
    ("stack", "cell"),
    [
        (ConvLSTM, ConvLSTMCell),
        (ConvLSTM, partial(ConvLSTMCell, peephole="channel")),
        (ConvGRU, ConvGRUCell),
    ],
    ids=["lstm", "peepholes", "gru"],
)
def test_bfloat16_autocast_errs_no_more_than_the_loop(engine, stack, cell):
    """Against the reference in float64: each tensor's relative error, the mean over ten seeds."""
    errors = {engine: [], "reference": []}
    for seed in range(10):
        layer, _ = layer_and_frames(steps=8, stack=stack, cell=cell)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        x = torch.randn(2, 8, 3, 9, 8).requires_grad_()
        for engine, found in errors.items():
            layer.set_engine(engine)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                mixed = _without_states(layer, x)
            exact = stack(
                3, [8, 6], 3, batch_first=True, return_all_layers=True, cell=cell, engine="reference"
            ).double()
            exact.load_state_dict(layer.state_dict())
            truth = _without_states(exact, x.detach().double().requires_grad_())
            assert [t.dtype for t in mixed] == [torch.float32] * len(mixed)
            found.append(
                [((a.double() - b).norm() / b.norm()).item() for a, b in zip(mixed, truth, strict=True)]
            )
    ours, theirs = (torch.tensor(found).mean(dim=0) for found in errors.values())
    assert ours.mean() <= theirs.mean()
    assert (ours <= 1.5 * theirs).all(), (ours / theirs).tolist()  # a weight gradient has 1.3


@pytest.mark.parametrize("engine", ["reference", *FAST, "auto"])
@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, ConvRNNCell])
def test_outputs_and_states_under_autocast_have_32_bits(engine, cell):
    layer, x = layer_and_frames(engine, steps=2, cell=cell)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, states = layer(x)
        _, resumed = layer(x, states)
    found = [*outputs, *flat(states), *flat(resumed)]
    assert {tensor.dtype for tensor in found} == {torch.float32}
    with torch.no_grad():
        layer(x, states)  # also outside autocast


def _without_states(layer, x):
    outputs, ends = layer(x)
    found = [*outputs, *flat(ends)]
    loss = sum(t.double().sin().sum() for t in found)
    return [*(t.detach() for t in found), *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_layers_keep_their_dtype_and_stay_close(dtype):
    layer, x = layer_and_frames(dtype=dtype)
    ours = _without_states(layer, x.requires_grad_())
    assert {t.dtype for t in ours} == {dtype}
    exact, _ = layer_and_frames("reference", dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    truth = _without_states(exact, x.detach().double().requires_grad_())
    for a, b in zip(ours, truth, strict=True):
        assert (a.double() - b).abs().max() < 0.04 * b.abs().max()


@pytest.mark.parametrize("engine", ["reference", *FAST, "auto"])
@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
@pytest.mark.parametrize(("size", "kernel"), [((1, 4, 5), (3, 3, 3)), ((3, 4, 5), (5, 3, 1))])
def test_bfloat16_of_three_axes_shorter_than_the_kernel(engine, stack, size, kernel):
    """Torch's own convolution, 2.13 on a CPU, reads and writes outside its memory there."""
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        name = "reference" if dtype == torch.float64 else engine
        layer = stack(1, 4, kernel, 1, batch_first=True, engine=name).to(dtype)
        x = torch.randn(2, 3, 1, *size).to(dtype).requires_grad_()
        found.append(_without_states(layer, x))
    for exact, ours in zip(*found, strict=True):
        assert (ours.double() - exact).abs().max() < 0.05 * exact.abs().max()


def test_gradients_agree_with_finite_differences():
    layer, x = layer_and_frames(
        steps=3, size=(3, 2), dtype=torch.float64, cell=partial(ConvLSTMCell, peephole="channel")
    )
    with torch.no_grad():
        for cell in layer.cell_list:
            cell.peephole_weight.normal_()
    names = [name for name, _ in layer.named_parameters()]
    mask = torch.tensor([[True, False, True], [True, True, True]])

    def function(x, *weights):
        for name, weight in zip(names, weights, strict=True):
            module, _, last = name.rpartition(".")
            owner = layer.get_submodule(module)
            owner._parameters.pop(last, None)
            setattr(owner, last, weight)
        outputs, ends = layer(x, mask=mask)
        return (*outputs, *flat(ends))

    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *weights), fast_mode=True)


def test_only_the_gradients_asked_for():
    layer, x = layer_and_frames()
    whole = _without_states(layer, x.requires_grad_())
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name.endswith("0.conv.bias"))
    outputs, ends = layer(x.detach())
    loss = sum(t.double().sin().sum() for t in [*outputs, *flat(ends)])
    (gradient,) = torch.autograd.grad(loss, [layer.cell_list[0].conv.bias])
    index = [n for n, _ in layer.named_parameters()].index("cell_list.0.conv.bias")
    assert_close(gradient, whole[-len(list(layer.parameters())) :][index])


def test_no_grad_and_inference_mode_give_the_same_numbers():
    layer, x = layer_and_frames()
    expected = layer(x)[0]
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_close(layer(x)[0], expected, rtol=0, atol=0)
    assert expected[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("engine", FAST)
def test_the_same_call_gives_the_same_bits_and_a_graph_serves_twice(engine, dtype):
    layer, x = layer_and_frames(engine, dtype=dtype)
    first, second = (_without_states(layer, x.requires_grad_()) for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)
    loss = layer(x)[0][-1].sum()
    gradients = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2)]
    assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("engine", FAST)
def test_a_bias_that_is_not_dense(engine):
    layer, x = layer_and_frames(engine)
    expected = layer(x)[0]
    for cell in layer.cell_list:
        bias = cell.conv.bias.data
        cell.conv.bias.data = torch.empty(len(bias), 2)[:, 0].copy_(bias)
    assert_close(layer(x)[0], expected, rtol=0, atol=0)


def test_outputs_may_be_changed_in_place():
    """As nn.ReLU(inplace=True) behind a layer does."""
    gradients = []
    for engine in ("fused", "reference"):
        layer, x = layer_and_frames(engine)
        y = layer(x.requires_grad_())[0][-1]
        y.relu_()
        gradients.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_second_derivative_is_refused_and_the_engine_that_has_it_named():
    layer, x = layer_and_frames("auto")
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_())[0][-1].sum(), x, create_graph=True)
    with pytest.raises(OptionError, match=r"differentiated once by engine='fused'.*engine='reference'"):
        gradient.square().sum().backward()


def test_auto_leaves_float64_to_the_reference():
    layer, x = layer_and_frames("auto", dtype=torch.float64)
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_())[0][-1].sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.any()


def ran_fused(layer, call, monkeypatch):
    """Whether a call ran the fused engine, for each of its layers."""
    calls = []
    inner = autograd.forward  # of the module convlstm.engines.forward
    monkeypatch.setattr(autograd, "forward", lambda *a, **k: calls.append(1) or inner(*a, **k))
    call()
    monkeypatch.undo()
    return len(calls)


def test_auto_runs_the_fused_engine_where_it_can(monkeypatch):
    layer, x = layer_and_frames("auto")
    assert ran_fused(layer, lambda: layer(x), monkeypatch) == 2
    layer, x = layer_and_frames("reference")
    assert ran_fused(layer, lambda: layer(x), monkeypatch) == 0


def test_auto_leaves_few_numbers_to_the_reference(monkeypatch):
    layer, x = layer_and_frames("auto")
    monkeypatch.setattr(dispatch, "_compiler_missing", lambda device: None)
    counts = [x[:, :, 0].numel() * cell.conv.weight.numel() for cell in layer.cell_list]
    monkeypatch.setattr(config, "small_on_cpu", min(counts) - 1)
    with monkeypatch.context() as patch:
        assert ran_fused(layer, lambda: layer(x), patch) == 2
    monkeypatch.setattr(config, "small_on_cpu", max(counts))
    with monkeypatch.context() as patch:
        assert ran_fused(layer, lambda: layer(x), patch) == 0


@pytest.mark.parametrize("engine", ["auto", "fused"])
def test_few_pixels_of_few_frames_are_left_to_the_loop(engine, monkeypatch):
    """Whatever the weights, as these are arranged in each call, but kept for frames without gradients."""
    layer, x = layer_and_frames(engine)
    few = x.shape[1] * x[:, :, 0].numel()  # frames times pixels of all frames

    def runs(call, most):
        with monkeypatch.context() as patch:
            patch.setattr(config, "few_pixels_on_cpu", most)
            return ran_fused(layer, call, patch)

    def in_16_bits():
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)

    one = x[:, :1]
    single = one[:, :, 0].numel()
    without_gradients = torch.no_grad()(partial(layer, one))
    assert [runs(partial(layer, x), most) for most in (few - 1, few)] == [2, 0]
    assert [runs(in_16_bits, most) for most in (few // 2 - 1, few // 2)] == [2, 0]
    assert [runs(torch.no_grad()(partial(layer, x)), most) for most in (few - 1, few)] == [2, 0]
    assert [runs(without_gradients, most) for most in (8 * single - 1, 8 * single)] == [2, 0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"zoneout": 0.1}, "a faster engine cannot: it has no zoneout"),
        ({"cell": partial(ConvLSTMCell, attention="spatial")}, "a faster engine cannot: it has no attention"),
        ({"cell": SAConvLSTMCell}, "SAConvLSTMCell has no faster implementation"),
        ({"dtype": torch.float64}, "float64 can be differentiated twice there"),
    ],
)
def test_why_the_loop_runs_a_cell_is_told(options, reason):
    """Of every cell that is no part of another."""
    layer, x = layer_and_frames("auto", **options)
    assert available(layer, x) == {f"cell_list.{n}": f"reference, because {reason}" for n in range(2)}


def test_options_of_another_stack_are_not_told_of_a_cell():
    """Of eleven stacks, ``1`` has zoneout, and its name begins that of ``10``."""
    plain = partial(ConvLSTM, 1, 2, 3, batch_first=True)
    stacks = torch.nn.ModuleList(plain(zoneout=0.1 if n == 1 else 0.0) for n in range(11))
    told = available(stacks, torch.zeros(1, 3, 1, 6, 5))
    assert [name for name, text in told.items() if "zoneout" in text] == ["1.cell_list.0"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ConvLSTM, torch.zeros(1, 3, 1, 6, 5)), OptionError, r"layer .* the class ConvLSTM: call it"),
        ((None, torch.zeros(1, 3, 1, 6, 5)), OptionError, "layer must be a Module; received None"),
        ((ConvLSTM(1, 2, 3),), ShapeError, r"frames \(B, T, C, \*S\) must be a tensor; received a NoneType"),
        ((ConvLSTM(1, 2, 3), torch.zeros(3, 1, 6, 5)), ShapeError, r"with 2 space axes; .* \(3, 1, 6, 5\)"),
        ((ConvLSTM(1, 2, 3), torch.zeros(1, 0, 1, 6, 5)), ShapeError, r"received shape \(1, 0, 1, 6, 5\)"),
    ],
)
def test_a_call_that_cannot_be_told_of_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        available(*arguments)


def test_a_layer_that_scans_is_told():
    layer, x = layer_and_frames("auto", cell=MinConvGRUCell)
    engine = "fused" if available()["compiled"] else "compiled"
    assert available(layer, x) == {f"cell_list.{n}": f"{engine}, scan over time" for n in range(2)}


def test_fused_leaves_fewer_numbers_to_the_reference(monkeypatch):
    layer, x = layer_and_frames("fused")
    counts = [x[:, :, 0].numel() * cell.conv.weight.numel() for cell in layer.cell_list]
    for most, expected in ((2 * min(counts) - 1, 2), (2 * max(counts), 0)):
        with monkeypatch.context() as patch:
            patch.setattr(config, "small_on_cpu", most)
            assert ran_fused(layer, partial(layer, x), patch) == expected


def test_fused_leaves_no_call_to_the_reference_of_which_save_is_given(monkeypatch):
    monkeypatch.setattr(config, "small_on_cpu", 1 << 40)
    monkeypatch.setattr(config, "few_pixels_on_cpu", 1 << 40)
    layer, x = layer_and_frames("fused", save="state")
    assert ran_fused(layer, partial(layer, x), monkeypatch) == 2


@pytest.fixture
def on_avx2(monkeypatch):
    """As on a processor with AVX2 and no AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize(
    ("kernel", "save", "dtype", "fast"),
    [
        (5, "auto", torch.float32, 0),
        ((1, 11), "auto", torch.float32, 0),
        (3, "auto", torch.float32, 1),
        (5, "state", torch.float32, 1),
        (5, "auto", torch.bfloat16, 1),
    ],
)
def test_auto_leaves_large_kernels_to_the_loop_on_avx2(kernel, save, dtype, fast, monkeypatch):
    """In fp32, and never where a user has chosen what is kept."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    layer = ConvLSTM(2, [3], kernel, 1, batch_first=True, save=save).to(dtype)
    x = torch.rand(2, 4, 2, 12, 12, dtype=dtype)
    for capability, expected in (("AVX2", fast), ("AVX512", 1)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", partial(str, capability))
        with monkeypatch.context() as patch:
            assert ran_fused(layer, lambda: layer(x), patch) == expected


@pytest.mark.usefixtures("on_avx2")
@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(
    ("stack", "options"),
    [
        (ConvLSTM, {}),
        (ConvLSTM, {"bidirectional": True, "cell": partial(ConvLSTMCell, peephole="channel")}),
        (ConvLSTM, {"cell": partial(ConvLSTMCell, padding_mode="circular")}),
        (ConvGRU, {"bidirectional": True}),
    ],
)
def test_gradients_frame_by_frame_on_avx2_are_the_reference(engine, stack, options):
    """With flags, a state given and none: h before the first step is then left out."""
    torch.manual_seed(0)
    layer = stack(1, [5, 4], (3, 2), 2, batch_first=True, engine=engine, **options)
    x = torch.rand(2, 5, 1, 6, 7, requires_grad=True)
    for flags in ({}, {"lengths": torch.tensor([3, 5])}):
        layer.engine = engine
        found, gradients = results(layer, x, None, flags)
        layer.engine = "reference"
        expected, right = results(layer, x, None, flags)
        assert_close(found, expected)
        assert_close(gradients, right, rtol=1e-4, atol=1e-5)


def test_layers_of_which_the_loop_runs_some_give_what_the_loop_gives(monkeypatch):
    """Values, gradients and memory layout, where ``auto`` leaves the second layer alone to the reference."""
    torch.manual_seed(0)
    layer = ConvLSTM(1, [12, 3], 3, batch_first=True)
    x = torch.rand(2, 4, 1, 8, 9)
    second = layer.cell_list[1].conv.weight.numel()
    monkeypatch.setattr(dispatch, "_compiler_missing", lambda device: None)
    monkeypatch.setattr(config, "small_on_cpu", 8 * 8 * 9 * second)
    with monkeypatch.context() as patch:
        assert ran_fused(layer, lambda: layer(x), patch) == 1
    found, gradients = results(layer, x.requires_grad_(), None, {})
    layer.set_engine("reference")
    expected, right = results(layer, x, None, {})
    assert_close(found, expected)
    assert_close(gradients, right, rtol=1e-4, atol=1e-5)
    assert [t.stride() for t in found] == [t.stride() for t in expected]


def test_streams_of_small_frames_run_by_the_fast_engines_too(monkeypatch):
    monkeypatch.setattr(config, "small_on_cpu", 1 << 30)
    session = ConvLSTM(1, [4, 4], 3).stream(1, (8, 8))
    session(torch.rand(1, 1, 8, 8))
    assert session._stepper is not None


class Doubled(ConvLSTMCell):
    def update(self, gates, state):
        return super().update(2 * gates, state)


@pytest.mark.parametrize("engine", ["auto", *FAST])
def test_a_method_that_is_replaced_on_the_class_itself_takes_effect(engine, monkeypatch):
    layer, x = layer_and_frames(engine)
    before = layer(x)[0][-1]
    own = ConvLSTMCell.update
    monkeypatch.setattr(ConvLSTMCell, "update", lambda self, gates, state: own(self, 2 * gates, state))
    found = layer(x)[0][-1]
    layer.set_engine("reference")
    assert_close(found, layer(x)[0][-1])
    assert not torch.allclose(found, before)


def test_an_update_of_ones_own_runs_under_auto(monkeypatch):
    layer, x = layer_and_frames("auto", cell=Doubled)
    assert ran_fused(layer, lambda: layer(x), monkeypatch) == 0
    plain, _ = layer_and_frames("auto")
    plain.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x)[0][-1], plain(x)[0][-1])


def test_hooks_run_under_auto(monkeypatch):
    layer, x = layer_and_frames("auto")
    seen = []
    handle = layer.cell_list[0].register_forward_hook(lambda *_: seen.append(1))
    assert ran_fused(layer, lambda: layer(x), monkeypatch) == 1
    assert len(seen) == x.shape[1]
    handle.remove()
    assert ran_fused(layer, lambda: layer(x), monkeypatch) == 2


REFUSALS = {
    "no zoneout": ({"zoneout": 0.5}, None),
    "no detach_every together with": ({"detach_every": 2, "checkpoint": 3}, None),
    "hooks": ({}, lambda layer, x: layer.cell_list[0].register_forward_hook(lambda *_: None) and layer(x)),
    "torch.func": ({}, lambda layer, x: torch.func.grad(lambda x: layer(x)[0][-1].sum())(x)),
    "meta": ({}, lambda layer, x: layer.to("meta")(x.to("meta"))),
    "exported": ({}, lambda layer, x: torch.export.export(layer, (x,), strict=False)),  # torch 2.7: strict
}


@pytest.mark.parametrize("small", [0, 1 << 40])
@pytest.mark.parametrize("reason", REFUSALS)
def test_a_call_it_cannot_serve_says_why_and_auto_serves_it(reason, small, monkeypatch):
    """Of small calls too, which the loop runs in its place."""
    monkeypatch.setattr(config, "small_on_cpu", small)
    options, call = REFUSALS[reason]
    call = call or (lambda layer, x: layer(x))
    layer, x = layer_and_frames("fused", **options)
    with pytest.raises(Exception, match=f"engine='fused', which cannot because .*{reason}"):
        call(layer, x)
    call(*layer_and_frames("auto", **options))


def test_all_reasons_are_named():
    layer, x = layer_and_frames("fused", zoneout=0.5)
    layer.cell_list[0].register_forward_hook(lambda *_: None)
    with pytest.raises(OptionError, match="because it has no zoneout; ConvLSTMCell has hooks: use"):
        layer(x)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
def test_forward_mode_runs_under_auto():
    layer, x = layer_and_frames("auto")
    _, tangent = torch.func.jvp(lambda x: layer(x)[0][-1], (x,), (torch.ones_like(x),))
    assert tangent.any()
    with torch.autograd.forward_ad.dual_level():
        y = layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))[0][-1]
        assert_close(torch.autograd.forward_ad.unpack_dual(y).tangent, tangent)


OTHERS = {
    "attention": partial(ConvLSTMCell, attention="channel"),
    "an update of its own": Doubled,
    "an activation without a name": partial(ConvLSTMCell, gate_activation=lambda x: torch.sigmoid(2 * x)),
    "the reset gate before": partial(ConvGRUCell, reset_after=False),
}


@pytest.mark.parametrize("cell", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("engine", FAST)
def test_other_cells_keep_their_own_step_under_any_engine(cell, engine):
    layer, x = layer_and_frames(engine, cell=cell)
    ours = layer(x)[0]
    layer.set_engine("reference")
    assert_close(ours, layer(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("option", ["detach_every", "checkpoint"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_long_sequences_in_pieces(engine, option, bidirectional):
    found = []
    for name in (engine, "reference"):
        layer, x = layer_and_frames(name, steps=7, bidirectional=bidirectional, **{option: 3})
        found.append(_without_states(layer, x.requires_grad_()))
    assert_close(*found, rtol=1e-4, atol=5e-5)


def test_engines_by_name():
    assert set(available()) == {"compiled", "fused", "reference"}
    assert available()["fused"] is available()["reference"] is None
    with pytest.raises(OptionError, match="engine must be one of auto, compiled, fused, reference; received"):
        ConvLSTM(1, 1, 1, engine="fast")
    with pytest.raises(OptionError, match="save must be one of auto, gates, state; received 'gate'; did you"):
        ConvLSTM(1, 1, 1, save="gate")


@pytest.fixture
def without_libraries(monkeypatch, tmp_path):
    """As on a new machine: nothing compiled yet, in memory or on disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caches = (library._loaded, compiler._with_flags, compiler.warn_once, plan.make_plan)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@pytest.mark.usefixtures("without_libraries")
def test_a_compiler_that_fails_is_told_once_and_done_without(monkeypatch, tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text('#!/bin/sh\ncase "$*" in *-dM*) exit 0;; esac\necho no space left >&2; exit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    layer, x = layer_and_frames("compiled")
    with pytest.warns(RuntimeWarning, match="the C.. compiler failed: no space left"):
        ours = layer(x)[0]
    layer(x)  # without a warning, which would be an error
    assert "the C++ compiler failed: no space left" in available()["compiled"]
    layer.set_engine("reference")
    assert_close(ours, layer(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("without_libraries")
def test_without_a_compiler_the_engine_says_so_and_auto_does_without(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert "no C++ compiler" in available()["compiled"]
    layer, x = layer_and_frames("compiled")
    with pytest.raises(OptionError, match=r"engine='compiled', which cannot because there is no C\+\+ comp"):
        layer(x)
    layer.set_engine("auto")
    assert layer(x)[0][0].isfinite().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here Triton works")
def test_triton_that_fails_is_told_once_and_done_without(monkeypatch):
    """Here for want of the package, or of a driver."""
    monkeypatch.setattr(triton, "unavailable", lambda: None)
    triton.kernels.cache_clear()
    with pytest.warns(RuntimeWarning, match="because Triton failed: "):
        assert triton.kernels("lstm", CHOICES[0], torch.float32) is None
    assert triton.kernels("lstm", CHOICES[0], torch.float32) is None
    triton.kernels.cache_clear()


@pytest.mark.skipif("compiled" not in FAST, reason="no compiler")
@pytest.mark.usefixtures("without_libraries")
def test_a_library_is_compiled_once_for_all_shapes(monkeypatch):
    built, run = [], compiler._run
    monkeypatch.setattr(compiler, "_run", lambda command: built.append("-o" in command) or run(command))
    layer, x = layer_and_frames("compiled")
    layer(x)
    for other in (x[:1], x[:, :2], x[..., :5], torch.randn(3, 4, 3, 11, 4)):
        layer(other)
    assert sum(built) == 1


@pytest.mark.skipif("compiled" not in FAST, reason="no compiler")
@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_processor_with_narrow_registers_computes_the_same(dtype, monkeypatch):
    """Four numbers at once, and no instructions for bfloat16."""
    monkeypatch.setattr(config, "cpu_flags", ([],))
    layer, x = layer_and_frames("compiled", dtype=dtype)
    ours = _without_states(layer, x.requires_grad_())
    exact, _ = layer_and_frames("reference", dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    truth = _without_states(exact, x.detach().double().requires_grad_())
    for a, b in zip(ours, truth, strict=True):
        assert (a.double() - b).abs().max() < (1e-5 if dtype == torch.float32 else 0.04) * b.abs().max()


def test_nan_stays_nan():
    """In a frame that no mask takes out, where the user is to see it."""
    for engine in FAST:
        for dtype in (torch.float32, torch.bfloat16):
            layer, x = layer_and_frames(engine, dtype=dtype)
            x[0, 2, 0, 3, 3] = torch.nan
            y = layer(x)[0][-1]
            assert y[0, 2, :, 3, 3].isnan().all()
            assert y[0, :2].isfinite().all()
            assert y[1].isfinite().all()


def test_frames_that_do_not_fit_pixel_peepholes_are_refused():
    layer = ConvLSTM(1, 1, 1, cell=partial(ConvLSTMCell, peephole="pixel", image_size=(3, 3)))
    with pytest.raises(ShapeError, match="peephole=pixel fixes the size"):
        layer(torch.zeros(1, 1, 1, 2, 2))


@pytest.mark.parametrize(("engine", "one_call"), [*((engine, 0) for engine in FAST), (FAST[-1], 1 << 30)])
def test_five_hundred_calls_leave_nothing_behind(engine, one_call, monkeypatch):
    monkeypatch.setattr(config, "one_call_on_cpu", one_call)
    dtype = torch.bfloat16 if engine == "compiled" and not one_call else torch.float32
    layer, x = layer_and_frames(engine, steps=3, size=(6, 6), dtype=dtype)
    x.requires_grad_()

    def calls(count):
        for _ in range(count):
            layer(x)[0][-1].sum().backward()
            x.grad = None
            layer.zero_grad()
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    tracemalloc.start()
    tensors, grown = calls(300), []  # Python's free lists fill up first
    for _ in range(2):  # in one of them something else may keep memory, such as another thread
        before = tracemalloc.get_traced_memory()[0]
        assert calls(250) <= tensors
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert min(grown) < 250 * 100  # less than one object of a tensor's kind per call


def test_two_threads_never_take_the_same_buffer():
    """A second thread that takes a buffer while the first has chosen but not taken its own yet waits."""
    pool = BufferPool()
    small, large = (pool.empty((n << 18,), torch.float32) for n in (1, 2))
    del small, large
    assert pool.free_bytes() == 3 << 20
    threads = []

    class Interrupted(list):
        def pop(self, *place):
            if not threads:
                take = partial(pool.empty, (1 << 18,), torch.float32)
                threads.append(Thread(target=take))
                threads[0].start()
                threads[0].join(timeout=0.2)
            return super().pop(*place)

    pool.free = Interrupted(pool.free)
    assert pool.empty((2 << 18,), torch.float32).numel() == 2 << 18
    threads[0].join()
    assert not threads[0].is_alive()


def test_large_buffers_are_used_again_and_freed_with_their_tensors():
    pool = BufferPool()
    first = pool.empty((1 << 18,), torch.float32)
    place = first.data_ptr()
    assert place % 64 == 0
    view = first[5:].view(-1)
    del first
    assert pool.free_bytes() == 0  # somebody still sees it
    del view
    assert pool.free_bytes() == 1 << 20
    assert pool.empty((1 << 19,), torch.bfloat16).data_ptr() == place


def test_no_line_of_python_runs_as_a_buffer_is_freed():
    """Python drops a KeyboardInterrupt that is raised in one."""
    pool, calls = BufferPool(), []
    tensor = pool.empty((1 << 20,), torch.float32)
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    del tensor
    sys.setprofile(None)
    assert calls == []
    assert pool.free_bytes() == 4 << 20


def test_buffers_never_take_more_than_were_used_at_once():
    pool = BufferPool()
    for n in range(9):
        pair = [pool.empty(((1 << 20) << n, k), torch.uint8) for k in (1, 2)]
        used = sum(t.numel() for t in pair)
        assert pool.free_bytes() + pool.used_bytes <= pool.peak_bytes == used
        del pair


@pytest.mark.parametrize("switch", [True, False])
def test_the_pool_can_be_switched_off(switch, monkeypatch):
    monkeypatch.setattr(config, "buffer_pool", switch)
    pool = buffer_pool.pool
    pool.clear()
    before = pool.used_bytes
    tensor = buffer_pool.empty((1 << 18,), torch.float32, torch.device("cpu"))
    assert tensor.shape == (1 << 18,)
    assert pool.used_bytes - before == (switch << 20)


@pytest.mark.parametrize(("save", "sums"), [("gates", 4), ("state", 0)])
def test_what_is_kept_of_each_step(save, sums, monkeypatch):
    """Outputs h, the sums of the gates if asked for, and the memory once a chunk."""
    monkeypatch.setitem(
        config.chunk_bytes, "cpu", 5 * 4 * 2 * 8 * 16 * 16 * 4
    )  # five steps of the first layer
    layer, x = layer_and_frames(steps=10, size=(16, 16), save=save)
    kept = []
    own = {p.untyped_storage().data_ptr() for p in [*layer.parameters(), x]}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        outputs, _ = layer(x)
    own |= {y.untyped_storage().data_ptr() for y in outputs}
    sizes = {t.untyped_storage().data_ptr(): t.numel() for t in kept}
    extra = sum(n for pointer, n in sizes.items() if pointer not in own)
    step = 2 * 16 * 16  # per channel
    states = 2 * (8 + 6)
    assert extra == step * (states + sum(hidden * (11 + 10 * sums + 2) for hidden in (8, 6)))
