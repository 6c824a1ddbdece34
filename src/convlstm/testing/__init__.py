"""Contract batteries for cells, layers and forecasters, also for those of other packages."""

from convlstm.testing.cells import CELL_CHECKS, check_cell
from convlstm.testing.forecasters import FORECASTER_CHECKS, check_forecaster
from convlstm.testing.layers import LAYER_CHECKS, check_layer

__all__ = [
    "CELL_CHECKS",
    "FORECASTER_CHECKS",
    "LAYER_CHECKS",
    "check_cell",
    "check_forecaster",
    "check_layer",
]
