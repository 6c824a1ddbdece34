"""The commands as functions: objects or paths in, objects out, nothing printed."""

import os
import random
import shutil
from copy import deepcopy as copy_of
from functools import partial, reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

import convlstm
from convlstm import EncoderForecaster, MovingObjects, TrainingConfig
from convlstm.cli.main import main
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.training.run_folder import RunFolder
from convlstm.trust import Trust
from convlstm.workflows.configuration import Parts, configuration, read_settings
from convlstm.workflows.parts import build, load_parts, resolve_parts
from convlstm.workflows.train import TrainedRun

WINDOWS = {"canvas": 16, "object_size": 8, "count": 1, "past": 3, "steps": 3}
DATA = MovingObjects(**WINDOWS, train_size=8, validation_size=4, test_size=5)
CONFIG = TrainingConfig(epochs=1, batch_size=4, accelerator="cpu")


def small():
    torch.manual_seed(0)
    return EncoderForecaster(hidden_dim=[4])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    return convlstm.train(data=DATA, model=small(), config=CONFIG, out=tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture
def copy(run, tmp_path):
    """A folder that is that run's, to be changed."""
    shutil.copytree(run, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def content(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_trained_run_stands_for_its_folder_and_holds_its_model(run):
    assert isinstance(run, TrainedRun)
    assert os.fspath(run) == str(run.path)
    assert (run / "model").is_dir()
    assert [row["epoch"] for row in run.metrics] == [1]
    saved = EncoderForecaster.from_pretrained(run / "model").state_dict()
    torch.testing.assert_close(run.model.state_dict(), saved, rtol=0, atol=0)
    assert not run.model.training
    assert repr(run) == f"TrainedRun(path={run.path!r}, packages=())"


def test_nothing_is_printed(tmp_path, capfd):
    run = convlstm.train(data=DATA, model=small(), config=CONFIG, out=tmp_path / "run")
    convlstm.evaluate(run)
    np.save(tmp_path / "past.npy", np.full((3, 16, 16), 9.0))  # far outside the values of the training
    convlstm.forecast(run, tmp_path / "past.npy", steps=2, out=tmp_path / "f.npy")
    assert os.fspath(convlstm.report(run)) == str(tmp_path / "run" / "report.html")
    shown = capfd.readouterr()
    assert shown.out == ""


def test_a_model_in_memory_is_evaluated_without_a_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_folder = convlstm.evaluate(run.path).to_dict()
    of_model = convlstm.evaluate(run.model, data=DATA).to_dict()
    assert of_model | {"weights": None} == of_folder | {"weights": None}
    assert of_folder["weights"]
    assert not list(tmp_path.iterdir())
    convlstm.evaluate(run.model, data=DATA, out=tmp_path / "scores")
    assert (tmp_path / "scores" / "scores.json").exists()
    with pytest.raises(OptionError, match="needs data to be evaluated on"):
        convlstm.evaluate(run.model)


def test_frames_in_memory_are_forecast_as_those_of_a_file(run, tmp_path):
    past = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "past.npy", past)
    written = convlstm.forecast(run, tmp_path / "past.npy", steps=4, out=tmp_path / "f.npy")
    given = convlstm.forecast(run.path, past, steps=4)
    assert written.path == tmp_path / "f.npy"
    assert given.path is None
    assert given.frames.dtype == np.uint8
    np.testing.assert_array_equal(given.frames, written.frames)
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), written.frames)
    assert given.past.shape == (3, 1, 16, 16)  # as many as the model was trained with
    of_model = convlstm.forecast(run.model, torch.from_numpy(past[-3:]), steps=4)
    np.testing.assert_array_equal(of_model.frames, given.frames)
    for wrong in (past[:, 0], past[:2], np.full((3, 1, 16, 16), np.nan), np.zeros((3, 2, 16, 16))):
        with pytest.raises(ConvLSTMError, match="received shape|must hold the 3|must be finite|channels"):
            convlstm.forecast(run, wrong, steps=1)


