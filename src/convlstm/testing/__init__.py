"""Contract batteries: a cell or a layer of one's own is tested by naming it."""

from convlstm.testing.cells import CELL_CHECKS, check_cell
from convlstm.testing.layers import LAYER_CHECKS, check_layer

__all__ = ["CELL_CHECKS", "LAYER_CHECKS", "check_cell", "check_layer"]
