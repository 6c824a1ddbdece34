"""The encoder-forecaster: any steps, any size, feedback of its own forecasts, and states that reach it."""

import pytest
import torch
import torch.nn.functional as F

from convlstm import ConvLSTMCell, EncoderForecaster, StackForecaster
from convlstm.errors import ConvLSTMError, OptionError, ShapeError
from convlstm.functional.motion import advect, motion_field
from convlstm.models.baselines import Advection


@pytest.fixture
def model():
    torch.manual_seed(0)
    return EncoderForecaster(2, [4, 5, 3], [3, 5, 3], patch_size=2).double()


def frames(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 30), (1, 9), (8, 40)])
@pytest.mark.parametrize(("length", "steps"), [(1, 1), (5, 3), (2, 12)])
def test_any_number_of_frames_and_any_size(model, height, width, length, steps):
    forecast = model(frames(2, length, 2, height, width), steps)
    assert forecast.shape == (2, steps, 2, height, width)


def test_more_steps_continue_fewer(model):
    past = frames(1, 4, 2, 16, 16)
    torch.testing.assert_close(model(past, 7)[:, :3], model(past, 3))


def test_step_k_depends_on_the_forecast_of_step_k_minus_1(model):
    """Feeding another frame after step 1 changes step 2 on; feeding the forecast itself changes nothing."""
    past, steps = frames(1, 4, 2, 16, 16), 4
    free = model(past, steps)
    forced = torch.tensor([[False, True, False, False]])
    torch.testing.assert_close(model(past, steps, future=free.detach(), forced=forced), free)
    other = model(past, steps, future=1 - free.detach(), forced=forced)
    changed = (other != free).flatten(2).any(dim=2)[0]
    assert changed.tolist() == [False, False, True, True]


def test_no_future_frame_is_seen_before_it_is_fed(model):
    past, future = frames(1, 4, 2, 16, 16), frames(1, 4, 2, 16, 16).requires_grad_()
    forecast = model(past, 4, future=future, forced=torch.ones(1, 4, dtype=torch.bool))
    for k in range(4):
        (gradient,) = torch.autograd.grad(forecast[:, k].sum(), future, retain_graph=True, allow_unused=True)
        seen = gradient.flatten(2).abs().sum(dim=2)[0] > 0 if gradient is not None else torch.zeros(4)
        assert seen.tolist() == [j < k for j in range(4)]


@pytest.mark.parametrize("skip", [True, False])
def test_the_encoders_h_and_c_reach_the_forecaster(skip):
    torch.manual_seed(0)
    model = EncoderForecaster(1, [3, 4], skip=skip)
    states = []
    for cell in model.encoder:
        cell.register_forward_hook(lambda cell, inputs, state: states.append(state))
    forecast = model(torch.rand(1, 3, 1, 16, 16), 1)
    last = states[4:]  # two steps of each level, then the last one of both
    for state in last:
        for name, tensor in state._asdict().items():
            (gradient,) = torch.autograd.grad(forecast.sum(), tensor, retain_graph=True)
            assert gradient.abs().sum() > 0, name


def test_skip_connects_equal_resolutions():
    """With nothing coming up from below, the encoder still reaches the forecaster of the same level."""
    for skip in (True, False):
        torch.manual_seed(0)
        model = EncoderForecaster(1, [3, 4], skip=skip)
        with torch.no_grad():
            model.up[0].weight.zero_()
        features = [torch.randn(1, n, size, size, requires_grad=True) for n, size in ((3, 8), (4, 4))]
        _, (fine, _) = model._write(
            torch.zeros(1, 1, 16, 16),
            features,
            [cell.initial_state(h) for cell, h in zip(model.forecaster, features, strict=True)],
        )
        gradients = torch.autograd.grad(fine.h.sum(), features, allow_unused=True)
        assert [g is not None and bool(g.abs().sum() > 0) for g in gradients] == [skip, False]


def test_every_parameter_gets_a_gradient(model):
    model(frames(2, 3, 2, 16, 16), 3).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("output", "low", "high"), [("linear", -1e9, 1e9), ("sigmoid", 0, 1), ("relu", 0, 1e9)]
)
def test_output_bounds(output, low, high):
    torch.manual_seed(0)
    model = EncoderForecaster(1, [3], output=output)
    with torch.no_grad():
        model.head.weight.mul_(100)
    forecast = model(torch.randn(2, 3, 1, 8, 8), 2)
    assert forecast.min() >= low
    assert forecast.max() <= high
    assert (forecast.min() < -1) == (output == "linear")


