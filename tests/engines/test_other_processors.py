"""The kernels for other processors than this one are torch's operations too: ARM, and x86 without AVX-512."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from convlstm.engines.cpu import compiler
from convlstm.engines.cpu.library import DTYPES as NAMES
from convlstm.engines.cpu.library import SOURCE
from convlstm.engines.cpu.recurrences import KERNELS
from convlstm.engines.recurrences import RECURRENCES, StepBuffers, StepGradients

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
        def function(*arguments):
            self._run(kernel, arguments)

        return function

    def _run(self, kernel, arguments):
        numbers = [str(n) for n in arguments if isinstance(n, int)]
        tensors = [t for t in arguments if not isinstance(t, int)]
        bytes_of = [0 if tensor is None else tensor.nbytes for tensor in tensors]
        there = [tensor.view(-1).view(torch.uint8) for tensor in tensors if tensor is not None]
        command = [
            *self._command,
            kernel,
            str(len(numbers)),
            *numbers,
            *(str(n) if n else "-" for n in bytes_of),
        ]
        sent = torch.cat(there).numpy().tobytes()
        done = subprocess.run(command, input=sent, capture_output=True, check=True)
        back = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8)
        for tensor, new in zip(there, back.split([len(t) for t in there]), strict=True):
            tensor.copy_(new)


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
