"""Sources of frames: windows of past and future, and files."""

from convlstm.data.archive import open_frames
from convlstm.data.base import LabelledWindow, Source, Window, WindowDataset
from convlstm.data.files import read_frames
from convlstm.data.moving_mnist import MovingObjects

__all__ = [
    "LabelledWindow",
    "MovingObjects",
    "Source",
    "Window",
    "WindowDataset",
    "open_frames",
    "read_frames",
]
