import gzip
import hashlib
import itertools
import os
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from skimage.transform import resize

from convlstm.data.mnist import MNIST_CHECKSUMS, download_mnist, load_images
from convlstm.errors import DataError, OptionError, RunError

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def contents(images):
    return {image.tobytes() for image in images}


def assert_apart(splits):
    for images in splits.values():
        assert len(contents(images)) == len(images) > 0
    for a, b in itertools.combinations(splits.values(), 2):
        assert not contents(a) & contents(b)


def random_images(count, size=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


def test_digits_are_shared_out_without_overlap():
    splits = load_images("digits", size=28)
    assert {name: images.shape for name, images in splits.items()} == {
        "train": (1439, 28, 28),
        "validation": (179, 28, 28),
        "test": (179, 28, 28),
    }
    assert all(images.dtype == np.uint8 for images in splits.values())
    assert_apart(splits)


def test_digits_keep_their_order_and_lie_within_an_empty_margin():
    from sklearn.datasets import load_digits

    small = np.pad(np.rint(load_digits().images[0] * 255 / 16).astype(np.uint8), 1)
    np.testing.assert_array_equal(load_images("digits", size=10)["train"][0], small)


def test_enlarging_is_smooth_and_keeps_the_picture():
    image = load_images("digits", size=10)["train"][3]
    large = load_images("digits", size=30)["train"][3]
    independent = np.clip(resize(image / 255.0, (30, 30), order=3, mode="edge"), 0, 1) * 255
    assert np.abs(large - independent).mean() < 4
    assert np.corrcoef(large.ravel(), independent.ravel())[0, 1] > 0.99
    assert len(np.unique(large)) > len(np.unique(image))


def test_images_that_are_not_square_are_padded_not_stretched():
    images = random_images(10)[:, :4]
    splits = load_images(images, size=6)
    every = np.concatenate(list(splits.values()))
    assert contents(every[:, 1:5]) == contents(images)
    assert not every[:, [0, 5]].any()


def test_an_array_is_shared_out_by_content_whatever_its_order():
    images = random_images(40)
    splits = load_images(images, size=6)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [32, 4, 4]
    assert_apart(splits)
    assert contents(np.concatenate(list(splits.values()))) == contents(images)
    again = load_images(np.concatenate([images[::-1], images]), size=6)
    for name in splits:
        np.testing.assert_array_equal(again[name], splits[name])


def test_images_that_become_equal_by_shrinking_count_once():
    images = random_images(12)
    black = np.zeros((3, 6, 6), np.uint8)
    black[0, 0, 0] = 1  # too faint to be left at 3 x 3
    splits = load_images(np.concatenate([images, black]), size=3)
    assert_apart(splits)
    assert sum(map(len, splits.values())) == 13


def test_floats_are_rounded_to_bytes():
    images = random_images(9)
    splits = load_images(np.clip((images - 0.4) / 255, 0, 1), size=6)
    assert contents(np.concatenate(list(splits.values()))) == contents(images)


def test_an_npy_file_is_the_array_in_it(tmp_path):
    np.save(tmp_path / "images.npy", random_images(20))
    from_file, given = load_images(tmp_path / "images.npy", size=6), load_images(random_images(20), size=6)
    assert all((from_file[name] == given[name]).all() for name in given)


def test_an_idx_folder_tests_on_the_test_file(mnist_folder):
    splits = load_images(mnist_folder, size=6)
    images = np.random.default_rng(5).integers(0, 256, (50, 6, 6), dtype=np.uint8)
    np.testing.assert_array_equal(splits["train"], images[:36])
    np.testing.assert_array_equal(splits["validation"], images[36:40])
    np.testing.assert_array_equal(splits["test"], images[40:])


def test_training_never_sees_a_test_image_that_is_also_in_the_training_file(mnist_folder, write_idx):
    images = random_images(30)
    write_idx(mnist_folder / f"{TRAIN}.gz", np.concatenate([images[:20], images[22:25], images[:5]]))
    write_idx(mnist_folder / TEST, np.concatenate([images[20:], images[20:22]]))
    splits = load_images(mnist_folder, size=6)
    assert_apart(splits)
    np.testing.assert_array_equal(splits["test"], images[20:])
    np.testing.assert_array_equal(np.concatenate([splits["train"], splits["validation"]]), images[:20])


@pytest.mark.skipif("CONVLSTM_DATA" not in os.environ, reason="real data only where CONVLSTM_DATA says")
def test_real_mnist():
    splits = load_images(Path(os.environ["CONVLSTM_DATA"], "mnist"), size=28)
    assert [len(images) for images in splits.values()] == [54000, 6000, 10000]
    assert_apart(splits)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"\(N, h, w\).*the array has shape \(4, 5\)"),
        (np.zeros((0, 5, 5), np.uint8), r"no empty axis.*\(0, 5, 5\)"),
        (np.zeros((4, 5, 5), np.int64), r"uint8, or floats.*dtype int64"),
        (np.full((4, 5, 5), 200.0), r"lie in \[0, 1\].*from 200 to 200: divide"),
        (np.full((4, 5, 5), -0.5), r"from -0.5 to -0.5"),
        (np.zeros((9, 5, 5), np.uint8), r"at least 3 different ones.*received 1"),
    ],
)
def test_unfit_arrays(images, message):
    with pytest.raises(DataError, match=message):
        load_images(images, size=5)


