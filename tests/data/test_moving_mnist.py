import hashlib
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from convlstm.data.mnist import MNIST_ADDRESSES, MNIST_CHECKSUMS
from convlstm.data.moving_mnist import MovingObjects, bounce
from convlstm.errors import ConvLSTMError, DataError, OptionError

IMAGES = np.random.default_rng(3).integers(1, 256, (30, 4, 4), dtype=np.uint8)


def small(**options):
    return MovingObjects(**({"images": IMAGES, "canvas": 12, "object_size": 4} | options))


@pytest.mark.parametrize(
    ("place", "velocity", "room", "expected"),
    [
        (0.75, 0.125, 8, [7, 8, 7, 6, 5, 4]),  # reaches the wall exactly
        (0.875, 0.25, 8, [8, 6, 4, 2, 0, 2]),  # would pass it: stops there, then a whole step back
        (0.125, -0.25, 8, [0, 2, 4, 6, 8, 6]),
        (0.5, 0.125, 36, [22, 27, 31, 36, 31, 27]),  # 22.5, 27, 31.5, 36, ... truncated
        (0.3, 0.0, 10, [3, 3, 3, 3, 3, 3]),
        (0.3, 0.4, 0, [0, 0, 0, 0, 0, 0]),  # as large as the canvas
    ],
)
def test_bounce_by_hand(place, velocity, room, expected):
    assert bounce(place, velocity, 6, room) == expected


@given(
    place=st.floats(0, 1, exclude_max=True),
    velocity=st.floats(-1, 1),
    room=st.integers(0, 200),
    n=st.integers(2, 50),
)
def test_objects_stay_inside_and_keep_their_speed_between_walls(place, velocity, room, n):
    pixels = bounce(place, velocity, n, room)
    assert len(pixels) == n
    assert all(0 <= pixel <= room for pixel in pixels)
    for before, after in pairwise(pixels):
        if 0 < after < room:  # a step that ends at a wall may be cut short
            assert abs(abs(after - before) - abs(velocity) * room) <= 1


def slow_reference(images, seed, code, index, canvas, size, count, speed, length):
    """The protocol once more, a pixel at a time."""
    draws = np.random.Generator(np.random.PCG64([seed, code, index])).random(4 * count)
    frames = np.zeros((length, *canvas))
    for j in range(count):
        choice, y, x, turn = (float(v) for v in draws[4 * j : 4 * j + 4])
        image = images[math.floor(choice * len(images))]
        vy, vx = speed * math.sin(2 * math.pi * turn), speed * math.cos(2 * math.pi * turn)
        for t in range(length):
            y, x = y + vy, x + vx
            if not 0 < y < 1:
                y, vy = min(max(y, 0.0), 1.0), -vy
            if not 0 < x < 1:
                x, vx = min(max(x, 0.0), 1.0), -vx
            top, left = math.floor(y * (canvas[0] - size)), math.floor(x * (canvas[1] - size))
            for r in range(size):
                for c in range(size):
                    frames[t, top + r, left + c] = max(frames[t, top + r, left + c], image[r, c] / 255)
    return frames


@settings(max_examples=40, deadline=None)
@given(
    canvas=st.tuples(st.integers(4, 12), st.integers(4, 12)),
    size=st.integers(1, 4),
    count=st.integers(1, 4),
    speed=st.floats(0, 1),
    split=st.sampled_from(["train", "validation", "test"]),
    seed=st.integers(0, 2**40),
    index=st.integers(0, 9),
    past=st.integers(1, 5),
)
def test_canvas_equals_the_slow_reference(canvas, size, count, speed, split, seed, index, past):
    source = MovingObjects(
        images=IMAGES,
        canvas=canvas,
        object_size=size,
        count=count,
        speed=speed,
        seed=seed,
        past=past,
        steps=4,
    )
    window = source.split(split)[index]
    assert window.past.shape == (past, 1, *canvas)
    assert window.future.shape == (4, 1, *canvas)
    assert window.past.dtype == window.future.dtype == torch.float32
    code = ["train", "validation", "test"].index(split)
    expected = slow_reference(source.images[split], seed, code, index, canvas, size, count, speed, past + 4)
    np.testing.assert_array_equal(torch.cat(window)[:, 0].numpy(), expected.astype(np.float32))


def test_sequences_do_not_change_between_versions():
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for frames in small().split(split)[7]:
            digest.update((frames * 255).round().byte().numpy().tobytes())
    assert digest.hexdigest()[:16] == "fa5139f4e9003c2e"