def test_arguments_of_another_kind_are_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    past = np.zeros((3, 1, 16, 16))
    for call, sentence in {
        partial(convlstm.train, data="radar.npy"): "none match 'radar.npy'",
        partial(convlstm.train, data="radar"): "data must be a Source",
        partial(convlstm.train, data=MovingObjects): "data must be a Source",
        partial(convlstm.train, model=run): "model must be a Forecaster",
        partial(convlstm.train, config={"epochs": 1}): "config must be a TrainingConfig",
        partial(convlstm.train, optimizer="adam"): "optimizer must be callable; received 'adam'",
        partial(convlstm.train, data=DATA, config=CONFIG, optimizer=lambda p, lr: None): "importable by name",
        partial(convlstm.train, out=3): "--out must be a path; received 3",
        partial(convlstm.train, resume=None, out=""): "received an empty one",
        partial(convlstm.evaluate, None): "MODEL must be a path; received None",
        partial(convlstm.evaluate, run, data=str(tmp_path)): "none match",
        partial(convlstm.evaluate, run, batch_size="4"): "batch_size must be an integer",
        partial(convlstm.forecast, run, past, steps=1.5): "steps must be an integer",
        partial(convlstm.forecast, run, None, steps=1): "frames must be",
        partial(convlstm.report, 7): "RUN must be a path; received 7",
        partial(convlstm.demo, out=7): "--out must be a path; received 7",
    }.items():
        with pytest.raises(ConvLSTMError) as caught:
            call()
        assert sentence in str(caught.value), call
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


INJECTED = """
optimizer:
  class_path: torch.optim.SGD
  init_args: {momentum: 0.9}
scheduler:
  class_path: torch.optim.lr_scheduler.StepLR
  init_args: {step_size: 2}
callbacks:
- class_path: lightning.pytorch.callbacks.EarlyStopping
  init_args: {monitor: val_loss}
"""


def test_optimizer_scheduler_and_callbacks_are_one_in_python_on_the_command_line_and_in_a_file(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    parts = Parts(
        *(DATA, small(), CONFIG),
        optimizer=partial(torch.optim.SGD, momentum=0.9),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2),
        callbacks=(partial(EarlyStopping, monitor="val_loss"),),
    )
    (tmp_path / "of_run.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text() + INJECTED)
    words = ["--optimizer", "torch.optim.SGD", "--optimizer.momentum", "0.9", "--scheduler", "StepLR"]
    words += ["--scheduler.step_size=2", "--callbacks+", "lightning.pytorch.callbacks.EarlyStopping"]
    words += ["--callbacks.monitor", "val_loss"]
    for given in (["--config", "config.yaml"], ["--config", "of_run.yaml", *words]):
        assert main(["train", *given, "--print_config"]) == 0
        assert capsys.readouterr().out == configuration(parts)
    resolved = resolve_parts(read_settings(tmp_path / "config.yaml"), lambda path, *_, **__: _classes()[path])
    assert resolved["optimizer"].func is torch.optim.SGD
    assert [callback.func for callback in resolved["callbacks"]] == [EarlyStopping]


def test_a_run_with_injected_classes_goes_on_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = []
    run = convlstm.train(
        data=DATA,
        model=small(),
        config=TrainingConfig(epochs=2, batch_size=4, accelerator="cpu", learning_rate=0.01),
        optimizer=partial(torch.optim.SGD, momentum=0.9),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1),
        callbacks=[partial(EarlyStopping, monitor="val_mse", patience=50), Seen(seen)],
        out="run",
    )
    rates = [row["learning_rate"] for row in run.metrics]
    assert rates == pytest.approx([0.001, 0.0001])  # after two steps in each epoch
    assert {type(optimizer) for optimizer in seen} == {torch.optim.SGD}
    assert seen[0].defaults["momentum"] == 0.9
    with pytest.raises(RunError, match="made in Python is given again"):
        convlstm.train(resume="run", trust=("lightning", __name__))
    with pytest.raises(OptionError, match="received another optimizer"):
        convlstm.train(resume="run", optimizer=torch.optim.Adam, trust=("lightning", __name__))
    before = len(seen)
    again = convlstm.train(
        resume="run",
        config=TrainingConfig(epochs=3, batch_size=4, accelerator="cpu", learning_rate=0.01),
        callbacks=[partial(EarlyStopping, monitor="val_mse", patience=50), Seen(seen)],
        trust=("lightning", __name__),
    )
    assert [row["learning_rate"] for row in again.metrics] == pytest.approx([0.001, 0.0001, 0.00001])
    assert len(seen) > before


