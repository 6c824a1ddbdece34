"""Scores of a trained model beside the baselines."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convlstm.atomic_write import Changes, check_writable, write_together
from convlstm.data.archive import Archive
from convlstm.data.base import Source, Window, WindowDataset
from convlstm.data.mixture import Mixture
from convlstm.data.specification import THRESHOLDS, Specification
from convlstm.errors import OptionError, RunError
from convlstm.functional.ssim import check_data_range
from convlstm.model_folder import weights_digest
from convlstm.models.base import Forecaster
from convlstm.scores.standard import field_scores
from convlstm.training.loaders import evaluation_loader
from convlstm.training.run_folder import RunFolder, check_free, import_path, run_of
from convlstm.trust import packages
from convlstm.validation import (
    check_callable,
    check_instance,
    check_number,
    check_path,
    check_positive,
    received,
)
from convlstm.verification.cases import cases_file
from convlstm.verification.results import Verification
from convlstm.verification.verify import scores_files, verify
from convlstm.workflows.baselines import baselines_of
from convlstm.workflows.configuration import plain_part
from convlstm.workflows.frames import as_source
from convlstm.workflows.parts import check_parts, load_parts, of_run, unbuilt
from convlstm.workflows.train import trusted_packages

_ROUNDING = 2.4e-7  # of the range of the data, by four operations in single precision in and out of a scale

#: Wraps the batches of an evaluation of so many cases, to show its progress.
Watch = Callable[[Iterable[Window], int], Iterable[Window]]


@import_path()
def evaluate(
    model: Forecaster | str | os.PathLike[str],
    *,
    data: Source | Any = None,
    thresholds: Sequence[float] | None = None,
    baselines: Sequence[str] = (),
    data_range: float | None = None,
    batch_size: int = 16,
    out: str | os.PathLike[str] | None = None,
    trust: str | Sequence[str] = (),
    watch: Watch | None = None,
) -> Verification:
    """Score a trained model beside the baselines on test windows.

    Writes scores.json, scores.csv and cases.npz, the best, the median and the worst case.

    Args:
        model: a run folder or a model folder; in Python also a forecaster, whose scores are written only if
            `out` is given.
        data: whose test split is forecast, a source or frames as for `train`; that of the run itself unless
            given. An option of it alone, such as --data.test_size, changes that option of the run's data.
            Labelled frames are read in the unit and scale of the model's training, where it has these.
        thresholds: least values of events, in the unit of the data, for categorical scores and the fractions
            skill score, such as [1,2.5,5]; those usual for the unit unless given.
        baselines: names of further ones, ``optical_flow`` and ``steps_mean``, which need pysteps and take
            long; those that suit the data are there in any case.
        data_range: largest minus smallest value that the data can take; what the data say unless given.
            Without it there is no PSNR and no SSIM.
        batch_size: windows forecast at once.
        out: the folder that scores are written to, which must hold none yet; the run itself unless given,
            which keeps the scores of its own test windows: other data needs a folder.
        trust: names of your own packages, separated by commas, whose classes the run may load beside
            convlstm's.
        watch: wraps the batches and is given the number of cases, to show progress.

    Returns:
        The `Verification`.
    """
    data = as_source(data)
    check_parts(data, None)
    check_parts(None, model if isinstance(model, Forecaster) else None)
    check_positive(batch_size, "batch_size")
    trust = trusted_packages(trust, model)
    if watch is not None:
        check_callable(watch, "watch", "pass a function of the batches and the number of cases")
    thresholds = check_thresholds(thresholds)
    check_instance(baselines, (list, tuple), "baselines", "give a list such as [optical_flow]")
    if data_range is not None:
        check_data_range(data_range)
    place = None if isinstance(model, Forecaster) else check_path(model, "MODEL")
    run = None if place is None else run_of(place)
    forecaster = model if isinstance(model, Forecaster) else load_model(model, trust)
    if data is None and run is None:
        raise OptionError(f"a model needs data to be evaluated on; {place or 'it'} is no run: add --data")
    other = data is not None and run is not None and not _is_own(data, run, trust)
    folder = _folder(run, place, out, other=other)
    source: Source = load_parts(run, trust, ["data"])["data"] if data is None and run is not None else data
    source = fitted(source, forecaster, own=data is None)
    check_parts(source, forecaster)
    made = baselines_of(source, baselines)
    changes = Changes()
    try:
        if folder is not None:
            changes.folder(folder)
            check_writable(folder)
        forecaster = forecaster.to("cuda" if torch.cuda.is_available() else "cpu")
        dataset = check_instance(
            source.split("test"), WindowDataset, "the test split of data", "derive it from that class"
        )
        batches: Iterable[Window] = evaluation_loader(dataset, batch_size)
        batches = batches if watch is None else watch(batches, len(dataset))
        to_units = None if source.specification is None else source.to_units
        both: dict[str, Any] = {"name": table_name(forecaster), "to_units": to_units, "baselines": made}
        options = _options(source, thresholds, data_range, dataset)
        verification, cases = verify(forecaster, batches, data=_data_line(source), **both, **options)
        verification = replace(verification, weights=weights_digest(run.model)) if run else verification
        if folder is not None:
            files = RunFolder(folder)
            scores, table = scores_files(verification)
            content = cases_file(cases, dataset, forecaster, **both, area=options.get("area"))
            write_together({files.cases: content, files.scores: scores, files.scores_table: table})
    except BaseException:
        changes.undo()
        raise
    return verification


def check_thresholds(thresholds: Sequence[float] | None) -> tuple[float, ...] | None:
    """Check thresholds, and return them rising; None for those usual for the unit.

    Raises:
        OptionError: no list of different numbers.
    """
    if thresholds is None:
        return None
    check_instance(thresholds, Sequence, "thresholds", "give a list such as [1,2.5,5]")
    found = sorted(check_number(value, "a threshold") for value in thresholds)
    if len(set(found)) < len(found):
        raise OptionError(
            f"thresholds must be different numbers; received {received(thresholds)}: leave out the double one"
        )
    return tuple(found)


def fitted(source: Source, model: Forecaster, *, own: bool = False) -> Source:
    """Labelled frames as a model was trained on, where its folder states it.

    See `Archive.with_specification`.
    """
    stored = getattr(model, "_convlstm_notes", {}).get("specification")
    if stored is None or not isinstance(source, Archive | Mixture):
        return source
    return source.with_specification(Specification.from_dict(stored), own=own)


def row_areas(grid: Mapping[str, Any]) -> Tensor | None:
    """Area of pixels of each row of a geographic grid relative to the mean, (H,); None for other grids."""
    if "latitude" not in grid:
        return None
    latitude = torch.tensor(grid["latitude"], dtype=torch.float64)
    if len(latitude) > 2:  # rows that are not evenly apart: between the middles to their neighbours
        middles = (latitude[1:] + latitude[:-1]) / 2
        ends = 1.5 * latitude[[0, -1]] - 0.5 * latitude[[1, -2]]
        edges = torch.cat([ends[:1], middles, ends[1:]]).clamp(-90, 90)
        area = torch.sin(torch.deg2rad(edges)).diff().abs()
    else:
        first, last = grid["latitude"]
        latitude = torch.linspace(first, last, grid["shape"][0], dtype=torch.float64)
        area = torch.cos(torch.deg2rad(latitude)).clamp(min=0)  # a row at a pole is a point
    return area / area.mean()


def _options(
    source: Source,
    thresholds: tuple[float, ...] | None,
    data_range: float | None,
    dataset: WindowDataset,
) -> dict[str, Any]:
    """Options of `verify` for a source: scores of fields if it has a unit or thresholds are given."""
    options: dict[str, Any] = {"data_range": source.data_range if data_range is None else data_range}
    unit = ""
    if source.specification is not None:
        unit = source.specification.units
        options |= {"unit": unit, "area": row_areas(source.specification.grid)}
        options["step_s"] = source.specification.known_step_s
        _check_not_dry(thresholds or (), source.specification)
    if unit in ("", "1") and thresholds is None:
        return options
    size = tuple(dataset[0].future.shape[-2:]) if len(dataset) else None
    thresholds = THRESHOLDS.get(unit, ()) if thresholds is None else thresholds
    rounding = _ROUNDING * (options["data_range"] or 0.0)
    return options | {"scores": field_scores(unit, thresholds, size, rounding=rounding)}


def _data_line(source: Source) -> str:
    """Description of the data, with the values that truth and forecasts take for dry where these are many."""
    specification = source.specification
    least = None if specification is None else getattr(specification.built_transform(), "least", None)
    if specification is None or least is None:
        return source.describe()
    return (
        f"{source.describe()}; all below {least:g} {specification.units} counts as dry, "
        f"{specification.dry_value:g}, in truth and forecasts alike"
    )


def _check_not_dry(thresholds: Sequence[float], specification: Specification) -> None:
    """Refuse thresholds among the values that truth and forecasts take for dry."""
    least = getattr(specification.built_transform(), "least", None)
    low = [] if least is None else [value for value in thresholds if value < least]
    if low:
        raise OptionError(
            f"thresholds must be at least {least:g} {specification.units}, as all below counts as dry; "
            f"received {', '.join(f'{value:g}' for value in low)}: raise them"
        )


def _folder(
    run: RunFolder | None, model: Path | None, out: str | os.PathLike[str] | None, *, other: bool
) -> Path | None:
    """The folder that scores go to, that of the run unless another is given; ``other`` data need another."""
    folder = None if out is None else check_path(out, "--out")
    if run is not None and (folder is None or folder.resolve() == run.path.resolve()):
        if other:
            raise OptionError(
                f"a run keeps the scores of its own test windows; {run.path} is evaluated on others: add "
                "--out FOLDER"
            )
        return run.path
    if folder is not None:
        check_free(folder, "scores")
    elif model is not None:
        raise OptionError(f"scores need a folder to go to; {model} is no run: add --out FOLDER")
    return folder


def _is_own(data: Source, run: RunFolder, trust: str | Sequence[str]) -> bool:
    """True if a source is that of the run."""
    own = plain_part(unbuilt(of_run(run, trust, ())).data)
    try:
        return plain_part(data) == own
    except RunError:  # it does not fit into a file, as that of a run does
        return False


def load_model(path: str | os.PathLike[str], trust: str | Sequence[str] = ()) -> Forecaster:
    """The trained model of a run folder, or that of a model folder, in evaluation mode.

    Args:
        path: the folder.
        trust: packages whose classes may be loaded, as for `from_pretrained`.

    Raises:
        RunError: no such folder, no model in it, or a damaged one.
    """
    run = run_of(Path(path))
    if run is not None:
        run.find_modules(packages(trust))
    if run is not None and not run.model.exists():
        raise RunError(
            f"a run must have finished, or been stopped by Ctrl-C, before its model is used; {run.path} "
            f"holds none yet: go on with convlstm train --resume {run.path}"
        )
    folder = os.fspath(path) if run is None else str(run.model)
    model: Forecaster = Forecaster.from_pretrained(folder, trust=trust)
    return model


def table_name(model: Forecaster) -> str:
    """The name of a model in tables: its class, written as the baselines are."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(model).__name__).lower()
