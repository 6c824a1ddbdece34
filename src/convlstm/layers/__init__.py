"""Time and depth: the one loop over time, and the stacks built on it."""

from convlstm.layers.recurrent import ConvGRU, ConvLSTM
from convlstm.layers.scan import Keep, Timeline, scan
from convlstm.layers.state import BothDirections, StackState

__all__ = ["BothDirections", "ConvGRU", "ConvLSTM", "Keep", "StackState", "Timeline", "scan"]
