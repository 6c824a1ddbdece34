"""Optimizer, schedule and callbacks of one's own: used, resumed to the bit, checked before any work."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR

from convlstm import EncoderForecaster, MovingObjects
from convlstm.errors import OptionError, RunError
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit, read_checkpoint
from convlstm.training.run_folder import RunFolder, read_metrics

DATA = MovingObjects(
    canvas=16, object_size=8, count=1, past=3, steps=3, train_size=16, validation_size=4, test_size=4
)
MOMENTUM = partial(SGD, momentum=0.9)
HALVED = partial(StepLR, step_size=6, gamma=0.5)  # four steps an epoch


def train(path, *, resume=False, epochs=4, injected=None):
    run = RunFolder(path)
    if not resume:
        run.start()
    torch.manual_seed(0)
    config = TrainingConfig(epochs=epochs, batch_size=4, accelerator="cpu", learning_rate=1e-2)
    fit(EncoderForecaster(hidden_dim=[3, 4]), DATA, config, run, resume=resume, **injected or {})
    return run


class Interrupts(Callback):
    """Ctrl-C before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class CountsBatches(Callback):
    """A state that has to survive."""

    def __init__(self):
        self.count = 0

    def on_train_batch_end(self, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def rates(run):
    return [row["learning_rate"] for row in read_metrics(run.metrics)]


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        (MOMENTUM, HALVED),
        (AdamW, partial(OneCycleLR, max_lr=1e-2, total_steps=16)),
        (SGD, partial(MultiStepLR, milestones=[3, 9])),
    ],
    ids=["momentum", "one cycle", "milestones"],
)
def test_an_interrupted_run_resumes_to_the_bit(tmp_path, optimizer, scheduler):
    injected = {"optimizer": optimizer, "scheduler": scheduler}
    whole = train(tmp_path / "whole", injected=injected)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", injected=injected | {"callbacks": [Interrupts(10)]})
    broken = train(tmp_path / "broken", resume=True, injected=injected)
    one, other = (read_checkpoint(run.last) for run in (whole, broken))
    for name in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0)
    assert other["lr_schedulers"] == one["lr_schedulers"]
    assert rates(broken) == rates(whole)


def test_optimizer_and_scheduler_are_those_given(tmp_path):
    run = train(tmp_path / "run", injected={"optimizer": MOMENTUM, "scheduler": HALVED})
    # By step 4, 8, 12, 16 the schedule has halved the rate 0, 1, 2, 2 times.
    assert rates(run) == pytest.approx([1e-2, 5e-3, 2.5e-3, 2.5e-3])
    (state,) = read_checkpoint(run.last)["optimizer_states"]
    assert state["param_groups"][0]["momentum"] == 0.9
    assert all("momentum_buffer" in each for each in state["state"].values())
    alone = train(tmp_path / "alone", epochs=1, injected={"scheduler": HALVED})
    assert "exp_avg" in read_checkpoint(alone.last)["optimizer_states"][0]["state"][0]  # Adam


def test_a_plateau_is_one_of_the_validation_loss_by_epoch(tmp_path):
    never_better = partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")
    run = train(tmp_path / "run", injected={"scheduler": never_better})
    assert rates(run) == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])  # the first epoch is better than none