def test_arguments_have_an_effect():
    plain = EncoderForecaster().hyperparameters
    for name, value in {
        "hidden_dim": [8],
        "kernel_size": 5,
        "patch_size": 4,
        "skip": False,
        "filter_radius": 3,
        "channels": 3,
    }.items():
        shapes = [p.shape for p in EncoderForecaster(**{name: value}).parameters()]
        assert shapes != [p.shape for p in EncoderForecaster.rebuild(plain).parameters()], name


def test_a_cell_with_a_spatiotemporal_memory_is_refused():
    class WithMemory(ConvLSTMCell):
        spatiotemporal_memory = True

    with pytest.raises(
        OptionError, match="must have no spatiotemporal memory.*received one that has: use it"
    ):
        EncoderForecaster(1, [3], cell=WithMemory)


def test_forcing_that_does_not_fit_is_named(model):
    past, future, forced = frames(1, 4, 2, 8, 8), frames(1, 2, 2, 8, 8), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"future must hold the frames of all steps, \(1, 3, 2, 8, 8\)"):
        model(past, 3, future=future, forced=torch.ones(1, 3, dtype=torch.bool))
    for flags in (forced[:, :1], forced.float()):
        with pytest.raises(ShapeError, match=r"forced must be bool \(B, L\) = \(1, 2\); received torch"):
            model(past, 2, future=future, forced=flags)


def test_a_stream_says_what_does_not_fit(model):
    session = model.stream()
    with pytest.raises(OptionError, match="at least one frame; received none: call update"):
        session.forecast(1)
    session.update(frames(1, 2, 8, 8))
    with pytest.raises(ShapeError, match=r"received shape \(1, 1, 2, 8, 8\): a stream takes one step"):
        session.update(frames(1, 1, 2, 8, 8))
    with pytest.raises(ShapeError, match=r"a frame must have the .* dtype and device"):
        session.update(frames(1, 2, 8, 8).float())
    with pytest.raises(ShapeError, match=r"as the first one of the stream; received \(1, 2, 8, 9\)"):
        session.update(frames(1, 2, 8, 9))
    with pytest.raises(OptionError, match="steps must be at least 1; received 0"):
        session.forecast(0)


def test_a_copy_of_a_stream_goes_on_independently(model):
    past = frames(1, 4, 2, 8, 9)
    session = model.stream()
    for t in range(3):
        session.update(past[:, t])
    other = session.copy()
    other.update(past[:, 3])
    torch.testing.assert_close(session.forecast(3), model(past[:, :3], 3))
    torch.testing.assert_close(other.forecast(3), model(past, 3))


def test_transport_is_the_earlier_name_of_filter_radius(tmp_path):
    with pytest.warns(DeprecationWarning, match="transport is the earlier name of filter_radius: write"):
        old = EncoderForecaster(hidden_dim=[3], transport=1)
    assert old.filter_radius == 1
    assert old.hyperparameters == EncoderForecaster(hidden_dim=[3], filter_radius=1).hyperparameters
    config = old.save_pretrained(tmp_path) / "config.json"
    text = config.read_text()
    assert "transport" not in text
    config.write_text(text.replace('"filter_radius"', '"transport"'))  # as earlier versions wrote it
    with pytest.warns(DeprecationWarning, match="earlier name"):
        again = EncoderForecaster.from_pretrained(tmp_path)
    past = torch.rand(1, 2, 1, 8, 8)
    torch.testing.assert_close(again(past, 2), old.eval()(past, 2), rtol=0, atol=0)


def test_a_frame_of_the_past_is_read_by_the_encoder_alone(model, monkeypatch):
    """A stream forecasts from the encoder's states, as one call does, and makes none before."""
    stream, past = model.stream(), frames(1, 4, 2, 17, 30)
    written = []
    inner = model._write
    monkeypatch.setattr(model, "_write", lambda *args: written.append(1) or inner(*args))
    for frame in past.unbind(1):
        stream.update(frame)
    assert not written
    torch.testing.assert_close(stream.forecast(3), model(past, 3))


