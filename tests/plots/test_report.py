import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from convlstm.data import Rain
from convlstm.errors import OptionError, RunError
from convlstm.models.baselines import Blank, MeanFrame, Persistence
from convlstm.pictures.colours import MISSING as NOT_MEASURED_FIELD
from convlstm.pictures.radar import DRY, NOT_MEASURED, TABLES
from convlstm.plots.headline import drawbacks, tiles, verdict
from convlstm.plots.report import write_report
from convlstm.plots.report_frames import film_strips
from convlstm.plots.run_record import read_run
from convlstm.scores import field_scores
from convlstm.verification.verify import read_scores, scores_files, verify

MakeRun = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "hr", "input"}
SECTIONS = ("forecasts", "scores", "lead-time", "training", "configuration", "environment")


class Page(HTMLParser):
    """Reads a page, holds it to closing what it opens, and gives what it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def pictures(run: Path) -> list[dict[str, str]]:
    """The rows of the report's film strips."""
    cases = film_strips(read_run(run))["cases"]
    return [row for case in cases for block in case["blocks"] + case["more"] for row in block["rows"]]


def change(run: Path, update: Callable[[dict], object], name: str = "scores.json") -> None:
    plain = json.loads((run / name).read_text())
    update(plain)
    (run / name).write_text(json.dumps(plain))


def change_cases(run: Path, **arrays: object) -> None:
    with np.load(run / "cases.npz") as file:
        held = {name: file[name] for name in file.files} | arrays
    np.savez(run / "cases.npz", **{name: array for name, array in held.items() if array is not None})


def test_a_report_has_every_section_and_needs_no_network(make_run: MakeRun):
    run = make_run()
    page = report(run)
    ids = [attributes.get("id") for tag, attributes in page.tags if tag == "section"]
    assert ids == list(SECTIONS)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    images = [(a["alt"], a["src"].partition(",")[2]) for tag, a in page.tags if tag == "img"]
    assert images == [(row["alt"], row["data"]) for row in pictures(run)]
    scores = read_scores(run / "scores.json")
    assert verdict(scores)[1:].replace("\u202f", " ") in page.text
    assert all(f"{name} {value} {note}" in page.text for name, value, note in tiles(scores))


def test_nothing_is_loaded_by_its_styles_and_light_dark_phone_and_print_are_provided_for(make_run: MakeRun):
    text = write_report(make_run()).read_text()
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)\)", text))
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text
    assert "@media print" in text


def test_the_headline_compares_with_the_best_baseline(make_run: MakeRun):
    run = make_run()

    def update(plain):
        mse = plain["scores"]["mse"]
        mse["overall"] = dict.fromkeys(mse["overall"], 0.05) | {
            "encoder_forecaster": 0.0123,
            "mean_frame": 0.041,
        }

    change(run, update)
    scores = read_scores(run / "scores.json")
    less = "makes 70\u202f% less squared error (MSE) than mean frame, the best baseline"
    assert verdict(scores) == f"encoder forecaster {less}"
    skill, mse, _, cases = tiles(scores)
    assert skill[1] == "0.7000"  # 1 - 0.0123 / 0.041
    assert skill.note.startswith("over mean frame")
    assert (mse.value, mse.note) == ("0.01230", "per pixel; mean frame has 0.04100")
    assert (cases.value, cases.note) == ("1,000", "4 frames in, 3 out, 30 events")


@pytest.mark.parametrize(
    ("mse", "sentence"),
    [
        (0.05, "makes 25\u202f% more squared error (MSE) than"),
        (0.04, "makes as much squared error (MSE) as"),
        (0.5, "makes 12.5 times the squared error (MSE) of"),
        (None, "cannot be compared with a baseline"),
        (1e30, "makes 2.5e31 times the squared error (MSE) of"),
    ],
)
def test_a_model_that_is_no_better_is_not_praised(make_run: MakeRun, mse, sentence):
    run = make_run()

    def update(plain):
        overall = plain["scores"]["mse"]["overall"]
        overall |= dict.fromkeys(overall, 0.04) | {"encoder_forecaster": mse}

    change(run, update)
    assert sentence in verdict(read_scores(run / "scores.json"))


