import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, gaussian_filter, shift
from skimage.registration import phase_cross_correlation

from convlstm.errors import ShapeError
from convlstm.functional.motion import advect, dynamic_filter, motion_field, phase_correlation


def blob(size=(32, 40), seed=0):
    """A patch of texture in the middle of zeros: (1, 1, H, W)."""
    x = torch.zeros(1, 1, *size)
    x[..., 12:20, 14:24] = torch.rand(8, 10, generator=torch.Generator().manual_seed(seed))
    return x


def smooth(row, column, size=48):
    """A round hill with its top at (row, column): (1, 1, size, size)."""
    axis = torch.arange(float(size))
    squared = (axis - row)[:, None] ** 2 + (axis - column) ** 2
    return torch.exp(-squared / 8)[None, None]


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(-12, 12), columns=st.integers(-14, 16), seed=st.integers(0, 99))
def test_whole_pixels_are_found_and_made_exactly(rows, columns, seed):
    a = blob(seed=seed)
    b = a.roll((rows, columns), (2, 3))
    displacement = phase_correlation(a, b)
    torch.testing.assert_close(displacement, torch.tensor([[rows, columns]], dtype=torch.float32))
    torch.testing.assert_close(moved(a, displacement), b, atol=1e-4, rtol=0)


def test_agrees_with_scikit_image_and_its_sign():
    a = torch.cat([blob(seed=1), blob(seed=2)])
    b = torch.cat([a[:1].roll((3, -5), (2, 3)), a[1:].roll((-7, 2), (2, 3))])
    expected = [-phase_cross_correlation(x[0].numpy(), y[0].numpy())[0] for x, y in zip(a, b, strict=True)]
    assert phase_correlation(a, b).round().tolist() == [list(pair) for pair in expected] == [[3, -5], [-7, 2]]


@settings(max_examples=25, deadline=None)
@given(rows=st.floats(-6, 6), columns=st.floats(-6, 6))
def test_parts_of_a_pixel_are_found(rows, columns):
    found = phase_correlation(smooth(24, 24), smooth(24 + rows, 24 + columns))
    assert (found - torch.tensor([[rows, columns]])).abs().max() < 0.3


def test_parts_of_a_pixel_beat_whole_pixels_on_average():
    draw = torch.Generator().manual_seed(0)
    true = (torch.rand(64, 2, generator=draw) - 0.5) * 10
    b = torch.cat([smooth(24 + row, 24 + column) for row, column in true.tolist()])
    found = phase_correlation(smooth(24, 24).expand_as(b), b)
    assert (found - true).abs().mean() < 0.5 * (true.round() - true).abs().mean()


