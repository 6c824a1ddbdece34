"""Cost and depth of the scan over time; that it is the loop is in tests/engines/test_linear.py."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convlstm.functional.linear_recurrence import linear_scan


class Counter(TorchDispatchMode):
    """Number of operations that compute or copy, and the numbers that they write."""

    def __init__(self):
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if not function.is_view:
            self.operations += 1
            self.numbers += result.numel()
        return result


def counted(steps, gradient):
    a, b, h = (torch.rand(1, steps, 3), torch.rand(1, steps, 3), torch.rand(1, 3))
    counter = Counter()
    states = linear_scan(a.requires_grad_(gradient), b, h)
    with counter:
        torch.autograd.grad(states.sum(), a) if gradient else linear_scan(a, b, h)
    return counter


@pytest.mark.parametrize("gradient", [False, True])
def test_depth_is_the_logarithm_of_the_steps_and_cost_is_linear(gradient):
    """A depth of log T: so many operations more each time that the number of steps is doubled."""
    found = [counted(2**k, gradient) for k in range(4, 13)]
    (added,) = {b.operations - a.operations for a, b in pairwise(found)}
    assert added <= 8
    assert found[-1].numbers / found[-2].numbers == pytest.approx(2, rel=0.01)
