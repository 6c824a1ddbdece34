import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from convlstm.errors import OptionError, ShapeError
from convlstm.functional.ssim import ssim


def pair(seed, shape=(3, 1, 24, 19), scale=1.0, offset=0.0):
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(shape, generator=draw, dtype=torch.float64)
    forecast = 0.7 * truth + 0.3 * torch.rand(shape, generator=draw, dtype=torch.float64)
    return offset + scale * forecast, offset + scale * truth


def by_skimage(a, b, data_range):
    return [
        structural_similarity(
            x,
            y,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=0,
        )
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(1, 3), st.integers(11, 30), st.integers(11, 30)),
    scale=st.sampled_from([1.0, 20.0, 255.0]),
    offset=st.sampled_from([0.0, 300.0]),
)
def test_equals_scikit_image(seed, size, scale, offset):
    a, b = pair(seed, (2, *size), scale, offset)
    expected = by_skimage(a, b, scale)
    np.testing.assert_allclose(ssim(a, b, data_range=scale), expected, atol=1e-8)
    # Also in float32, far from zero, where the textbook form has lost its digits.
    np.testing.assert_allclose(ssim(a.float(), b.float(), data_range=scale), expected, atol=2e-5)


def test_equals_torchmetrics_inside_the_border():
    """Its mean also counts a border of mirrored pixels, which the paper and scikit-image leave out."""
    a, b = pair(0)
    _, image = structural_similarity_index_measure(
        a, b, data_range=1.0, gaussian_kernel=True, sigma=1.5, reduction="none", return_full_image=True
    )
    expected = image[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim(a, b, data_range=1.0), expected, atol=1e-7, rtol=0)


def test_constant_images_by_hand():
    """Without contrast only the means count: (2 m n + C1) / (m^2 + n^2 + C1)."""
    a, b = torch.full((1, 11, 11), 0.5), torch.full((1, 11, 11), 0.25)
    c1 = 1e-4
    assert ssim(a, b, data_range=1.0).item() == pytest.approx((0.25 + c1) / (0.3125 + c1), abs=1e-6)
    assert ssim(a, b, data_range=10.0).item() == pytest.approx((0.25 + 0.01) / (0.3125 + 0.01), abs=1e-6)


def test_an_image_is_like_itself_and_leading_axes_stay():
    a = torch.rand(2, 5, 3, 16, 16)
    assert torch.equal(ssim(a, a, data_range=1.0), torch.ones(2, 5))
    assert ssim(a[0, 0], a[0, 0], data_range=1.0).shape == ()


def test_gradients_are_those_of_the_formula():
    a, b = pair(1, (1, 1, 12, 13))
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim(x, b, data_range=1.0), a)
    assert torch.autograd.gradcheck(lambda x: ssim(a, x, data_range=1.0), b.requires_grad_())


def test_flat_images_have_finite_gradients():
    a = torch.zeros(1, 1, 16, 16, requires_grad=True)
    (1 - ssim(a, torch.zeros_like(a), data_range=1.0)).sum().backward()
    assert a.grad.isfinite().all()


def test_half_precision_and_autocast_compute_in_float32():
    a, b = (x.bfloat16() for x in pair(2))
    expected = ssim(a.float(), b.float(), data_range=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssim(a, b, data_range=1.0), expected)
        assert torch.equal(ssim(a.float(), b.float(), data_range=1.0), expected)


def test_refuses_what_cannot_be_compared():
    x = torch.zeros(1, 1, 10, 32)
    with pytest.raises(ShapeError, match="at least 11 x 11 .* received 10 x 32"):
        ssim(x, x, data_range=1.0)
    with pytest.raises(ShapeError, match=r"one shape .* received \(1, 1, 10, 32\) and \(1, 10, 32\)"):
        ssim(x, x[0], data_range=1.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="data_range must be positive and finite; received"):
            ssim(torch.zeros(1, 16, 16), torch.zeros(1, 16, 16), data_range=wrong)
