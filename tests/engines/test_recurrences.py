"""Each recurrence, in each back end, is the equation of its cell; kernels are called as C++ declares them."""

import re
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import convlstm.engines.cpu.library as library
import convlstm.engines.cpu.recurrences as cpu
from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell
from convlstm.engines import available
from convlstm.engines.cpu.compiler import unavailable
from convlstm.engines.cpu.library import DTYPES as NAMES
from convlstm.engines.cpu.library import PROTOTYPES, RESULTS, SOURCE
from convlstm.engines.recurrences import RECURRENCES, StepBuffers, StepGradients, recurrence_of
from convlstm.functional.gates import ACTIVATIONS, lstm_gates

CHOICES = [
    ("sigmoid", "tanh", "tanh"),
    ("hard_sigmoid", "silu", "identity"),
    ("softsign", "gelu", "elu"),
    ("hard_tanh", "leaky_relu", "relu"),
]
BACK_ENDS = ["torch", *(["cpu"] if unavailable() is None else [])]
DTYPES = [torch.float32, torch.bfloat16]
#: By dtype of what is stored: a few roundings of float32, and one of bfloat16 beside its approximations.
CLOSE = {torch.float32: {"rtol": 2e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2**-6, "atol": 2**-8}}
BATCH, PIXELS, CHANNELS = 2, 6, 19


def equation(name, activations, a, b, state, parameter):
    """The new h and cell state (P, C) from the two parts of the pre-activations (P, gates, C), in float64."""
    gate, candidate, output = (ACTIVATIONS[activation] for activation in activations)
    if name == "rnn":
        h = output((a + b)[:, 0])
        return h, h
    if name == "gru":
        r, z = gate(a[:, 0] + b[:, 0]), gate(a[:, 1] + b[:, 1])
        n = candidate(a[:, 2] + r * (b[:, 2] + parameter))
        h = (1 - z) * n + z * state
        return h, h
    frames = [t.reshape(BATCH, PIXELS, -1).transpose(1, 2) for t in ((a + b).flatten(1), state)]
    peepholes = None if parameter is None else parameter.unbind()
    h, c = lstm_gates(*frames, peepholes=peepholes, gate=gate, candidate=candidate, output=output)
    return tuple(t.transpose(1, 2).reshape(state.shape) for t in (h, c))


def parameter_of(name, kind):
    if name == "lstm" and kind is not None:
        return torch.randn(3, CHANNELS, 1 if kind == "channel" else PIXELS).double()
    return grid(1, CHANNELS)[0].double() if name == "gru" else None


def grid(*shape, shift=0.0):
    """Random numbers whose sums are exact in bfloat16; with a shift, beside the kinks of activations."""
    return torch.randn(shape).mul(8).round().div(8) + shift


@pytest.mark.parametrize("activations", CHOICES, ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    ("name", "kind"), [("lstm", None), ("lstm", "channel"), ("lstm", "pixel"), ("gru", None), ("rnn", None)]
)
def test_a_recurrence_is_its_equation(name, kind, back_end, dtype, activations):
    """Forward, recomputed state, and gradients, against autograd through the equation in float64."""
    torch.manual_seed(0)
    form = RECURRENCES[name](activations) if back_end == "torch" else cpu.kernels(name, activations, dtype)
    pixels, gates = BATCH * PIXELS, form.gates
    a, b = (grid(pixels, gates * CHANNELS, shift=shift).to(dtype) for shift in (1 / 16, 0))
    state, parameter = torch.randn(pixels, CHANNELS), parameter_of(name, kind)
    ours = form.prepare(parameter, state)
    parts = (a + b, None) if form.only_added else (a.clone(), b.clone())
    exact = (parts[0], torch.zeros_like(b)) if form.only_added else (a, b)
    leaves = [t.double().view(pixels, gates, CHANNELS) for t in exact]
    leaves = [t.detach().requires_grad_() for t in (*leaves, state.double())]
    h, c = equation(name, activations, *leaves, parameter)

    h_out, saved = (
        torch.empty(pixels, CHANNELS, dtype=dtype),
        torch.empty(pixels, form.saved_gates * CHANNELS),
    )
    saved, after, recomputed = saved.to(dtype), state.clone(), torch.empty_like(state)
    form.forward(StepBuffers(*(t if t is None else t.clone() for t in parts), after, h_out, saved, ours))
    form.recompute(saved, state, recomputed, ours)
    assert_close(recomputed, after, rtol=0, atol=0)
    assert_close(after.double(), c, **CLOSE[dtype])
    assert_close(h_out.double(), h, **CLOSE[dtype])
    unsaved, h_again = state.clone(), torch.empty_like(h_out)
    form.forward(StepBuffers(*parts, unsaved, h_again, None, ours))
    assert_close((unsaved, h_again), (after, h_out), rtol=0, atol=0)

    d_output, d_h = (torch.randn(pixels, CHANNELS).to(dtype) for _ in range(2))
    d_state = torch.randn(pixels, CHANNELS)
    loss = (h * (d_output.double() + d_h.double())).sum() + (c * d_state.double()).sum()
    exact = torch.autograd.grad(loss, leaves, allow_unused=True)
    d_a = torch.empty_like(a)
    d_b = d_a if form.only_added else torch.empty_like(b)
    form.backward(StepGradients(saved, state, d_output, d_h, d_state, d_a, d_b, ours))
    for found, right in zip((d_a, d_b, d_state), exact, strict=True):
        right = torch.zeros_like(found) if right is None else right.view(found.shape)
        assert_close(found.double(), right.double(), **CLOSE[dtype])


