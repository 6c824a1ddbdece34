import csv
import json
import tracemalloc
import weakref
from collections import deque
from contextlib import suppress
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from convlstm.data.base import LabelledWindow, Window, WindowDataset
from convlstm.errors import ConvLSTMError, DataError, OptionError, RunError, ShapeError
from convlstm.models.base import Forecaster
from convlstm.models.baselines import BASELINES, Blank, Persistence
from convlstm.scores import CSI, MAE, MSE, POD, field_scores, standard_scores
from convlstm.verification import batches
from convlstm.verification.batches import in_units
from convlstm.verification.cases import CaseSelector, cases_file, read_cases
from convlstm.verification.results import ScoreRow
from convlstm.verification.verify import read_scores, scores_files, verify

FAST = (MSE(), MAE())


class Drift(WindowDataset):
    """Frames that brighten at a rate given for each case."""

    def __init__(self, rates, past=3, steps=2, size=12):
        self.rates, self.past, self.steps, self.size = list(rates), past, steps, size

    def __len__(self):
        return len(self.rates)

    def __getitem__(self, index):
        time = torch.arange(self.past + self.steps).float().view(-1, 1, 1, 1)
        draw = torch.Generator().manual_seed(index)
        frames = torch.rand(1, 1, self.size, self.size, generator=draw) + time * self.rates[index]
        return Window(frames[: self.past], frames[self.past :])