def test_a_baseline_without_any_error_cannot_be_bettered(make_run: MakeRun):
    run = make_run()

    def update(plain):
        overall = plain["scores"]["mse"]["overall"]
        overall |= dict.fromkeys(overall, 0.04) | {"persistence": 0.0}

    change(run, update)
    sentence = "encoder forecaster cannot be better than persistence, a baseline that makes no error here"
    assert verdict(read_scores(run / "scores.json")) == sentence


def test_every_score_stands_in_the_tables(make_run: MakeRun):
    run = make_run()

    def update(plain):
        plain["scores"]["ssim"]["overall"]["advection"] = 0.31421
        plain["scores"]["mae"]["by_lead"]["linear_trend"][1] = 0.27182

    change(run, update)
    cells = re.findall(r"<td[^>]*>(?:<b>)?([^<]*)", write_report(run).read_text())
    assert {"0.3142", "0.2718"} <= set(cells)


def test_only_the_best_of_a_column_is_bold(make_run: MakeRun):
    run = make_run()
    values = {
        "encoder_forecaster": 0.2,
        "persistence": 0.9,
        "mean_frame": None,
        "linear_trend": 0.1,
        "advection": 0.3,
    }
    for key in ("mae", "ssim", "sharpness"):  # lower, higher, neither is better
        change(run, lambda plain, key=key: plain["scores"][key]["overall"].update(values))
    table = re.search(r"<table>.*?</table>", write_report(run).read_text(), re.DOTALL)
    assert table
    rows = re.findall(r"<tr.*?</tr>", table[0])[1:]
    columns = list(zip(*(re.findall(r"<td[^>]*>(.*?)<span>", row) for row in rows), strict=True))
    assert columns[1] == ("0.2000", "0.9000", "n/a", "<b>0.1000</b>", "0.3000")
    assert columns[4] == ("0.2000", "<b>0.9000</b>", "n/a", "0.1000", "0.3000")
    assert columns[5] == ("0.2000", "0.9000", "n/a", "0.1000", "0.3000")


def test_decimal_points_of_a_column_stand_below_each_other(make_run: MakeRun):
    run = make_run()
    values = {"persistence": 12.34567, "mean_frame": 0.0012346, "linear_trend": 98766}
    change(run, lambda plain: plain["scores"]["mae"]["overall"].update(values))
    table = re.search(r"<table>.*?</table>", write_report(run).read_text(), re.DOTALL)
    assert table
    columns = re.findall(r"<tr.*?</tr>", table[0])[2:5]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row)[1] for row in columns]
    # A space as wide as a digit for each that is missing, one as wide as a point for a missing point.
    assert cells == [
        "12.35<span>\u2007\u2007\u2007\u2007</span>",
        "<b>0.001235</b><span></span>",
        "98770<span>\u2008\u2007\u2007\u2007\u2007\u2007\u2007</span>",
    ]


def worse(run: Path) -> str:
    return "; ".join(drawbacks(read_scores(run / "scores.json")))


