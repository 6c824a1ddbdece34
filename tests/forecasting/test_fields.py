"""Forecasts in the dtype of their past."""

import numpy as np

from convlstm.forecasting.fields import as_dtype

VALUES = np.array([-3, 0, 100.4, 254.6, 400, np.nan], np.float32)


def test_no_measured_value_becomes_a_code_of_integers():
    assert as_dtype(VALUES, "u1", (255,)).tolist() == [0, 0, 100, 254, 254, 255]
    assert as_dtype(VALUES, "u1", (254, 255, 0)).tolist() == [1, 1, 100, 253, 253, 254]
    assert as_dtype(VALUES[:-1], "i2", (-3,)).tolist() == [-2, 0, 100, 255, 400]


def test_integers_take_a_code_that_they_can_hold():
    assert as_dtype(VALUES, "u1", (-9999.0, 0.5, 255.0))[-1] == 255
    assert as_dtype(VALUES, "u1", (-9999.0,)) is VALUES
