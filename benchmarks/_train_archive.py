"""A training on crops of an archive, in a process of its own; prints the most memory that it took, in MiB."""

import sys
from pathlib import Path

import torch

from benchmarks._archives import times
from convlstm import EncoderForecaster
from convlstm.data import frame_store
from convlstm.data.archive import Archive
from convlstm.data.base import SPLITS
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit
from convlstm.training.run_folder import RunFolder


def main(path: str, folder: str, frames: str) -> None:
    """Train 32 steps of crops from anywhere in an archive of so many frames, but for the last 80."""
    torch.set_num_threads(1)
    frame_store._KEPT_BYTES = 2**23  # fewer than the shorter archive has
    ends = [str(time) for time in times(int(frames))[[0, -81, -80, -41, -40, -1]]]
    split: dict[str, str] = {name: "/".join(ends[2 * k : 2 * k + 2]) for k, name in enumerate(SPLITS)}
    data = Archive(path, crop=64, importance=0.5, split=split, train_size=128)
    run = RunFolder(Path(folder + frames))
    run.start()
    config = TrainingConfig(epochs=1, batch_size=4, accelerator="cpu")
    fit(EncoderForecaster(hidden_dim=[4]), data, config, run)
    # Not getrusage, whose maximum is at least that of the process that started this one.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(int(line.split()[1]) / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