def test_the_headline_says_what_is_worse(make_run: MakeRun):
    run = make_run()

    def update(plain):
        scores = plain["scores"]
        for key, own, other in (("mse", 0.1, 0.4), ("mae", 0.1, 0.4), ("psnr", 9.0, 7.0), ("ssim", 0.5, 0.4)):
            scores[key]["overall"] |= dict.fromkeys(scores[key]["overall"], other) | {
                "encoder_forecaster": own
            }
        scores["sharpness"]["by_lead"]["encoder_forecaster"][-1] = 0.78
        scores["ssim"]["overall"]["advection"] = 0.625

    change(run, update)
    expected = (
        "less sharp than the truth (sharpness 0.7800 at +3, the truth 1); SSIM 0.5000, advection 0.6250"
    )
    assert worse(run) == expected
    heading = re.search(r"<h1>.*?</h1>", write_report(run).read_text())
    assert heading
    assert "75 % less squared error (MSE) than" in Page(heading[0]).text
    assert Page(heading[0]).text.endswith(f"Worse: {expected}.")
    change(run, lambda plain: plain["scores"]["sharpness"]["by_lead"]["encoder_forecaster"].append(1.3))
    change(run, lambda plain: plain["scores"]["sharpness"]["by_lead"]["encoder_forecaster"].pop(0))
    assert worse(run).startswith("noisier than the truth (sharpness 1.300 at +3, the truth 1); SSIM")

    def best(plain):
        plain["scores"]["sharpness"]["by_lead"]["encoder_forecaster"][-1] = 0.97
        plain["scores"]["ssim"]["overall"]["advection"] = 0.45

    change(run, best)
    assert not worse(run)


def test_film_strips_show_the_frames_of_the_cases(make_run: MakeRun):
    run = make_run(past=4, steps=3)
    images = pictures(run)
    assert len(images) == 3 * (4 + 2)  # past, truth, forecast, error, two baselines that change
    assert all(image["alt"] for image in images)
    truth = next(image for image in images if image["alt"].startswith("Truth") and "best" in image["alt"])
    picture = Image.open(io.BytesIO(base64.b64decode(truth["data"])))
    shown = np.asarray(picture.convert("L"))
    with np.load(run / "cases.npz") as file:
        expected = np.rint(file["truth"][0, :, 0] * 255)
    assert shown.shape == (96, 3 * (96 + 4))  # 24 pixels four times as large, and a margin
    for k in range(3):
        cell = shown[:, k * 100 + 2 : k * 100 + 98]
        assert (cell == expected[k].repeat(4, axis=0).repeat(4, axis=1)).all()


@pytest.mark.parametrize(
    "sizes",
    [
        {"past": 4, "steps": 1, "epochs": 1, "teacher": False},
        {"past": 10, "steps": 30, "channels": 3, "height": 16, "width": 40},
        {"channels": 2, "height": 40, "width": 12},
        {"past": 2, "steps": 2, "height": 200, "width": 400},
    ],
)
def test_any_size_gives_a_report(make_run: MakeRun, sizes):
    page = report(make_run(**sizes))
    shown = page.text
    assert ("Teacher forcing" in shown) == sizes.get("teacher", True)
    assert ("2 channels, each with a row of its own" in shown) == (sizes.get("channels") == 2)
    assert ("3 channels, shown as red, green and blue" in shown) == (sizes.get("channels") == 3)
    assert ("shown at 1/2 of their size" in shown) == (sizes.get("width") == 400)


def test_a_penalty_and_the_forced_frames_of_the_past_have_curves(make_run: MakeRun):
    run = make_run()
    assert "Penalty" not in report(run).text
    first, *rows = (run / "metrics.csv").read_text().splitlines()
    rows = [f"{row},{0.5 / k},{1 - 0.5 / k}" for k, row in enumerate(rows, 1)]
    (run / "metrics.csv").write_text("\n".join([f"{first},train_penalty,teacher_past", *rows]))
    shown = write_report(run).read_text(encoding="utf-8")
    assert "Penalty of the model by epoch: from 0.5000 to 0.1000" in shown
    assert "Teacher forcing by epoch: forecast from 1.000 to 0.6000; past from 0.5000 to 0.9000" in shown


