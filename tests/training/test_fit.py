"""Training runs: equal to the bit, resumed after a kill, shared by processes, stopped early, refused."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import processes
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from convlstm import ConvLSTMCell, EncoderForecaster, MovingObjects, StackForecaster
from convlstm.data import Window, WindowDataset
from convlstm.errors import ConvLSTMError, DataError, OptionError, RunError, ShapeError
from convlstm.models import AutoregressiveForecaster, Forecaster, Persistence
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import check_reach, fit, read_checkpoint
from convlstm.training.module import ForecastModule
from convlstm.training.run_folder import RunFolder, read_metrics
from convlstm.training.tuning import fastest_learning_rate, largest_batch

SCRIPT = Path(__file__).with_name("run_small.py")
SMALL = SCRIPT.read_text()
DATA = {"canvas": 16, "object_size": 8, "count": 1, "past": 3, "steps": 3}
SIZES = {"train_size": 16, "validation_size": 4, "test_size": 4}
CONFIG = {"epochs": 3, "batch_size": 4, "accelerator": "cpu", "learning_rate": 1e-2}


def train(path, *, resume=False, model=None, **options):
    run = RunFolder(path)
    if not resume:
        run.start()
    torch.manual_seed(0)
    model = model or EncoderForecaster(hidden_dim=[3, 4])
    return fit(model, MovingObjects(**DATA, **SIZES), TrainingConfig(**CONFIG | options), run, resume=resume)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights(path):
    return read_checkpoint(RunFolder(path).last)["state_dict"]


def test_a_run_learns_and_leaves_its_records(tmp_path):
    model = train(tmp_path / "run", epochs=6)
    run = RunFolder(tmp_path / "run")
    rows = read_metrics(run.metrics)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    logs = EventAccumulator(str(run.path / "logs")).Reload()
    assert len(logs.Scalars("val_loss")) == 6
    (picture,) = logs.Tags()["images"]
    drawn = logs.Images(picture)[-1]
    # A film strip of three rows: past, truth and forecast, three frames of 64 pixels each.
    assert drawn.step == 24
    assert drawn.width > 3 * 64
    assert drawn.height > 3 * 64
    again = EncoderForecaster.from_pretrained(run.model)
    past = torch.rand(1, 3, 1, 16, 16)
    torch.testing.assert_close(again(past, 2), model(past, 2), rtol=0, atol=0)
    best = min(rows, key=lambda row: row["val_loss"])
    assert read_checkpoint(run.best)["epoch"] + 1 == best["epoch"]


def test_two_runs_are_equal_to_the_bit_and_another_seed_is_not(tmp_path):
    for name, options in {"a": {}, "b": {}, "c": {"seed": 1}, "workers": {"workers": 2}}.items():
        train(tmp_path / name, curriculum="linear", curriculum_steps=8, **options)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "workers"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.long
def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_same_weights(tmp_path):
    """SIGKILL three times, at moments unrelated to epochs, with everything stateful switched on."""
    assert processes.Forked(SMALL, [str(tmp_path / "whole")], tmp_path).finish().returncode == 0
    killed = tmp_path / "killed"
    resume, kills = [], 0
    for attempt in range(8):
        process = processes.Forked(SMALL, [str(killed), *resume], tmp_path)
        progress = read_metrics(killed / "metrics.csv") if (killed / "metrics.csv").exists() else []
        if kills < 3 and attempt < 7:
            _wait_for(killed / "metrics.csv", len(progress) + 1, process)
            time.sleep(0.05 * attempt)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        status = process.finish().returncode
        resume = ["--resume"]
        if status == 0:
            break
    assert kills == 3
    assert status == 0
    assert equal(weights(killed), weights(tmp_path / "whole"))
    whole, resumed = (read_checkpoint(RunFolder(path).last) for path in (tmp_path / "whole", killed))
    assert equal(resumed["current_model_state"], whole["current_model_state"])
    columns = ("epoch", "step", "train_loss", "val_loss", "learning_rate", "teacher")
    rows = [
        [tuple(row[c] for c in columns) for row in read_metrics(path / "metrics.csv")]
        for path in (killed, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]


def _wait_for(metrics, rows, process):
    """Wait until the table of losses has so many rows, or the process is over."""
    for _ in range(3000):
        if process.poll() is not None or (metrics.exists() and len(read_metrics(metrics)) >= rows):
            return
        time.sleep(0.02)
    raise AssertionError("the run made no progress")


@pytest.mark.long
@pytest.mark.parametrize("data", [[], ["--archive"]])
def test_two_processes_share_the_windows_and_give_the_gradients_of_one(tmp_path, data):
    for devices, batch in ((1, 4), (2, 2)):
        words = [str(tmp_path / f"run{devices}"), "--devices", str(devices), "--batch", str(batch), *data]
        words += ["--notes", str(tmp_path / f"{devices}")]
        if devices == 1:
            assert processes.Forked(SMALL, words, tmp_path).finish().returncode == 0
        else:  # which starts its own script again
            subprocess.run([sys.executable, str(SCRIPT), *words], check=True)
    (batches, one), (left, two), (right, _) = (
        torch.load(tmp_path / name, weights_only=True) for name in ("1.0", "2.0", "2.1")
    )
    assert len(batches) == len(left) == len(right) > 2
    for whole, *halves in zip(batches, left, right, strict=True):
        assert torch.equal(whole, torch.stack(halves, dim=1).flatten(0, 1))
        assert len({window.numpy().tobytes() for window in whole}) == 4
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].abs().sum() > 0, name
            # From the second step on the weights themselves differ by what Adam makes of rounding.
            torch.testing.assert_close(b[name], a[name], rtol=1e-4 if step == 0 else 5e-2, atol=1e-6)


def test_averaged_weights_are_kept_and_validated(tmp_path):
    model = train(tmp_path / "run", ema=0.9, epochs=2)
    checkpoint = read_checkpoint(RunFolder(tmp_path / "run").last)
    assert not equal(checkpoint["state_dict"], checkpoint["current_model_state"])
    best = read_checkpoint(RunFolder(tmp_path / "run").best)["state_dict"]
    assert equal({f"model.{name}": tensor for name, tensor in model.state_dict().items()}, best)


def test_training_stops_early(tmp_path):
    train(tmp_path / "run", epochs=30, patience=2, schedule="constant", learning_rate=1e-12)
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) < 30


def test_bf16_mixed_trains_and_keeps_float32_weights(tmp_path):
    model = train(tmp_path / "run", precision="bf16-mixed", epochs=2)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    full = train(tmp_path / "full", epochs=2)
    a, b = (torch.cat([p.flatten() for p in m.parameters()]) for m in (model, full))
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0, atol=0.1)


class NeverSeesTheTruth(Forecaster):
    """A forecaster with the plain call only."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, past, steps):
        return self.weight * past[:, -1:].expand(-1, steps, -1, -1, -1)