class Scaled(Forecaster):
    """The last frame, times a parameter."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.calls = []

    def forward(self, past, steps):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return self.scale * past[:, -1:].expand(-1, steps, -1, -1, -1)


class Oracle(Forecaster):
    """Knows the truth; forecasts it from ``shift`` steps later on."""

    def __init__(self, dataset, shift=0):
        super().__init__()
        self.truth, self.shift, self.at = torch.stack([w.future for w in dataset]), shift, 0

    def forward(self, past, steps):
        self.at += len(past)
        return self.truth[self.at - len(past) : self.at].roll(-self.shift, dims=1)


def batched(dataset, size=3):
    return DataLoader(dataset, batch_size=size)


def test_numbers_by_hand():
    """Persistence misses by rate, then twice the rate."""
    result, _ = verify(Scaled(), batched(Drift([0.1, 0.2, 0.3, 0.2])), name="mine", data="drift", scores=FAST)
    squared = np.mean([0.1**2, 0.2**2, 0.3**2, 0.2**2])
    assert result.scores["mse"].by_lead["mine"] == pytest.approx([squared, 4 * squared], rel=1e-4)
    assert result.scores["mae"].by_lead["persistence"] == pytest.approx([0.2, 0.4], rel=1e-4)
    assert result.scores["mae"].overall["persistence"] == pytest.approx(0.3, rel=1e-4)
    assert result.skill["persistence"].overall == pytest.approx(0)
    assert (result.model, result.data) == ("mine", "drift")
    assert (result.cases, result.past, result.steps) == (4, 3, 2)


def test_every_baseline_is_in_every_table():
    result, _ = verify(Scaled(), batched(Drift([0.1, 0.2])))
    names = ("model", "persistence", "mean_frame", "blank", "linear_trend", "advection")
    assert result.forecasters == names == ("model", *BASELINES)
    assert list(result.scores) == [score.name for score in standard_scores()]
    for table in result.scores.values():
        assert tuple(table.by_lead) == tuple(table.overall) == names
    assert tuple(result.skill) == names[1:]


def test_a_forecaster_that_knows_the_truth_is_perfect_at_the_right_lead_only():
    dataset = Drift([0.1, 0.2, 0.3], steps=4)
    right, _ = verify(Oracle(dataset), batched(dataset, 2), scores=FAST)
    wrong, _ = verify(Oracle(dataset, shift=1), batched(dataset, 2), scores=FAST)
    assert right.scores["mse"].by_lead["model"] == [0] * 4
    assert min(wrong.scores["mse"].by_lead["model"]) > 0
    assert right.skill["persistence"].overall == 1


@settings(max_examples=15, deadline=None)
@given(
    rates=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
    size=st.integers(1, 12),
)
def test_batch_size_changes_nothing(rates, size):
    dataset = Drift(rates)
    whole, cases = verify(Scaled(0.9), batched(dataset, len(rates)), scores=FAST)
    parts, same = verify(Scaled(0.9), batched(dataset, size), scores=FAST)
    for key in ("mse", "mae"):
        for name in whole.forecasters:
            expected = pytest.approx(whole.scores[key].by_lead[name], rel=1e-5, abs=1e-9)
            assert parts.scores[key].by_lead[name] == expected
    assert same.mse == pytest.approx(cases.mse, rel=1e-5, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(1, 10)), size=st.integers(1, 9))
def test_best_median_and_worst_case(order, size):
    _, cases = verify(Scaled(), batched(Drift([rate / 10 for rate in order]), size), scores=FAST)
    assert cases.label == ("best", "median", "worst")
    assert cases.index == tuple(order.index(rank) for rank in (1, 5, 9))
    assert cases.mse == pytest.approx([2.5 * (rate / 10) ** 2 for rate in (1, 5, 9)], rel=1e-4)


@pytest.mark.parametrize(
    ("rates", "labels", "index"),
    [([0.5], ("only",), (0,)), ([0.9, 0.5], ("best", "worst"), (1, 0))],
)
def test_no_case_stands_twice_among_the_best_median_and_worst(rates, labels, index):
    cases = verify(Scaled(), batched(Drift(rates)), scores=FAST)[1]
    assert (cases.label, cases.index, len(cases.mse)) == (labels, index, len(index))


@pytest.mark.parametrize("order", ["rising", "shuffled"])
def test_the_median_of_many_cases_is_close_and_the_extremes_exact(order):
    shuffled = torch.randperm(20_000, generator=torch.Generator().manual_seed(1)).tolist()
    values = shuffled if order == "shuffled" else list(range(20_000))
    chosen = CaseSelector()
    for start in range(0, 20_000, 7):
        chosen.add(values[start : start + 7])
    cases = chosen.cases()
    assert (cases.mse[0], cases.mse[2]) == (0, 19_999)
    assert [values[index] for index in cases.index] == list(cases.mse)
    assert abs(cases.mse[1] - 10_000) < 1_000  # three standard errors of a median of 1023 draws
    assert len(chosen.sample) == 1023


def test_the_median_case_is_one_of_the_measured_ones_alike():
    chosen = CaseSelector()
    chosen.add([float("nan")] * 5_000)
    chosen.add(list(range(20_000)))
    assert abs(chosen.cases().mse[1] - 10_000) < 1_000


def test_frames_have_the_times_of_their_place_in_the_window():
    frames = torch.zeros(1, 5, 1, 2, 2)
    times = torch.arange(5.0)[None]
    window = LabelledWindow(frames[:, :2], frames[:, 2:], None, None, None, times, None)

    def to_units(values, times):
        return times

    assert in_units(window.past.double(), window, to_units, first=0).tolist() == [[0, 1]]
    assert in_units(window.future, window, to_units).tolist() == [[2, 3, 4]]


def test_memory_does_not_grow_with_the_number_of_cases():
    """Of all batches and forecasts only the newest live, and no Python object is kept per case."""
    seen = deque(maxlen=12)  # of the last four batches

    class Watched(Persistence):
        def forward(self, past, steps):
            forecast = super().forward(past, steps)
            seen.append(weakref.ref(forecast))
            return forecast

    def stream(batches, alive):
        for _ in range(batches):
            alive.append(sum(reference() is not None for reference in seen))
            frames = torch.rand(16, 3, 1, 12, 12), torch.rand(16, 2, 1, 12, 12)
            seen.extend(map(weakref.ref, frames))
            yield LabelledWindow(*frames, times=torch.zeros(16, 5))  # one event: no bootstrap at the end

    def peak(batches):
        seen.clear()
        alive = []
        tracemalloc.start()
        verify(Watched(), stream(batches, alive), scores=FAST)
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return python, max(alive)

    peak(2)  # what is imported and cached on first use
    (short, few), (long, many) = peak(70), peak(280)
    assert many == few <= 3
    assert long < short + 200_000  # of 3360 more cases, 60 bytes each


def test_evaluation_mode_without_gradients_and_modes_put_back():
    model = Scaled()
    model.child = nn.Dropout()
    model.train()
    model.child.eval()
    verify(model, batched(Drift([0.1])), scores=FAST)
    assert model.calls == [(False, False)]
    assert model.training
    assert not model.child.training
    assert torch.is_grad_enabled()
    with suppress(DataError):
        verify(model, [], scores=FAST)
    assert model.training


def test_refuses_before_any_work():
    model, batches = Scaled(), batched(Drift([0.1]))
    with pytest.raises(OptionError, match=r"include mse and none twice; received mae: add MSE\(\)"):
        verify(model, batches, scores=[MAE()])
    with pytest.raises(OptionError, match="none twice; received mse, mse"):
        verify(model, batches, scores=[MSE(), MSE()])
    with pytest.raises(OptionError, match="at least one baseline"):
        verify(model, batches, baselines={})
    with pytest.raises(OptionError, match="name of its own; received 'blank'"):
        verify(model, batches, name="blank")
    assert model.calls == []


@pytest.mark.parametrize("model", [None, "runs/digits", Persistence, nn.Conv2d(1, 1, 3)])
def test_a_model_that_is_no_forecaster(model):
    with pytest.raises(OptionError, match="model must be a Forecaster; received "):
        verify(model, [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batches": None}, "batches must be iterable; received None: pass a DataLoader"),
        ({"batches": "x"}, "a batch must be past and future; received 'x': batch windows"),
        ({"batches": [(None, None)]}, "past must be a tensor"),
        ({"name": 3}, "name must be a str; received 3"),
        ({"data": None}, "data must be a str; received None"),
        ({"baselines": ["blank"]}, "baselines must be a Mapping"),
        ({"baselines": {"blank": 3}}, "a baseline must be callable; received 3"),
        ({"scores": MSE()}, "scores must be a Sequence; received a MSE"),
        ({"scores": [MSE]}, "a score must be a Score; received the class MSE: call it"),
        ({"data_range": "wide"}, "data_range must be positive and finite; received 'wide'"),
    ],
)
def test_arguments_of_another_kind(arguments, sentence):
    with pytest.raises(ConvLSTMError, match=sentence):
        verify(Scaled(), **{"batches": batched(Drift([0.1])), **arguments})


def test_no_case_is_an_error():
    with pytest.raises(DataError, match="at least one case; received none"):
        verify(Scaled(), [], scores=FAST)


def test_a_forecast_that_is_not_finite_names_forecaster_case_and_lead():
    class Broken(Persistence):
        def forward(self, past, steps):
            forecast = super().forward(past, steps)
            forecast[0, 1] = float("nan")
            return forecast

    with pytest.raises(DataError, match="^mine: .*mse of case 0 at lead 2 is not"):
        verify(Broken(), batched(Drift([0.1])), name="mine", scores=FAST)


def test_wrong_shapes_are_errors():
    class Long(Persistence):
        def forward(self, past, steps):
            return super().forward(past, steps + 1)

    with pytest.raises(ShapeError, match=r"^model: forecast and truth must both be \(B, 2, C, H, W\)"):
        verify(Long(), batched(Drift([0.1])), scores=FAST)
    with pytest.raises(ShapeError, match="a batch must be past .* batch windows with a DataLoader"):
        verify(Scaled(), Drift([0.1]), scores=FAST)
    uneven = [*batched(Drift([0.1])), *batched(Drift([0.1], steps=3))]
    with pytest.raises(ShapeError, match="3 past and 2 future frames; received 3 and 3"):
        verify(Scaled(), uneven, scores=FAST)


def test_files(tmp_path):
    dataset = Drift([0.1, 0.3, 0.2])
    baselines = {"blank": Blank, "persistence": Persistence}
    model = Scaled(0.5)
    result, cases = verify(model, batched(dataset), name="mine", baselines=baselines)
    (tmp_path / "cases.npz").write_bytes(cases_file(cases, dataset, model, name="mine", baselines=baselines))
    for name, content in zip(("scores.json", "scores.csv"), scores_files(result), strict=True):
        (tmp_path / name).write_bytes(content)

    assert read_scores(tmp_path / "scores.json") == result
    assert json.loads((tmp_path / "scores.json").read_text()) == result.to_dict()
    with (tmp_path / "scores.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(ScoreRow._fields)
    assert header[:4] == ["forecaster", "score", "lead", "value"]
    assert [(*row[:3], float(row[3]), row[4], int(row[8])) for row in rows] == [
        (*row[:4], "", row.samples) for row in result.rows()
    ]

    with np.load(tmp_path / "cases.npz") as arrays:
        assert sorted(arrays) == [
            "forecast_blank",
            "forecast_mine",
            "forecast_persistence",
            "index",
            "label",
            "mse",
            "past",
            "truth",
        ]
        assert arrays["label"].tolist() == ["best", "median", "worst"]
        assert arrays["index"].tolist() == list(cases.index)
        assert arrays["past"].shape == (3, 3, 1, 12, 12)
        assert arrays["truth"].shape == arrays["forecast_blank"].shape == (3, 2, 1, 12, 12)
        for place, index in enumerate(cases.index):
            np.testing.assert_array_equal(arrays["past"][place], dataset[index].past)
            np.testing.assert_array_equal(arrays["truth"][place], dataset[index].future)
        error = (arrays["forecast_mine"] - arrays["truth"]) ** 2
        np.testing.assert_allclose(error.mean((1, 2, 3, 4)), cases.mse, rtol=1e-5)
        assert all(case.area is None for case in read_cases(tmp_path / "cases.npz"))


def test_scores_of_another_rounding_do_not_share_a_table():
    data, scores = batched(Drift([0.3])), [CSI(0.5, rounding=0.3), POD(0.5)]
    together = verify(Scaled(), data, scores=[MSE(), *scores])[0].scores
    for score in scores:
        alone = verify(Scaled(), data, scores=[MSE(), score])[0].scores[score.name]
        assert together[score.name].overall == alone.overall


def test_errors_of_cases_weigh_pixels_by_their_area(tmp_path):
    """A report showed the error of the model by areas beside those of the baselines without."""
    dataset, model, path = Drift([0.1, 0.3, 0.2]), Scaled(0.5), tmp_path / "cases.npz"
    area, same = torch.ones(12).index_fill(0, torch.arange(6), 0.1), {"same": lambda: Scaled(0.5)}
    _, cases = verify(model, batched(dataset), name="mine", area=area, baselines=same)
    path.write_bytes(cases_file(cases, dataset, model, name="mine", area=area, baselines=same))
    for case in read_cases(path):
        assert case.mse_of("same") == case.mse_of("mine") == pytest.approx(case.mse, rel=1e-5)
        assert np.square(case.forecasts["mine"] - case.truth).mean() != pytest.approx(case.mse, rel=1e-3)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"area": arrays["area"][1:]})
    with pytest.raises(RunError, match="must hold numbers as past"):
        read_cases(path)


def test_bad_folders(tmp_path):
    with pytest.raises(
        RunError, match=r"scores.json must be a readable JSON file; .*: evaluate the run first"
    ):
        read_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text('{"schema": 1, ')
    with pytest.raises(RunError, match="must be a readable JSON file"):
        read_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(RunError, match="as a verification writes them"):
        read_scores(tmp_path / "scores.json")


@pytest.mark.parametrize(("size", "scored"), [((10, 32), False), ((11, 11), True)])
def test_structural_similarity_is_left_out_where_its_window_does_not_fit(size, scored):
    past, future = torch.rand(2, 2, 3, 1, *size).unbind()
    verification, _ = verify(Persistence(), [Window(past, future)], name="mine", data_range=1.0)
    assert ("ssim" in verification.scores) == scored
    assert verification.scores["mse"].overall["mine"] > 0


@pytest.mark.parametrize(
    ("data_range", "unit"), [(None, None), (1.0, "data range 1"), (120.0, "data range 120")]
)
def test_scores_relative_to_the_data_range_are_left_out_where_it_is_unknown(data_range, unit):
    past, future = 120 * torch.rand(2, 2, 3, 1, 12, 12)
    verification, _ = verify(Persistence(), [Window(past, future)], name="mine", data_range=data_range)
    units = [table.unit for key, table in verification.scores.items() if key in ("psnr", "ssim")]
    assert [text.rpartition(", ")[2] for text in units] == [unit] * (0 if unit is None else 2)


def test_a_data_range_that_is_none_is_refused_before_any_work():
    model = Scaled()
    with pytest.raises(OptionError, match="data_range must be positive and finite; received 0"):
        verify(model, batched(Drift([0.1])), data_range=0.0)
    assert not model.calls


@pytest.mark.parametrize(
    ("where", "values"),
    [("batches", 2 * 288), ("terms", 2 * 288), ("terms", 288), ("terms", 144)],
    ids=["forecast", "cases", "a case", "a frame"],
)
def test_large_frames_come_in_parts(where, values, monkeypatch):
    frames = torch.rand(2, 5, 2, 1, 12, 12)
    valid = torch.rand(5, 2, 1, 12, 12) > 0.2
    window = LabelledWindow(*frames, future_valid=valid)
    scores = field_scores("K", (0.5,), (12, 12))

    def found(batch):
        return verify(Persistence(), [batch], name="mine", scores=scores)[0].to_dict()

    whole = found(window)
    monkeypatch.setattr(import_module(f"convlstm.verification.{where}"), "_MOST_VALUES", values)
    parts = found(window)
    for key, table in whole["scores"].items():
        assert parts["scores"][key]["overall"]["mine"] == pytest.approx(table["overall"]["mine"], rel=1e-6)
        assert parts["scores"][key]["samples"] == table["samples"]
    broken = frames.clone()
    broken[1, 3, 0, 0, 2, 2] = torch.nan
    with pytest.raises(DataError, match="case 3 at lead 1 is not"):
        found(Window(*broken))
    broken[1, 3, 0], broken[1, 3, 1, 0, 2, 2] = 0, torch.inf
    with pytest.raises(DataError, match="case 3 at lead 2 is not"):
        found(Window(*broken))


def test_forecasts_are_of_a_part_of_a_batch_of_large_frames(monkeypatch):
    sizes = []

    class Watched(Persistence):
        def forward(self, past, steps, *, valid=None):
            sizes.append(len(past))
            return super().forward(past, steps, valid=valid)

    window = Window(*torch.rand(2, 5, 2, 1, 12, 12))
    monkeypatch.setattr(batches, "_MOST_VALUES", 2 * 288)
    verification, _ = verify(Watched(), [window, window], name="mine", baselines={"blank": Blank})
    assert sizes == [2, 2, 1] * 2
    assert verification.cases == 10


def test_what_depends_on_the_truth_alone_is_computed_once():
    seen = []

    def total(frames):
        seen.append(frames)
        return frames.values.sum((2, 3, 4))

    class Ratio(MSE):
        name = "ratio"

        def terms(self, forecast, truth):
            return torch.stack([forecast.cached(total), truth.cached(total)])

    class Again(Ratio):
        name = "again"

    frames = torch.rand(2, 2, 3, 1, 12, 12)
    scores = [MSE(), Ratio(), Again()]
    result, _ = verify(
        Scaled(), [Window(*frames)], name="mine", baselines={"last": Persistence}, scores=scores
    )
    assert len(seen) == len(set(map(id, seen))) == 3  # two forecasts and one truth
    expected = frames[0, :, -1].sum() * 3 / frames[1].sum()
    for name in ("ratio", "again"):
        assert result.scores[name].overall["last"] == pytest.approx(float(expected), rel=1e-6)
