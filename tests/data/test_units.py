"""Conversions between units, against figures worked out by hand."""

import numpy as np
import pytest

from convlstm.data.units import ZR, conversion, time_text, times_text, unit_named
from convlstm.errors import DataError


def converted(value, source, target, **options):
    return float(conversion(source, target, **options)(np.array([value], np.float32))[0])


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (23.0103, "dBZ", "mm/h", 1.0),  # Z = 200
        (39.0103, "dBZ", "mm/h", 10.0),
        (1.0, "mm h-1", "dBZ", 23.0103),
        (0.25, "mm", "mm/h", 3.0),  # in five minutes
        (3.0, "mm/hr", "kg m-2", 0.25),
        (0.001, "m", "mm", 1.0),
        (1 / 3600, "kg m-2 s-1", "mm/h", 1.0),
        (273.15, "K", "degC", 0.0),
        (-273.15, "celsius", "kelvin", 0.0),
        (32.0, "degF", "degC", 0.0),
        (98.6, "Fahrenheit", "K", 310.15),
        (-40.0, "degC", "degrees_Fahrenheit", -40.0),
    ],
)
def test_converts_exactly(value, source, target, expected):
    assert converted(value, source, target, step_s=300) == pytest.approx(expected, abs=1e-4)


def test_dry_stays_dry_and_missing_stays_missing():
    zr = ZR(a=300, b=1.5, dry_dbz=-10)
    rates = conversion("dBZ", "mm/h", zr=zr)(np.array([-10, -32, np.nan, 40], np.float32))
    np.testing.assert_allclose(rates, [0, 0, np.nan, (10**4 / 300) ** (1 / 1.5)], rtol=1e-5)
    back = conversion("mm/h", "dBZ", zr=zr)(np.array([0, 1e-9, np.nan, rates[3]], np.float32))
    np.testing.assert_allclose(back, [-10, -10, np.nan, 40], rtol=1e-5)


@pytest.mark.parametrize(("target", "dry"), [("dBZ", -10), ("mm/h", 0), ("mm", 0)])
def test_minus_infinity_dbz_is_dry(target, dry):
    convert = conversion("dBZ", target, zr=ZR(dry_dbz=-10), step_s=300)
    found = convert(np.array([-np.inf, np.nan], np.float32))
    np.testing.assert_array_equal(found, np.float32([dry, np.nan]))


def test_an_accumulation_needs_its_period():
    for units in (("mm", "mm/h"), ("mm/h", "m"), ("mm", "dBZ")):
        with pytest.raises(DataError, match="received {} for {}: give the frames times".format(*units)):
            conversion(*units)


def test_what_converts_to_nothing_is_refused():
    with pytest.raises(DataError, match="received 'K': convert them, or declare the unit"):
        conversion("kelvin", "mm/h")


@pytest.mark.parametrize("text", ["mm/h", "mm hr-1", "MM/H", "mm h^-1"])
def test_spellings(text):
    assert unit_named(text) == "mm/h"


def test_an_unknown_unit_keeps_its_name():
    assert unit_named(" psu ") == "psu"


def test_times_in_words():
    found = [time_text(seconds) for seconds in (0.5, 300, 86400, 7 * 86400, 30.5 * 86400, 2629746)]
    assert found == ["0.5 s", "300 s", "86400 s", "7 days", "30.5 days", "30.4369 days"]
    assert times_text((300, 900)) == "300 to 900 s"
    assert times_text((28 * 86400, 31 * 86400)) == "28 to 31 days"
    assert times_text((86400, 31 * 86400)) == "86400 s to 31 days"
    assert times_text((600, 600)) == "600 s"
