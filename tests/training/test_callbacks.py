"""What a run shows while it trains: the bar, and pictures of samples."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlstm import EncoderForecaster, MovingObjects
from convlstm.data import Source, Window, WindowDataset
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import fit
from convlstm.training.run_folder import RunFolder, read_metrics

DATA = MovingObjects(
    canvas=16, object_size=8, count=1, past=3, steps=3, train_size=16, validation_size=4, test_size=4
)


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_last_state_of_each_epoch_shows_its_own_losses(tmp_path, monkeypatch, capsys, terminal, width):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    run = RunFolder(tmp_path / "run")
    run.start()
    config = TrainingConfig(epochs=3, batch_size=4, accelerator="cpu", learning_rate=0.01)
    fit(EncoderForecaster(hidden_dim=[3]), DATA, config, run)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    states = re.split(r"[\r\n]+", shown)
    for row in read_metrics(run.metrics):
        (*_, last) = (state for state in states if f"epoch {int(row['epoch'])}/3" in state)
        kind = "val" if terminal else "validation"
        assert f"train {row['train_loss']:.4g}" in last
        assert f"{kind} {row['val_loss']:.4g}" in last
        assert "…" not in last


class Rain(Source, WindowDataset):
    """One window of rain rates, whose greatest value nobody knows, again and again."""

    past, steps = 2, 2

    def __init__(self, channels=2):
        self.channels = channels
        draw = torch.Generator().manual_seed(0)
        wet = torch.rand(4, channels, 32, 32, generator=draw) < 0.3
        self.frames = wet * (1.2 * torch.randn(wet.shape, generator=draw) - 3).exp()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Window(self.frames[:2], self.frames[2:])

    def split(self, name):
        return self

    def describe(self):
        return "rain"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_sample_of_a_run_shows_every_channel_and_is_not_black(tmp_path, channels):
    run, data = RunFolder(tmp_path / "run"), Rain(channels)
    run.start()
    config = TrainingConfig(epochs=1, batch_size=2, accelerator="cpu")
    fit(EncoderForecaster(channels, hidden_dim=[2]), data, config, run)
    logs = EventAccumulator(str(run.path / "logs")).Reload()
    ((picture,),) = (logs.Images(tag) for tag in logs.Tags()["images"])
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        pixels = np.array(image)
    left = int(np.flatnonzero((pixels[27] == (208, 212, 218)).all(axis=-1))[0]) + 1
    for k in range(channels):  # of the past, each in a row of its own, enlarged twice
        shown = pixels[28 + 68 * k : 92 + 68 * k : 2, left : left + 64 : 2, 0]
        assert np.median(shown[data.frames[0, k].numpy() > 0]) > 50
    assert len(pixels) > (3 * channels) * 68  # past, truth, forecast
