"""Static fields: the model folder stores them, and every command takes them from there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from radar_files import TYPED

import convlstm
from convlstm.cli.main import main
from convlstm.data import Archive, open_frames
from convlstm.data.extra_inputs import standardised, static_fields
from convlstm.errors import DataError

HEIGHT = np.random.default_rng(0).gamma(2, 100, (16, 16)).astype(np.float32)
HEIGHT[:4] = np.nan  # sea


def write_fields(name, height=HEIGHT):
    xr.Dataset({"height": (("y", "x"), height), "land": (("y", "x"), np.isfinite(height) * 1.0)}).to_netcdf(
        name, engine="h5netcdf"
    )


@pytest.fixture
def trained(radar):
    """A run on radar with a land mask and heights, and its model folder elsewhere without their file."""
    write_fields("land.nc")
    assert main(["train", "--data=radar", "--data.static=land.nc", *TYPED, "--out=run"]) == 0
    shutil.copytree("run/model", "model")
    return radar


def test_forecasts_need_no_file_of_static_fields(trained, capsys):
    words = ["forecast", "model", "radar", "--steps=2", "--out"]
    for name, more in {"given": ["--static=land.nc"], "stored": []}.items():
        assert main([*words, f"{name}.npy", *more]) == 0
    np.testing.assert_array_equal(np.load("given.npy"), np.load("stored.npy"))
    model = convlstm.EncoderForecaster.from_pretrained("model")
    made = convlstm.forecast(model, open_frames("radar"), 2)
    np.testing.assert_array_equal(made.values, np.load("stored.npy"))
    write_fields("flat.nc", 0 * HEIGHT)  # which the forecast depends on
    assert main([*words, "flat.npy", "--static=flat.nc"]) == 0
    assert not np.array_equal(np.load("flat.npy"), np.load("stored.npy"))
    capsys.readouterr()
    write_fields("small.nc", HEIGHT[:8])
    assert main([*words, "no.npy", "--static=small.nc"]) == 2
    assert "those given have 2 x 8 x 16: give --static FILE" in capsys.readouterr().err
    assert not Path("no.npy").exists()


def test_evaluation_needs_no_file_of_static_fields(trained):
    assert main(["evaluate", "run"]) == 0
    Path("land.nc").unlink()
    words = ["--data=radar", "--data.past=3", "--data.steps=3", "--out=scores"]
    assert main(["evaluate", "model", *words]) == 0
    scores = [json.loads(Path(f"{name}/scores.json").read_text())["scores"] for name in ("run", "scores")]
    assert scores[0] == scores[1]


def test_fields_of_a_part_of_the_grid_are_scaled_as_those_of_the_training(trained):
    part = open_frames("radar")[..., 8:, :]
    with pytest.raises(DataError, match="those of the training have 2 x 16 x 16: give --static FILE"):
        convlstm.forecast("model", part, 2)
    write_fields("part.nc", HEIGHT[8:])
    made = Archive(part, static="part.nc", past=3, steps=3).with_specification(
        Archive("radar", static="land.nc", past=3, steps=3).specification
    )
    whole = static_fields(Path("land.nc"))
    np.testing.assert_array_equal(made.static, standardised(whole, whole)[:, 8:])
    expected = (HEIGHT[8:] - np.nanmean(HEIGHT)) / np.nanstd(HEIGHT)
    np.testing.assert_allclose(made.static[0], expected, rtol=1e-5)
    assert convlstm.forecast("model", part, 2, static="part.nc").shape == (2, 1, 8, 16)


def test_a_specification_of_an_older_version_is_read(trained):
    config = json.loads(Path("model/config.json").read_text())
    del config["specification"]["static"]
    Path("model/config.json").write_text(json.dumps(config))
    words = ["forecast", "model", "radar", "--steps=2", "--out=f.npy"]
    assert main(words) == 2
    assert main([*words, "--static=land.nc"]) == 0


def test_fields_on_other_rows_or_columns_than_the_frames_are_refused(tmp_path):
    """A mask from north to south beside frames from south to north would be upside down."""
    rows, columns, times = np.linspace(50, 53, 4), np.linspace(0, 350, 8), np.arange(40).astype("M8[h]")
    axes = {"lat": rows, "lon": columns}
    frames = xr.DataArray(
        np.random.default_rng(0).random((40, 4, 8)), {"time": times.astype("M8[ns]")} | axes
    )
    land = xr.Dataset({"land": (("lat", "lon"), np.arange(32.0).reshape(4, 8))}, axes)

    def static(fields):
        fields.to_netcdf(tmp_path / "land.nc", mode="w", engine="h5netcdf")
        return Archive(frames, static=str(tmp_path / "land.nc"), past=2, steps=1).static[0]

    expected = static(land)
    np.testing.assert_array_equal(static(land.transpose("lon", "lat")), expected)
    np.testing.assert_array_equal(static(land.assign_coords(lat=rows.astype(np.float32))), expected)
    np.testing.assert_array_equal(static(land.drop_vars(("lat", "lon"))), expected)
    with pytest.raises(DataError, match="y of .*land.nc goes from 53 to 50, that of the frames from 50"):
        static(land.isel(lat=slice(None, None, -1)))
    east = land.assign_coords(lon=(columns + 180) % 360 - 180).sortby("lon")
    with pytest.raises(DataError, match="x of .*land.nc goes from -160 to 150, .* bring them to it"):
        static(east)
