"""The page of a forecast's inside: what it holds and says."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from inside_pages import K, L, inside, maps

from convlstm.errors import OptionError
from convlstm.pictures.colours import Scale, error_scale, paint, value_scale
from convlstm.plots.inspector import LIMIT, inspector_page


class Page(HTMLParser):
    """Tags, texts and the values of the script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        (plain,) = re.findall(r'<script type="application/json" id="page">(.*?)</script>', page, re.DOTALL)
        self.values = json.loads(plain)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def notes(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_needs_no_network():
    page = inspector_page(inside())
    assert "http" not in re.sub(r'http-equiv|"http://www.w3.org/2000/svg"', "", page)
    assert "default-src 'none'" in page
    for tag, attributes in Page(page).tags:
        assert tag not in ("iframe", "object", "base", "img")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    ids = [attributes["id"] for _, attributes in Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_frames_are_labelled_by_minutes_where_the_time_step_is_known():
    leads = Page(inspector_page(inside())).values["leads"]
    assert leads == ["t−2", "t−1", "t", "+1", "+2", "+3", "+4"]
    page = Page(inspector_page(inside(step_s=300.0)))
    assert page.values["leads"] == ["−10 min", "−5 min", "0 min", *(f"+{k} min" for k in (5, 10, 15, 20))]
    assert "3 frames in, 4 out (to +20 min)" in page.notes


def test_layers_end_with_the_last_step_of_the_forecast():
    layers = Page(inspector_page(inside())).values["layers"]
    assert [layer["name"] for layer in layers] == ["encoder.0 (ConvLSTMCell)", "forecaster.0"]
    assert [layer["first"] for layer in layers] == [0, K - 1]
    assert [value["name"] for value in layers[0]["values"]] == ["hidden state h", "forget gate f"]


def test_a_cell_that_is_called_twice_a_step_is_shown_after_its_last_call():
    steps = K + L - 1
    twice = maps(2 * steps, 2, (4, 5))
    page = Page(inspector_page(inside(values={("a", "h"): twice})))
    once = Page(inspector_page(inside(values={("a", "h"): twice[1::2]})))
    assert page.values["layers"] == once.values["layers"]
    assert len(page.values["layers"][0]["values"][0]["steps"]) == steps


def test_letters_of_a_gru_are_named_where_all_three_are_there():
    values = {("a", name): maps(2, 2, (4, 5)) for name in ("h", "r", "z", "n")}
    values |= {("b", name): maps(2, 2, (4, 5)) for name in ("h", "n")}
    first, second = Page(inspector_page(inside(values=values))).values["layers"]
    assert [value["name"] for value in first["values"]][1:] == [
        "reset gate r",
        "update gate z",
        "candidate n",
    ]
    assert [value["name"] for value in second["values"]] == ["hidden state h", "n"]


def test_colours_are_those_of_all_pictures():
    page = Page(inspector_page(inside()))
    for name, signed in (("grey", False), ("diverging", True)):
        table = np.frombuffer(base64.b64decode(page.values["colours"][name]), np.uint8).reshape(256, 3)
        ramp = np.linspace(-1 if signed else 0, 1, 256).reshape(1, 1, 1, 256)
        (wanted,) = paint(ramp, [Scale(-1 if signed else 0, 1)], signed=signed)
        np.testing.assert_array_equal(table, wanted[0, 0])
    shown = inside().values
    hidden, gate = (value["scale"] for value in page.values["layers"][0]["values"])
    ends = error_scale([shown["encoder.0", "h"]])
    assert (hidden["table"], hidden["low"], hidden["high"]) == ("diverging", ends.low, ends.high)
    ends = value_scale(shown["encoder.0", "f"])
    assert (gate["table"], gate["low"], gate["high"], gate["root"]) == ("grey", *ends)


def test_rain_has_the_classes_of_radar_and_its_gaps_a_colour():
    rain = inside(units="mm/h", variables=["rain_rate"])
    rain.past[0, 0, 0, 0] = np.nan
    legend = "</i>not measured</em>"
    assert legend not in inspector_page(inside(units="mm/h"))
    assert legend in inspector_page(rain)
    page = Page(inspector_page(rain))
    assert page.values["colours"]["bounds"][0] == 0.1
    assert page.values["colours"]["missing"] == [128, 128, 128]
    assert "value (mm/h)" in page.notes
    assert "rain_rate in mm/h" in page.notes


def test_a_page_within_its_limit_says_what_it_left_out():
    draw = np.random.default_rng(0)
    values = {("a", v): draw.standard_normal((12, 32, 64, 64)).astype(np.float32) for v in "hc"}
    values["a", "steps"] = np.zeros(12, np.float32)
    shown = inside(values=values)
    whole = inspector_page(shown)
    assert LIMIT == 15_000_000
    assert "Left out: maps" not in whole
    assert "Left out: steps, which are no maps" in Page(whole).notes
    small = inspector_page(shown, 400_000)
    assert len(small.encode()) <= 400_000
    notes = Page(small).notes
    assert "Left out: maps of layers are means of 2 x 2 pixels" in notes
    kept = len(Page(small).values["layers"][0]["values"][1]["channels"])
    assert (
        f"of the 32 channels of a, hidden state h, cell state c, all but the {kept} that vary most of each."
        in notes
    )
    assert 1 <= kept < 32


def test_the_stated_size_of_noise_that_compresses_least_scaled_down_fifty_times():
    """20 frames of 128 x 128 and three layers of 64 channels with h, c and four gates are 377 M values."""
    draw = np.random.default_rng(0)
    size, channels = (128, 128), 4
    values = {
        (f"cell_list.{k}", v): draw.random((5, channels, *size), dtype=np.float32)
        for k in range(3)
        for v in "hcifog"
    }
    shown = inside(values=values, size=size, past=3, steps=3)
    share = 5 * channels / (19 * 64)
    numbers = int(LIMIT * share)
    assert len(inspector_page(shown, numbers + 150_000).encode()) <= numbers + 150_000


def test_large_frames_are_means_that_the_page_states():
    large = inside(size=(96, 80))
    large.past[:] = np.random.default_rng(0).random(large.past.shape)
    page = inspector_page(large, 300_000)
    values = Page(page).values["frames"]
    assert values["size"] == [96, 80]
    r = values["reduction"]
    assert r > 1
    assert values["shown"] == [-(-96 // r), -(-80 // r)]
    assert f"Left out: frames are means of {r} x {r} pixels" in Page(page).notes


def test_names_are_text():
    bad = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    hostile = inside(
        values={(bad, bad): maps(2, 2, (4, 5))},
        model=bad,
        variables=[bad],
        units=bad,
        data=bad,
        cells={bad: bad},
        times=[bad] * (K + L),
    )
    tags = [tag for tag, _ in Page(inspector_page(hostile)).tags]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert Page(inspector_page(hostile)).values["layers"][0]["name"] == f"{bad} ({bad})"


def test_a_model_without_maps_is_refused():
    with pytest.raises(OptionError, match="must have recurrent cells with states"):
        inspector_page(inside(values={}))
    with pytest.raises(OptionError, match="must have recurrent cells with states"):
        inspector_page(inside(values={("a", "steps"): np.zeros(3, np.float32)}))


def test_values_that_are_not_finite_are_marked():
    values = maps(K + L - 1, 2, (4, 5))
    values[:, 0, 1, 1] = np.nan
    values[:, 1] = np.inf
    (layer,) = Page(inspector_page(inside(values={("a", "h"): values}))).values["layers"]
    (value,) = layer["values"]
    assert value["low"][1] == value["high"][1] == 0
    assert value["high"][0] == pytest.approx(np.nanmax(values[:, 0]))
