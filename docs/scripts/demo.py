"""Make the pictures of the README: ``python docs/scripts/demo.py DIGITS RAIN``.

Both are run folders, which `convlstm demo` and `convlstm demo rain` leave. ``docs/demo.png`` is the median
case of the digits, ``docs/rain.png`` the worst case of the rain beside advection.
"""

import shutil
import sys
from pathlib import Path

from convlstm.pictures import film_strip
from convlstm.pictures.radar import TABLES
from convlstm.verification.cases import read_cases

DOCS = Path(__file__).parents[1]
STEP_S = 300.0  # of the rain
SHOWN = 6  # frames of the past


def draw(digits: Path, rain: Path) -> None:
    """Draw both pictures."""
    shutil.copyfile(digits / "strip.png", DOCS / "demo.png")
    *_, worst = read_cases(rain / "cases.npz")
    model, *_ = worst.forecasts
    rows = {
        "truth": worst.truth,
        "forecast": worst.forecasts[model],
        "advection": worst.forecasts["advection"],
    }
    strip = film_strip(rows, past=worst.past[-SHOWN:], limits=TABLES["mm/h"], step_s=STEP_S)
    strip.quantize(128).save(DOCS / "rain.png", optimize=True)


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
