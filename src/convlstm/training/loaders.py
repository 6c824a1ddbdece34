"""Windows in an order that depends on seed and epoch alone, shared out to any number of processes."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from convlstm.data.base import LabelledWindow, Window, WindowDataset, batch_of


class EpochSampler(Sampler[int]):
    """The indices of one epoch for one process.

    Endless data is read on from where the epoch before stopped, stored data in a new order each epoch. Of
    every group of ``ranks`` neighbouring indices each process takes one, so that the batches of all processes
    together are the batches of a single one.

    Args:
        dataset: what is indexed.
        seed: of the order.
        rank: this process.
        ranks: number of processes.
    """

    def __init__(self, dataset: WindowDataset, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.dataset, self.seed, self.rank, self.ranks = dataset, seed, rank, ranks
        self.epoch, self._resumed = 0, (0, 0)

    def go_on(self, epoch: int, done: int) -> None:
        """Begin with an epoch of which this process has had the first ``done`` indices."""
        self.epoch, self._resumed = epoch, (epoch, done)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset) // self.ranks

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)
        if self.dataset.endless:
            order = torch.arange(self.epoch * size, (self.epoch + 1) * size)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(size, generator=generator)
        done = self._resumed[1] if self.epoch == self._resumed[0] else 0
        yield from order[self.rank : len(self) * self.ranks : self.ranks][done:].tolist()


def training_loader(
    dataset: WindowDataset,
    batch_size: int,
    *,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    steps_done: int = 0,
) -> DataLoader[Window | LabelledWindow]:
    """Batches of ``batch_size`` windows per process; a last, smaller batch is left out.

    The first epoch is that after ``steps_done`` batches, and goes on where they ended.
    """
    sampler = EpochSampler(dataset, seed, rank, ranks)
    # A generator of its own, so that no number is drawn from that of the model.
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=True,
        collate_fn=batch_of,
        generator=torch.Generator().manual_seed(seed),
    )
    epoch, batches = divmod(steps_done, max(1, len(loader)))
    sampler.go_on(epoch, batches * batch_size)
    return loader


def evaluation_loader(
    dataset: WindowDataset, batch_size: int, *, rank: int = 0, ranks: int = 1, workers: int = 0
) -> DataLoader[Window | LabelledWindow]:
    """All windows in their order, each once; process ``rank`` takes every ``ranks``-th."""
    order = range(rank, len(dataset), ranks)
    return DataLoader(dataset, batch_size, sampler=order, num_workers=workers, collate_fn=batch_of)
