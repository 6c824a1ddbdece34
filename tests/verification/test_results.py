import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from convlstm.errors import OptionError, RunError
from convlstm.scores.lead_times import lead_text
from convlstm.verification.results import Verification
from convlstm.verification.score_table import Interval, Intervals, ScoreTable, Spectra
from convlstm.verification.verify import read_scores

TITLES = {"mse": ("MSE", False), "psnr": ("PSNR", True), "sharpness": ("Sharpness", None)}


def verification(steps=2, model="mine", **changed):
    """Model, persistence and blank: MSE of 0.1, 0.4 and 0.2 at every lead."""
    level = {model: 0.1, "persistence": 0.4, "blank": 0.2} | changed
    scores = {
        key: ScoreTable(
            title=title,
            unit="a unit",
            formula="a formula",
            higher_is_better=better,
            by_lead={name: [value] * steps for name, value in level.items()},
            overall=dict(level),
            samples=[500] * steps,
            samples_of="pixels",
            intervals=alike(level, steps, lambda value: Interval(0.9 * value, 1.1 * value)),
            differences=alike(
                {n: v for n, v in level.items() if n != model},
                steps,
                lambda value: Interval(0.95 * level[model] - value, 1.05 * level[model] - value),
            ),
        )
        for key, (title, better) in TITLES.items()
    }
    return Verification(
        model=model,
        cases=7,
        past=4,
        steps=steps,
        data="frames",
        forecasters=tuple(level),
        scores=scores,
        blocks=7,
    )


def alike(level, steps, interval):
    """The same interval at every lead."""
    ends = {name: interval(value) for name, value in level.items()}
    return Intervals({name: [pair] * steps for name, pair in ends.items()}, ends)


def cells(text, title):
    """Rows of one Markdown table, by their first cell."""
    block = next(part for part in text.split("\n\n**") if part.lstrip("*").startswith(title))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if "|" in line
    ]
    return {row[0]: row[1:] for row in rows}


def test_skill_and_best_baseline_by_hand():
    found = verification()
    assert found.best_baseline == "blank"
    assert found.skill["persistence"].overall == pytest.approx(0.75)
    assert found.skill["blank"].by_lead == pytest.approx([0.5, 0.5])
    assert list(found.skill) == ["persistence", "blank"]


def test_skill_is_negative_for_a_worse_model_and_undefined_over_a_perfect_baseline():
    found = verification(mine=0.8, blank=0.0)
    assert found.skill["persistence"].overall == pytest.approx(-1)
    assert math.isnan(found.skill["blank"].overall)
    assert found.best_baseline == "blank"


def test_dict_has_the_keys_of_scores_json():
    plain = verification().to_dict()
    assert list(plain) == [
        "schema",
        "model",
        "cases",
        "past",
        "steps",
        "step_s",
        "lead_minutes",
        "data",
        "unit",
        "weights",
        "blocks",
        "best_baseline",
        "forecasters",
        "scores",
        "skill",
        "spectra",
    ]
    assert (plain["schema"], plain["model"], plain["cases"], plain["past"], plain["steps"]) == (
        2,
        "mine",
        7,
        4,
        2,
    )
    assert plain["forecasters"] == ["mine", "persistence", "blank"]
    assert plain["best_baseline"] == "blank"
    table = plain["scores"]["mse"]
    assert {name: table[name] for name in ("title", "unit", "formula", "higher_is_better")} == {
        "title": "MSE",
        "unit": "a unit",
        "formula": "a formula",
        "higher_is_better": False,
    }
    assert table["by_lead"] == {"mine": [0.1, 0.1], "persistence": [0.4, 0.4], "blank": [0.2, 0.2]}
    assert table["overall"] == {"mine": 0.1, "persistence": 0.4, "blank": 0.2}
    assert table["mean_of_leads"] is None
    assert (table["samples"], table["samples_of"]) == ([500, 500], "pixels")
    assert table["intervals"]["overall"]["mine"] == pytest.approx([0.09, 0.11])
    assert table["differences"]["by_lead"]["blank"][1] == pytest.approx([-0.105, -0.095])
    assert "mine" not in table["differences"]["overall"]
    assert plain["skill"]["blank"] == {"by_lead": [0.5, 0.5], "overall": 0.5}


def test_dict_and_back_through_strict_json():
    found = verification()
    assert Verification.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    undefined = verification(blank=math.nan)
    plain = json.loads(json.dumps(undefined.to_dict(), allow_nan=False))
    assert plain["scores"]["sharpness"]["by_lead"]["blank"] == [None, None]
    assert math.isnan(Verification.from_dict(plain).scores["sharpness"].overall["blank"])


