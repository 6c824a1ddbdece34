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
    if not math.isfinite(value):
        return undefined
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = int(exponent)
    if -4 <= power < 6:
        return f"{float(f'{value:.3e}'):.{max(3 - power, 0)}f}"
    return f"{mantissa}e{power}"


def in_text(value: float) -> str:
    """Number in a sentence: the digits of `four_digits` with a minus sign, "n/a" if it is not finite."""
    return four_digits(value, "n/a").replace("-", "−")


def short(value: float) -> str:
    """Number of an axis or a legend: `in_text` without trailing zeros."""
    mantissa, e, exponent = in_text(value).partition("e")
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
