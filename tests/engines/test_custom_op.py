"""Under torch.compile a fast engine is one operator of the graph, and computes the same numbers."""

from functools import partial

import pytest
import torch
import torch._dynamo.testing
from torch._guards import detect_fake_mode
from torch.testing import assert_close

import convlstm.engines.cpu.recurrences as cpu
from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell
from convlstm.engines import Call, available
from convlstm.engines.plan import arguments_of, make_plan
from convlstm.errors import OptionError

LAYERS = {
    "lstm": lambda **kw: ConvLSTM(2, [5, 3], 3, batch_first=True, **kw),
    "peepholes": lambda **kw: ConvLSTM(
        2, 4, 3, bias=False, cell=partial(ConvLSTMCell, peephole="channel"), **kw
    ),
    "both directions": lambda **kw: ConvLSTM(2, 4, 3, 2, bidirectional=True, return_all_layers=True, **kw),
    "gru": lambda **kw: ConvGRU(2, [4, 4], (3, 2), 2, **kw),
    "one axis, last output": lambda **kw: ConvLSTM(2, 4, (3,), 2, last_only=True, **kw),
}


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


def results(function, layer, x, flags):
    x = x.clone().requires_grad_()
    outputs, states = function(x, **flags)
    found = [*outputs, *states.tensors()]
    loss = sum(tensor.double().sin().sum() for tensor in found)
    return [*found, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("save", ["gates", "state"])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_has_the_same_numbers(name, mixed, save):
    torch.manual_seed(0)
    layer = LAYERS[name](save=save)
    size = (6, 7)[: len(layer.kernel_size[0])]
    x, flags = torch.randn(3, 3, 2, *size), {"mask": torch.rand(3, 3) > 0.3, "reset": torch.rand(3, 3) > 0.7}
    nodes = []

    def backend(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        ours = results(compiled, layer, x, flags)
        theirs = results(layer, layer, x, flags)
    assert "convlstm.sequence.default" in nodes
    assert not any("conv2d" in node or "sigmoid" in node for node in nodes)
    # Without a compiler outputs between layers stay in 16 bits, which rounds them once more.
    tolerance = {"rtol": 0.02, "atol": 0.02} if mixed else {"rtol": 0, "atol": 0}
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, **tolerance)


def test_other_lengths_and_sizes_share_a_graph():
    layer = LAYERS["lstm"]()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for batch, steps, height, width in ((2, 3, 5, 6), (3, 4, 7, 8), (5, 6, 9, 10), (4, 8, 11, 12)):
        x = torch.randn(batch, steps, 2, height, width)
        assert_close(compiled(x)[0][0], layer(x)[0][0])
    assert counter.frame_count == 2


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("save", ["gates", "state"])
def test_the_operators_keep_torchs_rules(save, last_only):
    """Their schemas, shapes without data, gradients, and all that under tracing."""
    cell = ConvLSTMCell(2, 4, 3, bias=False, peephole="channel")
    x = torch.randn(2, 3, 2, 5, 6).requires_grad_()
    state = tuple(torch.randn(2, 4, 5, 6).requires_grad_() for _ in range(2))
    call = Call(cell, x, state, mask=torch.rand(2, 3) > 0.3, save=save, last_only=last_only)
    arguments, inputs = arguments_of(call, False)
    arguments = (*inputs.arguments(), *arguments)
    operators = torch.ops.convlstm
    torch.library.opcheck(operators.sequence.default, (*arguments, True))
    results = operators.sequence(*arguments, True)
    count = 2 + (not last_only)
    gradients, saved = [None, *map(torch.ones_like, results[1:count])], results[count:]
    needed = [True, True, False, True, False, True]
    torch.library.opcheck(
        operators.sequence_backward.default,
        (*arguments, gradients, saved, needed),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_a_second_derivative_is_refused_as_without_a_compiler():
    layer, x = LAYERS["lstm"](), torch.randn(1, 3, 2, 5, 5, requires_grad=True)
    outputs = torch.compile(layer, fullgraph=True, backend="eager")(x)[0][0]
    (gradient,) = torch.autograd.grad(outputs.square().sum(), x, create_graph=True)
    with pytest.raises(OptionError, match="engine='reference'"):
        gradient.square().sum().backward()


def test_an_engine_named_runs_or_says_why_not():
    layer = ConvLSTM(2, 4, 3, batch_first=True, engine="fused")
    x = torch.randn(1, 3, 2, 5, 5)
    assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x)[0][0], layer(x)[0][0])
    transformed = torch.compile(torch.vmap(lambda x: ConvLSTM.forward(auto, x)[0][0]), backend="eager")
    auto = ConvLSTM(2, 4, 3, batch_first=True)
    assert_close(transformed(x.expand(3, *x.shape)), auto(x)[0][0].expand(3, 1, 3, 4, 5, 5))


@pytest.mark.skipif(available()["compiled"] is not None, reason="no compiler")
def test_no_kernel_is_compiled_while_tracing(monkeypatch):
    """On a GPU a trial with fake tensors fails, and would count as no compiler ever after."""
    modes, load = [], cpu.load_kernels
    monkeypatch.setattr(cpu, "load_kernels", lambda *names: modes.append(detect_fake_mode()) or load(*names))
    make_plan.cache_clear()
    layer = LAYERS["lstm"]()
    results(torch.compile(layer, backend="aot_eager"), layer, torch.randn(2, 3, 2, 6, 7), {})
    assert modes
    assert set(modes) == {None}