def test_a_stream_does_not_share_memory_with_the_frames_it_is_given(model):
    past, session, buffer = frames(1, 3, 2, 16, 16), model.stream(), torch.empty(1, 2, 16, 16).double()
    for frame in past.unbind(1):
        session.update(buffer.copy_(frame))
    buffer.zero_()
    torch.testing.assert_close(session.forecast(2), model(past, 2))


class InPlace(StackForecaster):
    """Subtracts a mean from the very frames that it is given."""

    def start(self, past):
        return super().start(past.sub_(0.5))

    def step(self, frame, carry):
        forecast, carry = super().step(frame.sub_(0.5), carry)
        return forecast + frame + 0.5, carry

    def observe(self, frame, carry):
        return self.step(frame, carry)[1]


class OutOfPlace(InPlace):
    def start(self, past):
        return super().start(past.clone())

    def step(self, frame, carry):
        return super().step(frame.clone(), carry)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_may_change_the_frames_it_is_given(training):
    """Forecasts were changed by the step after them, and the frame of a stream by each forecast."""
    own, other = (kind(hidden_dim=[3], patch_size=1).double() for kind in (InPlace, OutOfPlace))
    other.load_state_dict(own.state_dict())
    past, session = frames(2, 3, 1, 6, 6), own.stream()
    expected = other(past, 3)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(own(past.clone(), 3), expected)
    for frame in past.unbind(1):
        session.update(frame)
    torch.testing.assert_close(session.forecast(3), session.forecast(3))
    torch.testing.assert_close(session.forecast(3), expected)


def test_bad_input_is_named(model):
    with pytest.raises(
        ShapeError, match=r"\(B, K, C, H, W\); received shape \(4, 2, 8, 8\): add a batch axis"
    ):
        model(frames(4, 2, 8, 8), 1)
    with pytest.raises(ShapeError, match=r"2 channel\(s\) on axis 2 .* received \(1, 4, 1, 8, 8\)"):
        model(frames(1, 4, 1, 8, 8), 1)
    with pytest.raises(ShapeError, match=r"at least 1 frame\(s\); received 0"):
        model(frames(1, 0, 2, 8, 8), 1)
    with pytest.raises(OptionError, match="steps must be at least 1; received 0"):
        model(frames(1, 4, 2, 8, 8), 0)
    with pytest.raises(ShapeError, match=r"past \(B, K, C, H, W\) must be a tensor; received a list"):
        model([1], 1)
    with pytest.raises(ShapeError, match=r"past must have the .* dtype and device, .* received .*float32"):
        model(frames(1, 4, 2, 8, 8).float(), 1)
    with pytest.raises(OptionError, match="steps must be an integer of at least 1; received 1.5"):
        model(frames(1, 4, 2, 8, 8), 1.5)
    with pytest.raises(ShapeError, match="future and forced must be given together"):
        model(frames(1, 4, 2, 8, 8), 2, future=frames(1, 2, 2, 8, 8))
    with pytest.raises(OptionError, match="output must be one of .* did you mean 'sigmoid'"):
        EncoderForecaster(output="sigmoide")
    with pytest.raises(ConvLSTMError, match=r"one entry per level \(2\); received \[3\]"):
        EncoderForecaster(hidden_dim=[4, 4], kernel_size=[3])


def test_a_fresh_model_mostly_carries_the_last_frame_on():
    """Before any training, the filter keeps what was there; without it there is nothing to keep."""
    past = torch.rand(2, 3, 1, 16, 16)
    torch.manual_seed(0)
    errors = [
        (EncoderForecaster(hidden_dim=[4, 4], filter_radius=n)(past, 1)[:, 0] - past[:, -1]).square().mean()
        for n in (2, 0)
    ]
    assert errors[0] < 0.3 * errors[1]


