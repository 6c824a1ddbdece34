"""Verification of a forecaster: its scores beside those of the baselines, and three cases to look at."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from convlstm.data.base import LabelledWindow, Window
from convlstm.errors import DataError, OptionError, RunError, ShapeError, reading
from convlstm.models.base import Forecaster, evaluation_mode
from convlstm.models.baselines import BASELINES
from convlstm.scores.base import Score
from convlstm.scores.standard import standard_scores
from convlstm.validation import check_callable, check_instance, check_number, check_path, check_tensor
from convlstm.verification.batches import (
    ToUnits,
    batches_on_device,
    forecast_of,
    in_parts,
    in_units,
)
from convlstm.verification.blocks import BlockSums
from convlstm.verification.bootstrap import score_tables, spectra_of
from convlstm.verification.cases import Baselines, Cases, CaseSelector
from convlstm.verification.results import ScoreRow, Verification
from convlstm.verification.terms import terms_of


def verify(
    model: Forecaster,
    batches: Iterable[Window | LabelledWindow],
    *,
    name: str = "model",
    data: str = "",
    baselines: Baselines = BASELINES,
    scores: Sequence[Score] | None = None,
    data_range: float | None = None,
    unit: str = "",
    to_units: ToUnits | None = None,
    area: Tensor | None = None,
    step_s: float | None = None,
) -> tuple[Verification, Cases]:
    """Score a forecaster and the baselines on the same cases.

    Memory does not grow with the number of cases: one batch, the forecasts of it (of large frames, of a part
    of it at a time) and the sums of the scores in at most 512 blocks. Pixels that were not measured count in
    no score. The best and the worst case are exact, and so is the median up to 1023 cases; beyond, it is the
    median of a random sample of 1023.

    Args:
        model: called as ``model(past, steps)`` in evaluation mode, without gradients; its mode is restored.
        batches: windows with past (B, K, C, H, W) and future (B, L, C, H, W), K and L the same in all; moved
            to the model's device. ``Cases.index`` are indices of a data set if batches are in its order.
        name: of the model in the tables.
        data: description of the data in one line.
        baselines: constructors by name.
        scores: must include `MSE`; None uses those of `standard_scores` that fit the frames.
        data_range: largest minus smallest possible value of the data, for `standard_scores`; without it they
            have no PSNR and no SSIM.
        unit: of the values that are scored.
        to_units: from the scale of the network to the unit that is scored, called with frames (B, T, C, H, W)
            and their times (B, T) or None, as `Source.to_units`; the scale of the network if None.
        area: (H,), area of a pixel of each row relative to the mean, such as the cosine of the latitude; that
            of all pixels is the same if None.
        step_s: seconds between frames, by which lead times are named; they are numbers of frames if None.

    Returns:
        The scores, and the best, median and worst case.

    Raises:
        OptionError: no baseline, a name given twice, no MSE, or a data range that is not positive.
        ShapeError: a forecast or a batch of another shape than the rest.
        DataError: no case, or a value that is not finite in a forecast or the truth.
    """
    check_instance(model, Forecaster, "model", "pass a forecaster, such as Forecaster.from_pretrained(path)")
    check_instance(name, str, "name")
    check_instance(data, str, "data", "pass a line of text, such as source.describe()")
    step_s = None if step_s is None else check_number(step_s, "step_s", above=0)
    _check(name, baselines, standard_scores(data_range) if scores is None else scores)
    forecasters = {name: model} | {key: make() for key, make in baselines.items()}
    blocks, selector, seen = BlockSums(), CaseSelector(), 0
    lengths: tuple[int, int] | None = None
    with evaluation_mode(model), torch.no_grad():
        for window in in_parts(batches_on_device(batches, model)):
            past, truth = window.past, in_units(window.future, window, to_units)
            lengths = lengths or (past.shape[1], truth.shape[1])
            scores = standard_scores(data_range, truth.shape[-2:]) if scores is None else scores
            if lengths != (past.shape[1], truth.shape[1]):
                raise ShapeError(
                    f"all batches must have {lengths[0]} past and {lengths[1]} future frames; received "
                    f"{past.shape[1]} and {truth.shape[1]}: verify them apart"
                )
            block_B = blocks.assign(len(truth), window.times)
            forecasts = {key: forecast_of(each, window, to_units) for key, each in forecasters.items()}
            terms = terms_of(scores, forecasts, truth, _weight(window, area), seen)
            for (key, terms_key), terms_NBL in terms.items():
                blocks.add(key, terms_key, block_B, terms_NBL)
            (mse,) = (score for score in scores if score.name == "mse")
            selector.add(mse.value(terms[name, mse.terms_key or mse.name].sum(2)).tolist())
            seen += len(truth)
    if lengths is None or scores is None:
        raise DataError("verification needs at least one case; received none: check the data and its split")
    verification = Verification(
        model=name,
        cases=selector.count,
        past=lengths[0],
        steps=lengths[1],
        data=data,
        unit=unit,
        step_s=step_s,
        forecasters=tuple(forecasters),
        blocks=blocks.count,
        scores=score_tables(scores, blocks, tuple(forecasters)),
        spectra=spectra_of(scores, blocks, tuple(forecasters)),
    )
    return verification, selector.cases()


def scores_files(verification: Verification) -> tuple[bytes, bytes]:
    """Scores as JSON, and as CSV with a row per forecaster, score and lead time, empty where undefined."""
    text = json.dumps(verification.to_dict(), indent=2, allow_nan=False)
    # Lists of numbers, and of intervals, on one line: a number a line would be thousands of lines.
    for found in (r"\[[^][{}\"]*\]", r"\[\s+\[[^{}\"]*?\]\s+\](?=,?\n)"):
        text = re.sub(found, lambda part: " ".join(part[0].split()), text)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(ScoreRow._fields)
    writer.writerows([cell if cell == cell else "" for cell in row] for row in verification.rows())
    return (text + "\n").encode(), lines.getvalue().encode()


def read_scores(path: str | Path) -> Verification:
    """Read a file of scores, ``scores.json``.

    Raises:
        RunError: missing, unreadable, of a newer schema, or not as `scores_files` writes it.
    """
    path = check_path(path, "path of scores")
    with reading(path, "be a readable JSON file", "evaluate the run first", RunError):
        plain = json.loads(path.read_text(encoding="utf-8"))
    return Verification.from_dict(plain)


def _check(name: str, baselines: Baselines, scores: Sequence[Score]) -> None:
    check_instance(scores, Sequence, "scores", "pass a tuple of scores")
    names = [check_instance(score, Score, "a score").name for score in scores]
    if "mse" not in names or len(set(names)) < len(names):
        raise OptionError(
            f"scores must include mse and none twice; received {', '.join(names) or 'none'}: add MSE()"
        )
    for make in check_instance(baselines, Mapping, "baselines", "pass BASELINES or a part of it").values():
        check_callable(make, "a baseline", "pass its class")
    if not baselines:
        raise OptionError(
            "a verification needs at least one baseline; received none: leave baselines out for all"
        )
    if name in baselines:
        raise OptionError(f"the model needs a name of its own; received {name!r}, a baseline: choose another")


def _weight(window: LabelledWindow, area: Tensor | None) -> Tensor | None:
    """Weight of every pixel of the future, that expands to (B, L, C, H, W); None if it is 1 everywhere."""
    if area is None:
        return window.future_valid
    height = window.future.shape[-2]
    if check_tensor(area, "area").shape != (height,):
        raise ShapeError(
            f"area must have a number for each of the {height} rows; received {tuple(area.shape)}: give one "
            "for each row of the frames"
        )
    rows = area.to(window.future)[:, None]
    return rows if window.future_valid is None else rows * window.future_valid
