"""Run the commands of a page, put what they print into the page, and draw a case of the test set.

    CONVLSTM_DATA=FOLDER python docs/scripts/own_data.py docs/data/radar.md ...

A ```sh fence with a ```text fence right after it is run, and the second one then holds what the first one
prints, of several tables the first; ```python fences with a title are files beside it. FOLDER holds the
folders that the pages name (radar, grids, video). ``docs/figures/NAME.png`` is the median case of the scores
that the page's commands leave, NAME that of the page.
"""

import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.pictures import film_strip
from convlstm.pictures.radar import TABLES
from convlstm.verification.cases import read_cases

FIGURES = Path(__file__).parents[1] / "figures"
BLOCK = re.compile(
    r'```(\w+)(?: title="(.*?)")?\n(.*?)^```\n(\n```text\n)?(?(4)(.*?)^```\n)', re.DOTALL | re.MULTILINE
)
UNITS = {"radar": "mm/h"}  # of the pages whose figure has the colours of radar
CHANGES = {"weather"}  # those whose figure shows the change since the last frame of the past
BASELINES = ("damped_persistence", "advection", "persistence")  # the first that there is is drawn
SHOWN = 6  # frames of past and future, at most
SQUARE = 192  # pixels along the side of what is drawn of a radar composite
SIDE = 96  # pixels of a frame in the picture, at least; larger ones are averaged to less than twice as many


def update(page: Path) -> None:
    """Run the commands of a page in their order, write their output and draw the figure."""
    folder = Path(tempfile.mkdtemp(prefix=f"own_data-{page.stem}-"))
    for data in Path(os.environ["CONVLSTM_DATA"]).iterdir():
        (folder / data.name).symlink_to(data)

    def output(block: re.Match[str]) -> str:
        language, title, code, shown, _ = block.groups()
        if title:
            (folder / title).write_text(code)
        if language != "sh" or not shown:
            return block[0]
        return block[0][: block.start(5) - block.start()] + printed(code, folder) + "```\n"

    page.write_text(BLOCK.sub(output, page.read_text()))
    for cases in folder.glob("runs/*/cases.npz"):
        draw(cases, page.stem)


def printed(code: str, folder: Path) -> str:
    """Standard output of commands, without paths of this machine and without tables after the first."""
    sys.stderr.write(code)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "80"}
    done = subprocess.run(
        ["bash", "-ec", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    first, *others = re.split(r"\n(?=\*\*)", done.stdout.replace(f"{folder}/", ""))
    lines = [line.rstrip() for line in first.splitlines()] + ["..."] * bool(others)
    return "\n".join(lines) + "\n"


def draw(cases: Path, name: str) -> None:
    """Draw the last frames of the past, the truth, the forecast and a baseline of the median case."""
    median = read_cases(cases)[1]
    model, *others = median.forecasts
    best = next(baseline for baseline in BASELINES if baseline in others)
    rows = {"truth": median.truth, "forecast": median.forecasts[model], best: median.forecasts[best]}
    rows = {row: np.where(np.isnan(median.truth), np.nan, x)[:SHOWN] for row, x in rows.items()}
    signed = []
    if name in CHANGES:
        rows = {f"{row}, change".replace("_", " "): x - median.past[-1] for row, x in rows.items()}
        signed = list(rows)
    past = median.past[-SHOWN:]
    if past.shape[1] == 3:  # colours of 8 bits
        rows, past = {row: np.clip(x / 255, 0, 1) for row, x in rows.items()}, past / 255
    if name in UNITS:
        square = wettest(median.truth)
        rows, past = {row: x[square] for row, x in rows.items()}, past[square]
    rows, past = {row: averaged(x) for row, x in rows.items()}, averaged(past)
    side = max(past.shape[2:])
    strip = film_strip(
        rows,
        past=past,
        signed=signed,
        limits=TABLES.get(UNITS.get(name)),
        scale=math.ceil(SIDE / side) if side < SIDE else None,
    )
    strip.quantize(128).save(FIGURES / f"{name}.png", optimize=True)


def averaged(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over squares of pixels, so that a picture of `SHOWN` frames is not wider than a page."""
    height, width = frames.shape[2:]
    factor = max(1, max(height, width) // SIDE)
    whole = frames[:, :, : height - height % factor, : width - width % factor]
    squares = whole.reshape(*frames.shape[:2], height // factor, factor, width // factor, factor)
    return np.asarray(squares.mean((3, 5)))


def wettest(truth: NDArray[np.float32]) -> tuple[Any, ...]:
    """Index of the square of `SQUARE` pixels with the most rain, of those that begin every 20 pixels."""
    _, _, height, width = truth.shape
    places = [(y, x) for y in range(0, height - SQUARE + 1, 20) for x in range(0, width - SQUARE + 1, 20)]
    squares = [(..., slice(y, y + SQUARE), slice(x, x + SQUARE)) for y, x in places]
    return max(squares, key=lambda square: float(np.nansum(truth[square])))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        update(Path(argument))
