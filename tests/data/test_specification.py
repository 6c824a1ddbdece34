"""Texts of a specification."""

import pytest

from convlstm.data.specification import interval_text, span_text, unit_text


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        ("2016-07-11T23:05:00", "2016-07-12T00:00:00", "2016-07-11 23:05 to 2016-07-12 00:00"),
        ("2021-02-05T20:05:00", "2021-02-05T22:00:00", "2021-02-05 20:05 to 22:00"),
        ("1982-01-01T00:00:00", "2004-05-02T00:00:00", "1982-01-01 to 2004-05-02"),
        ("2021-02-05T20:05:00", "2021-02-05T20:05:00", "2021-02-05 20:05"),
        ("2021-02-05T20:05:07", "2021-02-05T20:05:14", "2021-02-05 20:05:07 to 20:05:14"),
        ("0 s", "5.72 s", "0 s to 5.72 s"),
    ],
)
def test_a_span_of_times_says_a_date_once_and_keeps_midnight(first, last, text):
    assert span_text(first, last) == text


def test_pure_numbers_have_no_unit_and_steps_are_said_after_every():
    assert (unit_text("1"), unit_text(""), unit_text("dBZ")) == ("no unit", "no unit", "dBZ")
    found = [interval_text(seconds) for seconds in (0.04, 300, 3600, 86400, 732 * 3600)]
    assert found == ["0.04 s", "5 minutes", "hour", "day", "30.5 days"]
