"""Order of windows: by seed and epoch alone, and shared out to processes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from convlstm.data.base import Window, WindowDataset
from convlstm.training.loaders import EpochSampler, evaluation_loader, training_loader


class Numbers(WindowDataset):
    """Window i is filled with the number i."""

    def __init__(self, size, endless):
        self.size, self.endless = size, endless

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Window(torch.full((1, 1, 1, 1), float(index)), torch.zeros(1, 1, 1, 1))


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


def test_endless_data_is_read_on_and_stored_data_shuffled():
    endless = EpochSampler(Numbers(5, endless=True), seed=0)
    assert epoch(endless, 0) == [0, 1, 2, 3, 4]
    assert epoch(endless, 3) == [15, 16, 17, 18, 19]
    stored = EpochSampler(Numbers(50, endless=False), seed=0)
    orders = [epoch(stored, number) for number in (0, 1, 0)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]
    assert orders[0] != epoch(EpochSampler(Numbers(50, endless=False), seed=1), 0)


@given(size=st.integers(1, 40), ranks=st.integers(1, 4), batch=st.integers(1, 5), endless=st.booleans())
def test_batches_of_all_processes_are_the_batches_of_one(size, ranks, batch, endless):
    data = Numbers(size, endless)
    single = list(training_loader(data, batch * ranks, seed=2))
    shares = [list(training_loader(data, batch, seed=2, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert [len(share) for share in shares] == [len(single)] * ranks
    for step, window in enumerate(single):
        joined = torch.stack([share[step].past for share in shares], dim=1).flatten(0, 1)
        assert torch.equal(joined, window.past)


@given(size=st.integers(1, 40), ranks=st.integers(1, 4), batch=st.integers(1, 5))
def test_evaluation_sees_every_window_once(size, ranks, batch):
    loaders = [
        evaluation_loader(Numbers(size, False), batch, rank=rank, ranks=ranks) for rank in range(ranks)
    ]
    seen = [int(value) for loader in loaders for window in loader for value in window.past.flatten()]
    assert sorted(seen) == list(range(size))
