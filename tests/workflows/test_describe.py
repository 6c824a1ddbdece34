"""The description of files, and the command that it ends with."""

import io
import json
import shlex

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import convlstm
from convlstm.cli.description import table
from convlstm.cli.main import main
from convlstm.data import Archive
from convlstm.errors import DataError
from convlstm.workflows.periods import plan_windows, times_of

START = np.datetime64("2021-02-01T20:00", "ns")
MINUTE = np.timedelta64(60 * 10**9, "ns")
RANDOM = np.random.default_rng(5)


def write(path, times, units="K", codes=0, **variables):
    """A NetCDF file of fields of the given times, 12 x 16 pixels of 0.5 degrees; four columns hold a code."""
    variables = variables or {"temperature": RANDOM.normal(285, 5, (len(times), 12, 16))}
    data = {}
    for name, values in variables.items():
        values = np.float32(values)
        if codes:
            values[..., :4] = codes
        dims = ("time", "lat", "lon")[-values.ndim :]
        data[name] = (dims, values, {"units": units} if units else {})
    lat = ("lat", 50 + 0.5 * np.arange(12), {"units": "degrees_north"})
    lon = ("lon", -3 + 0.5 * np.arange(16), {"units": "degrees_east"})
    path.parent.mkdir(exist_ok=True)
    xr.Dataset(data, {"time": times, "lat": lat, "lon": lon}).to_netcdf(path, engine="h5netcdf")
    return path


def every_five_minutes(count):
    return START + 5 * MINUTE * np.arange(count)


@pytest.mark.parametrize(
    ("periods", "note"),
    [
        ({}, "rain is an amount of each time step: --data.units mm/h makes it a rate"),
        ({"period_s": 600.0}, "rain is an amount of 600 s: --data.units mm/h makes it a rate"),
        ({"periods_s": [300.0, 900.0]}, "rain are amounts of different times, 300 to 900 s"),
        ({"periods_s": [2419200.0, 2678400.0]}, "rain are amounts of different times, 28 to 31 days"),
        ({"periods_s": [2678400.0, 2678400.0]}, "rain are amounts of months or years, which differ"),
    ],
)
def test_a_rate_is_advised_where_amounts_cover_one_time(tmp_path, periods, note):
    path = write(tmp_path / "a.nc", every_five_minutes(60), "mm", rain=RANDOM.gamma(1, 1, (60, 12, 16)))
    with xr.open_dataset(path, engine="h5netcdf") as data:
        data["rain"].attrs |= {"cell_methods": "time: sum"} | periods
        data.load().to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    found = convlstm.describe(tmp_path / "b.nc")
    assert note in found.notes
    assert ("mm/h" in found.train) == ("rate" in note)


def test_no_rate_is_advised_for_amounts_of_months_whose_files_state_no_time(tmp_path):
    months = np.arange("2001-01", "2006-01", dtype="datetime64[M]").astype("datetime64[ns]")
    path = write(tmp_path / "a.nc", months, "mm", rain=RANDOM.gamma(1, 1, (60, 12, 16)))
    with xr.open_dataset(path, engine="h5netcdf") as data:
        data["rain"].attrs["cell_methods"] = "time: sum"
        data.load().to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    found = convlstm.describe(tmp_path / "b.nc")
    assert "rain are amounts of months or years, which differ" in found.notes
    assert "mm/h" not in found.train


def test_labels(tmp_path):
    fields = {"kelvin": RANDOM.normal(285, 5, (10, 12, 16)), "height": RANDOM.normal(0, 9, (12, 16))}
    found = convlstm.describe(write(tmp_path / "a.nc", every_five_minutes(10), "kelvin", **fields))
    assert (found.reader, found.files, found.sampled) == ("gridded", 1, 10)
    (variable,) = found.variables
    assert (variable.name, variable.units, variable.unit) == ("kelvin", "kelvin", "K")
    assert found.others == ("height",)
    assert found.grid["shape"] == [12, 16]
    assert found.grid["spacing"] == [0.5, 0.5]
    assert found.grid["region"] == [50, 55.5, -3, 4.5]
    assert (found.times.first, found.times.last) == ("2021-02-01T20:00:00", "2021-02-01T20:45:00")
    assert (found.times.step_s, found.times.gaps, found.times.missing) == (300, 0, 0)
    values = np.float32(fields["kelvin"])
    assert (variable.statistics.low, variable.statistics.high) == (values.min(), values.max())


