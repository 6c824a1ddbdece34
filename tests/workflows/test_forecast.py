"""Forecasts of files with units, times and coordinates, by a model that stores what it was trained on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import convlstm
from convlstm import EncoderForecaster
from convlstm.cli.main import main
from convlstm.data.archive import Archive
from convlstm.data.opening import open_frames
from convlstm.data.units import ZR
from convlstm.errors import DataError

SIZE, PAST = (16, 20), 3
START, STEP = np.datetime64("2021-02-04T20:05", "ns"), np.timedelta64(300, "s")


def rates(count=40):
    values = np.random.default_rng(0).gamma(0.3, 5.0, (count, *SIZE)).astype(np.float32)
    values[:, 4:, 10:] = 0
    values[:, 0, 0] = np.nan
    coordinates = {
        "time": START + STEP * np.arange(count),
        "y": (
            "y",
            1000.0 * np.arange(SIZE[0])[::-1],
            {"units": "m", "standard_name": "projection_y_coordinate"},
        ),
        "x": ("x", 1000.0 * np.arange(SIZE[1]), {"units": "m", "standard_name": "projection_x_coordinate"}),
    }
    attributes = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    return xr.DataArray(values, coordinates, ("time", "y", "x"), "rain", attributes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder of an untrained model and the specification of an archive of rain rates."""
    source = Archive(rates(), past=PAST, steps=2)
    torch.manual_seed(0)
    model = EncoderForecaster(1, [4], patch_size=2)
    notes = {"past": PAST, "specification": source.specification.to_dict(), "value_range": [0.0, 1.0]}
    return model.save_pretrained(tmp_path_factory.mktemp("model"), **notes)


@pytest.fixture
def files(tmp_path) -> Path:
    """A NetCDF file of rain, beside another variable, of six frames."""
    frames = rates(6)
    xr.Dataset({"rain": frames, "snow": frames * 0}).to_netcdf(tmp_path / "rain.nc", engine="h5netcdf")
    return tmp_path / "rain.nc"


def test_a_file_gives_a_forecast_in_every_format(folder, files, tmp_path, capsys):
    expected = convlstm.forecast(folder, rates(6), 4)
    words = ["forecast", str(folder), str(files), "--steps", "4", "--out"]
    for ending in ("nc", "zarr", "npz", "npy", "gif", "png"):
        assert main([*words, str(tmp_path / f"f.{ending}")]) == 0
    assert capsys.readouterr().err == ""
    for ending in ("nc", "zarr"):
        frames = open_frames(tmp_path / f"f.{ending}", variable="rain")
        np.testing.assert_array_equal(frames[:, 0].values, expected.values)
        np.testing.assert_array_equal(frames["time"], expected["time"])
        np.testing.assert_array_equal(frames["x"], expected["x"])
        assert frames.attrs["units"] == "mm h-1"
    with xr.open_dataset(tmp_path / "f.nc", engine="h5netcdf", decode_timedelta=False) as file:
        source = file.attrs["source"]
        assert source.startswith(f"encoder_forecaster, convlstm {convlstm.__version__}, weights sha256 ")
        assert file.attrs["history"].endswith(f"convlstm {' '.join(words)} {tmp_path / 'f.nc'}")
        assert file["forecast_reference_time"].values == START + 5 * STEP
    frames = open_frames(tmp_path / "f.npz")
    np.testing.assert_array_equal(frames[:, 0].values, expected.values)
    np.testing.assert_array_equal(frames["time"], expected["time"])
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy")[:, 0], expected.values)
    with Image.open(tmp_path / "f.gif") as film:
        assert (film.n_frames, film.size[0] >= 512) == (PAST + 4, True)


def test_a_dataarray_gives_a_dataarray_and_writes_the_same(folder, tmp_path):
    frames = rates(5)
    made = convlstm.forecast(folder, frames, 4, out=tmp_path / "f.nc")
    assert isinstance(made, xr.DataArray)
    assert (made.dims, made.shape) == (frames.dims, (4, *SIZE))
    np.testing.assert_array_equal(open_frames(tmp_path / "f.nc", variable="rain")[:, 0].values, made.values)
    with pytest.raises(DataError, match="the 3 frames"):
        convlstm.forecast(folder, frames[:2], 4, out=tmp_path / "g.nc")
    assert not (tmp_path / "g.nc").exists()


