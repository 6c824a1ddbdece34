"""Time and depth: the one loop over time, and the stacks built on it."""

from convlstm.layers.recurrent import ConvGRU, ConvLSTM
from convlstm.layers.scan import Keep, Timeline, scan
from convlstm.layers.state import BothDirections, StackState
from convlstm.layers.stream import Stream

__all__ = ["BothDirections", "ConvGRU", "ConvLSTM", "Keep", "StackState", "Stream", "Timeline", "scan"]
