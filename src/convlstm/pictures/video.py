"""Pictures as a video."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

#: Durations of a frame that the last one of an animation stays.
LAST = 5
_QUALITY = "12"  # constant rate factor of H.264: no loss that can be seen in flat colours


def mp4(pictures: Sequence["Image"], frame_ms: int) -> bytes:
    """An MP4 file (H.264, which every browser plays) of pictures of one size.

    Args:
        pictures: grey or RGB; a last row or column that makes a side odd is left out, which H.264 needs.
        frame_ms: duration of a frame; the last one stays five times as long.
    """
    import av

    file = io.BytesIO()
    width, height = (side // 2 * 2 for side in pictures[0].size)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", Fraction(1000, frame_ms), options={"crf": _QUALITY})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in [*pictures, *[pictures[-1]] * (LAST - 1)]:
            whole = picture.convert("RGB").crop((0, 0, width, height))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(whole))))
        container.mux(stream.encode())
    return file.getvalue()