def test_callbacks_are_called_and_their_states_resumed(tmp_path):
    counts = CountsBatches()
    keeps = ModelCheckpoint(tmp_path / "checkpoints", filename="mine", monitor="val_mse", save_top_k=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", injected={"callbacks": [counts, keeps, Interrupts(10)]})
    assert counts.count == 10
    again = CountsBatches()
    keeps = ModelCheckpoint(tmp_path / "checkpoints", filename="mine", monitor="val_mse", save_top_k=2)
    run = train(tmp_path / "run", resume=True, injected={"callbacks": [again, keeps]})
    assert again.count == 16  # eight of the two epochs before, and eight
    states = read_checkpoint(run.last)["callbacks"]
    folders = {key: state["dirpath"] for key, state in states.items() if "ModelCheckpoint" in key}
    assert sorted(folders.values()) == sorted([str(tmp_path / "checkpoints"), *2 * [str(run.checkpoints)]])


class Slows(LRScheduler):
    """A schedule whose state has the names of the built-in one's."""

    def __init__(self, optimizer):
        self.total_steps, self._schedule_phases = 0, "mine"
        super().__init__(optimizer)

    def get_lr(self):
        self.total_steps += 1
        return [1e-2 / self.total_steps for _ in self.optimizer.param_groups]


def test_an_injected_schedule_has_its_whole_state_back(tmp_path):
    whole = train(tmp_path / "whole", injected={"scheduler": Slows})
    train(tmp_path / "run", epochs=2, injected={"scheduler": Slows})
    run = train(tmp_path / "run", resume=True, injected={"scheduler": Slows})
    assert rates(run) == rates(whole)
    (state,) = read_checkpoint(run.last)["lr_schedulers"]
    assert state["total_steps"] == 17  # one for the start, sixteen steps


def not_an_optimizer(parameters, lr):
    return lr


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        (
            {"optimizer": SGD([torch.zeros(1)], lr=1.0)},
            r"optimizer must be callable; received an? SGD: .* called by optimizer\(parameters, lr=learning",
        ),
        ({"optimizer": partial(SGD, momentun=1)}, r"optimizer must be callable by .* gave '.*momentun'"),
        (
            {"optimizer": torch.optim.SparseAdam},
            "must take dense gradients, which convolutions have; received an? SparseAdam: give another",
        ),
        ({"optimizer": not_an_optimizer}, "result of optimizer must be an Optimizer; received 0.01"),
        ({"scheduler": StepLR}, r"scheduler must be callable by scheduler\(optimizer\); .*step_size"),
        ({"scheduler": "StepLR"}, "scheduler must be callable; received 'StepLR'"),
        ({"scheduler": type}, "result of scheduler must be an? LRScheduler; received the class Adam"),
        ({"callbacks": [CountsBatches]}, r"each of callbacks must be a Callback; .* call it, CountsBatches"),
        ({"callbacks": CountsBatches()}, r"callbacks must be a list; received a CountsBatches"),
        (
            {"callbacks": [CountsBatches(), CountsBatches()]},
            "differ in their state_key.* second CountsBatches",
        ),
    ],
)
def test_what_cannot_be_used_is_named_before_any_work(tmp_path, injected, message):
    with pytest.raises(OptionError, match=message):
        train(tmp_path / "run", injected=injected)
    assert not any((tmp_path / "run").iterdir())


def test_another_optimizer_than_the_checkpoints_is_refused(tmp_path):
    run = train(tmp_path / "run", epochs=1, injected={"optimizer": MOMENTUM, "scheduler": HALVED})
    before = run.last.read_bytes()
    for injected, received in (({}, "torch.optim.adam.Adam"), ({"optimizer": SGD}, "torch.optim.sgd.SGD")):
        with pytest.raises(RunError, match=f"SGD with .*StepLR; received {received}: give the same again"):
            train(tmp_path / "run", resume=True, injected=injected)
    assert run.last.read_bytes() == before


def test_a_checkpoint_of_an_earlier_version_is_adams(tmp_path):
    run = train(tmp_path / "run", epochs=1)
    content = read_checkpoint(run.last)
    del content["optimizer_classes"]
    torch.save(content, run.last)
    with pytest.raises(RunError, match=r"torch.optim.adam.Adam; received torch.optim.sgd.SGD"):
        train(tmp_path / "run", resume=True, injected={"optimizer": SGD})
    train(tmp_path / "run", resume=True, epochs=2)
    assert len(read_metrics(run.metrics)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["optimizer_states"].clear(),
        lambda content: content["optimizer_states"][0].clear(),
        lambda content: content["optimizer_states"][0]["param_groups"][0]["params"].pop(),
        lambda content: content["callbacks"]["History"].update(rows=[{"epoch": "one"}]),
        lambda content: content["callbacks"]["History"].update(rows=3),
        lambda content: content["callbacks"].update(ValueRange={"batches": None}),
        lambda content: content["callbacks"].update(ValueRange=4),
        lambda content: [
            state.update(best_k_models=3) for key, state in content["callbacks"].items() if "Model" in key
        ],
    ],
)
def test_damaged_states_in_a_checkpoint_are_named(tmp_path, damage):
    run = train(tmp_path / "run", epochs=1)
    content = read_checkpoint(run.last)
    damage(content)
    torch.save(content, run.last)
    rows = run.metrics.read_bytes()
    with pytest.raises(RunError, match="must hold the states of optimizer and callbacks as they wrote them"):
        train(tmp_path / "run", resume=True, epochs=2)
    assert run.metrics.read_bytes() == rows


def test_the_schedule_serves_optimizers_without_momentum(tmp_path):
    run = train(tmp_path / "run", epochs=1, injected={"optimizer": torch.optim.Adagrad})
    assert read_metrics(run.metrics)[-1]["learning_rate"] < 0.005  # of 0.01, decayed by the schedule


def test_a_second_learning_rate_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"must be given as learning_rate; received lr=0\.3"):
        train(tmp_path / "run", injected={"optimizer": partial(AdamW, lr=0.3)})
