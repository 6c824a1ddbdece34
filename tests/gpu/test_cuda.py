"""The engines on a CUDA device: the reference's numbers, whatever runs them there."""

import subprocess
import sys
from functools import partial

import pytest
import torch

from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell, MinConvGRUCell, MinConvLSTMCell
from convlstm.engines import available, config, cuda_graphs

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

CASES = {
    "lstm": lambda **kw: ConvLSTM(3, [16, 8], 3, batch_first=True, **kw),
    "wide": lambda **kw: ConvLSTM(3, [64, 64], 3, batch_first=True, **kw),
    "5x3": lambda **kw: ConvLSTM(3, 32, (5, 3), 2, batch_first=True, **kw),
    "peepholes": lambda **kw: ConvLSTM(3, 8, 3, 2, cell=partial(ConvLSTMCell, peephole="channel"), **kw),
    "pixels": lambda **kw: ConvLSTM(
        3, 8, 3, 2, cell=partial(ConvLSTMCell, peephole="pixel", image_size=(12, 10)), **kw
    ),
    "options": lambda **kw: ConvLSTM(
        3,
        8,
        3,
        2,
        cell=partial(ConvLSTMCell, dilation=2, padding_mode="circular", gate_activation="hard_sigmoid"),
        **kw,
    ),
    "even, no bias": lambda **kw: ConvLSTM(3, 8, 2, 2, bias=False, **kw),
    "both directions": lambda **kw: ConvLSTM(3, 8, 3, 2, bidirectional=True, batch_first=True, **kw),
    "gru": lambda **kw: ConvGRU(3, [16, 8], 3, batch_first=True, **kw),
    "linear": lambda **kw: ConvLSTM(
        3, [8, 16], 3, batch_first=True, cell=[MinConvGRUCell, MinConvLSTMCell], bidirectional=True, **kw
    ),
    "computed again": lambda **kw: ConvLSTM(3, [16, 8], 3, batch_first=True, save="state", **kw),
    "last output": lambda **kw: ConvGRU(3, [16, 8], 3, batch_first=True, last_only=True, save="state", **kw),
}
#: dtype of the layer, and of autocast if it is on.
MODES = {
    "fp32": (torch.float32, None),
    "bf16": (torch.bfloat16, None),
    "bf16 autocast": (torch.float32, torch.bfloat16),
    "fp16 autocast": (torch.float32, torch.float16),
}


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch):
    """By itself cuDNN convolves float32 as TF32 wherever that is faster, which is not the same places."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


ENGINES = ["fused", *(["compiled"] if available()["compiled"] is None else [])]


def results(layer, x, flags, mixed=None):
    """Outputs, states and gradients, on the CPU in float64."""
    x = x.detach().clone().requires_grad_()
    with torch.autocast(x.device.type, mixed or torch.bfloat16, enabled=mixed is not None):
        outputs, states = layer(x if layer.batch_first else x.transpose(0, 1), **flags)
    found = [*outputs, *states.tensors()]
    loss = sum(tensor.double().sin().sum() for tensor in found)
    found = [*found, *torch.autograd.grad(loss, [x, *layer.parameters()])]
    return [tensor.detach().double().cpu() for tensor in found]


def errors(found, truth):
    return torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, truth, strict=True)])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_an_engine_errs_no_more_than_the_loop(case, engine, mode, masked):
    """Against float64 on the CPU; called often enough that graphs are replayed, with new numbers."""
    dtype, mixed = MODES[mode]
    torch.manual_seed(0)
    exact = CASES[case](engine="reference").double()
    layers = [CASES[case](engine=name).to("cuda", dtype) for name in (engine, "reference")]
    for layer in layers:
        layer.load_state_dict(exact.state_dict())
    exact.load_state_dict(layers[0].state_dict())
    for seed in range(4):
        torch.manual_seed(seed)
        x = torch.randn(2, 6, 3, 12, 10, device="cuda", dtype=dtype)
        flags = {"mask": torch.rand(2, 6) > 0.3, "reset": torch.rand(2, 6) > 0.7} if masked else {}
        there = {name: flag.cuda() for name, flag in flags.items()}
        truth = results(exact, x.cpu().double(), flags)
        ours, loops = (errors(results(layer, x, there, mixed), truth) for layer in layers)
        # Which of its ways of convolving cuDNN takes depends on the layout; one in 16 bits rounds to 4e-3.
        slack = 5e-6 if mode == "fp32" else 5e-4
        assert ours.mean() <= 1.1 * loops.mean() + slack, (seed, ours, loops)
        assert (ours <= 2 * loops + slack).all(), (seed, ours, loops)


@pytest.mark.parametrize("engine", ENGINES)
def test_states_and_no_grad(engine):
    torch.manual_seed(0)
    layer = CASES["lstm"](engine=engine).cuda()
    for _ in range(5):
        x = torch.randn(2, 6, 3, 12, 10, device="cuda")
        whole, ends = layer(x)
        with torch.no_grad():
            first, middle = layer(x[:, :3])
            second, found = layer(x[:, 3:], middle)
        torch.testing.assert_close(torch.cat([first[-1], second[-1]], dim=1), whole[-1], rtol=1e-3, atol=1e-3)
        for a, b in zip(found.tensors(), ends.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_stream_replays_a_graph():
    torch.manual_seed(0)
    for case in ("lstm", "gru"):
        layer = CASES[case]().cuda()
        x = torch.randn(2, 9, 3, 12, 10, device="cuda")
        with torch.no_grad():
            outputs, ends = layer(x if layer.batch_first else x.transpose(0, 1))
            want = outputs[-1] if layer.batch_first else outputs[-1].transpose(0, 1)
        session = layer.stream(2, (12, 10))
        first = torch.stack([session(x[:, t]).clone() for t in range(4)], dim=1)
        middle = session.state
        second = torch.stack([session(x[:, t]).clone() for t in range(4, 9)], dim=1)
        assert session._graph is not None
        torch.testing.assert_close(torch.cat([first, second], dim=1), want, rtol=1e-3, atol=1e-3)
        for a, b in zip(session.state.tensors(), ends.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        session.state = middle
        again = torch.stack([session(x[:, t]).clone() for t in range(4, 9)], dim=1)
        torch.testing.assert_close(again, second, rtol=0, atol=0)
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        session(x[:, 0])
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_training_replays_graphs_and_learns_as_the_loop_does():
    losses = {}
    for engine in ("auto", "reference"):
        torch.manual_seed(0)
        layer = ConvLSTM(1, [16, 16], 3, batch_first=True, engine=engine).cuda()
        optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
        x = torch.rand(4, 8, 1, 16, 16, device="cuda")
        losses[engine] = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = (layer(x[:, :-1])[0][-1].mean(dim=2, keepdim=True) - x[:, 1:]).square().mean()
            loss.backward()
            optimizer.step()
            losses[engine].append(loss.item())
    assert losses["auto"][-1] < 0.9 * losses["auto"][0]
    torch.testing.assert_close(
        torch.tensor(losses["auto"]), torch.tensor(losses["reference"]), rtol=0.02, atol=0
    )


def test_memory_does_not_grow():
    layer = ConvLSTM(1, [16, 16], 3, batch_first=True).cuda()
    x = torch.rand(4, 8, 1, 16, 16, device="cuda")
    for n in range(60):
        layer(x)[0][-1].sum().backward()
        if n == 9:
            torch.cuda.synchronize()
            before = torch.cuda.memory_reserved()
    assert torch.cuda.memory_reserved() == before


def test_a_call_inside_somebody_elses_graph():
    torch.manual_seed(0)
    layer = ConvLSTM(1, 8, 3, batch_first=True).cuda()
    x = torch.rand(2, 4, 1, 16, 16, device="cuda")
    with torch.no_grad():
        want = layer(x)[0][-1]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = layer(x)[0][-1]
        x.mul_(2)
        graph.replay()
        assert not torch.allclose(outputs, want)
        torch.testing.assert_close(outputs, layer(x)[0][-1], rtol=1e-3, atol=1e-3)


def test_graphs_come_and_go():
    layer = ConvLSTM(1, 8, 3, batch_first=True).cuda()
    for _ in range(4):
        for length in range(1, config.max_graphs + 3):
            with torch.no_grad():
                layer(torch.rand(1, length, 1, 8, 8, device="cuda"))
    assert len(cuda_graphs._graphed) <= config.max_graphs


def test_a_compiled_call_before_any_other_leaves_the_kernels_in_use():
    code = """
import torch, warnings
from convlstm import ConvLSTM
from convlstm.engines import available
from convlstm.engines import triton
warnings.simplefilter("error", RuntimeWarning)
layer = ConvLSTM(1, 16, 3, batch_first=True).cuda()
x = torch.rand(2, 4, 1, 16, 16, device="cuda")
compiled = torch.compile(layer, backend="aot_eager")(x)[0][0]
torch.testing.assert_close(compiled, layer(x)[0][0], rtol=1e-3, atol=1e-3)
if available()["compiled"] is None:
    assert triton.kernels("lstm", ("sigmoid", "tanh", "tanh"), torch.float32) is not None
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one device")
def test_each_device_replays_its_own_graphs():
    torch.manual_seed(0)
    layers = [ConvLSTM(1, 16, 3, batch_first=True).to(f"cuda:{n}") for n in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    with torch.no_grad():
        for _ in range(6):
            x = torch.rand(2, 4, 1, 16, 16, device="cuda:0")
            first, second = (layer(x.to(f"cuda:{n}"))[0][0] for n, layer in enumerate(layers))
            torch.testing.assert_close(second.cpu(), first.cpu(), rtol=1e-3, atol=1e-3)
