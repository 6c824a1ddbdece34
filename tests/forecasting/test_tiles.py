"""Tiles: equal to whole frames, exactly as wide as a model sees, and memory that is stated and held."""

import gc
import mmap
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from convlstm import ConvLSTM, EncoderForecaster, Forecaster
from convlstm.cells import ConvLSTMCell
from convlstm.errors import OptionError, RunError
from convlstm.forecasting import tiles
from convlstm.forecasting.tiles import forecast_frames, influence_radius
from convlstm.models import Blank
from convlstm.models.base import run_forecaster
from convlstm.system_memory import process_bytes

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak of memory")


def network(**options):
    torch.manual_seed(0)
    net = EncoderForecaster(hidden_dim=[6, 6], **options).eval()
    for weight in net.parameters():  # as much as a trained one, so that what is far away counts
        weight.data *= 2.0
    return net


def frames(height, width, past=2, channels=1, seed=0):
    return torch.rand(1, past, channels, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reached(model, past, steps, inputs=None):
    """Pixels beside the middle block whose change changes the block, found one by one, in float64."""
    model, past = model.double(), past.double()
    whole = run_forecaster(model, past, steps)[..., past.shape[-1] // 2 :][..., :32]
    for distance in range(past.shape[-1] // 2, 0, -1):
        found = False
        for column in (past.shape[-1] // 2 - distance, past.shape[-1] // 2 + 31 + distance):
            if column < past.shape[-1]:
                changed = past.clone()
                changed[..., column] = 1 - changed[..., column]
                other = run_forecaster(model, changed, steps)[..., past.shape[-1] // 2 :][..., :32]
                found |= not torch.equal(other, whole)
        if found:
            return distance
    return 0


@pytest.mark.parametrize(
    "options", [{"patch_size": 1}, {"patch_size": 2, "output": "relu"}, {"skip": False, "filter_radius": 0}]
)
def test_the_radius_is_that_of_the_farthest_pixel_that_matters(options):
    net, past = network(**options), frames(32, 192)
    assert influence_radius(net, past, 1) == reached(net, past, 1)


def test_the_radius_of_the_default_network_at_twelve_frames_to_twelve():
    assert influence_radius(network(), frames(8, 8, past=12), 12) == 236


@pytest.mark.parametrize("size", [(170, 230), (64, 350), (97, 70)])
@pytest.mark.parametrize("options", [{}, {"extra_channels": 2}])
def test_tiles_give_the_forecast_of_whole_frames(size, options):
    net, past = network(**options), frames(*size)
    inputs = frames(*size, past=5, channels=2, seed=1) if options else None
    with torch.inference_mode():
        whole = run_forecaster(net, past, 3, inputs)
        tiled = forecast_frames(net, past, 3, inputs, tile=40)
    assert whole.std() > 0.1
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dilation", [(6, 1), (1, 6)])
def test_tiles_are_as_wide_as_the_model_sees_along_either_axis(dilation):
    net = network(patch_size=1, cell=partial(ConvLSTMCell, dilation=dilation))
    past = frames(230, 48) if dilation[0] > 1 else frames(48, 230)
    with torch.inference_mode():
        whole, tiled = run_forecaster(net, past, 2), forecast_frames(net, past, 2, tile=32)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [("circular", "zeros"), ("zeros", "circular")])
def test_a_model_for_which_one_side_continues_the_other_is_refused(mode):
    net = network(cell=partial(ConvLSTMCell, padding_mode=mode))
    with pytest.raises(OptionError, match="tiles need a model that sees a part of the frame"):
        forecast_frames(net, frames(96, 96), 1, tile=32)


class Shut(Forecaster):
    """A mean of neighbours behind a ReLU that opens only above 1: for brighter frames than random ones."""

    def forward(self, past, steps):
        mean = torch.nn.functional.avg_pool2d(past[:, -1], 9, 1, 4)
        return torch.relu(mean - 1)[:, None].expand(-1, steps, -1, -1, -1)


@pytest.mark.parametrize("model", [Shut(), Blank()])
def test_a_forecast_without_gradients_is_refused(model):
    """Its tiles were put together without any overlap."""
    with pytest.raises(OptionError, match="tiles need a model whose forecast has gradients"):
        forecast_frames(model.eval(), 3 * frames(96, 96), 1, tile=32)


def test_a_narrower_overlap_would_show():
    """The test above fails where tiles do not overlap."""
    net, past = network(), frames(200, 301)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "influence_radius", lambda *_: 0)
        seams = forecast_frames(net, past, 3, tile=64) - run_forecaster(net, past, 3)
    assert seams.abs().max() > 1e-2


class Greedy(Forecaster):
    """A model that asks for more memory than there is in a forecast of 400 pixels."""

    def forward(self, past, steps):
        if past.shape[-1] == 400:
            torch.empty(2**50)
        return past[:, -1:].expand(-1, steps, -1, -1, -1)


def test_a_forecast_that_memory_does_not_hold_is_one_sentence():
    rule = (
        r"a forecast must fit in memory; one of 2 frames of 300 x 400 .* and [\d.]+ [GM]iB are free: .*--tile"
    )
    with pytest.raises(RunError, match=rule):
        forecast_frames(Greedy(), frames(300, 400), 2)


class Mean(Forecaster):
    """A model whose forecast depends on the whole frame."""

    def __init__(self):
        super().__init__()
        self.layer = ConvLSTM(1, 1, 3, batch_first=True)

    def forward(self, past, steps):
        outputs, _ = self.layer(past)
        return (outputs[0][:, -1:] + past.mean((-1, -2), keepdim=True)[:, -1:]).expand(-1, steps, -1, -1, -1)


def test_a_tile_as_large_as_the_frame_is_the_whole_frame():
    model, past = Mean(), frames(20, 28)
    with torch.no_grad():
        assert torch.equal(forecast_frames(model, past, 2, tile=28), model(past, 2))


def test_a_model_that_sees_the_whole_frame_is_refused():
    with pytest.raises(OptionError, match="tiles need a model that sees a part of the frame"):
        forecast_frames(Mean().eval(), frames(64, 64), 2, tile=32)


@LINUX
def test_memory_is_stated_and_held(caplog, monkeypatch):
    """The peak of a forecast is below what is said before it, and not by far."""
    caplog.set_level("INFO", "convlstm")
    monkeypatch.setattr(tiles, "_LARGE", 1)
    net, past = EncoderForecaster(hidden_dim=[32, 16]).eval(), frames(448, 448)
    peaks = []
    run = run_forecaster

    def measured(model, frames, *rest, **options):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = process_bytes("VmRSS")
        made = run(model, frames, *rest, **options)
        peaks.append(process_bytes("VmHWM") - before)
        return made

    with torch.inference_mode():
        stated = tiles.bytes_per_pixel(net, past, 1) * 448**2
        monkeypatch.setattr(tiles, "bytes_per_pixel", lambda *_: stated / 448**2)
        monkeypatch.setattr(tiles, "run_forecaster", measured)
        forecast_frames(net, past, 1)
        assert re.search(
            r"at most about [\d.]+ [GM]iB for 448 x 448 pixels; [\d.]+ [GM]iB are free", caplog.text
        )
        assert 0.4 * stated < peaks[0] < stated
        monkeypatch.setattr(tiles, "free_memory", lambda _: stated / 2)
        tiled = forecast_frames(net, past, 1)
    assert "tiles: " in caplog.text
    assert max(peaks[1:]) < stated / 2
    torch.testing.assert_close(tiled, run(net, past, 1), rtol=0, atol=1e-5)


@LINUX
def test_too_little_memory_for_the_smallest_tile_is_refused(monkeypatch):
    monkeypatch.setattr(tiles, "_LARGE", 1)
    monkeypatch.setattr(tiles, "free_memory", lambda _: 1e6)
    with torch.inference_mode(), pytest.raises(OptionError, match="must fit in memory; 0.95 MiB are free"):
        forecast_frames(network(), frames(64, 64), 2)


@LINUX
def test_pages_of_files_that_the_kernel_drops_do_not_lower_what_is_stated(monkeypatch, tmp_path):
    """The resident set shrinks by pages of libraries and files, at a moment of the kernel's choice."""
    (tmp_path / "large").write_bytes(b"1" * 50_000_000)
    net, past, run = EncoderForecaster(hidden_dim=[32, 16]).eval(), frames(64, 64), run_forecaster
    with open(tmp_path / "large", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:

        def dropping(model, past, *rest):
            if past.shape[-1] == tiles._PROBE:
                pages.madvise(mmap.MADV_DONTNEED)
            return run(model, past, *rest)

        with torch.inference_mode():
            usual = tiles.bytes_per_pixel(net, past, 1)
            assert sum(pages[k] for k in range(0, len(pages), mmap.PAGESIZE))  # reads all of it
            monkeypatch.setattr(tiles, "run_forecaster", dropping)
            assert tiles.bytes_per_pixel(net, past, 1) > 0.9 * usual