def test_refuses_what_it_did_not_write():
    plain = verification().to_dict()
    with pytest.raises(RunError, match="schema 2 or older; received 3: update convlstm"):
        Verification.from_dict(plain | {"schema": 3})
    del plain["scores"]["psnr"]["by_lead"]["blank"]
    with pytest.raises(RunError, match="'blank' is missing or wrong: evaluate again"):
        Verification.from_dict(plain)
    for wrong in ({}, {"schema": "one"}, {"schema": 1, "model": None}):
        with pytest.raises(RunError, match="as a verification writes them"):
            Verification.from_dict(wrong)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cases": -1}, "cases -1 is missing or wrong"),
        ({"cases": 0}, "cases 0 is missing or wrong"),
        ({"past": 0}, "past 0 is missing or wrong"),
        ({"steps": 0}, "steps 0 is missing or wrong"),
        ({"cases": True}, "cases True is missing or wrong"),
        ({"schema": "1"}, "schema '1' is missing or wrong"),
        ({"weights": 5}, "weights 5 is missing or wrong"),
        ({"steps": 3}, "3 values by lead time; received 2 for mse of mine"),
        ({"unit": 3}, "unit 3 is missing or wrong"),
        ({"blocks": 0}, "blocks 0 is missing or wrong"),
        ({"spectra": {"wavelengths": [2.0], "power": {"mine": []}}}, "length of spectra is missing or wrong"),
        ({"model": "other"}, "must hold the mse of its model, other"),
        ({"scores": {}, "forecasters": [1]}, "must hold the mse of its model, mine; received  of 1"),
    ],
)
def test_refuses_values_that_no_verification_has(change, sentence):
    with pytest.raises(RunError, match=sentence):
        Verification.from_dict(verification().to_dict() | change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", [1.5]),
        ("samples", [-1]),
        ("intervals", {"by_lead": {}, "overall": {}}),
        ("differences", {"by_lead": {"persistence": [[1]], "blank": []}, "overall": {}}),
        ("mean_of_leads", {"mine": "x"}),
    ],
)
def test_refuses_parts_of_a_score_that_no_verification_has(name, value):
    plain = verification().to_dict()
    plain["scores"]["psnr"][name] = value
    with pytest.raises(RunError, match="is missing or wrong: evaluate again"):
        Verification.from_dict(plain)


@pytest.mark.parametrize("name", ["intervals", "differences"])
def test_refuses_intervals_of_other_lead_times(name):
    plain = verification().to_dict()
    plain["scores"]["psnr"][name]["by_lead"]["blank"].pop()
    with pytest.raises(RunError, match="2 values by lead time; received 1 for psnr of blank"):
        Verification.from_dict(plain)


def test_scores_of_schema_1_are_read_and_their_order_is_not_resolved():
    plain = verification().to_dict() | {"schema": 1}
    for name in ("unit", "blocks", "spectra"):
        del plain[name]
    for table in plain["scores"].values():
        for name in ("mean_of_leads", "samples", "samples_of", "intervals", "differences"):
            del table[name]
    old = Verification.from_dict(plain)
    assert old.scores["mse"].by_lead == verification().scores["mse"].by_lead
    assert old.blocks is old.spectra is old.scores["mse"].intervals is None
    assert cells(old.to_markdown(), "Overall")["mine"][0] == "0.1000~"
    assert "~ best, order not resolved: that needs 6 events; evaluate again" in old.to_markdown()


def test_spectra_there_and_back():
    found = replace(verification(), spectra=Spectra([2.5, 10.0], {"mine": [0.1, 2.0], "truth": [0.2, 2.5]}))
    assert Verification.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "x", True, [0.1], 10**400])
def test_refuses_scores_that_are_no_finite_numbers(tmp_path, value):
    plain = verification().to_dict()
    plain["scores"]["mse"]["by_lead"]["blank"][1] = value
    with pytest.raises(RunError, match="is missing or wrong: evaluate again"):
        Verification.from_dict(plain)
    (tmp_path / "scores.json").write_text(
        json.dumps(plain)
    )  # Infinity and NaN are no JSON, but Python reads them
    with pytest.raises(RunError, match="missing or wrong|readable JSON"):
        read_scores(tmp_path / "scores.json")


