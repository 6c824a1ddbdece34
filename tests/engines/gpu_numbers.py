"""Triton kernels agree with the torch form. `test_triton` runs this in Triton's interpreter, on a CPU.

On a machine with a GPU, ``pytest tests/engines/gpu_numbers.py`` runs it there.
"""

import os

import pytest
import torch
from torch.testing import assert_close

from convlstm.engines import config, linear
from convlstm.engines.convolution import SameConv
from convlstm.engines.direct import DirectWeight
from convlstm.engines.recurrences import StepBuffers, StepGradients
from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.recurrences.rnn import RNN
from convlstm.engines.triton import linear as triton_linear
from convlstm.engines.triton.gru import TritonGRU
from convlstm.engines.triton.lstm import TritonLSTM
from convlstm.engines.triton.rnn import TritonRNN
from convlstm.functional.gates import ACTIVATIONS
from convlstm.functional.linear_recurrence import PLANES, RULES

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


def planes(saved, gates):
    """Saved pre-activations (P, gates C) as the torch form lays them out, gate by gate."""
    return saved.view(len(saved), gates, -1).transpose(0, 1).reshape(saved.shape)


def by_pixel(saved, gates):
    """The inverse of `planes`."""
    return saved.view(gates, len(saved), -1).transpose(0, 1).reshape(saved.shape)


def check(kinds, activations, method, saved=None, **tensors):
    """Kernels and torch form leave the same in the tensors; those named with an underscore begin as NaN."""
    found = []
    for kind in kinds:
        gates, by_gate = kind.saved_gates, kind is kinds[1]
        given = {name: t if t is None else t.clone() for name, t in tensors.items()}
        given = {
            name.removesuffix("_"): t.fill_(torch.nan) if name[-1] == "_" else t for name, t in given.items()
        }
        if given.get("d_b", 0) is None:  # only added
            given["d_b"] = given["d_a"]
        if method == "forward":
            given["saved"] = None if saved is None else torch.full_like(saved, torch.nan)
        else:
            given["saved"] = planes(saved, gates) if by_gate else saved
        if method == "recompute":
            kind(activations).recompute(**given)
        else:
            bundle = {"forward": StepBuffers, "backward": StepGradients}[method]
            getattr(kind(activations), method)(bundle(**given))
        if by_gate and saved is not None:
            given["saved"] = by_pixel(given["saved"], gates)
        found.append([t for name, t in given.items() if t is not None and name != "b"])
    assert all(t.isfinite().all() for t in found[0])
    close(*found)


# One size is less than a block and has an odd number of channels, one more and fills no block.
@pytest.fixture(params=[(1, 5), (3, 8)], ids=["odd", "blocks"])
def maker(request, dtype):
    frames, channels = request.param
    return Maker(dtype, frames * FRAME, channels)


