"""The GPU kernels are `PlainKernels`. `test_gpu` runs this in Triton's interpreter, on a CPU.

On a machine with a GPU, ``pytest tests/engines/gpu_numbers.py`` runs it there.
"""

import os

import pytest
import torch
from convlstm.engines.plain import PlainKernels
from torch.testing import assert_close

from convlstm.engines.convolution import SameConv
from convlstm.engines.triton import launch
from convlstm.engines.triton.launch import TritonKernels
from convlstm.functional.gates import ACTIVATIONS

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# The interpreter computes in numpy, which has no bfloat16.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
CHOICES = [
    ("sigmoid", "tanh", "tanh"),
    ("hard_sigmoid", "silu", "identity"),
    ("softsign", "gelu", "elu"),
    ("hard_tanh", "leaky_relu", "relu"),
    ("elu", "hard_sigmoid", "softsign"),
    ("gelu", "sigmoid", "silu"),
]
HEIGHT, WIDTH = 5, 7
FRAME = HEIGHT * WIDTH


def close(ours, theirs, dtype=torch.float32):
    """Equal but for the rounding of their dtype, or that of another dtype on the way."""
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        tolerance = max(TOLERANCE[dtype], TOLERANCE[a.dtype])
        assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, n=n: f"tensor {n}: {text}")


class Maker:
    """Random tensors: of sums and outputs in a dtype, of memory in float32."""

    def __init__(self, dtype, pixels, channels):
        self.dtype, self.pixels, self.channels = dtype, pixels, channels
        self.generator = torch.Generator().manual_seed(pixels)

    def rows(self, gates, scale=1.0, exact=False):
        shape = (self.pixels, *((gates,) if gates else ()), self.channels)
        x = scale * torch.randn(shape, generator=self.generator)
        return x.to(DEVICE, torch.float32 if exact else self.dtype)

    def sums(self, gates=4, activations=None):
        """Far out on both sides as well: there an exponential may overflow where the activation does not."""
        x = self.rows(gates, 2)
        far = 200 if activations in (None, CHOICES[0]) else 8  # these are bounded, as float16 is
        x[0, :, 0], x[1, :, 0] = far, -far
        return x

    def peepholes(self, kind):
        pixels = {None: 0, "channel": 1, "pixel": FRAME}[kind]
        if not pixels:
            return None
        return torch.randn(3, pixels, self.channels, generator=self.generator).to(DEVICE)


def both(activations, method, *tensors, fill=()):
    """What a method of either class leaves in the tensors; those numbered in ``fill`` begin as NaN."""
    found = []
    for kind in (TritonKernels, PlainKernels):
        given = [t if t is None else t.clone() for t in tensors]
        for n in fill:
            if given[n] is not None:
                given[n].fill_(torch.nan)
        getattr(kind(activations), method)(*given)
        found.append(given)
    return found


def check(activations, method, *tensors, fill=(), ignore=()):
    ours, theirs = (
        [t for n, t in enumerate(found) if t is not None and n not in ignore]
        for found in both(activations, method, *tensors, fill=fill)
    )
    assert all(t.isfinite().all() for t in ours)
    close(ours, theirs)


