"""Readers: one file format a module, tried in this order, found by content."""

from convlstm.data.readers.base import Reader
from convlstm.data.readers.fmi import FMI

READERS: tuple[Reader, ...] = (FMI(),)
