"""The command that lists the forecasters."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convlstm.cli.catalogue import catalogue, quantity
from convlstm.cli.main import main
from convlstm.workflows.models import Entry, models

ENTRIES = [
    Entry("Short", 999, 2_333_605_888, "A sentence. " * 12, "Wang et al. 2017, " * 5 + "2018"),
    Entry("AVeryMuchLongerNameIndeed", 23_838_720, 10**12, "One line.", ""),
]


@pytest.fixture(scope="module")
def listed():
    return models()


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_can_be_read(listed, monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["models"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= width
    first = lines[0].index("multiply-adds") + len("multiply-adds")
    for entry in listed:
        (k,) = (k for k, line in enumerate(lines) if line.split(" ")[0] == entry.name)
        assert lines[k][:first].split() == [
            entry.name,
            *quantity(entry.parameters).split(),
            *quantity(entry.multiply_adds).split(),
        ]
        assert (lines[k] + "  ")[first - 1 : first + 2] in ("G  ", "T  ", "M  ")
        below = [line for line in lines[k + 1 :] if line.startswith("  ")]
        assert entry.summary.split()[0] in " ".join(below)
    assert "next: convlstm train --model NAME" in shown.out
    assert "nothing else is counted" in " ".join(lines)


def test_the_list_as_json(listed, capsys):
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [entry.to_dict() for entry in listed]


def test_long_names_sources_and_sentences_are_wrapped():
    lines = catalogue(ENTRIES, 80).plain.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:9] == [
        "name                       parameters  multiply-adds  source",
        "Short                             999         2.33 G  Wang et al. 2017, Wang et",
        "                                                      al. 2017, Wang et al.",
        "                                                      2017, Wang et al. 2017,",
        "                                                      Wang et al. 2017, 2018",
        "  A sentence. A sentence. A sentence. A sentence. A sentence. A sentence. A",
        "  sentence. A sentence. A sentence. A sentence. A sentence. A sentence.",
        "AVeryMuchLongerNameIndeed      23.8 M         1.00 T",
        "  One line.",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (9994, "9.99 k"),
        (9995, "10.0 k"),
        (99_950, "100 k"),
        (480_784, "481 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (115_946_815_488, "116 G"),
        (10**15, "1000 T"),
    ],
)
def test_a_count_has_three_digits(number, text):
    assert quantity(number) == text


@given(st.integers(1, 10**14))
def test_a_count_is_as_large_as_it_says(number):
    scaled, _, prefix = quantity(number).partition(" ")
    power = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert float(scaled) * power == pytest.approx(number, rel=5.1e-3)
    assert len(scaled.replace(".", "")) == 3 or not prefix
