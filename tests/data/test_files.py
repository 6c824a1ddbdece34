import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from convlstm.data.files import from_unit, read_array, read_frames, to_unit
from convlstm.errors import DataError, OptionError

RANDOM = np.random.default_rng(1)
GREY = RANDOM.integers(0, 256, (5, 6, 8), dtype=np.uint8)  # (T, H, W)
COLOUR = RANDOM.integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)  # (T, H, W, 3)


def unit(bytes_TCHW):
    return torch.from_numpy((bytes_TCHW / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, unit(GREY[:, None])),
        (GREY[:, None].repeat(2, axis=1), unit(GREY[:, None].repeat(2, axis=1))),
        (COLOUR, unit(COLOUR.transpose(0, 3, 1, 2))),
        (COLOUR.transpose(0, 3, 1, 2), unit(COLOUR.transpose(0, 3, 1, 2))),
        (COLOUR[..., :2], unit(COLOUR[..., :2].transpose(0, 3, 1, 2))),
        (COLOUR[:, :3], unit(COLOUR[:, :3])),  # three channels of a grid three columns wide
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_layouts_of_arrays(tmp_path, array, expected, ending):
    path = tmp_path / f"past{ending}"
    if ending == ".npy":
        np.save(path, array)
    else:
        np.savez(path, frames=array, other=np.zeros(3))
    frames = read_frames(path)
    assert torch.equal(frames.values, expected)
    assert frames.values.dtype == torch.float32
    assert frames.dtype == np.uint8


def test_integers_are_divided_by_the_greatest_value_and_floats_kept(tmp_path):
    for array, expected in [
        (np.array([0, 65535, 13107], np.uint16), [0, 1, 0.2]),
        (np.array([0, 32767, -32767], np.int16), [0, 1, -1]),
        (np.array([0, 127, -127], np.int8), [0, 1, -1]),
        (np.array([0.5, -300.0, 12.0], ">f8"), [0.5, -300, 12]),
        (np.array([0.5, 2.0, 4.0], np.float16), [0.5, 2, 4]),
    ]:
        np.save(tmp_path / "past.npy", array.reshape(1, 1, 3))
        frames = read_frames(tmp_path / "past.npy")
        np.testing.assert_allclose(frames.values.ravel(), expected, rtol=1e-6)
        assert frames.dtype == array.dtype


@given(
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.float32]).flatmap(
        lambda dtype: arrays(dtype, (2, 3), elements={"allow_nan": False} if dtype == np.float32 else None)
    )
)
def test_values_come_back_in_the_scale_of_the_file(array):
    back = from_unit(to_unit(array), array.dtype)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_values_beyond_the_range_become_its_ends():
    values = np.array([-0.1, 1.1, 0.4999 / 255, 0.5001 / 255], np.float32)
    np.testing.assert_array_equal(from_unit(values, np.uint8), [0, 255, 0, 1])


def test_one_array_needs_no_name(tmp_path):
    np.savez_compressed(tmp_path / "past.npz", anything=GREY)
    assert torch.equal(read_frames(tmp_path / "past.npz").values, unit(GREY[:, None]))
    np.savez(tmp_path / "past.npz", a=GREY, b=GREY)
    with pytest.raises(DataError, match="one array or one called 'frames'.*holds a, b"):
        read_frames(tmp_path / "past.npz")
    np.savez(tmp_path / "past.npz")
    with pytest.raises(DataError, match="holds none"):
        read_frames(tmp_path / "past.npz")


def save_gif(path, arrays):
    first, *rest = (Image.fromarray(array) for array in arrays)
    first.save(path, save_all=True, append_images=rest, duration=50)


def test_grey_gif(tmp_path):
    save_gif(tmp_path / "past.gif", GREY)
    frames = read_frames(tmp_path / "past.gif")
    assert torch.equal(frames.values, unit(GREY[:, None]))
    assert frames.dtype == np.uint8


def test_colour_gif(tmp_path):
    few = COLOUR // 128 * 255  # eight colours: a palette holds them exactly
    save_gif(tmp_path / "past.gif", few)
    assert torch.equal(read_frames(tmp_path / "past.gif").values, unit(few.transpose(0, 3, 1, 2)))


def test_gif_that_turns_from_grey_to_colour(tmp_path):
    few = COLOUR // 128 * 255
    few[0] = few[0, ..., :1]
    save_gif(tmp_path / "past.gif", few)
    assert torch.equal(read_frames(tmp_path / "past.gif").values, unit(few.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".pgm"])
