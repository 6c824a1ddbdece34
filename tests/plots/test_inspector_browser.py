"""The page of a forecast's inside in a real browser, Debian's chromium; skipped where there is none."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from inside_pages import SIZE, K, L, inside, maps
from PIL import Image

from convlstm.plots.inspector import inspector_page
from convlstm.plots.packing import encode

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
H, W = SIZE
PICTURES = ("input", "forecast", "truth", "error", "map")


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page and, at the end, checks that it wrote nothing on the console and asked for nothing."""
    found: list[str] = []

    def open_page(shown=None, scheme="light"):
        path = tmp_path / "inside.html"
        path.write_text(inspector_page(inside() if shown is None else shown), encoding="utf-8")
        page = browser.new_page(color_scheme=scheme)
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("dialog", lambda dialog: found.append(dialog.message))
        page.on("request", lambda request: found.append(request.url))
        page.goto(path.as_uri())
        drawn(page)
        assert found == [path.as_uri()]
        found.clear()
        return page

    yield open_page
    assert found == []
    for context in browser.contexts:
        context.close()


def drawn(page):
    """Wait until the page shows what was asked for; its step, variable, layer, value and channel."""
    page.wait_for_function("() => document.body.dataset.drawn && !busy && !again")
    return [int(number) for number in page.evaluate("document.body.dataset.drawn").split(",")]


def pixels(page, picture):
    """Colours (H, W, 4) of a picture."""
    drawn(page)
    png = page.evaluate(f"$('{picture}').toDataURL()").partition(",")[2]
    return np.array(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))


def changed(page, act):
    """The pictures whose pixels an act changes."""
    before = {name: pixels(page, name) for name in PICTURES}
    act()
    return {name for name in PICTURES if not np.array_equal(before[name], pixels(page, name))}


def text(page, name):
    drawn(page)
    return page.locator(f"#{name}").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_at_the_first_forecast_and_fits_any_width(opened, scheme):
    page = opened(inside(channels=2, variables=["a_long_name_of_a_variable" * 3, "b"]), scheme)
    assert drawn(page) == [K - 1, 0, 0, 0, 0]
    assert text(page, "now") == f"step {K} of {K + L - 1}: reads t, forecasts +1"
    for width in (1280, 800, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background))) > 3 * 128
    assert light == (scheme == "light")


def test_codes_are_decoded_exactly(opened):
    page, draw = opened(), np.random.default_rng(0)
    for size, dtype in ((1, np.uint8), (2, np.uint16)):
        codes = draw.integers(0, np.iinfo(dtype).max, (3, 7, 5), dtype, endpoint=True)
        found = page.evaluate(f"async (text) => [...await decode(text, 3, 7, 5, {size})]", encode(codes))
        assert found == codes.ravel().tolist()


def test_pictures_are_painted_by_the_rule_of_all_pictures(opened):
    from convlstm.pictures.colours import channel_scales, error_scales, paint

    shown = inside()
    page, scales = opened(shown), channel_scales(shown.past, shown.truth)
    errors = shown.forecast.astype(np.float64) - shown.truth
    ends = error_scales([errors], [shown.past, shown.truth], 1)
    wanted = {
        "input": paint(shown.past[-1:], scales),
        "forecast": paint(shown.forecast[:1], scales),
        "truth": paint(shown.truth[:1], scales),
        "error": paint(errors[:1], ends, signed=True),
    }
    for name, (painted,) in wanted.items():
        seen = pixels(page, name)
        difference = np.abs(seen[..., :3].astype(int) - painted[0])
        assert difference.max() <= 2, name  # of 256 colours, and 16 bits
        assert (seen[..., 3] == 255).all()


