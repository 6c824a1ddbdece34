"""One score of a model and of the baselines, with bootstrap intervals and sample counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

LEAST_BLOCKS = 6
"""Blocks that bootstrap intervals need: fewer agree by chance more often than in 5 % of all cases."""
DRAWS = 1000


class Interval(NamedTuple):
    """Bootstrap interval of 95 %, NaN where a score is undefined.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """True for the interval of a difference that does not hold 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Intervals:
    """Intervals of one score.

    Attributes:
        by_lead: L by name.
        overall: one by name.
    """

    by_lead: Mapping[str, list[Interval]]
    overall: Mapping[str, Interval]

    def at(self, name: str, lead: int | None) -> Interval:
        """The interval of a forecaster at a lead time from 0, or overall."""
        return self.overall[name] if lead is None else self.by_lead[name][lead]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """One score of all forecasters; the first four attributes are those of ``Score``.

    Attributes:
        title: heading.
        unit: unit of a value.
        formula: one line.
        higher_is_better: None if neither direction is.
        by_lead: L values by forecaster.
        overall: one value by forecaster, of the sums over all lead times (pooled).
        mean_of_leads: mean of the values by lead time, for ratios, of which it is another value; undefined if
            one of them is.
        samples: pixels or frames that a value is made of, by lead time; those of ``overall`` are their sum.
        samples_of: ``pixels`` or ``frames``.
        intervals: of the values, by forecaster; None without bootstrap.
        differences: of the model minus each baseline, by baseline.
    """

    title: str
    unit: str
    formula: str
    higher_is_better: bool | None
    by_lead: Mapping[str, list[float]]
    overall: Mapping[str, float]
    mean_of_leads: Mapping[str, float] | None = None
    samples: Sequence[int] = ()
    samples_of: str = ""
    intervals: Intervals | None = None
    differences: Intervals | None = None

    def count(self, lead: int | None) -> int:
        """Samples at a lead time from 0, or overall; 0 if unknown."""
        if not self.samples:
            return 0
        return sum(self.samples) if lead is None else self.samples[lead]

    def values(self, lead: int | None) -> dict[str, float]:
        """Values of all forecasters at a lead time from 0, or overall."""
        return dict(self.overall) if lead is None else {name: v[lead] for name, v in self.by_lead.items()}

    def best(self, lead: int | None) -> list[str]:
        """Forecasters with the best value at a lead time from 0, or overall.

        None without a direction or where all are equal.
        """
        known = {name: value for name, value in self.values(lead).items() if not math.isnan(value)}
        if self.higher_is_better is None or len(set(known.values())) < min(2, len(self.overall)):
            return []
        best = (max if self.higher_is_better else min)(known.values())
        return [name for name, value in known.items() if value == best]

    def resolved(self, name: str, lead: int | None) -> bool:
        """True if the order of the model and a baseline is resolved; of the model and all, for its own name.

        Baselines whose score is undefined do not count.
        """
        if self.differences is None:
            return False
        known = self.values(lead)
        baselines = [name] if name in self.differences.overall else list(self.differences.overall)
        return all(self.differences.at(n, lead).resolved for n in baselines if not math.isnan(known[n]))


@dataclass(frozen=True)
class Spectra:
    """Radially averaged power spectra at the last lead time, mean over frames.

    Attributes:
        wavelengths: R, in pixels, rising.
        power: R values, in the squared unit, by forecaster and of the ``truth``.
    """

    wavelengths: list[float]
    power: Mapping[str, list[float]]


def typed(plain: Mapping[str, Any], name: str, kind: type, owner: str = "") -> Any:
    """Value of plain data, of one type."""
    if type(plain[name]) is not kind:
        raise TypeError(f"{name}{owner} {plain[name]!r}"[:100])
    return plain[name]


def positive_number(plain: Mapping[str, Any], name: str, kind: type = int) -> Any:
    """Finite number above 0 of plain data."""
    value = typed(plain, name, kind)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value}")
    return value


def _numbers(given: list[Any], owner: str) -> list[float]:
    for value in given:
        if value is not None and (type(value) not in (float, int) or not math.isfinite(value)):
            raise TypeError(f"values{owner} {value!r}"[:100])
    return [math.nan if value is None else float(value) for value in given]


def read_table(key: str, table: Mapping[str, Any], names: list[str]) -> ScoreTable:
    """Score table of plain data."""
    owner = f" of {key}"
    directed, mean = table["higher_is_better"] is not None, table.get("mean_of_leads")
    samples = table.get("samples", [])
    for count in samples:
        if type(count) is not int or count < 0:
            raise TypeError(f"samples{owner} {count!r}"[:100])
    return ScoreTable(
        **{name: typed(table, name, str, owner) for name in ("title", "unit", "formula")},
        higher_is_better=typed(table, "higher_is_better", bool, owner) if directed else None,
        by_lead={name: _numbers(typed(table["by_lead"], name, list, owner), owner) for name in names},
        overall={name: _numbers([table["overall"][name]], owner)[0] for name in names},
        mean_of_leads=None if mean is None else {name: _numbers([mean[name]], owner)[0] for name in names},
        samples=list(samples),
        samples_of=typed({"samples_of": ""} | dict(table), "samples_of", str, owner),
        intervals=_read_intervals(table.get("intervals"), names, owner),
        differences=_read_intervals(table.get("differences"), names[1:], owner),
    )


def _read_intervals(plain: Mapping[str, Any] | None, names: list[str], owner: str) -> Intervals | None:
    if plain is None:
        return None
    by_lead = {
        name: [Interval(*_numbers(ends, owner)) for ends in typed(plain["by_lead"], name, list, owner)]
        for name in names
    }
    return Intervals(by_lead, {name: Interval(*_numbers(plain["overall"][name], owner)) for name in names})


def read_spectra(plain: Mapping[str, Any]) -> Spectra:
    """Spectra of plain data."""
    power = {name: _numbers(values, " of spectra") for name, values in plain["power"].items()}
    found = Spectra(_numbers(typed(plain, "wavelengths", list), " of spectra"), power)
    if {len(values) for values in power.values()} - {len(found.wavelengths)}:
        raise ValueError("length of spectra")
    return found