def test_default_is_the_published_protocol():
    source = MovingObjects()
    window = source.split("test")[0]
    assert window.past.shape == window.future.shape == (10, 1, 64, 64)
    assert source.images["test"].shape[1:] == (28, 28)
    assert 0 == window.past.min() < 0.9 < window.past.max() <= 1
    assert (source.past, source.steps, source.channels) == (10, 10, 1)
    assert source.describe() == (
        "moving objects: 2 of 1797 digits images, 28 x 28 on 64 x 64 pixels, speed 0.1, "
        "10 frames to 10, seed 0"
    )


def test_same_sequences_on_any_number_of_workers_and_in_any_order():
    windows = small(train_size=12).split("train")
    alone = list(DataLoader(windows, batch_size=4))
    shared = list(DataLoader(windows, batch_size=4, num_workers=2))
    assert len(alone) == 3
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.past, b.past)
        assert torch.equal(a.future, b.future)
    last = small(train_size=12).split("train")[11]
    assert torch.equal(last.past, alone[2].past[3])


def test_every_index_seed_and_split_gives_another_sequence():
    sequences = [
        small(seed=seed).split(split)[k] for seed in (0, 1) for split in ("train", "test") for k in range(5)
    ]
    assert len({torch.cat(window).numpy().tobytes() for window in sequences}) == 20


def test_training_is_endless_the_rest_is_not():
    source = small(train_size=3, validation_size=4, test_size=5)
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [3, 4, 5]
    assert [source.split(name).endless for name in ("train", "validation", "test")] == [True, False, False]
    assert source.split("train")[10**9].past.shape == (10, 1, 12, 12)
    assert len(list(source.split("test"))) == 5
    with pytest.raises(IndexError, match="from 0 to 3; received 4"):
        source.split("validation")[4]
    with pytest.raises(IndexError, match="received -1"):
        source.split("train")[-1]


def test_a_split_shows_only_its_own_images():
    source = small(count=1, canvas=4, past=1, steps=1)
    for name in ("train", "validation", "test"):
        windows = source.split(name)
        shown = {(windows[k].past * 255).round().byte().numpy().tobytes() for k in range(300)}
        assert shown == {image.tobytes() for image in source.images[name]}


def test_idx_folder(mnist_folder):
    source = MovingObjects(images=mnist_folder, canvas=16, object_size=6)
    assert source.split("test")[0].past.shape == (10, 1, 16, 16)
    assert "2 of 50 mnist images" in source.describe()


def test_download_fills_the_folder_first(mnist_folder, tmp_path, monkeypatch):
    files = list(mnist_folder.iterdir())
    sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in files}
    monkeypatch.setitem(MNIST_ADDRESSES, "fashion-mnist", mnist_folder.as_uri())
    monkeypatch.setitem(MNIST_CHECKSUMS, "fashion-mnist", sums)
    folder = tmp_path / "fashion-mnist"
    source = MovingObjects(images=folder, download=True, object_size=6)
    assert len(source.images["test"]) == 10
    with pytest.raises(OptionError, match="folder called mnist or fashion-mnist.*received 'digits'"):
        MovingObjects(download=True)
    for images in (IMAGES, torch.from_numpy(IMAGES)):
        with pytest.raises(OptionError, match="received an array"):
            small(images=images, download=True)


def test_images_may_be_a_tensor():
    source = small(images=torch.from_numpy(IMAGES))
    assert "given images" in source.describe()
    assert torch.equal(source.split("test")[0].past, small().split("test")[0].past)


@pytest.fixture
def test_file(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, 7, 12, 12), dtype=np.uint8)
    np.save(tmp_path / "fixed.npy", frames)
    return tmp_path / "fixed.npy"


def test_fixed_test_file(test_file):
    source = small(test_file=test_file, past=10, steps=8)
    windows = source.split("test")
    assert len(windows) == 7
    expected = np.load(test_file)[:, 5].astype(np.float32)[:, None] / np.float32(255)
    for windows_or_copy in (windows, pickle.loads(pickle.dumps(windows))):
        window = windows_or_copy[5]
        np.testing.assert_array_equal(window.past.numpy(), expected[:10])
        np.testing.assert_array_equal(window.future.numpy(), expected[10:18])
    assert len(pickle.dumps(windows)) < 1000  # the path travels to the workers, not the frames
    assert source.describe().endswith("test sequences from fixed.npy")
    assert source.split("train").endless
    with pytest.raises(IndexError):
        windows[7]


