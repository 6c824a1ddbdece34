"""A step with its convolution in the processor's matrix unit is the convolution and the gates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from convlstm import ConvGRU, ConvLSTM
from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu.compiler import unavailable
from convlstm.engines.cpu.library import load_kernels
from convlstm.engines.cpu.padding import padded_indices
from convlstm.engines.cpu.recurrences import CpuGRU, CpuLSTM
from convlstm.engines.recurrences import StepBuffers
from convlstm.functional.conv import same_conv
from convlstm.functional.gates import lstm_gates

NAMES = ("sigmoid", "tanh", "tanh")
#: Of the arithmetic on gates, a sixteenth of what is lost where a number near 1 is stored as bfloat16.
GATES = {"rtol": 2**-13, "atol": 2**-13}
LIBRARY = load_kernels(*NAMES) if unavailable() is None else None
pytestmark = pytest.mark.skipif(
    LIBRARY is None or not LIBRARY.has_amx(), reason="this processor multiplies no matrices of bfloat16"
)


@st.composite
def steps(draw):
    """A convolution, its weight and what it meets, of sizes that fill the unit and that do not."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(5, 20)), draw(st.integers(5, 40))
    inputs, channels = draw(st.integers(1, 70)), draw(st.sampled_from([1, 5, 8, 16, 24, 32, 40, 64]))
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    modes = tuple(draw(st.sampled_from(["zeros", "zeros", "replicate", "reflect", "circular"])) for _ in "HW")
    weight = torch.randn(4 * channels, inputs + channels, *kernel) / (inputs + channels) ** 0.5 / kernel[0]
    x = torch.randn(batch, height, width, inputs).bfloat16()
    h = torch.randn(batch, height, width, channels).bfloat16()
    weight = weight.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))
    return SameConv(dilation, modes), weight, torch.randn(5, channels), x, h


def convolved(conv, channels_last, weight):
    images = same_conv(
        channels_last.movedim(-1, 1).double(),
        weight.bfloat16().double(),
        dilation=conv.dilation,
        padding_mode=conv.padding_mode,
    )
    return images.movedim(1, -1)


def same_sums(saved, expected):
    """To within the one rounding when they are stored, and those of the additions before."""
    assert_close(saved.double(), expected, rtol=2**-8, atol=1e-4)


def with_threads(agree):
    """Run a test that sets the number of threads."""
    before = torch.get_num_threads()
    try:
        agree()
    finally:
        torch.set_num_threads(before)


def first(channels_last):
    """Channels first."""
    return channels_last.movedim(-1, 1)


@pytest.mark.parametrize("peephole", [None, "channel", "pixel"])
def test_lstm(peephole):
    @settings(max_examples=60, deadline=None)
    @given(case=steps(), threads=st.integers(1, 4), zero=st.booleans())
    def agree(case, threads, zero):
        conv, weight, numbers, x, h = case
        kernels = CpuLSTM(NAMES, LIBRARY, torch.bfloat16)
        bias, c = numbers[:4].flatten(), torch.randn(h.shape)
        pixels, channels = h[0, ..., 0].numel() if peephole == "pixel" else 1, h.shape[-1]
        peepholes = torch.randn(3, pixels, channels) if peephole else None
        saved = torch.empty(*h.shape[:-1], len(weight), dtype=torch.bfloat16)
        torch.set_num_threads(threads)
        packed = kernels.prepare_weight(conv, weight, bias, peepholes, h, save=True)
        assert packed.input is None
        new_h, new_c = torch.empty_like(h), c.clone()
        h_or_none = None if zero else h
        kernels.step(packed, h_or_none, StepBuffers(x, None, new_c, new_h, saved, peepholes))
        again_h, again_c = torch.empty_like(h), c.clone()
        kernels.step(packed, h_or_none, StepBuffers(x, None, again_c, again_h, None, peepholes))
        assert_close((again_h, again_c), (new_h, new_c), rtol=0, atol=0)
        h = torch.zeros_like(h) if zero else h
        same_sums(saved, convolved(conv, torch.cat([x, h], -1), weight) + bias.double())
        shown = None
        if peepholes is not None:
            frame = h.shape[1:3] if peephole == "pixel" else (1, 1)
            shown = tuple(w.t().reshape(channels, *frame) for w in peepholes)
        exact_h, exact_c = lstm_gates(first(saved.float()), first(c), peepholes=shown)
        assert_close(first(new_c), exact_c, **GATES)
        assert_close(first(new_h).float(), exact_h, rtol=2**-8, atol=2**-13)

    with_threads(agree)