def test_slider_pickers_and_buttons_change_the_pictures(opened):
    page = opened(inside(channels=2, variables=["rain", "wind"], units="mm/h, m/s"))
    everything = set(PICTURES)
    slider = page.get_by_role("slider", name="Step")
    assert changed(page, lambda: slider.fill(str(K + 1))) == everything
    assert slider.get_attribute("aria-valuetext") == f"step {K + 1} of {K + L - 1}: reads +1, forecasts +2"
    pick = page.get_by_role("combobox", name="Variable")
    assert changed(page, lambda: pick.select_option("wind")) == everything - {"map"}
    assert "m/s" in page.get_by_role("img", name="Forecast +2").get_attribute("aria-label")
    for name, option in (("Channel", "4"), ("Value", "forget gate f"), ("Layer", "forecaster.0")):
        picker = page.get_by_role("combobox", name=name, exact=True)
        assert changed(page, lambda: picker.select_option(option)) == {"map"}, name  # noqa: B023
    assert changed(page, lambda: page.get_by_role("button", name="Channel 2").click()) == {"map"}
    assert page.get_by_role("combobox", name="Channel").input_value() == "2"
    own = page.get_by_role("checkbox", name="each channel on its own scale")
    assert changed(page, own.check) == {"map"}


def test_a_layer_or_a_channel_stays_chosen_where_it_is_there(opened):
    page = opened()
    page.locator("#channel").select_option("2")
    page.locator("#value").select_option("forget gate f")
    assert drawn(page)[2:] == [0, 1, 2]
    page.locator("#layer").select_option("forecaster.0")
    assert drawn(page)[2:] == [1, 0, 2]  # it has no gate, and a channel 2


def test_keys_change_the_pictures(opened):
    page = opened()
    for key, wanted in (
        ("ArrowRight", [K, 0, 0, 0, 0]),
        ("ArrowLeft", [K - 1, 0, 0, 0, 0]),
        ("ArrowLeft", [K - 2, 0, 0, 0, 0]),
        ("c", [K - 2, 0, 0, 0, 1]),
        ("Shift+C", [K - 2, 0, 0, 0, 0]),
        ("Shift+C", [K - 2, 0, 0, 0, 4]),
        ("v", [K - 2, 0, 0, 1, 4]),
        ("l", [K - 2, 0, 1, 0, 0]),
        ("Shift+L", [K - 2, 0, 0, 0, 0]),
    ):
        page.keyboard.press(key)
        assert drawn(page) == wanted, key
    assert "map" in changed(page, lambda: page.keyboard.press("o"))
    page.locator("#layer").focus()
    page.keyboard.press("c")  # in a list it means an entry
    assert drawn(page)[4] == 0


def test_play_goes_on_and_stops(opened):
    page = opened()
    start = drawn(page)[0]
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"() => view.step !== {start}")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play").wait_for()
    step = drawn(page)[0]
    page.wait_for_timeout(700)
    assert drawn(page)[0] == step
    page.locator("h1").click()
    page.keyboard.press(" ")
    page.wait_for_function(f"() => view.step !== {step}")
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play").wait_for()


