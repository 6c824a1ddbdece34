"""For tests of several files."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import convlstm.engines.convolution as convolution
import convlstm.engines.cpu.winograd as winograd


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Minimal filtering wherever it is possible; the shapes of the weights that it is asked for."""
    shapes: list[Any] = []

    def is_possible(shape: Any, *_: Any) -> bool:
        shapes.append(shape)
        return [*shape[2:]] in ([3, 3], [5, 5])

    monkeypatch.setattr(winograd, "is_faster", is_possible)
    monkeypatch.setattr(winograd, "is_gradient_faster", lambda shape, *_: [*shape[2:]] == [3, 3])
    convolution._algorithm.cache_clear()
    yield shapes
    convolution._algorithm.cache_clear()


@pytest.fixture
def threads() -> Iterator[None]:
    """A test that sets the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
