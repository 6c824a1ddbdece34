"""Memory that is stated before a model runs, beside that measured when it runs."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import measured_memory
import pytest
import torch
from torch import nn

from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvLSTMCell,
    EncoderForecaster,
    Forecaster,
    MinConvGRUCell,
    MinConvLSTMCell,
    PredRNN,
)
from convlstm.engines.dry_run import DryRun, DryTensor, active
from convlstm.errors import OptionError, ShapeError
from convlstm.models.memory import CallSizes, inference_bytes, multiply_adds, parameters, training_bytes

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak of memory")
WITHIN = 0.15
CASES = [
    (name, size, mixed) for name in measured_memory.CASES for size, mixed in measured_memory.settings(name)
]


@pytest.fixture(scope="module")
def measured():
    """Stated and taken bytes by case, measured in a process whose C library returns what is freed."""
    environment = os.environ | measured_memory.ENVIRONMENT
    script = Path(measured_memory.__file__)
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True
    )
    rows = map(json.loads, done.stdout.splitlines())
    return {(name, tuple(size), mixed): figures for name, size, mixed, *figures in rows}


@LINUX
@pytest.mark.parametrize(("name", "size", "mixed"), CASES)
def test_stated_memory_is_that_which_is_taken(measured, name, size, mixed):
    (training, inference), (training_taken, inference_taken) = measured[name, size, mixed]
    assert training == pytest.approx(training_taken, rel=WITHIN)
    assert inference == pytest.approx(inference_taken, rel=WITHIN)


def allocated(work):
    """Bytes that a real call holds between the two passes, by torch's hooks of saved tensors."""
    held = {}

    def note(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = work()
    return sum(held.values()), outputs


@pytest.mark.parametrize("engine", ["reference", "fused", "compiled"])
@pytest.mark.parametrize("make", [ConvLSTM, ConvGRU])
def test_what_is_held_is_what_autograd_saves(engine, make):
    """Without the outputs, which nobody saves, and with the weights and frames, which are not stated."""
    model = make(2, [8, 8], 3, batch_first=True, engine=engine, save="gates")
    frames = torch.rand(2, 4, 2, 64, 64)
    saved, outputs = allocated(lambda: model(frames)[0][-1])
    stated = training_bytes(model, CallSizes((64, 64), 4, 0, 2)).held
    assert stated == pytest.approx(saved + outputs.nbytes, rel=0.1)


def test_saving_the_state_alone_mixed_precision_and_small_batches_take_less():
    frames = CallSizes((96, 96), 4, 4, 2)
    usual = training_bytes(EncoderForecaster(hidden_dim=[8, 8], save="gates"), frames)
    less = training_bytes(EncoderForecaster(hidden_dim=[8, 8], save="state"), frames)
    mixed = training_bytes(EncoderForecaster(hidden_dim=[8, 8], save="gates"), frames, mixed=True)
    single = training_bytes(EncoderForecaster(hidden_dim=[8, 8], save="gates"), frames._replace(batch_size=1))
    assert less.held < 0.8 * usual.held
    assert mixed.held < 0.75 * usual.held
    assert single.held == pytest.approx(usual.held / 2, rel=0.04)  # and transformed weights
    assert usual.held < usual.most


def test_steps_that_are_computed_again_are_not_held():
    frames = CallSizes((64, 64), 16, 0)
    usual, again = (
        training_bytes(ConvLSTM(1, [16, 16], 3, batch_first=True, checkpoint=n), frames) for n in (None, 4)
    )
    assert again.held < 0.5 * usual.held


def test_a_linear_recurrence_is_counted():
    model = ConvLSTM(1, [8], 3, batch_first=True, cell=MinConvGRUCell)
    frames = torch.rand(1, 6, 1, 64, 64)
    saved, outputs = allocated(lambda: model(frames)[0][-1])
    assert training_bytes(model, CallSizes((64, 64), 6, 0)).held == pytest.approx(
        saved + outputs.nbytes, rel=0.3
    )


def test_a_model_that_is_counted_stays_as_it_is():
    model = PredRNN(hidden_dim=[8, 8], kernel_size=3).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frames = CallSizes((32, 32), 3, 2)
    training_bytes(model, frames)
    inference_bytes(model, frames)
    multiply_adds(model, frames)
    assert not model.training
    assert active() is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert type(tensor) is torch.Tensor
    assert all(weight.grad is None and type(weight) is nn.Parameter for weight in model.parameters())
    assert torch.isfinite(model(torch.rand(1, 3, 1, 32, 32), 2)).all()


def test_calls_after_a_dry_run_compute():
    """Neither kernels nor what they keep from call to call belong to the dry run."""
    torch.manual_seed(0)
    frames = torch.rand(2, 3, 1, 48, 48)
    for engine in ("fused", "compiled"):
        model = ConvLSTM(1, [8], 3, batch_first=True, engine=engine)
        for mixed in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                training_bytes(model, CallSizes((48, 48), 3, 0, 2), mixed=mixed)
                found = model(frames)[0][0]
                expected = model.set_engine("reference")(frames)[0][0]
                model.set_engine(engine)
            assert found.abs().max() > 0.01
            torch.testing.assert_close(
                found.float(), expected.float(), rtol=0, atol=1e-5 if not mixed else 0.01
            )


def test_operations_of_a_convolution():
    model = ConvLSTM(3, [5], 3, batch_first=True)
    assert multiply_adds(model, CallSizes((10, 12), 4, 0)) == 4 * 120 * (3 + 5) * 4 * 5 * 9
    assert parameters(model) == (3 + 5) * 4 * 5 * 9 + 4 * 5


def test_dry_tensors_are_counted_once_and_until_they_are_freed():
    with DryRun() as run:
        x = torch.zeros(1000)
        assert isinstance(x, DryTensor)
        assert run.bytes == 4000
        view = x.view(10, 100)[2:]
        view.add_(1)
        assert run.bytes == 4000
        y = x * 2
        assert run.bytes == 8000
        del x, y
        assert run.bytes == 4000
        del view
        assert (run.bytes, run.most_bytes) == (0, 8000)


class ByValue(Forecaster):
    """A model that looks at its frames before it computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, past, steps):
        if past.sum() > 0:
            past = past * 2
        return self.layer(past[:, -1])[:, None].expand(-1, steps, -1, -1, -1)


def test_a_model_that_looks_at_values_is_refused():
    with pytest.raises(OptionError, match="operations do not depend on the values of frames; ByValue gave"):
        training_bytes(ByValue(), CallSizes((8, 8), 2, 1))


def test_a_size_that_the_model_does_not_take_is_refused_by_the_model():
    cell = partial(ConvLSTMCell, peephole="pixel", image_size=[16, 16])
    fixed = EncoderForecaster(hidden_dim=[4], cell=cell)
    with pytest.raises(ShapeError, match=r"peephole=pixel fixes the size of frames to \(16, 16\); received"):
        training_bytes(fixed, CallSizes((48, 48), 2, 1))


@pytest.mark.parametrize("cell", [MinConvGRUCell, MinConvLSTMCell])
def test_clips_of_a_thousand_frames_of_a_linear_cell_take_little_and_in_proportion(cell):
    layers = ConvLSTM(1, [16, 16], 3, batch_first=True, cell=cell)
    half, whole = (training_bytes(layers, CallSizes((32, 32), steps, 0, 4)).most for steps in (500, 1000))
    assert whole < 4 * 2**30
    assert whole == pytest.approx(2 * half, rel=0.01)