def strip(rows: list[dict[str, str]], start: str) -> np.ndarray:
    """The pixels of the picture whose description starts so."""
    image = next(row for row in rows if row["alt"].startswith(start))
    with Image.open(io.BytesIO(base64.b64decode(image["data"]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_every_channel_has_a_row_and_colours_of_its_own(make_run: MakeRun, channels):
    run = make_run(channels=channels)
    with np.load(run / "cases.npz") as file:
        factors = 100.0 * (1 + np.arange(channels)).reshape(channels, 1, 1)
        frames = {n: file[n] * factors for n in file.files if n in ("past", "truth") or n[:8] == "forecast"}
    change_cases(run, **frames)
    rows = pictures(run)
    for name in ("Past", "Truth", "Forecast of encoder forecaster", "Error", "Forecast of advection"):
        alts = [row["alt"] for row in rows if row["alt"].startswith(name)]
        assert [alt.rpartition(", ")[2] for alt in alts] == 3 * [f"channel {k + 1}" for k in range(channels)]
    bars = [(bar["name"], bar["low"]) for bar in film_strips(read_run(run))["bars"]]
    assert bars[:channels] == [(f"value, channel {k + 1}", "0") for k in range(channels)]
    assert [name for name, _ in bars[channels:]] == [f"error, channel {k + 1}" for k in range(channels)]
    truth = "Truth: frames +1 to +3 of the best case, channel "
    bright = [strip(rows, f"{truth}{k + 1}").max() for k in range(channels)]
    assert min(bright) > 100  # whatever the range of the others


def test_rain_is_seen_and_its_legend_names_the_limits(make_run: MakeRun):
    run = make_run()
    draw = np.random.default_rng(0)
    wet = draw.random((3, 3, 1, 24, 24)) < 0.3
    rain = wet * np.exp(1.2 * draw.normal(size=wet.shape))
    rain[0, 0, 0, 0, 0] = 1205.0  # clutter
    change_cases(run, truth=rain, past=rain, forecast_encoder_forecaster=0.5 * rain)
    page = report(run)
    grey = strip(pictures(run), "Truth: frames +1 to +3 of the best case")[..., 0]
    assert np.median(grey[grey > 0]) > 50
    assert "0.5th percentile of the values and the 99.5th" in page.text
    assert "square-root scale" in page.text
    (high,) = re.findall(r"value 0 ([\d.]+)", page.text)
    assert float(high) < 50


def test_rain_with_a_unit_has_the_colours_of_a_radar(make_run: MakeRun):
    run = make_run()
    rain = np.zeros((3, 3, 1, 24, 24), np.float32)
    rain[..., 0, :3] = 0.1, 3.0, 400.0  # the first, the fifth and the last class
    rain[..., 1, 0] = np.nan
    forecast = np.nan_to_num(rain)
    forecast[:, 0, :, 5, 5] = 50
    change_cases(run, truth=rain, past=rain, forecast_encoder_forecaster=forecast)
    change(run, lambda plain: plain.update(unit="mm/h"))
    page, rows = report(run), pictures(run)
    truth = strip(rows, "Truth: frames +1 to +3 of the best case")[2:, 4:]  # inside the first pixel
    table = TABLES["mm/h"]
    found = [tuple(truth[0, 4 * k, :3]) for k in range(4)]
    assert found == [table.colours[0], table.colours[4], table.colours[-1], DRY]
    assert tuple(truth[4, 0, :3]) == NOT_MEASURED
    error = strip(rows, "Error, forecast minus truth: frames +1 to +3 of the best case")[2:, 4:]
    assert tuple(error[4, 0, :3]) == NOT_MEASURED
    shown = strip(rows, "Forecast of encoder forecaster: frames +1 to +3 of the best case")[2:, 4:]
    assert tuple(shown[4, 0, :3]) == NOT_MEASURED  # though the forecast is dry there
    assert error[20, 20, 0] > error[20, 20, 2]  # too much rain is orange
    for text in ("rain (mm/h) dry 0.1 0.2 0.5 1 2 5 10 20 50 100", "not measured", "error (mm/h)"):
        assert text in page.text
    assert "0.5th percentile" not in page.text


def every_frame(run: Path, frames: np.ndarray) -> None:
    """Put frames in place of the past, the truth and all forecasts."""
    with np.load(run / "cases.npz") as cases:
        names = [name for name in cases.files if name.startswith("forecast_")]
    change_cases(run, truth=frames, past=frames, **dict.fromkeys(names, frames))


def test_small_areas_of_rain_in_decibels_stay_visible_in_smaller_frames(make_run: MakeRun):
    run = make_run()
    rain = np.full((3, 3, 1, 600, 600), -32, np.float32)
    rain[..., ::3, ::3] = 40  # one of nine pixels: 30.5 dBZ is the mean of the reflectivity factor
    every_frame(run, rain)
    change(run, lambda plain: plain.update(unit="dBZ"))
    truth = strip(pictures(run), "Truth: frames +1 to +3 of the best case")[2:-2, 2:-2]
    assert {tuple(pixel) for pixel in truth[:, :190, :3].reshape(-1, 3)} == {TABLES["dBZ"].colours[4]}


def test_bytes_of_three_channels_are_red_green_and_blue(make_run: MakeRun):
    run = make_run()
    video = np.random.default_rng(0).integers(0, 256, (3, 3, 3, 24, 24)).astype(np.float32)
    every_frame(run, video)
    change(run, lambda plain: plain.update(unit="1"))
    truth = strip(pictures(run), "Truth: frames +1 to +3 of the best case")[2:, 4:]
    assert tuple(truth[0, 0, :3]) == tuple(video[0, 0, :, 0, 0])


def test_fields_with_gaps_name_the_colour_of_what_was_not_measured(make_run: MakeRun):
    run = make_run()
    field = np.random.default_rng(0).random((3, 3, 1, 24, 24)).astype(np.float32)
    field[..., :4] = np.nan
    change_cases(run, truth=field)
    change(run, lambda plain: plain.update(unit="K"))
    page = report(run)
    assert "not measured" in page.text
    assert "value (K)" in page.text
    truth = strip(pictures(run), "Truth: frames +1 to +3 of the best case")[2:, 4:]
    assert tuple(truth[0, 0, :3]) == NOT_MEASURED_FIELD


def of_rain(run: Path) -> None:
    """Scores of a verification of rain in place of those of the run."""
    source = Rain(canvas=20, past=4, steps=3, test_size=8)
    found, _ = verify(
        Persistence(),
        DataLoader(source.split("test"), 8),
        name="encoder_forecaster",
        data="rain",
        baselines={"mean_frame": MeanFrame, "blank": Blank},
        scores=field_scores("mm/h", (0.2, 1.0), (20, 20)),
        unit="mm/h",
        to_units=source.to_units,
    )
    (run / "scores.json").write_bytes(scores_files(found)[0])
    (run / "cases.npz").unlink()


def test_the_report_of_rain_has_a_selection_in_sight_and_all_scores_on_demand(make_run: MakeRun):
    run = make_run()
    of_rain(run)
    text = write_report(run).read_text()
    first, hidden = (text.split(f'<section id="{name}">')[1] for name in SECTIONS[1:3])
    first, hidden = (part.split("</section>")[0] for part in (first, hidden))
    seen, more = first.split("<details>")
    heads = re.findall(r'<th scope="row">(.*?)</th>', seen)
    assert heads[:3] == ["RMSE\u202f↓", "Bias", "Critical success index at 0.2 mm/h\u202f↑"]
    assert len(heads) == 2 + 2 * 3 + 1 + 2 + 1 + 1  # of two thresholds; mean CSI, FSS, power, skill
    assert len(re.findall(r'<th scope="row">', more)) == 5 + 2 * 6 + 1 + 2 * 2 + 2 + 1
    assert "1000 bootstrap draws of 8 events" in seen
    charts, *rest = hidden.split("<details>")
    titles = re.findall(r"<figcaption><b>(.*?)</b>", charts)
    assert titles[0] == "Skill of encoder forecaster"
    assert "Critical success index at 1 mm/h" in titles
    assert titles[-1] == "Power spectrum at +3"
    assert "Probability of detection at 1 mm/h" in rest[0]
    assert "bands are 95 % intervals" in charts
    pooled = re.findall(r'<th scope="row">(mean|pooled)</th>', rest[1])
    assert pooled == ["mean", "pooled"] * (2 * 6 + 1 + 2 * 2)
    report(run)


def test_an_order_that_is_not_resolved_is_not_claimed(make_run: MakeRun):
    run = make_run()
    change(run, lambda plain: plain["scores"]["mse"]["differences"]["overall"].update(persistence=[-1, 2]))
    scores = read_scores(run / "scores.json")
    assert verdict(scores).endswith("persistence, the best baseline; the order is not resolved")
    change(run, lambda plain: plain["scores"]["ssim"]["differences"]["overall"].update(advection=[-1, 2]))
    change(run, lambda plain: plain["scores"]["ssim"]["overall"].update(advection=0.999))
    assert not any("SSIM" in text for text in drawbacks(read_scores(run / "scores.json")))
    change(run, lambda plain: plain["scores"]["ssim"]["differences"]["overall"].update(advection=[-2, -1]))
    assert any("SSIM" in text for text in drawbacks(read_scores(run / "scores.json")))


def test_baselines_whose_frames_are_all_equal_have_no_row(make_run: MakeRun):
    run = make_run()
    change_cases(run, forecast_blank=np.zeros((3, 3, 1, 24, 24), np.float32))
    shown = {re.match(r"Forecast of (\S+):", row["alt"]) for row in pictures(run)}
    assert {match[1] for match in shown if match} == {"linear_trend", "advection"}
    notes = film_strips(read_run(run))["notes"]
    listed = re.search("Not shown: (.*), the same frame at every lead time", notes)
    assert listed
    assert set(re.split(", | and ", listed[1])) == {"blank", "persistence", "mean frame"}


def test_lead_times_are_minutes_where_the_time_step_is_known(make_run: MakeRun):
    run = make_run()
    change(run, lambda plain: plain.update(step_s=600.0))
    past, future = film_strips(read_run(run))["cases"][0]["blocks"]
    assert past["labels"] == ["−30 min", "−20 min", "−10 min", "0 min"]
    assert future["labels"] == ["+10 min", "+20 min", "+30 min"]
    assert "Truth: +10 min to +30 min of the best case" in [row["alt"] for row in pictures(run)]
    text = write_report(run).read_text()
    assert re.findall(r'<th scope="row">(\+.*?)</th>', text)[:3] == ["+10 min", "+20 min", "+30 min"]
    assert "lead time (min)" in text
    assert "frames)" not in text
    assert "4 frames in, 3 out (to +30 min), 30 events" in text
    assert "at +30 min, the truth 1" in text
    change(run, lambda plain: plain.update(step_s=None))
    assert "lead time (frames)" in write_report(run).read_text()


def test_of_one_lead_time_only_what_is_blank_has_no_row(make_run: MakeRun):
    run = make_run(steps=1)
    change_cases(run, forecast_blank=np.zeros((3, 1, 1, 24, 24), np.float32))
    assert "Not shown: blank, the same" in film_strips(read_run(run))["notes"]
    assert any(row["alt"].startswith("Forecast of persistence") for row in pictures(run))


def test_more_than_ten_frames_are_divided_evenly(make_run: MakeRun):
    rows = pictures(make_run(past=12, steps=23, height=16, width=16))
    alts = [row["alt"] for row in rows if "best case" in row["alt"]]
    assert [alt for alt in alts if alt.startswith("Truth")] == [
        f"Truth: frames +{first} to +{last} of the best case" for first, last in ((1, 8), (9, 16), (17, 23))
    ]
    counts = [row["count"] for row in rows]
    assert (max(counts), min(counts)) == (8, 6)
    assert len([alt for alt in alts if alt.startswith("Past")]) == 2


@pytest.mark.parametrize("times", [100, 1e9])
def test_an_absurd_baseline_is_named_and_flattens_nothing(make_run: MakeRun, times):
    run = make_run()

    def update(plain):
        for key, table in plain["scores"].items():
            by_lead = table["by_lead"]
            for name in by_lead:
                level = {"encoder_forecaster": 0.01, "linear_trend": 0.01 * times}.get(name, 0.02)
                by_lead[name] = [10 * np.log10(1 / level) if key == "psnr" else level] * 3

    change(run, update)
    text = write_report(run).read_text()
    charts = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    for title in ("MSE", "MAE", "PSNR"):
        chart = next(c for c in charts if f"<b>{title}</b>" in c)
        assert re.search("linear trend lies outside, [^<]* at worst", chart)
        assert re.search(">linear trend [↑↓]<", chart)
        path = [re.search(rf'<path d="([^"]*)"[^>]*var\(--line-{slot}\)', chart) for slot in (0, 1)]
        model, persistence = (float(re.search(r"M [\d.]+ ([\d.]+)", found[1])[1]) for found in path)
        assert abs(model - persistence) > 40  # of 166 units of height


def test_twenty_frames_of_64_x_64_take_less_than_3_mb(make_run: MakeRun):
    run = make_run(past=10, steps=10, height=64, width=64)
    noise = np.random.default_rng(0).random((3, 10, 1, 64, 64), dtype=np.float32)  # nothing compresses worse
    change_cases(run, truth=noise, past=noise[:, ::-1], forecast_persistence=noise[::-1])
    assert write_report(run).stat().st_size < 3e6


def test_scores_that_are_not_finite_are_not_available(make_run: MakeRun):
    run = make_run()

    def update(plain):
        table = plain["scores"]["psnr"]
        table["overall"]["persistence"] = None
        table["by_lead"]["persistence"] = [None, None, 1e30]
        plain["scores"]["mse"]["overall"]["persistence"] = None
        plain["scores"]["mse"]["by_lead"]["persistence"] = [1e12, 1e30, None]

    change(run, update)
    change_cases(run, mse=np.array([np.nan, 1e20, np.inf]))
    text = report(run).text
    assert "n/a" in text
    assert "1.000e30" in text
    assert "nan" not in text.lower().replace("n/a", "")


def test_hostile_text_stays_text(make_run: MakeRun):
    run = make_run()
    hostile = "<script>alert('x')</script>&\"</pre>" + "x" * 5000
    (run / "config.yaml").write_text(f"name: {hostile}\n")
    (run / "command.txt").write_text(hostile)
    (run / "environment.json").write_text(json.dumps({hostile: {hostile: [hostile]}}))

    def update(plain):
        old, new = "encoder_forecaster", hostile[:40]
        plain["data"] = hostile
        plain["model"] = new
        plain["forecasters"][0] = new
        for table in plain["scores"].values():
            table |= {"title": hostile[:40], "unit": hostile[:40], "formula": hostile}
            for part in ("by_lead", "overall"):
                table[part][new] = table[part].pop(old)

    change(run, update)
    (run / "cases.npz").unlink()  # its forecasts are those of another model now
    page = report(run)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(hostile) >= 4


MISSING = {
    "scores.json": "No scores yet: convlstm evaluate {run} makes them.",
    "cases.npz": "No forecasts to look at yet: convlstm evaluate {run} makes them.",
    "metrics.csv": "No training curves: convlstm train writes metrics.csv.",
    "config.yaml": "No configuration: convlstm train writes config.yaml.",
    "command.txt": "No command: convlstm train writes command.txt.",
    "environment.json": "No environment: convlstm train writes environment.json.",
}


@pytest.mark.parametrize("gone", [(), ("metrics.csv", "config.yaml"), tuple(set(MISSING) - {"metrics.csv"})])
def test_a_missing_part_is_named_with_its_command(make_run: MakeRun, gone: tuple[str, ...]):
    run = make_run()
    for name in gone:
        (run / name).unlink()
    page = report(run)
    named = {name for name, text in MISSING.items() if text.format(run=run) in page.text.replace(" :", ":")}
    assert named == set(gone)
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == list(SECTIONS)


def test_a_run_not_yet_verified_says_so(make_run: MakeRun):
    run = make_run(epochs=5)
    (run / "scores.json").unlink()
    (run / "cases.npz").unlink()
    text = report(run).text
    assert "Trained for 5 epochs, not yet verified" in text
    assert "5 epochs in 62 s; lowest validation loss" in text


def bad(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad("scores.json", "{"), "scores.json must be a readable JSON"),
        (bad("scores.json", "[]"), "scores must be as a verification writes them"),
        (lambda run: change(run, lambda s: s.update(schema=3)), "schema 2 or older; received 3"),
        (
            lambda run: change(run, lambda s: s["scores"]["mae"]["overall"].update(advection="x")),
            "values of mae .x. is missing or wrong",
        ),
        (lambda run: change(run, lambda s: s["scores"].pop("mse")), "must hold the mse"),
        (lambda run: change(run, lambda s: s.update(steps=7)), "7 values by lead time; received 3"),
        (lambda run: change(run, lambda s: s.update(model="other")), "mse of its model"),
        (bad("cases.npz", b"PK\x03\x04 nonsense"), "cases.npz must be a readable .npz"),
        (bad("cases.npz", b""), "cases.npz must be a readable .npz"),
        (
            lambda run: bad("cases.npz", (run / "cases.npz").read_bytes()[:-200])(run),
            "must be a readable .npz",
        ),
        (lambda run: change_cases(run, truth=None), "received none of truth"),
        (
            lambda run: change_cases(run, forecast_encoder_forecaster=None),
            "must hold a forecast of encoder_forecaster, as scores.json does; received persistence",
        ),
        (
            lambda run: change_cases(run, truth=np.zeros((3, 2, 1, 24, 24))),
            r"received .*truth \(3, 2, 1, 24, 24\)",
        ),
        (lambda run: change_cases(run, past=np.full((3, 4, 1, 24, 24), "x")), "must hold numbers"),
        (bad("metrics.csv", "epoch,train_loss\n1,0.5\n2,abc\n"), "received 'abc' as train_loss on line 3"),
        (bad("metrics.csv", "a,b\n1,2\n"), "a column epoch that rises"),
        (
            bad("metrics.csv", "epoch,val_loss\n1,2\n2,2\n2,2\n"),
            r"rises from row to row; received \[1.0, 2.0, 2.0\]",
        ),
        (bad("metrics.csv", ""), "a column epoch that rises"),
        (bad("config.yaml", b"\xff\xfe\x00"), "readable text in UTF-8"),
        (bad("environment.json", "{"), "must be JSON"),
        (bad("environment.json", "[1]"), "names and values; received a list"),
    ],
)
def test_a_malformed_file_is_one_sentence_and_writes_nothing(make_run: MakeRun, spoil, message: str):
    run = make_run()
    (run / "report.html").write_text("the one before")
    spoil(run)
    before = sorted(file.name for file in run.iterdir())
    with pytest.raises(RunError, match=message) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert (run / "report.html").read_text() == "the one before"
    assert sorted(file.name for file in run.iterdir()) == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="holds neither"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="is not a folder"):
        write_report(tmp_path / "none")
    with pytest.raises(OptionError, match="run must be a path; received None"):
        write_report(None)
    assert not list(tmp_path.iterdir())


def test_a_cell_that_is_empty_or_cut_short_is_a_gap(make_run: MakeRun):
    run = make_run()
    (run / "metrics.csv").write_text("epoch,train_loss,val_loss,seconds\n1,0.5,,3\n2,0.4,0.45,6\n3,0.3\n")
    assert "3 epochs; lowest validation loss 0.4500 after epoch 2." in report(run).text