def test_gaps():
    times = 300.0 * np.array([0, 1, 2, 4, 5, 6, 7, 106, 107])
    found = times_of(times, dated=True)
    assert found.gaps == 2
    assert found.missing == pytest.approx(99 / 108)
    assert found.longest_gap == ("1970-01-01T00:35:00", "1970-01-01T08:50:00", 98)
    assert found.stretches == (3, 4, 2)


def test_files_without_dates_have_no_gaps_between_them(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((7, 4, 4), np.float32))
    times = convlstm.describe(tmp_path).times
    assert (times.dated, times.gaps, times.missing, times.stretches) == (False, 0, 0, (7, 7))


def test_values_come_from_24_frames_spread_over_all(tmp_path):
    values = np.broadcast_to(np.arange(300.0)[:, None, None], (300, 12, 16))
    found = convlstm.describe(write(tmp_path / "a.nc", every_five_minutes(300), temperature=values))
    assert found.sampled == 24
    assert (found.variables[0].statistics.low, found.variables[0].statistics.high) == (0, 299)


def test_rain_has_wet_pixels_and_a_log_scale(tmp_path):
    rain = RANDOM.gamma(0.5, 2, (10, 12, 16)) * (RANDOM.random((10, 12, 16)) < 0.3)
    found = convlstm.describe(write(tmp_path / "a.nc", every_five_minutes(10), "mm h-1", rain=rain))
    statistics = found.variables[0].statistics
    assert statistics.wet[0] == pytest.approx((rain > 0).mean())
    assert statistics.histogram.log_scale
    assert statistics.above[2.5] == pytest.approx((np.float32(rain) >= 2.5).mean())
    degrees = convlstm.describe(write(tmp_path / "b.nc", every_five_minutes(10)))
    assert (degrees.variables[0].statistics.wet, degrees.variables[0].statistics.histogram.log_scale) == (
        None,
        False,
    )


def test_several_variables_are_described_each_by_its_own_values(tmp_path):
    fields = {"u": RANDOM.normal(0, 3, (4, 12, 16)), "rain": RANDOM.gamma(1, 1, (4, 12, 16))}
    path = write(tmp_path / "a.nc", every_five_minutes(4), "mm h-1", **fields)
    for found, name in zip(convlstm.describe(path).variables, fields, strict=True):
        assert found.name == name
        assert found.statistics.high == np.float32(fields[name].max())
    (only,) = convlstm.describe(path, variable="rain").variables
    assert only.name == "rain"


def options(found):
    """Options of the command, by name."""
    words = list(found.train)
    assert words[:2] == ["convlstm", "train"]
    return dict(zip(words[2::2], words[3::2], strict=True))


def test_the_default_needs_no_options(tmp_path):
    path = write(tmp_path / "a.nc", every_five_minutes(200))
    assert options(convlstm.describe(path)) == {"--data": str(path), "--out": "runs/a"}


def test_the_command_names_the_codes_and_the_variable(tmp_path):
    fields = {name: RANDOM.gamma(1, 1, (200, 12, 16)) for name in ("wind", "precipitation")}
    path = write(tmp_path / "a.nc", every_five_minutes(200), "mm", codes=-9999, **fields)
    found = options(convlstm.describe(path, skip_bad=True))
    assert found["--data.variable"] == "precipitation"
    assert found["--data.missing"] == "-9999"
    assert found["--data.skip_bad"] == "true"
    assert options(convlstm.describe(path, variable=["wind"], missing=7))["--data.missing"] == "[7,-9999]"


def test_paths_that_the_shell_expanded_become_a_pattern(tmp_path):
    paths = [write(tmp_path / f"2021 {k}.nc", every_five_minutes(40) + 200 * k * MINUTE) for k in range(6)]
    words = convlstm.describe(paths).train
    assert words[3] == str(tmp_path / "2021 *.nc")
    assert shlex.split(convlstm.describe(paths).command)[3] == words[3]
    assert convlstm.describe(paths[:5]).train[3:8] == tuple(map(str, paths[:5]))


def test_large_frames_are_cropped(tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((200, 100, 400), np.uint8))
    assert options(convlstm.describe(tmp_path / "frames.npy"))["--data.crop"] == "[100,128]"


