"""The source of labelled frames: windows, masks, scale, splits, extra inputs."""

import pickle
import re

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch.testing import assert_close
from torch.utils.data import DataLoader

from convlstm.data import Archive, LabelledWindow, Source
from convlstm.data.extra_inputs import static_fields
from convlstm.data.specification import Specification
from convlstm.data.units import ZR
from convlstm.errors import DataError, OptionError, RunError

START = np.datetime64("2021-02-01T00:00", "ns")


def rain(frames=60, height=20, width=24, seed=0, minutes=5, **attributes):
    """Rain rates with a dry half, and a corner that was never measured."""
    draw = np.random.default_rng(seed)
    values = draw.gamma(0.6, 4, (frames, height, width)).astype(np.float32)
    values[:, :, : width // 2] = 0
    values[:, :3, :3] = np.nan
    axes = {
        "time": START + np.arange(frames) * np.timedelta64(minutes, "m"),
        "y": ("y", np.arange(height) * 1000.0, {"units": "m", "standard_name": "projection_y_coordinate"}),
        "x": ("x", np.arange(width) * 1000.0, {"units": "m", "standard_name": "projection_x_coordinate"}),
    }
    named = {"units": "mm/h", "long_name": "rain rate"} | attributes
    return xr.DataArray(values, axes, ("time", "y", "x"), "rain_rate", named)


def archive(frames=None, **options):
    return Archive(rain() if frames is None else frames, **({"past": 4, "steps": 3} | options))


def test_a_window_holds_consecutive_frames_in_the_scale_of_the_network():
    frames = rain()
    source = archive(frames)
    window = source.split("train")[5]
    there = frames.values[5:12]
    assert window.past.shape == (4, 1, 20, 24)
    assert window.future.shape == (3, 1, 20, 24)
    valid = torch.cat([window.past_valid, window.future_valid])[:, 0].numpy()
    assert np.array_equal(valid, np.isfinite(there))
    back = source.to_units(torch.cat([window.past, window.future]))[:, 0].numpy()
    np.testing.assert_allclose(back[valid], there[valid], rtol=1e-5)
    assert (back[~valid] == 0).all()
    expected = START.astype("M8[s]").astype(float) + np.arange(5, 12) * 300
    assert np.array_equal(window.times.numpy(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": "255"}, "missing must be numbers; received '255': give 255, say, or (255, -1)"),
        ({"zr": 200}, "zr must be a, b and the dry reflectivity .*; received 200: give (200, 1.6, -32), say"),
        ({"zr": (0, 1.6)}, "a of zr must be greater than 0; received 0: give a number in that range"),
        ({"zr": ("200", 1.6)}, "a of zr must be greater than 0; received '200': give a number"),
    ],
)
def test_codes_and_relations_that_are_none_are_refused(options, message):
    with pytest.raises(OptionError, match=re.sub(r"[()]", r"\\\g<0>", message)):
        archive(**options)


def test_codes_may_be_numbers_of_numpy():
    frames = rain().fillna(np.float32(-9))
    found = archive(frames, missing=np.float32(-9)).split("train")[0]
    assert found.past_valid.logical_not().any()


def test_a_source_with_a_specification_is_in_its_unit():
    class Slow(Source):
        past, steps, channels = 4, 3, 1
        specification = archive().specification

        def split(self, name):
            raise NotImplementedError

        def describe(self):
            return "slow rain"

    values = torch.rand(2, 1, 5, 5)
    assert_close(Slow().to_units(values), archive().to_units(values))
    assert Slow().data_range == archive().data_range > 1
    Slow.specification = None
    assert Slow().to_units(values) is values
    assert Slow().data_range is None


def test_a_file_in_the_current_folder_is_named_as_it_is_typed_there(tmp_path, monkeypatch):
    (tmp_path / "radar").mkdir()
    path = tmp_path / "radar" / "rain.nc"
    rain().to_netcdf(path, engine="h5netcdf")
    monkeypatch.chdir(tmp_path)
    for typed in (str(path), "radar/rain.nc"):
        assert Archive(typed, past=4, steps=3).describe().startswith("radar/rain.nc: 60 frames of rain_rate")
    monkeypatch.chdir(tmp_path / "radar")
    assert Archive(str(path), past=4, steps=3).describe().startswith("rain.nc: 60 frames")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert Archive(str(path), past=4, steps=3).describe().startswith(f"{path}: 60 frames")


def test_what_was_not_measured_is_filled_and_marked():
    window = archive().split("train")[0]
    assert not window.past_valid[:, :, :3, :3].any()
    assert (window.past[:, :, :3, :3] == 0).all()
    for field in window:
        assert field.isfinite().all()


def test_everything_decided_comes_from_training_alone():
    frames = rain()
    changed = frames.copy()
    changed[48:] *= 1000
    one, two = archive(frames, transform="standard"), archive(changed, transform="standard")
    assert one.specification == two.specification
    changed = frames.copy()
    changed[5] *= 1000
    assert archive(changed, transform="standard").specification != one.specification
    assert one.specification.fingerprint != archive(frames[1:]).specification.fingerprint


@pytest.mark.parametrize("unit", [2.0**70, 2.0**-80])
def test_the_standard_scale_holds_for_very_large_and_small_units(unit):
    values = np.random.default_rng(0).random((60, 2, 8, 9), dtype=np.float32)
    scales = []
    for factor in (1.0, unit):
        source = archive(values * np.float32([factor, 1]).reshape(2, 1, 1), transform="standard")
        scales.append(source.specification.transform["arguments"])
    for name in ("offset", "scale"):
        assert scales[1][name] == [scales[0][name][0] * unit, scales[0][name][1]]


def test_a_specification_survives_a_file():
    specification = archive(inputs=["mask"], missing=[-9]).specification
    assert Specification.from_dict(specification.to_dict()) == specification
    assert len(specification.lines()) == 5
    assert "rain_rate in mm/h, dry at 0" in specification.lines()[0]
    assert "codes -9 not measured" in specification.lines()[0]
    with pytest.raises(RunError, match="a specification of data must hold"):
        Specification.from_dict({"units": "mm/h"})


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"units": "mm/h"}, "logarithm"),
        ({"units": "dBZ", "long_name": "reflectivity", "dry_value": -32.0}, "floored"),
        ({"units": "mm", "long_name": "precipitation amount"}, "logarithm"),
        ({"units": "K", "long_name": "temperature"}, "linear"),
        ({"units": "", "long_name": "grey level", "valid_range": (0, 255)}, "linear"),
    ],
)
def test_the_usual_scale_of_a_unit(attributes, kind):
    specification = archive(rain(**attributes)).specification
    assert specification.transform["kind"] == kind
    if "valid_range" in attributes:
        assert specification.transform["arguments"] == {"offset": 0.0, "scale": 255.0}
        assert specification.data_range == 255


