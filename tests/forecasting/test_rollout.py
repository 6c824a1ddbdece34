"""Forecasts of labelled frames and arrays: units, scale, missing values, times, labels."""

import numpy as np
import pytest
import torch
import xarray as xr

import convlstm
from convlstm import EncoderForecaster
from convlstm.data.specification import Specification, plain_transform
from convlstm.data.transforms import Floored, Linear, Logarithm
from convlstm.data.units import ZR
from convlstm.errors import DataError, OptionError
from convlstm.forecasting.rollout import forecast
from convlstm.models import Persistence
from convlstm.models.baselines import DampedPersistence

PAST, STEPS, SIZE = 3, 4, (10, 12)
START = np.datetime64("2021-02-04T20:05", "ns")
STEP = np.timedelta64(300, "s")


def specification(**changes):
    fields = {
        "variables": ("rain",),
        "units": "mm/h",
        "transform": plain_transform(Logarithm(0.1, 100.0)),
        "dry_value": 0.0,
        "step_s": 300.0,
        "dated": True,
        "grid": {"shape": list(SIZE), "spacing": [1000.0, 1000.0], "units": "m"},
        "missing": (),
        "data_range": 100.0,
        "past": PAST,
        "steps": STEPS,
        "splits": {},
        "fingerprint": "",
    }
    return Specification(**fields | changes)


@pytest.fixture
def trained(tmp_path):
    """A function that saves a model with a specification and loads it."""

    def load(made=None, **options):
        made = specification() if made is None else made
        torch.manual_seed(0)
        channels = len(made.variables)
        model = EncoderForecaster(channels, [4], patch_size=1, filter_radius=1, **options)
        model.save_pretrained(tmp_path / "m", past=made.past, specification=made.to_dict())
        return EncoderForecaster.from_pretrained(tmp_path / "m").eval()

    return load


class Repeat(Persistence):
    """Persistence that notes can be given to."""

    def __init__(self, made):
        super().__init__()
        self._convlstm_notes = {"specification": made.to_dict()}


class Damped(DampedPersistence):
    """Damped persistence on a climatology of seconds after the first frame, which notes can be given to."""

    def __init__(self, made):
        super().__init__(0.5, self.seconds)
        self._convlstm_notes = {"specification": made.to_dict()}

    def seconds(self, times, like):
        first = START.astype("datetime64[s]").astype(np.int64)
        return (times - first).to(like)[..., None, None, None] + torch.zeros_like(like)


def rates(frames=PAST, seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).gamma(0.5, 4.0, (frames, *SIZE)).astype(dtype)
    values[:, :2] = 0
    y, x = 4e6 - 1000.0 * np.arange(SIZE[0]), 1000.0 * np.arange(SIZE[1])
    metres = {"units": "m"}
    coordinates = {
        "time": START + STEP * np.arange(frames),
        "y": ("y", y, metres | {"standard_name": "projection_y_coordinate"}),
        "x": ("x", x, metres | {"standard_name": "projection_x_coordinate"}),
        "crs": ((), 0, {"grid_mapping_name": "polar_stereographic"}),
    }
    attributes = {"units": "mm h-1", "long_name": "rain rate", "grid_mapping": "crs"}
    return xr.DataArray(values, coordinates, ("time", "y", "x"), "rain", attributes)


def expected(model, values, steps=STEPS):
    """The forecast of rates (K, H, W) by the equations alone."""
    scale = np.log(1 + 100.0 / 0.1)
    x = np.log(1 + values / np.float32(0.1)) / np.float32(scale)
    with torch.no_grad():
        y = model(torch.from_numpy(x.astype(np.float32))[None, :, None], steps)[0, :, 0].numpy()
    return 0.1 * (np.exp(np.clip(y, 0, 2) * scale) - 1)


def test_labelled_frames_come_back_in_their_unit_with_their_labels(trained):
    model, frames = trained(), rates(5)
    made = forecast(model, frames, STEPS)
    np.testing.assert_allclose(made.values, expected(model, frames.values[-PAST:]), rtol=2e-5, atol=1e-6)
    assert made.dims == frames.dims
    assert (made.name, made.attrs, made.dtype) == ("rain", frames.attrs, np.float32)
    for name in ("y", "x", "crs"):
        assert made[name].variable.identical(frames[name].variable)
    last = frames["time"].values[-1]
    np.testing.assert_array_equal(made["time"].values, last + STEP * np.arange(1, STEPS + 1))
    assert made["forecast_reference_time"].values == last
    np.testing.assert_array_equal(made["forecast_period"].values, STEP * np.arange(1, STEPS + 1))