def declared():
    """Arguments and result by name of each function that C++ declares, without const, of both dtypes."""
    found = {}
    macro = re.compile(r"#define (\w+)\(([^)]*)\)(.*?)(?<!\\)\n", re.S)
    function = re.compile(r"(\w+) (\w+)\(([^()]*)\) \{")
    for path in SOURCE.parent.iterdir():
        text = re.sub(r"//.*", "", path.read_text())
        block = text[text.index('extern "C"') :] if 'extern "C"' in text else ""
        for name, parameters, body in macro.findall(block):
            for values in re.findall(rf"^{name}\((.*)\)$", block, re.M):
                replaced = body.replace("\\\n", " ")
                for key, value in zip(parameters.split(", "), values.split(", "), strict=True):
                    replaced = re.sub(rf"##{key}\b|\b{key}\b", value, replaced)
                block += replaced.replace("##", "")
        block = macro.sub("", block)
        for result, name, arguments in function.findall(block):
            pairs = [words.replace("const ", "").split() for words in arguments.split(",") if words.strip()]
            pairs = [(kind + "*" * word.count("*"), word.strip("*")) for kind, word in pairs]
            found[name] = ([(argument, kind) for kind, argument in pairs], result)
    return found


def test_prototypes_are_those_that_cpp_declares():
    ours = {}
    for name, arguments in PROTOTYPES.items():
        for dtype in NAMES.values() if "{T}" in name else ("",):
            element = dtype.replace("float32", "float") + "*"
            pairs = [argument.split() for argument in arguments.split(", ") if argument]
            pairs = [(argument, element if kind == "T*" else kind) for kind, argument in pairs]
            ours[name.replace("{T}", dtype)] = (pairs, RESULTS.get(name, "void"))
    assert ours == declared()


@pytest.mark.skipif("cpu" not in BACK_ENDS, reason="no compiler")
def test_a_tensor_of_another_dtype_or_layout_reaches_no_kernel():
    kernels, x = cpu.kernels("rnn", CHOICES[0], torch.float32), torch.zeros(4, 4)
    for wrong in (x.double(), torch.zeros(4, 8)[:, ::2]):
        with pytest.raises(Exception, match="a kernel takes contiguous tensors of torch.float32; received"):
            kernels.recompute(wrong, x, x, None)


@pytest.mark.skipif("cpu" not in BACK_ENDS, reason="no compiler")
def test_ctrl_c_while_a_kernel_is_called_stays_what_it_is(monkeypatch):
    """ctypes makes an ArgumentError of what its own conversion of an argument raises."""
    kernels, x = cpu.kernels("rnn", CHOICES[0], torch.float32), torch.zeros(4, 4)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(library._Elements, "check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernels.recompute(x, x, x, None)


@pytest.mark.parametrize("engine", ["fused", *(["compiled"] if available()["compiled"] is None else [])])
@pytest.mark.parametrize("save", ["gates", "state"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "elu", "softsign"])
def test_a_layer_of_plain_recurrences(engine, save, dtype, activation):
    """With flags and in both directions: no further from the reference in float64 than the reference is."""
    torch.manual_seed(0)
    cell = partial(ConvRNNCell, activation=activation)
    build = partial(ConvGRU, 2, [5, 4], 3, batch_first=True, cell=cell, bidirectional=True)
    layer, reference, exact = build(engine=engine, save=save), build(engine="reference"), build()
    exact.set_engine("reference")
    weights = layer.to(dtype).state_dict()
    frames = torch.randn(2, 5, 2, 6, 7).to(dtype)
    flags, results = {"mask": torch.rand(2, 5) > 0.3, "reset": torch.rand(2, 5) > 0.7}, []
    for each in (layer, reference.to(dtype), exact.double()):
        each.load_state_dict(weights)
        x = frames.to(next(each.parameters()).dtype).requires_grad_()
        outputs, states = each(x, **flags)
        found = [*outputs, *states.tensors()]
        loss = sum((t.double() * torch.arange(t.numel()).view(t.shape).sin()).sum() for t in found)
        results.append([t.double() for t in (*found, *torch.autograd.grad(loss, [x, *each.parameters()]))])
    for ours, loops, right in zip(*results, strict=True):
        error, other = ((t - right).norm() / right.norm() for t in (ours, loops))
        assert error < 2 * other + (1e-6 if dtype == torch.float32 else 2e-3), (error, other)


def test_recurrences_of_cells():
    cells = {"lstm": ConvLSTMCell, "gru": ConvGRUCell, "rnn": ConvRNNCell}
    for name, kind in cells.items():
        assert recurrence_of(kind(1, 2, 3)) is RECURRENCES[name]
        own = type("Own", (kind,), {"step": lambda self, p, state: state})
        assert recurrence_of(own(1, 2, 3)) is None
        same = type("Same", (kind,), {"extra": 1})
        assert recurrence_of(same(1, 2, 3)) is RECURRENCES[name]
    assert recurrence_of(torch.nn.Identity()) is None
    reasons = RECURRENCES["gru"].not_supported_reasons(ConvGRUCell(1, 2, 3, reset_after=False))
    assert reasons == ["it has no reset_after=False"]
    for cell in (ConvLSTMCell(1, 2, 3, attention="channel"), ConvRNNCell(1, 2, 3, activation=torch.exp)):
        assert len(recurrence_of(cell).not_supported_reasons(cell)) == 1
    assert ConvLSTM(1, 2, 3).cell_list[0].state_class._fields == ("h", "c")
