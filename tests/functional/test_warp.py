"""Warping of frames against scipy, against torch's own sampling, and its second derivative."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch.testing import assert_close

from convlstm.errors import ShapeError
from convlstm.functional.motion import warp


def drawn(batch, channels, links, height, width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator)
    flow = 2 * torch.randn(batch, links, 2, height, width, dtype=torch.float64, generator=generator)
    return x.to(dtype), flow.to(dtype)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 2),
    links=st.integers(1, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 99),
)
def test_is_linear_interpolation_of_scipy_with_zeros_outside(batch, channels, links, size, seed):
    x, flow = drawn(batch, channels, links, *size, seed=seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    expected = np.zeros((batch, channels, links, *size))
    for b, c, k in np.ndindex(batch, channels, links):
        at = [rows + flow[b, k, 0].numpy(), columns + flow[b, k, 1].numpy()]
        expected[b, c, k] = map_coordinates(x[b, c].numpy(), at, order=1, mode="grid-constant")
    assert_close(warp(x, flow), torch.from_numpy(expected))


def test_a_flow_of_one_row_reads_the_next_row():
    x = torch.arange(6.0).view(1, 1, 3, 2)
    flow = torch.zeros(1, 2, 2, 3, 2)
    flow[:, 0, 0] = 1
    flow[:, 1, 1] = -0.5
    down, left = warp(x, flow)[0, 0]
    assert_close(down, torch.tensor([[2.0, 3.0], [4.0, 5.0], [0.0, 0.0]]))
    assert_close(left, torch.tensor([[0.0, 0.5], [1.0, 2.5], [2.0, 4.5]]))


def test_gradients_are_those_of_grid_sample():
    x, flow = (t.requires_grad_() for t in drawn(2, 3, 2, 5, 4))
    upstream = torch.randn(2, 3, 2, 5, 4, dtype=torch.float64)
    found = torch.autograd.grad(warp(x, flow), (x, flow), upstream)
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    at = torch.stack([columns + flow[:, :, 1], rows + flow[:, :, 0]], dim=-1)
    grid = 2 * at / torch.tensor([3, 4]) - 1
    y = torch.stack([F.grid_sample(x, grid[:, k], align_corners=True) for k in range(2)], dim=2)
    assert_close(found, torch.autograd.grad(y, (x, flow), upstream))
    again = torch.autograd.grad(warp(x, flow), (x, flow), upstream, create_graph=True)
    assert_close(again, found)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_it_can_be_differentiated_twice(wanted):
    inputs = [t.requires_grad_(w) for t, w in zip(drawn(1, 2, 2, 3, 4), wanted, strict=True)]
    assert torch.autograd.gradgradcheck(warp, inputs)


def test_in_half_precision_places_are_exact():
    """In bfloat16 300 and 301 are one number."""
    x, flow = torch.arange(302.0).remainder(7).expand(1, 1, 1, 302), torch.zeros(1, 1, 2, 1, 302)
    assert_close(warp(x.bfloat16(), flow.bfloat16())[:, :, 0], x.bfloat16(), rtol=0, atol=1e-3)


def test_it_is_exported_for_any_size():
    class Warp(torch.nn.Module):
        def forward(self, x, flow):
            return warp(x, flow)

    free = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    shapes = {"x": free, "flow": {k + 1: dim for k, dim in free.items()}}
    program = torch.export.export(Warp(), drawn(1, 2, 3, 5, 4), dynamic_shapes=shapes, strict=False)
    inputs = drawn(1, 2, 3, 6, 9)
    assert_close(program.module()(*inputs), warp(*inputs))


def test_other_shapes_are_refused():
    x, flow = drawn(1, 2, 2, 3, 4)
    with pytest.raises(
        ShapeError, match=r"x must be .* received \(1, 2, 3, 4\) and \(1, 2, 2, 3, 5\): give L"
    ):
        warp(x, F.pad(flow, (0, 1)))
