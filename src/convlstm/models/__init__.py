"""Frames in, frames out: forecasters, and the baselines they have to beat."""

from convlstm.models.base import Forecaster
from convlstm.models.baselines import Advection, Blank, LinearTrend, MeanFrame, Persistence
from convlstm.models.encoder_forecaster import EncoderForecaster

__all__ = [
    "Advection",
    "Blank",
    "EncoderForecaster",
    "Forecaster",
    "LinearTrend",
    "MeanFrame",
    "Persistence",
]
