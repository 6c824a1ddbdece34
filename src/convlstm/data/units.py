"""Units of frames and the exact conversions between them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.accumulations import MONTH_S
from convlstm.errors import DataError, OptionError
from convlstm.validation import check_number

Floats = NDArray[np.float32]

#: Spellings of a unit, lower case without blanks, by its name here.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "dBZ": ("dbz", "10*log10(mm6m-3)"),
    "mm/h": (
        *("mm/h", "mm/hr", "mm/hour", "mmh-1", "mmh^-1", "mmh**-1", "mmhr-1", "mmhr^-1", "mmhr**-1"),
        *("mm.h-1", "mmhour-1", "mmperhour", "millimeterperhour", "millimetreperhour", "kgm-2h-1"),
    ),
    "mm": ("mm", "millimeter", "millimetre", "kgm-2", "kgm**-2", "kg/m2", "kg/m^2"),
    "m": ("m", "meter", "metre", "mofwaterequivalent"),
    "kg m-2 s-1": ("kgm-2s-1", "kgm**-2s**-1", "mm/s", "kg/m2/s"),
    "K": ("k", "kelvin", "degk"),
    "degC": ("degc", "c", "celsius", "degree_celsius", "degrees_celsius", "degreec", "°c", "degree_c"),
    "degF": ("degf", "f", "fahrenheit", "degree_fahrenheit", "degrees_fahrenheit", "°f", "degree_f"),
    "1": ("1", "", "none", "dimensionless", "-"),
}
#: Units of amounts, of which a rate is known with the time that they cover.
AMOUNTS = ("mm", "m")
_RATES = {"mm/h": 1.0, "kg m-2 s-1": 3600.0}
_LENGTHS = {"mm": 1.0, "m": 1000.0}
#: Values below this are no rounding errors of dry, as packed files and differences of packed sums have, but
#: codes, or something else than rain, such as evaporation.
_LEAST_RAIN = {"mm/h": -1e-3, "mm": -1e-3, "m": -1e-5, "kg m-2 s-1": -1e-3 / 3600}
#: Freezing point of water, and degrees of one kelvin.
_TEMPERATURES = {"K": (273.15, 1.0), "degC": (0.0, 1.0), "degF": (32.0, 1.8)}
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}


@dataclass(frozen=True)
class ZR:
    """Relation of reflectivity and rain rate, Z = a R^b (Marshall and Palmer 1948: 200 and 1.6).

    Attributes:
        a: Z in mm^6 m^-3 of 1 mm/h.
        b: exponent.
        dry_dbz: reflectivity that stands for dry and for rates below the one of this reflectivity.
    """

    a: float = 200.0
    b: float = 1.6
    dry_dbz: float = -32.0

    def __post_init__(self) -> None:
        """Check the numbers, under the name that they have together."""
        check_number(self.a, "a of zr", above=0)
        check_number(self.b, "b of zr", above=0)
        check_number(self.dry_dbz, "the dry reflectivity of zr")

    def rate(self, dbz: Floats) -> Floats:
        """Rain rate in mm/h; 0 at and below ``dry_dbz``, which -inf is."""
        rate = np.power(np.power(np.float32(10), dbz / np.float32(10)) / np.float32(self.a), 1 / self.b)
        return np.where(dbz <= self.dry_dbz, np.float32(0), rate.astype(np.float32))

    def reflectivity(self, rate: Floats) -> Floats:
        """Reflectivity in dBZ; ``dry_dbz`` where the rate is 0 or less than that of ``dry_dbz``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            dbz = 10 * np.log10(self.a * np.power(rate, self.b))
        dbz = np.where(rate <= 0, self.dry_dbz, np.maximum(dbz, self.dry_dbz))
        return np.where(np.isnan(rate), np.float32(np.nan), dbz.astype(np.float32))


def unit_named(text: str) -> str:
    """The name used here of a unit in any usual spelling; the text itself if it is no unit known here."""
    return _NAMES.get(re.sub(r"\s", "", text).lower(), text.strip())


def same_axis_unit(one: object, other: object) -> bool:
    """True for one unit of coordinates, also where degree_north is called degrees_north or degrees_N."""
    first, second = (
        re.sub(r"^degrees?_?([ne]?)(orth|ast)?$", r"degrees_\1", str(each).strip().lower())
        for each in (one, other)
    )
    return first == second


def least_rain(units: str) -> float:
    """Value of rain in a unit below which it is no rounding error of dry."""
    return _LEAST_RAIN.get(units, -1e-3)


def check_unit(text: str) -> str:
    """Check that a unit is one that is known here.

    Raises:
        OptionError: it is none.
    """
    if unit_named(text) not in _SPELLINGS:
        raise OptionError(
            f"a unit that files do not state must be one of {', '.join(_SPELLINGS)}; received {text!r}: "
            "change its spelling, or leave it out, or write it into the files"
        )
    return text


