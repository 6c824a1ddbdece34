"""Frames that cannot be trained on: one sentence, exit status 2, nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
from radar_files import RATES, START, STEP, TYPED, write_netcdf

from convlstm.cli.main import main


def _mixed_grids(folder):
    write_netcdf(folder)
    write_netcdf(folder, RATES[:, :8], start=START + 99 * STEP)


def _short_stretches(folder):
    for k in range(8):
        write_netcdf(folder, RATES[:5], files=1, start=START + k * 99 * STEP)


def _without(folder, measured):
    write_netcdf(folder, np.where(np.arange(40)[:, None, None] < measured, RATES, np.nan))


CASES = {
    "no files": (Path.mkdir, "frames must come from existing files; none match 'frames'"),
    "mixed grids": (_mixed_grids, "must have one grid; frames/"),
    "few": (lambda folder: write_netcdf(folder, RATES[:7]), "7 frames are too few for windows of 6"),
    "short stretches": (_short_stretches, "every split needs 6 consecutive frames, past + steps; train has"),
    "nothing measured": (lambda folder: _without(folder, 0), "measured values; train holds none: check"),
    "nothing in validation": (lambda folder: _without(folder, 23), "measured values; validation holds none"),
    "nothing in test": (lambda folder: _without(folder, 32), "measured values; test holds none"),
    "negative rain": (
        lambda folder: write_netcdf(folder, RATES - 1),
        "rain must not be negative; received -1",
    ),
}
OPTIONS = {
    "--data.units=furlong": "must be in 'furlong' or in a unit that converts to it exactly; received 'mm/h'",
    "--data.variable=wind": "holds rate, not 'wind'",
    "--data.split=sometimes": "split must be 'time', 'event' or periods",
    "--data.crop=99": "crop must fit in the frames, 16 x 16; received 99 x 99",
    "--data.inputs=[moon]": "an input must be one of",
    "--data.static=nowhere.nc": "nowhere.nc must be a readable file of static fields",
    "--data.reader=odim": "that the reader odim recognises",
    "--data.path=nowhere": "none match 'nowhere'",
    "--batch_size=99": "batch_size must be at most the training windows of each process, 17; received 99",
}


def refused(capsys, words):
    """The sentence in which a command line of train is refused, which leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["train", "--data=frames", *TYPED, *words]) == 2
    assert sorted(Path().rglob("*")) == before
    error = capsys.readouterr().err
    assert error.startswith("convlstm: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("case", CASES)
def test_frames_that_cannot_be_trained_on_are_refused(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    write, sentence = CASES[case]
    write(tmp_path / "frames")
    assert sentence in refused(capsys, [])


def test_options_that_do_not_fit_the_frames_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_netcdf(tmp_path / "frames")
    for option, sentence in OPTIONS.items():
        assert sentence in refused(capsys, [option]), option
