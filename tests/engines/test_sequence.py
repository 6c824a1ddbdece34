"""Whole sequences of small layers in one call of C++ are the reference, forward and backward."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import convlstm.engines as engines
import convlstm.engines.cpu.sequence as sequence
from convlstm import ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell
from convlstm.engines import config
from convlstm.engines.cpu.compiler import unavailable
from convlstm.errors import OptionError

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="no C++ compiler")
CELLS = {
    "lstm": ConvLSTMCell,
    "peepholes": partial(ConvLSTMCell, peephole="channel"),
    "activations": partial(ConvLSTMCell, gate_activation="hard_sigmoid", candidate_activation="silu"),
    "gru": ConvGRUCell,
    "rnn": ConvRNNCell,
}


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """All sequences are small; the passes that ran."""
    monkeypatch.setattr(config, "one_call_on_cpu", 1 << 40)
    monkeypatch.setattr(config, "one_call_pixels", 0)
    found = []
    for name in ("forward", "backward"):
        inner = getattr(sequence, name)
        logged = lambda *a, inner=inner, name=name, **k: (found.append(name), inner(*a, **k))[1]  # noqa: E731
        monkeypatch.setattr(sequence, name, logged)
    return found


def layer_of(name, inputs=2, hidden=5, kernel=3, **options):
    """A layer with random weights and peepholes."""
    options = {"batch_first": True, "engine": "compiled", "return_all_layers": True, **options}
    layer = ConvLSTM(inputs, hidden, kernel, cell=CELLS[name], **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def results(layer, x, states=None, **flags):
    """Outputs, states and gradients of a random loss of all of them by everything that goes in."""
    leaf = x.detach().requires_grad_()
    states = states and states.map(lambda t: t.detach().to(x.dtype).requires_grad_())
    outputs, after = layer(leaf, states, **flags)
    found = [*outputs, *after.tensors()]
    generator = torch.Generator().manual_seed(1)
    loss = sum((t.double() * torch.randn(t.shape, generator=generator)).sum() for t in found)
    leaves = [leaf, *layer.parameters(), *([] if states is None else states.tensors())]
    return [*(t.detach() for t in found), *torch.autograd.grad(loss, leaves)]


def reference(layer, x, states=None, dtype=torch.float64, **flags):
    """The same by the loop."""
    layer.to(dtype).set_engine("reference")
    found = results(layer, x.to(dtype), states, **flags)
    layer.float().set_engine("compiled")
    return found


@st.composite
def cases(draw):
    torch.manual_seed(draw(st.integers(0, 1000)))
    odd, size = st.sampled_from([1, 3, 5]), st.integers(1, 9)
    kernel = draw(st.sampled_from([(3, 3), (draw(odd), draw(odd)), (draw(odd),)]))
    layers = draw(st.integers(1, 2))
    layer = layer_of(
        draw(st.sampled_from([*CELLS])),
        draw(st.integers(1, 3)),
        [draw(st.integers(1, 40)) for _ in range(layers)],
        [kernel] * layers,
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        last_only=draw(st.booleans()),
        return_all_layers=draw(st.booleans()),
    )
    lengths = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    x = torch.randn(*lengths, layer.input_dim, *(draw(size) for _ in kernel))
    layer.set_engine("reference")
    states = layer(x)[1].map(torch.randn_like) if draw(st.booleans()) else None
    layer.set_engine("compiled")
    return layer, x, states


@settings(max_examples=150, deadline=None)
@given(case=cases())
def agree(case, calls):
    """Errors against the loop in float64 are up to a few of the loop's own in float32."""
    layer, x, states = case
    calls.clear()
    ours = results(layer, x, states)
    passes = len(layer.hidden_dim) * (2 if layer._convlstm_options.bidirectional else 1)
    assert sorted(calls) == ["backward"] * passes + ["forward"] * passes
    exact, rounded = reference(layer, x, states), reference(layer, x, states, torch.float32)
    assert len(ours) == len(exact)
    for a, b, c in zip(ours, exact, rounded, strict=True):
        scale = max(1.0, b.abs().max().item())
        assert (a - b).abs().max() <= 5 * (c - b).abs().max() + 3e-6 * scale


def test_it_is_the_reference(calls):
    agree(calls=calls)


