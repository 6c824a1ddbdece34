"""What the training rules of the papers make of a batch: frames of the loss, forcing, reversed windows."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_post_hook

from convlstm import ConvLSTM, EncoderForecaster, Forecaster, MovingObjects, PredRNN, StackForecaster
from convlstm.data import LabelledWindow
from convlstm.errors import OptionError, RunError
from convlstm.models import AutoregressiveForecaster
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit
from convlstm.training.module import ForecastModule, check_rollout
from convlstm.training.run_folder import RunFolder, read_metrics
from convlstm.training.scheduled_sampling import Curriculum
from convlstm.training.windows import reversed_in_time, split_after

BATCH, PAST, STEPS, EXTRA = 2, 4, 3, 2
ONLY = {"batch_size": BATCH, "curriculum_steps": 10, "seed": 3}
DATA = {"canvas": 8, "object_size": 4, "count": 1, "past": 3, "steps": 2}
SIZES = {"train_size": 8, "validation_size": 2, "test_size": 2}


class NextFrame(AutoregressiveForecaster):
    """A forecaster that overrides neither `observe` nor `pad`."""

    extra_channels = EXTRA

    def __init__(self, hidden_dim=3):
        super().__init__()
        self.layers = ConvLSTM(1 + EXTRA, hidden_dim, 3, batch_first=True)
        self.head = torch.nn.Conv2d(hidden_dim, 1, 1)

    def start(self, past):
        return self.layers(past[:, :-1])[1] if past.shape[1] > 1 else None

    def step(self, frame, carry):
        output, carry = self.layers.step(frame, carry)
        return frame[:, :1] + self.head(output), carry


MODELS = {
    "stack": lambda: StackForecaster(1, [3, 4], 3, 2, extra_channels=EXTRA),
    "predrnn": lambda: PredRNN(1, [3, 3], 3, 2, extra_channels=EXTRA),
    "next frame": NextFrame,
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().double()


@pytest.fixture
def batch():
    """Labelled windows of which a fifth of the pixels, past and future, was not measured."""
    draw = torch.Generator().manual_seed(1)
    frames = torch.rand(BATCH, PAST + STEPS, 1, 8, 6, generator=draw, dtype=torch.float64)
    valid = torch.rand(frames.shape, generator=draw) > 0.2
    inputs = torch.rand(BATCH, PAST + STEPS, EXTRA, 8, 6, generator=draw, dtype=torch.float64)
    past, future = frames.split([PAST, STEPS], dim=1)
    past_valid, future_valid = valid.split([PAST, STEPS], dim=1)
    times = torch.arange(PAST + STEPS, dtype=torch.float64).expand(BATCH, -1)
    return LabelledWindow(past, future, past_valid, future_valid, inputs, times, torch.tensor([0.5, 3.0]))


class _At:
    """The trainer of one process at a step."""

    world_size, global_rank = 1, 0

    def __init__(self, step):
        self.global_step = step


def module_at(step, model, **options):
    module = ForecastModule(model, TrainingConfig(**ONLY | options))
    module._trainer = _At(step)
    return module


def expected_loss(model, batch, flags, *, first):
    """Weighted mean squared error of the frames from ``first`` on, frame by frame.

    Args:
        model: called for one frame at a time, with all frames that it was fed before as its past.
        batch: labelled windows.
        flags: (B, T - 1), true where frame 1, 2 ... that is fed is the true one.
        first: number of the first frame of the loss.
    """
    frames, valid = (
        torch.cat(pair, 1) for pair in ((batch.past, batch.future), (batch.past_valid, batch.future_valid))
    )
    fed, forecasts = [frames[:, 0]], []
    for t in range(1, PAST + STEPS):
        forecast = model(torch.stack(fed, 1), 1, inputs=batch.inputs[:, : t + 1])[:, 0]
        forecasts.append(forecast)
        true = flags[:, t - 1].view(-1, 1, 1, 1)
        if t >= PAST:
            true = true & valid[:, t]
        fed.append(torch.where(true, frames[:, t], forecast))
    error = (torch.stack(forecasts, 1) - frames[:, 1:]).square()[:, first - 1 :]
    valid = valid[:, first:]
    weight = torch.tensor([0.5, 3.0]).view(-1, 1, 1, 1, 1)
    return ((error * weight)[valid.expand(error.shape)].sum() / valid.sum()).item()


@pytest.mark.parametrize("past", [1, 2, 4])
def test_a_rollout_from_the_first_frame_ends_in_the_forecast_of_the_past(model, batch, past):
    frames = (field[..., :7, :] for field in batch[:5])  # no multiple of the patches
    batch = split_after(LabelledWindow(*frames), past)
    steps = batch.future.shape[1]
    flags = torch.rand(BATCH, steps, generator=torch.Generator().manual_seed(2)) < 0.5
    usual = model(batch.past, steps, future=batch.future, forced=flags, inputs=batch.inputs)
    first = split_after(batch, 1)
    flags = torch.cat([torch.ones(BATCH, past - 1, dtype=torch.bool), flags], 1)
    whole = model(first.past, past - 1 + steps, future=first.future, forced=flags, inputs=batch.inputs)
    torch.testing.assert_close(whole[:, past - 1 :], usual)


@pytest.mark.parametrize("curriculum", ["free", "teacher", "linear", "reverse"])
@pytest.mark.parametrize(("loss_frames", "first"), [("all", 1), ("forecast", PAST)])
def test_the_loss_is_that_of_a_loop_over_frames(model, batch, curriculum, loss_frames, first):
    step = 4
    flags = Curriculum(curriculum, 10).draw(step, BATCH, STEPS, past=PAST - 1, seed=3)
    assert flags[:, : PAST - 1].all() == (curriculum != "reverse")
    with torch.no_grad():
        loss, penalty = module_at(step, model, curriculum=curriculum, loss_frames=loss_frames).losses(batch)
    assert penalty is None
    assert loss.item() == pytest.approx(expected_loss(model, batch, flags, first=first), rel=1e-6)


def test_all_frames_of_windows_without_masks(batch):
    model = StackForecaster(1, [3], 3, 2, extra_channels=EXTRA).double()
    whole = torch.ones_like(batch.past, dtype=torch.bool), torch.ones_like(batch.future, dtype=torch.bool)
    masked = batch._replace(past_valid=whole[0], future_valid=whole[1])
    plain, half = (masked._replace(future_valid=None, past_valid=mask) for mask in (None, whole[0]))
    losses = [module_at(0, model, loss_frames="all").losses(each)[0] for each in (masked, plain, half)]
    assert losses[0].item() == pytest.approx(losses[1].item()) == pytest.approx(losses[2].item())


def test_windows_in_reverse_time():
    frames = torch.arange(5.0).view(1, 5, 1, 1, 1).repeat(2, 1, 1, 1, 1)
    valid = frames != 3
    inputs, times = 10 + frames, frames.flatten(1).double()
    weight = torch.tensor([1.0, 2.0])
    batch = LabelledWindow(frames[:, :2], frames[:, 2:], valid[:, :2], valid[:, 2:], inputs, times, weight)
    turned = reversed_in_time(batch)
    assert turned.past[0].flatten().tolist() == [4, 3]
    assert turned.future[0].flatten().tolist() == [2, 1, 0]
    assert turned.past_valid[0].flatten().tolist() == [True, False]
    assert turned.future_valid[0].flatten().tolist() == [True, True, True]
    assert turned.inputs[0].flatten().tolist() == [14, 13, 12, 11, 10]
    assert turned.times[0].tolist() == [4, 3, 2, 1, 0]
    assert torch.equal(turned.weight, weight)
    plain = reversed_in_time(LabelledWindow(frames[:, :2], frames[:, 2:]))
    assert plain.past[0].flatten().tolist() == [4, 3]
    assert plain[2:] == (None,) * 5


def test_every_second_step_sees_its_windows_in_reverse(model, batch):
    turned = reversed_in_time(batch)
    for step in range(4):
        usual, reverse = (
            module_at(step, model, reverse_input=chosen, curriculum="linear") for chosen in (False, True)
        )
        shown = turned if step % 2 else batch
        assert torch.equal(reverse.losses(batch)[0], usual.losses(shown)[0])
        assert not step % 2 or not torch.equal(reverse.losses(batch)[0], usual.losses(batch)[0])


class Plain(Forecaster):
    """A forecaster with the plain call only."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, past, steps):
        return self.weight * past[:, -1:].expand(-1, steps, -1, -1, -1)


