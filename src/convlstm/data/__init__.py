"""Sources of frames: windows of past and future, and files."""

from convlstm.data.archive import Archive
from convlstm.data.base import LabelledWindow, Source, Window, WindowDataset
from convlstm.data.files import read_frames
from convlstm.data.mixture import Mixture
from convlstm.data.moving_mnist import MovingObjects
from convlstm.data.opening import open_frames
from convlstm.data.rain import Rain

__all__ = [
    "Archive",
    "LabelledWindow",
    "Mixture",
    "MovingObjects",
    "Rain",
    "Source",
    "Window",
    "WindowDataset",
    "open_frames",
    "read_frames",
]
