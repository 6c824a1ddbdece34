"""Convolutions by minimal filtering (Winograd) are direct ones, alone and in a layer."""

import math
from functools import partial

import pytest
import torch
import torch._dynamo.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell, ConvRNNCell
from convlstm.engines import config
from convlstm.engines.cpu.compiler import unavailable
from convlstm.engines.cpu.library import load_kernels
from convlstm.engines.cpu.winograd import WinogradWeight
from convlstm.functional.conv import same_conv

LIBRARY = load_kernels("sigmoid", "tanh", "tanh") if unavailable() is None else None
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no compiler")
ZEROS = ("zeros", "zeros")


def direct(x, weight, bias=None, modes=ZEROS):
    """The convolution of (B, H, W, C), in the dtype of its arguments."""
    return same_conv(x.movedim(-1, 1), weight, bias, padding_mode=modes).movedim(1, -1)


def direct_gradient(x, gradient, weight, modes):
    """Of the weight."""
    weight = weight.detach().requires_grad_()
    return torch.autograd.grad(direct(x, weight, modes=modes), weight, gradient)[0]


def rms(x):
    return float(x.double().square().mean().sqrt())


def errs_as_rounding(found, compute, x, y, *tensors, products, error=1.5e-6):
    """Against float64: by a few roundings of a sum of so many products of random signs."""
    exact = compute(*(t.double() for t in (x, y, *tensors)))
    assert rms(found - exact) <= error * rms(x) * rms(y) * products**0.5