def test_any_forecaster_trains_but_teaching_needs_one_that_listens(tmp_path):
    model = train(tmp_path / "run", model=NeverSeesTheTruth())
    assert model.weight.item() != 1
    with pytest.raises(
        OptionError, match="curriculum=linear needs a forecaster .* received NeverSeesTheTruth"
    ):
        train(tmp_path / "other", model=NeverSeesTheTruth(), curriculum="linear")


class OtherShape(NeverSeesTheTruth):
    """Gives one frame, the frames of one window, or no tensor."""

    def __init__(self, found="one frame"):
        super().__init__()
        self.found = found

    def forward(self, past, steps):
        forecast = super().forward(past, steps)
        return {"one frame": forecast[:, :1], "one window": forecast[0], "a tuple": (forecast,)}[self.found]


@pytest.mark.parametrize(
    ("found", "shape"),
    [("one frame", r"a tensor \(4, 1,"), ("one window", r"a tensor \(3, 1,"), ("a tuple", "a tuple")],
)
def test_a_forecast_of_another_shape_is_refused(found, shape, tmp_path):
    """It was broadcast against the truth: one frame was trained to be all of them."""
    with pytest.raises(
        ShapeError, match=rf"must be \(B, L, C, H, W\) = \(4, 3, 1, 16, 16\); received {shape}"
    ):
        train(tmp_path / "run", model=OtherShape(found))


class Explodes(NeverSeesTheTruth):
    """Gives no number."""

    def forward(self, past, steps):
        return super().forward(past, steps) * float("nan")


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    with pytest.raises(
        ConvLSTMError, match="loss must stay finite; it is nan after step 4: lower learning_rate"
    ):
        train(tmp_path / "run", model=Explodes())


