"""The description of files: what is in them, and what to type next."""

import glob
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.discovery import Read, discover
from convlstm.data.frame_store import seconds
from convlstm.data.opening import main_variables, missing_codes, open_frames
from convlstm.data.readers import READERS
from convlstm.data.readers.accumulations import MONTH_S
from convlstm.data.specification import THRESHOLDS
from convlstm.data.specify import grid_of, is_rain
from convlstm.data.statistics import Statistics, sample, statistics
from convlstm.data.units import ZR, conversion, times_text, unit_named
from convlstm.data.windows import time_step
from convlstm.errors import ConvLSTMError, DataError, OptionError
from convlstm.extras import load_pyproj
from convlstm.training.config import TrainingConfig
from convlstm.validation import check_bool, received
from convlstm.workflows.frames import own_options
from convlstm.workflows.periods import LENGTHS, Times, TrainingWindows, plan_windows, times_of

if TYPE_CHECKING:
    import xarray as xr

_READ = 24  # frames that statistics come from
_CROP = 128


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable of the files.

    Attributes:
        name: as ``--data.variable`` takes it.
        title: long name, where the files have one.
        units: as found; empty without.
        unit: name used here of that unit.
        dtype: of the values in the files, where known.
        cell_methods: such as ``time: sum``.
        covers: least and most seconds that an amount covers, where the files state them.
        channels: number of channels.
        statistics: of its values.
    """

    name: str
    title: str
    units: str
    unit: str
    dtype: str
    cell_methods: str
    covers: tuple[float, float] | None
    channels: int
    statistics: Statistics

    @property
    def covers_one_time(self) -> bool:
        """True for amounts of one time, by which they become rates; months and years differ."""
        return self.covers is None or (self.covers[0] == self.covers[1] < MONTH_S)


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of files.

    Attributes:
        reader: name of the reader.
        format: the format in words.
        files: number of files read.
        variables: those asked for, or those that change with time and accompany no other.
        others: names of other fields in the files.
        grid: ``shape`` [H, W], and where known ``spacing`` [rows, columns], ``units``, ``crs`` and
            ``region``, [south, north, west, east] in degrees.
        times: of the frames.
        sampled: number of frames that the statistics come from.
        plan: windows and splits for training.
        notes: sentences on what to mind.
        train: words of a command that trains on these files; empty if there are too few frames.
    """

    reader: str
    format: str
    files: int
    variables: tuple[Variable, ...]
    others: tuple[str, ...]
    grid: dict[str, Any]
    times: Times
    sampled: int
    plan: TrainingWindows
    notes: tuple[str, ...]
    train: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command that trains on these files, for a shell."""
        return shlex.join(self.train)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON holds."""
        return asdict(self) | {"command": self.command}


