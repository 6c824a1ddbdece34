"""Frames in, frames out: forecasters, and baselines without parameters."""

from convlstm.models.autoregressive import AutoregressiveForecaster, ForecastStream
from convlstm.models.base import Forecaster
from convlstm.models.baselines import (
    Advection,
    Blank,
    Climatology,
    DampedPersistence,
    LinearTrend,
    MeanFrame,
    Persistence,
)
from convlstm.models.convert import from_published
from convlstm.models.convlstm_transformer import ConvLSTMTransformer
from convlstm.models.e3d_lstm import E3DLSTM
from convlstm.models.encoder_forecaster import EncoderForecaster
from convlstm.models.mau import MAU
from convlstm.models.mim import MIM
from convlstm.models.phydnet import PhyDNet
from convlstm.models.predrnn import PredRNN
from convlstm.models.predrnn_plus_plus import PredRNNPlusPlus
from convlstm.models.predrnn_v2 import PredRNNv2
from convlstm.models.sa_convlstm import SAConvLSTMForecaster
from convlstm.models.stacked import StackForecaster
from convlstm.models.swin_lstm import SwinLSTM
from convlstm.models.trajgru import TrajGRUForecaster

__all__ = [
    "E3DLSTM",
    "MAU",
    "MIM",
    "Advection",
    "AutoregressiveForecaster",
    "Blank",
    "Climatology",
    "ConvLSTMTransformer",
    "DampedPersistence",
    "EncoderForecaster",
    "ForecastStream",
    "Forecaster",
    "LinearTrend",
    "MeanFrame",
    "Persistence",
    "PhyDNet",
    "PredRNN",
    "PredRNNPlusPlus",
    "PredRNNv2",
    "SAConvLSTMForecaster",
    "StackForecaster",
    "SwinLSTM",
    "TrajGRUForecaster",
    "from_published",
]