def test_axes_of_other_names_and_in_another_order_stay_so(trained):
    grid = {"shape": list(SIZE)}
    model, frames = trained(specification(grid=grid)), rates()
    renamed = frames.drop_vars(["y", "x", "crs"]).rename(time="valid_time", y="lat", x="lon")
    renamed = renamed.assign_coords(lat=np.arange(50.0, 60), lon=np.arange(12.0)).transpose("lat", "lon", ...)
    made = forecast(model, renamed, STEPS)
    assert made.dims == ("lat", "lon", "valid_time")
    np.testing.assert_array_equal(made["lat"], renamed["lat"])
    np.testing.assert_array_equal(made.transpose("valid_time", ...), forecast(model, frames, STEPS))


def test_other_units_are_converted_where_that_is_exact_and_come_back():
    model, frames = Repeat(specification(transform=plain_transform(Linear()))), rates()
    amounts = (frames / 12).assign_attrs(units="mm")
    np.testing.assert_allclose(
        forecast(model, amounts, 1)[0], amounts[-1], rtol=1e-6
    )  # through mm/h and back
    seen = []
    model.forward = lambda past, steps: seen.append(past) or past[:, -1:].expand(-1, steps, -1, -1, -1)
    forecast(model, amounts, 1)
    np.testing.assert_allclose(seen[0][0, :, 0], frames, rtol=1e-6)
    relation = ZR(300.0, 1.4)
    radar = frames.copy(data=relation.reflectivity(frames.values)).assign_attrs(units="dBZ")
    model._convlstm_notes = {"specification": specification(zr=(300.0, 1.4, -32.0)).to_dict()}
    model.forward = lambda past, steps: seen.append(past) or past[:, -1:].expand(-1, steps, -1, -1, -1)
    made = forecast(model, radar, 1)
    dry = radar.values[-1] == -32
    assert 0 < dry.mean() < 0.9
    np.testing.assert_allclose(made.values[0][~dry], radar.values[-1][~dry], atol=1e-3)
    assert (made.values[0][dry] == -32).all()
    for units, remedy in (("K", "must be in 'mm/h'"), ("counts", "received 'counts'")):
        with pytest.raises(DataError, match=remedy):
            forecast(model, frames.assign_attrs(units=units), 1)


def test_frames_without_unit_are_taken_in_that_of_the_model_or_the_one_given():
    model, frames = Repeat(specification(transform=plain_transform(Linear()))), rates()
    bare = frames.copy()
    del bare.attrs["units"]
    seen = []
    model.forward = lambda past, steps: seen.append(past) or past[:, -1:].expand(-1, steps, -1, -1, -1)
    forecast(model, bare, 1)
    forecast(model, bare, 1, units="mm")
    np.testing.assert_allclose(seen[1], 12 * seen[0], rtol=1e-6)


def test_what_was_never_measured_is_nan_and_the_rest_does_not_depend_on_it(trained):
    model, frames = trained(), rates()
    frames[:, 0, 0] = np.nan
    frames[1:, 5, 5] = np.nan
    made = forecast(model, frames, STEPS)
    absent = np.zeros(SIZE, bool)
    absent[0, 0] = True
    np.testing.assert_array_equal(np.isnan(made.values), np.broadcast_to(absent, made.shape))
    filled = frames.fillna(0.0)  # dry, which the scale has at 0
    np.testing.assert_array_equal(made.values[:, ~absent], forecast(model, filled, STEPS).values[:, ~absent])


def test_dry_and_unmeasured_sequences_give_no_nan_but_those(trained):
    model, frames = trained(), rates()
    assert np.isfinite(forecast(model, frames * 0, STEPS).values).all()
    assert np.isnan(forecast(model, frames * np.nan, STEPS).values).all()


