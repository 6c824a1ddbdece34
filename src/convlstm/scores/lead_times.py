"""Lead times as text: in a unit of time where the time step is known, in frames otherwise."""

from typing import NamedTuple

from convlstm.validation import check_number

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_DAYS = 10


class LeadUnit(NamedTuple):
    """Unit of lead times.

    Attributes:
        name: of the unit; ``frames`` without a time step.
        step: units between two frames.
    """

    name: str
    step: float


def lead_unit(step_s: float | None) -> LeadUnit:
    """The largest unit of which the time step is a multiple; days for ten of them and more.

    Args:
        step_s: seconds between frames; None if unknown.

    Raises:
        OptionError: no number above 0.
    """
    if step_s is None:
        return LeadUnit("frames", 1)
    step_s = check_number(step_s, "step_s", above=0)
    if step_s >= _DAYS * 86400:  # months and years, whose mean is no whole number of days
        return LeadUnit("d", step_s / 86400)
    for size, name in _UNITS:
        count = round(step_s / size)
        if count and abs(step_s / size - count) < 1e-6 * count:
            return LeadUnit(name, count)
    size, name = next((unit for unit in _UNITS if unit[0] <= step_s), _UNITS[-1])
    return LeadUnit(name, step_s / size)


def lead_text(lead: int, step_s: float | None = None) -> str:
    """A lead time: +10 min where the time step is known, +2 otherwise.

    Args:
        lead: frames after the last of the past; 0 and below for frames of the past.
        step_s: seconds between frames; None if unknown.
    """
    unit = lead_unit(step_s)
    number = f"{lead * unit.step:+.4f}".rstrip("0").rstrip(".") if lead else "0"
    return number if step_s is None else f"{number} {unit.name}"
