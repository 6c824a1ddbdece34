"""Contract batteries for cells, layers, forecasters and readers, also for those of other packages."""

from convlstm.testing.cells import CELL_CHECKS, check_cell
from convlstm.testing.forecasters import FORECASTER_CHECKS, check_forecaster
from convlstm.testing.layers import LAYER_CHECKS, check_layer
from convlstm.testing.readers import READER_CHECKS, check_reader

__all__ = [
    "CELL_CHECKS",
    "FORECASTER_CHECKS",
    "LAYER_CHECKS",
    "READER_CHECKS",
    "check_cell",
    "check_forecaster",
    "check_layer",
    "check_reader",
]