def test_short_archives_get_short_windows():
    plan = plan_windows(300.0 * np.arange(40), dated=True)
    assert (plan.past, plan.steps, plan.split, plan.masked) == (4, 4, "time", False)
    assert [split.windows for split in plan.splits.values()] == [9, 1, 1]
    assert "windows of 4 + 4 frames" in plan.notes[0]
    assert plan_windows(300.0 * np.arange(6), dated=True).splits == {}


def test_separate_events_stay_whole():
    times = np.concatenate([86400.0 * day + 300 * np.arange(36) for day in range(7)])
    plan = plan_windows(times, dated=True)
    assert (plan.past, plan.steps, plan.split) == (12, 12, "event")
    assert [split.windows for split in plan.splits.values()] == [65, 13, 13]
    assert plan.splits["test"].first == "1970-01-07T00:00:00"


def test_single_missing_frames_are_masked():
    times = 300.0 * np.delete(np.arange(200), np.arange(0, 200, 9))
    plan = plan_windows(times, dated=True)
    assert (plan.past, plan.steps, plan.masked) == (12, 12, True)


def test_a_train_command_has_the_splits_that_were_described(tmp_path):
    times = np.concatenate([every_five_minutes(30) + 1440 * day * MINUTE for day in range(4)])
    found = convlstm.describe(write(tmp_path / "a.nc", times))
    plan = found.plan
    archive = Archive(tmp_path / "a.nc", past=plan.past, steps=plan.steps, split=plan.split)
    for name, split in plan.splits.items():
        frames, windows, first, last = archive.specification.splits[name]
        assert (split.frames, split.windows, split.first, split.last) == (frames, windows, first, last)


