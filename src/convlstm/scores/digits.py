"""Numbers as text: four significant digits, aligned at the decimal point in columns."""

import math
import re
from collections.abc import Sequence


def four_digits(value: float, undefined: str = "-") -> str:
    """Number with four significant digits: 0.1000, 60090, 1.235e6.

    Args:
        value: plain from 0.0001 to below a million, in powers of ten elsewhere.
        undefined: text for a value that is not finite.
    """
    return _with_digits(value, 4) if math.isfinite(value) else undefined


def _with_digits(value: float, count: int) -> str:
    """Finite number with so many significant digits."""
    if value == 0:
        return "0"
    rounded = f"{value:.{count - 1}e}"
    mantissa, exponent = rounded.split("e")
    power = int(exponent)
    if -4 <= power < 6:
        return f"{float(rounded):.{max(count - 1 - power, 0)}f}"
    return f"{mantissa}e{power}"


def in_text(value: float) -> str:
    """Number in a sentence: the digits of `four_digits` with a minus sign, "n/a" if it is not finite."""
    return four_digits(value, "n/a").replace("-", "−")


def short(value: float) -> str:
    """Number of an axis or a legend: `in_text` without trailing zeros."""
    return _without_zeros(in_text(value))


def short_ends(low: float, high: float) -> tuple[str, str]:
    """The ends of a scale, as `short`, with more digits where four are coarser than a hundredth of it."""
    size = max(abs(low), abs(high)) / (high - low) if high > low else 1.0
    count = min(max(4, 3 + math.floor(math.log10(max(size, 1.0)))), 15)
    first, last = (_without_zeros(_with_digits(end, count)).replace("-", "−") for end in (low, high))
    return first, last


def _without_zeros(text: str) -> str:
    """A number without the zeros at the end of its decimals."""
    mantissa, e, exponent = text.partition("e")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + e + exponent


def aligned(texts: Sequence[str], *, digit: str = " ", point: str = " ") -> list[str]:
    """Numbers of one column, padded on the right to align their decimal points.

    Args:
        texts: numbers as text, with any marks behind them.
        digit: a space as wide as a digit.
        point: a space as wide as the decimal point.
    """
    tails = [re.sub(r"^[^.*~]*", "", text) for text in texts]
    longest = max(map(len, tails), default=0)
    padded = []
    for text, tail in zip(texts, tails, strict=True):
        gap = digit * (longest - len(tail))
        padded.append(text + (point + gap[:-1] if gap and not tail else gap))
    return padded
