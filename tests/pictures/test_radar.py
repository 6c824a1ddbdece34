"""Colours of weather radar."""

import numpy as np
import pytest

from convlstm.data.units import ZR
from convlstm.errors import ShapeError
from convlstm.pictures.radar import DRY, NOT_MEASURED, TABLES, paint_radar


@pytest.mark.parametrize("unit", TABLES)
def test_the_three_states_of_a_pixel_and_the_classes_of_rain(unit):
    table = TABLES[unit]
    bounds = np.array(table.bounds)
    values = np.array([-32.0, bounds[0] - 1e-3, *bounds, bounds[-1] * 10, np.nan])
    (pixels,) = paint_radar(values[None, None, None], table)
    expected = [DRY, DRY, *table.colours, table.colours[-1], NOT_MEASURED]
    assert [tuple(pixel) for pixel in pixels[0, 0]] == expected
    assert len(set(expected)) == len(table.colours) + 2


def test_both_tables_have_about_the_same_classes():
    rates, dbz = (np.array(TABLES[unit].bounds, np.float32) for unit in ("mm/h", "dBZ"))
    np.testing.assert_allclose(ZR().reflectivity(rates), dbz, atol=1.2)


def test_every_channel_is_a_picture_and_other_shapes_are_refused():
    table = TABLES["mm/h"]
    frames = np.zeros((2, 3, 4, 5))
    frames[:, 1] = 7
    pictures = paint_radar(frames, table)
    assert [picture.shape for picture in pictures] == [(2, 4, 5, 3)] * 3
    assert tuple(pictures[1][0, 0, 0]) == table.colours[5]
    with pytest.raises(ShapeError, match=r"frames must be \(T, C, H, W\)"):
        paint_radar(frames[0], table)
