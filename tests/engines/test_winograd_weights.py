"""Where convolutions are by minimal filtering (Winograd), and transformed weights that are kept."""

import copy
import gc
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, Event, Thread

import pytest
import torch
from torch.testing import assert_close

import convlstm.engines.cpu.winograd as winograd
from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell
from convlstm.engines import buffer_pool, config
from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu.compiler import unavailable
from convlstm.engines.cpu.library import load_kernels
from convlstm.engines.cpu.winograd import WinogradWeight
from convlstm.engines.direct import computed_once
from convlstm.functional.conv import same_conv
from convlstm.models.memory import CallSizes, inference_bytes

LIBRARY = load_kernels("sigmoid", "tanh", "tanh") if unavailable() is None else None
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no compiler")
ZEROS = ("zeros", "zeros")
CELLS = [ConvLSTMCell, ConvGRUCell, ConvRNNCell]


def layer_and_frames(cell):
    torch.manual_seed(0)
    stack = ConvLSTM if cell is ConvLSTMCell else ConvGRU
    return stack(2, 20, 3, 1, True, cell=cell, engine="compiled"), torch.randn(2, 4, 2, 9, 10)


def results(layer, x):
    """The output, and gradients by the frames and all parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)[0][-1]
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])]


@pytest.fixture
def packs(monkeypatch):
    """Shapes of the weights that are transformed, from an empty cache."""
    made, pack = [], WinogradWeight._pack
    monkeypatch.setattr(winograd, "_cache", winograd._Cache())
    monkeypatch.setattr(WinogradWeight, "_pack", lambda self, w: made.append(w.shape) or pack(self, w))
    return made


def add_in_place(layer, weight):
    with torch.no_grad():
        weight.add_(0.25)


def add_to_the_data(layer, weight):
    weight.data += 0.25


def step_an_optimizer(layer, weight):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    weight.grad = None


def load_others(layer, weight):
    layer.load_state_dict({key: value + 0.25 for key, value in layer.state_dict().items()})


def write_nan(layer, weight):
    weight.data[5, 1, 1, 1] = torch.nan


CHANGES = [add_in_place, add_to_the_data, step_an_optimizer, load_others, write_nan]


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cell", CELLS)
def test_transforms_are_used_again_until_a_weight_changes(cell, change, packs):
    layer, x = layer_and_frames(cell)
    frame = x[:, :1]
    before = results(layer, frame)
    count = len(packs)
    assert count >= 2
    assert_close(results(layer, frame), before, rtol=0, atol=0)
    assert len(packs) == count
    change(layer, layer.cell_list[0].conv.weight)
    found = results(layer, frame)
    assert len(packs) > count
    expected = results(copy.deepcopy(layer), frame)  # at another address
    assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(found[0], before[0])


def convolved(weight, x):
    """By a weight whose transform is kept."""
    return WinogradWeight(LIBRARY, weight, ZEROS, reused=True).into(None, x)


@pytest.mark.usefixtures("forced")
def test_a_frame_without_a_state_has_no_weight_gradient_over_h(monkeypatch):
    """Which is zero."""
    channels, compute = [], WinogradWeight.weight_gradient
    count = lambda self, d, x: channels.append(x.shape[-1]) or compute(self, d, x)  # noqa: E731
    monkeypatch.setattr(WinogradWeight, "weight_gradient", count)
    layer, x = layer_and_frames(ConvLSTMCell)
    *_, gradient, _ = results(layer, x[:, :1])
    assert channels == [2]
    assert not gradient[:, 2:].any()
    results(layer, x)
    assert channels == [2, 22]


def test_a_weight_at_the_address_of_one_that_was_freed(packs):
    """Of another shape or other strides, or with other numbers."""
    memory, x = bytearray(4 * 4 * 6 * 9), torch.randn(1, 5, 6, 6)
    for shape in ((4, 6, 3, 3), (4, 6, 3, 3), (6, 4, 3, 3)):
        for transposed in (False, True):
            weight = torch.frombuffer(memory, dtype=torch.float32).view(shape).normal_()
            weight = weight.transpose(2, 3) if transposed else weight
            frames = x[..., : shape[1]].contiguous()
            expected = same_conv(frames.movedim(-1, 1), weight).movedim(1, -1)
            assert_close(convolved(weight, frames), expected, rtol=0, atol=1e-4)
    assert len(packs) == 6


@pytest.mark.usefixtures("packs")
def test_threads_that_share_kept_transforms():
    """Each with a weight of its own that changes, and one that all use."""
    generator = torch.Generator().manual_seed(0)
    x, shared = (torch.randn(s, generator=generator) for s in ((1, 9, 9, 8), (16, 8, 3, 3)))
    expected, wrong = convolved(shared, x), []

    def work(seed):
        own = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(seed))
        for _ in range(30):
            own.mul_(1.01)
            same = torch.equal(convolved(shared, x), expected)
            once = WinogradWeight(LIBRARY, own, ZEROS).into(None, x)
            if not same or not torch.equal(convolved(own, x), once):
                wrong.append(seed)

    threads = [Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_thread_waits_for_a_transform_that_another_makes(packs, monkeypatch):
    x, weight, threads, pack = torch.ones(1, 4, 4, 1), torch.ones(1, 1, 3, 3), [], WinogradWeight._pack

    def interrupted(self, w):
        if not threads:
            threads.append(Thread(target=convolved, args=(weight, x)))
            threads[0].start()
            threads[0].join(timeout=1)
        return pack(self, w)

    monkeypatch.setattr(WinogradWeight, "_pack", interrupted)
    convolved(weight, x)
    threads[0].join()
    assert len(packs) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("packs")
def test_a_child_does_not_wait_for_a_thread_of_its_parent(monkeypatch):
    """Which was transforming a weight when the process was forked."""
    x, weight, pack = torch.ones(1, 4, 4, 1), torch.ones(1, 1, 3, 3), WinogradWeight._pack
    begun, forked = Event(), Event()

    def waiting(self, w):
        begun.set()
        forked.wait(timeout=60)
        return pack(self, w)

    monkeypatch.setattr(WinogradWeight, "_pack", waiting)
    thread = Thread(target=convolved, args=(weight, x))
    thread.start()
    begun.wait(timeout=60)
    if (child := os.fork()) == 0:
        signal.alarm(20)
        WinogradWeight._pack = pack
        convolved(weight, x)
        os._exit(0)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_kept_transforms_are_bounded_and_the_last_used_stay(packs, monkeypatch):
    x, weights = torch.randn(1, 4, 4, 8), [torch.randn(16, 8, 3, 3) for _ in range(5)]
    convolved(weights[0], x)
    one = winograd._cache._bytes()
    assert one == weights[0].nbytes + 4 * LIBRARY.winograd_packed_size(
        WinogradWeight(LIBRARY, weights[0], ZEROS).shape
    )
    monkeypatch.setattr(config, "kept_weight_bytes", 3 * one)
    for weight in weights:
        convolved(weights[0], x)
        convolved(weight, x)
        assert winograd._cache._bytes() <= 3 * one
    assert len(packs) == 5
    convolved(weights[1], x)
    assert len(packs) == 6
    monkeypatch.setattr(config, "kept_weight_bytes", 0)
    convolved(weights[2], x)
    assert winograd._cache._bytes() == one  # one is kept, however large


@pytest.mark.usefixtures("forced", "packs")
def test_calls_of_ever_changing_sizes_leave_nothing_behind(monkeypatch):
    """Buffers are counted, and transforms kept are those of the layer alone."""
    monkeypatch.setattr(config, "min_pooled_bytes", 1 << 14)
    monkeypatch.setattr(buffer_pool, "pool", buffer_pool.BufferPool())
    layer, _ = layer_and_frames(ConvLSTMCell)
    pool, kept, peaks = buffer_pool.pool, set(), []
    for _ in range(4):
        for n in [14, 1, 5, 8, 11, 13]:
            for steps in (3, 1):
                results(layer, torch.randn(1 + n % 2, steps, 2, n, 15 - n))
            kept.add(winograd._cache._bytes())
        peaks.append(pool.peak_bytes)
    assert len(kept) == 1
    assert peaks[-1] == peaks[1] <= 4 * peaks[0]
    gc.collect()
    assert pool.free_bytes() + pool.used_bytes <= peaks[-1]
    winograd._cache._entries.clear()
    pool.free_bytes()
    assert pool.used_bytes == 0


@pytest.mark.usefixtures("forced", "packs")
def test_memory_that_is_stated_has_the_transforms_that_are_kept():
    """Of all layers, while the last one runs."""
    layer = ConvLSTM(16, [16] * 6, 3, batch_first=True, engine="compiled")
    stated = inference_bytes(layer, CallSizes((8, 8), 1, 0))
    assert not winograd._cache._entries
    with torch.no_grad():
        layer(torch.zeros(1, 1, 16, 8, 8))
    kept = winograd._cache._bytes()
    assert kept > 6 * layer.cell_list[0].conv.weight.nbytes * 5
    assert kept <= stated < 1.3 * kept


@pytest.mark.parametrize(
    ("options", "dtype", "axes"),
    [
        ({"kernel_size": (3, 5)}, torch.float32, 2),
        ({"kernel_size": 4}, torch.float32, 2),
        ({"kernel_size": 7}, torch.float32, 2),
        ({"kernel_size": (3,)}, torch.float32, 1),
        ({"kernel_size": (3, 3, 3)}, torch.float32, 3),
        ({"kernel_size": 3, "cell": partial(ConvLSTMCell, dilation=2)}, torch.float32, 2),
        ({"kernel_size": 3}, torch.float64, 2),
        ({"kernel_size": 3}, torch.bfloat16, 2),
        ({"kernel_size": 3, "engine": "fused"}, torch.float32, 2),
    ],
    ids=str,
)
def test_other_convolutions_are_direct(options, dtype, axes, forced, packs):
    layer = ConvLSTM(2, 4, num_layers=1, batch_first=True, **{"engine": "compiled", **options}).to(dtype)
    results(layer, torch.randn(1, 2, 2, *(9, 8, 7)[:axes], dtype=dtype))
    assert not packs
    if options == {"kernel_size": 3}:
        assert not forced  # other dtypes do not ask


@pytest.mark.parametrize("cell", CELLS)
def test_the_switch_for_direct_convolutions(cell, forced, packs, monkeypatch):
    layer, x = layer_and_frames(cell)
    monkeypatch.setattr(config, "direct_convolution", True)
    exact = results(layer, x)
    assert not packs
    assert not forced
    monkeypatch.setattr(config, "direct_convolution", False)
    assert not torch.equal(results(layer, x)[0], exact[0])
    assert packs


SIZES = [
    # channels, kernel, size, batch, steps; the convolution of h, the gradient of its weight
    (64, 3, (64, 64), 4, 10, True, True),
    (16, 3, (32, 32), 8, 20, True, True),
    (64, 3, (8, 8), 1, 1, False, False),
    (1, 3, (64, 64), 8, 10, False, False),
    (256, 3, (4, 4), 1, 1, False, False),
    (256, 3, (64, 64), 1, 1, True, True),
    (32, 5, (16, 16), 16, 6, True, False),
    (4, 5, (32, 32), 4, 10, False, False),
]


@pytest.mark.parametrize(("channels", "taps", "size", "batch", "steps", "faster", "gradient"), SIZES, ids=str)
def test_where_it_is_faster(channels, taps, size, batch, steps, faster, gradient):
    shape = (4 * channels, channels, taps, taps)
    assert winograd.is_faster(shape, size, batch, steps) is faster
    assert winograd.is_gradient_faster(shape, size, batch * steps) is gradient
    conv = SameConv((1, 1), ZEROS, steps)
    assert (conv.algorithm(shape, size, batch, compiled=True) == "Winograd") is faster
    assert conv.algorithm(shape, size, batch, compiled=False) != "Winograd"
    assert conv._replace(dilation=(1, 2)).algorithm(shape, size, batch, compiled=True) == "direct"
    for other in ((3, 5), (3,), (3, 3, 3), (1, 3), (4, 4), (7, 7)):
        assert not winograd.is_faster((*shape[:2], *other), size, batch, steps)
        assert not winograd.is_gradient_faster((*shape[:2], *other), size, batch * steps)


def test_two_objects_compute_an_attribute_at_the_same_time():
    barrier = Barrier(2, timeout=10)

    class Weight:
        @computed_once
        def transform(self):
            return barrier.wait()

    with ThreadPoolExecutor(2) as pool:
        weights = [Weight(), Weight()]
        found = list(pool.map(lambda weight: weight.transform, weights))
    assert sorted(found) == [0, 1]
    assert [weight.transform for weight in weights] == found