def test_a_wide_table_is_divided_evenly():
    found = verification()
    many = replace(found, scores={f"score_{k:02d}": found.scores["mse"] for k in range(6)} | found.scores)
    heads = [line.split()[1:] for line in printed(many, 75) if line.startswith("forecaster ")]
    assert [len(head) for head in heads] == [5, 5]  # and not 6 and 4


def test_rows_are_long_and_complete():
    found = verification()
    rows = list(found.rows())
    of = {row[:3]: row for row in rows}
    row = of["persistence", "psnr", "2"]
    assert (row.value, row.samples) == (0.4, 500)
    assert row[4:8] == pytest.approx((0.36, 0.44, -0.305, -0.295))
    row = of["mine", "mse", "overall"]
    assert (row.value, row.samples) == (0.1, 1000)
    assert math.isnan(row.difference_low)
    assert of["mine", "skill_over_blank", "1"].value == 0.5
    assert len(rows) == len({row[:3] for row in rows}) == (3 * 3 + 2) * 3


def test_lead_times_are_minutes_or_hours_where_the_time_step_is_known():
    found = replace(verification(3), step_s=300.0)
    text = found.to_markdown()
    heads = ["+5 min", "+10 min", "+15 min", "overall"]
    assert cells(text, "MSE")["lead"] == cells(text, "Skill")["lead"] == heads
    assert (
        "**Overall in a unit: 7 cases, 4 frames in, 3 out (to +15 min)**"
        in replace(found, unit="a unit").to_markdown()
    )
    printed_heads = [re.split(" {2,}", line) for line in printed(found, 100) if line.startswith("lead")]
    assert printed_heads == [["lead", *heads]] * 4
    daily = replace(found, step_s=86400.0)
    assert cells(daily.to_markdown(), "MSE")["lead"] == ["+1 d", "+2 d", "+3 d", "overall"]


def test_files_of_scores_keep_frames_and_have_minutes_beside():
    found = replace(verification(2), step_s=300.0)
    plain = found.to_dict()
    assert (plain["schema"], plain["steps"], plain["lead_minutes"]) == (2, 2, [5.0, 10.0])
    assert Verification.from_dict(plain) == found
    rows = {row[:3]: row for row in found.rows()}
    assert rows["mine", "mse", "2"].lead_minutes == rows["mine", "skill_over_blank", "2"].lead_minutes == 10
    assert math.isnan(rows["mine", "mse", "overall"].lead_minutes)
    assert verification().to_dict()["lead_minutes"] is None
    older = {name: value for name, value in plain.items() if name not in ("step_s", "lead_minutes")}
    assert Verification.from_dict(older).step_s is None
    with pytest.raises(RunError, match="step_s"):
        Verification.from_dict(plain | {"step_s": -300.0})


@pytest.mark.parametrize(
    ("lead", "step_s", "text"),
    [
        (2, None, "+2"),
        (-1, None, "-1"),
        (2, 300, "+10 min"),
        (-2, 300.0, "-10 min"),
        (0, 300.0, "0 min"),
        (6, 900.0, "+90 min"),
        (24, 3600.0, "+24 h"),
        (7, 86400.0, "+7 d"),
        (3, 30.5 * 86400, "+91.5 d"),  # months
        (3, 0.04, "+120 ms"),
        (1, 1 / 30, "+33.3333 ms"),
        (2, 630.0, "+1260 s"),
    ],
)
def test_lead_times_as_text(lead, step_s, text):
    assert lead_text(lead, step_s) == text


def test_markdown_marks_the_best():
    text = verification().to_markdown()
    overall = cells(text, "Overall")
    assert overall["forecaster"] == ["mse", "psnr", "sharpness", "skill"]
    assert overall["mine"] == ["0.1000*", "0.1000", "0.1000", ""]
    assert overall["persistence"] == ["0.4000", "0.4000*", "0.4000", "0.7500"]
    assert overall["blank"] == ["0.2000", "0.2000", "0.2000", "0.5000"]
    assert cells(text, "MSE (a unit; lower is better)")["mine"] == ["0.1000*", "0.1000*", "0.1000*"]
    assert cells(text, "Sharpness (a unit)")["lead"] == ["1", "2", "overall"]
    assert cells(text, "Skill of mine")["blank"] == ["0.5000", "0.5000", "0.5000"]
    assert "7 cases, 4 frames in, 2 out" in text
    assert "* best, ~ best but order not resolved: the 95 % interval" in text
    assert "(1000 bootstrap draws of 7 events)" in text
    assert "a formula; 500 pixels a lead" in text