def test_reflectivity_is_converted_to_rates_on_request():
    frames = rain(units="dBZ", long_name="reflectivity", dry_value=-32.0)
    frames.values[:] = np.where(frames.values > 0, frames.values * 2 + 10, -32)
    window = archive(frames, units="mm/h").split("train")[0]
    source = archive(frames, units="mm/h")
    dbz = frames.values[:4]
    expected = np.where(dbz > -32, (10 ** (dbz / 10) / 200) ** (1 / 1.6), 0)
    got = source.to_units(window.past)[:, 0].numpy()
    seen = window.past_valid[:, 0].numpy() & (expected > 0.1)
    np.testing.assert_allclose(got[seen], expected[seen], rtol=1e-4)
    assert source.specification.zr == (200.0, 1.6, -32.0)


def test_frames_in_the_unit_and_scale_of_a_model():
    trained = archive().specification
    millimetres = rain()
    millimetres = millimetres.copy(data=millimetres.values / 12)
    millimetres.attrs.update(units="mm", long_name="rainfall amount", cell_methods="time: sum")
    window = archive(millimetres).with_specification(trained).split("test")[0]
    torch.testing.assert_close(window.past, archive().split("test")[0].past, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"minutes": 10}, "frames must be 300 s apart, as in training; received 600 s"),
        ({"units": "K"}, "values must be in 'mm/h' or in a unit that converts to it exactly; received 'K'"),
    ],
)
def test_frames_that_do_not_fit_a_model_are_refused(change, sentence):
    with pytest.raises(DataError, match=sentence):
        archive(rain(**change)).with_specification(archive().specification)


