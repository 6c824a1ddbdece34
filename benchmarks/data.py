"""Sources of windows: how many a second, against the training that waits for them, and how much memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmarks import Table, rates
from benchmarks._archives import reflectivity, write_knmi, write_netcdf, write_zarr
from convlstm import EncoderForecaster
from convlstm.data import WindowDataset, frame_store
from convlstm.data.archive import Archive
from convlstm.data.moving_mnist import MovingObjects
from convlstm.training.losses import mse

SEQUENCES = 2000
FRAMES, CROP, BATCH = 144, 128, 4
SHORT = 256  # frames of the shorter archive whose training is weighed; the longer has eight times as many


def run() -> Iterator[Table]:
    """Generated sequences, crops of archives, and the memory of training on archives of two lengths."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield moving_objects()
        yield crops()
        yield memory()
    finally:
        torch.set_num_threads(threads)


def moving_objects() -> Table:
    """Windows one by one, and in batches of 16; the aim is 2,000 of 20 x 64 x 64 a second."""
    windows = MovingObjects(train_size=SEQUENCES).split("train")
    clock = time.process_time
    single = rates(lambda: [windows[k] for k in range(SEQUENCES)], SEQUENCES, clock=clock)
    batched = rates(lambda: [None for _ in DataLoader(windows, batch_size=16)], SEQUENCES, clock=clock)
    rows = {"windows one by one": [single], "in batches of 16": [batched]}
    return Table("moving objects, 20 x 64 x 64", ("sequences a second, one core",), rows)


def crops() -> Table:
    """Crops of national composites, whose frames are read for each or are kept, and training steps."""
    rows: dict[str, list[list[float] | None]] = {}
    clock = time.process_time
    kept = frame_store._KEPT_BYTES

    def load(windows: WindowDataset, amount: int) -> list[float]:
        return rates(lambda: [None for _ in DataLoader(windows, BATCH)], amount, 3, clock)

    with tempfile.TemporaryDirectory() as folder:
        frames = reflectivity(FRAMES)
        for name, write in (("KNMI HDF5, a file a frame", write_knmi), ("NetCDF", write_netcdf)):
            path = Path(folder, name[:4])
            write(path, frames)
            for place, most, amount in (("from files", 1, 4 * BATCH), ("from memory", kept, 40 * BATCH)):
                frame_store._KEPT_BYTES = most
                source = Archive(str(path), crop=CROP, importance=0.5, train_size=amount)
                rows[f"{name}, {place}"] = [load(source.split("train"), amount)]
        frame_store._KEPT_BYTES = kept
        batch = next(iter(DataLoader(source.split("train"), BATCH)))
    model = EncoderForecaster()

    def step() -> None:
        torch.autograd.backward(mse(model(batch.past, 12), batch.future))

    rows["training step of the default model"] = [rates(step, BATCH, 3, clock)]
    return Table("crops of 128 x 128 from 765 x 700, 12 + 12 frames", ("a second of one core",), rows)


def memory() -> Table:
    """The most memory that training takes on a Zarr archive opened late, and on one eight times as long."""
    rows: dict[str, list[list[float] | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for length in (SHORT, 8 * SHORT):
            path = Path(folder, f"{length}.zarr")
            write_zarr(path, length, (128, 128))
            command = [sys.executable, "-m", "benchmarks._train_archive", str(path), str(Path(folder, "run"))]
            done = subprocess.run([*command, str(length)], check=True, capture_output=True, text=True)
            rows[f"{length} frames of 128 x 128, {length / 16:g} MiB"] = [[float(done.stdout)]]
    title = "training on crops of a Zarr archive, 8 MiB of frames kept"
    return Table(title, ("MiB at most",), rows)
