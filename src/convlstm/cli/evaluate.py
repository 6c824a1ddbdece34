"""``convlstm evaluate``."""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convlstm.atomic_write import Changes, check_writable, given_path, write_together
from convlstm.cli.train import check_channels, load, run_settings
from convlstm.data.base import Source, Window
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.hub import weights_digest
from convlstm.models.base import Forecaster
from convlstm.training.run_folder import RunFolder, check_free, run_of
from convlstm.trust import packages


def evaluate(
    model: Path,
    *,
    data: Source | None = None,
    data_range: float | None = None,
    batch_size: int = 16,
    out: Path | None = None,
    trust: str | Sequence[str] = (),
) -> Any:
    """Score a trained model beside the baselines on test windows.

    Prints tables by lead time and writes scores.json, scores.csv and cases.npz, the best, the median and the
    worst case.

    Args:
        model: a run folder or a model folder.
        data: whose test split is forecast; that of the run itself unless given. An option of it alone, such
            as --data.test_size, changes that option of the run's data.
        data_range: largest minus smallest value that the data can take; what the data say unless given.
            Without it there is no PSNR and no SSIM.
        batch_size: windows forecast at once.
        out: the folder that scores are written to, which must hold none yet; the run itself unless given,
            which keeps the scores of its own test windows: other data needs a folder.
        trust: names of your own packages, separated by commas, whose classes the run may load beside
            convlstm's.

    Returns:
        The `Verification`.
    """
    import torch

    from convlstm.functional.ssim import check_data_range
    from convlstm.training.loaders import evaluation_loader
    from convlstm.verification.verify import cases_file, scores_files, verify

    model = given_path("MODEL", model)
    run = run_of(model)
    forecaster = load_model(model, trust)
    if data is None and run is None:
        raise OptionError(f"a model folder needs data to be evaluated on; {model} is no run: add --data")
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1; received {batch_size}")
    own_data = data is None and run is not None
    source: Source = load(run, trust)["data"] if own_data else data  # type: ignore[assignment, arg-type]
    other = data is not None and run is not None and not _same(data, run, trust)
    folder = _place(run, model, out, other=other)
    check_channels(forecaster, source.channels, "give data with those of the model, by --data")
    data_range = source.data_range if data_range is None else check_data_range(data_range)
    changes = Changes()
    try:
        changes.folder(folder)
        check_writable(folder)
        forecaster = forecaster.to("cuda" if torch.cuda.is_available() else "cpu")
        dataset = source.split("test")
        batches = _watched(evaluation_loader(dataset, batch_size), len(dataset))
        name = spoken_name(forecaster)
        verification, cases = verify(
            forecaster, batches, name=name, data=source.describe(), data_range=data_range
        )
        weights = None if run is None else weights_digest(run.model)
        verification = replace(verification, weights=weights)
        files = {"cases.npz": cases_file(cases, dataset, forecaster, name=name)} | scores_files(verification)
        write_together({folder / name: content for name, content in files.items()})
    except BaseException:
        changes.undo()
        raise
    _show(verification)
    print(f"scores in {folder}/scores.json, scores.csv; cases in cases.npz")
    print(f"next: convlstm report {shlex.quote(str(folder))}")
    return verification


def _place(run: RunFolder | None, model: Path, out: Path | None, *, other: bool) -> Path:
    """The folder that scores go to.

    Args:
        run: that is evaluated, if it is one.
        model: as it was given.
        out: what was asked for.
        other: whether the data are others than the run's own.

    Raises:
        OptionError: a folder is needed.
        RunError: the folder holds scores or another run.
    """
    folder = None if out is None else given_path("--out", out)
    if run is not None and (folder is None or folder.resolve() == run.path.resolve()):
        if other:
            raise OptionError(
                f"a run keeps the scores of its own test windows; {run.path} is evaluated on others: add "
                "--out FOLDER"
            )
        return run.path
    if folder is None:
        raise OptionError(f"scores need a folder to go to; {model} is no run: add --out FOLDER")
    check_free(folder, "scores")
    return folder


def _same(data: Source, run: RunFolder, trust: str | Sequence[str]) -> bool:
    """True if a source is that of the run."""
    from convlstm.cli.configuration import described

    try:
        return described(data) == described(load(run, trust)["data"])
    except ConvLSTMError:  # it does not fit into a file, or that of the run is not here
        return False


def settings(arguments: list[str], options: dict[str, str | None]) -> dict[str, Any]:
    """What options of the data start from: the data of the run that is evaluated."""
    run = run_of(Path(arguments[0])) if arguments and arguments[0] else None
    return {} if run is None else {"data": run_settings(run, options.get("trust") or ())["data"]}


def load_model(path: Path, trust: str | Sequence[str] = ()) -> Forecaster:
    """The trained model of a run folder, or that of a model folder.

    Args:
        path: the folder.
        trust: packages whose classes may be loaded, as for `from_pretrained`.

    Raises:
        RunError: no such folder, no model in it, or a damaged one.
    """
    run = run_of(path)
    if run is not None:
        run.find_modules(packages(trust))
    if run is not None and not run.model.exists():
        raise RunError(
            f"a run must have finished, or been stopped by Ctrl-C, before its model is used; {run.path} "
            f"holds none yet: go on with convlstm train --resume {run.path}"
        )
    folder = str(path if run is None else run.model)
    model: Forecaster = Forecaster.from_pretrained(folder, trust=trust)
    return model.eval()


def spoken_name(model: Forecaster) -> str:
    """The name of a model in tables: its class, written as the baselines are."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(model).__name__).lower()


def _watched(batches: Any, cases: int) -> Iterator[Window]:
    """Batches, with a bar on the screen as they go by."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"evaluating {cases} cases", file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"evaluating {cases} cases", total=cases)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch.past))


def _show(verification: Any) -> None:
    from rich.console import Console

    console = Console()
    shown = [name for name in ("mse", "sharpness") if name in verification.scores]
    if console.is_terminal:
        console.print(verification.to_rich(*shown))
    else:
        print(verification.to_markdown(*shown))
