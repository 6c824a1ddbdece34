"""The Python and the commands of the README run as they stand, but for smaller training runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import xarray as xr

from convlstm.cli.main import main

README = Path(__file__).parents[1] / "README.md"


def snippets(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(snippets(README)) == 4
    code = "\n".join(snippets(README))
    small = {
        "batch_size=8, learning_rate=0.005, epochs=5": "batch_size=4, epochs=1",
        "train_size=1600": "train_size=8, validation_size=4, test_size=4",
        "hidden_dim=[32, 32], patch_size=4": "hidden_dim=[4, 4]",
    }
    for full, tiny in small.items():
        assert full in code
        code = code.replace(full, tiny)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs/from-python/report.html").exists()
    assert (tmp_path / "my-layer/model.safetensors").exists()


def test_the_commands_on_own_data_work_in_their_order(tmp_path, monkeypatch, capsys):
    """On a small folder of reflectivity with gaps between its events."""
    monkeypatch.chdir(tmp_path)
    Path("radar").mkdir()
    draw = np.random.default_rng(0)
    for event in range(4):
        values = np.where(draw.random((12, 24, 24)) < 0.5, -32, draw.normal(25, 8, (12, 24, 24)))
        times = np.datetime64("2021-02-01", "ns") + np.timedelta64(event, "D")
        times = times + np.arange(12) * np.timedelta64(5, "m")
        named = {"units": "dBZ", "long_name": "reflectivity", "dry_value": -32.0}
        frames = xr.DataArray(values.astype("f4"), {"time": times}, ("time", "y", "x"), "dbz", named)
        frames.to_netcdf(f"radar/{event}.nc", engine="h5netcdf")
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if "convlstm describe" in block)
    small = "crop 16 --data.past 3 --data.steps 2 --epochs 1 --batch_size 2 --model.hidden_dim [4]"
    for line in block.replace("\\\n", "").replace("crop 128", small).splitlines():
        _, *words = shlex.split(line, comments=True)
        assert main(words) == 0, capsys.readouterr().err
    with xr.open_dataset("next.nc", engine="h5netcdf", decode_timedelta=False) as forecast:
        assert forecast["dbz"].shape == (12, 24, 24)
        assert forecast["dbz"].attrs["units"] == "dBZ"
        assert float(forecast["dbz"].min()) == -32
        assert forecast["time"].values[0] == times[-1] + np.timedelta64(5, "m")


def test_it_stays_short_and_shows_a_picture_that_exists():
    lines = README.read_text().splitlines()
    assert len(lines) < 200
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text()):
        assert (README.parent / picture).exists()