def test_a_forecaster_learns_with_the_labels_that_it_is_evaluated_with(batch):
    class Noted(Plain):
        def forward(self, past, steps, *, valid=None, times=None):
            notes.append((valid, times))
            return super().forward(past, steps)

    notes = []
    module = module_at(0, Noted().double())
    module.log = lambda *args, **options: None
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    assert len(notes) == 2
    assert all(valid is batch.past_valid and times is batch.times for valid, times in notes)


@pytest.mark.parametrize("rule", [{"loss_frames": "all"}, {"curriculum": "reverse"}])
def test_a_forecaster_that_cannot_start_at_the_first_frame_is_refused(tmp_path, rule):
    (name, value), data = *rule.items(), MovingObjects(**DATA, **SIZES)
    config, window = TrainingConfig(batch_size=2, accelerator="cpu", **rule), data.split("train")[0]
    with pytest.raises(OptionError, match=f"{name}={value} needs a forecaster whose forward takes future="):
        ForecastModule(Plain(), config)
    run = RunFolder(tmp_path / "run")
    run.start()
    with pytest.raises(
        OptionError, match=f"{name}={value} needs a forecaster that reads frames of the past as .* Encoder"
    ):
        fit(EncoderForecaster(hidden_dim=[3]), data, config, run)
    assert not run.logs.exists()
    check_rollout(StackForecaster(hidden_dim=[3]), config, window)
    alone = MovingObjects(**DATA | {"past": 1}, **SIZES).split("train")[0]
    check_rollout(EncoderForecaster(hidden_dim=[3]), config, alone)  # no frame of the past is made
    check_rollout(EncoderForecaster(hidden_dim=[3]), TrainingConfig(), window)