def test_other_pixels_and_channels_are_refused():
    coarse = rain()
    coarse = coarse.assign_coords(x=("x", coarse.x.values * 2, coarse.x.attrs))
    with pytest.raises(
        DataError, match="pixels must be 1000 x 1000 m, as in training; received 1000 x 2000 m"
    ):
        archive(coarse).with_specification(archive().specification)
    two = xr.Dataset({"rain_rate": rain(), "other": rain(seed=1)})
    with pytest.raises(DataError, match="the channels of the model, rain_rate; received rain_rate, other"):
        archive(two, variable=["rain_rate", "other"]).with_specification(archive().specification)


def with_gap(frames=60):
    return rain(frames).isel(time=[k for k in range(frames) if k not in (10, 11)])


def test_windows_across_a_gap_are_left_out_or_masked():
    frames = with_gap()
    for window in archive(frames).split("train"):
        assert (window.times.diff() == 300).all()
    masked = archive(frames, gaps="mask").split("train")
    assert len(masked) > len(archive(frames).split("train"))
    assert all((window.times.diff() == 300).all() for window in masked)
    holes = [w for w in masked if not torch.cat([w.past_valid, w.future_valid]).flatten(1).any(1).all()]
    assert len(holes) == 4  # that begin 2 to 5 frames before the gap's end
    for window in holes:
        seen = torch.cat([window.past_valid, window.future_valid]).flatten(1).any(1)
        assert (~seen).sum() == 2
        missing = window.times[~seen] - START.astype("M8[s]").astype(float)
        assert missing.tolist() == [3000, 3300]


def test_a_split_with_many_gaps_has_the_time_step_of_all_frames():
    """Half of the frames of the test split are missing, so that most there lie two steps apart."""
    frames = rain(100).isel(time=[k for k in range(100) if k < 70 or k % 2 or k > 91])
    times = frames.time.values.astype("M8[s]").astype(str)
    split = {"train": f"{times[0]}/{times[49]}", "validation": f"{times[50]}/{times[69]}"}
    split["test"] = f"{times[70]}/{times[-1]}"
    test = archive(frames, split=split).split("test")
    assert len(test) == 3  # of the last nine frames in a row
    assert all((window.times.diff() == 300).all() for window in test)
    for window in archive(frames, split=split, gaps="mask").split("test"):
        assert (window.times.diff() == 300).all()


def test_gaps_are_masked_as_in_training_unless_said_otherwise():
    frames = with_gap()
    stored = archive(frames, gaps="mask").specification
    assert stored.gaps == "mask"
    assert "missing frames as not measured" in stored.lines()[3]
    plain, masked = (len(archive(frames, gaps=gaps).split("train")) for gaps in ("refuse", "mask"))
    assert len(archive(frames).with_specification(stored).split("train")) == masked
    refusing = archive(frames, gaps="refuse").with_specification(stored)
    assert len(refusing.split("train")) == plain
    assert refusing.specification.gaps == "refuse"
    older = {name: value for name, value in stored.to_dict().items() if name != "gaps"}
    assert len(archive(frames).with_specification(Specification.from_dict(older)).split("train")) == plain


def test_masks_are_advised_where_they_help():
    holed = rain(60).isel(time=[k for k in range(60) if k % 3])
    with pytest.raises(DataError, match=r"change split, or use --data\.gaps mask"):
        archive(holed).split("train")
    assert len(archive(holed, gaps="mask").split("train"))
    with pytest.raises(DataError, match="or change split$"):
        archive(split={"train": "2021-02-01T00/2021-02-01T02", "test": "2021-02-01T03"}, past=30).split(
            "train"
        )