@st.composite
def cases(draw):
    taps = draw(st.sampled_from([3, 5]))
    modes = tuple(draw(st.sampled_from(["zeros", "zeros", "replicate", "reflect", "circular"])) for _ in "HW")
    least = {"reflect": taps // 2 + 1, "circular": taps // 2}
    size = tuple(draw(st.integers(least.get(mode, 1), 20)) for mode in modes)
    channels = draw(st.integers(1, 40)), draw(st.sampled_from([1, 7, 15, 16, 17, 40, 63, 64, 65, 80]))
    return taps, modes, (draw(st.integers(1, 3)), *size), channels


@pytest.mark.usefixtures("forced", "threads")
def test_it_is_the_direct_convolution_in_float64():
    """And so is the gradient of its input, which has its flipped weight."""

    @settings(max_examples=60, deadline=None)
    @given(cases(), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(0, 99))
    @example((3, ZEROS, (1, 1, 1), (1, 1)), True, True, False, 1, 0)
    @example((5, ZEROS, (2, 1, 20), (40, 65)), False, False, True, 2, 0)
    def agree(case, with_bias, add, flipped, threads, seed):
        taps, modes, frames, (inputs, outputs) = case
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        weight = torch.randn(*((inputs, outputs) if flipped else (outputs, inputs)), taps, taps)
        x, bias = torch.randn(*frames, inputs), torch.randn(outputs) if with_bias else None
        before = torch.randn(*frames, outputs) if add else torch.full((*frames, outputs), torch.nan)
        transformed, out = WinogradWeight(LIBRARY, weight, modes, flipped=flipped), before.clone()
        found = transformed.add(out, x, bias) if add else transformed.into(out, x, bias)
        weight = weight.flip(2, 3).transpose(0, 1) if flipped else weight
        optional = [before] * add + [bias] * with_bias

        def compute(x, weight, *optional):
            y = direct(x, weight, optional[-1] if with_bias else None, modes)
            return y + optional[0] if add else y

        errs_as_rounding(found, compute, x, weight, *optional, products=inputs * taps**2)

    agree()


@pytest.mark.usefixtures("forced", "threads")
def test_the_gradient_of_a_weight_is_the_direct_one_in_float64():
    """Of few frames; a direct sum of more errs more, and minimal filtering hardly."""

    @settings(max_examples=40, deadline=None)
    @given(cases(), st.integers(1, 3), st.sampled_from([1, 2, 7, 128]), st.integers(0, 99))
    def agree(case, threads, tiles, seed):
        _, modes, frames, (inputs, outputs) = case
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        x, gradient = torch.randn(*frames, inputs), torch.randn(*frames, outputs)
        weight = torch.randn(outputs, inputs, 3, 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config, "winograd_tiles", tiles)
            found = WinogradWeight(LIBRARY, weight, modes).weight_gradient(gradient, x)
        compute, products = partial(direct_gradient, modes=modes), x[..., 0].numel()
        errs_as_rounding(found, compute, x, gradient, weight, products=products, error=2e-6)

    agree()


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 16), (16, 64), (40, 160)])
def test_it_errs_up_to_four_times_as_a_direct_convolution(inputs, outputs, taps, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(4, 24, 22, inputs), torch.randn(outputs, inputs, taps, taps)
    transformed, exact = WinogradWeight(LIBRARY, weight, ZEROS), direct(x.double(), weight.double())
    found = transformed.into(None, x)
    assert rms(found - exact) < 4 * rms(direct(x, weight) - exact)
    if taps == 3:  # a direct sum of more products errs more, one by minimal filtering hardly
        gradient = torch.randn(found.shape)
        exact = direct_gradient(x.double(), gradient.double(), weight.double(), ZEROS)
        error = rms(direct_gradient(x, gradient, weight, ZEROS) - exact)
        assert rms(transformed.weight_gradient(gradient, x) - exact) < 6 * error


def test_golden_values():
    three = torch.tensor([[24.0, 33, 33, 20], [27, 36, 36, 21], [12, 15, 15, 8]])
    five = torch.tensor([[162.0, 210, 198, 144], [117, 150, 138, 99], [72, 90, 78, 54]])
    for taps, expected in ((3, three), (5, five)):
        weight = torch.arange(float(taps * taps)).view(1, 1, taps, taps)
        weight, x = WinogradWeight(LIBRARY, weight, ZEROS), torch.ones(1, 3, 4, 1)
        y = weight.into(None, x)
        assert_close(y[0, :, :, 0], expected)
    circular = WinogradWeight(LIBRARY, torch.ones(1, 1, 3, 3), ("circular", "replicate"))
    y = circular.into(None, torch.arange(6.0).view(1, 3, 2, 1), torch.ones(1))
    assert_close(y[0, :, :, 0], torch.tensor([[22.0, 25], [22, 25], [22, 25]]))


def flat(states):
    if isinstance(states, torch.Tensor):
        return [states]
    return [t for part in getattr(states, "all_layers", states) for t in flat(part)]


def results(layer, x, states=None, **flags):
    """Outputs, states, and gradients of a random loss of them by all that goes in."""
    x = x.detach().requires_grad_()
    states = None if states is None else states.map(lambda t: t.detach().requires_grad_())
    outputs, ends = layer(x, states, **flags)
    found = [*outputs, *flat(ends)]
    generator = torch.Generator().manual_seed(3)
    loss = sum((t.double() * torch.randn(t.shape, generator=generator)).sum() for t in found)
    inputs = [x, *layer.parameters(), *([] if states is None else flat(states))]
    return [*(t.detach() for t in found), *torch.autograd.grad(loss, inputs)]


LAYERS = {
    "lstm": lambda size, **kw: ConvLSTM(2, 20, 3, 1, True, **kw),
    "lstm, 5x5, no bias, two layers": lambda size, **kw: ConvLSTM(2, [5, 17], 5, 2, True, bias=False, **kw),
    "lstm, one peephole a channel, circular, both directions": lambda size, **kw: ConvLSTM(
        *(3, 4, 3, 1, True),
        cell=partial(ConvLSTMCell, peephole="channel", padding_mode="circular"),
        bidirectional=True,
        **kw,
    ),
    "lstm, one peephole a pixel, two paddings, state saved": lambda size, **kw: ConvLSTM(
        *(1, 18, 3, 1, True),
        cell=partial(ConvLSTMCell, peephole="pixel", image_size=size, padding_mode=("reflect", "replicate")),
        save="state",
        **kw,
    ),
    "gru": lambda size, **kw: ConvGRU(2, 20, 3, 1, True, **kw),
    "gru, 5x5, no bias, two layers, last output": lambda size, **kw: ConvGRU(
        2, [4, 17], 5, 2, True, bias=False, last_only=True, **kw
    ),
    "gru, both directions, state saved": lambda size, **kw: ConvGRU(
        3, 6, 3, 1, True, bidirectional=True, save="state", **kw
    ),
    "rnn": lambda size, **kw: ConvGRU(3, 20, 3, 1, True, cell=ConvRNNCell, **kw),
    "rnn, 5x5, state saved": lambda size, **kw: ConvGRU(
        2, 7, 5, 1, True, cell=ConvRNNCell, save="state", **kw
    ),
}


def layer_of(name, size=(9, 10), seed=0, **options):
    torch.manual_seed(seed)
    layer = LAYERS[name](size, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer, torch.randn(2, 4, layer.input_dim, *size)


@pytest.mark.parametrize("flags", ["none", "mask and reset", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_reference_in_float64(name, flags, forced):
    layer, x = layer_of(name, engine="compiled")
    exact, _ = layer_of(name, engine="reference")
    exact.double().load_state_dict(layer.state_dict())
    flags = {
        "none": {},
        "mask and reset": {"mask": torch.rand(2, 4) > 0.3, "reset": torch.rand(2, 4) > 0.6},
        "lengths": {"lengths": torch.tensor([4, 2])},
    }[flags]
    with torch.no_grad():
        states = layer(x)[1].map(torch.randn_like)
    for given_states in (None, states):
        theirs = None if given_states is None else given_states.map(torch.Tensor.double)
        expected = results(exact, x.double(), theirs, **flags)
        for a, b in zip(results(layer, x, given_states, **flags), expected, strict=True):
            assert_close(a.double(), b, rtol=0, atol=4e-6 * max(1.0, float(b.abs().max())))
    assert forced


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1)], ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_frames_of_one_pixel(name, size):
    layer, x = layer_of(name, size, engine="compiled")
    exact, _ = layer_of(name, size, engine="reference")
    for a, b in zip(results(layer, x), results(exact.double(), x.double()), strict=True):
        assert_close(a.double(), b, rtol=0, atol=4e-6 * max(1.0, float(b.abs().max())))


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("name", ["lstm", "gru", "lstm, 5x5, no bias, two layers"])
def test_a_stream_and_single_calls_give_the_bits_of_the_sequence(name):
    layer, x = layer_of(name, engine="compiled")
    with torch.no_grad():
        whole = layer(x)[0][-1]
        stream, states, single = layer.stream(2, x.shape[3:]), None, []
        for frame in x.unbind(1):
            outputs, states = layer(frame.unsqueeze(1), states)
            single.append(outputs[-1])
        assert torch.equal(torch.stack([stream(frame).clone() for frame in x.unbind(1)], 1), whole)
    assert torch.equal(torch.cat(single, 1), whole)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_torch_compile_and_autocast(name, forced):
    layer, x = layer_of(name, engine="compiled")
    expected = results(layer, x)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    outputs, ends = compiled(x)
    assert_close([*outputs, *flat(ends)], expected[: len(outputs) + len(flat(ends))], rtol=0, atol=0)
    torch.compiler.reset()
    forced.clear()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)[0][-1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config, "direct_convolution", True)
            assert torch.equal(layer(x)[0][-1], mixed)
    assert not forced


PLACES = {
    "frame": lambda layer, x, states, gradient: x[0, 1, 1],
    "h": lambda layer, x, states, gradient: flat(states)[0][0, 3],
    "weight of frames": lambda layer, x, states, gradient: layer.cell_list[0].conv.weight[3, 1],
    "weight of h": lambda layer, x, states, gradient: layer.cell_list[0].conv.weight[3, -2],
    "bias": lambda layer, x, states, gradient: layer.cell_list[0].conv.bias.view(-1, 1, 1)[3],
    "gradient": lambda layer, x, states, gradient: gradient[0, 2, 1],
}


NOT_FINITE = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(
    ("place", "value"),
    [(p, v) for p in PLACES for v in [*NOT_FINITE, 3e38, *([] if "weight" in p else [-1e20, 1e6])]],
    ids=str,
)
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_numbers_that_are_not_finite_or_large_are_where_direct_convolutions_have_them(
    name, place, value, monkeypatch
):
    """And no others err by more than rounding, where minimal filtering mixes them with large numbers."""
    monkeypatch.setattr("convlstm.engines.plan.Plan._is_filtered", lambda plan, x: True)
    layer, x = layer_of(name, (9, 11), engine="compiled")
    with torch.no_grad():
        states, gradient = layer(x)[1].map(torch.randn_like), torch.randn_like(layer(x)[0][-1])
        PLACES[place](layer, x, states, gradient)[-1, -1 if place == "bias" else -5 :][:1] = value
    found = []
    for switch in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config, "direct_convolution", switch)
            leaf = x.detach().requires_grad_()
            y = layer(leaf, states)[0][-1]
            inputs = [leaf, *layer.parameters()]
            found.append([y.detach(), *torch.autograd.grad(y, inputs, gradient)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.isinf(), theirs.isinf())
        finite = theirs.isfinite()
        most = max([1.0, *theirs[finite].abs().tolist()])
        assert_close(ours[finite], theirs[finite], rtol=0, atol=4e-6 * most)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("name", ["lstm", "gru, both directions, state saved", "rnn"])
def test_a_bias_that_is_not_dense(name):
    layer, x = layer_of(name, engine="compiled")
    biases = {key: value.detach() for key, value in layer.named_parameters() if key.endswith("bias")}
    strided = {key: torch.stack([value] * 2, dim=1)[:, 0].requires_grad_() for key, value in biases.items()}
    found = torch.func.functional_call(layer, strided, (x,))[0][-1]
    assert torch.equal(found, layer(x)[0][-1])
    found.sum().backward()


@pytest.mark.usefixtures("forced", "threads")
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_the_same_bits_for_any_number_of_threads_and_any_batch(name):
    layer, x = layer_of(name, (17, 18), engine="compiled")
    torch.set_num_threads(1)
    first = results(layer, x)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert_close(results(layer, x), first, rtol=0, atol=0)
    for sample in range(2):
        assert torch.equal(layer(x[sample : sample + 1])[0][-1], first[0][sample : sample + 1])


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(("largest", "same"), [(1000.0, False), (1025.0, True), (math.nan, True)])
def test_frames_with_a_large_number_are_convolved_directly(largest, same, monkeypatch):
    layer, x = layer_of("lstm", (9, 11), engine="compiled")
    x = x.detach().clone()
    x[0, 0, 0, 0, 0] = largest
    with torch.no_grad():
        found = layer(x)[0][-1]
        monkeypatch.setattr(config, "direct_convolution", True)
        assert torch.equal(found.nan_to_num(9), layer(x)[0][-1].nan_to_num(9)) is same
