"""Small images of single objects (digits, MNIST, Fashion-MNIST, own ones) in three disjoint splits."""

import gzip
import hashlib
import os
import struct
import urllib.request
from collections.abc import Mapping
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from convlstm.atomic_write import write_atomically, writing
from convlstm.data.base import Split
from convlstm.data.files import check_finite, read_array
from convlstm.errors import DataError, OptionError, check_name, reading
from convlstm.extras import check_installed
from convlstm.validation import check_instance, check_path, check_positive

Images = NDArray[np.uint8]

TRAIN_FILE, TEST_FILE = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"

#: Address of each collection, and the published MD5 sums of its two files of images.
MNIST_ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion-mnist": "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
}
MNIST_CHECKSUMS = {
    "mnist": {
        f"{TRAIN_FILE}.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        f"{TEST_FILE}.gz": "9fb629c4189551a2d022fa330f9573f3",
    },
    "fashion-mnist": {
        f"{TRAIN_FILE}.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"{TEST_FILE}.gz": "bef4ecab320f06d8554ea6380940ec79",
    },
}


def load_images(images: str | os.PathLike[str] | NDArray[Any], *, size: int = 28) -> dict[Split, Images]:
    """Read images of objects and divide them into splits.

    Duplicates are removed, so that an image is in one split only. Test images are the test file of an idx
    folder, otherwise a tenth of all; validation images are another tenth.

    Args:
        images: ``"digits"``, the 1797 handwritten digits of scikit-learn (8 x 8, enlarged smoothly within an
            empty margin; divided in their order, because neighbours are often written by one person); a
            folder with the image files of MNIST or Fashion-MNIST, plain or ``.gz``; an array (N, h, w) of
            uint8, or of floats in [0, 1], which are rounded to 1/255; or a ``.npy`` file with such an array.
        size: height and width of the images returned; others are padded to a square and resized (bicubic).

    Returns:
        (N, size, size), uint8, for each split.

    Raises:
        OptionError: an unknown name, or a size below 1.
        DataError: a file is missing, damaged or truncated; wrong shape, dtype or range; NaN; fewer than three
            different images.
    """
    check_positive(size, "size of images")
    if hasattr(images, "__array__"):
        return _divide(_by_content(_resize(_check_images(np.asarray(images), "the array"), size)))
    check_instance(images, (str, os.PathLike), "images", "give a name, a path or a numpy array")
    if str(images) == "digits":
        return _divide(_distinct(_resize(_digits(), size)))
    path = Path(images)
    if path.is_dir():
        return _divide_mnist(
            _resize(_read_idx(path, TRAIN_FILE), size), _resize(_read_idx(path, TEST_FILE), size)
        )
    if path.suffix == ".npy":
        return _divide(_by_content(_resize(_check_images(read_array(path), str(path)), size)))
    near = "; did you mean 'digits'?" if get_close_matches(str(images), ["digits"]) else ""
    raise OptionError(
        "images must be 'digits', an existing folder with MNIST files, a .npy file or an array; "
        f"received {str(images)!r}{near}"
    )