@pytest.mark.parametrize("name", CELLS)
def test_only_the_gradients_asked_for_and_the_same_bits(name):
    layer, x = layer_of(name), torch.randn(2, 3, 2, 6, 5)
    whole = results(layer, x)
    assert_close(results(layer, x), whole, rtol=0, atol=0)
    for number, parameter in enumerate(layer.parameters()):
        for other in layer.parameters():
            other.requires_grad_(other is parameter)
        outputs, after = layer(x)
        found = [*outputs, *after.tensors()]
        generator = torch.Generator().manual_seed(1)
        sum((t.double() * torch.randn(t.shape, generator=generator)).sum() for t in found).backward()
        assert_close(parameter.grad, whole[len(found) + 1 + number], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_where_the_loop_has_them(name, value):
    """In outputs, states and gradients, whatever channels are computed together."""
    torch.manual_seed(0)
    layer, x = layer_of(name, hidden=5), torch.randn(1, 2, 2, 6, 6)
    x[0, 0, 1, 0, 5] = value
    for a, b in zip(results(layer, x), reference(layer, x, dtype=torch.float32), strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
        finite = b.isfinite()
        assert_close(a[finite], b[finite], rtol=1e-4, atol=1e-5)


def test_memory_formats_and_weights_that_are_not_dense(calls):
    torch.manual_seed(0)
    layer, x = layer_of("lstm"), torch.randn(2, 3, 2, 6, 5)
    expected = reference(layer, x)
    strided = torch.randn(2, 3, 6, 5, 2).movedim(-1, 2).copy_(x)
    weight = layer.cell_list[0].conv.weight
    weight.data = torch.empty(3, 3, *weight.shape[:2]).permute(2, 3, 0, 1).copy_(weight.data)
    assert_close([t.double() for t in results(layer, strided)], expected, rtol=1e-4, atol=1e-5)
    assert calls == ["forward", "backward"]


@pytest.mark.parametrize(
    "reason",
    [{"cell": partial(ConvLSTMCell, padding_mode="circular")}, {"cell": partial(ConvLSTMCell, dilation=2)},
     {"kernel": 2}, {"kernel": (3, 3, 3)}, {"save": "state"}, {"engine": "fused"}],
    ids=str,
)  # fmt: skip
def test_other_calls_go_step_by_step(reason, calls):
    kernel = reason.pop("kernel", 3)
    layer = ConvLSTM(2, 4, kernel, batch_first=True, **{"engine": "compiled", **reason})
    layer(torch.rand(1, 2, 2, *((6,) * len(layer.kernel_size[0]))))
    assert calls == []


def test_flags_go_step_by_step_and_sizes_beyond_the_limit(calls, monkeypatch):
    layer, x = layer_of("lstm"), torch.rand(2, 3, 2, 6, 5)
    layer(x, lengths=[2, 3])
    layer(x, reset=torch.zeros(2, 3, dtype=torch.bool))
    multiplications = x[:, :, 0].numel() * layer.cell_list[0].conv.weight.numel()
    monkeypatch.setattr(config, "one_call_on_cpu", multiplications - 1)
    layer(x)
    assert calls == []
    monkeypatch.setattr(config, "one_call_on_cpu", multiplications)
    layer(x)
    assert calls == ["forward"]


@pytest.mark.parametrize(("hidden", "size", "one"), [(64, 4, []), (64, 6, ["forward"]), (8, 1, ["forward"])])
def test_many_weights_need_pixels_to_be_worth_their_arrangement(hidden, size, one, calls, monkeypatch):
    monkeypatch.setattr(config, "one_call_pixels", 32)
    ConvLSTM(2, hidden, 3, batch_first=True, engine="compiled")(torch.rand(1, 1, 2, size, size))
    assert calls == one


def test_peepholes_of_each_pixel(calls):
    torch.manual_seed(0)
    cell = partial(ConvLSTMCell, peephole="pixel", image_size=(6, 5))
    layer = ConvLSTM(2, 4, 3, batch_first=True, cell=cell, engine="compiled", return_all_layers=True)
    with torch.no_grad():
        layer.cell_list[0].peephole_weight.normal_()
    x = torch.randn(2, 3, 2, 6, 5)
    ours, exact = results(layer, x), reference(layer, x)
    assert calls == ["forward", "backward"]
    assert_close([t.double() for t in ours], exact, rtol=1e-4, atol=1e-5)


def test_what_runs_is_told():
    layer, x = ConvLSTM(1, 8, 3, batch_first=True), torch.zeros(1, 2, 1, 16, 16)
    assert engines.available(layer, x) == {"cell_list.0": "compiled, one call, direct convolution"}


def test_torch_compile(calls):
    torch.manual_seed(0)
    layer, x = layer_of("lstm"), torch.randn(2, 3, 2, 6, 5)
    expected = results(layer, x)
    compiled = torch.compile(layer, backend="aot_eager")
    assert_close(results(layer, x), expected)
    leaf = x.clone().requires_grad_()
    outputs, _ = compiled(leaf)
    outputs[-1].square().sum().backward()
    gradient, leaf.grad = leaf.grad, None
    layer(leaf)[0][-1].square().sum().backward()
    assert_close(leaf.grad, gradient)


@pytest.mark.parametrize(("side", "one"), [(128, ["forward"]), (129, [])])
def test_large_frames_would_take_memory_that_no_plan_counts(side, one, calls):
    """The memory of one call is rounded up to vectors of channels, and is kept."""
    ConvLSTM(1, 1, 1, batch_first=True, engine="compiled")(torch.rand(2, 1, 1, side, side))
    assert calls == one


@pytest.mark.parametrize(
    ("batch", "hidden", "side", "runs"),
    [(1, 1, 32, "compiled, one call"), (2, 1, 32, "reference"), (1, 1, 33, "reference"),
     (1, 4, 64, "compiled, one call"), (1, 3, 64, "reference")],
)  # fmt: skip
def test_few_channels_of_many_pixels_are_left_to_the_loop(batch, hidden, side, runs, monkeypatch):
    monkeypatch.setattr(config, "small_on_cpu", 40_000_000)
    layer = ConvLSTM(1, hidden, 3, batch_first=True)
    found = engines.available(layer, torch.zeros(batch, 4, 1, side, side))
    assert found["cell_list.0"].startswith(runs)


def test_what_runs_under_autocast_is_told():
    layer, x = ConvLSTM(1, 8, 3, batch_first=True), torch.zeros(1, 2, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert engines.available(layer, x) == {"cell_list.0": "compiled, direct convolution"}


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_numbers_that_are_a_view_with_the_opposite_sign(name, one, calls, monkeypatch):
    """`torch.Tensor.is_neg`: what is at the address of such a tensor is its negative."""
    torch.manual_seed(0)
    monkeypatch.setattr(config, "one_call_on_cpu", 1 << 40 if one else 0)
    layer, x = layer_of(name, return_all_layers=False), torch.randn(2, 3, 2, 6, 5)
    d, found = torch.randn(2, 3, 5, 6, 5), []
    for negative in (torch.neg, torch._neg_view):
        frames, gradient = negative(x).requires_grad_(), negative(d)
        outputs = layer(frames)[0][0]
        found.append(
            [outputs.detach(), *torch.autograd.grad(outputs, [frames, *layer.parameters()], gradient)]
        )
    assert frames.is_neg()
    assert calls == ["forward", "backward"] * 2 * one
    assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["fused", "compiled"])
def test_a_batch_of_gradients_at_once_is_refused_and_the_remedy_is_told(engine):
    layer, x = layer_of("lstm", engine=engine, return_all_layers=False), torch.randn(1, 2, 2, 4, 4)
    x.requires_grad_()
    outputs = layer(x)[0][0]
    d = torch.randn(3, *outputs.shape)
    remedy = "vectorize=True.*: build it with engine='reference'"
    with pytest.raises(OptionError, match=remedy):
        torch.autograd.grad(outputs, x, d, is_grads_batched=True, retain_graph=True)
    with pytest.raises(OptionError, match=remedy):
        torch.vmap(lambda one: torch.autograd.grad(outputs, x, one))(d)
    outputs = layer.set_engine("reference")(x)[0][0]
    assert len(*torch.autograd.grad(outputs, x, d, is_grads_batched=True)) == 3


@pytest.mark.parametrize("one", [True, False])
def test_hooks_on_saved_tensors_may_return_another_memory_layout(one, calls, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(config, "one_call_on_cpu", 1 << 40 if one else 0)
    layer, x = layer_of("lstm"), torch.randn(2, 3, 2, 6, 5)
    expected = results(layer, x)
    strided = lambda t: t.new_empty(*t.shape, 2)[..., 0].copy_(t)  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(strided, lambda t: t):
        assert_close(results(layer, x), expected, rtol=0, atol=0)
    assert calls == ["forward", "backward"] * 2 * one
