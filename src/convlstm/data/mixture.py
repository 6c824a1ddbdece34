"""Windows of several archives whose frames differ in size, place or format, as one source."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from convlstm.data.archive import Archive
from convlstm.data.base import LabelledWindow, Source, Split, Window, WindowDataset, check_index
from convlstm.data.specification import Specification
from convlstm.errors import DataError, OptionError
from convlstm.validation import check_instance, check_positive, check_seed

_ALIKE = ("units", "transform", "dry_value", "step_s", "inputs", "covered_s")


class Mixture(Source):
    """Source that draws crops of one size from several archives, such as the radars of several countries.

    An epoch draws from each archive in proportion to its windows; one whose ``split`` has periods of train
    alone has no part in validation and test. Windows of validation and test are crops in the middle of the
    frames; whole frames of one archive are verified by giving that archive alone.

    Args:
        archives: arguments of each `Archive`; those of all stand in ``common``.
        common: arguments of every archive, ``crop`` among them.
        train_size: crops of an epoch; as many as there are windows if None.
        seed: of the choice of archive and of the crops.

    Raises:
        OptionError: no archive, or no crop.
        DataError: archives whose unit, scale, time step or channels differ.

    Example:
        >>> rain = {"units": "mm/h", "crop": 128}  # doctest: +SKIP
        >>> Mixture([{"path": "radar/fmi"}, {"path": "radar/mch"}], rain)  # doctest: +SKIP
    """

    def __init__(
        self,
        archives: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any],
        *,
        train_size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_instance(archives, Sequence, "archives", "pass a list of the arguments of each archive")
        if not archives or common.get("crop") is None:
            raise OptionError(
                "a mixture needs archives and the size of their crops; received "
                f"{len(archives)} archive(s) and crop={common.get('crop')}: give both"
            )
        self.seed = check_seed(seed)
        self.train_size = None if train_size is None else check_positive(train_size, "train_size")
        self.archives = [Archive(**{"seed": seed, **common, **arguments}) for arguments in archives]
        first = self.archives[0]
        self.past, self.steps, self.channels = first.past, first.steps, first.channels
        self.extra_channels = first.extra_channels

    @cached_property
    def specification(self) -> Specification:  # type: ignore[override]
        """The specification of the first archive, with the splits of all."""
        first, *others = (archive.specification for archive in self.archives)
        for archive, other in zip(self.archives[1:], others, strict=True):
            for name in _ALIKE:
                if (here := getattr(other, name)) != (there := getattr(first, name)):
                    what = "time that amounts cover, in seconds" if name == "covered_s" else name
                    raise DataError(
                        f"archives of a mixture must have one {what}; {archive.name} has {here}, "
                        f"{self.archives[0].name} {there}: give units and transform that suit all"
                    )
        every = [first, *others]
        missing = tuple(dict.fromkeys(code for one in every for code in one.missing))
        zr = next((one.zr for one in every if one.zr is not None), None)
        splits = {}
        for name in dict.fromkeys(name for one in every for name in one.splits):
            of_all = [one.splits[name] for one in every if name in one.splits]
            frames, windows, starts, ends = zip(*of_all, strict=True)
            splits[name] = [sum(frames), sum(windows), min(starts, key=_moment), max(ends, key=_moment)]
        widest = max(one.data_range for one in every)
        decided = replace(first, grid=self._grid(), missing=missing, zr=zr, splits=splits)
        gaps = "mask" if "mask" in {one.gaps for one in every} else "refuse"
        names = ("grid", "dated", "splits", "static", "missing", "gaps")
        parts = tuple({name: getattr(one, name) for name in names} for one in every)
        return replace(decided, data_range=widest, static=None, parts=parts, gaps=gaps)

    def with_specification(self, specification: Specification, *, own: bool = False) -> "Mixture":
        """The same archives in the unit, scale and splits and with the static fields of a model's training.

        Archives whose Z-R relations differ keep their own.

        Args:
            specification: of the data that the model was trained on.
            own: the archives are those of the training, in the same order.

        Raises:
            DataError: as `Archive.with_specification`.
        """
        if len({one.relation for one in self.archives}) > 1:
            specification = replace(specification, zr=None)
        other = copy(self)
        each: list[Specification] = [specification] * len(self.archives)
        if own and len(specification.parts) == len(each):
            each = [replace(specification, **part, parts=()) for part in specification.parts]
        pairs = zip(self.archives, each, strict=True)
        other.archives = [one.with_specification(its, own=own) for one, its in pairs]
        other.__dict__["specification"] = replace(
            specification, past=self.past, steps=self.steps, grid=self._grid()
        )
        return other

    def _grid(self) -> dict[str, Any]:
        return {"shape": list(self.archives[0].crop or ())}

    def split(self, name: Split) -> WindowDataset:
        """Crops of one split of all archives; ``train`` is endless."""
        _ = self.specification  # which refuses archives that do not mix
        archives = [one for one in self.archives if one.has(name)] or self.archives
        parts = [archive.split(name, crop=True) for archive in archives]
        return _Mixed(parts, self.seed, self.train_size) if name == "train" else _Joined(parts)

    def describe(self) -> str:
        """Description of the data in one line."""
        return f"{len(self.archives)} archives: " + "; ".join(one.describe() for one in self.archives)


class _Mixed(WindowDataset):
    """Windows of endless data sets, each in proportion to its length."""

    endless = True

    def __init__(self, parts: Sequence[WindowDataset], seed: int, size: int | None) -> None:
        self.parts, self.seed = parts, seed
        self._bounds = np.cumsum([len(part) for part in parts])
        self._size = size or int(self._bounds[-1])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Window | LabelledWindow:
        random = np.random.Generator(np.random.PCG64((self.seed, 1, index)))
        part = int(np.searchsorted(self._bounds, random.integers(self._bounds[-1]), side="right"))
        return self.parts[part][index]


class _Joined(WindowDataset):
    """Windows of data sets one after the other."""

    def __init__(self, parts: Sequence[WindowDataset]) -> None:
        self.parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Window | LabelledWindow:
        check_index(index, len(self))
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - ([0, *self._ends][part])]


def _moment(text: str) -> tuple[float, str]:
    """Sort key of a time as a specification stores it: seconds as numbers, dates as text."""
    return (float(text.removesuffix(" s")), "") if text.endswith(" s") else (0.0, text)