def test_gru():
    @settings(max_examples=60, deadline=None)
    @given(case=steps(), threads=st.integers(1, 4), zero=st.booleans())
    def agree(case, threads, zero):
        conv, weight, numbers, x, h = case
        kernels = CpuGRU(NAMES, LIBRARY, torch.bfloat16)
        channels, inputs = h.shape[-1], x.shape[-1]
        weight = weight[: 3 * channels]
        bias, reset_bias, m = numbers[:3].flatten(), numbers[3:4], torch.randn(h.shape)
        torch.set_num_threads(threads)
        packed = kernels.prepare_weight(conv, weight, bias, reset_bias, h, save=True)
        new_h, new_m = torch.empty_like(h), m.clone()
        saved = torch.empty(*h.shape[:-1], 4 * channels, dtype=torch.bfloat16)
        h_or_none = None if zero else h
        kernels.step(packed, h_or_none, StepBuffers(x, None, new_m, new_h, saved, reset_bias))
        again_h, again_m = torch.empty_like(h), m.clone()
        kernels.step(packed, h_or_none, StepBuffers(x, None, again_m, again_h, None, reset_bias))
        assert_close((again_h, again_m), (new_h, new_m), rtol=0, atol=0)
        h = torch.zeros_like(h) if zero else h
        r_z, from_x = (convolved(conv, x, weight[:, :inputs]) + bias.double()).split(
            [2 * channels, channels], -1
        )
        more, from_h = convolved(conv, h, weight[:, inputs:]).split([2 * channels, channels], -1)
        same_sums(saved, torch.cat([r_z + more, from_x, from_h + reset_bias.double()], -1))
        r, z, n_x, n_h = saved.float().chunk(4, -1)
        n, z = torch.tanh(n_x + r.sigmoid() * n_h), z.sigmoid()
        assert_close(new_m, (1 - z) * n + z * m, **GATES)
        assert_close(new_h, new_m.bfloat16(), rtol=0, atol=0)

    with_threads(agree)


def test_an_open_forget_gate_keeps_the_memory_over_a_thousand_steps():
    kernels = CpuLSTM(NAMES, LIBRARY, torch.bfloat16)
    conv, h = SameConv((1, 1), ("zeros", "zeros")), torch.zeros(1, 2, 3, 16).bfloat16()
    bias = torch.tensor([-16.0, 16.0, 0.0, 0.0]).repeat_interleave(16)
    packed = kernels.prepare_weight(conv, torch.zeros(64, 32, 1, 1), bias, None, h, save=False)
    c, saved = torch.ones(h.shape), torch.empty(1, 2, 3, 64).bfloat16()
    for _ in range(1000):
        kernels.step(packed, h, StepBuffers(h, None, c, torch.empty_like(h), None, None))
    assert_close(c, torch.full_like(c, torch.sigmoid(torch.tensor(16.0)).item() ** 1000), rtol=1e-4, atol=0)
    c, channels_last = torch.ones(h.shape), bias.bfloat16().expand(6, 64).contiguous().view(1, 2, 3, 64)
    for _ in range(1000):  # the kernel of processors without the unit
        kernels.forward(StepBuffers(channels_last, None, c, torch.empty_like(h), saved, None))
    assert_close(c, torch.full_like(c, torch.sigmoid(torch.tensor(16.0)).item() ** 1000), rtol=1e-4, atol=0)


def test_torchs_own_convolutions_go_on_beside_it():
    """Both configure the unit for themselves."""
    x, weight = torch.randn(2, 64, 20, 20).bfloat16(), torch.randn(64, 64, 3, 3).bfloat16()
    before = torch.conv2d(x, weight, padding=1)
    kernels = CpuLSTM(NAMES, LIBRARY, torch.bfloat16)
    h, conv = torch.randn(2, 9, 9, 16).bfloat16(), SameConv((1, 1), ("zeros", "zeros"))
    packed = kernels.prepare_weight(conv, torch.randn(64, 32, 3, 3), None, None, h, save=False)
    kernels.step(packed, h, StepBuffers(h, None, h.float(), torch.empty_like(h), None, None))
    assert_close(torch.conv2d(x, weight, padding=1), before, rtol=0, atol=0)


def layer_in_bfloat16(width):
    torch.manual_seed(0)
    layer, x = ConvLSTM(1, 16, 3, batch_first=True), torch.randn(1, 3, 1, 3, width)
    with torch.no_grad():
        layer.cell_list[0].conv.bias.normal_()
    return layer.bfloat16(), x.bfloat16()


def test_wide_frames_whatever_dtype_and_device_new_tensors_have():
    layer, x = layer_in_bfloat16(511)
    before = torch.get_default_dtype()
    padded_indices.cache_clear()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            ours = layer(x)[0][-1]
    finally:
        torch.set_default_dtype(before)
    layer.set_engine("reference")
    assert (ours - layer(x)[0][-1]).abs().max() < 0.02


def test_a_bias_that_is_not_dense():
    layer, x = layer_in_bfloat16(8)
    layer, x = layer.float(), x.float()
    strided = torch.stack([layer.cell_list[0].conv.bias.detach()] * 2, dim=1)[:, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)[0][-1]
        found = torch.func.functional_call(layer, {"cell_list.0.conv.bias": strided}, (x,))[0][-1]
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
@pytest.mark.parametrize("flagged", [False, True])
def test_gates_computed_again_are_those_of_the_forward_pass(flagged, stack, bidirectional):
    """And so are the gradients, to the bit."""
    gradients = []
    for save in ("gates", "state"):
        torch.manual_seed(0)
        layer = stack(20, 16, 3, batch_first=True, bidirectional=bidirectional, save=save).bfloat16()
        x = torch.randn(2, 4, 20, 9, 9, dtype=torch.bfloat16, requires_grad=True)
        flags = {"reset": torch.rand(2, 4) > 0.5, "mask": torch.rand(2, 4) > 0.3} if flagged else {}
        loss = layer(x, **flags)[0][-1].square().sum()
        gradients.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
    assert_close(*gradients, rtol=0, atol=0)