@pytest.mark.parametrize(("output", "reach"), [("sigmoid", "0 to 1"), ("relu", "0 and more")])
def test_an_output_that_cannot_reach_the_data_is_refused(output, reach):
    """Models with a sigmoid were trained on standard scores without a word."""
    model, frames = StackForecaster(hidden_dim=[3], output=output), torch.rand(3, 1, 8, 8)
    check_reach(model, Window(frames, frames))
    with pytest.raises(
        OptionError, match=rf"output={output} gives {reach}, and \d\d% of .*--model.output linear"
    ):
        check_reach(model, Window(frames, (frames - 0.4) / 0.3))


class InKelvin(StackForecaster):
    """A sigmoid between 200 and 300 K."""

    def forward(self, past, steps):
        return 200 + 100 * super().forward((past - 200) / 100, steps)


def test_an_output_that_others_scale_is_not_refused():
    frames = torch.full((3, 1, 8, 8), 280.0)
    check_reach(InKelvin(hidden_dim=[3], output="sigmoid"), Window(frames, frames))


def test_white_that_is_rounded_to_above_1_is_reached():
    """As resizing in float makes it."""
    frames = torch.full((3, 1, 8, 8), 1.0000002)
    check_reach(StackForecaster(hidden_dim=[3], output="sigmoid"), Window(frames, frames))


class ExplodesInValidation(NeverSeesTheTruth):
    """Forecasts infinite values when it is not trained."""

    def forward(self, past, steps):
        return super().forward(past, steps) / float(self.training)


def test_a_validation_loss_that_is_never_finite_gives_no_model(tmp_path):
    """It ended as if all were well, with the weights of the first epoch; when it was resumed it still did."""
    for resume in (False, True):
        with pytest.raises(RunError, match="validation loss must be finite after one epoch at least"):
            train(tmp_path / "run", model=ExplodesInValidation(), epochs=2, resume=resume)
        assert not RunFolder(tmp_path / "run").model.exists()


def test_damaged_foreign_and_unfitting_checkpoints_are_named(tmp_path):
    train(tmp_path / "run", epochs=1)
    last = RunFolder(tmp_path / "run").last
    with pytest.raises(RunError, match=r"must fit the model it resumes; .* expected\): use the run's own"):
        train(tmp_path / "run", resume=True, model=EncoderForecaster(hidden_dim=[5, 4]))
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="must be a whole file written by convlstm train"):
        train(tmp_path / "run", resume=True)
    last.write_bytes(whole)
    sound = read_checkpoint(last)
    others = [{"state_dict": [1]}, {"epoch": "x"}, {"loops": 1}, {"callbacks": [1]}, {"optimizer_states": {}}]
    for content in ({"weights": torch.zeros(3)}, *(sound | other for other in others)):
        torch.save(content, last)
        with pytest.raises(RunError, match="must be written by convlstm train; .* holds something else"):
            train(tmp_path / "run", resume=True)


class Turned(MovingObjects):
    """Validation is the opposite of training and worsens as training goes on, or has other windows."""

    def __init__(self, change=lambda window: Window(1 - window.past, 1 - window.future), where="validation"):
        super().__init__(**DATA, **SIZES)
        self.change, self.where = change, where

    def split(self, name):
        windows = super().split(name)
        if name != self.where:
            return windows
        changed = self.change

        class Changed(WindowDataset):
            def __len__(self):
                return len(windows) if changed else 0

            def __getitem__(self, index):
                return changed(windows[index])

        return Changed()