def test_integers_keep_their_dtype_and_codes(trained):
    made = specification(missing=(255.0,))
    model, codes = trained(made), np.round(rates()).clip(0, 254).astype(np.uint8)
    codes.attrs = rates().attrs
    codes[:, 3, 3] = 255
    forecasts = forecast(model, codes, STEPS)
    assert forecasts.dtype == np.uint8
    assert (forecasts[:, 3, 3] == 255).all()
    values = forecast(model, codes.astype(np.float32), STEPS).values
    absent = np.isnan(values)
    assert absent[:, 3, 3].all()
    np.testing.assert_array_equal(forecasts.values[~absent], np.rint(values[~absent]).clip(0, 254))
    for kind in (np.uint8, np.int16):  # tensors are rounded, clipped and masked as arrays are
        array = forecast(model, codes.values[:, None].astype(kind), STEPS)
        tensor = forecast(model, torch.from_numpy(codes.values[:, None].astype(kind)), STEPS)
        assert tensor.numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("run", [forecast, convlstm.forecast])
def test_undecoded_frames_come_back_decoded(run):
    """Packed integers as xarray opens them with mask_and_scale=False, and floats with a fill value."""
    codes = np.round(rates() * 10).astype(np.int16)
    codes[:, 3, 3] = -1
    codes.attrs = rates().attrs | {"scale_factor": 0.1, "_FillValue": np.int16(-1)}
    decoded = codes.where(codes >= 0).astype(np.float64) * 0.1
    for frames in (codes, decoded.fillna(-9).assign_attrs(rates().attrs | {"_FillValue": -9.0})):
        made = run(Repeat(specification()), frames, STEPS)
        np.testing.assert_allclose(made, decoded[[-1] * STEPS], rtol=1e-4)
        assert made.dtype == (np.float32 if frames is codes else np.float64)
        assert not {"scale_factor", "_FillValue"} & made.attrs.keys()


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_arrays_of_any_leading_axes(trained, lead):
    model = trained()
    cases = np.stack([rates(seed=k).values for k in range(int(np.prod(lead)))]).astype(np.float64)
    cases[..., 7, 7] = np.nan
    made = forecast(model, cases.reshape(*lead, PAST, 1, *SIZE), STEPS)
    assert (made.shape, made.dtype) == ((*lead, STEPS, 1, *SIZE), np.float64)
    for case, found in zip(cases, made.reshape(-1, STEPS, *SIZE), strict=True):
        labelled = rates().copy(data=case)
        np.testing.assert_allclose(found, forecast(model, labelled, STEPS).values, rtol=1e-5, atol=1e-6)
    tensor = forecast(model, torch.from_numpy(cases.reshape(*lead, PAST, 1, *SIZE)).float(), STEPS)
    np.testing.assert_array_equal(tensor.numpy(), made.astype(np.float32))