def test_the_engine_asked_for_does_the_arithmetic(monkeypatch):
    from convlstm import engines

    torch.manual_seed(0)
    fast = EncoderForecaster(2, [4, 5], engine="fused")
    slow = EncoderForecaster(2, [4, 5], engine="reference")
    slow.load_state_dict(fast.state_dict())
    past, calls = frames(2, 4, 2, 16, 16).float(), []
    inner = engines.run
    monkeypatch.setattr(engines, "run", lambda *args, **options: calls.append(1) or inner(*args, **options))
    forecasts = [model(past, 3) for model in (fast, slow)]
    # Two levels: the past but its last frame and three single frames are read, three are written.
    assert len(calls) == 2 * (1 + 3) + 2 * 3
    torch.testing.assert_close(*forecasts)
    gradients = [
        torch.autograd.grad(f.square().sum(), m.parameters())
        for f, m in zip(forecasts, (fast, slow), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="engine must be one of auto, compiled, fused, reference"):
        EncoderForecaster(2, [4, 5], engine="fast")


@pytest.mark.parametrize("radius", [0, 2])
def test_a_fresh_model_with_advection_forecasts_as_advection_does(radius):
    """Frames that move 5 pixels a step, further than the filter reaches."""
    torch.manual_seed(0)
    field = F.avg_pool2d(frames(1, 1, 64, 140), 3, stride=1)
    # (1, 7, 1, 62, 60)
    sequence = torch.stack([field[..., 65 - 5 * k : 125 - 5 * k] for k in range(7)], dim=1)
    past, future = sequence[:, :4], sequence[:, 4:]
    model = EncoderForecaster(1, [4, 4], filter_radius=radius, advection=True).double()
    inside = (..., slice(4, -4), slice(20, -4))
    forecast, spread = model(past, 3)[inside], future[inside].std()
    assert (forecast - Advection()(past, 3)[inside]).std() < 0.15 * spread
    assert (forecast - future[inside]).std() < 0.2 * spread
    assert (past[:, -1:] - future)[inside].std() > 0.8 * spread


def test_motion_is_that_of_the_observed_frames():
    """Forecasts that are fed, or true frames in training, leave the motion as it is."""
    torch.manual_seed(0)
    model, past = EncoderForecaster(2, [3], advection=True).double(), frames(1, 5, 2, 16, 16)
    carry, frame, velocities = model.start(past), past[:, -1], []
    for _ in range(3):
        frame, carry = model.step(frame.roll(3, -1), carry)
        velocities.append(carry.motion.trajectory.velocity)
    torch.testing.assert_close(
        velocities[0], motion_field(torch.cat([past[:, 1:-1], past[:, -1:].roll(3, -1)], 1))
    )
    assert torch.equal(velocities[0], velocities[2])
    assert model.observe(past[:, -1], carry).motion is None


def test_the_observed_frame_is_interpolated_once():
    """Steps one by one do not blur it: without a head, the forecast is the advection of all steps."""
    torch.manual_seed(0)
    model = EncoderForecaster(1, [4], filter_radius=0, advection=True).double()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    past = torch.stack([frames(1, 1, 40, 40).roll(k, -1) * (1 + 0.2 * k) for k in range(4)], dim=1)
    past = past + 0.1 * frames(1, 4, 1, 40, 40)
    velocity = motion_field(past)
    assert velocity.frac().abs().max() > 0.01
    torch.testing.assert_close(model(past, 5), advect(past[:, -1], velocity, 5))


def test_zeros_come_in_from_outside_in_evaluation_alone():
    """A bright column at the border moves in: with zeros behind it, else as a streak; training keeps that."""
    torch.manual_seed(0)
    model = EncoderForecaster(1, [4], filter_radius=0, advection=True, zero_outside=True).double()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    texture = frames(1, 1, 24, 60)
    past = torch.stack([texture[..., 12 - 3 * k : 36 - 3 * k] for k in range(4)], dim=1)
    velocity = motion_field(past)
    assert velocity[0, 1].mean() > 2.5
    zeros = advect(past[:, -1], velocity, 3, zero_outside=True)
    torch.testing.assert_close(model.eval()(past, 3), zeros)
    assert not zeros[..., :5][:, 2].any()
    torch.testing.assert_close(model.train()(past, 3), advect(past[:, -1], velocity, 3))


def test_zeros_from_outside_need_advection():
    with pytest.raises(OptionError, match="zero_outside needs advection=True"):
        EncoderForecaster(zero_outside=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile's own
def test_two_steps_are_compiled_together():
    """Two dynamic filters with borders repeated by F.pad end in an error of inductor (torch 2.13)."""
    model, past = EncoderForecaster(hidden_dim=[2]).eval(), frames(1, 3, 1, 8, 8).float()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(past, 2), model(past, 2))
