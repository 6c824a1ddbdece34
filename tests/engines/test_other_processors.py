"""The kernels for other processors than this one are torch's operations too: ARM, and x86 without AVX-512."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from convlstm.engines.plain import PlainKernels
from torch.testing import assert_close

from convlstm.engines.cpu import bindings, compiler

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
#: By what a result is stored as: float32's few roundings, and one of bfloat16's.
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 2**-7, "atol": 2e-6}}


class Elsewhere(bindings.NativeKernels):
    """The kernels as a program, which takes tensors and gives them back."""

    def __init__(self, activations, program, dtype):
        super().__init__(activations, None, dtype)
        self.program = program

    def run(self, kernel, tensors, *sizes):
        arguments = [str(len(sizes) + 1), *map(str, sizes), "2"]  # threads
        bytes_of = [0 if tensor is None else tensor.nbytes for tensor in tensors]
        there = [tensor.view(-1).view(torch.uint8) for tensor in tensors if tensor is not None]
        command = [*self.program, kernel, *arguments, *(str(n) if n else "-" for n in bytes_of)]
        sent = torch.cat(there).numpy().tobytes()
        done = subprocess.run(command, input=sent, capture_output=True, check=True)
        back = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8)
        for tensor, new in zip(there, back.split([len(t) for t in there]), strict=True):
            tensor.copy_(new)

    def _call(self, kernel, tensors, *sizes):
        self.run(f"{kernel}_{self._dtype}", tensors, *sizes)


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
    """By dtype, for a choice of activations."""
    compiler_name, flags, emulator = processor
    program = tmp_path_factory.mktemp("program") / "call_kernel"
    defines = (
        f"-D{name}={value}"
        for name, value in zip(("GATE", "CANDIDATE", "OUTPUT"), request.param, strict=True)
    )
    own = [flag for flag in compiler._FLAGS if flag not in ("-fPIC", "-shared")]
    source = Path(__file__).with_name("call_kernel.cpp")
    command = [compiler_name, *own, *flags, *defines, f"-I{bindings._SOURCE.parent}", "-fopenmp", str(source)]
    subprocess.run([*command, "-o", str(program)], check=True)
    return lambda dtype: Elsewhere(request.param, [*emulator, str(program)], dtype)


def agree(kernels, method, arguments, **written):
    """A method writes what torch's operations write, and nothing else."""
    results = []
    for made in (kernels, PlainKernels((kernels.gate, kernels.candidate, kernels.output))):
        own = {name: None if t is None else t.clone() for name, t in (arguments | written).items()}
        getattr(made, method)(**own)
        results.append(own)
    ours, theirs = results
    for name, before in arguments.items():
        assert before is None or torch.equal(ours[name], before), f"{method} writes to {name}"
    for name in written:
        assert_close(
            ours[name], theirs[name], **CLOSE[ours[name].dtype], msg=lambda t, n=name: f"{method}, {n}: {t}"
        )


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_and_its_gradients(kernels, dtype, channels):
    torch.manual_seed(0)
    kernels, frames, pixels = kernels(dtype), 2, 33

    def numbers(*shape, dtype=dtype):
        return 2 * torch.randn(frames * pixels, *shape, channels).to(dtype)

    for peepholes in (None, torch.randn(3, 1, channels), torch.randn(3, pixels, channels)):
        given = {"sums": numbers(4), "peepholes": peepholes}
        memory, gradient = numbers(dtype=torch.float32), numbers(dtype=torch.float32)
        agree(kernels, "lstm_forward", given, c=memory, h=numbers(), kept=numbers(4))
        agree(kernels, "lstm_replay", given | {"c": memory}, new_c=gradient)
        given |= {"c": memory, "d_output": numbers(), "d_h": numbers()}
        agree(kernels, "lstm_backward", given, d_c=gradient, d_sums=numbers(4))
    given = {"a": numbers(3), "b": numbers(3), "bias": torch.randn(channels).bfloat16().float()}
    agree(kernels, "gru_forward", given, m=memory, h=numbers(), kept=numbers(4))
    given = {"sums": numbers(4)}
    agree(kernels, "gru_replay", given | {"m": memory}, new_m=gradient)
    given |= {"m": memory, "d_output": numbers(), "d_h": numbers()}
    agree(kernels, "gru_backward", given, d_m=gradient, d_a=numbers(3), d_b=numbers(3))


@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(kernels, dtype, to):
    kernels = kernels(dtype)
    for count, channels, pixels in ((1, 1, 1), (2, 3, 7), (2, 16, 33), (1, 70, 50)):
        frames = torch.randn(count, channels, pixels).to(dtype)
        rows = torch.zeros(count, pixels, channels, dtype=to)
        name = f"transpose_{bindings.STORED[dtype]}_{bindings.STORED[to]}"
        kernels.run(name, (frames, rows), count, channels, pixels, channels * pixels, channels * pixels)
        assert_close(rows, frames.transpose(1, 2).to(to), rtol=0, atol=0)


def test_many_numbers_are_shared_by_threads(kernels):
    """Fewer are left to one."""
    c = torch.randn(1200, 16)
    sums, h = torch.randn(1200, 4, 16), torch.zeros(1200, 16)
    agree(kernels(torch.float32), "lstm_forward", {"sums": sums, "kept": None, "peepholes": None}, c=c, h=h)
