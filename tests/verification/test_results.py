import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from convlstm.errors import OptionError, RunError
from convlstm.verification.results import ScoreTable, Verification
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
        )
        for key, (title, better) in TITLES.items()
    }
    return Verification(
        model=model, cases=7, past=4, steps=steps, data="frames", forecasters=tuple(level), scores=scores
    )


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
        "data",
        "weights",
        "best_baseline",
        "forecasters",
        "scores",
        "skill",
    ]
    assert (plain["schema"], plain["model"], plain["cases"], plain["past"], plain["steps"]) == (
        1,
        "mine",
        7,
        4,
        2,
    )
    assert plain["forecasters"] == ["mine", "persistence", "blank"]
    assert plain["best_baseline"] == "blank"
    assert plain["scores"]["mse"] == {
        "title": "MSE",
        "unit": "a unit",
        "formula": "a formula",
        "higher_is_better": False,
        "by_lead": {"mine": [0.1, 0.1], "persistence": [0.4, 0.4], "blank": [0.2, 0.2]},
        "overall": {"mine": 0.1, "persistence": 0.4, "blank": 0.2},
    }
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
    with pytest.raises(RunError, match="schema 1 or older; received 2: update convlstm"):
        Verification.from_dict(plain | {"schema": 2})
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
        ({"model": "other"}, "must hold the mse of its model, other"),
        ({"scores": {}, "forecasters": [1]}, "must hold the mse of its model, mine; received  of 1"),
    ],
)
def test_refuses_values_that_no_verification_has(change, sentence):
    with pytest.raises(RunError, match=sentence):
        Verification.from_dict(verification().to_dict() | change)


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
    many = replace(found, scores={f"score_{k:02d}": found.scores["mse"] for k in range(12)} | found.scores)
    heads = [line.split()[1:] for line in printed(many, 100) if line.startswith("forecaster ")]
    assert [len(head) for head in heads] == [8, 8]  # and not 9 and 7


def test_rows_are_long_and_complete():
    found = verification()
    rows = list(found.rows())
    assert ("persistence", "psnr", "2", 0.4) in rows
    assert ("mine", "mse", "overall", 0.1) in rows
    assert ("mine", "skill_over_blank", "1", 0.5) in rows
    assert len(rows) == len({row[:3] for row in rows}) == (3 * 3 + 2) * 3


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


def printed(found, width, *scores):
    """The lines of the tables on a screen."""
    console = Console(width=width, highlight=False)
    with console.capture() as screen:
        console.print(found.to_rich(*scores))
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
    assert stars == 1 + 2 * (1 + len(leads) + 1)  # what a star is, and those of mse and psnr


def test_a_long_name_goes_on_below_and_markdown_has_every_lead_time():
    name = "a_model_with_an_exceedingly_long_name"
    found = verification(30, name, **{name: 0.1, "persistence": 0.4, "blank": 0.2})
    lines = printed(found, 60)
    assert max(map(len, lines)) <= 60
    assert lines[3].split()[-1] != name
    assert (lines[4].split()[0] + lines[5]).rstrip() == name
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
        "; * is the best",
        "0.4000",
        "0.1000*",
        "MSE (a unit; lower is better)",
        "Skill of mine",
    ):
        assert text in shown
    assert "PSNR" not in shown