def test_a_model_without_specification_reads_and_returns_values_as_they_are():
    torch.manual_seed(0)
    model = EncoderForecaster(1, [4], patch_size=1)
    frames = rates() / 100
    with torch.no_grad():
        plain = model(torch.from_numpy(frames.values)[None, :, None], STEPS)[0, :, 0]
    np.testing.assert_allclose(forecast(model, frames, STEPS), plain, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(forecast(model, frames.values[:, None], STEPS)[:, 0], plain, rtol=1e-6)
    assert model.training
    with pytest.raises(DataError, match="must be finite"):
        forecast(model, frames.where(frames > 0), STEPS)


def test_extra_inputs_are_those_of_past_and_future(trained, tmp_path):
    made = specification(inputs=("mask", "hour", "static"))
    model, frames = trained(made, extra_channels=4), rates()
    frames[:, 0, 0] = np.nan
    seen = {}
    forward = model.forward

    def watch(past, steps, *, inputs):
        seen["inputs"] = inputs[0]
        return forward(past, steps, inputs=inputs)

    model.forward = watch
    with pytest.raises(OptionError, match="reads 1 and received none: give --static FILE"):
        forecast(model, frames, STEPS)
    land = np.arange(120.0).reshape(SIZE)
    path = tmp_path / "land.nc"
    xr.Dataset({"land": (("y", "x"), land)}).to_netcdf(path)
    forecast(model, frames, STEPS, static=path)
    mask, sine, cosine, static = seen["inputs"].numpy().transpose(1, 0, 2, 3)
    assert (mask[:PAST, 0, 0] == 0).all()
    assert mask.sum() == mask.size - PAST
    times = (frames["time"].values[0] + STEP * np.arange(PAST + STEPS)).astype("datetime64[s]")
    angle = 2 * np.pi * (times.astype(np.int64) % 86400) / 86400
    np.testing.assert_allclose(sine[:, 0, 0], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(cosine[:, 0, 0], np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(static[0], (land - land.mean()) / land.std(), rtol=1e-5)
    with pytest.raises(DataError, match="reads the hour, and frames must have times"):
        forecast(model, frames.values[:, None], STEPS, static=path)
    with pytest.raises(OptionError, match="this one reads 0 and received 1: leave --static out"):
        forecast(trained(), frames, STEPS, static=path)


@pytest.mark.parametrize("options", [{}, {"tile": 32}])
def test_a_baseline_knows_what_was_measured_and_when(options):
    frames = rates(5)
    frames[-1, 3, 3] = np.nan
    frames[-PAST:, 4, 4] = np.nan
    linear = specification(transform=plain_transform(Linear()))
    made = forecast(Repeat(linear), frames, STEPS, **options)
    np.testing.assert_array_equal(made[0], frames[-1].where(frames[-1].notnull(), frames[-2]))
    np.testing.assert_array_equal(made, np.broadcast_to(made[0], made.shape))
    damped = forecast(Damped(linear), frames, STEPS)
    last, usual = frames[-1, 5].values, 300.0 * np.arange(5, 5 + STEPS)
    expected = usual[:, None] + (last - 300.0 * 4) * 0.5 ** np.arange(1, STEPS + 1)[:, None]
    np.testing.assert_allclose(damped[:, 5], expected, rtol=1e-6)


def test_gaps_in_the_past_are_refused_or_masked(trained):
    model, frames = trained(), rates(6)
    holed = frames.isel(time=[0, 1, 2, 3, 5])
    with pytest.raises(DataError, match=r"the 3 frames .* from 2021-02-04T20:15.* to 2021-02-04T20:30:00"):
        forecast(model, holed, STEPS)
    with pytest.raises(DataError, match="received 2 from"):
        forecast(model, frames[:2], STEPS)
    made = forecast(model, holed, STEPS, masked=True)
    nothing = frames[3:].copy()
    nothing[1] = np.nan
    np.testing.assert_array_equal(made, forecast(model, nothing, STEPS))
    np.testing.assert_array_equal(made["time"], frames["time"].values[-1] + STEP * np.arange(1, STEPS + 1))
    masking = trained(specification(gaps="mask"))
    np.testing.assert_array_equal(forecast(masking, holed, STEPS), made)
    with pytest.raises(DataError, match="or --gaps mask"):
        forecast(masking, holed, STEPS, masked=False)
    every_second = rates(9).isel(time=[0, 1, 2, 3, 4, 6, 8])  # at the end
    assert forecast(model, every_second, STEPS, masked=True).notnull().all()


def test_frames_a_month_apart_follow_each_other_though_months_differ(trained):
    months = np.arange("2020-10", "2022-01", dtype="datetime64[M]")
    made = specification(step_s=31 * 86400.0, past=14, inputs=("season",))
    model, frames = trained(made, extra_channels=2), rates(len(months))
    frames = frames.assign_coords(time=months.astype("datetime64[ns]"))
    seen = []
    forward = model.forward

    def watch(past, steps, *, inputs):
        seen.append(inputs[0, :14, 0, 0, 0].numpy())
        return forward(past, steps, inputs=inputs)

    model.forward = watch
    assert forecast(model, frames, STEPS).notnull().all()
    seconds = months[-14:].astype("datetime64[s]").astype(np.int64)
    np.testing.assert_allclose(seen[0], np.sin(2 * np.pi * seconds / (365.2425 * 86400)), atol=1e-5)
    holed = frames.isel(time=[*range(5), *range(6, len(months))])
    assert forecast(model, holed, STEPS, masked=True).notnull().all()
    with pytest.raises(DataError, match="but not one every 31 days: give more frames"):
        forecast(model, holed, STEPS)


def test_a_model_that_knows_no_missing_values_is_not_advised_to_mask_gaps():
    holed, model = rates(6).isel(time=[0, 1, 2, 3, 5]), Persistence()
    model._convlstm_notes = {"past": PAST}
    with pytest.raises(DataError, match="not one every 300 s: give more frames$"):
        forecast(model, holed, STEPS)
    with pytest.raises(OptionError, match="this one has none: leave --gaps out, and give frames without"):
        forecast(model, holed, STEPS, masked=True)


def test_amounts_of_different_times_are_no_rates(trained):
    sums = rates().assign_attrs(units="mm", periods_s=(300.0, 900.0))
    with pytest.raises(DataError, match="one time to become mm/h; these cover 300 to 900 s"):
        forecast(trained(), sums, STEPS)
    assert forecast(trained(specification(units="mm")), sums, STEPS).notnull().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.assign_coords(time=START + 3 * STEP * np.arange(PAST)), "must be 300 s apart.* 900 s"),
        (lambda f: f.assign_coords(x=f["x"].copy(data=f["x"] * 2)), "must be 1000 x 1000 m.* 1000 x 2000 m"),
        (lambda f: xr.concat([f, f], "channel"), "must have the channels of the model, rain"),
        (
            lambda f: f.assign_coords(time=[START, START + STEP, START + 2.2 * 300 * np.timedelta64(1, "s")]),
            "60",
        ),
    ],
)
def test_frames_that_a_model_was_not_trained_on_are_refused(trained, change, sentence):
    with pytest.raises(DataError, match=sentence):
        forecast(trained(), change(rates()), STEPS)


