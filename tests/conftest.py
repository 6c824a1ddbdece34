"""For all tests: an independent reference, hypothesis repeatable in CI, fast engines at any size."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "reference"))

# Elsewhere each run draws new examples; a change is not judged by another draw than the one before it.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="session")
def small_frames_run_the_fast_engines() -> Iterator[None]:
    """Frames of tests are small: ``auto`` would leave them to the reference, or to one call of C++."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convlstm.engines.config.small_on_cpu", 0)
        patch.setattr("convlstm.engines.config.few_pixels_on_cpu", 0)
        patch.setattr("convlstm.engines.config.small_on_gpu", 0)
        patch.setattr("convlstm.engines.config.one_call_on_cpu", 0)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long tests first, so that no worker is left with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
