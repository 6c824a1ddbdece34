"""Recordings of the inside of a model, figures, animations, and the report of a run."""

from convlstm.pictures.frames import animation
from convlstm.pictures.radar import TABLES as RADAR
from convlstm.plots.features import feature_maps, forgetting, histograms
from convlstm.plots.fields import differences, events, film_strip
from convlstm.plots.recorder import Tape, record
from convlstm.plots.saliency import saliency, saliency_maps

__all__ = [
    "RADAR",
    "Tape",
    "animation",
    "differences",
    "events",
    "feature_maps",
    "film_strip",
    "forgetting",
    "histograms",
    "record",
    "saliency",
    "saliency_maps",
]
