"""Pixels that were not measured change nothing in training; weights of windows undo the sampling of crops."""

import pytest
import torch
from specifications import specified

import convlstm
from convlstm import EncoderForecaster
from convlstm.data import LabelledWindow, Source, Window, WindowDataset, base
from convlstm.errors import DataError, ShapeError
from convlstm.training.config import LOSS_NAMES, TrainingConfig
from convlstm.training.losses import loss_named
from convlstm.training.module import ForecastModule, loss_weight
from convlstm.verification.verify import verify

SHAPE = (3, 2, 1, 20, 24)


@pytest.fixture(params=LOSS_NAMES)
def loss(request):
    return loss_named(request.param, specified())


@pytest.fixture
def frames():
    draw = torch.Generator().manual_seed(0)
    forecast, future = torch.rand(2, *SHAPE, generator=draw).clone()
    valid = torch.rand(SHAPE, generator=draw) > 0.2
    valid[0, :, :, :, 4:] = True  # windows of SSIM that are measured whole
    valid[2, 1] = False
    return forecast, future, valid


def gradient(loss, forecast, batch):
    forecast = forecast.clone().requires_grad_()
    value = loss(forecast, batch.future, loss_weight(batch))
    value.backward()
    return value.detach(), forecast.grad


def batch_of(future, valid=None, weight=None):
    return LabelledWindow(future, future, valid, valid, weight=weight)


@pytest.mark.parametrize("fill", [-1e30, 255.0, float("nan"), float("inf")])
def test_what_stands_in_an_unmeasured_pixel_changes_nothing(loss, frames, fill):
    forecast, future, valid = frames
    first, second = (
        gradient(loss, forecast, batch_of(torch.where(valid, future, value), valid)) for value in (0.0, fill)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[1][~valid].abs().max() == 0
    assert (first[1][valid] != 0).float().mean() > 0.5


def test_nothing_measured_or_nothing_there_gives_no_loss(loss, frames):
    forecast, _, valid = frames
    value, slope = gradient(
        loss, forecast, batch_of(torch.zeros(SHAPE), torch.zeros(SHAPE, dtype=torch.bool))
    )
    assert value == 0
    assert slope.abs().max() == 0
    dry = torch.zeros(SHAPE)
    value, slope = gradient(loss, dry, batch_of(dry, valid))
    assert value == pytest.approx(0, abs=1e-6)
    assert slope.abs().max() < 1e-6


def test_the_mean_is_over_measured_pixels(frames):
    forecast, future, valid = frames
    value, _ = gradient(loss_named("mse"), forecast, batch_of(future, valid))
    assert value.item() == pytest.approx((forecast - future)[valid].square().mean().item(), rel=1e-5)


def test_a_weight_scales_the_gradient_of_its_window(loss, frames):
    forecast, future, valid = frames
    weights = torch.tensor([0.5, 3.0, 1.0])
    _, plain = gradient(loss, forecast, batch_of(future, valid))
    _, weighted = gradient(loss, forecast, batch_of(future, valid, weights))
    torch.testing.assert_close(weighted, plain * weights.view(3, 1, 1, 1, 1), rtol=1e-5, atol=1e-10)
    # Also of a batch of one.
    one = batch_of(future[:1], None, weights[:1])
    assert loss(forecast[:1], future[:1], loss_weight(one)).item() == pytest.approx(
        0.5 * loss(forecast[:1], future[:1], None).item(), rel=1e-5
    )


class Fed(EncoderForecaster):
    """Notes the frames that its steps are fed after the past."""

    def step(self, frame, carry):
        self.fed.append(frame.detach())
        return super().step(frame, carry)


def test_teacher_forcing_feeds_no_pixel_that_was_not_measured(frames):
    _, future, valid = frames
    torch.manual_seed(0)
    model = Fed(hidden_dim=[2])
    module = ForecastModule(model, TrainingConfig(curriculum="teacher", batch_size=3))
    module._trainer = _Alone()
    module.log = lambda *args, **options: None

    def fed(fill):
        model.fed = []
        filled = torch.where(valid, future, fill)
        batch = LabelledWindow(future, filled, torch.ones_like(valid), valid)
        value = module.training_step(batch, 0)
        model.zero_grad()
        value.backward()
        return model.fed, {name: weight.grad.clone() for name, weight in model.named_parameters()}

    (frames_fed, slopes), (others_fed, other_slopes) = fed(0.0), fed(1e9)
    assert len(frames_fed) == SHAPE[1]
    seen = frames_fed[1]  # where the first frame of the future was measured it is fed, elsewhere the forecast
    assert torch.equal(seen[valid[:, 0]], future[:, 0][valid[:, 0]])
    assert all(torch.equal(a, b) for a, b in zip(frames_fed, others_fed, strict=True))
    assert all(torch.equal(slopes[name], other_slopes[name]) for name in slopes)


class _Alone:
    """The trainer of one process at its first step."""

    world_size, global_step, global_rank = 1, 0, 0


class Labels(WindowDataset):
    """Windows of noise with the labels that are named, and None for all others."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return 6

    def __getitem__(self, index):
        base.check_index(index, 6)
        draw = torch.Generator().manual_seed(index)
        frames = torch.rand(4, 1, 12, 12, generator=draw)
        found = {
            "future_valid": torch.rand(2, 1, 12, 12, generator=draw) > 0.5,
            "inputs": torch.rand(4, 2, 12, 12, generator=draw),
            "times": torch.arange(4, dtype=torch.float64) + 10 * index,
        }
        return LabelledWindow(frames[:2], frames[2:], **{name: found[name] for name in self.names})


class Labelled(Source):
    """Source of one's own, whose windows have some labels."""

    past, steps, channels = 2, 2, 1

    def __init__(self, names):
        self.names, self.extra_channels = names, 2 if "inputs" in names else 0

    def split(self, name):
        return Labels(self.names)

    def describe(self):
        return "noise"


@pytest.mark.parametrize("names", [("future_valid",), ("inputs", "times")])
def test_windows_of_ones_own_may_have_some_labels_alone(tmp_path, names):
    """They were refused with a traceback of torch's collating."""
    source = Labelled(names)
    model = EncoderForecaster(1, [3], extra_channels=source.extra_channels)
    config = TrainingConfig(epochs=1, batch_size=3, accelerator="cpu")
    run = convlstm.train(data=source, model=model, config=config, out=tmp_path / "run")
    found = convlstm.evaluate(run.model, data=source, out=tmp_path / "scores")
    assert run.metrics[0]["val_mse"] == pytest.approx(found.scores["mse"].overall["encoder_forecaster"])
    masks = [Labels(names)[k].future_valid for k in range(6)]
    measured = sum(2 * 144 if mask is None else int(mask.sum()) for mask in masks)
    assert sum(found.scores["mse"].samples) == measured


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("future_valid", torch.ones(2, 12, 12, dtype=torch.bool)),
        ("past_valid", torch.ones(2, 1, 12, 12)),
        ("inputs", torch.zeros(2, 2, 12, 12)),
        ("times", torch.zeros(2)),
        ("weight", torch.ones(1)),
    ],
)
def test_labels_of_another_shape_are_refused(name, label):
    """A mask without channels was broadcast where there are as many windows in a batch as steps."""
    window = Labels(("times",))[0]._replace(**{name: label})
    batch = base.batch_of([window, window])
    with pytest.raises(ShapeError, match=f"^{name} of a window must be .*: give it as LabelledWindow says"):
        base.check_labels(window)
    with pytest.raises(ShapeError, match=f"^{name} of a window must be"):
        verify(EncoderForecaster(1, [3]), [batch])


