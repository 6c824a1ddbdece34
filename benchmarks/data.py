"""Sequences of moving objects that one core generates; the aim is 2,000 of 20 x 64 x 64 a second."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from benchmarks import Table, rates
from convlstm.data.moving_mnist import MovingObjects

SEQUENCES = 2000


def run() -> Iterator[Table]:
    """Windows one by one, and in batches of 16."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        windows = MovingObjects(train_size=SEQUENCES).split("train")
        single = rates(lambda: [windows[k] for k in range(SEQUENCES)], SEQUENCES)
        batched = rates(lambda: [None for _ in DataLoader(windows, batch_size=16)], SEQUENCES)
    finally:
        torch.set_num_threads(threads)
    rows = {"windows one by one": [single], "in batches of 16": [batched]}
    yield Table("moving objects, 20 x 64 x 64", ("sequences a second, one core",), rows)
