import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

Images = NDArray[np.uint8]


@pytest.fixture
def write_idx() -> Callable[[Path, Images], bytes]:
    """Write uint8 images (N, h, w) as the image files of an MNIST folder are written."""

    def write(path: Path, images: Images) -> bytes:
        content = struct.pack(">I3I", 0x00000803, *images.shape) + images.tobytes()
        if path.suffix == ".gz":
            content = gzip.compress(content, mtime=0)
        path.write_bytes(content)
        return content

    return write


@pytest.fixture
def mnist_folder(tmp_path: Path, write_idx: Callable[[Path, Images], bytes]) -> Path:
    """Forty images for training and ten for the test, 6 x 6, all different; one file plain, one gzipped."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    images = np.random.default_rng(5).integers(0, 256, (50, 6, 6), dtype=np.uint8)
    write_idx(folder / "train-images-idx3-ubyte.gz", images[:40])
    write_idx(folder / "t10k-images-idx3-ubyte", images[40:])
    return folder
