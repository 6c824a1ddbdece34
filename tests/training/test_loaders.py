"""Order of windows: by seed and epoch alone, and shared out to processes."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from convlstm.data.archive import Archive
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


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_workers_read_an_archive_that_was_read_before_they_began(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("convlstm.data.frame_store._KEPT_BYTES", 1)  # all frames are read again
    frames = np.random.default_rng(0).random((60, 12, 12), np.float32)
    times = np.datetime64("2021-01-01", "ns") + np.arange(60) * np.timedelta64(300, "s")
    content = xr.Dataset({"rain": (("time", "y", "x"), frames, {"units": "mm/h"})}, {"time": times})
    path = tmp_path / f"rain.{kind}"
    if kind == "nc":
        content.to_netcdf(path, engine="h5netcdf")
    else:
        content.to_zarr(path, consolidated=False)
    windows = Archive(str(path), past=2, steps=2, crop=8, train_size=8).split("train")
    first = [windows[index].past for index in range(8)]
    loader = training_loader(windows, 4, seed=0, workers=2)
    loader.timeout = 60  # instead of waiting for ever
    assert torch.equal(torch.cat([window.past for window in loader]), torch.stack(first))


class Kept(WindowDataset):
    """Counts the frames in memory instead of giving windows."""

    def __init__(self, windows):
        self.windows = windows

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.windows[index]
        return len(self.windows.store._kept)


def test_all_workers_together_keep_no_more_frames_than_one_process(monkeypatch):
    monkeypatch.setattr("convlstm.data.frame_store._KEPT_BYTES", 20 * 4 * 12 * 12)
    frames = np.random.default_rng(0).random((200, 12, 12), np.float32)
    windows = Archive(frames, units="mm/h", past=2, steps=2, crop=8, train_size=40).split("train")
    for workers, most in ((0, 20), (2, 10)):
        loader = training_loader(Kept(windows), 1, seed=0, workers=workers)
        loader.timeout = 60 * bool(workers)
        assert [int(count) for count in loader][-4:] == [most] * 4
