"""One step of time: a cell's parameters, what it does with the input alone, what it does with its state."""

from convlstm.cells.base import Cell, CellFactory, State, map_state
from convlstm.cells.convgru import ConvGRUCell, ConvRNNCell, GRUState
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState

__all__ = [
    "Cell",
    "CellFactory",
    "ConvGRUCell",
    "ConvLSTMCell",
    "ConvRNNCell",
    "GRUState",
    "LSTMState",
    "State",
    "map_state",
]