@pytest.mark.parametrize(("minutes", "factor"), [([5] * 60, 12), ([60] * 60, 1), (range(5, 305, 5), None)])
def test_amounts_become_rates_by_the_bounds_of_their_times(tmp_path, minutes, factor):
    """Amounts an hour apart, of five minutes, of an hour, and since the start of a forecast."""
    frames = rain(minutes=60, units="mm", cell_methods="time: sum")
    data = frames.to_dataset()
    data["time"].attrs["bounds"] = "time_bnds"
    data["time"].encoding["units"] = "minutes since 2000-01-01"
    ends = frames["time"].values
    begins = ends - np.array(minutes) * np.timedelta64(60, "s")
    data["time_bnds"] = (("time", "bnds"), np.stack([begins, ends], axis=1))
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    path = str(tmp_path / "a.nc")
    if factor is None:
        with pytest.raises(DataError, match="one time to become mm/h; these cover 300 to 18000 s: keep"):
            archive(path, units="mm/h")
        with pytest.raises(DataError, match="one time to become mm/h"):
            archive(path).with_specification(archive(rain(minutes=60)).specification)
        assert archive(path).specification.period_s is None
        return
    rates = np.stack(archive(path, units="mm/h").store.read(range(3)))[:, 0]
    np.testing.assert_allclose(rates, factor * frames.values[:3], rtol=1e-6)
    assert archive(path).specification.period_s == 3600 / factor


def test_the_square_root_of_decibels_is_refused():
    echoes = rain(units="dBZ", long_name="reflectivity")
    with pytest.raises(OptionError, match=r"values in dBZ, a logarithm already: .* by --data\.units mm/h"):
        _ = archive(echoes, transform="sqrt").specification
    assert archive(echoes, transform="sqrt", units="mm/h").specification.transform["kind"] == "square_root"
    assert archive(echoes, transform="log").specification.transform["kind"] == "floored"
    older = archive(echoes).specification.to_dict() | {
        "transform": {"kind": "square_root", "arguments": {"top": 60.0}}
    }
    source = archive(echoes, transform="sqrt").with_specification(Specification.from_dict(older))
    assert source.split("test")[0]


def test_crops_are_random_reproducible_and_inside():
    source = archive(crop=(8, 10), importance=0.7, train_size=50)
    windows = source.split("train")
    assert len(windows) == 50
    assert windows.endless
    first = windows[3]
    assert first.past.shape == (4, 1, 8, 10)
    again = archive(crop=(8, 10), importance=0.7, train_size=50).split("train")[3]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = archive(crop=(8, 10), importance=0.7, train_size=50, seed=1).split("train")[3]
    assert not torch.equal(first.past, other.past)
    assert source.split("test")[0].past.shape == (4, 1, 20, 24)
    wet = [
        float((archive(crop=8, importance=share).split("train")[k].past > 0).float().mean())
        for share in (0.0, 1.0)
        for k in range(30)
    ]
    assert sum(wet[30:]) > 1.3 * sum(wet[:30])


