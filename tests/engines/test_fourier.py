"""Convolutions by Fourier transforms are direct ones, alone and in a layer; sizes where they are used."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import convlstm.engines.cpu.winograd as winograd
from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell
from convlstm.engines import available, fourier
from convlstm.engines.call import Call
from convlstm.engines.convolution import SameConv, _algorithm
from convlstm.engines.dispatch import loop_is_faster
from convlstm.engines.fourier import Spectrum, is_faster

FAST = ["fused", *(["compiled"] if available()["compiled"] is None else [])]
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def direct(x, weight):
    return CONV[weight.ndim - 2](x, weight, padding=[k // 2 for k in weight.shape[2:]])


def tensors(size, kernel, batch, dtype, seed=0):
    """x, weight, gradient of the result; and the result, and the gradients of x and weight, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, 3, *size), (4, 3, *kernel), (batch, 4, *size)
    x, weight, gradient = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    exact = [tensor.double().clone().requires_grad_() for tensor in (x, weight)]
    y = direct(*exact)
    return x, weight, gradient, (y.detach(), *torch.autograd.grad(y, exact, gradient.double()))


def by_transforms(x, weight, gradient):
    """The result, and the gradients of x and of the weight."""
    spectrum = Spectrum.of(weight, tuple(x.shape[2:]))
    x, d = x.movedim(1, -1), gradient.movedim(1, -1)
    d_x, (d_weight, d_bias) = spectrum.input_gradient(torch.empty_like(x), d), spectrum.gradients(d, x)
    assert_close(d_bias, d.flatten(0, -2).sum(0))
    return spectrum.into(None, x).movedim(-1, 1), d_x.movedim(-1, 1), d_weight


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 3))
    largest = (40, 17, 9)[axes - 1]
    size = tuple(draw(st.integers(1, largest)) for _ in range(axes))
    kernel = tuple(2 * draw(st.integers(0, 4 if axes < 3 else 2)) + 1 for _ in range(axes))
    return size, kernel, draw(st.integers(1, 2))


@settings(max_examples=40, deadline=None)
@given(cases())
@example(((50, 33), (7, 5), 2))  # several tiles, of which the last is not full
@example(((1, 40), (1, 7), 1))  # one axis, as the engines pass it
@example(((2, 2), (9, 9), 1))  # a kernel larger than the frame
@example(((12, 13), (3, 1), 1))
def test_float64_is_the_direct_convolution(case):
    size, kernel, batch = case
    x, weight, gradient, exact = tensors(size, kernel, batch, torch.float64)
    for found, expected in zip(by_transforms(x, weight, gradient), exact, strict=True):
        assert_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("size", "kernel"),
    [((48, 40), (9, 9)), ((20, 21), (31, 31)), ((200,), (15,)), ((9, 14, 12), (5, 5, 5))],
    ids=str,
)
def test_float32_errs_as_rounding_does(size, kernel):
    x, weight, gradient, exact = tensors(size, kernel, 2, torch.float32)
    for found, expected in zip(by_transforms(x, weight, gradient), exact, strict=True):
        error = (found - expected).double().square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < 5e-7


def test_golden_values():
    weight = torch.arange(25.0).view(1, 1, 5, 5)
    y = Spectrum.of(weight, (3, 4)).into(None, torch.ones(1, 3, 4, 1))
    expected = torch.tensor([[162.0, 210, 198, 144], [117, 150, 138, 99], [72, 90, 78, 54]])
    assert_close(y[0, :, :, 0], expected)


@pytest.fixture
def transforms(monkeypatch):
    """Fourier transforms wherever they are possible; the shapes of the weights."""
    made = []
    monkeypatch.setattr(fourier, "is_faster", lambda shape, *_: not made.append(shape))
    monkeypatch.setattr(winograd, "is_faster", lambda *_: False)
    _algorithm.cache_clear()
    yield made
    _algorithm.cache_clear()


