"""Windows of labelled frames: radar, weather, sea surface or video, from files or from memory."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convlstm.data.archive_windows import ArchiveWindows
from convlstm.data.base import SPLITS, Source, Split, WindowDataset
from convlstm.data.climatology import packed
from convlstm.data.extra_inputs import INPUTS, standardised, static_fields
from convlstm.data.frame_store import FrameStore, seconds
from convlstm.data.opening import missing_codes, open_frames, without_codes
from convlstm.data.sampling import CropSampler, cells_of, interest_of_crops
from convlstm.data.specification import GAPS, Specification, interval_text, known_step, same_grid, unit_text
from convlstm.data.specify import TRANSFORMS, check_fits, grid_of, specify, static_inputs, variables
from convlstm.data.units import AMOUNTS, ZR, check_covered, conversion, unit_named
from convlstm.data.windows import split_frames, stored_splits, time_step, window_frames
from convlstm.errors import DataError, OptionError, check_name
from convlstm.validation import (
    check_bool,
    check_integers,
    check_path,
    check_positive,
    check_probability,
    check_seed,
    is_integer,
    received,
)

_SCANNED = 2000  # frames that importance sampling looks at, at most
_log = logging.getLogger("convlstm")


class Archive(Source):
    """Source of windows from labelled frames in files or in memory.

    Opening reads labels alone. Scale, data range and the like are decided from at most 256 frames of the
    training split, once they are needed, and stand in `specification`.

    Args:
        path: a file, a folder, a glob or a list of these; from Python also an array (T, H, W) or
            (T, C, H, W), or an `xarray.DataArray`.
        variable: name of the variable; several become channels.
        reader: name of the reader, or a function of your own or its dotted path; found by content if None.
        units: the unit wanted: declared where the files have none, otherwise converted to where that is
            exact; that of the files if None.
        missing: codes that stand for not measured, beside those that the format has.
        transform: scale of the network: ``range`` ([0, 1]), ``standard`` (standard score), ``log`` and
            ``sqrt`` (rain), ``anomaly`` (to the climatology of the day of the year), ``none``; ``auto``
            takes the one that is usual for the unit.
        past: K, frames of the past.
        steps: L, frames to forecast.
        crop: height and width of the random crops of training, one number for both; whole frames if None.
        split: ``time``, ``event``, or a mapping of train, validation and test to periods; see
            `convlstm.data.windows.split_frames`.
        stride: frames from the start of a window to that of the next one; sequences begin anew after a gap.
        gaps: ``refuse`` leaves out windows with missing frames, ``mask`` takes these frames as not measured;
            None does as the training of the model did, and leaves windows out in training.
        importance: 0 to 1, how far crops are drawn where it is wet (or moving); the loss weighs them back.
        inputs: extra input channels: ``mask`` (measured pixels), ``hour``, ``season``.
        static: file of fields that do not change, such as a land mask; each is an extra input channel. The
            model folder stores them.
        zr: a, b and the dry reflectivity (dBZ) of the relation between reflectivity and rain rate.
        flip: turn crops of training upside down, and left to right, at random: more directions of motion.
        train_size: crops of an epoch; as many as there are windows if None.
        skip_bad: leave damaged files out, count them and take their frames as missing.
        seed: of the random crops.

    Raises:
        DataError: no such files, frames that do not fit each other, units that do not convert.
        OptionError: an option that is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Any,
        variable: str | Sequence[str] | None = None,
        *,
        reader: str | Callable[[Path], Any] | None = None,
        units: str | None = None,
        missing: float | Sequence[float] = (),
        transform: str = "auto",
        past: int = 12,
        steps: int = 12,
        crop: int | Sequence[int] | None = None,
        split: str | Mapping[str, Any] = "time",
        stride: int = 1,
        gaps: str | None = None,
        importance: float = 0.0,
        inputs: Sequence[str] = (),
        static: str | None = None,
        zr: Sequence[float] = (200.0, 1.6, -32.0),
        flip: bool = False,
        train_size: int | None = None,
        skip_bad: bool = False,
        seed: int = 0,
    ) -> None:
        self.past, self.steps = check_positive(past, "past"), check_positive(steps, "steps")
        self.transform_name = check_name(transform, TRANSFORMS, "transform")
        self.gaps = None if gaps is None else check_name(gaps, GAPS, "gaps")
        self.masked = self.gaps == "mask"
        self.stride = check_positive(stride, "stride")
        self.flip, skip_bad = check_bool(flip, "flip"), check_bool(skip_bad, "skip_bad")
        self.importance, self.seed = check_probability(importance, "importance"), check_seed(seed)
        self.train_size = None if train_size is None else check_positive(train_size, "train_size")
        self.split_by, self.relation = split, _relation(zr)
        self.inputs = tuple(check_name(name, INPUTS, "an input") for name in inputs)
        self.missing = missing_codes(missing)
        self.frames = open_frames(
            path, reader=reader, variable=variable, missing=self.missing, units=units, skip_bad=skip_bad
        )
        self.name = path if isinstance(path, str) else Path(path).name if isinstance(path, Path) else "frames"
        self.times = seconds(self.frames["time"])
        self.step_s = time_step(self.times)
        self.channels = self.frames.shape[1]
        found = self.frames.attrs.get("units", "")
        self.units = unit_named(found if units is None else units)
        self.converts = unit_named(found) != self.units
        self._convert = self._conversion(self.units, self.period_s, self.relation)
        self.store = FrameStore(self.frames, self._convert)
        self.crop = None if crop is None else self._checked_crop(crop)
        self._fields = self._static_fields(static)
        self.static = standardised(self._fields, self._fields)
        self.extra_channels = sum(INPUTS[name] for name in self.inputs) + len(self.static)
        dates = self.frames.coords.get("event", self.frames["time"])
        if isinstance(split, Mapping) and dates.dtype.kind == "m":
            raise DataError(
                f"periods need frames with dates; those of {self.name} have none: give --data.split event"
            )
        self._check_dates(self.inputs, transform)
        self._members = split_frames(self.times, split, past + steps, steps, seconds(dates))

    @cached_property
    def specification(self) -> Specification:  # type: ignore[override]
        """The specification, decided from the training split unless `with_specification` gave it.

        Raises:
            DataError: nothing measured in a split, negative rain, or too little for the transform.
            OptionError: the square root of a logarithm.
        """
        if (self.transform_name, self.units) == ("sqrt", "dBZ"):
            raise OptionError(
                "transform sqrt is for rates and amounts; received values in dBZ, a logarithm already: leave "
                "it out, or convert to rates by --data.units mm/h"
            )
        windows = {name: self.window_frames(name) for name in SPLITS if self.has(name)}
        stated = {  # in the unit of the files
            name: self._convert(np.asarray(self.frames.attrs[name], np.float32)).tolist()
            for name in ("dry_value", "valid_range")
            if name in self.frames.attrs
        }
        made = specify(
            self.frames.assign_attrs(stated),
            self.store,
            self.times,
            windows,
            step_s=self.step_s,
            units=self.units,
            transform=self.transform_name,
            past=self.past,
            missing=self.missing,
            inputs=(*self.inputs, *("static",) * len(self.static)),
            relation=self.relation if self.converts else None,
        )
        made = replace(made, gaps="mask" if self.masked else "refuse")
        return replace(made, static=packed(self._fields)) if len(self._fields) else made

    @property
    def period_s(self) -> float | None:
        """Seconds that an amount covers, those between frames unless files state it; None if unknown."""
        step_s = known_step(self.step_s, dated=self.frames["time"].dtype.kind == "M")
        period_s: float | None = self.frames.attrs.get("period_s", step_s)
        return period_s

    def with_specification(self, specification: Specification, *, own: bool = False) -> "Archive":
        """The same frames in the unit and scale and with the extra inputs and splits of a model's training.

        Splits by ``time`` or ``event`` of frames on the grid of the training and partly of its times stay
        as they were when frames come or go, with a message: no frame of the training is tested on.

        Args:
            specification: of the data that the model was trained on.
            own: the frames are those of the training, so that times without dates are its times too.

        Raises:
            DataError: frames on another grid, of other channels, another time step, or a unit that does not
                convert.
            OptionError: static fields that the model reads and does not store.
        """
        alike = specification.on(grid_of(self.frames))
        if len(alike) > 1:  # of a mixture with several archives on one grid that of the same times
            alike.sort(key=lambda one: not stored_splits(self.times, one.splits)["train"].any())
        specification = alike[0]
        check_fits(self.frames, self.step_s, specification)
        self._check_dates(specification.inputs, specification.transform["kind"])
        other = copy(self)
        other.masked = (self.gaps or specification.gaps) == "mask"
        other.frames = without_codes(self.frames, specification.missing)
        found, relation = self.frames.attrs.get("units", ""), specification.relation() or self.relation
        covered_s = self.period_s if unit_named(found) in AMOUNTS else specification.covered_s
        convert = self._conversion(specification.units, covered_s, relation)
        other.units, other.store = specification.units, FrameStore(other.frames, convert)
        given = self._fields if len(self._fields) else None
        static = static_inputs(specification, given, self.store.shape[1:], "--data.static")
        other.static = self._fields if static is None else static
        named = [INPUTS[name] for name in specification.inputs if name in INPUTS]
        other.extra_channels = sum(named) + len(other.static)
        if own or specification.dated:
            other._members = self._splits_of(specification)
        other.__dict__["specification"] = replace(
            specification,
            past=self.past,
            steps=self.steps,
            grid=grid_of(self.frames),
            gaps="mask" if other.masked else "refuse",
        )
        return other

    def _check_dates(self, inputs: Sequence[str], transform: str) -> None:
        """Refuse what depends on the hour or the season where frames have no dates."""
        found = [name for name in inputs if name in ("hour", "season")]
        found += ["climatology"] if transform == "anomaly" else []
        if found and self.frames["time"].dtype.kind == "m":
            raise DataError(
                f"the {found[0]} needs frames with dates; those of {self.name} have none: give them "
                "dates, or leave it out"
            )

    def _conversion(self, units: str, covered_s: float | None, relation: ZR) -> Callable[..., Any]:
        """The conversion of the values of the files to a unit."""
        check_covered(self.frames.attrs, units, covered_s)
        return conversion(self.frames.attrs.get("units", ""), units, step_s=covered_s, zr=relation)

    def _splits_of(self, specification: Specification) -> dict[Split, NDArray[np.bool_]]:
        """The frames of each split as in training, where these are the frames of the training."""
        splits, alike = specification.splits, same_grid(grid_of(self.frames), specification.grid)
        by_time = isinstance(self.split_by, str) and "event" not in self.frames.coords
        if not (by_time and alike and splits.keys() == {*SPLITS}):
            return self._members
        members = stored_splits(self.times, splits)
        if not members["train"].any():
            return self._members
        if any((members[name] & ~self._members[name]).any() for name in SPLITS):
            ends = "; ".join("{} {} to {}".format(name, *splits[name][2:]) for name in SPLITS)
            _log.warning("frames or splits have changed since the training, whose splits stay: %s", ends)
        return members

    def split(self, name: Split, *, crop: bool = False) -> WindowDataset:
        """Windows of one split: random crops for training if a size is given, otherwise whole frames.

        Args:
            name: of the split.
            crop: cut the frames of validation and test too, in their middle.

        Raises:
            OptionError: no such split.
            DataError: too few consecutive frames for a window.
        """
        check_name(name, SPLITS, "split")
        frames_WT = self.window_frames(name)
        random = name == "train" and self.crop is not None
        return ArchiveWindows(
            self.store,
            self.times,
            frames_WT,
            self.specification,
            self.static,
            sampler=self._sampler(frames_WT) if random else None,
            crop=self.crop if random or crop else None,
            size=self.train_size if random else None,
            flip=self.flip,
            seed=self.seed,
        )

    def has(self, name: Split) -> bool:
        """True if a split has frames."""
        return bool(self._members[name].any())

    def window_frames(self, name: Split) -> NDArray[np.int64]:
        """Indices (W, K + L) of the frames of every window of a split."""
        inside = np.flatnonzero(self._members[name])
        length, of_split = self.past + self.steps, partial(window_frames, step=self.step_s)
        found = of_split(self.times[inside], length, masked=self.masked, stride=self.stride)
        if not len(found):
            masks = len(of_split(self.times[inside], length, masked=True))
            raise DataError(
                f"every split needs {length} consecutive frames, past + steps; {name} has {len(inside)} "
                "frames, but not so many in a row: lower past or steps, or change split"
                + ", or use --data.gaps mask"
                * bool(masks)
            )
        return np.where(found >= 0, inside[found], found)

    def describe(self) -> str:
        """Description of the data in one line."""
        channels, height, width = self.store.shape
        return (
            f"{_from_here(self.name)}: {len(self.times)} frames of {', '.join(variables(self.frames))}, "
            f"{channels} x {height} x {width}, in {unit_text(self.units)}, {self.past} frames to "
            f"{self.steps}, one every {interval_text(self.step_s)}"
        )

    def _checked_crop(self, crop: int | Sequence[int]) -> tuple[int, int]:
        height, width = check_integers((crop, crop) if is_integer(crop) else crop, 2, "crop")
        _, rows, columns = self.store.shape
        if height > rows or width > columns:
            raise OptionError(
                f"crop must fit in the frames, {rows} x {columns}; received {height} x {width}: lower it"
            )
        if self.transform_name == "anomaly":
            raise OptionError(
                "anomalies belong to places, so that no crops can be taken; received crop and anomaly: leave "
                "one out"
            )
        return height, width

    def _sampler(self, frames_WT: NDArray[np.int64]) -> CropSampler:
        """Sampler of crops by how wet they are, or how much changes where no value means dry."""
        height, width = self.crop or self.store.shape[1:]
        _, rows, columns = self.store.shape
        places = rows - height + 1, columns - width + 1
        cells = cells_of(places[0], height), cells_of(places[1], width)
        if not self.importance:
            return CropSampler(np.ones((len(frames_WT), *cells)), places, 0)
        used = np.unique(frames_WT[frames_WT >= 0])
        looked = used[:: max(1, len(used) // _SCANNED)]
        maps = np.zeros((len(looked), *cells))
        transform, before = self.specification.built_transform(), None
        for place, index in enumerate(looked):
            (frame,) = self.store.read([int(index)])
            values = transform.forward(torch.from_numpy(frame)).nan_to_num(0).numpy()
            if transform.dry is not None:
                pixels = (values > 0).mean(0)
            else:
                pixels = np.zeros(values.shape[1:]) if before is None else np.abs(values - before).mean(0)
            before = values
            maps[place] = interest_of_crops(pixels.astype(np.float32), (height, width), cells)
        nearest = np.clip(np.searchsorted(looked, frames_WT), 0, len(looked) - 1)
        interest = np.where((frames_WT >= 0)[..., None, None], maps[nearest], 0).mean(1)
        return CropSampler(interest, places, self.importance)

    def _static_fields(self, path: str | None) -> NDArray[np.float32]:
        height, width = self.store.shape[1:]
        if path is None:
            return np.empty((0, height, width), np.float32)
        fields = static_fields(check_path(path, "static"), self.frames)
        if fields.shape[1:] != (height, width):
            raise DataError(
                f"static fields must have the grid of the frames, {height} x {width}; {path} has "
                f"{fields.shape[1]} x {fields.shape[2]}: bring them to it"
            )
        return fields


def _relation(zr: Any) -> ZR:
    if not isinstance(zr, list | tuple) or len(zr) > 3:
        raise OptionError(
            "zr must be a, b and the dry reflectivity of a relation between reflectivity and rain rate; "
            f"received {received(zr)}: give (200, 1.6, -32), say"
        )
    return ZR(*zr)


def _from_here(name: str) -> str:
    """A path as it is typed in the current folder, if it lies there: runs keep whole paths."""
    inside = os.path.isabs(name) and Path(name).is_relative_to(Path.cwd())
    return os.path.relpath(name) if inside else name