def pair(name):
    return {"lstm": (TritonLSTM, LSTM), "gru": (TritonGRU, GRU), "rnn": (TritonRNN, RNN)}[name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activations", CHOICES, ids="-".join)
@pytest.mark.parametrize(
    ("name", "peepholes", "save"),
    [
        *(("lstm", None, True), ("lstm", "channel", False), ("lstm", "pixel", True)),
        *(("gru", None, True), ("gru", None, False), ("rnn", None, True), ("rnn", None, False)),
    ],
)
def test_a_recurrence(maker, dtype, activations, name, peepholes, save):
    kinds = pair(name)
    gates, saved_gates, only_added = kinds[1].gates, kinds[1].saved_gates, kinds[1].only_added

    def packed(gates):
        return maker.sums(gates, activations).flatten(1)

    parameter, state = maker.peepholes(peepholes), maker.rows(0, exact=True)
    if name == "gru":
        parameter = maker.rows(0)[:1].float()  # which the torch form rounds to the dtype of pre-activations
    given = {"parameter": parameter}
    parts = {"a": packed(gates), "b": None if only_added else maker.rows(gates).flatten(1)}
    saved = packed(saved_gates)
    outputs = {"cell_state": state, "h_": maker.rows(0)}
    check(kinds, activations, "forward", saved if save else None, **parts, **given, **outputs)
    check(kinds, activations, "recompute", saved, **given, before=state, after_=state)
    given["cell_state"] = state
    gradients = {"d_output": maker.rows(0), "d_h": maker.rows(0), "d_cell_state": maker.rows(0, exact=True)}
    written = {"d_a_": packed(gates)} | ({"d_b": None} if only_added else {"d_b_": packed(gates)})
    check(kinds, activations, "backward", saved, **given, **gradients, **written)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_recompute_finds_what_the_forward_pass_had(name, dtype):
    """To the bit, but for the contraction of products and sums by a GPU's compiler."""
    error = {"rtol": 0, "atol": 0 if DEVICE == "cpu" else 1e-6}
    maker, kernels = Maker(dtype, FRAME, 16), pair(name)[0](CHOICES[0])
    state, h = maker.rows(0, exact=True), maker.rows(0)
    saved = torch.empty(FRAME, kernels.saved_gates * 16, dtype=dtype, device=DEVICE)
    after, recomputed = state.clone(), torch.empty_like(state)
    a = maker.sums(kernels.gates).flatten(1)
    b = None if kernels.only_added else maker.rows(kernels.gates).flatten(1)
    parameter = maker.rows(0, exact=True)[:1] if name == "gru" else None
    kernels.forward(StepBuffers(a, b, after, h, saved, parameter))
    kernels.recompute(saved, state, recomputed, parameter)
    assert_close(recomputed, after, **error)


def test_the_kernel_adds_the_two_parts():
    """As one sum of them, rounded to their dtype."""
    for name in ("lstm", "rnn"):
        maker, kernels = Maker(torch.float16, FRAME, 8), pair(name)[0](CHOICES[0])
        a, b = (maker.rows(kernels.gates).flatten(1) for _ in range(2))
        state, found = maker.rows(0, exact=True), []
        for parts in ((a, b), (a + b, None)):
            after, h = state.clone(), maker.rows(0)
            kernels.forward(StepBuffers(*parts, after, h, None, None))
            found.append((after, h))
        assert_close(*found, rtol=0, atol=0)


def test_nan_stays_nan():
    maker = Maker(torch.float32, FRAME, 4)
    for name in ACTIVATIONS:
        a, c, h = maker.rows(4).flatten(1), maker.rows(0), maker.rows(0)
        a[5, 8:12] = torch.nan
        TritonLSTM((name, "tanh", name)).forward(StepBuffers(a, None, c, h, None, None))
        assert h[5].isnan().all(), name
        assert c.isfinite().all(), name
        c[6] = torch.nan
        TritonLSTM(("sigmoid", name, name)).forward(StepBuffers(a, None, c, h, None, None))
        assert h[6].isnan().all(), name


def test_the_choices_are_all_activations():
    assert {name for choice in CHOICES for name in choice} == set(ACTIVATIONS)


def step(kernels, conv, weight, a, h, c, new_h, saved, peepholes):
    """`TritonLSTM.step`, and what it computes, in the torch form with a convolution in float64."""
    a = a.view(*h.shape[:-1], -1)
    if isinstance(kernels, TritonLSTM):
        whole = torch.cat([weight[:, :1], weight], dim=1)  # of frames of one channel
        prepared = kernels.prepare_weight(conv, whole, None, None, h, save=False)
        tensors = c.view(h.shape), new_h.view(h.shape), saved, peepholes
        kernels.step(prepared, h, StepBuffers(a, None, *tensors))
    else:
        exact = DirectWeight.of(weight.double(), conv.dilation, conv.padding_mode)
        both = exact.add(a.double(), h.double()).to(a.dtype)
        kernels.forward(StepBuffers(both, None, c, new_h, None, peepholes))
        if saved is not None:
            saved.copy_(both.view(saved.shape))


STEPS = {
    "plain": {},
    "one": {"kernel": (1, 1)},
    "five": {"kernel": (5, 5)},
    "oblong": {"kernel": (3, 5), "save": True},
    "wide": {"dilation": (2, 1), "save": True},
    "beyond": {"kernel": (3, 3), "dilation": (1, 13)},  # all taps but one column in the padding
    "channels": {"channels": 48, "kernel": (3, 1), "save": True},
    "more channels": {"channels": 64, "kernel": (1, 3)},
    "peepholes by channel": {"peepholes": "channel"},
    "peepholes by pixel": {"peepholes": "pixel", "save": True, "channels": 32},
    "activations": {"activations": CHOICES[1], "kernel": (1, 1)},
    # Which torch convolves, and a kernel adds up.
    "even": {"kernel": (2, 3), "save": True},
    "few channels": {"channels": 5, "peepholes": "pixel"},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", STEPS)
def test_step(case, dtype, monkeypatch):
    monkeypatch.setattr(config, "fused_step_dtypes", DTYPES)
    options = {
        "kernel": (3, 3), "dilation": (1, 1), "channels": 16, "save": False,
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
    for kind in (TritonLSTM, LSTM):
        saved = torch.full_like(a, torch.nan) if options["save"] else None
        new_h, new_c = torch.full_like(c, torch.nan, dtype=dtype), c.clone()
        step(kind(options["activations"]), conv, weight, a.clone(), h, new_c, new_h, saved, peepholes)
        found.append([t for t in (new_c, new_h, saved) if t is not None])
    close(*found, dtype)


def weight_fan(shape):
    return shape[1] * shape[2] * shape[3]


def no_flags_in_the_interpreter():
    """True in the interpreter of Triton 3.3, which has no flags in a scan."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from triton.runtime.interpreter import InterpreterBuilder

    return not hasattr(InterpreterBuilder, "get_int1_ty")


scans_run = pytest.mark.skipif(no_flags_in_the_interpreter(), reason="Triton 3.3 interprets no scan of flags")


# Less than a tile, a whole number of tiles, and more frames and elements than fill one.
SCANS = {"small": (2, 3, 1, 5), "tile": (1, 4, 2, 4), "odd": (2, 9, 3, 3)}


@scans_run
@pytest.mark.parametrize("flags", ["both", "none"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", SCANS)
@pytest.mark.parametrize("rule", RULES)
def test_a_scan(rule, size, reverse, flags, monkeypatch):
    """Of linear recurrences: states and gradients, of one of the results or of both."""
    monkeypatch.setattr(triton_linear, "FRAMES", 4)
    monkeypatch.setattr(triton_linear, "ELEMENTS", 8)
    batch, steps, *space = SCANS[size]
    generator = torch.Generator().manual_seed(steps)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    h, planes = normal(batch, *space), normal(batch, steps, PLANES[rule] * space[0], space[1])
    mask = normal(batch, steps) > -0.5 if flags == "both" else None
    reset = normal(batch, steps) > 0.5 if flags == "both" else None
    kernels, others = triton_linear.TritonLinear(), (mask, reset, rule, reverse)
    found = kernels.forward(rule, planes, h, mask, reset, reverse)
    leaves = planes.clone().requires_grad_(), h.clone().requires_grad_()
    expected = linear.linear_states(*leaves, *others)
    close(found, [t.detach() for t in expected])
    gradients = (normal(batch, steps, *space) if size != "tile" else None, normal(batch, *space))
    gradients = gradients if size != "odd" else (gradients[0], None)
    pairs = [(y, d) for y, d in zip(expected, gradients, strict=True) if d is not None]
    exact = torch.autograd.grad([y for y, _ in pairs], leaves, [d for _, d in pairs])
    close(kernels.backward(rule, planes, h, mask, reset, reverse, found[0], *gradients), exact)


@scans_run
@pytest.mark.parametrize("rule", RULES)
def test_a_scan_of_sixteen_bits(rule):
    """Planes of float16, beside the same numbers in float32: only their gradients are rounded."""
    planes = torch.linspace(-3, 3, 30 * PLANES[rule]).view(1, 5, -1, 3).half().to(DEVICE)
    h, results = torch.ones(1, 2, 3, device=DEVICE), []
    for each in (planes, planes.float()):
        kernels = triton_linear.TritonLinear()
        states, last = kernels.forward(rule, each, h, None, None, False)
        results.append(
            (states, last, *kernels.backward(rule, each, h, None, None, False, states, None, last))
        )
    assert results[0][2].dtype == torch.float16
    close([t.float() for t in results[0]], results[1], torch.float16)
