"""Frames that are made smaller to be shown."""

import numpy as np
import pytest
from PIL import Image

from convlstm.data.units import ZR
from convlstm.pictures.frames import animation, film_strip
from convlstm.pictures.radar import DRY, TABLES
from convlstm.pictures.sizes import resize


def showers():
    """Rain rates of 1 x 400 x 400 in mm/h: in every square of 4 pixels one of 10 mm/h, dry on the left."""
    rates = np.zeros((1, 1, 400, 400), np.float32)
    rates[..., 1::2, 201::2] = 10
    return rates


def test_reflectivity_is_averaged_by_its_power():
    """2.5 mm/h of 4 pixels is the mean of the rates, 33 dBZ that of the power; of the decibels it is -14."""
    dbz = ZR().reflectivity(showers())
    small, _ = resize({"dBZ": dbz, "error": dbz - 10}, decibels=["dBZ"])
    assert small["dBZ"].shape == (1, 1, 134, 134)
    reduced, _ = resize({"dBZ": dbz[..., :396, :396]}, side=67, decibels=["dBZ"])
    assert reduced["dBZ"].shape == (1, 1, 198, 198)
    np.testing.assert_allclose(reduced["dBZ"][..., 110:], 39.01 - 10 * np.log10(4), atol=0.01)
    np.testing.assert_allclose(reduced["dBZ"][..., :90], -32, atol=1e-3)
    assert small["error"].min() == pytest.approx(-42)  # differences are averaged as they are


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_pictures_of_reflectivity_keep_its_showers(tmp_path, ending):
    frames, path = ZR().reflectivity(showers()).repeat(2, axis=0), tmp_path / f"a.{ending}"
    if ending == "png":
        film_strip({"forecast": frames}, limits=TABLES["dBZ"]).save(path)
    else:
        animation({"forecast": np.tile(frames, (1, 1, 2, 4))}, path, limits=TABLES["dBZ"])
    with Image.open(path) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    wet = [(np.abs(colours - np.array(each)).sum(1) < 9).sum() for each in TABLES["dBZ"].colours]
    assert (np.abs(colours - np.array(DRY)).sum(1) < 9).sum() > 5000
    assert sum(wet[3:]) > 5000  # from 23 dBZ on


@pytest.mark.parametrize("colour", [(60, 60, 60), (60, 120, 180)])
def test_images_of_bytes_that_are_made_smaller_keep_their_colours(colour):
    """As numbers of another type they were stretched, and red, green and blue were three grey rows."""
    channels = 1 if len(set(colour)) == 1 else 3
    frames = np.zeros((1, channels, 400, 400), np.uint8)
    frames[:, :, :, :200] = np.array(colour[:channels], np.uint8).reshape(1, -1, 1, 1)
    pixels = np.asarray(film_strip({"truth": frames})).reshape(-1, 3)
    assert (pixels == colour).all(1).sum() >= 134 * 66
