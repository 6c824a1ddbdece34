"""Our own forecasters under the contract battery, and a broken one for each check."""

import pytest
import torch
from torch import Tensor, nn

from convlstm import (
    E3DLSTM,
    MAU,
    MIM,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMTransformer,
    EncoderForecaster,
    Forecaster,
    PhyDNet,
    PredRNN,
    PredRNNPlusPlus,
    PredRNNv2,
    SAConvLSTMForecaster,
    StackForecaster,
    SwinLSTM,
    TrajGRUForecaster,
)
from convlstm.errors import ShapeError
from convlstm.models import Advection, AutoregressiveForecaster, Blank, LinearTrend, MeanFrame, Persistence
from convlstm.testing import FORECASTER_CHECKS, check_forecaster


class NextFrame(AutoregressiveForecaster):
    """The example of the docstring: a stack with a 1x1 convolution."""

    def __init__(self, channels=1, hidden_dim=3):
        super().__init__()
        self.layers = ConvLSTM(channels, hidden_dim, 3, 2, batch_first=True)
        self.head = nn.Conv2d(hidden_dim, channels, 1)

    def start(self, past):
        return self.layers(past[:, :-1])[1] if past.shape[1] > 1 else None

    def step(self, frame, carry):
        output, carry = self.layers.step(frame, carry)
        return frame + self.head(output), carry


class AtAQuarter(NextFrame):
    """The same at a quarter of the size, which needs frames of whole quarters."""

    size_multiple = 4

    def __init__(self, channels=1):
        super().__init__(16 * channels)

    def start(self, past):
        return super().start(nn.functional.pixel_unshuffle(past, 4))

    def step(self, frame, carry):
        frame, carry = super().step(nn.functional.pixel_unshuffle(frame, 4), carry)
        return nn.functional.pixel_shuffle(frame, 4), carry


