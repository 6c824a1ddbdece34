"""The commands of the start page, and the page's own source and reader, work from training to forecast."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest

from convlstm.cli.main import main

SMALL = shlex.split("--data.past 2 --data.steps 2 --model.hidden_dim [2] --epochs 1 --batch_size 8 --out run")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Function that writes the files of a page, the fences with a title, into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name):
        for fence in pages.fences(pages.DOCS / name, "python"):
            if fence.title:
                Path(fence.title).write_text(fence.code)
                monkeypatch.delitem(sys.modules, fence.title.removesuffix(".py"), raising=False)
        return [line for fence in pages.fences(pages.DOCS / name, "sh") for line in fence.code.splitlines()]

    return write


def test_the_commands_of_the_start_page_work_in_their_order(page, capsys):
    lines = page("index.md")
    start = lines.index("python make_frames.py")
    small = {"[16]": "[2]", "--epochs 4": "--epochs 1 --batch_size 32", "--steps 20": "--steps 2"}
    typed = "\n".join(lines[start : lines.index("convlstm demo")])
    for line in typed.replace("\\\n", "").splitlines():
        for full, tiny in small.items():
            line = line.replace(full, tiny)
        program, *words = shlex.split(line)
        if program == "python":
            subprocess.run([sys.executable, *words], check=True)
        else:
            assert main(words) == 0, capsys.readouterr().err
    assert Path("next.gif").exists()
    assert Path("runs/spots/report.html").exists()
    printed = capsys.readouterr().out.splitlines()
    shown = {fence.code: fence.output for fence in pages.fences(pages.DOCS / "index.md", "sh")}
    assert shown["convlstm evaluate runs/spots\n"].splitlines()[1] in printed  # the data
    assert "the report is runs/spots/report.html" in printed


def test_a_source_of_ones_own_trains_a_forecaster(page):
    lines = page("data/index.md")
    np.save("radar.npy", np.random.default_rng(0).gamma(1, 5, (60, 8, 8)))
    command = "convlstm train --data my_data.Radar --data.path radar.npy"
    assert any(line.startswith(command) for line in lines)
    assert main([*command.split()[1:], *SMALL]) == 0
    assert main(["evaluate", "run", "--trust", "my_data"]) == 0


def test_a_reader_of_ones_own_trains_a_forecaster(page, capsys):
    lines = page("data/index.md")
    Path("depths").mkdir()
    values = np.random.default_rng(0).random((60, 24, 32)).astype("float32")
    values[:, 0] = -9
    values.tofile("depths/2021-02-01.raw")
    command = 'convlstm train --data "depths/*.raw" --data.reader my_reader.read'
    assert any(line.startswith(command) for line in lines)
    assert main([*shlex.split(command)[1:], *SMALL]) == 0
    for line in lines[lines.index("convlstm evaluate runs/depths --trust my_reader") :][:2]:
        _, name, _, *rest = shlex.split(line)
        assert main([name, "run", *rest]) == 0, capsys.readouterr().err
    assert Path("next.nc").exists()
