import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from convlstm.errors import OptionError, RunError
from convlstm.scores.table import ScoreTable, Verification

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
    assert overall["mse"] == ["0.1000*", "0.4000", "0.2000"]
    assert overall["psnr"] == ["0.1000", "0.4000*", "0.2000"]
    assert overall["sharpness"] == ["0.1000", "0.4000", "0.2000"]
    assert overall["skill"] == ["-", "0.750", "0.500"]
    assert cells(text, "MSE (a unit; lower is better)")["mine"] == ["0.1000*", "0.1000*", "0.1000*"]
    assert cells(text, "Sharpness (a unit)")["lead"] == ["1", "2", "overall"]
    assert cells(text, "Skill of mine")["blank"] == ["0.500", "0.500", "0.500"]
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
    assert shown["blank"] == ["0.0500*", "0.2000*", "0.2000"]


def test_one_bad_baseline_hides_no_digit_of_the_others():
    found = verification(3, "mine", mine=0.4213, persistence=1137.4, blank=60085.2)
    assert cells(found.to_markdown(), "Overall")["mse"] == ["0.42*", "1137", "60085"]
    found = verification(3, "mine", mine=0.000377, persistence=0.00041, blank=9.1234)
    assert cells(found.to_markdown(), "Overall")["mse"] == ["0.00038*", "0.00041", "9.123"]


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 18, 250])
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
def test_tables_fit_the_screen_and_show_the_first_and_last_lead(steps, scale):
    name = "my_encoder_forecaster"
    found = verification(steps, name, **{name: scale, "persistence": 2 * scale, "blank": 3 * scale})
    text = found.to_markdown()
    assert max(map(len, text.splitlines())) <= 100
    leads = cells(text, "MSE")["lead"]
    assert leads[0] == "1"
    assert leads[-2:] == [str(steps), "overall"]
    assert len(set(leads)) == len(leads) >= min(steps + 1, 5)
    console = Console(width=100)
    with console.capture() as screen:
        console.print(found.to_rich())
    assert "…" not in screen.get()


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
    for text in ("Overall: 7 cases", "0.4000", "0.1000*", "MSE (a unit; lower is better)", "Skill of mine"):
        assert text in shown
    assert "PSNR" not in shown