MODELS = {
    "encoder forecaster": lambda n: EncoderForecaster(n, [3, 4], patch_size=2),
    "without skip": lambda n: EncoderForecaster(n, [3], skip=False, filter_radius=0, patch_size=1),
    "with advection": lambda n: EncoderForecaster(n, [3, 4], patch_size=2, advection=True),
    "gru": lambda n: EncoderForecaster(n, [3, 3], cell=ConvGRUCell),
    "stack": lambda n: StackForecaster(n, [3, 4], [3, 5], 2, "sigmoid"),
    "predrnn": lambda n: PredRNN(n, [3, 3], 3, 2),
    "predrnn v2": lambda n: PredRNNv2(n, [3, 3], 3, 2),
    "predrnn++": lambda n: PredRNNPlusPlus(n, [3, 3], 3, 2),
    "phydnet": lambda n: PhyDNet(n, 4, [3, 4], 3, "linear"),
    "sa-convlstm": lambda n: SAConvLSTMForecaster(n, [3, 4], patch_size=2),
    "swinlstm": lambda n: SwinLSTM(n, 4, [1, 2], [2, 1], [1, 2], window=2, patch_size=1),
    "swinlstm b": lambda n: SwinLSTM(n, 4, [3], (), [2], window=3),
    "trajgru": lambda n: TrajGRUForecaster(n, [3, 4], links=2),
    "transformer": lambda n: ConvLSTMTransformer(n, [3, 4], heads=2, window=2, history=2),
    "transformer with advection": lambda n: ConvLSTMTransformer(n, [3, 4], heads=2, window=2, advection=True),
    "mau": lambda n: MAU(n, [3, 4], 3, tau=2),
    "mau with recall": lambda n: MAU(n, [3, 3], 3, recall=True),
    "mim": lambda n: MIM(n, [2, 2, 2], 3, 2),
    "e3d-lstm": lambda n: E3DLSTM(n, [2, 2], 3, 4, history=3),
    "next frame": NextFrame,
    "at a quarter": AtAQuarter,
    "persistence": lambda n: Persistence(),
    "mean frame": lambda n: MeanFrame(),
    "blank": lambda n: Blank(),
    "linear trend": lambda n: LinearTrend(),
    "advection": lambda n: Advection(),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_two_models_of_a_process_share_nothing(make):
    """Nor does what a model does depend on what another one did before, in training mode too."""
    torch.manual_seed(0)
    one, other, past = make(2), make(2), torch.rand(1, 3, 2, 16, 12)
    places = [{tensor.data_ptr() for tensor in model.state_dict().values()} for model in (one, other)]
    assert not places[0] & places[1]
    held = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    found = []
    for model in (one, other, one):
        if model is one:
            model.load_state_dict(held)
        forecast = model.train()(past, 3)
        if model is one:
            found.append(forecast.detach().clone())
        elif forecast.requires_grad:
            forecast.sum().backward()
    assert torch.equal(*found)
    assert all(parameter.grad is None for parameter in one.parameters())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_forecasts_under_autocast_have_the_dtype_of_the_past(make):
    past = torch.rand(1, 3, 2, 16, 12)
    model = make(2).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(past, 2).dtype == torch.float32


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_forecasters_are_transformed_by_torch_func(make):
    past, model = torch.rand(2, 3, 2, 16, 12, dtype=torch.float64), make(2).double().eval()
    each = torch.func.vmap(lambda frames: model(frames[None], 2)[0])(past)
    torch.testing.assert_close(each, model(past, 2), rtol=1e-9, atol=1e-9)
    found = torch.func.grad(lambda frames: model(frames, 2).square().sum())(past)
    past.requires_grad_()
    forecast = model(past, 2)
    if forecast.requires_grad:
        (expected,) = torch.autograd.grad(forecast.square().sum(), past)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class TwoSteps(nn.Module):
    """A forecaster with its number of steps, which a program of torch.export fixes."""

    def __init__(self, forecaster):
        super().__init__()
        self.forecaster = forecaster

    def forward(self, past):
        return self.forecaster(past, 2)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_an_exported_forecaster_gives_the_same_forecasts(make):
    model, frames = TwoSteps(make(1).double().eval()), torch.rand(2, 1, 3, 1, 12, 8, dtype=torch.float64)
    program = torch.export.export(model, (frames[0],)).module()
    torch.testing.assert_close(program(frames[1]), model(frames[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_forecasters_made_without_memory_take_weights_of_others(make):
    model, past = make(2).eval(), torch.rand(1, 3, 2, 16, 12)
    with torch.device("meta"):
        empty = make(2).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(empty(past, 2), model(past, 2), rtol=0, atol=0)


@pytest.mark.parametrize("check", FORECASTER_CHECKS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models(make, check):
    check(make)


class PartlyFrozen(NextFrame):
    """A part is not trained."""

    def __init__(self, channels=1):
        super().__init__(channels)
        self.head.requires_grad_(False)


class Padded(NextFrame):
    """Frames are padded, and what is forecast in the padding differs from what is padded there."""

    size_multiple = 8


@pytest.mark.parametrize("model", [PartlyFrozen, Padded])
def test_a_model_that_is_right_is_not_refused(model):
    check_forecaster(model)


class OneSize(NextFrame):
    def step(self, frame, carry):
        frame, carry = super().step(frame, carry)
        return frame[..., :12, :12], carry


class AlwaysSingle(NextFrame):
    def forward(self, past, steps, **truth):
        return super().forward(past, steps, **truth).to(torch.promote_types(past.dtype, torch.float32))


class CountsSteps(NextFrame):
    def forward(self, past, steps, *, future=None, forced=None):
        return super().forward(past, steps, future=future, forced=forced) * steps


class MixesTheBatch(NextFrame):
    def step(self, frame, carry):
        return super().step(frame + frame.mean(dim=0), carry)


class KeepsItsCarry(NextFrame):
    """The state stays on the module between calls."""

    kept = None

    def start(self, past):
        carry = super().start(past)
        if carry is not None and self.kept is not None and self.kept[0].h.shape == carry[0].h.shape:
            carry = self.kept
        return carry

    def step(self, frame, carry):
        frame, carry = super().step(frame, carry)
        self.kept = carry
        return frame, carry


class KeepsItsCarryInTraining(NextFrame):
    """In training mode the state of one batch is added to that of the next."""

    kept = 0.0

    def step(self, frame, carry):
        frame, carry = super().step(frame, carry)
        if self.training:
            frame = frame + self.kept
            self.kept = frame.detach().mean()
        return frame, carry


class ReadsTheLastFrameAlone(NextFrame):
    def start(self, past):
        return None


class ForgetsTheOrder(NextFrame):
    """Every frame of the past is replaced by their mean."""

    def forward(self, past, steps, **truth):
        return super().forward(past.mean(1, keepdim=True).expand_as(past), steps, **truth)


class Unused(NextFrame):
    def __init__(self, channels=1):
        super().__init__(channels)
        self.more = nn.Conv2d(channels, channels, 1)


class ReadsAhead(NextFrame):
    def forward(self, past, steps, *, future=None, forced=None):
        forecast = super().forward(past, steps, future=future, forced=forced)
        return forecast if future is None else forecast + future.mean(1, keepdim=True)


class IgnoresTheTruth(NextFrame):
    def forward(self, past, steps, *, future=None, forced=None):
        return super().forward(past, steps)


class ForcesTheWholeBatch(NextFrame):
    def forward(self, past, steps, *, future=None, forced=None):
        forced = None if forced is None else forced.any(0, keepdim=True).expand_as(forced)
        return super().forward(past, steps, future=future, forced=forced)


class StartsOnTheLastFrame(NextFrame):
    """The last frame is read twice by a stream: `observe` is not what `start` does."""

    def observe(self, frame, carry):
        return super().observe(frame, super().observe(frame, carry))


class ChangesItsCarry(NextFrame):
    """The state is overwritten, so that a stream cannot forecast twice from it."""

    def step(self, frame, carry):
        frame, new = super().step(frame, carry)
        for old, state in zip(carry or (), new, strict=False):
            old.c.data.copy_(state.c)  # unseen by autograd
        return frame, new


class TimeFirst(NextFrame):
    """The carry holds no batch on the first axis."""

    def start(self, past):
        return super().start(past), past.new_zeros(1, past.shape[0])

    def step(self, frame, carry):
        frame, new = super().step(frame, carry[0])
        return frame, (new, carry[1])


class DrawsItsScale(Forecaster):
    """Built anew it gives another forecast."""

    def __init__(self, channels=1):
        super().__init__()
        self.scale = torch.rand(()).item()

    def forward(self, past: Tensor, steps: int) -> Tensor:
        return self.scale * past[:, -1:].repeat(1, steps, 1, 1, 1)


BROKEN = [
    (OneSize, "any_number_of_frames_and_any_size"),
    (AlwaysSingle, "dtype_and_device_are_those_of_the_past: a forecast must be torch.bfloat16"),
    (CountsSteps, "more_steps_continue_fewer"),
    (MixesTheBatch, "sequences_are_independent"),
    (KeepsItsCarry, "calls_are_independent"),
    (KeepsItsCarryInTraining, "calls_are_independent: in training mode"),
    (ForgetsTheOrder, "every_frame_of_the_past_is_in_its_place"),
    (Unused, "every_parameter_has_a_gradient: more.weight gets no gradient"),
    (ReadsAhead, "no_frame_is_read_before_its_time: forecast 0 depends on the true frame 0"),
    (IgnoresTheTruth, "no_frame_is_read_before_its_time: the true frame 0 has no effect on forecast 1"),
    (ForcesTheWholeBatch, "scheduled_sampling_has_an_effect"),
    (StartsOnTheLastFrame, "steps_one_by_one_are_one_call"),
    (ChangesItsCarry, "steps_one_by_one_are_one_call: a step must leave its carry"),
    (TimeFirst, "steps_one_by_one_are_one_call: a carry must have the batch first"),
    (DrawsItsScale, "it_is_saved_and_loaded"),
]


@pytest.mark.parametrize(("model", "check"), BROKEN, ids=[model.__name__ for model, _ in BROKEN])
def test_a_broken_model_is_found_by_its_check(model, check):
    with pytest.raises(AssertionError, match=f"^{check}"):
        check_forecaster(model)


def test_a_stream_that_ignores_earlier_frames_is_found():
    with pytest.raises(AssertionError, match="^(every_frame_of_the_past|steps_one_by_one)"):
        check_forecaster(ReadsTheLastFrameAlone)


class Wrong(AutoregressiveForecaster):
    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def start(self, past):
        return None

    def step(self, frame, carry):
        return self.returned(frame)


@pytest.mark.parametrize(
    ("returned", "received"),
    [
        (lambda frame: frame, "a tensor"),
        (lambda frame: (frame[..., 1:], None), "a tensor .* and a carry"),
        (lambda frame: None, "None: return"),
    ],
)
def test_a_step_that_returns_something_else_is_named(returned, received):
    with pytest.raises(ShapeError, match=f"must return the next frame .* and the carry; received {received}"):
        Wrong(returned)(torch.rand(2, 3, 1, 8, 8), 2)
