"""A run that ends in the middle of an epoch goes on at the next window, as if it had never ended."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import processes
import pytest
import torch
from lightning.pytorch import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from convlstm import EncoderForecaster, MovingObjects, StackForecaster
from convlstm.data import WindowDataset
from convlstm.errors import RunError
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit, read_checkpoint
from convlstm.training.run_folder import RunFolder, read_metrics

SCRIPT = Path(__file__).with_name("run_small.py")
COLUMNS = ("epoch", "step", "train_loss", "val_loss", "val_mse", "learning_rate", "teacher")
FURTHER = ("train_penalty", "teacher_past")


class Stored(MovingObjects):
    """Training windows in a new order each epoch, five batches of four and two windows left over."""

    def __init__(self):
        super().__init__(
            canvas=16, object_size=8, count=1, past=3, steps=3, train_size=22, validation_size=4, test_size=4
        )

    def split(self, name):
        windows = super().split(name)

        class Shuffled(WindowDataset):
            def __len__(self):
                return len(windows)

            def __getitem__(self, index):
                return windows[index]

        return Shuffled() if name == "train" else windows


class Noisy(EncoderForecaster):
    """Draws random numbers in training, as dropout does."""

    def step(self, frame, carry):
        frame, carry = super().step(frame, carry)
        return (frame + 0.1 * torch.rand_like(frame) if self.training else frame), carry


class Penalised(StackForecaster):
    """Draws random numbers in training, and has a penalty."""

    def step(self, frame, carry):
        frame, carry = super().step(frame, carry)
        return (frame + 0.1 * torch.rand_like(frame) if self.training else frame), carry

    def penalty(self, carry):
        return sum(state.h.square().mean() for state in carry)


class Interrupts(Callback):
    """Ctrl-C before step ``at``; draws random numbers, as an augmentation may."""

    def __init__(self, at=None):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch[0].add_(0.1 * torch.rand_like(batch[0]))
        if trainer.global_step == self.at:
            raise KeyboardInterrupt


PLATEAU = partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")


def train(path, *, resume=False, at=None, **options):
    run = RunFolder(path)
    if not resume:
        run.start()
    torch.manual_seed(0)
    settings = {"epochs": 3, "batch_size": 4, "accelerator": "cpu", "learning_rate": 1e-2, "ema": 0.9}
    settings |= {"curriculum": "linear", "curriculum_steps": 10, "checkpoint_minutes": 1e-9}
    scheduler = options.pop("scheduler", None)
    config = TrainingConfig(**settings | options)
    parts = {"scheduler": scheduler, "callbacks": [Interrupts(at)]}
    model = Penalised(hidden_dim=[3]) if config.loss_frames == "all" else Noisy(hidden_dim=[3, 4])
    if at is None:
        fit(model, Stored(), config, run, resume=resume, **parts)
    else:
        with pytest.raises(KeyboardInterrupt):
            fit(model, Stored(), config, run, resume=resume, **parts)
    return run


def assert_equal(run, whole):
    """Weights, their average, the state of the optimizer, the best of the epochs and the table."""
    for name in ("last", "best"):
        a, b = (read_checkpoint(getattr(each, name)) for each in (run, whole))
        assert a["global_step"] == b["global_step"]
        for part in ("state_dict", "current_model_state"):
            assert all(torch.equal(a[part][key], b[part][key]) for key in b[part])
        (a,), (b,) = a["optimizer_states"], b["optimizer_states"]
        assert all(torch.equal(a["state"][k]["exp_avg"], b["state"][k]["exp_avg"]) for k in b["state"])
    tables = [
        [
            (*(row[name] for name in COLUMNS), *(row.get(name) for name in FURTHER))
            for row in read_metrics(each.metrics)
        ]
        for each in (run, whole)
    ]
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [3, 7, 10])  # in the first epoch, in the second, before the third
def test_a_run_goes_on_at_the_next_window(tmp_path, whole, at, workers):
    run = train(tmp_path / "run", at=at, workers=workers)
    assert read_checkpoint(run.last)["global_step"] == at
    assert_equal(train(run.path, resume=True, workers=workers), whole)


def test_a_run_may_be_interrupted_again_and_again(tmp_path, whole):
    run = train(tmp_path / "run", at=1)
    for at in (2, 4, 9, 12):
        train(run.path, resume=True, at=at)
    assert_equal(train(run.path, resume=True), whole)


def test_a_run_of_all_rules_goes_on_at_the_next_window(tmp_path):
    rules = {"loss_frames": "all", "curriculum": "reverse", "reverse_input": True}
    expected = train(tmp_path / "whole", **rules)
    assert all(row["train_penalty"] > 0 for row in read_metrics(expected.metrics))
    run = train(tmp_path / "run", at=3, **rules)
    train(run.path, resume=True, at=10, **rules)
    assert_equal(train(run.path, resume=True, **rules), expected)


def test_a_schedule_by_epoch_takes_its_step_after_an_epoch_that_was_resumed(tmp_path):
    expected = train(tmp_path / "whole", scheduler=PLATEAU)
    assert len({row["learning_rate"] for row in read_metrics(expected.metrics)}) == 2
    run = train(tmp_path / "run", at=7, scheduler=PLATEAU)
    assert_equal(train(run.path, resume=True, scheduler=PLATEAU), expected)


def test_a_run_without_checkpoints_within_epochs_goes_on_from_the_last_epoch(tmp_path, whole):
    run = train(tmp_path / "run", at=8, checkpoint_minutes=0)
    assert read_checkpoint(run.last)["global_step"] == 5
    assert_equal(train(run.path, resume=True, checkpoint_minutes=0), whole)


def test_the_best_checkpoint_is_missed_only_after_a_complete_epoch(tmp_path):
    first = train(tmp_path / "first", at=3)
    assert not first.best.exists()
    assert first.checkpoint() == first.last
    second = train(tmp_path / "second", at=7)
    second.best.unlink()
    second.model.rename(tmp_path / "model")
    with pytest.raises(RunError, match=r"best\.ckpt is missing: copy it back"):
        train(second.path, resume=True)


@pytest.mark.long
@pytest.mark.parametrize(("devices", "workers"), [(1, 2), (2, 1)])
def test_a_run_that_was_killed_in_mid_epoch_ends_as_one_that_was_not(tmp_path, devices, workers):
    def start(name, *words):
        options = ["--devices", str(devices), "--workers", str(workers), "--batch", "2", "--epochs", "3"]
        words = [str(tmp_path / name), *options, "--minutes", "1e-9", *words]
        if devices == 1:
            return processes.Forked(SCRIPT.read_text(), words, tmp_path).finish().returncode
        return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True).returncode

    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    last = {1: 8, 2: 4}[devices]  # step; an epoch has six of one process, three of two
    assert start("whole") == 0
    assert start("killed", "--kill", str(last + 1)) != 0
    assert read_checkpoint(killed.last)["global_step"] == last
    assert start("killed", "--resume") == 0
    assert_equal(killed, whole)
