"""The same recurrences, faster: exchangeable implementations of the loop over time, never another model."""

from convlstm.engines.fused import SAVES
from convlstm.engines.table import ENGINES, available, select

__all__ = ["ENGINES", "SAVES", "available", "select"]