class Held(StackForecaster):
    """A stack with a penalty: the mean square of its states after the last step."""

    def penalty(self, carry):
        return sum(0.1 * state.h.square().mean() for state in carry)


def test_a_penalty_is_in_the_loss_of_training_and_in_no_other(batch):
    torch.manual_seed(0)
    model = Held(1, [3, 4], 3, 2, extra_channels=EXTRA).double()
    module, logged = module_at(0, model, loss_frames="all"), {}
    module.log = lambda name, value, **options: logged.update({name: value})
    total = module.training_step(batch, 0)
    total.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    loss, penalty = module.losses(batch)
    assert penalty > 0
    assert total.item() == pytest.approx((loss + penalty).item())
    assert logged["train_loss"].compute().item() == pytest.approx(loss.item())
    assert logged["train_penalty"].compute().item() == pytest.approx(penalty.item())
    (loss + penalty).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)
    module.validation_step(batch, 0)
    valid = batch.future_valid
    error = (model(batch.past, STEPS, inputs=batch.inputs) - batch.future).square()
    error = error * torch.tensor([0.5, 3.0]).view(-1, 1, 1, 1, 1)
    assert logged["val_loss"].item() == pytest.approx(error[valid].mean().item(), rel=1e-6)


class Own(Held):
    def forward(self, past, steps, **options):
        return super().forward(past, steps, **options)