def results(layer, x, **flags):
    """Output, state, and gradients of a loss by the frames and all parameters, in float64."""
    outputs, states = layer(x, **flags)
    state = states[0]
    while not isinstance(state, torch.Tensor):
        state = state[0]
    loss = outputs[0].sin().sum() + state.square().sum()
    return [
        t.detach().double() for t in (outputs[0], state, *torch.autograd.grad(loss, [x, *layer.parameters()]))
    ]


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
@pytest.mark.parametrize(
    ("axes", "options", "masked"),
    [
        (2, {}, False),
        (1, {"bidirectional": True}, False),
        (3, {"bias": False}, False),
        (2, {"save": "state"}, False),
        (2, {}, True),
    ],
    ids=str,
)
def test_a_layer_is_the_reference(stack, engine, axes, options, masked, transforms):
    options = dict(options)
    torch.manual_seed(0)
    flags = (
        {"mask": torch.tensor([[True, False, True], [True, True, True]])} if options.pop("mask", 0) else {}
    )
    layer = stack(2, 4, (5, 7, 3)[:axes], 1, True, engine=engine, **options)
    reference = stack(2, 4, (5, 7, 3)[:axes], 1, True, engine="reference", **options).double()
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 2, *(9, 12, 5)[:axes])
    found = results(layer, x.requires_grad_(), **flags)
    expected = results(reference, x.detach().double().requires_grad_(), **flags)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))
    assert len(set(transforms)) >= 2  # of frames and hidden state


@pytest.mark.usefixtures("transforms")
def test_a_stream_is_a_call_and_the_same_call_gives_the_same_bits():
    layer, x = ConvLSTM(2, 4, 7, 2, True, engine="fused"), torch.randn(2, 3, 2, 9, 8)
    with torch.no_grad():
        whole = layer(x)[0][0]
        assert torch.equal(whole, layer(x)[0][0])
        stream = layer.stream(2, (9, 8))
        frames = torch.stack([stream(frame).clone() for frame in x.unbind(1)], dim=1)
    assert_close(frames, whole)


@pytest.mark.parametrize(
    ("kernel", "options", "dtype"),
    [
        (4, {}, torch.float32),
        (5, {"dilation": 2}, torch.float32),
        (5, {"padding_mode": "circular"}, torch.float32),
        (5, {}, torch.float64),
        (5, {}, torch.bfloat16),
    ],
    ids=str,
)
def test_other_convolutions_are_direct(kernel, options, dtype, transforms):
    layer = ConvLSTM(2, 4, kernel, 1, True, engine="fused", cell=partial(ConvLSTMCell, **options)).to(dtype)
    layer(torch.zeros(1, 2, 2, 9, 9, dtype=dtype))
    assert not transforms


@pytest.mark.parametrize(
    ("channels", "kernel", "size", "batch", "faster"),
    [
        (64, (3, 3), (64, 64), 8, False),
        (64, (5, 5), (64, 64), 4, True),
        (32, (5, 5), (64, 64), 4, False),
        (16, (7, 7), (64, 64), 4, False),
        (64, (7, 7), (64, 64), 1, True),
        (32, (9, 9), (32, 32), 2, True),
        (64, (9, 9), (16, 16), 1, False),
        (64, (9, 9), (16, 16), 8, True),
        (16, (31, 31), (64, 64), 1, True),
        (256, (31, 31), (64, 64), 1, False),  # 13 GB
    ],
    ids=str,
)
def test_where_transforms_are_faster(channels, kernel, size, batch, faster):
    assert is_faster((4 * channels, channels, *kernel), size, batch, 10) is faster


@pytest.mark.parametrize(
    ("inputs", "channels", "told"),
    [
        (1, 64, "Fourier convolution of the hidden state, direct of the input"),
        (64, 8, "direct convolution of the hidden state, Fourier of the input"),
        (64, 64, "Fourier convolution"),
    ],
)
def test_the_algorithms_of_both_parts_of_a_weight_are_told(inputs, channels, told):
    layer = ConvLSTM(inputs, channels, 9, batch_first=True)
    engine, _, found = available(layer, torch.zeros(4, 10, 1, 64, 64))["cell_list.0"].partition(", ")
    assert (engine in ("compiled", "fused"), found) == (True, told)
    state = torch.empty(4, 64, 64, channels)
    parts = SameConv((1, 1), ("zeros", "zeros"), 10).split_weight(
        layer.cell_list[0].conv.weight.detach(), state
    )
    assert [isinstance(part, Spectrum) for part in parts] == [inputs == 64, channels == 64]


def test_one_axis_is_measured_without_the_axes_that_a_kernel_does_not_reach_along():
    shape, size = (256, 64, 31), (4000,)
    one = is_faster(shape, size, 4, 10)
    assert one
    assert is_faster((*shape[:2], 1, 31), (1, *size), 4, 10) is one


def test_auto_leaves_large_kernels_to_the_loop_on_avx2_only_where_it_convolves_directly(monkeypatch):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    for channels, loop in ((8, True), (64, False)):
        layer = ConvLSTM(3, channels, 9, 1, True)
        x, state = torch.zeros(2, 10, 3, 64, 64), None
        assert loop_is_faster(Call(layer.cell_list[0], x, state)) is loop