def test_a_score_that_no_forecaster_has_is_named_and_not_shown():
    found = verification()
    psnr = found.scores["psnr"]
    nothing = {name: [math.nan] * 2 for name in found.forecasters}
    undefined = replace(psnr, by_lead=nothing, overall=dict.fromkeys(found.forecasters, math.nan))
    text = replace(found, scores={**found.scores, "psnr": undefined}).to_markdown(brief=True)
    assert "undefined, as nothing was there to count: psnr" in text
    assert cells(text, "Overall")["forecaster"] == ["mse", "sharpness", "skill"]


def test_one_case_of_one_event_without_a_unit():
    text = replace(verification(), cases=1, unit="1", blocks=1).to_markdown()
    assert "**Overall: 1 case, 4 frames in, 2 out**" in text
    assert "there is 1\n" in text


def test_equal_values_have_no_mark():
    assert "*" not in "".join(cells(verification(mine=0.4, blank=0.4).to_markdown(), "Overall")["mine"])


def test_an_order_that_is_not_resolved_has_another_mark():
    close = verification(blank=0.104)  # of which the difference may be 0
    overall = cells(close.to_markdown(), "Overall")
    assert overall["mine"][0] == "0.1000~"
    assert overall["persistence"][1] == "0.4000*"
    worse = verification(mine=0.12, blank=0.117)
    assert cells(worse.to_markdown(), "Overall")["blank"][0] == "0.1170~"
    undefined = verification(blank=math.nan)
    assert cells(undefined.to_markdown(), "Overall")["mine"][0] == "0.1000*"


def test_ratios_have_a_mean_of_leads_beside_the_pooled_value():
    found = verification()
    table = replace(
        found.scores["psnr"], mean_of_leads={"mine": 0.15, "persistence": 0.35, "blank": math.nan}
    )
    found = replace(found, scores=found.scores | {"csi_1": table})
    shown = cells(found.to_markdown("csi_1"), "PSNR")
    assert shown["lead"] == ["1", "2", "mean", "overall"]
    assert shown["blank"] == ["0.2000", "0.2000", "-", "0.2000"]
    assert "mean of the leads, overall pooled" in found.to_markdown("csi_1")
    means = {row.forecaster: row.value for row in found.rows() if row.lead == "mean_of_leads"}
    assert means["persistence"] == 0.35


FIELD = ("mse", "rmse", "mae", "bias", "correlation")
FIELD += tuple(
    f"{kind}_{t}" for t in (1, 5) for kind in ("csi", "pod", "far", "ets", "frequency_bias", "hss")
)
FIELD += (*(f"fss_{t}_{w}" for t in (1, 5) for w in (1, 9, 33)), "variance_ratio", "power_below_16")


def field(steps=2):
    found = verification(steps)
    return replace(found, scores=dict.fromkeys(FIELD, found.scores["mse"]), unit="mm/h")


def test_many_scores_are_rows():
    overall = cells(field().to_markdown(), "Overall in mm/h")
    assert overall["score"] == ["mine", "persistence", "blank"]
    assert tuple(overall)[2:-1] == FIELD  # after the heading and its rule
    assert overall["csi_5"] == ["0.1000*", "0.4000", "0.2000"]
    assert overall["skill"] == ["", "0.7500", "0.5000"]


def test_the_main_scores_of_many():
    main = ("rmse", "bias", "csi_1", "pod_1", "far_1", "csi_5", "pod_5", "far_5", "fss_1_9", "fss_5_9")
    assert field().main_scores == (*main, "power_below_16")
    assert verification().main_scores == tuple(verification().scores)
    overall = cells(field().to_markdown(brief=True), "Overall in mm/h")
    assert set(overall) == {"score", *main, "power_below_16", "skill"} | {k for k in overall if "-" in k}
    assert field().to_markdown(brief=True).count("| lead ") == 4  # rmse, two of csi, and the skill
    lines = printed(field(12), 80, brief=True)
    assert max(map(len, lines)) <= 80
    assert len(lines) < 60