def test_values_under_the_pointer(opened):
    shown = inside(units="m/s")
    shown.past[0, 0, 0, 0], shown.truth[0, 0, 11, 7] = -0.0937, 0
    page = opened(shown)
    box = page.locator("#truth").bounding_box()
    row, column = 11, 7
    page.locator("#truth").hover(
        position={"x": (column + 0.5) * box["width"] / W, "y": (row + 0.5) * box["height"] / H}
    )
    place = (0, 0, row, column)
    values = {
        "input": shown.past[-1][place[1:]],
        "forecast": shown.forecast[place],
        "truth": shown.truth[place],
    }
    values["error"] = values["forecast"] - values["truth"]
    for name, value in values.items():
        number, rest = text(page, name + "-value").split(" ", 1)
        assert float(number.replace("−", "-")) == pytest.approx(float(value), abs=1e-4), name
        assert rest == f"m/s at row {row}, column {column}"
    values = shown.values["encoder.0", "h"][K - 1, 0]
    number, rest = text(page, "map-value").split(" ", 1)
    step = np.ptp(shown.values["encoder.0", "h"][:, 0]) / 254
    value, within = float(values[row // 2, column // 2]), 0.51 * float(step) + 1e-4
    assert float(number.replace("−", "-")) == pytest.approx(value, abs=within)
    assert rest == f"at row {row // 2}, column {column // 2} of {H // 2} x {W // 2}"
    assert text(page, "truth-value").startswith("0 m/s")  # and not the nearest code, 7e-6
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    assert text(page, "truth-value").endswith(f"at row {row + 1}, column {column - 1}")


def test_a_map_of_padded_frames_lies_where_its_frame_does(opened):
    """Frames of 14 rows, padded to 16: maps of 4 rows stand for 4 pixels each."""
    shown = inside(size=(14, 20), values={("a", "h"): maps(K + L - 1, 1, (4, 5))})
    page = opened(shown)
    box = page.locator("#input").bounding_box()
    page.locator("#input").hover(position={"x": 2, "y": box["height"] * 11.9 / 14})
    assert text(page, "map-value").endswith("at row 2, column 0 of 4 x 5")


def test_what_is_not_there_is_said(opened):
    page = opened(inside(truth=inside().truth[:1]))
    assert page.locator("#truth-none").is_hidden()
    page.keyboard.press("ArrowRight")
    assert text(page, "truth-none") == "not known for this time"
    assert text(page, "error-none") == "needs the truth"
    page.locator("#step").fill("1")
    assert text(page, "forecast-none") == "no forecast while the past is read"
    page.locator("#layer").select_option("forecaster.0")
    assert text(page, "map-none") == "this layer begins with a later step"


def test_the_histogram_is_of_the_channel_that_is_shown(opened):
    values = np.zeros((K + L - 1, 2, 5, 8), np.float32)
    values[:, 1, :2] = -0.5
    values[:, 1, 2, :4] = 0.5
    page = opened(inside(values={("a", "h"): values}))
    assert text(page, "numbers") == "mean 0, standard deviation 0, 0 to 0"
    page.locator("#channel").select_option("1")
    one = values[0, 1]
    wanted = f"mean {one.mean():g}, standard deviation {one.std():.4g}, -0.5 to 0.5".replace("-", "−")
    assert text(page, "numbers") == wanted
    bars = page.evaluate("[...$('bins').children].map((bar) => +bar.getAttribute('height'))")
    heights = {k: height for k, height in enumerate(bars) if height}
    assert heights == pytest.approx(
        {0: 51.2, 20: 64, 39: 12.8}
    )  # 96 for a share of 0.75, that of 0 in all channels
    assert text(page, "low") == "−0.5"
    assert wanted in page.get_by_role("img", name="Histogram of channel 1").get_attribute("aria-label")


def test_everything_that_can_be_used_has_a_name(opened):
    page = opened()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[tabindex]")].filter(
            (one) => !(one.getAttribute("aria-label") || one.closest("label")?.textContent.trim())
        ).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    for name in ("Input t, channel 0: ", "Forecast +1, channel 0: "):
        assert page.get_by_role("img", name=name).count() == 1
    assert (
        page.get_by_role("img", name="encoder.0 (ConvLSTMCell), hidden state h, channel 0, step 3").count()
        == 1
    )


def test_hostile_names_are_shown_and_do_nothing(opened):
    bad = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    page = opened(
        inside(
            values={(bad, bad): maps(K + L - 1, 2, (4, 5)), ("b", bad): maps(K + L - 1, 2, (4, 5))},
            model=bad,
            variables=[bad, bad + "2"],
            units=bad,
            data=bad,
            times=[bad] * (K + L),
            channels=2,
        )
    )
    page.keyboard.press("l")
    page.keyboard.press("c")
    page.locator("#forecast").hover()
    drawn(page)
    assert page.evaluate("document.scripts.length") == 2
    assert page.locator("img, #trouble:visible").count() == 0
    assert page.locator("h1").inner_text() == bad
    assert page.locator("#layer option").first.inner_text() == bad


def test_a_damaged_page_says_so(browser, tmp_path):
    path, whole = tmp_path / "inside.html", inspector_page(inside())
    values = json.loads(re.findall(r'id="page">(.*?)</script>', whole)[0])
    newest = values["frames"]["past"][-1]
    path.write_text(whole.replace(newest, "A" * len(newest)))
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("#trouble").wait_for()
    assert page.locator("#trouble").inner_text().startswith("The page is damaged: ")
    page.close()
