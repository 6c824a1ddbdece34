"""Tables of the pages are those that their scripts make of the measured results now."""

import inspect
import json

import pages
import pytest
import torch
import torch.nn.functional as F

from convlstm import scores

SCRIPTS = ["models", "speed", "verification"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_pages_hold_what_their_scripts_make(script, name):
    made = script(name).page()
    assert (pages.DOCS / f"{name}.md").read_text() == made, f"run docs/scripts/{name}.py"


def test_badges_and_tables_show_what_was_measured(script, tmp_path, monkeypatch):
    """And not measured, where nothing was."""
    models = script("models")
    machine = {"gpu": None, "processor": "P", "threads": 1, "python": "3.11", "started": "2026-01-01T"}
    columns = ["MSE x 1000", "SSIM", "CSI at 1", "sharpness", "weights", "steps", "s a step", "MiB"]
    rows = {"MIM": [[2.0, 1.0, 3.0], [0.5], None, [1.0], [1234], [10], [0.125], [321]]}
    rows["MIM turned"] = [[4.0], [0.5], [0.75], [1.0], [1234], [10], [0.25], [654]]
    tables = [{"title": "digits, 5 s of one core of P", "columns": columns, "rows": rows}]
    dearer = {"MIM": [*rows["MIM turned"][:6], [9.0], [999]]}
    tables.append({"title": "rain, 5 s of one core of P", "columns": columns, "rows": dearer})
    longer = {"MIM": [[7.0], [0.5], None, *rows["MIM"][3:]]}  # no model has CSI
    tables.append({"title": "digits, 1,200 s of one core of P", "columns": columns, "rows": longer})
    (tmp_path / "here").mkdir()
    content = {"machine": machine | {"packages": {"torch": "2"}}, "tables": tables}
    (tmp_path / "here/models.json").write_text(json.dumps(content))
    entries = [models.Entry(name, 1, 2, "Summary.", "") for name in ("MIM", "MAU")]
    monkeypatch.setattr(models, "models", lambda: entries)
    monkeypatch.setattr(models.tables, "RESULTS", tmp_path)
    parts = models.parts()
    assert "| MIM | 2 (1\u00a0to\u00a03) | 0.5 |  | 1 |" in parts["compared"]
    assert "| MIM | 1,230 | 10 | 0.125 | 321 |" in parts["compared"]
    assert "Digits, 5 s of one core of P, by `BUDGET=5 python -m benchmarks models`:" in parts["compared"]
    assert "| MIM | 7 | 0.5 | 1 |" in parts["compared"]
    assert "by `BUDGET=1200 python -m benchmarks models`:" in parts["compared"]
    mim, mau = parts["catalogue"].split("### MAU")
    assert "training step <b>0.125 s</b>" in mim
    assert "memory <b>321 MiB</b>" in mim
    assert "MSE x 1000, digits <b>2</b>" in mim
    assert "MSE x 1000, digits, turned <b>4</b>" in mim
    assert "CSI at 1, rain <b>0.75</b>" in mim
    assert "seconds, memory, score <b>not measured</b>" in mau


def test_a_place_that_a_script_does_not_fill_is_refused(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- made by models.py: other -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="must have places for"):
        script("tables").page(page, "models", {"compared": ""})


def test_the_page_of_verification_lists_every_score(script):
    listed = {type(score) for score in script("verification").scores()}
    classes = {kind for kind in map(scores.__dict__.get, scores.__all__) if inspect.isclass(kind)}
    assert listed == {kind for kind in classes if issubclass(kind, scores.Score)} - {scores.Score}


def test_the_best_forecasts_of_an_open_future_are_its_mean_and_its_median(script):
    blurring = script("blurring")
    blurring.DESCENT = 300
    truth = torch.tensor([1.0, 0.0, 0.0]).repeat(20).view(-1, 1, 1, 1, 1)
    assert blurring.best(F.mse_loss, truth).item() == pytest.approx(1 / 3, abs=1e-3)
    assert blurring.best(F.l1_loss, truth).item() == pytest.approx(0, abs=1e-2)