def test_the_marked_value_is_the_best_of_its_lead():
    found = verification()
    table = replace(
        found.scores["mse"],
        by_lead=found.scores["mse"].by_lead | {"mine": [0.1, math.nan], "blank": [0.05, 0.2]},
    )
    text = replace(found, scores=found.scores | {"mse": table}).to_markdown("mse")
    shown = cells(text, "MSE")
    assert shown["mine"] == ["0.1000", "-", "0.1000*"]
    assert shown["blank"] == ["0.05000*", "0.2000*", "0.2000"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.4213, 1137.4, 60085.2), ("0.4213*", "1137", "60090")),
        ((0.000377, 0.00041, 9.1234), ("0.0003770*", "0.0004100", "9.123")),
        ((1.5e-9, 0.012345, 7.77e8), ("1.500e-9*", "0.01235", "7.770e8")),
    ],
)
def test_every_value_has_four_digits_however_bad_the_others_are(values, shown):
    found = verification(3, "mine", **dict(zip(("mine", "persistence", "blank"), values, strict=True)))
    overall = cells(found.to_markdown(), "Overall")
    assert tuple(overall[name][0] for name in found.forecasters) == shown


def printed(found, width, *scores, **options):
    """The lines of the tables on a screen."""
    console = Console(width=width, highlight=False)
    with console.capture() as screen:
        console.print(found.to_rich(*scores, **options))
    return screen.get().splitlines()


def rows_of(lines, name):
    """Lines of a forecaster, cut after the name."""
    return [line[len(name) :] for line in lines if line.startswith(name)]


def test_decimal_points_stand_below_each_other_in_print_and_in_markdown():
    found = verification(3, "mine", mine=0.4213, persistence=113.74, blank=0.0377)
    for lines in (printed(found, 100), found.to_markdown().replace("| ", "").splitlines()):
        rows = [rows_of(lines, name.ljust(11))[0] for name in found.forecasters]
        points = [[m.start() for m in re.finditer(r"\.", row)] for row in rows]
        assert points[1] == points[2]
        assert points[0] == points[1][:-1]  # no skill over itself
        assert len(points[1]) == 4


NAMES = ("encoder_forecaster", "persistence", "mean_frame", "blank", "linear_trend", "advection")


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("steps", [1, 2, 10, 18, 250])
@pytest.mark.parametrize("worst", [0.5, 4e5])
def test_no_forecaster_no_score_and_no_best_mark_is_lost_at_any_width(width, steps, worst):
    level = dict(zip(NAMES[1:], (0.02, 0.03, 0.04, worst, 0.05), strict=True))
    found = verification(steps, NAMES[0], **{NAMES[0]: 0.01}, **level)
    lines = printed(found, width)
    assert max(map(len, lines)) <= width
    heads = [line.split() for line in lines if line.startswith(("forecaster ", "lead"))]
    overall = [key for head in heads for key in head[1:] if head[0] == "forecaster"]
    assert overall == ["mse", "psnr", "sharpness", "skill"]
    by_lead = [key for head in heads for key in head[1:] if head[0] == "lead"]
    shown = by_lead[: by_lead.index("overall") + 1]
    assert by_lead == shown * 4  # the same lead times for three scores and the skill
    leads = [int(lead) for lead in shown[:-1]]
    assert (leads[0], leads[-1]) == (1, steps)
    gaps = np.diff(leads)
    assert steps == 1 or gaps.max() - gaps.min() <= 1
    for name in NAMES[1:]:
        assert len(rows_of(lines, name)) == len(heads)
    stars = sum(line.count("*") for line in lines)
    assert stars == 1 + 2 * (1 + len(leads) + 1)  # the legend, and those of mse and psnr


def test_a_long_name_goes_on_below_and_markdown_has_every_lead_time():
    name = "a_model_with_an_exceedingly_long_name"
    found = verification(30, name, **{name: 0.1, "persistence": 0.4, "blank": 0.2})
    lines = printed(found, 60)
    assert max(map(len, lines)) <= 60
    first = next(k for k, line in enumerate(lines) if line.startswith("a_model"))
    assert "".join(line.split()[0] for line in lines[first : first + 4]) == name
    assert cells(found.to_markdown(), "MSE")["lead"] == [str(k) for k in range(1, 31)] + ["overall"]


def test_chosen_scores_only():
    text = verification().to_markdown("psnr")
    assert "**PSNR" in text
    assert "**MSE" not in text
    with pytest.raises(OptionError, match="score must be one of .* received 'psrn'; did you mean 'psnr'"):
        verification().to_markdown("psrn")


def test_rich_shows_the_same_numbers():
    console = Console(width=100)
    with console.capture() as screen:
        console.print(verification().to_rich("mse"))
    shown = screen.get()
    for text in (
        "Overall: 7 cases",
        "* best, ~ best but order not resolved",
        "0.4000",
        "0.1000*",
        "MSE (a unit; lower is better)",
        "Skill of mine",
    ):
        assert text in shown
    assert "PSNR" not in shown
