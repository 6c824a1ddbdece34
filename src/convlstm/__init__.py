"""Convolutional recurrent networks for sequences of grids, for PyTorch.

Names are loaded when first used: ``import convlstm`` costs nothing, ``convlstm.ConvLSTM`` costs what
``import torch`` costs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convlstm.cells import CausalLSTMCell as CausalLSTMCell
    from convlstm.cells import Cell as Cell
    from convlstm.cells import ConvGRUCell as ConvGRUCell
    from convlstm.cells import ConvLSTMCell as ConvLSTMCell
    from convlstm.cells import ConvRNNCell as ConvRNNCell
    from convlstm.cells import E3DLSTMCell as E3DLSTMCell
    from convlstm.cells import GHUCell as GHUCell
    from convlstm.cells import LinearCell as LinearCell
    from convlstm.cells import MAUCell as MAUCell
    from convlstm.cells import MIMCell as MIMCell
    from convlstm.cells import MinConvGRUCell as MinConvGRUCell
    from convlstm.cells import MinConvLSTMCell as MinConvLSTMCell
    from convlstm.cells import PhyCell as PhyCell
    from convlstm.cells import SAConvLSTMCell as SAConvLSTMCell
    from convlstm.cells import SpaceTimeAttentionCell as SpaceTimeAttentionCell
    from convlstm.cells import STLSTMCell as STLSTMCell
    from convlstm.cells import SwinLSTMCell as SwinLSTMCell
    from convlstm.cells import TrajGRUCell as TrajGRUCell
    from convlstm.data import MovingObjects as MovingObjects
    from convlstm.errors import ConvLSTMError as ConvLSTMError
    from convlstm.layers import ConvGRU as ConvGRU
    from convlstm.layers import ConvLSTM as ConvLSTM
    from convlstm.models import E3DLSTM as E3DLSTM
    from convlstm.models import MAU as MAU
    from convlstm.models import MIM as MIM
    from convlstm.models import AutoregressiveForecaster as AutoregressiveForecaster
    from convlstm.models import ConvLSTMTransformer as ConvLSTMTransformer
    from convlstm.models import EncoderForecaster as EncoderForecaster
    from convlstm.models import Forecaster as Forecaster
    from convlstm.models import PhyDNet as PhyDNet
    from convlstm.models import PredRNN as PredRNN
    from convlstm.models import PredRNNPlusPlus as PredRNNPlusPlus
    from convlstm.models import PredRNNv2 as PredRNNv2
    from convlstm.models import SAConvLSTMForecaster as SAConvLSTMForecaster
    from convlstm.models import StackForecaster as StackForecaster
    from convlstm.models import SwinLSTM as SwinLSTM
    from convlstm.models import TrajGRUForecaster as TrajGRUForecaster
    from convlstm.plots.recorder import Tape as Tape
    from convlstm.plots.recorder import record as record
    from convlstm.training.config import TrainingConfig as TrainingConfig
    from convlstm.workflows.demo import demo as demo
    from convlstm.workflows.describe import describe as describe
    from convlstm.workflows.evaluate import evaluate as evaluate
    from convlstm.workflows.forecast import forecast as forecast
    from convlstm.workflows.inspect import inspect as inspect
    from convlstm.workflows.plan import plan as plan
    from convlstm.workflows.report import report as report
    from convlstm.workflows.train import train as train

_HOME = {
    "AutoregressiveForecaster": "convlstm.models",
    "CausalLSTMCell": "convlstm.cells",
    "Cell": "convlstm.cells",
    "ConvGRU": "convlstm.layers",
    "ConvGRUCell": "convlstm.cells",
    "ConvLSTM": "convlstm.layers",
    "ConvLSTMCell": "convlstm.cells",
    "ConvLSTMError": "convlstm.errors",
    "ConvLSTMTransformer": "convlstm.models",
    "ConvRNNCell": "convlstm.cells",
    "E3DLSTM": "convlstm.models",
    "E3DLSTMCell": "convlstm.cells",
    "EncoderForecaster": "convlstm.models",
    "Forecaster": "convlstm.models",
    "GHUCell": "convlstm.cells",
    "LinearCell": "convlstm.cells",
    "MinConvGRUCell": "convlstm.cells",
    "MinConvLSTMCell": "convlstm.cells",
    "MAU": "convlstm.models",
    "MAUCell": "convlstm.cells",
    "MIM": "convlstm.models",
    "MIMCell": "convlstm.cells",
    "MovingObjects": "convlstm.data",
    "PhyCell": "convlstm.cells",
    "PhyDNet": "convlstm.models",
    "PredRNN": "convlstm.models",
    "PredRNNPlusPlus": "convlstm.models",
    "PredRNNv2": "convlstm.models",
    "SAConvLSTMCell": "convlstm.cells",
    "SAConvLSTMForecaster": "convlstm.models",
    "STLSTMCell": "convlstm.cells",
    "SpaceTimeAttentionCell": "convlstm.cells",
    "StackForecaster": "convlstm.models",
    "SwinLSTM": "convlstm.models",
    "SwinLSTMCell": "convlstm.cells",
    "Tape": "convlstm.plots.recorder",
    "TrainingConfig": "convlstm.training.config",
    "TrajGRUCell": "convlstm.cells",
    "TrajGRUForecaster": "convlstm.models",
    "demo": "convlstm.workflows.demo",
    "describe": "convlstm.workflows.describe",
    "evaluate": "convlstm.workflows.evaluate",
    "forecast": "convlstm.workflows.forecast",
    "inspect": "convlstm.workflows.inspect",
    "plan": "convlstm.workflows.plan",
    "record": "convlstm.plots.recorder",
    "report": "convlstm.workflows.report",
    "train": "convlstm.workflows.train",
}

__all__ = [
    "E3DLSTM",
    "MAU",
    "MIM",
    "AutoregressiveForecaster",
    "CausalLSTMCell",
    "Cell",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvLSTMError",
    "ConvLSTMTransformer",
    "ConvRNNCell",
    "E3DLSTMCell",
    "EncoderForecaster",
    "Forecaster",
    "GHUCell",
    "LinearCell",
    "MAUCell",
    "MIMCell",
    "MinConvGRUCell",
    "MinConvLSTMCell",
    "MovingObjects",
    "PhyCell",
    "PhyDNet",
    "PredRNN",
    "PredRNNPlusPlus",
    "PredRNNv2",
    "SAConvLSTMCell",
    "SAConvLSTMForecaster",
    "STLSTMCell",
    "SpaceTimeAttentionCell",
    "StackForecaster",
    "SwinLSTM",
    "SwinLSTMCell",
    "Tape",
    "TrainingConfig",
    "TrajGRUCell",
    "TrajGRUForecaster",
    "__version__",
    "demo",
    "describe",
    "evaluate",
    "forecast",
    "inspect",
    "plan",
    "record",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'convlstm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