def test_the_pasted_command_trains(tmp_path, monkeypatch, capsys):
    times = np.concatenate([every_five_minutes(30) + 1440 * day * MINUTE for day in range(4)])
    fields = {name: RANDOM.gamma(1, 1, (len(times), 12, 16)) for name in ("wind", "precipitation")}
    write(tmp_path / "nights of rain" / "a.nc", times, "mm", codes=-9999, **fields)
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "nights of rain"]) == 0
    text = capsys.readouterr().out.partition("next:\n")[2]
    words = shlex.split(text.replace("\\\n", " "))
    assert words[:4] == ["convlstm", "train", "--data", "nights of rain"]
    assert words[-4:-2] == ["--batch_size", "14"]
    small = ["--epochs=1", "--model.hidden_dim=[2]", "--accelerator=cpu"]
    assert main([*words[1:], *small]) == 0
    assert (tmp_path / "runs" / "nights-of-rain" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_table_can_be_read_at_80_columns(tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    rain = RANDOM.gamma(0.5, 2, (200, 12, 16)) * (RANDOM.random((200, 12, 16)) < 0.3)
    path = write(tmp_path / "a.nc", every_five_minutes(200), "mm h-1", codes=-9999, rain=rain)
    assert main(["describe", str(path)]) == 0
    table = capsys.readouterr().out.partition("next:\n")[0]
    lines = [line.rstrip() for line in table.splitlines()]
    assert max(map(len, lines)) <= int(columns)
    (bars,) = [line for line in lines if line.startswith("  histogram")]
    assert "█" in bars
    assert bars.endswith("(log scale)")
    texts = " ".join(" ".join(lines).split())
    for text in (
        "1 file, reader gridded",
        "2021-02-01 20:00 to 2021-02-02 12:35 UTC, 200 frames, 5 min apart",
        "gaps none",
        "12 x 16 pixels of 0.5 x 0.5 degrees; 50 N to 55.5 N, 3 W to 4.5 E",
        "rain: unit 'mm h-1', taken as mm/h",
        "suspicious -9999 in 25 % of the pixels, the next value is 0",
        "windows 12 frames in, 12 out (to +60 min)",
        "train 93 windows, 2021-02-01 20:00 to",
        "(values: of 24 frames, spread over the files)",
    ):
        assert text in texts


def test_json_says_the_same(tmp_path, capsys):
    path = write(tmp_path / "a.nc", every_five_minutes(200))
    assert main(["describe", str(path), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads(json.dumps(convlstm.describe(path).to_dict()))
    assert plain["times"]["frames"] == 200
    assert plain["command"].startswith("convlstm train --data ")


def test_several_kinds_of_files_are_named(tmp_path, capsys):
    write(tmp_path / "grids" / "a.nc", every_five_minutes(4))
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "b.npy", np.zeros((4, 12, 16), np.float32))
    (tmp_path / "notes.txt").write_text("about these files")
    found = convlstm.describe(tmp_path)
    assert (found.reader, found.files) == ("arrays", 1)
    assert f"files of other readers are not read: gridded in {tmp_path / 'grids'}" in found.notes
    (tmp_path / "arrays" / "a.npy").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"must be of one kind; .*arrays in .*arrays; gridded in .*grids"):
        convlstm.describe(tmp_path)
    assert main(["describe", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "needs PATH"),
        (["nowhere"], "none match"),
        (["a.nc", "--variable", "wind"], "holds temperature, not 'wind'"),
        (["a.nc", "--reader", "gribed"], "reader must be one of"),
        (["a.nc", "--missing", "many"], "--missing must be a number or a list"),
        (["train-images-idx3-ubyte"], "convlstm train --data.images"),
    ],
)
def test_wrong_input_gets_a_sentence(tmp_path, monkeypatch, capsys, words, text):
    write(tmp_path / "a.nc", every_five_minutes(4))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(100))
    monkeypatch.chdir(tmp_path)
    assert main(["describe", *words]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_command_line_takes_lists(tmp_path, capsys):
    fields = {"u": RANDOM.normal(0, 3, (4, 12, 16)), "v": RANDOM.normal(0, 3, (4, 12, 16))}
    path = str(write(tmp_path / "a.nc", every_five_minutes(4), codes=-9999, **fields))
    assert main(["describe", path, "--variable", "[v,u]", "--missing", "[-1,-9999]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["variables"]
    assert [variable["name"] for variable in found] == ["v", "u"]
    assert [variable["statistics"]["not_measured"] for variable in found] == [0.25, 0.25]


def test_damaged_files_are_left_out_on_request(tmp_path):
    for k in range(3):
        write(tmp_path / f"{k}.nc", every_five_minutes(20) + 100 * k * MINUTE)
    content = (tmp_path / "0.nc").read_bytes()
    (tmp_path / "0.nc").write_bytes(content[:2000])
    with pytest.raises(DataError, match=r"0\.nc must be a whole, readable file"):
        convlstm.describe(tmp_path)
    with pytest.warns(UserWarning, match="left out"):
        found = convlstm.describe(tmp_path, skip_bad=True)
    assert (found.files, found.times.frames) == (2, 40)
    assert found.notes[0] == "damaged files left out: 1"


def test_what_files_say_is_printed_as_it_is(tmp_path, capsys):
    write(
        tmp_path / "a.nc", every_five_minutes(4), "[m] :smile:", **{"[bold]u\x1b[31m": np.zeros((4, 12, 16))}
    )
    assert main(["describe", str(tmp_path / "a.nc")]) == 0
    text = capsys.readouterr().out
    assert "[bold]u [31m: unit '[m] :smile:'" in text
    assert "convlstm forecast MODEL" in text


def test_terminals_without_block_characters(tmp_path):
    found = convlstm.describe(write(tmp_path / "a.nc", every_five_minutes(10)))
    console = Console(width=80, file=io.StringIO())
    console.print(table(found, ascii_only=True))
    assert console.file.getvalue().isascii()
    assert "  histogram" in console.file.getvalue()


def test_no_echo_is_dry_and_neither_missing_nor_a_code(tmp_path):
    dbz = RANDOM.uniform(0, 50, (10, 12, 16))
    dbz[:, :, :8] = -np.inf
    path = write(tmp_path / "a.nc", every_five_minutes(10), "dBZ", reflectivity=dbz)
    found = convlstm.describe(path).variables[0].statistics
    assert (found.not_measured, found.codes, found.dry_value, found.low) == (0, (), -32, -32)
    assert found.wet[0] == pytest.approx(0.5)


def test_rain_of_a_time_step_is_trained_on_as_a_rate(tmp_path):
    fields = {"precipitation": RANDOM.gamma(1, 1, (200, 12, 16))}
    path = write(tmp_path / "a.nc", every_five_minutes(200), "mm", **fields)
    assert "--data.units" not in options(convlstm.describe(path))  # it may be an amount since a start
    with xr.open_dataset(path, engine="h5netcdf") as frames:
        frames = frames.load()
    frames["precipitation"].attrs["cell_methods"] = "time: sum"
    frames.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    assert options(convlstm.describe(tmp_path / "b.nc"))["--data.units"] == "mm/h"
