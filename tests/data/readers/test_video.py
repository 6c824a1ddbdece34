"""Reader of video files against a decoder that reads from the start to the end."""

import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from convlstm.data.readers.video import Video
from convlstm.errors import DataError, OptionError
from convlstm.testing import check_reader

REAL = Path(os.environ.get("CONVLSTM_DATA", "absent"))
_BLOCKS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
MOVING = [np.roll(_BLOCKS, 2 * k, 1) for k in range(75)]  # (H, W, 3), 64 x 96


def write(path, codec, pixels="yuv420p", frames=MOVING, flags=None, **options):
    with av.open(str(path), "w", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=Fraction(30000, 1001), options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def decoded(path, form="rgb24"):
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format=form) for frame in container.decode(video=0)])
    return frames if frames.ndim == 3 else np.moveaxis(frames, -1, 1)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "3"}),  # frames that are stored in another order
        ("a.mov", "mpeg4", {"g": "12", "bf": "2"}),
        ("a.avi", "mpeg4", {"g": "12"}),
        ("a.webm", "libvpx-vp9", {"cpu-used": "8"}),
        ("a.ts", "libx264", {"g": "12", "bf": "2"}),
        ("a.mpg", "mpeg2video", {"bf": "2"}),  # which cannot be searched exactly
    ],
)
def test_containers(tmp_path, name, codec, options):
    path = write(tmp_path / name, codec, **options)
    assert Video().recognises(path, path.read_bytes()[:4096])
    dataset = Video().read(path)
    assert dataset.frames.dims == ("time", "channel", "y", "x")
    assert dataset.frames.dtype == np.float32
    expected = decoded(path)
    assert dataset.frames.shape == expected.shape == (75, 3, 64, 96)
    np.testing.assert_array_equal(dataset.frames[40:45], expected[40:45])
    np.testing.assert_array_equal(dataset.frames, expected)
    assert dataset.channel.values.tolist() == ["red", "green", "blue"]
    assert dataset.frames.attrs == {"dtype": "uint8", "valid_range": (0, 255)}
    steps = np.diff(dataset.time.values)
    assert (steps == np.timedelta64(33366667, "ns")).all()  # 1001 / 30000 s, equal to the last digit


@pytest.mark.parametrize(("pixels", "top"), [("gray", 255), ("gray16le", 65535)])
def test_grey(tmp_path, pixels, top):
    path = write(tmp_path / "a.mkv", "ffv1", pixels, MOVING[:5])
    dataset = Video().read(path)
    assert dataset.frames.dims == ("time", "y", "x")
    np.testing.assert_array_equal(dataset.frames, decoded(path, pixels))
    assert dataset.frames.attrs["valid_range"] == (0, top)
    assert dataset.frames.max() > 0.8 * top


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "ffv1")])
def test_frames_that_time_stamps_skip_are_missing(tmp_path, name, codec):
    """Seven of them, and later one; a rate that varies is none of whole frames."""
    regular, varying = [*range(10), *range(17, 30), *range(31, 40)], [0, 10, 23, 29, 41, 57]
    for stamps, whole in ((regular, True), (varying, False)):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(30000, 1001))
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            for stamp in stamps:
                frame = av.VideoFrame.from_ndarray(MOVING[stamp], format="rgb24")
                frame.pts = stamp
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        times = Video().read(tmp_path / name).time.values / np.timedelta64(1, "s")
        steps = np.diff(times) / np.diff(times).min()
        np.testing.assert_allclose(steps, np.diff(stamps) if whole else 1)
        if whole:
            assert times[-1] == pytest.approx(39 * 1001 / 30000, abs=2e-3)