def test_fixed_test_file_is_not_read_into_memory(tmp_path):
    shape = (20, 500_000, 12, 12)  # 1.4 GB, of which the file system stores nothing
    np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=shape)[:, [0, -1]] = (
        255
    )
    windows = small(test_file=tmp_path / "large.npy").split("test")
    assert isinstance(windows._frames_TNHW, np.memmap)
    assert windows[499_999].future.min() == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 7, 12), np.uint8), r"uint8 \(T, N, 12, 12\).*is uint8 \(20, 7, 12\)"),
        (np.zeros((20, 7, 12, 12), np.float32), "is float32"),
        (np.zeros((20, 7, 64, 64), np.uint8), "change the canvas"),
        (np.full((19, 7, 12, 12), 255, np.uint8), r"past \+ steps = 20 frames.*has 19: ask for fewer"),
        (np.full((7, 20, 12, 12), 255, np.uint8), "has 7: swap its first two axes"),
        (np.ones((20, 7, 12, 12), np.uint8), "none above 1: multiply it by 255"),
    ],
)
def test_unfit_test_file(tmp_path, array, message):
    np.save(tmp_path / "fixed.npy", array)
    with pytest.raises(DataError, match=message):
        small(test_file=tmp_path / "fixed.npy")


def test_a_test_file_of_sequences_by_frames_is_refused(tmp_path):
    """With as many sequences as frames it was taken, and frames of other sequences followed each other."""
    windows = small(past=10, steps=10, test_size=30).split("test")
    frames = np.stack([torch.cat(windows[k])[:, 0].numpy() for k in range(30)])  # (N, T, H, W)
    frames = np.rint(frames * 255).astype(np.uint8)
    np.save(tmp_path / "a.npy", np.swapaxes(frames, 0, 1))
    assert len(small(test_file=tmp_path / "a.npy", past=10, steps=10).split("test")) == 30
    np.save(tmp_path / "b.npy", frames)
    with pytest.raises(
        DataError, match="neighbours along the second are more alike: swap its first two axes"
    ):
        small(test_file=tmp_path / "b.npy", past=10, steps=10)


def test_missing_and_truncated_test_file(test_file, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        small(test_file=tmp_path / "none.npy")
    test_file.write_bytes(test_file.read_bytes()[:-5])
    with pytest.raises(DataError, match="must be a whole, readable .npy"):
        small(test_file=test_file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1; received 0"),
        ({"past": 0}, "past must be at least 1"),
        ({"steps": -1}, "steps must be at least 1; received -1"),
        ({"train_size": 0}, "train_size must be at least 1"),
        ({"object_size": 13}, "at most the canvas, 12 x 12; received 13"),
        ({"canvas": (12, 3)}, "at most the canvas, 12 x 3"),
        ({"speed": 1.5}, "speed must be at least 0 and at most 1; received 1.5"),
        ({"speed": math.nan}, "received nan"),
        ({"seed": -1}, "seed must be at least 0; received -1"),
        ({"seed": 10**24}, "seed must be at most"),
        ({"seed": 0.5}, "seed must be an integer of at least 0; received 0.5"),
        ({"train_size": 1.5}, "train_size must be an integer of at least 1; received 1.5"),
        ({"count": True}, "count must be an integer of at least 1; received True"),
        ({"past": "ten"}, "past must be an integer of at least 1; received 'ten'"),
        ({"canvas": "64"}, "canvas must have one entry per space axis"),
        ({"canvas": (12, 12, 12)}, "canvas must have one entry per space axis"),
        ({"canvas": 12.0}, "canvas must have one entry per space axis .*received 12.0"),
        ({"speed": "fast"}, "speed must be at least 0 and at most 1; received 'fast'"),
        ({"images": None}, "images must be a str or a PathLike; received None"),
        ({"images": 3}, "images must be a str or a PathLike; received 3"),
        ({"test_file": 3}, "test_file must be a path; received 3"),
        ({"download": "no"}, "download must be True or False; received 'no'"),
    ],
)
def test_options_outside_their_range(options, message):
    with pytest.raises(OptionError, match=message):
        small(**options)


def test_unknown_split():
    with pytest.raises(ConvLSTMError, match="did you mean 'train'"):
        small().split("trian")
