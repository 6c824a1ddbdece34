"""Texts of a specification."""

import numpy as np
import pytest
import xarray as xr

from convlstm.data.opening import open_frames
from convlstm.data.specification import interval_text, span_text, unit_text
from convlstm.data.specify import grid_of


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


@pytest.mark.parametrize("ascending", [True, False])
def test_spacing_of_longitudes_that_wrap_round(ascending):
    for longitudes in ([350, 355, 0, 5, 10], [170, 175, 180, -175, -170], [0, 5, 10, 15, 20]):
        places = np.array(longitudes if ascending else longitudes[::-1], np.float32)
        data = xr.Dataset(
            {"t": (("time", "lat", "lon"), np.zeros((1, 3, 5)))}, {"lat": [50.0, 49.0, 48.0], "lon": places}
        )
        grid = grid_of(open_frames(data))
        assert grid["spacing"] == [1.0, 5.0]
        assert grid["ascending"] == [False, ascending]
