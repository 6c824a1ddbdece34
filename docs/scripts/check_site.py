"""Open every page of site/ in a browser and say what is wrong: ``make docs``, then this script.

    python docs/scripts/check_site.py [FOLDER]

Wrong are a page that is wider than a phone, a table of words or a line of text that scrolls sideways there,
an error on the console, a request to another host, and a link to a page or to a heading that is not there.
It needs the ``dev`` extra, and chromium or Chrome on the path.
"""

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.sync_api import Page, sync_playwright

SITE = Path(__file__).parents[2] / "site"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = {"width": 390, "height": 844}
#: Blocks of code, equations and tables of numbers may scroll by themselves; all else fits the screen.
_MEASURED = """() => {
  document.querySelectorAll("details").forEach(e => e.open = true);
  const screen = document.documentElement.clientWidth, wide = [];
  const page = document.documentElement.scrollWidth;
  if (page > screen) wide.push(`the page is ${page} pixels wide`);
  for (const e of document.querySelectorAll(".md-typeset__scrollwrap"))
    if (e.scrollWidth > e.clientWidth + 1 && !e.querySelector("[data-numbers]"))
      wide.push(`a table is ${e.scrollWidth} pixels wide: ${e.innerText.slice(0, 60)}`);
  for (const e of document.querySelectorAll(".md-content :is(p, li, h1, h2, h3, h4, img, svg, dt, dd)"))
    if (e.getBoundingClientRect().right > screen + 1 && !e.closest("table"))
      wide.push(`${e.localName} goes beyond the screen: ${(e.textContent || "").trim().slice(0, 60)}`);
  return wide.map(text => text.replace(/\\s+/g, " "));
}"""
_LINKS = """() => [...document.querySelectorAll("a[href], link[href], img[src], script[src]")]
  .map(e => e.href || e.src).filter(url => url.startsWith(location.origin))"""
_ANCHORS = "() => [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name)"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Write nothing on the screen."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing of a file that the browser stopped reading when it left the page."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


def wrong(site: Path) -> Iterator[str]:
    """What is wrong, a line each, by page."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        shown = browser.new_page(viewport=PHONE)
        links, anchors = {}, {}
        for file in sorted(site.rglob("*.html")):
            name = file.relative_to(site).as_posix()
            for line in _opened(shown, f"{origin}/{name}", origin):
                yield f"{name}: {line}"
            links[name], anchors[name] = shown.evaluate(_LINKS), {*shown.evaluate(_ANCHORS)}
        browser.close()
    server.shutdown()
    for name, targets in links.items():
        for target in sorted({*targets}):
            path, _, anchor = target.removeprefix(f"{origin}/").partition("#")
            path = path.partition("?")[0]
            path = path if path and not path.endswith("/") else f"{path}index.html"
            if not (site / path).exists() or (anchor and anchor not in anchors.get(path, {anchor})):
                yield f"{name}: a link leads nowhere: {path}{'#' * bool(anchor)}{anchor}"


def _opened(shown: Page, url: str, origin: str) -> list[str]:
    """What is wrong with a page as a phone shows it."""
    found: list[str] = []
    listeners = {
        "console": lambda message: message.type == "error" and found.append(f"console: {message.text}"),
        "pageerror": lambda error: found.append(f"script: {error}"),
        "request": lambda request: (
            request.url.startswith((origin, "data:", "blob:")) or found.append(f"asks for {request.url}")
        ),
    }
    for event, listener in listeners.items():
        shown.on(event, listener)  # type: ignore[call-overload]
    shown.goto(url)
    found += shown.evaluate(_MEASURED)
    for event, listener in listeners.items():
        shown.remove_listener(event, listener)
    return found


if __name__ == "__main__":
    lines = list(wrong(Path(sys.argv[1]) if sys.argv[1:] else SITE))
    sys.exit("\n".join(lines) or None)
