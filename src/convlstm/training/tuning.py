"""Values for ``auto``: the largest batch that fits in memory, the learning rate that learns fastest."""

import copy
import dataclasses
import io
import math
import os
import sys
import tempfile
from contextlib import redirect_stderr

import torch
from lightning.pytorch.tuner.tuning import Tuner

from convlstm.data.base import LabelledWindow, WindowDataset, batch_of, on_device
from convlstm.data.specification import Specification
from convlstm.errors import OptionError
from convlstm.models.base import Forecaster
from convlstm.models.memory import allocator_share, gibibytes
from convlstm.system_memory import free_memory
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import new_trainer
from convlstm.training.lightning_logging import quiet
from convlstm.training.loaders import training_loader
from convlstm.training.memory import step_bytes
from convlstm.training.module import ForecastModule, check_rollout
from convlstm.training.signals import interruptible

_LARGEST = 1024
_HEADROOM = 0.8


def largest_batch(
    model: Forecaster,
    dataset: WindowDataset,
    config: TrainingConfig,
    device: torch.device,
    specification: Specification | None = None,
) -> int:
    """The largest power of two that a training step can take on ``device``.

    What a step needs is counted without running it (`convlstm.training.memory.step_bytes`), for one window,
    for two, and for the batch chosen, which fills at most 80 % of the memory that is free now. A model whose
    memory cannot be counted is run instead. On a GPU the step is then run, and the batch halved while it does
    not fit.

    Args:
        model: on any device; left as it was.
        dataset: where windows come from; its length is a limit too.
        config: the training to come.
        device: where training will run.
        specification: of the data.

    Raises:
        OptionError: not even one window fits.
    """
    trial = dataclasses.replace(config, learning_rate=1e-5)
    module = ForecastModule(copy.deepcopy(model), trial, specification=specification).to(device)
    free = free_memory(device)
    if math.isinf(free):  # unknown
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    budget = int(free * _HEADROOM / (allocator_share() if device.type == "cpu" else 1))

    def needed(size: int) -> int:
        try:
            return step_bytes(model, dataset[0], config, size)
        except OptionError:
            return _bytes_held(module, _batch(dataset, min(size, len(dataset))), device)

    one, two = needed(1), needed(2)
    if one > budget:
        raise OptionError(
            f"one window must fit in memory; a training step needs {gibibytes(one)} and {gibibytes(free)} "
            "are free: use --precision bf16-mixed, smaller frames, fewer steps or a smaller model; "
            "convlstm plan states what else helps"
        )
    fits = 1 + (budget - one) // max(two - one, two // 3, 1)  # two may be computed by another engine than one
    limit = min(fits, len(dataset), _LARGEST)
    size = 1 << (limit.bit_length() - 1)
    while size > 2 and needed(size) > budget:
        size //= 2
    while device.type == "cuda" and size > 1:
        try:
            _bytes_held(module, _batch(dataset, size), device)
            break
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            size //= 2
    return size


def fastest_learning_rate(
    model: Forecaster,
    dataset: WindowDataset,
    config: TrainingConfig,
    specification: Specification | None = None,
) -> float:
    """The learning rate at which the loss falls fastest, by a range test (Smith 2017, arXiv:1506.01186).

    Args:
        model: left as it was; a copy is trained for 60 steps with a rate rising from 1e-5 to 1e-1.
        dataset: where windows come from.
        config: batch size, loss, precision and seed of the run to come.
        specification: of the data.

    Raises:
        OptionError: the loss never falls.
    """
    check_rollout(model, config, dataset[0])
    trial = dataclasses.replace(config, learning_rate=1e-5, schedule="constant", curriculum="free")
    loader = training_loader(dataset, int(config.batch_size), seed=config.seed)
    # The search shows a bar of its own, which belongs on a screen only.
    screen = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with quiet(), interruptible(), redirect_stderr(screen), tempfile.TemporaryDirectory() as scratch:
        trainer = new_trainer(
            config,
            devices=1,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            default_root_dir=scratch,
        )
        finder = Tuner(trainer).lr_find(
            ForecastModule(copy.deepcopy(model), trial, specification=specification),
            train_dataloaders=loader,
            min_lr=1e-5,
            max_lr=1e-1,
            num_training=60,
            update_attr=False,
        )
    rate = finder.suggestion() if finder is not None else None
    if rate is None:
        raise OptionError(
            "learning_rate=auto needs a loss that falls as the rate rises; it never did: give a number"
        )
    return float(rate)


def _batch(dataset: WindowDataset, size: int) -> LabelledWindow:
    return LabelledWindow(*batch_of([dataset[index] for index in range(size)]))


def _bytes_held(module: ForecastModule, batch: LabelledWindow, device: torch.device) -> int:
    """Bytes that autograd keeps between forward and backward, each storage counted once."""
    held: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = on_device(batch, device)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss, penalty = module.losses(batch)
        value = loss if penalty is None else loss + penalty
    torch.autograd.backward(value)
    module.zero_grad(set_to_none=True)
    return sum(held.values())