def test_only_the_last_frames_are_read(trained):
    from dask.array import from_delayed
    from dask.delayed import delayed

    model, frames, read = trained(), rates(8), []

    def load(k):
        read.append(k)
        return frames.values[k : k + 1]

    parts = [from_delayed(delayed(load)(k), (1, *SIZE), np.float32) for k in range(8)]
    from dask.array import concatenate

    lazy = frames.copy(data=concatenate(parts))
    np.testing.assert_array_equal(forecast(model, lazy, STEPS), forecast(model, frames, STEPS))
    assert sorted(read) == [5, 6, 7]


def test_what_a_masked_array_hides_is_not_measured(trained):
    model, values = trained(), rates().values[:, None]
    corner = np.broadcast_to(np.arange(SIZE[1]) < 3, values.shape)
    hidden = np.ma.masked_array(values, corner | (values > 5))
    known = forecast(model, np.where(hidden.mask, np.nan, values), STEPS)
    assert np.isnan(known).any()
    np.testing.assert_array_equal(forecast(model, hidden, STEPS), known)


def test_amounts_are_converted_by_the_time_that_they_cover():
    model, frames = Repeat(specification(transform=plain_transform(Linear()), step_s=900.0)), rates()
    frames = frames.assign_coords(time=START + 3 * STEP * np.arange(PAST))
    seen = []
    model.forward = lambda past, steps: seen.append(past) or past[:, -1:].expand(-1, steps, -1, -1, -1)
    made = forecast(model, (frames / 12).assign_attrs(units="mm", period_s=300.0), 1)
    np.testing.assert_allclose(seen[0][0, :, 0], frames, rtol=1e-6)
    np.testing.assert_allclose(made[0], frames[-1] / 12, rtol=1e-6)


def test_no_echo_stays_dry_and_measured():
    model = Repeat(specification(units="dBZ", transform=plain_transform(Floored()), dry_value=-32.0))
    dbz = np.full((PAST, 1, *SIZE), 30, np.float32)
    dbz[..., :6], dbz[..., 0] = -np.inf, np.nan
    made = forecast(model, dbz, 2)
    assert np.isnan(made[..., 0]).all()
    np.testing.assert_array_equal(made[..., 1:6], np.float32(-32))
    np.testing.assert_allclose(made[..., 6:], 30, rtol=1e-6)


def test_every_part_of_the_model_keeps_its_mode(trained):
    """A frozen part in evaluation mode stays in it where the model is in training mode."""
    model = trained().train()
    model.head.eval()
    forecast(model, rates(), STEPS)
    assert model.training
    assert not model.head.training


@pytest.mark.parametrize("code", [1e20, -9999.9])
def test_codes_that_floats_of_32_bits_round_are_found(code):
    frames = rates().values[:, None]
    frames[:, 0, 3, 4] = code
    for dtype in (np.float32, np.float64):
        made = forecast(Repeat(specification(missing=(code,))), frames.astype(dtype), STEPS)
        assert np.isnan(made[:, 0, 3, 4]).all()
        assert np.isnan(made).sum() == STEPS