def test_folder_of_grey_images_in_natural_order(tmp_path, ending):
    for number, frame in zip([1, 2, 9, 10, 100], GREY, strict=True):
        Image.fromarray(frame).save(tmp_path / f"frame {number}{ending}")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert torch.equal(read_frames(tmp_path).values, unit(GREY[:, None]))


def test_folder_of_colour_images(tmp_path):
    for k, frame in enumerate(COLOUR):
        Image.fromarray(frame).save(tmp_path / f"{k}.png")
    assert torch.equal(read_frames(tmp_path).values, unit(COLOUR.transpose(0, 3, 1, 2)))


def test_jpeg_is_close(tmp_path):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    for k in range(2):
        Image.fromarray(ramp).save(tmp_path / f"{k}.JPG", quality=95)
    assert (read_frames(tmp_path).values - unit(np.stack([ramp, ramp])[:, None])).abs().max() < 0.03


def test_sixteen_bits_floats_palettes_and_transparency(tmp_path):
    def read(image, ending):
        image.save(tmp_path / f"1{ending}")
        frames = read_frames(tmp_path)
        (tmp_path / f"1{ending}").unlink()
        return frames

    deep = RANDOM.integers(0, 65536, (6, 8), dtype=np.uint16)
    for ending in (".png", ".tif"):
        frames = read(Image.fromarray(deep), ending)
        assert frames.dtype == np.uint16
        np.testing.assert_array_equal(from_unit(frames.values.numpy(), np.uint16)[0, 0], deep)
    rates = RANDOM.normal(size=(6, 8)).astype(np.float32)
    np.testing.assert_array_equal(read(Image.fromarray(rates), ".tif").values[0, 0], rates)
    palette = Image.fromarray(GREY[0]).convert("P")
    assert torch.equal(read(palette, ".png").values, unit(GREY[:1, None]))
    clear = Image.fromarray(COLOUR[0]).convert("RGBA")
    clear.putalpha(7)
    assert torch.equal(read(clear, ".png").values, unit(COLOUR[:1].transpose(0, 3, 1, 2)))
    bits = Image.fromarray((GREY[0] > 99)[:, :8])
    assert torch.equal(read(bits, ".png").values, unit((GREY[:1, None] > 99) * 255))


def test_images_that_differ(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "1.png")
    for other in (GREY[1][:4], COLOUR[1], GREY[1].astype(np.uint16)):
        Image.fromarray(other).save(tmp_path / "2.png")
        with pytest.raises(DataError, match=r"1.png is 6 x 8 grey uint8, 2.png is \d x 8"):
            read_frames(tmp_path)


def test_an_animation_within_a_folder_is_not_cut_to_its_first_frame(tmp_path):
    first, second = (Image.fromarray(frame) for frame in GREY[:2])
    first.save(tmp_path / "1.tif", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="must hold one frame.*1.tif holds 2"):
        read_frames(tmp_path)


def test_missing_and_unknown(tmp_path):
    with pytest.raises(DataError, match=r"none.npy does not exist"):
        read_frames(tmp_path / "none.npy")
    with pytest.raises(DataError, match="must hold images.*holds none"):
        read_frames(tmp_path)
    (tmp_path / "film.avi").write_bytes(b"x")
    with pytest.raises(DataError, match="folder of images; received .*film.avi"):
        read_frames(tmp_path / "film.avi")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), r"has shape \(4, 4\)"),
        (np.zeros((1, 4, 1, 4, 4)), "leave out the batch axis"),
        (np.zeros((0, 4, 4)), "no empty axis"),
        (np.zeros((2, 4, 4), np.int64), "8 or 16 bits.*holds int64"),
        (np.zeros((2, 4, 4), bool), "holds bool"),
        (np.zeros((2, 4, 4), complex), "holds complex128"),
        (np.full((2, 4, 4), 1e300), "holds 32 NaN or infinite"),
    ],
)
def test_unfit_arrays(tmp_path, array, message):
    np.save(tmp_path / "past.npy", array)
    with pytest.raises(DataError, match=message):
        read_frames(tmp_path / "past.npy")


def test_nan_is_counted_and_located(tmp_path):
    array = np.zeros((3, 2, 4, 5))
    array[1, 1, 2, 3] = array[2, 0, 0, 0] = np.nan
    array[2, 1, 3, 4] = np.inf
    np.save(tmp_path / "past.npy", array)
    with pytest.raises(DataError, match="holds 3 NaN.*first at frame 1, channel 1, row 2, column 3"):
        read_frames(tmp_path / "past.npy")


