"""Reader of images against the pixels that Pillow saved."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from convlstm.data.files import read_frames
from convlstm.data.readers.images import Images
from convlstm.errors import DataError, OptionError
from convlstm.testing.layers import judge
from convlstm.testing.readers import READER_CHECKS

RANDOM = np.random.default_rng(1)
GREY = RANDOM.integers(0, 256, (5, 6, 8), dtype=np.uint8)  # (T, H, W)
COLOUR = RANDOM.integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)  # (T, H, W, 3)
FEW = COLOUR // 128 * 255  # eight colours, which a palette holds exactly
DEEP = RANDOM.integers(0, 65536, (6, 8), dtype=np.uint16)


def read(path):
    assert Images().recognises(path, path.read_bytes()[:4096])
    return Images().read(path)


def png(*parts):
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "pgm", "webp"])
def test_grey(tmp_path, ending):
    if ending == "webp":  # which has colours only
        Image.fromarray(GREY[0]).save(tmp_path / "a.webp", lossless=True)
        np.testing.assert_array_equal(read(tmp_path / "a.webp").frames, GREY[:1, None].repeat(3, 1))
        return
    Image.fromarray(GREY[0]).save(tmp_path / f"a.{ending}")
    dataset = read(tmp_path / f"a.{ending}")
    assert dataset.frames.dims == ("time", "y", "x")
    assert dataset.frames.dtype == np.float32
    np.testing.assert_array_equal(dataset.frames, GREY[:1])  # the codes of the file, not scaled
    assert dataset.frames.attrs == {"dtype": "uint8", "valid_range": (0, 255)}
    np.testing.assert_array_equal(dataset.time, np.zeros(1, "timedelta64[ns]"))


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "ppm"])
def test_colour(tmp_path, ending):
    Image.fromarray(COLOUR[0]).save(tmp_path / f"a.{ending}")
    dataset = read(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(dataset.frames, COLOUR[:1].transpose(0, 3, 1, 2))
    assert dataset.channel.values.tolist() == ["red", "green", "blue"]


@pytest.mark.parametrize("code", ["-9999", "-9999.0 ", "-3.4028234663852886e+38", "nan", "255", "none"])
def test_what_a_geotiff_says_is_not_measured(tmp_path, code):
    expected = RANDOM.integers(0, 255, (6, 8)).astype(np.float32)
    stored = expected.copy()
    if code != "none":
        expected[2, 3], stored[2, 3] = np.nan, np.float32(code)
    image = Image.fromarray(stored.astype(np.uint8) if code == "255" else stored)
    image.save(tmp_path / "a.tif", tiffinfo={42113: code})
    np.testing.assert_array_equal(read(tmp_path / "a.tif").frames[0], expected)


def test_sixteen_bits_floats_bits_and_transparency(tmp_path):
    for ending in ("png", "tif"):
        Image.fromarray(DEEP).save(tmp_path / f"a.{ending}")
        dataset = read(tmp_path / f"a.{ending}")
        np.testing.assert_array_equal(dataset.frames[0], DEEP)
        assert dataset.frames.attrs == {"dtype": "uint16", "valid_range": (0, 65535)}
    rates = RANDOM.normal(size=(6, 8)).astype(np.float32)
    rates[2, 3] = np.nan
    Image.fromarray(rates).save(tmp_path / "f.tif")
    np.testing.assert_array_equal(read(tmp_path / "f.tif").frames[0], rates)
    assert read(tmp_path / "f.tif").frames.attrs == {"dtype": "float32"}
    Image.fromarray(GREY[0] > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path / "b.png").frames[0], (GREY[0] > 99) * 255)
    clear = Image.fromarray(COLOUR[0]).convert("RGBA")
    clear.putalpha(7)
    clear.save(tmp_path / "c.png")
    np.testing.assert_array_equal(read(tmp_path / "c.png").frames[0], COLOUR[0].transpose(2, 0, 1))


@pytest.mark.parametrize("greatest", [1, 100, 254, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", ["P2", "P5"])
def test_codes_of_a_pgm_are_not_scaled(tmp_path, greatest, magic):
    """Pillow scales them to 255 or 65535."""
    codes = np.linspace(0, greatest, 48).round().reshape(6, 8)
    binary = codes.astype("u1" if greatest < 256 else ">u2").tobytes()
    text = " ".join(map(str, codes.astype(int).ravel())).encode()
    content = f"{magic}\n8 6\n{greatest}\n".encode() + (binary if magic == "P5" else text)
    (tmp_path / "a.pgm").write_bytes(content)
    frames = read(tmp_path / "a.pgm").frames
    np.testing.assert_array_equal(frames[0], codes)
    dtype = "uint8" if greatest < 256 else "uint16"
    assert frames.attrs == {"dtype": dtype, "valid_range": (0, greatest)}


def test_signs_of_integers_in_tiff(tmp_path):
    """Of 8 and 32 bits by the sample format, 2 with a sign, and of pages of which one alone is negative."""
    signed = RANDOM.integers(-128, 128, (6, 8)).astype(np.int8)
    Image.fromarray(signed.view(np.uint8)).save(
        tmp_path / "a.tif", tiffinfo={339: 2, 42113: str(signed[0, 0])}
    )
    frames = read(tmp_path / "a.tif").frames
    np.testing.assert_array_equal(frames[0], np.where(signed == signed[0, 0], np.nan, signed))
    assert frames.attrs == {"dtype": "int8"}
    large = RANDOM.integers(0, 2**32, (6, 8), dtype=np.uint32)
    Image.fromarray(large.view(np.int32)).save(tmp_path / "b.tif")
    tag = struct.pack("<HHI", 339, 3, 1)
    content = (tmp_path / "b.tif").read_bytes().replace(tag + b"\2", tag + b"\1")
    (tmp_path / "b.tif").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "b.tif").frames[0], large.astype(np.float32))
    pages = [Image.fromarray(DEEP.astype(np.int32) - less) for less in (0, 40000)]
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read(tmp_path / "c.tif").frames, np.stack([DEEP, DEEP - 40000.0]))
    pages = [Image.fromarray(DEEP.astype(np.int32) + more) for more in (0, 1)]  # 32 bits that 16 would hold
    pages[0].save(tmp_path / "d.tif", save_all=True, append_images=pages[1:])
    content = (tmp_path / "d.tif").read_bytes().replace(tag + b"\2", tag + b"\1")
    (tmp_path / "d.tif").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "d.tif").frames, np.stack([DEEP, DEEP + 1.0]))


@pytest.mark.parametrize("bits", [2, 4])
def test_codes_of_few_bits_are_not_scaled(tmp_path, bits):
    codes = RANDOM.integers(0, 2**bits, (6, 8)).astype(np.uint8)
    codes[0, 0] = greatest = 2**bits - 1
    rows = np.packbits(np.unpackbits(codes[..., None], axis=2)[..., 8 - bits :].reshape(6, -1), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 6, bits, 0, 0, 0, 0)), (b"IDAT", zlib.compress(pixels))]
    (tmp_path / "a.png").write_bytes(png(*parts, (b"IEND", b"")))
    frames = read(tmp_path / "a.png").frames
    np.testing.assert_array_equal(frames[0], codes)
    assert frames.attrs == {"dtype": "uint8", "valid_range": (0, greatest)}


def test_bands_that_are_no_colours_are_refused(tmp_path):
    """Pillow leaves out those of a TIFF that are neither red, green and blue nor transparency."""
    grey = Image.merge("LA", [Image.fromarray(GREY[0]), Image.fromarray(GREY[1])])
    four = Image.merge("RGBA", [Image.fromarray(GREY[k]) for k in range(4)])
    for image, bands in ((grey, 2), (four, 4)):
        image.save(tmp_path / "a.tif")
        read(tmp_path / "a.tif")
        tag = struct.pack("<HHI", 338, 3, 1)
        content = (tmp_path / "a.tif").read_bytes()
        assert tag + b"\2" in content
        (tmp_path / "a.tif").write_bytes(content.replace(tag + b"\2", tag + b"\0"))
        for opened in (read, lambda path: read_frames([path])):
            # Older versions of Pillow do not open such a file at all.
            says = f"red, green and blue; .*a.tif has {bands} bands|hold one band or colours|whole, readable"
            with pytest.raises(DataError, match=says):
                opened(tmp_path / "a.tif")


def test_a_tiff_that_pillow_does_not_know_is_refused_with_a_remedy(tmp_path):
    Image.fromarray(GREY[0].astype(np.float32)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    bits = struct.pack("<HHI", 258, 3, 1)
    assert bits + b"\x20" in content
    (tmp_path / "a.tif").write_bytes(content.replace(bits + b"\x20", bits + b"\x40"))  # 64
    with pytest.raises(
        DataError, match="in 32 bits at most; .*a.tif cannot be read as one: convert it, as by"
    ):
        read(tmp_path / "a.tif")


def test_smaller_copies_in_a_tiff_are_no_frames(tmp_path):
    """Overviews of a cloud-optimised GeoTIFF: pages that the tag 254 says are reduced."""
    pages = [Image.fromarray(DEEP), Image.fromarray(DEEP[::2, ::2])]
    name = tmp_path / "radar_202102012005.tif"
    pages[0].save(name, save_all=True, append_images=pages[1:], tiffinfo={254: 0})
    tag = struct.pack("<HHI", 254, 4, 1)
    first, second, third = name.read_bytes().split(tag)
    name.write_bytes(tag.join([first, second, b"\1" + third[1:]]))
    dataset = read(name)
    np.testing.assert_array_equal(dataset.frames, DEEP[None])
    assert dataset.time.values[0] == np.datetime64("2021-02-01T20:05")
    assert read_frames([name]).values.shape == (1, 1, 6, 8)


def test_colours_of_sixteen_bits_are_refused(tmp_path):
    """Pillow reads the first 8 bits of each."""
    (tmp_path / "a.ppm").write_bytes(b"P6\n2 1\n1023\n" + np.arange(6, dtype=">u2").tobytes())
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(b"\0" + np.arange(6, dtype=">u2").tobytes())), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png(*parts))
    for name in ("a.ppm", "a.png"):
        with pytest.raises(DataError, match=f"must have 8 bits a channel; .*{name} has 16, .*: save its"):
            read(tmp_path / name)
        with pytest.raises(DataError, match="must have 8 bits a channel"):
            read_frames([tmp_path / name])


def test_a_palette_of_greys_is_one_channel(tmp_path):
    Image.fromarray(GREY[0]).convert("P").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").frames, GREY[:1])
    Image.fromarray(FEW[0]).quantize(8).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path / "b.png").frames[0], FEW[0].transpose(2, 0, 1))


def save_all(path, arrays, **options):
    first, *rest = (Image.fromarray(array) for array in arrays)
    first.save(path, save_all=True, append_images=rest, **options)


def test_animations(tmp_path):
    save_all(tmp_path / "a.gif", GREY, duration=[40, 50, 60, 70, 80])
    dataset = read(tmp_path / "a.gif")
    np.testing.assert_array_equal(dataset.frames, GREY)
    np.testing.assert_array_equal(dataset.time, np.array([0, 40, 90, 150, 220], "timedelta64[ms]"))
    save_all(tmp_path / "b.gif", FEW)
    dataset = read(tmp_path / "b.gif")
    np.testing.assert_array_equal(dataset.frames, FEW.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.time, np.arange(5).astype("timedelta64[s]"))  # no durations
    save_all(tmp_path / "c.tif", GREY)
    np.testing.assert_array_equal(read(tmp_path / "c.tif").frames, GREY)


def test_time_in_the_name(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "radar_202102012005.png")
    found = read(tmp_path / "radar_202102012005.png").time
    assert found.values.astype(str).tolist() == ["2021-02-01T20:05:00.000000000"]


def test_pictures_are_turned_as_exif_says(tmp_path):
    for orientation, turned in {
        3: GREY[0, ::-1, ::-1],
        6: np.rot90(GREY[0], -1),
        8: np.rot90(GREY[0]),
    }.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(GREY[0]).save(tmp_path / "1.png", exif=exif)
        found = read(tmp_path / "1.png").frames
        assert found.shape[1:] == turned.shape
        np.testing.assert_array_equal(found[0], turned)


def test_values_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY[0]).save(path)
    frames = read(path).frames
    Image.fromarray(GREY[1]).save(path)
    np.testing.assert_array_equal(frames, GREY[1:2])


@pytest.mark.parametrize("ending", ["png", "gif", "jpg"])
def test_a_file_cut_anywhere_is_refused(tmp_path, ending):
    file = io.BytesIO()
    noise = RANDOM.integers(0, 256, (2, 64, 64), dtype=np.uint8)
    if ending == "gif":
        Image.fromarray(noise[0]).save(file, "GIF", save_all=True, append_images=[Image.fromarray(noise[1])])
    else:
        Image.fromarray(noise[0]).save(file, {"png": "PNG", "jpg": "JPEG"}[ending])
    path, whole = tmp_path / f"a.{ending}", file.getvalue()
    for length in (0, 5, 20, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"a.{ending} must be a whole, readable"):
            Images().read(path).load()


@pytest.mark.parametrize("name", ["radar_202102012005.png", "a.gif"])
def test_the_contract(tmp_path, name):
    noise = RANDOM.integers(0, 256, (2, 64, 64), dtype=np.uint8)
    save_all(tmp_path / name, noise[: 2 if "gif" in name else 1])
    # A file is an image by its first bytes, whatever follows them.
    checks = [check for check in READER_CHECKS if check.__name__ != "only_its_own_format_is_recognised"]
    judge(checks, (Images(), tmp_path / name))


def test_others_are_not_recognised(tmp_path):
    for head in (b"", b"\x89HDF\r\n\x1a\n", b"BMX text of a file", b"RIFF\0\0\0\0AVI "):
        assert not Images().recognises(tmp_path / "a", head)


def test_without_pillow(tmp_path, monkeypatch):
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        OptionError, match="a.png needs Pillow, .* not installed: pip install 'convlstm.plots"
    ):
        Images().read(tmp_path / "a.png")
