"""The same recurrences, faster: exchangeable implementations of the loop over time, never another model."""

from convlstm.engines.fused import SAVES
from convlstm.engines.graphs import Recording
from convlstm.engines.stepper import Steppers
from convlstm.engines.table import ENGINES, available, select

__all__ = ["ENGINES", "SAVES", "Recording", "Steppers", "available", "select"]
