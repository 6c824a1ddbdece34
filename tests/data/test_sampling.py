"""Importance sampling of crops: preferred places, and weights that undo the preference."""

import numpy as np
import pytest

from convlstm.data.sampling import CropSampler, cells_of, interest_of_crops

CROP, SIZE = 8, (40, 56)
PLACES = SIZE[0] - CROP + 1, SIZE[1] - CROP + 1
CELLS = cells_of(PLACES[0], CROP), cells_of(PLACES[1], CROP)


def field():
    """Something in one corner only."""
    pixels = np.zeros(SIZE, np.float32)
    pixels[:10, :12] = 1
    return pixels


def draws(importance, count=4000):
    interest = np.stack([interest_of_crops(field(), (CROP, CROP), CELLS), np.zeros(CELLS)])
    sampler = CropSampler(interest, PLACES, importance)
    random = np.random.default_rng(1)
    return [sampler.draw(random) for _ in range(count)]


def test_interest_is_the_mean_over_the_crop():
    found = interest_of_crops(field(), (CROP, CROP), CELLS)
    rows = [int((k + 0.5) * PLACES[0] / CELLS[0]) for k in range(CELLS[0])]
    columns = [int((k + 0.5) * PLACES[1] / CELLS[1]) for k in range(CELLS[1])]
    slow = [[field()[r : r + CROP, c : c + CROP].mean() for c in columns] for r in rows]
    np.testing.assert_allclose(found, slow, atol=1e-7)


def test_crops_lie_inside_and_everywhere():
    found = draws(0)
    assert {crop.weight for crop in found} == {1.0}
    assert {crop.window for crop in found} == {0, 1}
    assert (min(crop.row for crop in found), max(crop.row for crop in found)) == (0, PLACES[0] - 1)
    assert (min(crop.column for crop in found), max(crop.column for crop in found)) == (0, PLACES[1] - 1)


def test_interesting_places_are_preferred_and_weighed_back():
    def share(crops, weights):
        inside = np.array([crop.window == 0 and crop.row < 8 and crop.column < 8 for crop in crops])
        return float((inside * weights).sum() / len(crops))

    uniform, preferred = draws(0), draws(0.8)
    ones, weights = np.ones(len(uniform)), np.array([crop.weight for crop in preferred])
    assert share(preferred, ones) > 5 * share(uniform, ones)
    assert share(preferred, weights) == pytest.approx(share(uniform, ones), rel=0.2)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert max(weights) <= 1 / 0.2 + 1e-9


def test_without_any_interest_all_crops_are_alike():
    sampler = CropSampler(np.zeros((3, *CELLS)), PLACES, 1.0)
    assert sampler.draw(np.random.default_rng(0)).weight == pytest.approx(1)
