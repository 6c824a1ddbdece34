"""One step of time: a cell's parameters, what it does with the input alone, what it does with its state."""

from convlstm.cells.base import Cell, CellFactory, State, map_state, register_state
from convlstm.cells.causal_lstm import CausalLSTMCell, CausalLSTMState, GHUCell, GHUState
from convlstm.cells.convert import gru_weights, lstm_weights, sa_convlstm_weights
from convlstm.cells.convgru import ConvGRUCell, ConvRNNCell, GRUState
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.cells.e3d_lstm import E3DLSTMCell, E3DLSTMState
from convlstm.cells.linear import LinearCell, LinearState
from convlstm.cells.mau import MAUCell, MAUState
from convlstm.cells.mim import MIMCell, MIMNCell, MIMNState, MIMSCell, MIMState
from convlstm.cells.min_conv import MinConvGRUCell, MinConvLSTMCell
from convlstm.cells.phycell import PhyCell
from convlstm.cells.recordable import Recordable
from convlstm.cells.sa_convlstm import SAConvLSTMCell, SAState
from convlstm.cells.space_time_attention import AttentionState, SpaceTimeAttentionCell
from convlstm.cells.st_lstm import STLSTMCell, STLSTMState
from convlstm.cells.swin_lstm import SwinLSTMCell
from convlstm.cells.trajgru import TrajGRUCell

__all__ = [
    "AttentionState",
    "CausalLSTMCell",
    "CausalLSTMState",
    "Cell",
    "CellFactory",
    "ConvGRUCell",
    "ConvLSTMCell",
    "ConvRNNCell",
    "E3DLSTMCell",
    "E3DLSTMState",
    "GHUCell",
    "GHUState",
    "GRUState",
    "LSTMState",
    "LinearCell",
    "LinearState",
    "MAUCell",
    "MAUState",
    "MIMCell",
    "MIMNCell",
    "MIMNState",
    "MIMSCell",
    "MIMState",
    "MinConvGRUCell",
    "MinConvLSTMCell",
    "PhyCell",
    "Recordable",
    "SAConvLSTMCell",
    "SAState",
    "STLSTMCell",
    "STLSTMState",
    "SpaceTimeAttentionCell",
    "State",
    "SwinLSTMCell",
    "TrajGRUCell",
    "gru_weights",
    "lstm_weights",
    "map_state",
    "register_state",
    "sa_convlstm_weights",
]