def download_mnist(
    folder: str | os.PathLike[str],
    name: str = "mnist",
    *,
    address: str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Path:
    """Download the image files of MNIST or Fashion-MNIST (11 or 31 MB).

    Files that exist with the right checksum are not downloaded again.

    Args:
        folder: destination; created if missing.
        name: ``mnist`` or ``fashion-mnist``.
        address: folder of the files on a mirror; None for the usual one.
        checksums: file name to MD5 sum, in hexadecimal; None for the published ones.

    Returns:
        the folder, an argument of `load_images`.

    Raises:
        OptionError: another name.
        DataError: the address cannot be reached, or a checksum differs.
        RunError: the folder cannot be written.
    """
    check_name(name, MNIST_ADDRESSES, "name of the images")
    address = (address or MNIST_ADDRESSES[name]).rstrip("/")
    folder = check_path(folder, "folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file, checksum in (checksums or MNIST_CHECKSUMS[name]).items():
        target = folder / file
        if target.exists() and _md5(target.read_bytes()) == checksum:
            continue
        try:
            with urllib.request.urlopen(f"{address}/{file}", timeout=60) as answer:
                content = answer.read()
        except (OSError, ValueError, HTTPException) as error:
            raise DataError(
                f"{address}/{file} must be reachable; the answer was '{error}': check the network, or copy "
                f"the file to {folder} yourself"
            ) from error
        if _md5(content) != checksum:
            raise DataError(
                f"{address}/{file} must have the MD5 sum {checksum}; received {len(content)} bytes with "
                f"the sum {_md5(content)}: try again or use another mirror"
            )
        write_atomically(target, content)
    return folder


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _digits() -> Images:
    """Digits of scikit-learn with a margin of a pixel, so that enlarged strokes fade out."""
    check_installed("sklearn", "images 'digits' need scikit-learn")
    from sklearn.datasets import load_digits

    grey_NHW = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    return np.pad(grey_NHW, ((0, 0), (1, 1), (1, 1)))


def _read_idx(folder: Path, name: str) -> Images:
    """Images of an idx file: two zero bytes, type 8 (uint8), rank 3, three big-endian sizes, the pixels."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise DataError(
            f"a folder with MNIST images must hold {TRAIN_FILE} and {TEST_FILE}, plain or .gz; "
            f"{folder} has no {name}: copy it there, or fetch both with download_mnist"
        )
    with reading(path, "be a whole, readable file", "copy or download it again"):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 16 or content[:4] != b"\0\0\x08\x03":
        raise DataError(
            f"{path} must be an idx file of images (it starts with the bytes 00 00 08 03); received "
            f"'{content[:4].hex(' ')}' and {len(content)} bytes in all: copy or download it again"
        )
    shape = struct.unpack(">3I", content[4:16])
    expected = 16 + shape[0] * shape[1] * shape[2]
    if len(content) != expected or 0 in shape:
        raise DataError(
            f"{path} must hold {shape[0]} images of {shape[1]} x {shape[2]}, {expected} bytes; "
            f"received {len(content)}: copy or download it again"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def _check_images(images: NDArray[Any], what: str) -> Images:
    if images.ndim != 3 or 0 in images.shape:
        raise DataError(
            f"images must be (N, h, w) with no empty axis; {what} has shape {images.shape}: reshape it"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(
            "images must be uint8, or floats in [0, 1]; "
            f"{what} has dtype {images.dtype}: convert it with astype"
        )
    check_finite(images, what, ("image", "row", "column"))
    if images.min() < 0 or images.max() > 1:
        raise DataError(
            f"images of floats must lie in [0, 1]; {what} has values from {images.min():g} "
            f"to {images.max():g}: divide by the value of white"
        )
    unit: Images = np.rint(images * 255).astype(np.uint8)
    return unit


def _resize(images_NHW: Images, size: int) -> Images:
    """Pad to a square and resize; memory for 4096 images at a time."""
    height, width = images_NHW.shape[1:]
    if (height, width) == (size, size):
        return images_NHW
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    margins = ((0, 0), (top, side - height - top), (left, side - width - left))
    resized = np.empty((len(images_NHW), size, size), np.uint8)
    for k in range(0, len(images_NHW), 4096):
        part_N1HW = torch.from_numpy(np.pad(images_NHW[k : k + 4096], margins))[:, None].float()
        smooth_N1HW = interpolate(part_N1HW, size=(size, size), mode="bicubic", antialias=True)
        resized[k : k + 4096] = smooth_N1HW[:, 0].round().clamp(0, 255)
    return resized


def _digest(image: Images) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _first(images: Images) -> dict[bytes, int]:
    """Index of the first image of each content, by digest."""
    return {_digest(image): k for k, image in reversed(list(enumerate(images)))}


def _distinct(images: Images) -> Images:
    """Unique images in the order given."""
    return images[sorted(_first(images).values())]


def _by_content(images: Images) -> Images:
    """Unique images sorted by their digests, as arrays are often sorted by class."""
    return images[[k for _, k in sorted(_first(images).items())]]


def _divide(images: Images) -> dict[Split, Images]:
    """Splits: the last tenth is for the test, the tenth before for validation, the rest for training."""
    if len(images) < 3:
        raise DataError(
            "images must include at least 3 different ones, one for each split; "
            f"received {len(images)}: add more"
        )
    share = max(1, len(images) // 10)
    return {"train": images[: -2 * share], "validation": images[-2 * share : -share], "test": images[-share:]}


def _divide_mnist(train: Images, test: Images) -> dict[Split, Images]:
    """Splits: the test file is the test split; the last tenth of the other file is for validation."""
    tested = _first(test)
    test = test[sorted(tested.values())]
    train = train[sorted(k for digest, k in _first(train).items() if digest not in tested)]
    if len(train) < 2:
        raise DataError(
            f"{TRAIN_FILE} must include at least 2 images that are not in {TEST_FILE}; "
            f"received {len(train)}: copy or download both again"
        )
    share = max(1, len(train) // 10)
    return {"train": train[:-share], "validation": train[-share:], "test": test}
