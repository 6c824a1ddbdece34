"""Makes the independent reference importable: ``import reference_loops``, ``import random_stacks``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "reference"))
