"""What is graphed once and replayed gives what each call by itself gives.

On a CPU a replay calls the function again; everything around it is tested here. The same tests run with CUDA
graphs in ``tests/gpu``.
"""

import gc
import weakref

import pytest
import torch

from convlstm import ConvGRU, ConvLSTM
from convlstm.engines import config, cuda_graphs
from convlstm.errors import OptionError

pytestmark = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="calls are not recorded where torch (2.7) cannot say whether hooks on saved tensors are set",
)


@pytest.fixture(autouse=True)
def _graphs_at_the_first_call(monkeypatch):
    monkeypatch.setattr(config, "graph_devices", {"cpu", "cuda"})
    monkeypatch.setattr(config, "graph_after", 0)
    cuda_graphs.clear()
    yield
    cuda_graphs.clear()


def twins(stack=ConvLSTM, **options):
    """A layer that is graphed, and one with the same weights that is not."""
    torch.manual_seed(0)
    layer = stack(2, [4, 3], 3, batch_first=True, engine="fused", **options)
    other = stack(2, [4, 3], 3, batch_first=True, engine="reference", **options)
    other.load_state_dict(layer.state_dict())
    return layer, other


def results(layer, x, flags, last=False):
    x = x.clone().requires_grad_()
    outputs, states = layer(x, **flags)
    found = states.tensors() if last else [*outputs, *states.tensors()]
    loss = sum(
        (tensor * torch.sin(torch.arange(tensor.numel()).view(tensor.shape))).sum() for tensor in found
    )
    return [*found, *torch.autograd.grad(loss, [x, *layer.parameters()])]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
@pytest.mark.parametrize("last", [False, True])
def test_replays_are_calls(stack, last):
    layer, other = twins(stack)
    for seed in range(3):
        torch.manual_seed(seed)
        x, flags = torch.randn(2, 5, 2, 6, 4), {"mask": torch.rand(2, 5) > 0.3}
        same(results(layer, x, flags, last), results(other, x, flags, last))
        with torch.no_grad():  # as an optimizer does
            for a, b in zip(layer.parameters(), other.parameters(), strict=True):
                a.mul_(0.9)
                b.mul_(0.9)
    assert len(cuda_graphs._graphed) == 2


def test_a_call_before_the_last_ones_backward_takes_memory_of_its_own():
    layer, other = twins()
    x, y = torch.randn(2, 1, 3, 2, 5, 5)
    gradients = []
    for each in (layer, other):
        first, second = each(x)[0][-1], each(y)[0][-1]
        gradients.append(torch.autograd.grad((first * second).sum(), list(each.parameters())))
    same(*gradients)


def test_what_was_kept_is_free_after_the_backward_pass_or_when_nobody_wants_it():
    layer, _ = twins()
    x = torch.randn(1, 3, 2, 5, 5)

    def busy():
        gc.collect()
        return [graphed.busy for graphed in cuda_graphs._graphed.values()]

    loss = layer(x)[0][-1].sum()
    assert busy() == [True, True]
    loss.backward(retain_graph=True)
    assert busy() == [True, True]
    first = [p.grad.clone() for p in layer.parameters()]
    loss.backward()  # the graph itself lives on
    assert busy() == [False, False]
    same([p.grad for p in layer.parameters()], [2 * grad for grad in first])
    outputs = layer(x)[0][-1]
    assert busy() == [True, True]
    del outputs
    assert busy() == [False, False]


@pytest.mark.parametrize("checkpoint", [None, 2])
def test_nothing_is_graphed_under_hooks_on_what_is_saved(checkpoint):
    """They hold copies, or nothing at all, so that nobody knows how long what was kept is needed."""
    layer, other = twins(checkpoint=checkpoint)
    for seed in range(3):
        torch.manual_seed(seed)
        x, found = torch.randn(1, 4, 2, 5, 5), []
        for each in (layer, other):
            with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
                found.append(results(each, x, {}))
        same(*found)
    assert not cuda_graphs._graphed


def test_a_capture_that_fails_is_done_without(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("none left")

    layer, other = twins()
    monkeypatch.setattr(cuda_graphs, "GraphedCall", fail)
    for _ in range(2):
        x = torch.randn(1, 3, 2, 5, 5)
        same(results(layer, x, {}), results(other, x, {}))
    assert list(cuda_graphs._graphed.values()) == [None, None]


def test_results_are_the_callers():
    layer, other = twins()
    x, y = torch.randn(2, 1, 3, 2, 5, 5)
    with torch.no_grad():
        first, want = layer(x)[0][-1], other(x)[0][-1]
        layer(y)[0][-1].zero_()
        same([first], [want])
        same([layer(y)[0][-1]], [other(y)[0][-1]])


def test_inference_mode_has_graphs_of_its_own():
    layer, other = twins()
    for context in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        x = torch.randn(1, 3, 2, 5, 5)
        with context():
            same(layer(x)[0], other(x)[0])
    assert len(cuda_graphs._graphed) == 4


def test_a_second_derivative_is_refused():
    layer, _ = twins()
    x = torch.randn(1, 3, 2, 5, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0][-1].sum(), x, create_graph=True)
    with pytest.raises(OptionError, match="engine='reference'"):
        gradient.sum().backward()


def test_few_are_kept_and_only_of_what_comes_again(monkeypatch):
    layer, _ = twins()
    monkeypatch.setattr(config, "max_graphs", 4)
    monkeypatch.setattr(config, "graph_after", 1)
    for length in (1, 2, 3, 4, 3, 2, 4):
        with torch.no_grad():
            layer(torch.randn(1, length, 2, 5, 5))
        assert len(cuda_graphs._graphed) <= 4
    lengths = [graphed.forward_graph.inputs[2].shape[1] for graphed in cuda_graphs._graphed.values()]
    assert lengths == [2, 2, 4, 4]
    monkeypatch.setattr(config, "max_graphs_bytes", sum(r.bytes for r in cuda_graphs._graphed.values()))
    for _ in range(2):
        with torch.no_grad():
            layer(torch.randn(1, 5, 2, 5, 5))
    assert sum(r.bytes for r in cuda_graphs._graphed.values()) <= config.max_graphs_bytes
    assert len(cuda_graphs._graphed) == 2


def test_more_graphs_than_fit_do_not_evict_each_other(monkeypatch):
    layer, _ = twins()
    made = []

    class Counted(cuda_graphs.GraphedCall):
        def __init__(self, *arguments):
            made.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(cuda_graphs, "GraphedCall", Counted)
    monkeypatch.setattr(config, "max_graphs", 4)
    for turn in range(20):
        for length in (1, 2, 3, 4, 5):
            with torch.no_grad():
                layer(torch.randn(1, length, 2, 5, 5))
        if turn == 1:
            settled = len(made)
    assert len(made) == settled


def test_an_evicted_graph_is_free_at_once(monkeypatch):
    layer, _ = twins()
    monkeypatch.setattr(config, "max_graphs", 2)
    gc.collect()
    gc.disable()
    try:
        layer(torch.randn(1, 3, 2, 5, 5))[0][-1].sum().backward()
        evicted = [weakref.ref(graphed) for graphed in cuda_graphs._graphed.values()]
        layer(torch.randn(1, 4, 2, 5, 5))[0][-1].sum().backward()
        assert [found() for found in evicted] == [None, None]
    finally:
        gc.enable()