def time_text(seconds: float) -> str:
    """A time in seconds; several days, and all from ten days on, in days."""
    days = seconds / 86400
    return f"{days:.6g} days" if days >= 10 or days in range(2, 10) else f"{seconds:g} s"


def times_text(ends: Sequence[float]) -> str:
    """The shortest and the longest of some times, such as 300 to 900 s; one alone where they are equal."""
    first, last = map(time_text, ends)
    number, _, unit = first.partition(" ")
    return last if first == last else f"{number if last.endswith(f' {unit}') else first} to {last}"


def check_covered(attributes: Mapping[str, Any], target: str, step_s: float | None) -> None:
    """Refuse amounts of different times where rates are wanted, and the other way round.

    Args:
        attributes: of the frames, with their ``units`` and, where they differ, ``periods_s``.
        target: unit wanted.
        step_s: seconds between frames, which amounts cover whose files state no time; None if unknown.

    Raises:
        DataError: such amounts.
    """
    periods, source = attributes.get("periods_s"), unit_named(str(attributes.get("units", "")))
    if not {"period_s", "periods_s"} & attributes.keys() and step_s is not None and step_s >= MONTH_S:
        periods = step_s, step_s
    if periods and source in AMOUNTS and unit_named(target) not in AMOUNTS:
        raise DataError(
            f"amounts must cover one time to become {unit_named(target)}; these cover {times_text(periods)}"
            f"{', and months differ' * (periods[0] == periods[1])}: keep their unit, or convert them, by "
            "differences where they are sums since one time"
        )


def conversion(
    source: str, target: str, *, step_s: float | None = None, zr: ZR | None = None
) -> Callable[[Floats], Floats]:
    """The function that converts values from one unit to another, NaN to NaN.

    Reflectivity of -inf dBZ, the logarithm of no echo, was measured and is dry, also from dBZ to dBZ.

    Args:
        source: unit of the values, in any usual spelling.
        target: unit wanted.
        step_s: seconds that an accumulation covers, for those between accumulations and rates.
        zr: relation for those between reflectivity and rates; that of Marshall and Palmer if None.

    Raises:
        DataError: no exact conversion between them is known.
    """
    source, target = unit_named(source), unit_named(target)
    # No lambdas: an archive with its conversion is sent to workers.
    relation = zr or ZR()
    if source == target:
        return partial(_echoes, relation) if source == "dBZ" else _same
    if source == "dBZ" and (scale := _rate_scale(target, step_s)):
        return partial(_rate, relation, scale)
    if target == "dBZ" and (scale := _rate_scale(source, step_s)):
        return partial(_reflectivity, relation, scale)
    if (first := _rate_scale(source, step_s)) and (second := _rate_scale(target, step_s)):
        return partial(_linear, 0.0, first / second, 0.0)
    if source in _TEMPERATURES and target in _TEMPERATURES:
        (freezing, degrees), (zero, others) = _TEMPERATURES[source], _TEMPERATURES[target]
        return partial(_linear, freezing, others / degrees, zero)
    if source in _LENGTHS and target in _LENGTHS:
        return partial(_linear, 0.0, _LENGTHS[source] / _LENGTHS[target], 0.0)
    if step_s is None and {source, target} <= {*AMOUNTS, *_RATES, "dBZ"}:
        raise DataError(
            "amounts and rates convert by the time that an amount covers, of which frames without times say "
            f"nothing; received {source} for {target}: give the frames times, or leave their unit"
        )
    raise DataError(
        f"values must be in {target!r} or in a unit that converts to it exactly; received {source!r}: "
        "convert them, or declare the unit that they have by --data.units"
    )


def _same(values: Floats) -> Floats:
    return values


def _echoes(relation: ZR, dbz: Floats) -> Floats:
    return np.where(np.isneginf(dbz), np.float32(relation.dry_dbz), dbz)


def _linear(subtracted: float, factor: float, added: float, values: Floats) -> Floats:
    return (values - np.float32(subtracted)) * np.float32(factor) + np.float32(added)


def _rate(relation: ZR, scale: float, dbz: Floats) -> Floats:
    return relation.rate(dbz) / np.float32(scale)


def _reflectivity(relation: ZR, scale: float, values: Floats) -> Floats:
    return relation.reflectivity(values * np.float32(scale))


def _rate_scale(unit: str, step_s: float | None) -> float | None:
    """Millimetres an hour that 1 of a unit is; None for what is no rain rate."""
    if unit in AMOUNTS:
        return None if step_s is None else 3600 / step_s * (1.0 if unit == "mm" else 1000.0)
    return _RATES.get(unit)