class OneSplit(Labelled):
    """The windows of a split have one label more."""

    def __init__(self, of, **label):
        super().__init__(())
        self.of, self.label = of, label

    def split(self, name):
        return Relabelled(self.label if name == self.of else {})


class Relabelled(Labels):
    def __init__(self, label):
        super().__init__(())
        self.label = label

    def __getitem__(self, index):
        return super().__getitem__(index)._replace(**self.label)


@pytest.mark.parametrize(
    "label", [{"future_valid": torch.zeros(2, 1, 12, 12, dtype=torch.bool)}, {"weight": torch.tensor(0.0)}]
)
def test_training_without_a_measured_pixel_is_refused(label, tmp_path):
    """It ended without a word, and the first weights were kept as what was learned."""
    config = TrainingConfig(epochs=1, batch_size=3, accelerator="cpu")
    data, model = OneSplit("train", **label), EncoderForecaster(1, [3])
    with pytest.raises(DataError, match="training windows must have measured pixels, with weights above 0"):
        convlstm.train(data=data, model=model, config=config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_weights_below_0_and_no_numbers_are_refused(split, weight, tmp_path):
    """Errors of windows of a weight below 0 were made greater; NaN was put down to the learning rate."""
    config = TrainingConfig(epochs=1, batch_size=3, accelerator="cpu")
    data, model = OneSplit(split, weight=torch.tensor(weight)), EncoderForecaster(1, [3])
    with pytest.raises(
        DataError, match=rf"weights of .*; a batch of {split}\w* windows has {weight:g}: give"
    ):
        convlstm.train(data=data, model=model, config=config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_without_a_measured_pixel_is_refused(tmp_path, monkeypatch):
    """The model of the first epoch was taken for the best, without a word."""
    whole = Labels.__getitem__
    masked = {"future_valid": torch.zeros(2, 1, 12, 12, dtype=torch.bool)}
    monkeypatch.setattr(Labels, "__getitem__", lambda self, index: whole(self, index)._replace(**masked))
    config = TrainingConfig(epochs=1, batch_size=3, accelerator="cpu")
    model = EncoderForecaster(1, [3])
    with pytest.raises(DataError, match="validation windows must have measured pixels"):
        convlstm.train(data=Labelled(()), model=model, config=config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_windows_of_a_batch_have_the_same_labels():
    """They ended in tracebacks."""
    windows = [Labels(("times",))[0], Labels(())[1]]
    wider = [Window(*Labels(())[0][:2]), Window(torch.zeros(2, 1, 12, 13), torch.zeros(2, 1, 12, 13))]
    with pytest.raises(ShapeError, match=r"one size; past has \(2, 1, 12, 12\) and \(2, 1, 12, 13\): cut"):
        base.batch_of(wider)
    with pytest.raises(DataError, match="must be of one class"):
        base.batch_of([windows[0], wider[0]])
    with pytest.raises(DataError, match="must have the same labels; received times for some and None"):
        base.batch_of(windows)