def test_a_forward_of_ones_own_is_called_or_refused():
    class Twice(StackForecaster):
        def forward(self, past, steps, **options):
            return 2 * super().forward(past, steps, **options)

    past, model = torch.rand(1, 2, 1, 6, 6), Twice(hidden_dim=[3])
    forecast, penalty = model.with_penalty(past, 2)
    assert penalty is None
    torch.testing.assert_close(forecast, model(past, 2))
    with pytest.raises(OptionError, match="must have a with_penalty of its own as well; received Own"):
        Own(hidden_dim=[3]).with_penalty(past, 2)
    with pytest.raises(OptionError, match="a stream calls start, observe and step"):
        model.stream()
    plain = StackForecaster(hidden_dim=[3])
    plain.penalty = lambda carry: carry[-1].h.mean()
    assert plain.with_penalty(past, 2)[1] is not None
    plain.forward = lambda past, steps, **options: past
    with pytest.raises(OptionError, match="must have a with_penalty of its own"):
        plain.with_penalty(past, 2)


def trained(path, model=None, **options):
    """The learning rate and the norm of the gradient that every optimizer step of a run used."""
    run, steps = RunFolder(path), []
    run.start()

    def note(optimizer, args, kwargs):
        (group,) = optimizer.param_groups
        norm = torch.stack([weight.grad.norm() for weight in group["params"]]).norm()
        steps.append((group["lr"], norm.item()))

    hook = register_optimizer_step_post_hook(note)
    config = TrainingConfig(**{"epochs": 5, "batch_size": 2, "accelerator": "cpu", "seed": 1} | options)
    torch.manual_seed(0)
    try:
        fit(model or StackForecaster(hidden_dim=[3]), MovingObjects(**DATA, **SIZES), config, run)
    finally:
        hook.remove()
    return [list(column) for column in zip(*steps, strict=True)]


def test_the_one_cycle_rate_and_gradient_clipping_take_effect(tmp_path):
    rates, norms = trained(tmp_path / "a", learning_rate=1e-2, gradient_clip=1e-3)
    assert len(rates) == 20
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert max(rates) == rates[2] == pytest.approx(1e-2)  # after 15 % of the steps
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(1e-2 / 25 / 1e4)
    assert norms == pytest.approx([1e-3] * 20, rel=1e-2)
    rates, norms = trained(tmp_path / "b", learning_rate=1e-2, gradient_clip=0.0, schedule="constant")
    assert rates == [1e-2] * 20
    assert min(norms) > 2e-3


def test_a_run_of_all_rules_logs_the_penalty_as_a_curve_of_its_own(tmp_path):
    rules = {"loss_frames": "all", "curriculum": "reverse", "curriculum_steps": 16, "reverse_input": True}
    trained(tmp_path / "run", Held(1, [3], 3, 2), **rules)
    run = RunFolder(tmp_path / "run")
    rows = read_metrics(run.metrics)
    assert all(row["train_penalty"] > 0 for row in rows)
    curriculum = Curriculum("reverse", 16)
    assert [row["teacher"] for row in rows] == [0.5, 0.5, 0.25, 0, 0]
    assert [row["teacher_past"] for row in rows] == [
        pytest.approx(curriculum.past_probability(step)) for step in (4, 8, 12, 16, 20)
    ]
    logs = EventAccumulator(str(run.logs)).Reload()
    curve = [event.value for event in logs.Scalars("train_penalty")]
    assert curve == pytest.approx([row["train_penalty"] for row in rows])
    trained(tmp_path / "other", epochs=1)
    assert not {"train_penalty", "teacher_past"} & read_metrics(tmp_path / "other" / "metrics.csv")[0].keys()


class Explodes(StackForecaster):
    def penalty(self, carry):
        return torch.tensor(float("inf"))


def test_a_penalty_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(RunError, match="training penalty must stay finite; it is inf after step 4"):
        trained(tmp_path / "run", Explodes(hidden_dim=[3]))