# One size is less than a block and has an odd number of channels, one more and fills no block.
@pytest.fixture(params=[(1, 5), (3, 8)], ids=["odd", "blocks"])
def maker(request, dtype):
    frames, channels = request.param
    return Maker(dtype, frames * FRAME, channels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activations", CHOICES, ids="-".join)
@pytest.mark.parametrize(("peepholes", "keep"), [(None, True), ("channel", False), ("pixel", True)])
def test_lstm(maker, dtype, activations, peepholes, keep):
    weights, sums, c = maker.peepholes(peepholes), maker.sums(4, activations), maker.rows(0, exact=True)
    h, kept, new = maker.rows(0), maker.rows(4) if keep else None, maker.rows(0, exact=True)
    check(activations, "lstm_forward", sums, c, h, kept, weights, fill=(2, 3))
    check(activations, "lstm_replay", sums, c, new, weights, fill=(2,))
    d_output, d_h, d_c, d_sums = maker.rows(0), maker.rows(0), maker.rows(0, exact=True), maker.rows(4)
    check(activations, "lstm_backward", sums, c, d_output, d_h, d_c, d_sums, weights, fill=(5,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activations", CHOICES, ids="-".join)
@pytest.mark.parametrize("keep", [True, False])
def test_gru(maker, dtype, activations, keep):
    a, b, m = maker.sums(3, activations), maker.rows(3), maker.rows(0, exact=True)
    bias = maker.rows(0)[0].float()  # which the plain kernels round to the dtype of sums before they add it
    h, kept = maker.rows(0), maker.rows(4) if keep else None
    check(activations, "gru_forward", a, b, bias, m, h, kept, fill=(4, 5), ignore=(1,))
    sums, new = maker.sums(4, activations), maker.rows(0, exact=True)
    check(activations, "gru_replay", sums, m, new, fill=(2,))
    d_output, d_h, d_m = maker.rows(0), maker.rows(0), maker.rows(0, exact=True)
    d_a, d_b = maker.rows(3), maker.rows(3)
    check(activations, "gru_backward", sums, m, d_output, d_h, d_m, d_a, d_b, fill=(5, 6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_replay_finds_what_the_forward_pass_had(dtype):
    """To the bit, but for which sum and product a GPU's compiler rounds together."""
    error = {"rtol": 0, "atol": 0 if DEVICE == "cpu" else 1e-6}
    maker, kernels = Maker(dtype, FRAME, 16), TritonKernels(CHOICES[0])
    c, kept, h = maker.rows(0, exact=True), maker.rows(4), maker.rows(0)
    after, replayed = c.clone(), torch.empty_like(c)
    kernels.lstm_forward(maker.sums(), after, h, kept, None)
    kernels.lstm_replay(kept, c, replayed, None)
    assert_close(replayed, after, **error)
    after = c.clone()
    kernels.gru_forward(maker.sums(3), maker.rows(3), maker.rows(0, exact=True)[0], after, h, kept)
    kernels.gru_replay(kept, c, replayed)
    assert_close(replayed, after, **error)


def test_float64_goes_the_plain_way():
    maker = Maker(torch.float64, FRAME, 3)
    sums, c, h = maker.rows(4), maker.rows(0), maker.rows(0)
    ours, theirs = both(CHOICES[0], "lstm_forward", sums, c, h, None, None)
    assert_close(ours[1:3], theirs[1:3], rtol=0, atol=0)


def test_nan_stays_nan():
    maker = Maker(torch.float32, FRAME, 4)
    for name in ACTIVATIONS:
        sums, c, h = maker.rows(4), maker.rows(0), maker.rows(0)
        sums[5, 2] = torch.nan
        TritonKernels((name, "tanh", name)).lstm_forward(sums, c, h, None, None)
        assert h[5].isnan().all(), name
        assert c.isfinite().all(), name
        c[6] = torch.nan
        TritonKernels(("sigmoid", name, name)).lstm_forward(sums, c, h, None, None)
        assert h[6].isnan().all(), name


def test_the_choices_are_all_activations():
    assert {name for choice in CHOICES for name in choice} == set(ACTIVATIONS)


def step(kernels, conv, weight, a, h, c, new_h, kept, peepholes):
    """`TritonKernels.lstm_step`, and what it stands for."""
    if isinstance(kernels, TritonKernels):
        a, kept = (None if t is None else t.view(*h.shape[:-1], -1) for t in (a, kept))
        packed = kernels.lstm_weight(conv, weight, None, h, keep=False)
        kernels.lstm_step(conv, a, h, packed, c, new_h, kept, peepholes)
    else:
        sums = conv.add(a.double().view(*h.shape[:-1], -1), h.double(), weight.double())
        rounded = sums.view(a.shape).to(a.dtype)
        kernels.lstm_forward(rounded, c, new_h, kept, peepholes)


STEPS = {
    "plain": {},
    "one": {"kernel": (1, 1)},
    "five": {"kernel": (5, 5)},
    "oblong": {"kernel": (3, 5), "keep": True},
    "wide": {"dilation": (2, 1), "keep": True},
    "beyond": {"kernel": (3, 3), "dilation": (1, 13)},  # all taps but one column in the padding
    "channels": {"channels": 48, "kernel": (3, 1), "keep": True},
    "more channels": {"channels": 64, "kernel": (1, 3)},
    "peepholes by channel": {"peepholes": "channel"},
    "peepholes by pixel": {"peepholes": "pixel", "keep": True, "channels": 32},
    "activations": {"activations": CHOICES[1], "kernel": (1, 1)},
    # Which torch convolves, and a kernel adds up.
    "even": {"kernel": (2, 3), "keep": True},
    "few channels": {"channels": 5, "peepholes": "pixel"},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", STEPS)
def test_step(case, dtype, monkeypatch):
    monkeypatch.setattr(launch, "FUSED", DTYPES)
    options = {
        "kernel": (3, 3), "dilation": (1, 1), "channels": 16, "keep": False,
        "peepholes": None, "activations": CHOICES[0], **STEPS[case],
    }  # fmt: skip
    channels = options["channels"]
    maker = Maker(dtype, 3 * FRAME, channels)
    h, a, c = maker.rows(0).view(3, HEIGHT, WIDTH, channels), maker.rows(4), maker.rows(0, exact=True)
    shape = (4 * channels, channels, *options["kernel"])
    weight = torch.randn(shape, generator=maker.generator) / (weight_fan(shape) ** 0.5)
    weight = weight.to(DEVICE, dtype)
    conv, peepholes = SameConv(options["dilation"], ("zeros", "zeros")), maker.peepholes(options["peepholes"])
    found = []
    for kind in (TritonKernels, PlainKernels):
        kept = torch.full_like(a, torch.nan) if options["keep"] else None
        new_h, new_c = torch.full_like(c, torch.nan, dtype=dtype), c.clone()
        step(kind(options["activations"]), conv, weight, a.clone(), h, new_c, new_h, kept, peepholes)
        found.append([t for t in (new_c, new_h, kept) if t is not None])
    close(*found, dtype)


def weight_fan(shape):
    return shape[1] * shape[2] * shape[3]
