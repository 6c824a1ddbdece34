"""One rule for digits: four significant ones per value, in tables aligned at the decimal point."""

import math
import re
from collections.abc import Sequence


def four_digits(value: float) -> str:
    """A number with four significant digits, ``-`` for NaN.

    Plain from 0.0001 to below a million, in powers of ten elsewhere: 0.1000, 60090, 1.235e6.
    """
    if not math.isfinite(value):
        return "-" if math.isnan(value) else f"{value}"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = int(exponent)
    if -4 <= power < 6:
        return f"{float(f'{value:.3e}'):.{max(3 - power, 0)}f}"
    return f"{mantissa}e{power}"


def number(value: float) -> str:
    """A number in a text: four significant digits, as short as they go, a true minus; "n/a" if not finite."""
    if not math.isfinite(value):
        return "n/a"
    mantissa, e, exponent = four_digits(value).partition("e")
    short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{short}{e}{exponent}".replace("-", "−")


def aligned(texts: Sequence[str], *, digit: str = " ", point: str = " ") -> list[str]:
    """Numbers of one column, padded on the right so that their decimal points stand below each other.

    Args:
        texts: numbers as text, marks behind them included.
        digit: a space as wide as a digit.
        point: a space as wide as the decimal point.
    """
    tails = [re.sub(r"^[^.*]*", "", text) for text in texts]
    longest = max(map(len, tails), default=0)
    padded = []
    for text, tail in zip(texts, tails, strict=True):
        gap = digit * (longest - len(tail))
        padded.append(text + (point + gap[:-1] if gap and not tail else gap))
    return padded
