"""Memory of a training step before it is run, and a sentence for one that does not fit."""

import torch
from torch import nn

from convlstm.data.base import LabelledWindow, Window
from convlstm.errors import ConvLSTMError
from convlstm.models.memory import CallSizes, gibibytes, training_bytes
from convlstm.system_memory import free_memory
from convlstm.training.config import TrainingConfig
from convlstm.training.module import from_first_frame

_RULE = "a training step must fit in memory, and it does not"
_REMEDY = "lower --batch_size, or use --batch_size auto"


def step_bytes(
    model: nn.Module, window: Window | LabelledWindow, config: TrainingConfig, batch_size: int
) -> int:
    """Bytes of a training step at most, without the weights, as `convlstm.models.memory` counts them.

    Args:
        model: the forecaster.
        window: of the data, for its sizes alone.
        config: of the training.
        batch_size: windows of the step.

    Raises:
        OptionError: a model whose memory cannot be counted without running it.
    """
    past, steps = len(window.past), len(window.future)
    if from_first_frame(config):
        past, steps = 1, past - 1 + steps
    frames = CallSizes(window.past.shape[-2:], past, steps, batch_size)
    return training_bytes(model, frames, mixed=config.precision != "32").most


def too_large_message(model: nn.Module, window: Window | LabelledWindow, config: TrainingConfig) -> str:
    """The error message for a step that does not fit: what it needs and what helps.

    Arguments are those of `step_bytes`.
    """
    batch = int(config.batch_size)
    try:
        needed = gibibytes(step_bytes(model, window, config, batch))
        half = gibibytes(step_bytes(model, window, config, max(1, batch // 2)))
    except ConvLSTMError:
        return f"{_RULE}: {_REMEDY}"
    device = torch.device("cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    free = gibibytes(free_memory(device))
    smaller = f"--batch_size {batch // 2} needs {half}, " if batch > 1 else ""
    mixed = "" if config.precision != "32" else "--precision bf16-mixed needs less, "
    return (
        f"{_RULE}; one of batch size {batch} needs {needed} and {free} are free: "
        f"{smaller}{mixed}--batch_size auto finds the largest that fits, and convlstm plan states what else "
        "helps"
    )