def test_only_a_few_frames_are_decoded_at_once(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", g="12")
    frames = Video().read(path).frames
    assert frames.chunks == ((32, 32, 11), (3,), (64,), (96,))
    large = write(tmp_path / "b.mp4", "libx264", frames=MOVING[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convlstm.data.readers.video._VALUES", 3 * 64 * 96)
        assert Video().read(large).frames.chunks[0] == (1, 1)


def test_damaged_files(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # an mp4 has its index at its end
    with pytest.raises(DataError, match="a.mp4 must be a whole, readable file"):
        Video().read(path)
    path.write_bytes(content)
    frames = Video().read(path).frames
    write(path, "libx264", frames=MOVING[:40])  # frames that are gone when they are asked for
    with pytest.raises(DataError, match="a.mp4 must be a whole.*11 frames are missing or damaged"):
        frames[64:].compute()


@pytest.mark.parametrize(
    ("name", "codec", "flags", "options"),
    [
        ("a.mp4", "libx264", "faststart", {"bf": "3"}),
        ("a.mov", "mpeg4", "faststart", {}),
        ("a.avi", "mpeg4", None, {}),
        ("a.mkv", "libx264", None, {"bf": "3"}),
        ("a.webm", "libvpx-vp9", None, {"cpu-used": "8"}),
    ],
)
def test_files_that_were_cut_between_two_packets(tmp_path, name, codec, flags, options):
    """Where decoders find a whole file with fewer frames, as the container says that there are more."""
    path = write(tmp_path / name, codec, flags=flags, frames=MOVING[:20], **options)
    content = path.read_bytes()
    with av.open(str(path)) as container:
        ends = sorted(packet.pos + packet.size for packet in container.demux(video=0) if packet.size)
    for end in ends[:-1]:
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=f"{name} must be a whole, readable file"):
            Video().read(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.ts", "libx264", {"g": "12", "bf": "2"}),
        ("a.mpg", "mpeg2video", {"bf": "2"}),
        ("a.flv", "flv", {}),
        ("a.mp4", "libx264", {"g": "12"}),
    ],
)
def test_streams_give_whole_frames_or_an_error(tmp_path, name, codec, options):
    """Formats that do not say how long they are, cut anywhere: no frame is filled with what was before."""
    path = write(tmp_path / name, codec, flags="frag_keyframe+empty_moov", **options)
    content, whole = path.read_bytes(), Video().read(path).load()
    read = failed = 0
    for size in range(len(content) // 3, len(content), len(content) // 50):
        path.write_bytes(content[:size])
        try:
            cut = Video().read(path).load()
        except DataError:
            failed += 1
            continue
        read += 1
        np.testing.assert_array_equal(cut.frames, whole.frames.sel(time=cut.time))
    assert read
    assert failed


def test_containers_that_do_not_know_their_size(tmp_path):
    """Those of live recordings: sizes of zero, or with all bits set, mean up to the end of the file."""
    for name, codec, unknown in (
        ("a.mp4", "libx264", b"\0\0\0\0mdat"),
        ("a.avi", "mpeg4", b"RIFF\xff\xff\xff\xff"),
        ("a.mkv", "ffv1", b"\x18\x53\x80\x67\x01" + 7 * b"\xff"),
    ):
        path = write(tmp_path / name, codec, flags="faststart", frames=MOVING[:5])
        content, expected = path.read_bytes(), decoded(path)
        place = content.index(unknown.strip(b"\0\xff\x01"))
        start = place - (4 if name == "a.mp4" else 0)
        path.write_bytes(content[:start] + unknown + content[start + len(unknown) :])
        assert path.read_bytes() != content
        np.testing.assert_array_equal(Video().read(path).frames, expected)


def test_sizes_that_count_their_header(tmp_path):
    """As some writers of AVI have them; bytes after the last frame are no damage either."""
    path = write(tmp_path / "a.avi", "mpeg4", frames=MOVING[:5])
    content, expected = path.read_bytes(), decoded(path)
    path.write_bytes(content[:4] + len(content).to_bytes(4, "little") + content[8:])
    np.testing.assert_array_equal(Video().read(path).frames, expected)
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "ffv1")):
        path = write(tmp_path / name, codec, frames=MOVING[:5])
        expected = decoded(path)
        path.write_bytes(path.read_bytes() + b"left behind")
        np.testing.assert_array_equal(Video().read(path).frames, expected)


def test_large_boxes(tmp_path):
    """Of a size in 64 bits, as those of more than 4 GiB have."""
    path = write(tmp_path / "a.mp4", "libx264", flags="faststart", frames=MOVING[:5])
    content, expected = path.read_bytes(), decoded(path)
    place = content.index(b"mdat") - 12  # an empty box before it has the room
    assert content[place : place + 8] == b"\0\0\0\x08free"
    large = b"\0\0\0\1mdat" + (len(content) - place).to_bytes(8, "big")
    path.write_bytes(content[:place] + large + content[place + 16 :])
    np.testing.assert_array_equal(Video().read(path).frames, expected)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="bytes missing at its end: 1"):
        Video().read(path)


def test_the_contract(tmp_path):
    # With the index at the start, so that a file that was cut has fewer frames than it says.
    check_reader(Video(), write(tmp_path / "a.mp4", "libx264", flags="faststart"))


def test_others_are_not_recognised(tmp_path):
    for head in (b"", b"GIF89a" + bytes(600), b"RIFF\0\0\0\0WEBP", b"\x89PNG"):
        assert not Video().recognises(tmp_path / "a", head)


def test_without_pyav(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", "libx264", frames=MOVING[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionError, match="a.mp4 needs PyAV, .* not installed: pip install 'convlstm.video"):
        Video().read(path)


@pytest.mark.skipif(not REAL.is_dir(), reason="CONVLSTM_DATA names no folder of real files")
@pytest.mark.parametrize(
    ("name", "shape", "step"),
    [("carphone_pristine.mp4", (120, 3, 144, 176), 33366667), ("bikes.mp4", (250, 3, 272, 640), 40000000)],
)
def test_real_files(name, shape, step):
    dataset = Video().read(REAL / "video" / name)
    assert dataset.frames.shape == shape
    assert dataset.time[1] == np.timedelta64(step, "ns")
    expected = decoded(REAL / "video" / name)[60:70]
    np.testing.assert_array_equal(dataset.frames[60:70], expected)
