"""Time and depth: the one loop over time, and the stacks built on it."""

from convlstm.layers.convlstm import ConvLSTM
from convlstm.layers.scan import scan

__all__ = ["ConvLSTM", "scan"]
