"""Readers: one file format a module, tried in this order, found by content."""

from convlstm.data.readers.arrays import Arrays
from convlstm.data.readers.base import Reader
from convlstm.data.readers.fmi import FMI
from convlstm.data.readers.gridded import Gridded
from convlstm.data.readers.images import Images
from convlstm.data.readers.knmi import KNMI
from convlstm.data.readers.mch import MCH
from convlstm.data.readers.meteonet import MeteoNet
from convlstm.data.readers.odim import ODIM
from convlstm.data.readers.radolan import Radolan
from convlstm.data.readers.sevir import SEVIR
from convlstm.data.readers.video import Video

# Those of one service first: some use a format that others read too.
READERS: tuple[Reader, ...] = (
    FMI(),
    KNMI(),
    ODIM(),
    MCH(),
    Radolan(),
    MeteoNet(),
    SEVIR(),
    Gridded(),
    Arrays(),
    Images(),
    Video(),
)