class Seen(Callback):
    """Notes the optimizer of every training."""

    def __init__(self, seen):
        self.seen = seen

    def on_train_start(self, trainer, pl_module):
        self.seen += trainer.optimizers


@pytest.mark.parametrize("made", [lambda kind: kind, partial], ids=["class", "partial"])
def test_a_run_goes_on_with_the_classes_that_it_was_given_again(tmp_path, monkeypatch, made):
    monkeypatch.chdir(tmp_path)
    given = {"optimizer": made(torch.optim.SGD), "scheduler": made(torch.optim.lr_scheduler.ConstantLR)}
    settings = {"batch_size": 4, "accelerator": "cpu"}
    convlstm.train(data=DATA, model=small(), config=TrainingConfig(epochs=1, **settings), out="run", **given)
    again = convlstm.train(resume="run", config=TrainingConfig(epochs=2, **settings), **given)
    assert len(again.metrics) == 2


def test_the_command_line_injects_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"--data.{name}={value}" for name, value in DATA.hyperparameters.items() if type(value) is int]
    words += ["--epochs=1", "--batch_size=4", "--accelerator=cpu", "--model.hidden_dim=[4]", "--out=run"]
    words += ["--optimizer", "SGD", "--optimizer.momentum", "0.9", "--callbacks+", "EarlyStopping"]
    words += ["--callbacks.monitor", "val_loss"]
    assert main(["train", *words]) == 0
    settings = read_settings(Path("run/config.yaml"))
    assert settings["optimizer"] == {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}
    assert main(["evaluate", "run"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 2
    assert "add --trust lightning" in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--epochs", "2", "--trust", "lightning"]) == 0
    assert "trained 2 of 2 epochs" in capsys.readouterr().out
    assert main(["train", "--resume", "run", "--optimizer.momentum", "0.8", "--trust", "lightning"]) == 2
    assert "received another optimizer: leave it out" in capsys.readouterr().err


def _classes():
    optim = torch.optim
    return {
        "convlstm.MovingObjects": MovingObjects,
        "convlstm.EncoderForecaster": EncoderForecaster,
        "convlstm.models.encoder_forecaster.remembering_lstm": None,
        "torch.optim.SGD": optim.SGD,
        "torch.optim.lr_scheduler.StepLR": optim.lr_scheduler.StepLR,
        "lightning.pytorch.callbacks.EarlyStopping": EarlyStopping,
    }


def test_classes_of_torch_load_from_a_run_and_those_of_lightning_with_trust(copy):
    plain = copy.config.read_text()
    copy.config.write_text(plain + INJECTED)
    with pytest.raises(RunError, match=r"received lightning\.pytorch.*add --trust lightning"):
        load_parts(copy)
    assert load_parts(copy, "lightning")["optimizer"].keywords == {"momentum": 0.9}
    assert convlstm.evaluate(copy.path).cases == 5  # needs no callback
    for path in ("torch.save", "torch.nn.Linear", "torch.optim.swa_utils.AveragedModel", "os.system"):
        copy.config.write_text(f"{plain}optimizer: {path}\n")
        with pytest.raises(RunError, match=path):
            load_parts(copy)


def test_a_callback_that_was_an_object_is_given_again(copy):
    parts = Parts(DATA, small(), CONFIG, callbacks=(EarlyStopping("val_loss"),))
    copy.config.write_text(configuration(parts))
    (made,) = load_parts(copy, "lightning")["callbacks"]
    with pytest.raises(RunError, match=r"received no lightning\.pytorch.*EarlyStopping: call convlstm.train"):
        made()


#: As the version of commit 6cf56d1 wrote it.
OLD = """\
loss: mse
epochs: 1
batch_size: 4
learning_rate: 0.001
schedule: onecycle
gradient_clip: 1.0
curriculum: free
curriculum_steps: 10000
ema: 0.0
patience: 0
precision: '32'
devices: 1
nodes: 1
accelerator: cpu
workers: 0
seed: 0
data:
  class_path: convlstm.MovingObjects
  init_args: {images: digits, canvas: 16, object_size: 8, count: 1, speed: 0.1, past: 3, steps: 3,
    train_size: 8, validation_size: 4, test_size: 5, seed: 0, test_file: null, download: false}
model:
  class_path: convlstm.EncoderForecaster
  init_args:
    channels: 1
    hidden_dim: [4]
    kernel_size: 3
    patch_size: 2
    skip: true
    transport: 2
    output: linear
    cell: convlstm.models.encoder_forecaster.remembering_lstm
    engine: auto
"""


@pytest.mark.filterwarnings("ignore:transport is the earlier name")
def test_a_configuration_of_an_earlier_version_is_read(copy, capsys):
    copy.config.write_text(OLD)
    assert main(["evaluate", str(copy.path)]) == 0
    assert main(["train", "--resume", str(copy.path), "--epochs", "2"]) == 0
    assert "trained 2 of 2 epochs" in capsys.readouterr().out
    assert load_parts(copy)["model"].hyperparameters["cell"]["class"] == (
        "convlstm.models.encoder_forecaster.remembering_lstm"
    )


def test_a_file_given_beside_resume_is_compared_with_the_run(run, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text((run / "config.yaml").read_text().replace("test_size: 5", "test_size: 4"))
    assert main(["train", "--resume", str(run.path), "--config", str(config)]) == 2
    assert "received another data: leave it out" in capsys.readouterr().err


def test_an_unreadable_configuration_is_told_where_other_data_are_given(copy):
    copy.config.write_text("data: [")
    before = content(copy.path)
    with pytest.raises(OptionError, match="a configuration must be valid YAML"):
        convlstm.evaluate(copy.path, data=DATA, out=copy.path / "scores")
    assert content(copy.path) == before


def test_typed_options_change_arguments_of_the_classes_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cell = "{class_path: convlstm.ConvLSTMCell, init_args: {attention: spatial, dilation: 2}}"
    Path("a.yaml").write_text(f"model: {{class_path: EncoderForecaster, init_args: {{cell: {cell}}}}}\n")
    assert main(["train", "--config", "a.yaml", "--model.cell.dilation", "3", "--print_config"]) == 0
    Path("b.yaml").write_text(capsys.readouterr().out)
    cell = read_settings(Path("b.yaml"))["model"]["init_args"]["cell"]
    assert cell["init_args"] == {"attention": "spatial", "dilation": 3}
    assert main(["train", "--config", "a.yaml", "--model.cell", "ConvGRUCell", "--print_config"]) == 0
    assert "cell: convlstm.ConvGRUCell\n" in capsys.readouterr().out


def test_each_callback_has_the_options_that_follow_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--callbacks+=EarlyStopping", "--callbacks.monitor=val_mse", "--callbacks+=LearningRateMonitor"]
    words += ["--callbacks.logging_interval=step"]
    assert main(["train", *words, "--print_config"]) == 0
    Path("a.yaml").write_text(capsys.readouterr().out)
    first, second = read_settings(Path("a.yaml"))["callbacks"]
    assert first["class_path"].endswith(".EarlyStopping")
    assert (first["init_args"], second["init_args"]) == ({"monitor": "val_mse"}, {"logging_interval": "step"})


@pytest.mark.parametrize("name", ["describe", "train", "evaluate", "forecast", "report", "demo"])
def test_the_help_of_a_command_is_made_from_its_workflow(name, capsys):
    assert main([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    usage = {"describe": " PATH...", "evaluate": " MODEL", "forecast": " MODEL PAST...", "report": " RUN"}
    usage = (usage | {"demo": " [SUBJECT]"}).get(name, "")
    assert shown.startswith(f"usage: convlstm {name}{usage} [OPTIONS] ")
    assert getattr(convlstm, name).__doc__.splitlines()[0] in shown
    assert ("[default: 16]" in shown or "default: 16" in shown) is (name in ("train", "evaluate"))
    assert "watch" not in shown


def _mutations(settings):
    """The settings with another value in each of their places."""
    values = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        "",
        "x",
        "a.b",
        "os.system",
        "torch.tanh",
        [],
        {},
        [[]],
        [1, "x"],
    ]
    values += [
        {"class_path": 3},
        {"class_path": "torch.nn.Linear"},
        {"class_path": "torch.nn.ReLU", "init_args": [1]},
    ]
    values += [{"class_path": "ReLU"}, {"class_path": "convlstm.ConvLSTMCell", "init_args": {1: 2}}, {1: 2}]

    def places(value, path=()):
        yield path
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            yield from places(item, (*path, key))

    for *above, last in filter(None, places(settings)):
        for value in values:
            changed = copy_of(settings)
            reduce(lambda inner, key: inner[key], above, changed)[last] = value
            yield changed


def test_any_configuration_is_read_or_refused_in_one_sentence(run):
    cell = {"class_path": "convlstm.ConvLSTMCell", "init_args": {"attention": "spatial"}}
    settings = read_settings(run / "config.yaml")
    settings["model"]["init_args"] |= {"cell": cell}
    settings["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}
    mutations = [*_mutations(settings)]
    answers = []
    for changed in random.Random(0).sample(mutations, 400):
        try:
            build(resolve_parts(changed, Trust().find), ["data", "config", "optimizer"])
        except ConvLSTMError as error:
            answers.append(str(error))
    assert len(mutations) > 800
    assert 200 < len(answers) < 400
    assert all("\n" not in answer and 20 < len(answer) < 1500 for answer in answers)


class Untyped(convlstm.Forecaster):
    """Arguments without types, whose values are classes, in a list and in a dictionary too."""

    def __init__(self, channels=1, act=torch.nn.Tanh, acts=(torch.nn.ReLU,), named={"last": torch.nn.GELU}):  # noqa: B006
        super().__init__()
        parts = [torch.nn.Conv2d(channels, channels, 1), act(), *(made() for made in acts), named["last"]()]
        self.net = torch.nn.Sequential(*parts)

    def forward(self, past, steps):
        return torch.stack([self.net(past[:, -1])] * steps, dim=1)


def test_classes_in_arguments_without_types_come_back_as_classes(tmp_path):
    convlstm.train(data=DATA, model=Untyped(), config=CONFIG, out=tmp_path / "run")
    parts = load_parts(RunFolder(tmp_path / "run"), trust=__name__)
    assert [type(part).__name__ for part in parts["model"].net] == ["Conv2d", "Tanh", "ReLU", "GELU"]


class OwnModel(EncoderForecaster):
    """Of a module that is not trusted by itself."""


class OwnData(MovingObjects):
    """Of the same."""


def test_a_run_trained_in_this_process_needs_no_trust_and_its_folder_does(tmp_path):
    data = OwnData(**WINDOWS, train_size=8, validation_size=4, test_size=4)
    run = convlstm.train(data=data, model=OwnModel(hidden_dim=[4]), config=CONFIG, out=tmp_path / "run")
    past = np.zeros((3, 1, 16, 16), np.float32)
    for place in (run.path, os.fspath(run)):  # the files may be a stranger's
        with pytest.raises(RunError, match="if you trust that package, add --trust"):
            convlstm.evaluate(place)
        with pytest.raises(RunError, match="if you trust that package, add --trust"):
            convlstm.forecast(place, past, 2)
    assert convlstm.evaluate(run).cases == 4
    assert convlstm.forecast(run, past, 2).frames.shape == (2, 1, 16, 16)
    assert isinstance(convlstm.train(resume=run).model, OwnModel)