@pytest.mark.parametrize("seed", range(100))
def test_what_has_no_displacement_gets_none(seed):
    """Rounding errors of the transform must not pass for structure, nor break ties."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.randint(10, 60, (2,), generator=draw).tolist()
    constant = torch.rand(1, generator=draw).expand(1, 1, rows, columns)
    assert phase_correlation(constant, 1.3 * constant).tolist() == [[0, 0]]
    stripes = torch.rand(1, 1, rows, 1, generator=draw).expand(1, 1, rows, columns)
    expected = torch.tensor([[2.0, 0.0]])
    torch.testing.assert_close(phase_correlation(stripes, stripes.roll(2, 2)), expected, atol=0.01, rtol=0)
    stripes, expected = stripes.transpose(2, 3), expected.flip(1)
    torch.testing.assert_close(phase_correlation(stripes, stripes.roll(2, 3)), expected, atol=0.01, rtol=0)


def test_one_row_moves_along_itself():
    line = torch.rand(1, 1, 1, 16)
    assert phase_correlation(line, line.roll(3, 3))[0, 0] == 0


def test_channels_vote():
    a = torch.cat([blob(seed=1), blob(seed=2), torch.zeros_like(blob())], dim=1)
    assert phase_correlation(a, a.roll((2, 3), (2, 3))).round().tolist() == [[2, 3]]


def test_half_precision():
    a = blob().half()
    found = phase_correlation(a, a.roll(4, 3))
    assert found.dtype == torch.float32
    assert found.round().tolist() == [[0, 4]]
    assert moved(a, found).dtype == torch.float16


def moved(x, displacement, steps=1, **options):
    """The last of so many steps along one displacement (B, 2)."""
    velocity = displacement[..., None, None].expand(-1, -1, *x.shape[2:])
    return advect(x, velocity, steps, **options)[:, -1]


@settings(max_examples=20, deadline=None)
@given(rows=st.floats(-40, 40), columns=st.floats(-40, 40), steps=st.integers(1, 3), zero=st.booleans())
def test_advection_along_one_displacement_is_a_bilinear_shift(rows, columns, steps, zero):
    x = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    displacement = torch.tensor([[rows, columns], [0, 0]], dtype=torch.float64)
    found = moved(x, displacement, steps, zero_outside=zero)
    mode = "grid-constant" if zero else "nearest"
    expected = shift(x[0].numpy(), (0, steps * rows, steps * columns), order=1, mode=mode)
    torch.testing.assert_close(found[0], torch.from_numpy(expected), atol=1e-9, rtol=0)
    torch.testing.assert_close(found[1], x[1], atol=1e-9, rtol=0)


def test_advection_by_hand():
    x = torch.tensor([[[[0.0, 4.0, 8.0]]]])
    for columns, expected in ((0.25, [0, 3, 7]), (-1.0, [4, 8, 8])):
        found = moved(x, torch.tensor([[0, columns]]))
        torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))
    assert moved(x, torch.tensor([[0, -1.0]]), zero_outside=True).flatten().tolist() == [4, 8, 0]


def test_advection_follows_a_turning_wind():
    """In a rotating field, what comes from where is known: coordinates come back turned."""
    axis = torch.arange(81.0, dtype=torch.float64) - 40
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    angle = math.radians(3)
    velocity = angle * torch.stack([-place[1], place[0]])
    found = advect(place[None], velocity[None], 20)[0, -1]
    cos, sin = math.cos(20 * angle), math.sin(20 * angle)
    expected = torch.stack([cos * place[0] + sin * place[1], cos * place[1] - sin * place[0]])
    inside = place.square().sum(0) < 38**2
    assert (found - expected)[:, inside].abs().max() < 0.15  # a plain Euler step ends 1 pixel off


def test_advection_has_gradients():
    x = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    velocity = (torch.rand(1, 2, 5, 6, dtype=torch.float64) / 3 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, velocity: advect(x, velocity, 2), (x, velocity))


def texture(size, seed=0):
    """Smooth noise, as rain is."""
    noise = np.random.default_rng(seed).standard_normal(size)
    smooth = gaussian_filter(noise, 2) + 2 * gaussian_filter(noise, 6)
    return smooth / smooth.std()


@pytest.mark.parametrize("size", [(256, 256), (150, 300)])
def test_motion_of_blocks_follows_a_turning_texture(size):
    middle = (np.array(size) - 1) / 2
    angle, wind = math.radians(1.2), np.array([1.0, -2.5])
    frames = []
    for k in range(4):
        cos, sin = math.cos(k * angle), math.sin(k * angle)
        back = np.array([[cos, sin], [-sin, cos]])
        origin = middle - back @ middle - k * wind
        frames.append(affine_transform(texture(size), back, origin, mode="wrap"))
    found = motion_field(torch.from_numpy(np.stack(frames))[None, :, None].float())[0]
    place = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
    row, column = place - torch.tensor(middle, dtype=torch.float32).view(2, 1, 1)
    expected = torch.stack([-angle * column, angle * row]) + torch.tensor(wind).view(2, 1, 1)
    inside = slice(32, -32), slice(32, -32)  # between the centres of blocks
    error = (found - expected).norm(dim=0)[inside]
    assert error.median() < 0.25
    assert error.quantile(0.95) < 0.5
    assert expected[:, *inside].flatten(1).std(1).max() > 0.8  # no single displacement comes close


def test_dry_blocks_follow_their_neighbours_and_noise_does_not_break_out():
    """One wet area gives its motion to all, also where it comes to; a block of noise is overruled."""
    full = torch.from_numpy(texture((320, 320))).float()
    wet = torch.zeros(320, 320)
    wet[96:224, 32:128] = 1
    frames = torch.stack([(full * wet).roll((2 * k, 3 * k), (0, 1)) for k in range(4)])
    found = motion_field(frames[None, :, None])[0]
    assert (found - torch.tensor([2.0, 3.0]).view(2, 1, 1)).abs().max() < 0.2
    moving = torch.stack([full.roll((2 * k, 3 * k), (0, 1)) for k in range(4)])
    draw = torch.Generator().manual_seed(0)
    moving[:, 128:192, 128:192] = torch.randn(4, 64, 64, generator=draw)
    found = motion_field(moving[None, :, None])[0]
    assert (found - torch.tensor([2.0, 3.0]).view(2, 1, 1)).abs().max() < 0.7


@pytest.mark.parametrize("size", [(20, 30), (130, 100), (1, 200)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_to_see_does_not_move(size, count):
    for value in (0.0, 0.3):
        assert torch.equal(motion_field(torch.full((2, count, 1, *size), value)), torch.zeros(2, 2, *size))


def test_small_frames_move_as_one():
    frames = torch.cat([blob().roll((k, 2 * k), (2, 3)) for k in range(3)])[None]
    expected = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(-1, -1, 32, 40)
    torch.testing.assert_close(motion_field(frames), expected)


def test_refuses_other_shapes():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ShapeError, match=r"one shape \(B, C, H, W\); received"):
        phase_correlation(x, x[:1])
    with pytest.raises(ShapeError, match=r"velocity \(B, 2, H, W\); received"):
        advect(x, torch.zeros(1, 2), 3)
    with pytest.raises(ShapeError, match=r"frames must be \(B, K, C, H, W\); received"):
        motion_field(x)


def test_carrying_by_one_weight_is_a_shift():
    """All weight on one neighbour moves the frame, the border's values coming in from outside."""
    x = torch.arange(12.0).view(1, 1, 3, 4)
    weights = torch.zeros(1, 9, 3, 4)
    weights[:, 3] = 1  # the left one of the middle row
    moved = dynamic_filter(torch.cat([x, -x], dim=1), weights)
    assert moved[0, 0].tolist() == [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]
    assert torch.equal(moved[0, 1], -moved[0, 0])


def test_carrying_equals_plain_loops():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 25, 4, 5, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for row in range(4):
        for column in range(5):
            for k in range(25):
                y = min(max(row + k // 5 - 2, 0), 3)
                z = min(max(column + k % 5 - 2, 0), 4)
                expected[:, :, row, column] += weights[:, k, row, column, None] * x[:, :, y, z]
    torch.testing.assert_close(dynamic_filter(x, weights), expected)
