"""The kernels for other processors than this one are torch's operations too: ARM, and x86 without AVX-512."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import convlstm.engines.cpu.sequence as sequence
from convlstm.engines.backward import backward
from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu import compiler
from convlstm.engines.cpu.library import DTYPES as NAMES
from convlstm.engines.cpu.library import SOURCE
from convlstm.engines.cpu.recurrences import KERNELS, WinogradStepWeight
from convlstm.engines.cpu.winograd import WinogradWeight
from convlstm.engines.forward import forward
from convlstm.engines.plan import Inputs, Plan
from convlstm.engines.recurrences import RECURRENCES, StepBuffers, StepGradients
from convlstm.functional.conv import same_conv

#: By processor: the compiler, its flags, and the emulator, if any.
PROCESSORS = {
    "aarch64": ("aarch64-linux-gnu-g++", ["-static"], "qemu-aarch64"),
    "x86-64": ("g++", ["-march=x86-64"], None),
    "x86-64 with AVX2": ("g++", ["-march=x86-64-v3"], None),
}
CHOICES = [
    ("sigmoid", "tanh", "tanh"),
    ("hard_sigmoid", "silu", "identity"),
    ("softsign", "gelu", "elu"),
    ("hard_tanh", "leaky_relu", "relu"),
]
DTYPES = (torch.float32, torch.bfloat16)
#: By dtype of a result: a few roundings of float32, of differences of numbers up to 30, and one of bfloat16.
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 4e-6}, torch.bfloat16: {"rtol": 2**-7, "atol": 4e-6}}


class Program:
    """A program that runs kernels, in the place of a library: its functions write to the tensors given."""

    def __init__(self, command):
        self._command = command

    def __getattr__(self, kernel):
        return lambda *arguments: self._run(kernel, arguments)

    def _run(self, kernel, arguments):
        numbers = [str(int(n)) for n in arguments if isinstance(n, int)]
        pointers = [as_bytes(pointer) for pointer in arguments if not isinstance(pointer, int)]
        sizes = ["-" if pointer is None else str(len(pointer)) for pointer in pointers]
        there = [pointer for pointer in pointers if pointer is not None]
        command = [*self._command, kernel, str(len(numbers)), *numbers, *sizes]
        sent = torch.cat(there).numpy().tobytes()
        done = subprocess.run(command, input=sent, capture_output=True, check=True)
        back = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8)
        *written, result = back.split([*(len(pointer) for pointer in there), 8])
        for pointer, new in zip(there, written, strict=True):
            pointer.copy_(new)
        return int.from_bytes(result.numpy().tobytes(), "little")


def as_bytes(pointer):
    """The elements of a tensor, which are shared, or of a struct; or None."""
    if isinstance(pointer, ctypes.Structure):
        return torch.frombuffer(bytearray(pointer), dtype=torch.uint8)
    assert pointer is None or pointer.is_contiguous()
    return None if pointer is None else pointer.view(-1).view(torch.uint8)


@pytest.fixture(
    scope="module",
    params=["aarch64", "x86-64 with AVX2", pytest.param("x86-64", marks=pytest.mark.long)],
)
def processor(request):
    compiler_name, flags, emulator = PROCESSORS[request.param]
    if emulator is None and platform.machine() != "x86_64":
        pytest.skip("no x86-64 processor")
    if "v3" in flags[0] and "avx2" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("no AVX2")
    for tool in filter(None, (compiler_name, emulator)):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on the PATH (Debian's g++-aarch64-linux-gnu and qemu-user)")
    return compiler_name, flags, [emulator] if emulator else []


@pytest.fixture(
    scope="module", params=[CHOICES[0], *(pytest.param(c, marks=pytest.mark.long) for c in CHOICES[1:])]
)
def kernels(request, processor, tmp_path_factory):
    """Of a recurrence and a dtype, for a choice of activations."""
    compiler_name, flags, emulator = processor
    program = tmp_path_factory.mktemp("program") / "call_kernel"
    defines = (
        f"-D{name}={value}"
        for name, value in zip(("GATE", "CANDIDATE", "OUTPUT"), request.param, strict=True)
    )
    own = [flag for flag in compiler._FLAGS if flag not in ("-fPIC", "-shared")]
    source = Path(__file__).with_name("call_kernel.cpp")
    command = [compiler_name, *own, *flags, *defines, f"-I{SOURCE.parent}", "-fopenmp", str(source)]
    subprocess.run([*command, "-o", str(program)], check=True)
    library = Program([*emulator, str(program)])
    return lambda name, dtype: KERNELS[name](request.param, library, dtype)


def by_pixel(saved, gates):
    """What the torch form saves, gate by gate, as the kernels save it."""
    return saved.view(gates, len(saved), -1).transpose(0, 1).reshape(saved.shape)


def by_gate(saved, gates):
    """The inverse of `by_pixel`."""
    return saved.view(len(saved), gates, -1).transpose(0, 1).reshape(saved.shape)


def agree(kernels, method, arguments, **written):
    """A method writes what the torch form writes, and nothing else."""
    results, gates = [], kernels.saved_gates
    torch_form = RECURRENCES[kernels.name]((kernels.gate, kernels.candidate, kernels.output))
    for made in (kernels, torch_form):
        own = {name: None if t is None else t.clone() for name, t in (arguments | written).items()}
        if own.get("d_b", 0) is None:  # only added
            own["d_b"] = own["d_a"].clone()
        saved = own["saved"]
        if saved is not None and made is torch_form:
            own["saved"] = by_gate(saved, gates)
        if method == "recompute":
            made.recompute(**own)
        else:
            getattr(made, method)({"forward": StepBuffers, "backward": StepGradients}[method](**own))
        if saved is not None and made is torch_form:
            own["saved"] = by_pixel(own["saved"], gates)
        results.append(own)
    ours, theirs = results
    for name, before in arguments.items():
        assert before is None or torch.equal(ours[name], before), f"{method} writes to {name}"
    for name in (name for name, before in written.items() if before is not None):
        assert_close(
            ours[name], theirs[name], **CLOSE[ours[name].dtype], msg=lambda t, n=name: f"{method}, {n}: {t}"
        )


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RECURRENCES)
def test_a_step_and_its_gradients(kernels, name, dtype, channels):
    torch.manual_seed(0)
    kernels, frames, pixels = kernels(name, dtype), 2, 33

    def numbers(gates=1, dtype=dtype):
        """Twice as far out where activations are applied."""
        return ((2 if gates > 1 else 1) * torch.randn(frames * pixels, gates * channels)).to(dtype)

    parameters = {
        "lstm": (None, torch.randn(3, 1, channels), torch.randn(3, pixels, channels)),
        "gru": (torch.randn(1, channels).bfloat16().float(),),
        "rnn": (None,),
    }
    for parameter in parameters[name]:
        saved, state, gradient = numbers(kernels.saved_gates), numbers(dtype=torch.float32), numbers().float()
        a, b = numbers(kernels.gates), None if kernels.only_added else numbers(kernels.gates)
        given = {"a": a, "b": b, "parameter": parameter}
        agree(kernels, "forward", given, cell_state=state, h=numbers(), saved=numbers(kernels.saved_gates))
        given = {"saved": saved, "parameter": parameter}
        agree(kernels, "recompute", given | {"before": state}, after=gradient)
        given |= {"cell_state": state, "d_output": numbers(), "d_h": numbers()}
        agree(kernels, "backward", given, d_cell_state=gradient, d_a=a, d_b=b)


@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(kernels, dtype, to):
    library = kernels("rnn", dtype).library
    for count, channels, pixels in ((1, 1, 1), (2, 3, 7), (2, 16, 33), (1, 70, 50)):
        frames = torch.randn(count, channels, pixels).to(dtype)
        channels_last = torch.zeros(count, pixels, channels, dtype=to)
        transpose = getattr(library, f"transpose_{NAMES[dtype]}_{NAMES[to]}")
        transpose(frames, channels_last, count, channels, pixels, channels * pixels, channels * pixels, 2)
        assert_close(channels_last, frames.transpose(1, 2).to(to), rtol=0, atol=0)


def test_many_elements_are_shared_by_threads(kernels):
    """Fewer are left to one."""
    c, a, h = torch.randn(1200, 16), torch.randn(1200, 64), torch.zeros(1200, 16)
    given = {"a": a, "b": None, "saved": None, "parameter": None}
    agree(kernels("lstm", torch.float32), "forward", given, cell_state=c, h=h)


def frames_and_weight(taps, inputs, outputs):
    """Frames with NaN and a large number, which minimal filtering mixes with their neighbours."""
    torch.manual_seed(0)
    x = torch.randn(2, 9, 6, inputs)
    x[0, 3, 3, 1], x[1, 4, 4, 1] = torch.nan, 1e9
    return x, torch.randn(outputs, inputs, taps, taps) / taps


@pytest.mark.parametrize("modes", [("zeros", "zeros"), ("reflect", "circular")], ids=str)
@pytest.mark.parametrize(("taps", "outputs"), [(3, 37), (3, 64), (5, 18)])
def test_convolutions_by_minimal_filtering(kernels, taps, outputs, modes):
    x, weight = frames_and_weight(taps, 5, outputs)
    bias, before = torch.randn(outputs), torch.randn(2, 9, 6, outputs)
    for flipped in (False, True):
        given = weight.flip(2, 3).transpose(0, 1).contiguous() if flipped else weight
        frames = x.nan_to_num(0).clamp(-4, 4) if flipped else x
        ours = WinogradWeight(kernels("rnn", torch.float32).library, given, modes, flipped=flipped)
        expected = same_conv(frames.movedim(-1, 1).double(), weight.double(), padding_mode=modes)
        expected = expected.movedim(1, -1) + bias
        for add in (False, True):
            convolve = ours.add if add else ours.into
            found = convolve(before.clone(), frames, bias)
            right = (expected + before if add else expected).float()
            assert_close(found, right, rtol=1e-5, atol=2e-5, equal_nan=True)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("tiles", [2, 128])
def test_the_gradient_of_a_weight_by_minimal_filtering(kernels, tiles, monkeypatch):
    monkeypatch.setattr("convlstm.engines.config.winograd_tiles", tiles)
    x, gradient = torch.randn(2, 9, 6, 5), torch.randn(2, 9, 6, 37)
    weight = torch.randn(37, 5, 3, 3).double().requires_grad_()
    y = same_conv(x.movedim(-1, 1).double(), weight).movedim(1, -1)
    (expected,) = torch.autograd.grad(y, weight, gradient.double())
    made = WinogradWeight(kernels("rnn", torch.float32).library, weight.detach().float(), ("zeros", "zeros"))
    assert_close(made.weight_gradient(gradient, x), expected.float(), rtol=1e-5, atol=5e-5)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(("taps", "channels"), [(3, 5), (3, 20), (5, 16)])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_step_by_minimal_filtering(kernels, name, taps, channels):
    kernels, gates = kernels(name, torch.float32), RECURRENCES[name].gates
    x, weight = frames_and_weight(taps, 3, gates * channels)
    if name == "gru" and kernels.candidate != "tanh":  # torch's n + z (h - n) loses h beside a large n
        x = x.clamp(max=4)
    weight = torch.cat([weight, torch.randn(gates * channels, channels, taps, taps) / taps**2], dim=1)
    h, cell_state, bias = torch.randn(2, 9, 6, channels), torch.randn(2, 9, 6, channels), weight[:, 0, 0, 0]
    parameter = torch.randn(3, 9 * 6, channels) if name == "lstm" else torch.randn(1, channels)
    torch_form = RECURRENCES[name]((kernels.gate, kernels.candidate, kernels.output))
    for before in (h, None):
        found = []
        for form in (kernels, torch_form):
            conv = SameConv((1, 1), ("zeros", "replicate"), library=form.library)
            made = form.prepare_weight(conv, weight, bias, parameter, h, save=True)
            assert isinstance(made.hidden, WinogradStepWeight) is (form is kernels)
            a = x if form is kernels else made.input.into(None, x, bias)
            state, new_h, saved = cell_state.clone(), torch.empty_like(h), torch.empty(2, 9, 6, 4 * channels)
            form.step(made, before, StepBuffers(a, None, state, new_h, saved, parameter))
            saved = saved.view(-1, 4 * channels)
            found.append((new_h, state, saved if form is kernels else by_pixel(saved, 4)))
        assert_close(*found, rtol=1e-5, atol=4e-5, equal_nan=True)  # numbers up to 30


@pytest.mark.parametrize("options", [{}, {"reverse": True, "zero_state": True}], ids=["forward", "reverse"])
@pytest.mark.parametrize("channels", [5, 33])
@pytest.mark.parametrize("name", RECURRENCES)
def test_a_sequence_in_one_call(kernels, name, channels, options):
    torch.manual_seed(0)
    kernels, torch_form = kernels(name, torch.float32), RECURRENCES[name]
    activations, parts = (kernels.gate, kernels.candidate, kernels.output), 2 if name == "lstm" else 1
    weight = torch.randn(torch_form.gates * channels, 3 + channels, 3, 5) / 12
    parameter = {"lstm": torch.randn(3, channels, 1, 1), "gru": torch.randn(channels)}.get(name)
    state = [torch.randn(2, channels, 5, 6) * (not options) for _ in range(parts)]
    inputs = Inputs.of(
        [None, None, torch.randn(2, 3, 3, 5, 6), weight, weight[:, 0, 0, 0], parameter, *state]
    )
    gradients = [torch.randn(2, 3, channels, 5, 6), *(torch.randn(2, channels, 5, 6) for _ in state)]
    usual = {"reverse": False, "last_only": False, "any_layout": False, "zero_state": False, "save": "gates"}
    found = []
    for form, dtype in ((kernels, torch.float32), (torch_form(activations), torch.float64)):
        common = (
            name,
            activations,
            (1, 1),
            ("zeros", "zeros"),
            dtype,
            dtype,
            dtype,
            torch.device("cpu"),
            False,
        )
        plan = Plan(*common, **usual | options)
        vars(plan)["kernels"] = form
        given = Inputs.of([t if t is None else t.to(dtype) for t in inputs.tensors()])
        d_outputs, *d_state = (gradient.to(dtype) for gradient in gradients)
        if form is kernels:
            outputs, after, saved = sequence.forward(plan, given, keep=True)
            d = sequence.backward(plan, given, saved, (True,) * 4, d_outputs, d_state)
        else:
            outputs, after, saved = forward(plan, given, keep=True)
            d = backward(plan, given, saved, (True,) * (4 + parts), (d_outputs, *d_state))
        found.append([t for t in (outputs, *after, *d) if t is not None])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
