import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import shift
from skimage.registration import phase_cross_correlation

from convlstm.errors import ShapeError
from convlstm.functional.motion import dynamic_filter, phase_correlation, translate


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
    torch.testing.assert_close(translate(a, displacement), b, atol=1e-4, rtol=0)
    assert torch.equal(translate(a, torch.tensor([[rows, columns]])), b)


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
    assert translate(a, found).dtype == torch.float16


@settings(max_examples=20, deadline=None)
@given(rows=st.floats(-40, 40), columns=st.floats(-40, 40))
def test_translate_is_bilinear_with_the_border_outside(rows, columns):
    x = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    other = torch.tensor([[rows, columns], [0, 0]], dtype=torch.float64)
    moved = translate(x, other)
    expected = shift(x[0].numpy(), (0, rows, columns), order=1, mode="nearest")
    torch.testing.assert_close(moved[0], torch.from_numpy(expected), atol=1e-9, rtol=0)
    assert torch.equal(moved[1], x[1])


def test_translate_by_hand():
    x = torch.tensor([[[[0.0, 4.0, 8.0]]]])
    assert translate(x, torch.tensor([[0.0, 0.25]])).tolist() == [[[[0.0, 3.0, 7.0]]]]
    assert translate(x, torch.tensor([[0.0, -1.0]])).tolist() == [[[[4.0, 8.0, 8.0]]]]


def test_translate_has_gradients():
    x = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    displacement = torch.tensor([[0.3, -1.6]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(translate, (x, displacement))


def test_refuses_other_shapes():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ShapeError, match=r"one shape \(B, C, H, W\); received"):
        phase_correlation(x, x[:1])
    with pytest.raises(ShapeError, match=r"displacement \(B, 2\); received"):
        translate(x, torch.zeros(1, 2))


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
