"""Makes the independent reference importable (``import reference_loops``) and hypothesis repeatable in CI."""

import os
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "reference"))

# Elsewhere each run draws new examples; a change is not judged by another draw than the one before it.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