@own_options("reader", "variable", "missing", "skip_bad")
def describe(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    reader: str | None = None,
    variable: str | Sequence[str] | None = None,
    missing: float | Sequence[float] = (),
    skip_bad: bool = False,
) -> Description:
    """Describe files of frames: variables, grid, times, gaps, values, and what to type next.

    Labels are those of all files; statistics of values come from at most 24 frames spread over them.

    Args:
        path: files, folders or patterns, one or several.
        reader: name of the reader, or a dotted path of a function of your own; found by content if None.
        variable: name of a variable, or of several; all if None.
        missing: codes that stand for not measured, beside those that the format has.
        skip_bad: leave damaged files out.

    Returns:
        The `Description`.

    Raises:
        DataError: no such files, files of several kinds, or frames that do not fit each other.
    """
    paths: list[Any] = list(path) if isinstance(path, list | tuple) else [path]
    check_bool(skip_bad, "skip_bad")
    if variable is not None:
        named = [variable] if isinstance(variable, str) else variable
        if not isinstance(named, list | tuple) or not named or not all(isinstance(n, str) for n in named):
            raise OptionError(
                f"variable must be a name or a list of names; received {received(variable)}: leave it out "
                "for all"
            )
    try:
        files, found, read = discover(paths, reader)
        whole = _first(files, read, skip_bad)
        names = [variable] if isinstance(variable, str) else list(variable or main_variables(whole))
        chosen = names if len(names) > 1 else variable
        frames = open_frames(paths, reader=reader, variable=chosen, missing=missing, skip_bad=skip_bad)
    except DataError as error:
        _refuse_several_kinds(paths, error)
        raise
    times = seconds(frames["time"])
    values, pairs = sample(frames, times, max(4, _READ // len(names)))
    variables = _variables(frames, whole, names, values, pairs)
    region = _region(frames)
    beside = _kinds(paths, files)
    unread = [f"files of other readers are not read: {_listed_kinds(beside)}"] if beside else []
    plan = plan_windows(times, frames["time"].dtype.kind == "M")
    return Description(
        reader=found,
        format=next((each.title for each in READERS if each.name == found), "own reader"),
        files=frames.attrs["files"],
        variables=variables,
        others=tuple(str(name) for name in whole.data_vars if name not in names),
        grid=grid_of(frames) | ({} if region is None else {"region": region}),
        times=times_of(times, frames["time"].dtype.kind == "M"),
        sampled=len(values),
        plan=plan,
        notes=(*_notes(variables, frames), *unread, *plan.notes),
        train=_train_words(paths, reader, variables, variable, missing, skip_bad, frames, plan),
    )


def _first(files: list[Path], read: Read, skip_bad: bool) -> "xr.Dataset":
    """Labels of the first file that is whole."""
    for file in files[:-1] if skip_bad else ():
        try:
            return read(file)
        except DataError:
            continue
    return read(files[-1] if skip_bad else files[0])


def _refuse_several_kinds(paths: Sequence[Any], error: DataError) -> None:
    """Raise what kinds of files there are, if folders hold several."""
    if any("-ubyte" in file.name for path in paths for file in (Path(path), *Path(path).glob("*"))):
        raise DataError(
            f"frames must follow each other in time; {paths[0]} holds MNIST's images, of which sequences are "
            f"made: convlstm train --data.images {paths[0]}"
        ) from error
    kinds = _kinds(paths)
    if len(kinds) > 1:
        raise DataError(
            f"files must be of one kind; {' '.join(map(str, paths))} holds {_listed_kinds(kinds)}: give one "
            "of these folders, or the files of one kind, such as 'folder/*.h5'"
        ) from error


def _kinds(paths: Sequence[Any], apart_from: Sequence[Path] = ()) -> dict[str, list[Path]]:
    """Folders, by the name of the reader, that hold frames; some files apart.

    Of the files with one ending in a folder, one is looked at.
    """
    kinds: dict[str, list[Path]] = {}
    known, accompanying = {*apart_from}, [pattern for each in READERS for pattern in each.beside]
    for folder in paths:
        for place, names, files in os.walk(folder):
            names[:] = [name for name in names if name[0] != "." and Path(name).suffix != ".zarr"]
            found = [Path(place, name) for name in files if name[0] != "." and Path(place, name) not in known]
            found = [file for file in found if not any(map(file.match, accompanying))]
            for file in {each.suffix: each for each in found}.values():
                with suppress(ConvLSTMError):
                    kinds.setdefault(discover(file)[1], []).append(file.parent)
    return kinds


def _listed_kinds(kinds: dict[str, list[Path]]) -> str:
    """Readers and folders in words."""
    folders = {kind: sorted({*found}) for kind, found in kinds.items()}
    return "; ".join(
        f"{kind} in {found[0]}{f' and {len(found) - 1} more' * (len(found) > 1)}"
        for kind, found in folders.items()
    )


def _variables(
    frames: "xr.DataArray",
    whole: "xr.Dataset",
    names: list[str],
    values: NDArray[np.float32],
    pairs: NDArray[np.int64],
) -> tuple[Variable, ...]:
    found: list[Variable] = []
    start, step_s = 0, time_step(seconds(frames["time"]))
    for name in names:
        attributes = whole[name].attrs
        channels = whole[name].sizes.get("channel", 1)
        own = slice(start, start + channels)
        start += channels
        stated = attributes if len(names) > 1 else frames.attrs  # those of all files
        sums = "sum" in str(attributes.get("cell_methods", ""))
        covers = [step_s] * 2 if sums and step_s >= MONTH_S else ()  # months, whose files state no time
        covers = stated.get("periods_s", [stated["period_s"]] * 2 if "period_s" in stated else covers)
        units = attributes.get("units", "") if len(names) > 1 else frames.attrs.get("units", "")
        rain = is_rain(frames[:, own].assign_attrs(attributes), unit_named(units))
        dry, shown = attributes.get("dry_value", 0.0 if rain else None), values[:, own]
        if unit_named(units) == "dBZ" and np.isneginf(shown).any():  # no echo
            shown, dry = conversion("dBZ", "dBZ")(shown), ZR().dry_dbz if dry is None else dry
        found.append(
            Variable(
                name=name,
                title=str(attributes.get("long_name", "")),
                units=units,
                unit=unit_named(units),
                dtype=str(attributes.get("dtype", "")),
                cell_methods=str(attributes.get("cell_methods", "")),
                covers=(float(covers[0]), float(covers[1])) if len(covers) else None,
                channels=channels,
                statistics=statistics(
                    shown,
                    pairs,
                    dry_value=dry,
                    log_scale=rain,
                    thresholds=THRESHOLDS.get(unit_named(units), ()),
                    find_codes=channels == 1 or "red" not in frames["channel"].values,
                ),
            )
        )
    return tuple(found)


def _region(frames: "xr.DataArray") -> list[float] | None:
    """South, north, west and east of the centres of the pixels; None if it is not known."""
    if "lat" in frames.coords and "lon" in frames.coords:
        lat, lon = frames["lat"].values, frames["lon"].values
    else:
        y, x = frames["y"], frames["x"]
        if y.attrs.get("units", "").startswith("degree"):
            lat, lon = y.values, x.values
        elif "crs" in frames.coords and y.attrs.get("units") in ("m", "km"):
            scale = 1000 if y.attrs["units"] == "km" else 1
            rows, columns = np.meshgrid(y.values * scale, x.values * scale, indexing="ij")
            border = np.ones(rows.shape, bool)
            border[1:-1, 1:-1] = False
            load_pyproj()
            from pyproj import CRS, Transformer
            from pyproj.exceptions import ProjError

            try:
                crs = CRS.from_cf(frames["crs"].attrs)
                to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
                lon, lat = to_degrees.transform(columns[border], rows[border])
            except ProjError:
                return None
        else:
            return None
    ends = [float(f(each)) for each in (lat, lon) for f in (np.nanmin, np.nanmax)]
    return ends if np.isfinite(ends).all() else None


def _notes(variables: tuple[Variable, ...], frames: "xr.DataArray") -> list[str]:
    notes: list[str] = []
    if frames.attrs["skipped"]:
        notes.append(f"damaged files left out: {frames.attrs['skipped']}")
    for each in variables:
        found = each.statistics
        if found.low is None:
            notes.append(f"{each.name} is measured in none of the frames read")
        if found.codes:
            codes = " and ".join(f"{code.value:.7g}" for code in found.codes)
            notes.append(f"{codes} of {each.name} may stand for not measured: see --data.missing")
        if not each.units and "valid_range" not in frames.attrs:
            notes.append(f"{each.name}: no unit; declare it, as by --data.units mm/h")
        if each.unit == "mm" and "sum" in each.cell_methods:
            time = "each time step" if each.covers is None else times_text(each.covers)
            if each.covers_one_time:
                notes.append(f"{each.name} is an amount of {time}: --data.units mm/h makes it a rate")
            else:
                months = "of months or years, which differ" if time.count(" ") == 1 else ""
                notes.append(f"{each.name} are amounts {months or f'of different times, {time}'}")
    return notes


def _train_words(
    paths: list[Any],
    reader: str | None,
    variables: tuple[Variable, ...],
    variable: str | Sequence[str] | None,
    missing: float | Sequence[float],
    skip_bad: bool,
    frames: "xr.DataArray",
    plan: TrainingWindows,
) -> tuple[str, ...]:
    """Words of the command that trains on these files."""
    if not plan.splits:
        return ()
    rainy = [each for each in variables if each.statistics.dry_value is not None]
    chosen = variables if variable is not None else (rainy or list(variables))[:1]
    codes = list(missing_codes(missing))
    codes += [code.value for each in chosen for code in each.statistics.codes]
    options: dict[str, Any] = {"reader": reader}
    if len(variables) > 1 or variable is not None:
        options["variable"] = _listed([each.name for each in chosen])
    options["missing"] = _listed([f"{np.float32(code):.9g}" for code in dict.fromkeys(codes)])
    amounts = all(each.unit == "mm" and "sum" in each.cell_methods for each in chosen)
    if amounts and all(each.covers_one_time for each in chosen):
        options["units"] = "mm/h"  # which has thresholds and colours
    options["skip_bad"] = "true" if skip_bad else None
    height, width = frames.shape[-2:]
    if height * width > 2 * _CROP**2:
        crop = min(height, _CROP), min(width, _CROP)
        options["crop"] = _listed([str(size) for size in dict.fromkeys(crop)])
    if (plan.past, plan.steps) != LENGTHS[0]:
        options |= {"past": plan.past, "steps": plan.steps}
    options["split"] = None if plan.split == "time" else plan.split
    options["gaps"] = "mask" if plan.masked else None
    words = ["convlstm", "train", "--data", *_short(paths)]
    words += [word for name, value in options.items() if value for word in (f"--data.{name}", str(value))]
    if (most := plan.splits["train"].windows) < int(TrainingConfig().batch_size):
        words += ["--batch_size", str(most)]
    return (*words, "--out", f"runs/{_run_name(Path(paths[0]))}")


def _run_name(path: Path) -> str:
    """Name for a run on a folder, on a file, without its ending, or on a pattern, by its folder."""
    last = next((each for each in (path, *path.parents) if not glob.has_magic(each.name)), path)
    name = last.name if last.is_dir() else last.name.partition(".")[0]
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "frames"


def _listed(items: Sequence[str]) -> str:
    return "" if not items else items[0] if len(items) == 1 else f"[{','.join(items)}]"


def _short(paths: list[Any]) -> list[str]:
    """Paths, or the pattern that all of them and nothing else match."""
    names = [os.fspath(path) for path in paths]
    if len(names) > 1:
        # Character by character is what is wanted.
        start, end = (os.path.commonprefix(each) for each in (names, [name[::-1] for name in names]))  # noqa: RUF071
        pattern = f"{glob.escape(start)}*{glob.escape(end[::-1])}"
        if sorted(glob.glob(pattern)) == sorted(names):
            return [pattern]
    return names