def test_arrays_are_scaled_as_in_training_and_come_back_in_their_unit(folder, caplog):
    frames = rates(5)
    made = convlstm.forecast(folder, frames.values[:, None], steps=4)
    np.testing.assert_array_equal(made.frames[:, 0], convlstm.forecast(folder, frames, 4).values)
    assert np.isnan(made.frames[:, 0, 0, 0]).all()
    np.testing.assert_array_equal(made.past.numpy()[:, 0], frames.values[-PAST:])
    assert [record.message for record in caplog.records] == [
        "the past states no unit and is taken in mm/h, that of the training: give --units if it is another"
    ]
    amounts = convlstm.forecast(folder, frames.values[:, None] / 12, steps=4, units="mm")
    np.testing.assert_allclose(12 * amounts.frames, made.frames, rtol=1e-4, atol=1e-6)


def test_values_far_outside_those_of_the_training_are_reported(folder, caplog):
    convlstm.forecast(folder, rates(5) * 1e9, steps=1)
    told = (
        "the past, in the scale of the network, holds values from 0 to 3.8.*, the model was trained on 0 to 1"
    )
    assert re.search(told, caplog.text)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda f: f.assign_attrs(units="K"), [], "values must be in 'mm/h' or in a unit that converts"),
        (lambda f: f.isel(time=[0, 1, 2, 5]), [], "or --gaps mask"),
        (lambda f: f.isel(time=[0, 1, 2, 5]), ["--gaps", "mask"], ""),
        (lambda f: f.isel(time=[0, 1, 2, 5]), ["--gaps", "x"], "gaps must be one of mask, refuse"),
        (lambda f: f.assign_coords(x=f["x"].copy(data=2 * f["x"])), [], "pixels must be 1000 x 1000 m"),
        (lambda f: f.rename("hail"), ["--variable", "rain"], "variable must be one that the files hold"),
        (lambda f: f.rename("hail"), [], ""),
        (lambda f: f, ["--reader", "knmi"], "that the reader knmi recognises"),
        (lambda f: f, ["--static", "land.nc"], "land.nc must be a readable file of static fields"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(
    folder, tmp_path, capsys, change, options, sentence
):
    frames = change(rates(6))
    frames.to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    words = ["forecast", str(folder), str(tmp_path / "past.nc"), "--steps", "2", *options]
    status = main([*words, "--out", str(tmp_path / "f.nc")])
    shown = capsys.readouterr().err
    assert (status, (tmp_path / "f.nc").exists()) == ((2, False) if sentence else (0, True)), shown
    assert sentence in shown
    assert shown.count("\n") == bool(sentence)


@pytest.mark.parametrize("command", ["forecast", "inspect"])
def test_errors_advise_options_that_the_command_has(folder, tmp_path, capsys, command):
    (tmp_path / "notes.txt").write_text("no frames")
    frames = rates(8)
    xr.Dataset({"snow": frames, "hail": frames}).to_netcdf(tmp_path / "two.nc", engine="h5netcdf")
    (tmp_path / "cut.nc").write_bytes((tmp_path / "two.nc").read_bytes()[:-900])
    frames.assign_attrs(units="K").to_netcdf(tmp_path / "kelvin.nc", engine="h5netcdf")
    for name, sentence in (
        ("notes.txt", "or give --reader the dotted path"),
        ("two.nc", "become channels, with --variable\n"),
        ("kelvin.nc", "the unit that they have by --units\n"),
        ("cut.nc", ": copy it again\n"),
    ):
        words = [command, str(folder), str(tmp_path / name), "--steps", "2", "--out"]
        assert main([*words, str(tmp_path / ("f.nc" if command == "forecast" else "f.html"))]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", ["forecast", "inspect"])
def test_options_that_plain_arrays_do_not_have_are_refused(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    EncoderForecaster(1, [4], patch_size=2).save_pretrained("m", past=PAST, steps=2)
    codes = np.random.default_rng(0).random((5, *SIZE), np.float32)
    np.save("past.npy", codes[:, None])
    Path("own_reader_of_arrays.py").write_text(
        "import numpy as np, xarray as xr\n"
        "read = lambda path: xr.DataArray(np.load(path)[:, 0] / 2, dims=('time', 'y', 'x'))\n"
    )
    out = "f.npy" if command == "forecast" else "f.html"
    words = [command, "m", "past.npy", "--steps", "2", "--out", out, "--overwrite"]
    for option in ("--units=mm/h", "--reader=arrays", "--variable=rain", "--static=land.nc"):
        assert main([*words, option]) == 2
        name, value = option.split("=")
        assert f"{name} needs labelled frames" in (shown := capsys.readouterr().err)
        assert f"received '{value}' for arrays or images, and a model without: leave it out" in shown
    assert main([*words, "--reader", "own_reader_of_arrays.read"]) == 0
    if command == "forecast":
        expected = convlstm.forecast("m", codes[:, None] / 2, 2).frames
        np.testing.assert_allclose(np.load("f.npy"), expected, rtol=1e-6)


def test_gaps_are_masked_as_in_training(folder, tmp_path, capsys):
    """What training was told need not be said again, by one forecast, by many, by an inspection."""
    model = EncoderForecaster.from_pretrained(folder)
    specification = model._convlstm_notes["specification"] | {"gaps": "mask"}
    masking = model.save_pretrained(tmp_path / "m", past=PAST, specification=specification)
    rates(10).isel(time=[0, 1, 2, 3, 4, 6, 7, 9]).to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    files = [str(masking), str(tmp_path / "past.nc"), "--steps", "2", "--out"]
    for words in (
        ["forecast", *files, str(tmp_path / "f.nc")],
        ["inspect", *files, str(tmp_path / "f.html")],
    ):
        assert main(words) == 0, capsys.readouterr().err
        assert main([*words, "--gaps", "refuse", "--overwrite"]) == 2
        assert "or --gaps mask" in capsys.readouterr().err
    for option, count in ([], 5), (["--gaps", "refuse"], 3):
        words = ["forecast", *files, str(tmp_path / "f.zarr"), "--every", "1", "--overwrite", *option]
        assert main(words) == 0
        assert f"{count} forecasts, 0 of them there already" in capsys.readouterr().out


def test_files_without_labels_of_a_model_without_specification_become_labelled(tmp_path, capsys):
    """Values are those of the array, as in every other format."""
    torch.manual_seed(0)
    EncoderForecaster(1, [4]).save_pretrained(tmp_path / "m", past=PAST)
    codes = np.random.default_rng(0).integers(0, 256, (5, *SIZE), np.uint8)
    np.save(tmp_path / "past.npy", codes)
    words = ["forecast", str(tmp_path / "m"), str(tmp_path / "past.npy"), "--steps", "2", "--out"]
    for name in ("f.nc", "f.npy"):
        assert main([*words, str(tmp_path / name)]) == 0
    written = open_frames(tmp_path / "f.nc", variable="frames")
    np.testing.assert_array_equal(written.values, np.load(tmp_path / "f.npy"))
    np.testing.assert_array_equal(written["time"].values / np.timedelta64(1, "s"), [0, 1])
    frames = rates(5).fillna(0)
    frames.to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    model = EncoderForecaster.from_pretrained(tmp_path / "m").eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(frames.values[None, -PAST:, None]), 2)[0]
    made = convlstm.forecast(tmp_path / "m", tmp_path / "past.nc", steps=2)
    np.testing.assert_allclose(made.frames, expected, rtol=1e-4, atol=1e-4)
    rates(5).to_netcdf(tmp_path / "holes.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="values must be finite"):
        convlstm.forecast(tmp_path / "m", tmp_path / "holes.nc", steps=2)


def test_a_damaged_specification_is_named(folder, files, tmp_path, capsys):
    config = json.loads((folder / "config.json").read_text())
    del config["specification"]["units"]
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    words = ["forecast", str(model), str(files), "--steps", "2", "--out", str(tmp_path / "f.nc")]
    assert main(words) == 2
    assert "a specification of data must hold" in capsys.readouterr().err


def test_archives_of_radar_forecast_in_their_own_unit(folder, tmp_path, capsys):
    """Reflectivity to rates for the model, by its Z-R relation or the usual one, and back."""
    relation = ZR()
    frames = rates(4)
    frames.values = relation.rate(
        relation.reflectivity(frames.values)
    )  # without the rates that are dry in dBZ
    radar = frames.copy(data=relation.reflectivity(frames.values)).assign_attrs(units="dBZ")
    for k in range(4):
        radar[k : k + 1].to_netcdf(tmp_path / f"radar_{k}.nc", engine="h5netcdf")
    words = ["forecast", str(folder), f"{tmp_path}/radar_*.nc", "--steps", "3", "--out"]
    assert main([*words, str(tmp_path / "f.nc")]) == 0
    assert capsys.readouterr().err == ""
    made = open_frames(tmp_path / "f.nc", variable="rain")
    assert made.attrs["units"] == "dBZ"
    expected = relation.reflectivity(convlstm.forecast(folder, frames, 3).values)
    np.testing.assert_allclose(made[:, 0].values, expected, atol=1e-3)


def test_tiles_on_the_command_line_give_the_same(folder, tmp_path, capsys):
    frames = rates(4)
    wide = xr.concat([frames.drop_vars("x")] * 15, "x").assign_coords(x=("x", np.arange(300.0) * 1000))
    wide["x"].attrs = {"units": "m"}
    wide.to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    words = ["forecast", str(folder), str(tmp_path / "past.nc"), "--steps", "2", "--out"]
    assert main([*words, str(tmp_path / "whole.npy")]) == 0
    assert main([*words, str(tmp_path / "tiled.npy"), "--tile", "64"]) == 0
    assert "tiles: 64 x 64 pixels, each read with " in capsys.readouterr().out
    whole, tiled = (np.load(tmp_path / name) for name in ("whole.npy", "tiled.npy"))
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=1e-4)
    assert main([*words, str(tmp_path / "f.npy"), "--tile", "0"]) == 2
    assert "tile must be at least 1; received 0" in capsys.readouterr().err


def test_several_files_are_one_past(folder, tmp_path, monkeypatch, capsys):
    """As a pattern that the shell expands."""
    monkeypatch.chdir(tmp_path)
    for k in range(6):
        rates(6)[k : k + 1].to_netcdf(f"{k}.nc", engine="h5netcdf")
    names = [f"{k}.nc" for k in range(6)]
    assert main(["forecast", str(folder), *names, "--steps", "2", "--out", "f.npy"]) == 0
    assert capsys.readouterr().out == "2 frames after the last of 6 files are in f.npy\n"
    np.testing.assert_array_equal(np.load("f.npy")[:, 0], convlstm.forecast(folder, rates(6), 2))
    assert main(["forecast", str(folder), "*.nc", "--steps", "2", "--out", "g.npy"]) == 0  # quoted
    np.testing.assert_array_equal(np.load("f.npy"), np.load("g.npy"))


def test_several_images_are_those_of_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    EncoderForecaster(1, [4]).save_pretrained("m", past=PAST)
    Path("images").mkdir()
    for k, frame in enumerate(np.random.default_rng(0).integers(0, 256, (11, *SIZE), np.uint8)):
        Image.fromarray(frame).save(f"images/{k}.png")
    words = ["forecast", "m", *sorted(f"images/{k}.png" for k in range(11))]  # 10.png before 2.png
    assert main([*words, "--steps", "2", "--out", "f.npy"]) == 0
    assert "images holds 11 images, taken from 0.png to 10.png" in capsys.readouterr().err
    assert main(["forecast", "m", "images", "--steps", "2", "--out", "g.npy"]) == 0
    np.testing.assert_array_equal(np.load("f.npy"), np.load("g.npy"))
    np.save("a.npy", np.zeros((3, *SIZE), np.uint8))
    capsys.readouterr()
    assert main(["forecast", "m", "a.npy", "a.npy", "--steps", "2", "--out", "h.npy"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("transform", ["log", "standard"])
def test_no_forecast_of_rain_is_negative(tmp_path, transform):
    """Whatever the network returns: in every file, in Python, and in the scores."""
    source = Archive(rates(), past=PAST, steps=2, transform=transform)
    torch.manual_seed(0)
    model = EncoderForecaster(1, [4], patch_size=2)
    window = source.split("test")[0]
    dry = float(source.specification.built_transform().forward(torch.zeros(1, 1, 1, 1)))
    with torch.no_grad():
        assert float(model(window.past[None], 4).min()) < dry
    notes = {"past": PAST, "specification": source.specification.to_dict()}
    folder = model.save_pretrained(tmp_path / "model", **notes)
    rates(6).to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    words = ["forecast", str(folder), str(tmp_path / "past.nc"), "--steps", "4", "--out"]
    for ending in ("nc", "zarr", "npz", "npy"):
        assert main([*words, str(tmp_path / f"f.{ending}")]) == 0
    assert main([*words, str(tmp_path / "many.zarr"), "--every", "3"]) == 0
    with xr.open_zarr(tmp_path / "many.zarr", consolidated=False, decode_timedelta=False) as many:
        found = {"every": many["rain"].values, "npy": np.load(tmp_path / "f.npy")}
    found |= {each: open_frames(tmp_path / f"f.{each}", variable="rain").values for each in ("nc", "zarr")}
    amounts = (rates(6) / 12).assign_attrs(units="mm", long_name="rainfall amount")
    found |= {"npz": np.load(tmp_path / "f.npz")["frames"], "mm": convlstm.forecast(folder, amounts, 4)}
    found |= {"array": convlstm.forecast(folder, rates(6).values[:, None], 4).frames}
    for name, values in found.items():
        assert np.nanmin(values) == 0, name
    out = tmp_path / "scores"
    convlstm.evaluate(folder, data=source, out=out)
    with np.load(out / "cases.npz") as cases:
        assert min(np.nanmin(cases[name]) for name in cases if name.startswith("forecast")) == 0


@pytest.mark.parametrize("transform", ["log", "sqrt", "none", "range", "standard"])
def test_no_scale_of_rain_gives_less_than_dry(transform):
    specification = Archive(rates(), past=PAST, steps=2, transform=transform).specification
    assert specification.to_units(torch.linspace(-9, 0.3, 50).view(-1, 1, 1, 1)).min() == 0


@pytest.mark.parametrize("ending", ["nc", "zarr", "npz", "npy"])
def test_codes_of_not_measured_are_missing_in_files_with_labels(tmp_path, ending):
    """Arrays have the dtype and the codes of the past."""
    codes = np.random.default_rng(0).integers(0, 200, (40, *SIZE)).astype(np.uint8)
    codes[:, 2, 3] = 255
    np.save(tmp_path / "past.npy", codes)
    source = Archive(codes, past=PAST, steps=2, missing=255, transform="range")
    model = EncoderForecaster(1, [4], patch_size=2)
    notes = {"past": PAST, "specification": source.specification.to_dict()}
    folder = model.save_pretrained(tmp_path / "model", **notes)
    path = tmp_path / f"next.{ending}"
    made = convlstm.forecast(folder, tmp_path / "past.npy", 2, out=path).frames
    assert made.dtype == np.uint8
    assert (made[:, 0, 2, 3] == 255).all()
    expected = made if ending[0] == "n" and ending != "nc" else np.where(made == 255, np.nan, made)
    np.testing.assert_array_equal(open_frames(path), expected)
    if ending == "nc":
        with xr.open_dataset(path, decode_timedelta=False) as file:
            assert np.argwhere(file["frames_valid"].values == 0).tolist() == [[2, 3]]
