"""Time and depth: the one loop over time, and the stacks built on it."""

from convlstm.layers.recurrent import ConvGRU, ConvLSTM
from convlstm.layers.scan import ScanOptions, SequenceFlags, scan
from convlstm.layers.state import BothDirections, MemoryState, StackState
from convlstm.layers.stream import Stream

__all__ = [
    "BothDirections",
    "ConvGRU",
    "ConvLSTM",
    "MemoryState",
    "ScanOptions",
    "SequenceFlags",
    "StackState",
    "Stream",
    "scan",
]