def content(ending):
    file = io.BytesIO()
    if ending == ".npy":
        np.save(file, GREY)
    elif ending == ".npz":
        np.savez_compressed(file, frames=GREY)
    else:
        first, *rest = (Image.fromarray(frame) for frame in GREY)
        first.save(file, "GIF", save_all=True, append_images=rest)
    return file.getvalue()


@pytest.mark.parametrize("ending", [".npy", ".npz", ".gif"])
def test_a_file_cut_anywhere_is_refused(tmp_path, ending):
    path, whole = tmp_path / f"past{ending}", content(ending)
    path.write_bytes(whole)
    assert len(read_frames(path).values) == 5
    for length in [*range(0, len(whole) - 1, 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"must be a whole, readable {ending}; reading gave '.+': copy"):
            read_frames(path)


def test_truncated_image_in_a_folder(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "1.png")
    path = tmp_path / "2.png"
    Image.fromarray(GREY[1]).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"2.png must be a whole, readable .png"):
        read_frames(tmp_path)


def test_pickled_code_is_never_run(tmp_path):
    np.save(tmp_path / "past.npy", np.array([print], dtype=object), allow_pickle=True)
    for mapped in (False, True):
        with pytest.raises(DataError, match="must be a whole, readable .npy"):
            read_array(tmp_path / "past.npy", mapped=mapped)


def test_without_pillow(tmp_path, monkeypatch):
    save_gif(tmp_path / "past.gif", GREY)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(OptionError, match="pip install 'convlstm.plots"):
        read_frames(tmp_path / "past.gif")


def test_pictures_are_turned_as_exif_says(tmp_path):
    orientations = {3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: np.rot90}
    for orientation, turned in orientations.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(GREY[0]).save(tmp_path / "1.png", exif=exif)
        assert torch.equal(read_frames(tmp_path).values[0, 0], unit(np.ascontiguousarray(turned(GREY[0]))))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_last_axis_of_one_channel(tmp_path, dtype):
    array = (GREY / 255).astype(np.float32) if dtype == np.float32 else GREY
    np.save(tmp_path / "past.npy", array[..., None])
    assert torch.equal(read_frames(tmp_path / "past.npy").values, unit(GREY[:, None]))
    np.save(tmp_path / "past.npy", array[:, :1, :, None])  # one row of eight: a channel first
    assert read_frames(tmp_path / "past.npy").values.shape == (5, 1, 8, 1)


@pytest.mark.parametrize(
    "names",
    [
        ["t-10", "t-2", "t-1", "t", "t+1", "t+10"],
        ["frame_t-2", "frame_t-1"],
        ["-10", "-2", "0", "1", "+2"],
        ["step-2", "step-1", "step0", "step1"],
        ["x_-2.5", "x_-1.5"],
        ["frame-1", "frame-2", "frame-10"],
        ["shot", "shot-1", "shot-2"],
        ["2020-01-02", "2020-01-10", "2020-02-01"],
        ["run2 t-1", "run2 t+1", "run10 t-2"],
    ],
)
def test_signed_numbers_sort_as_numbers_and_hyphens_separate(tmp_path, names):
    for k, name in enumerate(names):
        Image.fromarray(np.full((2, 2), k, np.uint8)).save(tmp_path / f"{name}.png")
    frames = read_frames(tmp_path)
    assert torch.equal(frames.values[:, 0, 0, 0], torch.arange(len(names)) / 255)
    assert frames.notes == (
        f"{tmp_path} holds {len(names)} images, taken from {names[0]}.png to {names[-1]}.png",
    )


def test_frames_that_a_gif_may_have_joined_are_announced(tmp_path):
    path = tmp_path / "film.gif"
    save_gif(path, GREY[[0, 1, 1, 2]])  # Pillow joins the two that are equal and shows them twice as long
    frames = read_frames(path)
    assert len(frames.values) == 3
    assert "film.gif is read as pictures (3), 0 to 255 as 0 to 1" in frames.notes[0]
    assert "frames that repeat may have been stored as one" in frames.notes[0]
    save_gif(path, GREY[[0, 0, 0]])  # joined into a single frame
    assert "film.gif is read as pictures (1)" in read_frames(path).notes[0]


def test_several_files_are_images(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4), np.float32))
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(
        DataError, match="several files of frames must be images .*a.npy: give one file, or a"
    ):
        read_frames([tmp_path / "a.npy", tmp_path / "b.png"])