def test_the_last_checkpoint_is_that_of_the_last_epoch_also_if_an_earlier_one_was_best(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start()
    torch.manual_seed(0)
    fit(EncoderForecaster(hidden_dim=[3, 4]), Turned(), TrainingConfig(**CONFIG | {"epochs": 4}), run)
    losses = [row["val_loss"] for row in read_metrics(run.metrics)]
    best = losses.index(min(losses))
    assert best < 3
    assert read_checkpoint(run.best)["epoch"] == best
    assert read_checkpoint(run.last)["epoch"] == 3
    before = weights(run.path)
    fit(
        EncoderForecaster(hidden_dim=[3, 4]),
        Turned(),
        TrainingConfig(**CONFIG | {"epochs": 4}),
        run,
        resume=True,
    )
    assert equal(weights(run.path), before)
    assert len(read_metrics(run.metrics)) == 4


def _one_pixel_missing(window):
    past = window.past.clone()
    past[0, 0, 2, 3] = torch.nan
    return Window(past, window.future)


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        (None, "validation", r"each split must hold windows of 3 \+ 3 frames; validation of .* holds none"),
        (None, "train", r"each split must hold windows of 3 \+ 3 frames; train of .* holds none"),
        (
            lambda w: Window(w.past.double(), w.future),
            "train",
            r"the first of train holds 3 and 3 of torch\.float64",
        ),
        (lambda w: Window(w.past[1:], w.future), "validation", "the first of validation holds 2 and 3"),
        (_one_pixel_missing, "train", "frames must be finite; a batch of training windows holds 4 NaN"),
        (
            _one_pixel_missing,
            "validation",
            "frames must be finite; a batch of validation windows holds 4 NaN",
        ),
    ],
)
def test_windows_that_cannot_be_learned_from_are_named(change, where, message, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start()
    with pytest.raises(DataError, match=message):
        fit(EncoderForecaster(hidden_dim=[3, 4]), Turned(change, where), TrainingConfig(**CONFIG), run)


def test_a_model_with_nothing_to_train_is_refused(tmp_path):
    with pytest.raises(
        OptionError, match="needs a model with parameters; received Persistence, which has none"
    ):
        train(tmp_path / "run", model=Persistence())


class Constant(AutoregressiveForecaster):
    """Forecasts the newest frame; its weight is in the penalty alone.

    Args:
        added: the penalty: ``none``, ``number`` or ``vector``.
    """

    def __init__(self, added="none"):
        super().__init__()
        self.added, self.weight = added, nn.Parameter(torch.ones(2))

    def start(self, past):
        return None

    def step(self, frame, carry):
        return frame, self.weight

    def penalty(self, carry):
        return {"none": None, "number": 0.5, "vector": carry}[self.added]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("none", "a forecast that depends on a parameter that requires gradients; received a Constant whose"),
        ("number", r"penalty of a model must be a tensor of one number, or None; that of a Constant is 0\.5"),
        ("vector", r"that of a Constant is a tensor \(2,\): return a mean or a sum"),
    ],
)
def test_a_loss_that_has_no_gradient_or_is_no_number_is_named(added, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        train(tmp_path / "run", model=Constant(added))


def test_a_run_of_one_step_learns(tmp_path):
    torch.manual_seed(0)
    before = EncoderForecaster(hidden_dim=[3, 4]).head.weight
    model = train(tmp_path / "run", epochs=1, batch_size=16)
    assert (model.head.weight - before).abs().max() > 0.3 * CONFIG["learning_rate"]  # Adam's first step


def test_a_model_that_could_not_be_saved_is_refused_before_it_is_trained(tmp_path):
    model = EncoderForecaster(hidden_dim=[3, 4])
    cell = next(module for module in model.modules() if isinstance(module, ConvLSTMCell))
    torch.nn.utils.parametrizations.weight_norm(cell.conv)
    with pytest.raises(RunError, match="must have the parts that its arguments build"):
        train(tmp_path / "run", model=model)
    assert not RunFolder(tmp_path / "run").metrics.exists()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    train(tmp_path / "run", epochs=1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="holds metrics.csv, checkpoints, logs, model already: choose another"):
        train(tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="must be writable; the system says 'Not a directory'"):
        train(tmp_path / "file" / "run")


def test_what_the_machine_lacks_is_named(tmp_path):
    with pytest.raises(
        OptionError, match="devices must be at most the number of CPU cores .*; received 4096"
    ):
        train(tmp_path / "a", devices=4096)
    with pytest.raises(OptionError, match="precision=16-mixed needs a GPU"):
        train(tmp_path / "b", precision="16-mixed")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="accelerator=gpu needs a GPU; none was found"):
            train(tmp_path / "c", accelerator="gpu")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "epochs must be greater than 0; received 0"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1; received 1.0"),
        ({"precision": "bf16"}, "precision must be one of .* did you mean 'bf16-mixed'"),
        ({"gradient_clip": -1.0}, "gradient_clip must be at least 0; received -1.0"),
        ({"schedule": "cosine"}, "schedule must be one of constant, onecycle; received 'cosine'"),
        ({"epochs": "auto"}, "epochs must be greater than 0; received 'auto': give a whole number"),
        ({"batch_size": "max"}, "batch_size must be greater than 0; received 'max': give a whole number"),
        (
            {"learning_rate": float("nan")},
            "learning_rate must be greater than 0; received nan: give a number",
        ),
        ({"workers": 0.5}, "workers must be at least 0; received 0.5: give a whole number"),
        ({"devices": True}, "devices must be greater than 0; received True: give a whole number"),
    ],
)
def test_bad_settings_are_named(option, message):
    with pytest.raises(OptionError, match=message):
        TrainingConfig(**option)


