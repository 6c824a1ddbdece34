"""The inside of a forecast, from Python and typed."""

import numpy as np
import pytest
import torch
import xarray as xr

import convlstm
from convlstm import EncoderForecaster, MovingObjects
from convlstm.cli.main import main
from convlstm.errors import ConvLSTMError, DataError, OptionError, RunError
from convlstm.models import Persistence
from convlstm.plots.inspector import inspector_page

K, L = 3, 2


def make_model(**notes):
    torch.manual_seed(0)
    model = EncoderForecaster(hidden_dim=[4, 6]).eval()
    model._convlstm_notes = notes
    return model


def frames(count, size=(16, 24)):
    return np.random.default_rng(0).random((count, 1, *size), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder that says what it was trained on."""
    path = tmp_path_factory.mktemp("model") / "model"
    return make_model().save_pretrained(path, past=K, steps=L)


def test_it_is_the_forecast_of_the_last_past_that_has_a_truth_and_what_happened_in_it(folder, tmp_path):
    given, model = frames(K + L + 4), EncoderForecaster.from_pretrained(folder).eval()
    out = tmp_path / "inside.html"
    found = convlstm.inspect(folder, given, out=out)
    inside = found.inside
    np.testing.assert_array_equal(inside.past, given[4 : K + 4])
    np.testing.assert_array_equal(inside.truth, given[K + 4 :])
    wanted = convlstm.forecast(folder, given[: K + 4], L).frames
    np.testing.assert_allclose(inside.forecast, wanted, atol=1e-6)  # of another engine
    with torch.no_grad(), convlstm.record(model) as tape:
        model(torch.from_numpy(given[None, 4 : K + 4]), L)
    assert {layer for layer, _ in inside.values} == {*tape.layers}
    assert {value for _, value in inside.values} == {*"hcifog"}
    for (layer, value), maps in inside.values.items():
        assert len(maps) == (K + L - 1 if layer.startswith("encoder") else L)
        np.testing.assert_array_equal(maps, tape[layer, value][0])
    assert inside.cells["encoder.0"] == "ConvLSTMCell"
    assert found.path == out
    assert out.read_text(encoding="utf-8") == inspector_page(inside)


def test_frames_without_a_truth_and_with_one_of_their_own(folder, tmp_path):
    given = frames(K + L)
    inside = convlstm.inspect(folder, given[:K], steps=4).inside
    assert inside.truth is None
    assert len(inside.forecast) == 4
    partly = convlstm.inspect(folder, given[: K + 1], steps=4).inside
    np.testing.assert_array_equal(partly.past, given[:K])
    np.testing.assert_array_equal(partly.truth, given[K : K + 1])
    np.save(tmp_path / "truth.npy", given[K:])
    inside = convlstm.inspect(folder, given[:K], truth=tmp_path / "truth.npy").inside
    np.testing.assert_array_equal(inside.truth, given[K:])
    np.testing.assert_array_equal(inside.past, given[:K])
    longer = convlstm.inspect(folder, given, truth=given[:1]).inside  # all of the past is the past
    np.testing.assert_array_equal(longer.past, given[L:])
    with pytest.raises(
        DataError, match=r"truth must have the channels and the size of the past, \(1, 16, 24\)"
    ):
        convlstm.inspect(folder, given[:K], truth=given[K:, :, :8])


def test_bytes_are_shown_as_bytes(folder):
    given = (255 * frames(K + L)).astype(np.uint8)
    inside = convlstm.inspect(folder, given).inside
    np.testing.assert_allclose(inside.truth, given[K:], rtol=1e-6)
    np.testing.assert_allclose(inside.past, given[:K], rtol=1e-6)
    wanted = 255 * convlstm.forecast(folder, given[:K].astype(np.float32) / 255, L).frames
    np.testing.assert_allclose(inside.forecast, wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_are_shown_in_colour(kind):
    """Those of 8 bits were three grey pictures."""
    given = np.random.default_rng(0).random((K, 3, 16, 24))
    given = (255 * given).astype(kind) if kind is np.uint8 else given.astype(kind)
    inside = convlstm.inspect(convlstm.EncoderForecaster(3, [4]), given, steps=L).inside
    assert "red, green and blue" in inspector_page(inside)


@pytest.fixture
def labelled():
    """Wind and temperature by the hour, and a model that reads them."""
    values = np.random.default_rng(0).standard_normal((K + L + 1, 2, 16, 20)).astype(np.float32)
    times = np.datetime64("2024-03-01T22:00", "ns") + np.arange(K + L + 1) * np.timedelta64(1, "h")
    names = {"time": times, "channel": ["wind", "temperature"]}
    given = xr.DataArray(values, names, ("time", "channel", "y", "x"), attrs={"units": "m/s, K"})
    torch.manual_seed(0)
    model = convlstm.PredRNN(channels=2, hidden_dim=[4, 4]).eval()
    model._convlstm_notes = {"past": K, "steps": L}
    return model, given


def test_labelled_frames_keep_names_units_and_times(labelled):
    model, given = labelled
    inside = convlstm.inspect(model, given).inside
    assert inside.variables == ["wind", "temperature"]
    assert inside.units == "m/s, K"
    assert inside.times == ["03-01 23:00", "03-02 00:00", "03-02 01:00", "03-02 02:00", "03-02 03:00"]
    assert inside.step_s == 3600
    np.testing.assert_array_equal(inside.past, given.values[1 : K + 1])
    np.testing.assert_array_equal(inside.truth, given.values[K + 1 :])
    assert ("layers.cell_list.0", "memory") in inside.values
    page = inspector_page(inside)
    assert "value (K)" in page
    assert "error (m/s)" in page


def test_a_truth_is_found_by_its_time(labelled, caplog):
    model, given = labelled
    past = given[:K]
    inside = convlstm.inspect(model, past, truth=given[K + 1 :]).inside  # its first frame is missing
    assert np.isnan(inside.truth[0]).all()
    np.testing.assert_array_equal(inside.truth[1], given.values[K + 1])
    assert convlstm.inspect(model, past, truth=given[:1]).inside.truth is None  # none of that time
    assert "no frame of the forecast, which is of 2024-03-02T01:00:00 to 2024-03-02T02:00:00" in caplog.text
    counted = given[K:].drop_vars("time").values
    np.testing.assert_array_equal(convlstm.inspect(model, past, truth=counted).inside.truth, counted[:L])
    with pytest.raises(DataError, match="truth must be in the unit of the past, m/s, K; received mm, K"):
        convlstm.inspect(model, past, truth=given[K:].assign_attrs(units="mm, K"))
    spelled = given[K:].assign_attrs(units="m/s, kelvin")
    np.testing.assert_array_equal(convlstm.inspect(model, past, truth=spelled).inside.truth, given[K : K + L])


def test_the_truth_of_months_is_found_though_they_differ(labelled):
    model, given = labelled
    values = np.random.default_rng(1).standard_normal((24, *given.shape[1:])).astype(np.float32)
    months = np.arange("2024-01", "2026-01", dtype="datetime64[M]").astype("datetime64[ns]")
    given = xr.DataArray(values, {"time": months}, given.dims, attrs=given.attrs)
    late = given.assign_coords(time=months + (np.arange(24) == 20) * np.timedelta64(8, "D"))
    for frames, left_out in ((given, []), (late, [20])):
        truth = convlstm.inspect(model, frames, steps=24 - K).inside.truth
        wanted = values.copy()
        wanted[left_out] = np.nan
        np.testing.assert_array_equal(truth, wanted[K:])


def test_times_are_written_as_far_as_they_differ(labelled):
    model, given = labelled
    day = given.assign_coords(time=given["time"] - np.timedelta64(12, "h"))
    assert convlstm.inspect(model, day).inside.times == ["11:00", "12:00", "13:00", "14:00", "15:00"]
    faster = day["time"].values[0] + np.arange(len(given)) * np.timedelta64(90, "s")
    texts = convlstm.inspect(model, given.assign_coords(time=faster)).inside.times
    assert texts == ["10:01:30", "10:03:00", "10:04:30", "10:06:00", "10:07:30"]
    months = np.arange("2024-01", "2024-07", dtype="datetime64[M]").astype("datetime64[ns]")[: len(given)]
    texts = convlstm.inspect(model, given.assign_coords(time=months)).inside.times
    assert texts[:3] == ["2024-02-01", "2024-03-01", "2024-04-01"]
    dates = np.datetime64("2024-03-01", "ns") + np.arange(len(given)) * np.timedelta64(1, "D")
    assert convlstm.inspect(model, given.assign_coords(time=dates)).inside.times[0] == "2024-03-02"


def test_layers_are_chosen_by_name(folder):
    given = frames(K)
    found = convlstm.inspect(folder, given, layers="encoder.1, forecaster.0,").inside
    assert {layer for layer, _ in found.values} == {"encoder.1", "forecaster.0"}
    with pytest.raises(OptionError, match=r"layers must be among encoder\.0, encoder\.1.*received 'decoder'"):
        convlstm.inspect(folder, given, layers="decoder")


@pytest.mark.parametrize("name", ["E3DLSTM", "ConvLSTMTransformer", "TrajGRUForecaster", "PhyDNet"])
def test_states_of_other_kinds_are_shown_as_far_as_they_are_maps(name):
    torch.manual_seed(0)
    options = {"E3DLSTM": {"hidden_dim": [4], "history": 3}, "PhyDNet": {}}.get(name, {"hidden_dim": [4, 4]})
    model = getattr(convlstm, name)(**options).eval()
    model._convlstm_notes = {"past": K, "steps": L}
    inside = convlstm.inspect(model, frames(K, (16, 16))).inside
    assert all(len(maps) <= K + L - 1 for maps in inside.values.values())
    page = inspector_page(inside)
    assert ("Left out: c, steps, which are no maps" in page) == (name == "E3DLSTM")


def test_what_it_cannot_do_is_said_before_any_work(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = frames(K)
    (tmp_path / "there.html").touch()
    (tmp_path / "folder.html").mkdir()

    def forecast(*_, **__):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("convlstm.workflows.inspect.forecast_frames", forecast)
        for out, kind, sentence in (
            ("a.pdf", OptionError, "the ending of a.pdf must be one of .htm"),
            ("none/a.html", RunError, "must go to an existing folder; none is none"),
            ("there.html", RunError, "must not replace a file unasked; there.html exists"),
            ("folder.html", RunError, "must go to a file; folder.html is a folder: choose another name"),
            (".", OptionError, "the ending of . must be one of .htm"),
            ("/proc/a.html", RunError, "/proc must be writable"),
        ):
            with pytest.raises(kind, match=sentence):
                convlstm.inspect(folder, given, out=out)
        with pytest.raises(OptionError, match="steps must be at least 1; received 0"):
            convlstm.inspect(folder, given, steps=0)
        with pytest.raises(OptionError, match="steps must be given for a model that does not say"):
            convlstm.inspect(make_model(past=K), given)
        with pytest.raises(OptionError, match="must contain a cell to be recorded; received a Persistence"):
            convlstm.inspect(Persistence(), given, steps=2)
        with pytest.raises(OptionError, match="MODEL must be a path; received a Linear"):
            convlstm.inspect(torch.nn.Linear(1, 1), given)
        with pytest.raises(DataError, match="must hold the 3 frames .* trained with; the past holds 2"):
            convlstm.inspect(folder, given[:2])
        with pytest.raises(DataError, match="must have the channels of the model, 1; the past has 2"):
            convlstm.inspect(folder, np.concatenate([given, given], axis=1))
        with pytest.raises(DataError, match=r"frames must be \(T, C, H, W\)"):
            convlstm.inspect(folder, given[0, 0, 0])
    assert convlstm.inspect(folder, given, out="there.html", overwrite=True).path.stat().st_size > 10_000


def test_a_file_that_comes_while_the_forecast_runs_stays(folder, tmp_path):
    class Slow(EncoderForecaster):
        def forward(self, *args, **options):
            (tmp_path / "a.html").write_text("mine")
            return super().forward(*args, **options)

    model = Slow(hidden_dim=[4], patch_size=2).eval()
    with pytest.raises(RunError, match="must not replace a file unasked"):
        convlstm.inspect(model, frames(K), steps=2, out=tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == "mine"


def test_a_recording_that_memory_does_not_hold_is_refused(folder, monkeypatch):
    monkeypatch.setattr("convlstm.workflows.inspect.free_memory", lambda _: 10_000)
    with pytest.raises(OptionError, match="recording must fit into limit=3,000 bytes.*pick layers="):
        convlstm.inspect(folder, frames(K))


def test_hooks_are_removed_after_an_error(folder):
    model = make_model(past=K, steps=L)
    with pytest.raises(ConvLSTMError):
        convlstm.inspect(model, frames(K - 1))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = {"train_size": 4, "validation_size": 2, "test_size": 2, "past": K, "steps": L}
    data = MovingObjects(canvas=16, object_size=8, count=1, **sizes)
    config = convlstm.TrainingConfig(epochs=1, batch_size=2, accelerator="cpu")
    convlstm.train(data=data, model=EncoderForecaster(hidden_dim=[4]), config=config, out="run")
    np.save("past.npy", frames(K + L, (16, 16)))
    capsys.readouterr()
    assert main(["inspect", "run", "past.npy", "--out", "inside.html"]) == 0
    assert capsys.readouterr().out.startswith("the page is inside.html, 0.")
    assert main(["inspect", "run", "past.npy", "--out", "inside.html"]) == 2
    assert "inside.html exists" in capsys.readouterr().err
    assert main(["inspect", "run", "past.npy"]) == 2
    assert "convlstm inspect needs --out" in capsys.readouterr().err


def test_radar_files_of_a_model_with_a_specification(radar, tmp_path):
    data = convlstm.data.Archive("radar", past=K, steps=L)
    config = convlstm.TrainingConfig(epochs=1, batch_size=4, accelerator="cpu")
    run = convlstm.train(
        data=data, model=EncoderForecaster(hidden_dim=[4]), config=config, out=tmp_path / "run"
    )
    inside = convlstm.inspect(run, "radar").inside
    given = convlstm.data.opening.open_frames("radar")[-K - L :].values
    np.testing.assert_array_equal(inside.past, given[:K])
    np.testing.assert_array_equal(inside.truth, given[K:])
    assert inside.units == "mm/h"
    assert inside.data == "radar"
    assert inside.variables == ["rate"]
    unnamed = convlstm.inspect(run, given).inside  # an array has the names and the unit of the training
    assert unnamed.variables == ["rate"]
    assert unnamed.units == "mm/h"
    assert '"bounds": [0.1' in inspector_page(inside)