def test_extra_inputs():
    source = archive(inputs=["mask", "hour", "season"])
    window = source.split("train")[0]
    assert source.extra_channels == 5
    assert window.inputs.shape == (7, 5, 20, 24)
    assert torch.equal(window.inputs[:4, 0], window.past_valid[:, 0].float())
    assert (window.inputs[4:, 0] == 1).all()
    angle = 2 * np.pi * np.arange(7) * 300 / 86400
    np.testing.assert_allclose(window.inputs[:, 1, 0, 0], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(window.inputs[:, 2, 5, 5], np.cos(angle), atol=1e-6)
    day = (np.datetime64("2021-02-01") - np.datetime64("1970-01-01")).astype(float)
    assert float(window.inputs[0, 3, 0, 0]) == pytest.approx(np.sin(2 * np.pi * day / 365.2425), abs=1e-5)


@pytest.mark.parametrize("options", [{"inputs": ["hour"]}, {"inputs": ["season"]}, {"transform": "anomaly"}])
def test_frames_without_dates_have_no_hour_and_no_season(options):
    """Seconds since the first frame were taken for dates, and forecasts of such frames refused."""
    dated = rain(120).assign_coords(time=START + np.arange(120) * np.timedelta64(5, "D"))
    counted = dated.assign_coords(time=dated.time.values - dated.time.values[0])
    sentence = (
        rf"the ({'|'.join(('hour', 'season', 'climatology'))}) needs frames with dates; those of frames"
    )
    with pytest.raises(DataError, match=sentence):
        archive(counted, **options)
    if "inputs" in options:
        with pytest.raises(DataError, match=sentence):
            archive(counted).with_specification(archive(dated, **options).specification)


def test_static_fields(tmp_path):
    height = np.arange(20 * 24, dtype=np.float32).reshape(20, 24)
    height[0, 0] = np.nan
    xr.Dataset({"height": (("y", "x"), height)}).to_netcdf(tmp_path / "static.nc", engine="h5netcdf")
    source = archive(static=tmp_path / "static.nc", crop=6)
    window = source.split("test")[0]
    assert window.inputs.shape == (7, 1, 20, 24)
    assert (window.inputs[0] == window.inputs[-1]).all()
    field = window.inputs[0, 0]
    assert field[0, 0] == 0
    assert float(field.mean()) == pytest.approx(0, abs=1e-5)
    assert (field.flatten()[1:].diff() > 0).all()
    crop = source.split("train")[0].inputs[0, 0]
    assert float(crop[1, 0] - crop[0, 0]) == pytest.approx(float(field[2, 1] - field[1, 1]), rel=1e-4)
    xr.Dataset({"height": (("y", "x"), height[1:])}).to_netcdf(tmp_path / "small.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="static fields must have the grid of the frames, 20 x 24"):
        archive(static=tmp_path / "small.nc")


def test_workers_read_the_same_windows(tmp_path):
    rain().to_netcdf(tmp_path / "rain.nc", engine="h5netcdf")
    windows = archive(str(tmp_path / "rain.nc"), crop=8).split("train")
    one, two = (
        [LabelledWindow(*batch) for batch in DataLoader(windows, 8, num_workers=n, shuffle=False)]
        for n in (0, 2)
    )
    assert len(one) == len(two) == -(-len(windows) // 8)
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("frames", "options", "kind", "sentence"),
    [
        (rain(12), {}, DataError, "12 frames are too few for windows of 7, past . steps, in three"),
        (rain() * np.nan, {}, DataError, "every split must hold measured values; train holds none"),
        (rain() - 1, {}, DataError, "rain must not be negative; received -1 mm/h: declare such a code by"),
        (rain(), {"crop": 21}, OptionError, "crop must fit in the frames, 20 x 24; received 21 x 21"),
        (rain(), {"crop": 8, "transform": "anomaly"}, OptionError, "so that no crops can be taken"),
        (rain(), {"transform": "anomaly"}, DataError, "at least a year of training frames; received 0 days"),
        (rain(), {"transform": "wavelet"}, OptionError, "transform must be one of anomaly, auto, log, none"),
        (rain(), {"inputs": ["moon"]}, OptionError, "an input must be one of hour, mask, season; received"),
        (rain(), {"gaps": "ignore"}, OptionError, "gaps must be one of mask, refuse; received 'ignore'"),
        (rain(), {"importance": 2}, OptionError, "importance must be at least 0 and at most 1; received 2"),
        (rain(), {"units": "furlong"}, DataError, "must be in 'furlong' or in a unit that converts to it"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(frames, options, kind, sentence):
    frames.attrs = rain().attrs
    with pytest.raises(kind, match=sentence):
        archive(frames, **options).split("train")


def test_a_gap_in_every_window_is_said():
    frames = rain(60).isel(time=[k for k in range(60) if k % 5])
    with pytest.raises(DataError, match="every split needs 7 consecutive frames, past . steps; train has"):
        archive(frames).split("train")


def test_flipped_crops_are_the_crops_in_other_directions(tmp_path):
    """Values, masks and static fields turn together, about half of the time along each axis."""
    field = tmp_path / "height.nc"
    xr.DataArray(np.arange(20.0 * 24).reshape(20, 24), dims=("y", "x"), name="height").to_netcdf(field)
    options = {"crop": 8, "inputs": ["mask"], "static": str(field), "train_size": 60}
    plain, flipped = (archive(flip=flip, **options).split("train") for flip in (False, True))
    turned = []
    for k in range(60):
        before, after = plain[k], flipped[k]
        height = after.inputs[0, 1]
        axes = [-1 - i for i in range(2) if height.diff(dim=-1 - i).mean() < 0]
        for name in ("past", "future", "past_valid", "future_valid", "inputs"):
            assert torch.equal(getattr(after, name), getattr(before, name).flip(axes)), name
        turned += axes
    assert 15 < turned.count(-1) < 45
    assert 15 < turned.count(-2) < 45
    validation = archive(flip=True, **options).split("validation")[0]
    assert torch.equal(validation.past, archive(**options).split("validation")[0].past)


def test_codes_of_the_training_are_not_measured_in_other_frames_either():
    """Nor are other negative rates dry; what packing leaves below 0 is."""
    frames = rain()
    source = archive(frames.fillna(-99), missing=-99)
    other = archive(frames.fillna(-99)).with_specification(source.specification)
    assert torch.equal(other.split("test")[0].future_valid, source.split("test")[0].future_valid)
    packed = archive(frames.where(frames != 0, -1e-9))
    assert torch.equal(packed.split("test")[0].future, source.split("test")[0].future)
    with pytest.raises(DataError, match="rain must not be negative; received -1: make it NaN if it stands"):
        archive(frames.fillna(-1)).with_specification(source.specification).split("test")[0]


def test_frames_upside_down_are_refused():
    specification = archive().specification
    with pytest.raises(DataError, match="must ascend along y, as in training; they descend: turn the frames"):
        archive(rain().isel(y=slice(None, None, -1))).with_specification(specification)


@pytest.mark.parametrize(("units", "wanted"), [("mm", "mm/h"), ("mm/h", "mm"), ("mm", "dBZ")])
def test_amounts_of_frames_without_times_become_no_rates(units, wanted):
    amounts = xr.DataArray(np.ones((60, 8, 8), np.float32), dims=("time", "y", "x"), attrs={"units": units})
    with pytest.raises(
        DataError, match=f"by the time that an amount covers.* received {units} for {wanted}: give"
    ):
        Archive(amounts, units=wanted, past=3, steps=2)
    stated = Archive(amounts.assign_attrs(period_s=600.0), units=wanted, past=3, steps=2)
    assert np.isfinite(stated.store.read([0])[0]).all()


def test_amounts_become_rates_by_the_time_that_they_cover_not_by_the_time_between_frames():
    """As where every third file of five minutes is there."""
    rates = rain(minutes=15)
    amounts = (rates / 12).assign_attrs(units="mm", long_name="rainfall amount", period_s=300.0)
    frames = archive(amounts, units="mm/h").store.read([7])
    np.testing.assert_allclose(frames[0][0], rates[7], rtol=1e-6)
    window = archive(amounts).with_specification(archive(rates).specification).split("test")[0]
    torch.testing.assert_close(window.past, archive(rates).split("test")[0].past, rtol=1e-4, atol=1e-5)


def test_amounts_of_months_whose_files_state_no_time_become_no_rates():
    """All were divided by the 31 days of the usual month: a tenth too little in February."""
    months = np.arange("2001-01", "2006-01", dtype="datetime64[M]").astype("datetime64[ns]")
    amounts = rain(60, units="mm").assign_coords(time=months)
    with pytest.raises(DataError, match="these cover 31 days, and months differ: keep their unit"):
        archive(amounts, units="mm/h")
    assert archive(amounts).units == "mm"


def test_amounts_of_another_time_than_those_of_the_training():
    """Hourly amounts every quarter of an hour: rates become such amounts, those of five minutes do not."""
    rates = rain(minutes=15)
    hourly = rates.assign_attrs(units="mm", long_name="rainfall amount", period_s=3600.0)
    source = archive(hourly)
    specification = source.specification
    assert (specification.period_s, specification.step_s) == (3600, 900)
    assert specification.transform["arguments"]["top"] == pytest.approx(100)  # mm in an hour
    window = archive(rates).with_specification(specification).split("test")[0]
    torch.testing.assert_close(window.past, source.split("test")[0].past)
    short = (rates / 12).assign_attrs(units="mm", long_name="rainfall amount", period_s=300.0)
    with pytest.raises(DataError, match="amounts must cover 3600 s, as in training; received 300 s: give am"):
        archive(short).with_specification(specification)


@pytest.mark.parametrize("units", ["mm/h", "mm", "dBZ"])
def test_a_pickled_archive_and_workers_give_the_same_windows(units):
    """As processes that are started anew receive it, whatever the values are converted from."""
    frames = rain() if units != "dBZ" else rain().copy(data=ZR().reflectivity(rain().values))
    source = archive(frames.assign_attrs(units=units), units="mm/h", crop=8, importance=0.5, train_size=6)
    sent = pickle.loads(pickle.dumps(source))
    assert sent.specification == source.specification
    alone = [source.split("train")[k].past for k in range(6)]
    loader = DataLoader(sent.split("train"), 2, num_workers=2, multiprocessing_context="fork")
    torch.testing.assert_close(
        torch.cat([window.past for window in loader]), torch.stack(alone), rtol=0, atol=0
    )


def test_an_archive_without_rain_is_sampled_evenly():
    """No place is more interesting than another, so that none weighs more."""
    frames = rain().copy(data=np.zeros_like(rain().values))
    windows = archive(frames, crop=8, importance=1.0, train_size=20).split("train")
    drawn = [windows[k] for k in range(20)]
    assert all(window.weight == 1 and not window.past.any() for window in drawn)
    assert len({float(window.times[0]) for window in drawn}) > 5


@pytest.mark.parametrize("units", ["dBZ", "mm/h"])
def test_minus_infinity_dbz_is_no_echo_which_was_measured(units):
    """As 10 log10 Z of Z = 0; NaN and +inf are not measured."""
    dbz = ZR().reflectivity(rain().values)
    dbz[:, 10, 12:] = np.inf
    written = rain().copy(data=np.where(dbz == -32, -np.inf, dbz)).assign_attrs(units="dBZ")
    found, expected = (archive(written.copy(data=x), units=units) for x in (written.values, dbz))
    assert found.specification == expected.specification
    window, same = (source.split("test")[0] for source in (found, expected))
    assert torch.equal(window.past, same.past)
    assert torch.equal(window.past_valid, same.past_valid)
    assert window.past_valid[:, 0, 5, :12].all()
    assert not window.past_valid[:, 0, 10, 12:].any()
    assert not window.past_valid[:, 0, 0, 0].any()


def test_what_files_state_of_their_values_is_converted_with_them():
    """The dry value and the valid range are in the unit of the file."""
    dbz = rain(units="dBZ", dry_value=-32.0).copy(data=ZR().reflectivity(rain().values))
    assert archive(dbz, units="mm/h", transform="standard").specification.dry_value == 0
    assert archive(dbz, units="mm", transform="standard").specification.dry_value == 0
    assert archive(rain(dry_value=0.0), units="dBZ").specification.dry_value == -32
    kelvin = (rain() + 280).assign_attrs(units="K", long_name="temperature", valid_range=[273.15, 373.15])
    arguments = archive(kelvin, units="degC").specification.transform["arguments"]
    assert arguments["offset"] == pytest.approx(0, abs=1e-4)
    assert arguments["scale"] == pytest.approx(100)


@pytest.mark.parametrize(
    "times",
    [  # many short films, a day apart, and frames between whole seconds
        np.arange(30)[:, None] * np.timedelta64(1, "D") + np.arange(50) * np.timedelta64(40, "ms"),
        START + np.timedelta64(10_500, "ms") + np.arange(200) * np.timedelta64(10, "m"),
    ],
)
def test_stored_splits_are_those_of_the_training(times):
    values = np.random.default_rng(0).random((times.size, 4, 4)).astype(np.float32)
    source = archive(
        xr.DataArray(values, {"time": times.ravel().astype(f"{times.dtype.kind}8[ns]")}, ("time", "y", "x"))
    )
    again = source.with_specification(source.specification, own=True)
    for name in ("train", "validation", "test"):
        assert np.array_equal(again.window_frames(name), source.window_frames(name))


def test_splits_of_several_frames_a_second_stay_apart():
    """Times to the second put frames of validation into training when a run was evaluated."""
    times = START + np.timedelta64(730, "ms") + np.arange(200) * np.timedelta64(100, "ms")
    frames = rain(200).assign_coords(time=times)
    source = archive(frames)
    again = archive(frames).with_specification(source.specification, own=True)
    for name in ("train", "validation", "test"):
        assert np.array_equal(again.window_frames(name), source.window_frames(name))
    assert source.specification.splits["train"][2] == "2021-02-01T00:00:00.730000"


def test_a_channel_without_values_is_named():
    """Its mean was NaN, and the error spoke of an offset."""
    values = np.stack([rain().values, np.full(rain().shape, np.nan, np.float32)], 1)
    frames = xr.DataArray(values, {"time": rain().time}, ("time", "channel", "y", "x"), "u", {"units": "K"})
    with pytest.raises(DataError, match=r"every channel must hold measured values .*; 1 holds none: choose"):
        _ = archive(frames).specification


@pytest.mark.parametrize(("units", "size"), [("kg m-2 s-1", -2e-5), ("m", -1e-4)])
def test_what_is_negative_in_units_of_small_numbers_is_no_rain(units, size):
    """Evaporation, say, which became dry; differences of packed sums are a little below 0."""
    frames = rain(units=units)
    with pytest.raises(DataError, match="rain must not be negative; received -"):
        archive((frames * 0 + size).assign_attrs(frames.attrs)).split("train")
    assert archive(frames.where(frames != 0, size / 100)).split("train")[0].past.min() == 0


def test_a_flux_that_is_described_without_a_word_of_rain_is_none():
    frames = rain(units="kg m-2 s-1", long_name="evaporation").rename("evspsbl")
    source = archive((-frames).assign_attrs(frames.attrs))
    assert source.specification.dry_value is None
    assert source.split("train")[0].past.min() < -1
    for name in ("large scale precipitation", ""):
        again = archive(frames.assign_attrs(frames.attrs | {"long_name": name}))
        assert again.specification.dry_value == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("transform", ["standard", "range"])
def test_what_is_infinite_has_no_part_in_the_scale(value, transform):
    frames = rain(units="K", long_name="temperature").rename("t2m").fillna(1)
    other = frames.copy()
    other[:, 0, 0], frames[:, 0, 0] = value, np.nan
    one, two = (archive(each, transform=transform) for each in (frames, other))
    assert one.specification.transform == two.specification.transform
    assert torch.equal(one.split("train")[0].past_valid, two.split("train")[0].past_valid)


@pytest.mark.parametrize("unit", ["degrees_north", "degree_north", "degrees_N", "degreeN"])
def test_static_fields_upside_down_are_refused_in_any_spelling_of_degrees(tmp_path, unit):
    latitude = ("y", np.arange(20.0), {"units": "degrees_north", "standard_name": "latitude"})
    frames = rain().assign_coords(y=latitude)
    places = {"lat": ("lat", np.arange(20.0)[::-1], {"units": unit})}
    field = xr.DataArray(np.ones((20, 24)), places, ("lat", "x"), "height")
    field.to_netcdf(tmp_path / "height.nc")
    with pytest.raises(DataError, match="static fields must lie on the grid of the frames; y of .*height.nc"):
        archive(frames, static=str(tmp_path / "height.nc"))
    other = frames.assign_coords(y=(*latitude[:2], {"units": unit, "standard_name": "latitude"}))
    archive(other).with_specification(archive(frames).specification)


def test_static_fields_are_read_as_frames_are(tmp_path):
    """Limits of what is valid, values that were not written, and bounds beside the fields."""
    height = np.arange(480, dtype=np.float32).reshape(20, 24)
    stored = height.copy()
    stored[0, 0], stored[1, 1] = 9.969209968386869e36, -5
    fields = {
        "height": (("lat", "lon"), stored),
        "area": (("lat", "lon"), stored, {"valid_min": np.float32(0)}),
    }
    axes = {"lat": np.arange(20.0), "lon": np.arange(24.0)}
    data = xr.Dataset(fields | {"lat_bnds": (("lat", "nv"), np.zeros((20, 2)))}, axes)
    data.to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", encoding={name: {"_FillValue": None} for name in fields}
    )
    found = static_fields(tmp_path / "a.nc")
    stored[0, 0] = np.nan
    np.testing.assert_array_equal(found[0], stored)
    np.testing.assert_array_equal(found[1], np.where(stored < 0, np.nan, stored))
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("height", data=height, fill_value=0).attrs["_ARRAY_DIMENSIONS"] = ["lat", "lon"]
    np.testing.assert_array_equal(static_fields(tmp_path / "a.zarr"), height[None])
