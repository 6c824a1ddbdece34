"""Make ``docs/figures/inspector.png``: the page of ``convlstm inspect``, as chromium shows it.

``python docs/scripts/inspector.py [RUN]``, where RUN is the run folder that ``convlstm demo rain`` leaves;
without it the demonstration runs first, a few minutes. It needs the ``dev`` extra, and chromium on the path.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

import convlstm

FIGURE = Path(__file__).parents[1] / "figures" / "inspector.png"
WIDTH, HEIGHT = 1280, 1000


def main() -> None:
    """Inspect the median case of the demonstration, and take a picture of the second forecast."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(sys.argv[1] if len(sys.argv) > 1 else convlstm.demo("rain", out=Path(scratch) / "run"))
        with np.load(run / "cases.npz") as cases:
            median = list(cases["label"]).index("median")
            frames = np.concatenate([cases["past"][median], cases["truth"][median]])
        page = Path(scratch) / "inside.html"
        convlstm.inspect(run, frames, out=page)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            shown = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            shown.goto(page.as_uri())
            shown.locator("body[data-drawn]").wait_for()
            for key in ("ArrowRight", "v", "c", "c", "c"):
                shown.keyboard.press(key)
            shown.locator("#forecast").hover(position={"x": 180, "y": 32})
            shown.wait_for_function("() => !busy && !again")
            shown.screenshot(path=FIGURE)
            browser.close()


if __name__ == "__main__":
    main()