def test_the_largest_batch_fills_the_memory_it_is_given(monkeypatch):
    """With memory for ten windows and a bit: eight."""
    from convlstm.training import tuning
    from convlstm.training.memory import step_bytes

    model, dataset = EncoderForecaster(hidden_dim=[3, 4]), MovingObjects(**DATA).split("train")
    config, cpu = TrainingConfig(**CONFIG), torch.device("cpu")
    one, ten = (step_bytes(model, dataset[0], config, n) for n in (1, 10))
    assert ten > 5 * one > 250_000
    share = tuning.allocator_share() / tuning._HEADROOM
    monkeypatch.setattr(tuning, "free_memory", lambda device: int(1.05 * ten * share))
    assert largest_batch(model, dataset, config, cpu) == 8
    monkeypatch.setattr(tuning, "free_memory", lambda device: int(0.5 * one))
    with pytest.raises(
        OptionError, match=r"one window must fit in memory; a training step needs [\d.]+ MiB and"
    ):
        largest_batch(model, dataset, config, cpu)


def test_the_largest_batch_of_a_model_whose_memory_cannot_be_counted_is_measured(monkeypatch):
    from convlstm.training import tuning

    class ByValue(StackForecaster):
        def forward(self, past, steps, **forcing):
            return super().forward(past * 2 if past.sum() > 0 else past, steps, **forcing)

    dataset, config, cpu = MovingObjects(**DATA).split("train"), TrainingConfig(**CONFIG), torch.device("cpu")
    model = ByValue(hidden_dim=[4])
    held = tuning._bytes_held(ForecastModule(model, config), tuning._batch(dataset, 4), cpu)
    monkeypatch.setattr(
        tuning, "free_memory", lambda device: int(1.2 * held * tuning.allocator_share() / tuning._HEADROOM)
    )
    assert largest_batch(model, dataset, config, cpu) == 4


def test_the_largest_batch_counts_what_the_frames_of_the_past_keep(monkeypatch):
    from convlstm.training.memory import step_bytes

    monkeypatch.setattr(
        "convlstm.engines.config.direct_convolution", True
    )  # transforms are kept for any batch
    window, model = MovingObjects(**DATA).split("train")[0], StackForecaster(hidden_dim=[4])
    forecast, every = (
        step_bytes(model, window, TrainingConfig(**CONFIG, loss_frames=frames), 2)
        for frames in ("forecast", "all")
    )
    assert every > 1.05 * forecast


def test_the_largest_batch_of_one_window_is_one():
    class Alone(list):
        pass

    windows = Alone([MovingObjects(**DATA).split("train")[0]])
    model, config = EncoderForecaster(hidden_dim=[3, 4]), TrainingConfig(**CONFIG)
    assert largest_batch(model, windows, config, torch.device("cpu")) == 1


def test_fit_itself_wants_numbers(tmp_path):
    with pytest.raises(OptionError, match="received batch_size=auto: call convlstm.train, which finds them"):
        train(tmp_path, batch_size="auto")


def test_the_learning_rate_finder_gives_one_that_learns(tmp_path):
    torch.manual_seed(0)
    model = EncoderForecaster(hidden_dim=[3, 4])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = TrainingConfig(**CONFIG | {"learning_rate": "auto"})
    rate = fastest_learning_rate(model, MovingObjects(**DATA, **SIZES).split("train"), config)
    assert 1e-5 < rate < 1e-1
    assert equal(model.state_dict(), before)


def test_training_runs_in_a_thread(tmp_path):
    with ThreadPoolExecutor() as pool:
        pool.submit(train, tmp_path / "run", epochs=1).result()
    assert (tmp_path / "run" / "model" / "config.json").exists()
