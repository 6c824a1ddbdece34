"""The GPU kernels without a GPU: their numbers in Triton's interpreter, their code for an H100."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from convlstm.engines import triton as package
from convlstm.engines.convolution import SameConv
from convlstm.engines.direct import DirectWeight
from convlstm.engines.recurrences import StepBuffers, StepGradients
from convlstm.engines.triton import launch
from convlstm.functional.gates import ACTIVATIONS
from convlstm.functional.linear_recurrence import PLANES, RULES

triton = pytest.importorskip("triton")
gru, lstm, rnn = (pytest.importorskip(f"convlstm.engines.triton.{name}") for name in ("gru", "lstm", "rnn"))
linear = pytest.importorskip("convlstm.engines.triton.linear")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
POINTWISE = [
    getattr(module, f"{module.__name__.rpartition('.')[2]}_{name}")
    for module in (lstm, gru, rnn)
    for name in ("forward", "recompute", "backward")
]
EXACT = {
    "c",
    "new_c",
    "d_c",
    "state",
    "new_state",
    "d_state",
    "bias",
    "peepholes",
    "parameter",
}  # always float32
USUAL = {"GATE": "sigmoid", "CANDIDATE": "tanh", "OUTPUT": "tanh"}


def test_numbers_in_the_interpreter():
    """In a process of its own, as Triton asks for its interpreter when kernels are defined."""
    path = Path(__file__).with_name("gpu_numbers.py")
    own = "ignore:Conversion of an array with ndim:DeprecationWarning"  # of the interpreter of Triton 3.3
    command = [sys.executable, "-m", "pytest", "-q", "-W", own, "-p", "no:cacheprovider", str(path)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert re.search(r"\d{3} passed", result.stdout), result.stdout


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel, dtype, constants, others=None, **options):
    """A kernel for an H100, and how much of each kind of memory a thread of it takes."""
    names = kernel.arg_names
    constants = {name: value for name, value in {**USUAL, **constants}.items() if name in names}
    types = {
        name: "constexpr" if name in constants else
        "i32" if name in ("P", "Q", "H", "W") else
        "*fp32" if name in EXACT else TYPES[dtype]
        for name in names
    } | (others or {})  # fmt: skip
    places = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if types[name].startswith("*")}
    values = {(names.index(name),): value for name, value in constants.items()}
    made = triton.compile(ASTSource(kernel, types, values, places), target=H100, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [
            str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"),
            "-res-usage",
            file.name,
        ]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {kind: int(size) for kind, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    assert set(usage) == {"REG", "STACK", "LOCAL"}
    return made, usage


def no_spills(usage):
    return usage["STACK"] == usage["LOCAL"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", POINTWISE, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("optional", [True, False])
def test_pointwise_kernels_move_sixteen_bytes_at_once_and_spill_nothing(kernel, dtype, optional):
    optionals = {"peepholes", "b", "saved"} if "forward" in kernel.__name__ else {"peepholes"}
    without = {} if optional else dict.fromkeys(optionals - ({"b"} if kernel is gru.gru_forward else set()))
    constants = {"C": 32, "BLOCK": launch.BLOCK, **without}
    made, usage = compiled(kernel, dtype, constants)
    assert no_spills(usage)
    moves = re.findall(r"(?:ld|st)\.global\S*", made.asm["ptx"])
    assert moves
    assert all(".v4.b32" in move for move in moves), set(moves)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_compiles(name):
    constants = {"C": 20, "BLOCK": launch.BLOCK, "GATE": name, "CANDIDATE": name, "OUTPUT": name}
    _, usage = compiled(lstm.lstm_backward, torch.bfloat16, constants)
    assert no_spills(usage)


SCANS = {
    kernel: dict.fromkeys(("mask", "reset"), "*i1")
    | dict.fromkeys(("h", "last", "d_h", "d_last", "d_state"), "*fp32")
    | dict.fromkeys(("T", "N"), "i32")
    for kernel in (linear.scan_forward, linear.scan_backward)
}


@pytest.mark.parametrize("flags", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kernel", SCANS, ids=lambda kernel: kernel.__name__)
def test_scans_spill_nothing(kernel, rule, dtype, flags):
    without = {} if flags else {"mask": None, "reset": None}
    sizes = {"FRAMES": linear.FRAMES, "ELEMENTS": linear.ELEMENTS}
    constants = {"RULE": rule, "PLANES": PLANES[rule], "REVERSE": False, **sizes, **without}
    others = {name: kind for name, kind in SCANS[kernel].items() if name in kernel.arg_names}
    _, usage = compiled(kernel, dtype, constants, {n: k for n, k in others.items() if n not in without})
    assert usage["LOCAL"] == 0
    assert usage["STACK"] <= 8  # two registers with Triton 3.3 in one case, none since


# The last argument: whether there are peepholes, which take registers; sums are kept in all but one case.
STEPS = [
    *((channels, pixels, False) for channels in (32, 64, 128, 256) for pixels in (512, 1 << 20)),
    *((channels, 1 << 20, True) for channels in (32, 48, 64)),
]


@pytest.mark.parametrize(("channels", "pixels", "peepholes"), STEPS)
def test_the_step_runs_on_tensor_cores_and_spills_nothing(channels, pixels, peepholes):
    without = {} if peepholes else {"peepholes": None}
    if channels == 128:
        without["saved"] = None
    blocks = lstm.block_sizes(pixels, channels, 2, peepholes)
    made, usage = compiled_step(torch.bfloat16, channels, blocks, **without)
    assert "wgmma.mma_async.sync.aligned" in made.asm["ptx"]
    assert made.metadata.shared <= 227 << 10
    if triton.__version__.startswith("3.3.") and "saved" not in without and blocks[:2] == (128, 64):
        pytest.skip("Triton 3.3, of torch 2.7, spills 40 bytes of the largest tile where it keeps sums")
    assert no_spills(usage), (usage, blocks)


@pytest.mark.parametrize("channels", [16, 64])
def test_the_step_in_float32_spills_nothing_either(channels):
    made, usage = compiled_step(torch.float32, channels, lstm.block_sizes(4096, channels, 4))
    assert no_spills(usage)
    assert ".tf32" not in made.asm["ptx"]
    assert "fma.rn.f32" in made.asm["ptx"]


def compiled_step(dtype, channels, blocks, **without):
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K")
    taps = {"KH": 3, "KW": 3, "DY": 1, "DX": 1}
    constants = {"C": channels, **taps, **dict(zip(names, blocks, strict=False)), **without}
    return compiled(lstm.lstm_step, dtype, constants, num_warps=blocks[3], num_stages=blocks[4])


def test_blocks_fill_the_gpu_and_its_memory():
    assert lstm.block_sizes(16384, 64) == (128, 64, 64, 8, 4)
    assert lstm.block_sizes(16384, 64, peepholes=True) == (128, 32, 64, 8, 4)
    assert lstm.block_sizes(4096, 128) == (128, 32, 64, 8, 4)
    assert lstm.block_sizes(8192, 32) == (64, 32, 32, 4, 4)
    assert lstm.block_sizes(100, 48) == (64, 16, 16, 4, 4)
    assert lstm.block_sizes(16384, 64, shared=99 << 10) == (128, 64, 64, 8, 2)  # as consumers' GPUs have


@pytest.fixture
def launches(monkeypatch):
    """The kernels that calls with tensors on a CPU would launch on an H100, compiled as a launch compiles."""
    found = []
    driver = SimpleNamespace(
        get_current_device=lambda: 99,  # of which nothing is compiled yet
        get_current_stream=lambda device: 0,
        get_current_target=lambda: H100,
    )
    before = dict(vars(triton.runtime.driver))
    triton.runtime.driver.set_active(driver)

    def run(kernel, programs, like, *arguments, **options):
        found.append(kernel.warmup(*arguments, grid=(programs,), **options))

    monkeypatch.setattr(launch, "run", run)
    yield found
    vars(triton.runtime.driver).update(before)


def every_call(pixels, channels, peepholes=None, dtype=torch.bfloat16, shift=0):
    """One call of each method, with tensors that begin so many numbers behind a multiple of 16 bytes."""

    def rows(*shape, dtype=dtype):
        size = torch.Size(shape).numel()
        return torch.empty(size + shift, dtype=dtype)[shift:].view(shape)

    state, new_state = (rows(pixels, channels, dtype=torch.float32) for _ in range(2))
    outputs = [rows(pixels, channels) for _ in range(2)]
    for kind in (lstm.TritonLSTM, gru.TritonGRU, rnn.TritonRNN):
        kernels, bias = kind(USUAL.values()), state[:1] if kind is gru.TritonGRU else peepholes
        a, b = (rows(pixels, kind.gates * channels) for _ in range(2))
        saved = rows(pixels, kind.saved_gates * channels)
        kernels.forward(StepBuffers(a, None if kind.only_added else b, state, outputs[0], saved, bias))
        kernels.recompute(saved, state, new_state, bias)
        d_b = a if kind.only_added else b
        kernels.backward(StepGradients(saved, state, *outputs, new_state, a, d_b, bias))


def test_one_kernel_serves_all_sizes_of_frames(launches):
    for pixels in (1, 16, 77, 4096):
        every_call(pixels, 16)
    assert len(launches) == 4 * 9
    assert len({id(kernel) for kernel in launches}) == 9


def test_one_kernel_serves_all_places_where_steps_begin(launches):
    for shift in (0, 1, 4):
        every_call(77, 5, shift=shift)
    assert len({id(kernel) for kernel in launches}) == 9


def prepared(conv, weight, like, save):
    """The weight over h of a step, of a cell with frames of one channel."""
    whole = torch.cat([weight[:, :1], weight], dim=1)
    return lstm.TritonLSTM(USUAL.values()).prepare_weight(conv, whole, None, None, like, save)


def test_one_step_serves_all_sizes_of_frames(launches):
    kernels, conv = lstm.TritonLSTM(USUAL.values()), SameConv((1, 2), ("zeros", "zeros"))
    weight, like = torch.empty(4 * 32, 32, 3, 1, dtype=torch.bfloat16), torch.empty(1, 1, 1, 32).bfloat16()
    packed = prepared(conv, weight, like, save=False)
    assert packed.hidden.packed.shape == (3, 1, 32, 4, 32)
    for batch, height, width in ((1, 1, 1), (2, 16, 16), (3, 5, 7)):
        h = torch.empty(batch, height, width, 32, dtype=torch.bfloat16)
        a, c = torch.empty(batch, height, width, 4 * 32, dtype=h.dtype), torch.empty(h.shape)
        peepholes = torch.empty(3, height * width, 32)
        outputs = c, torch.empty_like(h), torch.empty_like(a)
        kernels.step(packed, h, StepBuffers(a, None, *outputs, peepholes))
    assert len(launches) == 3
    assert len({id(kernel) for kernel in launches}) == 1


def test_which_steps_are_fused():
    def serves(kernel=(3, 3), channels=32, dtype=torch.bfloat16, mode="zeros", pixels=1 << 14):
        conv = SameConv((1,) * len(kernel), (mode,) * len(kernel))
        weight = torch.empty(4 * channels, channels, *kernel, dtype=dtype)
        like = torch.empty(1, *(1,) * (len(kernel) - 1), pixels, channels, dtype=dtype)
        assert isinstance(prepared(conv, weight, like, save=True).hidden, DirectWeight)
        hidden = prepared(conv, weight, like, save=False).hidden
        shape = (*kernel, channels, 4, channels)
        return isinstance(hidden, lstm.FusedWeight) and hidden.packed.shape == shape

    assert serves()
    assert serves((1, 5))
    assert serves(dtype=torch.float16, channels=16)
    assert serves(channels=64)
    assert not serves(channels=128)
    assert not serves(pixels=1 << 15)
    assert not serves((2, 3))
    assert not serves((3, 3, 3))
    assert not serves(channels=24)
    assert not serves(dtype=torch.float32)
    assert not serves(mode="circular")


def test_float64_has_no_kernels(monkeypatch):
    monkeypatch.setattr(package, "unavailable", lambda: None)
    assert package.kernels("lstm", tuple(USUAL.values()), torch.float64) is None


def test_without_a_gpu_there_are_no_scans():
    assert torch.cuda.is_available() or package.linear_kernels() is None


def test_why_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launch.unavailable() == "torch finds no NVIDIA GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert launch.unavailable() is None
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    assert launch.unavailable() == "the package triton is not installed"
