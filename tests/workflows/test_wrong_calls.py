"""Wrong calls of the workflows from Python: one sentence with a remedy, before any work."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import convlstm
from convlstm import EncoderForecaster, Forecaster, MovingObjects, StackForecaster, TrainingConfig
from convlstm.data import Source
from convlstm.errors import ConvLSTMError, OptionError

DATA = MovingObjects(
    canvas=16, object_size=8, count=1, past=3, steps=3, train_size=8, validation_size=4, test_size=5
)
PAST = np.zeros((3, 1, 16, 16), np.float32)
ENDLESS: list = []
ENDLESS.append(ENDLESS)


class Plain:
    """An object that belongs nowhere."""


class Unfinished(Source):
    """Data without lengths."""

    def split(self, name):
        return DATA.split(name)

    def describe(self):
        return "unfinished"


class WithoutSplits(Unfinished):
    """Data whose splits are none."""

    past = steps = channels = 1

    def split(self, name):
        return None


class WithoutWindows(WithoutSplits):
    """Data whose windows are none."""

    def split(self, name):
        class Numbers(type(DATA.split(name))):
            def __getitem__(self, index):
                return index

        return Numbers(DATA, name)


class Uninitialised(Forecaster):
    """A model that is no module yet."""

    def __init__(self):
        pass

    def forward(self, past, steps):
        return past


OBJECTS = [3, -1, 10**30, float("nan"), "x", b"x", [1], {"a": 1}, True, Plain, Plain(), torch.zeros(3), len]
NO_PATHS = [3, float("nan"), b"x", [1], True, Plain, torch.zeros(3), "", "a\0b", "x" * 300, "\ud800"]
NO_NAMES = [3, b"x", [1], [None], {"a": 1}, Plain, torch.zeros(3), np.zeros(2), "a/b.py", iter("a")]
NO_FRAMES = [
    *(
        None,
        3,
        [[1], [1, 2]],
        ENDLESS,
        PAST[0],
        PAST > 0,
        PAST + 1j,
        PAST * np.nan,
        np.full((3, 1, 4, 4), "a"),
    ),
    *(
        torch.zeros(3, 1, 4, 4).to_sparse(),
        torch.zeros(3, 1, 4, 4, device="meta"),
        Plain,
        Path("nowhere.npy"),
    ),
    np.ma.masked_all((3, 1, 4, 4)),
]
WRONG = {
    ("train", "data"): [*OBJECTS, MovingObjects, Unfinished(), WithoutSplits(), WithoutWindows()],
    ("train", "model"): [*OBJECTS, EncoderForecaster, Uninitialised(), torch.nn.Linear(1, 1)],
    ("train", "config"): [*OBJECTS, TrainingConfig],
    ("train", "optimizer"): [3, "adam", [1], torch.zeros(1), torch.optim.SGD([torch.zeros(1)], lr=0.1)],
    ("train", "scheduler"): [3, "StepLR", [1], torch.zeros(1)],
    ("train", "callbacks"): [
        3,
        "",
        "x",
        b"x",
        {"a": 1},
        True,
        Plain(),
        torch.zeros(3),
        [None],
        [Plain()],
        len,
    ],
    ("train", "out"): [*NO_PATHS, "file/run"],
    ("train", "resume"): [*NO_PATHS, "nowhere", "file"],
    ("train", "trust"): NO_NAMES,
    ("evaluate", "model"): [*NO_PATHS, None, "nowhere", "file", EncoderForecaster, Uninitialised()],
    ("evaluate", "data"): [*OBJECTS, None, MovingObjects, Unfinished(), WithoutSplits()],
    ("evaluate", "data_range"): ["x", -1, 0, float("nan"), [1], Plain, torch.zeros(3)],
    ("evaluate", "thresholds"): [3, "x", ["x"], [1, 1.0], [float("nan")], Plain, torch.zeros(3)],
    ("evaluate", "baselines"): [None, 3, "x", ["x"], [3], Plain, torch.zeros(3)],
    ("evaluate", "batch_size"): [None, 0, -1, 1.5, 10**30, float("nan"), "4", True, [1], Plain],
    ("evaluate", "out"): [*NO_PATHS, "file/scores"],
    ("evaluate", "trust"): NO_NAMES,
    ("evaluate", "watch"): [3, "x", [1], Plain(), torch.zeros(3)],
    ("forecast", "model"): [*NO_PATHS, None, "nowhere", "file", EncoderForecaster, Uninitialised()],
    ("forecast", "past"): NO_FRAMES,
    ("forecast", "steps"): [None, 0, -1, 1.5, 10**9, float("nan"), "4", True, [1], Plain],
    ("forecast", "out"): [*NO_PATHS, "a.xyz", "nowhere/a.npy", "file/a.npy", "file.npy"],
    ("forecast", "overwrite"): [None, "x", 3, [1], Plain, torch.zeros(3)],
    ("forecast", "trust"): NO_NAMES,
    ("report", "run"): [*NO_PATHS, None, "nowhere", "file", "."],
    ("demo", "out"): NO_PATHS,
    ("describe", "path"): [*NO_PATHS, None, [], "nowhere", "file", ["file.npy", 3], torch.zeros(3)],
    ("describe", "reader"): [3, "x", "x.y", [1], Plain, torch.zeros(3)],
    ("describe", "variable"): [3, "x", [], [1], Plain, torch.zeros(3)],
    ("describe", "missing"): ["x", [None], None, Plain, torch.zeros(3)],
    ("describe", "skip_bad"): [None, "x", 3, [1], Plain, torch.zeros(3)],
    ("demo", "subject"): [*NO_NAMES, "snow"],
}


@pytest.mark.parametrize(("workflow", "argument"), WRONG, ids=".".join)
def test_an_argument_of_another_kind_is_one_sentence_before_any_work(
    workflow, argument, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "file.npy"):
        Path(name).touch()
    np.save("frames.npy", np.zeros((3, 4, 4), np.float32))
    model = EncoderForecaster(hidden_dim=[4])
    whole = {
        "train": {"data": DATA, "model": model, "config": TrainingConfig(epochs=1, accelerator="cpu")},
        "evaluate": {"model": model, "data": DATA},
        "forecast": {"model": model, "past": PAST, "steps": 1},
        "describe": {"path": "frames.npy"},
    }.get(workflow, {})
    whole |= {"batch_size": 4} if workflow == "evaluate" else {}
    if argument == "resume":
        whole = {}
    for value in WRONG[workflow, argument]:
        with pytest.raises(ConvLSTMError) as caught:
            getattr(convlstm, workflow)(**whole | {argument: value})
        message = str(caught.value)
        assert "\n" not in message, value
        assert len(message) < 600, value
        assert sorted(os.listdir()) == ["file", "file.npy", "frames.npy"], value


def test_an_output_that_cannot_reach_the_data_is_refused_before_any_work(tmp_path):
    frames = np.random.default_rng(0).normal(size=(400, 16, 16)).astype(np.float32)
    options = {"config": TrainingConfig(learning_rate="auto", batch_size="auto"), "out": tmp_path / "run"}
    with pytest.raises(OptionError, match=r"output=sigmoid gives 0 to 1, and \d\d% of the first"):
        convlstm.train(data=frames, model=StackForecaster(output="sigmoid"), **options)
    assert not (tmp_path / "run").exists()