def test_nan_is_counted_and_located():
    images = random_images(9) / 255.0
    images[7, 2, 5] = images[8, 0, 0] = np.nan
    with pytest.raises(DataError, match="holds 2 NaN or infinite, the first at image 7, row 2, column 5"):
        load_images(images, size=6)


def test_misspelt_name_and_missing_places(tmp_path):
    with pytest.raises(OptionError, match="received 'digts'; did you mean 'digits'"):
        load_images("digts")
    with pytest.raises(OptionError, match="existing folder"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="does not exist"):
        load_images(tmp_path / "nothing.npy")
    with pytest.raises(DataError, match=f"has no {TRAIN}: copy it there"):
        load_images(tmp_path)
    with pytest.raises(OptionError, match="size of images must be at least 1; received 0"):
        load_images("digits", size=0)


@pytest.mark.parametrize("cut", [0, 3, 17, 200, -1])
def test_truncated_files(mnist_folder, cut):
    plain, zipped = mnist_folder / TEST, mnist_folder / f"{TRAIN}.gz"
    whole = plain.read_bytes()
    plain.write_bytes(whole[:cut])
    with pytest.raises(DataError, match=rf"{TEST} must .*copy or download it again"):
        load_images(mnist_folder, size=6)
    plain.write_bytes(whole)
    zipped.write_bytes(zipped.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"{TRAIN}.gz must .*copy or download it again"):
        load_images(mnist_folder, size=6)


def test_idx_file_of_another_kind(mnist_folder):
    labels = b"\0\0\x08\x01" + bytes([0, 0, 0, 20]) + bytes(20)
    (mnist_folder / f"{TRAIN}.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match="must be an idx file of images.*received '00 00 08 01'"):
        load_images(mnist_folder, size=6)


def test_damaged_npy(tmp_path):
    np.save(tmp_path / "images.npy", random_images(20))
    content = (tmp_path / "images.npy").read_bytes()
    (tmp_path / "images.npy").write_bytes(content[:-10])
    with pytest.raises(DataError, match="must be a whole, readable .npy"):
        load_images(tmp_path / "images.npy", size=6)


@pytest.fixture
def server(mnist_folder, monkeypatch):
    """An address on this machine that serves the folder, its checksums, and the list of requests it got."""
    monkeypatch.setenv("no_proxy", "*")
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    checksums = {
        name: hashlib.md5((mnist_folder / name).read_bytes()).hexdigest() for name in (f"{TRAIN}.gz", TEST)
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=mnist_folder)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", checksums, requests
        http.shutdown()
        thread.join()


def test_download(server, mnist_folder, tmp_path):
    address, checksums, requests = server
    folder = download_mnist(tmp_path / "new" / "mnist", address=address, checksums=checksums)
    fetched, source = load_images(folder, size=6), load_images(mnist_folder, size=6)
    assert all((fetched[name] == source[name]).all() for name in source)
    assert len(requests) == 2
    (folder / TEST).write_bytes(b"half")
    download_mnist(folder, address=address, checksums=checksums)
    assert requests[2:] == [f"/{TEST}"]  # what is there and whole is not fetched again
    assert sorted(file.name for file in folder.iterdir()) == sorted(checksums)


def test_download_of_something_else_is_not_kept(server, tmp_path):
    address, checksums, _ = server
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / TEST).write_bytes(b"mine")
    with pytest.raises(DataError, match=f"{TEST} must have the MD5 sum 0123"):
        download_mnist(tmp_path / "old", address=address, checksums=checksums | {TEST: "0123"})
    assert (tmp_path / "old" / TEST).read_bytes() == b"mine"
    with pytest.raises(DataError, match="missing.gz must be reachable.*404"):
        download_mnist(tmp_path / "old", address=address, checksums={"missing.gz": "0"})


def test_download_from_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        with pytest.raises(DataError, match="must be reachable.*check the network"):
            download_mnist(tmp_path, address=f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(OptionError, match="did you mean 'mnist'"):
        download_mnist(tmp_path, "mnst")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="must be writable"):
        download_mnist(tmp_path / "file", address="file:///nowhere")


def test_published_checksums_name_the_files_that_are_read():
    assert all(set(sums) == {f"{TRAIN}.gz", f"{TEST}.gz"} for sums in MNIST_CHECKSUMS.values())
    assert all(len(bytes.fromhex(md5)) == 16 for sums in MNIST_CHECKSUMS.values() for md5 in sums.values())
