"""One step of time: a cell's parameters, what it does with the input alone, what it does with its state."""

from convlstm.cells.base import Cell, CellFactory, State
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState

__all__ = ["Cell", "CellFactory", "ConvLSTMCell", "LSTMState", "State"]
