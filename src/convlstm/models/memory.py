"""Memory and operations of forecasters and layers, counted without computing a frame.

The model is called as in training or in a forecast, with tensors that have no elements (`DryRun`): what is
counted is what its engines and autograd allocate. Weights and the frames given are not counted, gradients of
the weights are. The figures are those of a CPU, and of the buffers alone: the C library may take more of the
system (`ALLOCATOR_SHARE`).
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.engines.dry_run import DryRun, DryTensor
from convlstm.errors import ConvLSTMError, OptionError, first_line
from convlstm.layers.stack import Stack
from convlstm.models.base import Forecaster, run_forecaster

#: Most that glibc takes of the system for each byte of a training step on a CPU, as free blocks do not fit
#: the next ones. One of `_FIXED_LIMITS` in the environment stops it from adapting its limits, so that it
#: returns large blocks.
ALLOCATOR_SHARE = 1.8
_FIXED_LIMITS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


class CallSizes(NamedTuple):
    """Sizes of the frames of a call.

    Attributes:
        size: H, W.
        past: K; for layers the length of the sequence.
        steps: L; not used for layers.
        batch_size: B.
    """

    size: Sequence[int]
    past: int
    steps: int
    batch_size: int = 1


class TrainingBytes(NamedTuple):
    """Bytes of a training step.

    Attributes:
        held: between the forward and the backward pass.
        most: at once, with the gradients of the weights.
    """

    held: int
    most: int


def training_bytes(model: nn.Module, frames: CallSizes, *, mixed: bool = False) -> TrainingBytes:
    """Memory of a forward and a backward pass, with the mean squared error as the loss.

    Args:
        model: a forecaster or a stack of layers; left as it is, and never run.
        frames: of the call.
        mixed: autocast to bfloat16.

    Raises:
        ConvLSTMError: the model does not take such frames, or needs values to know what to compute.
    """
    with _dry(model, training=True) as (run, dry), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        call, before = _call(dry, frames), run.bytes
        forecast = call()
        loss = F.mse_loss(forecast.float(), torch.zeros(forecast.shape))
        held = run.bytes - before
        torch.autograd.backward(loss)
        return TrainingBytes(held, run.most_bytes - before)


def inference_bytes(model: nn.Module, frames: CallSizes, *, mixed: bool = False) -> int:
    """Memory of a forecast without gradients at most; arguments and errors of `training_bytes`."""
    with _dry(model, training=False) as (run, dry), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        call, before = _call(dry, frames), run.bytes
        with torch.no_grad():
            forecast = call()
        del forecast
        return run.most_bytes - before


def multiply_adds(model: nn.Module, frames: CallSizes) -> int:
    """Multiplications, each with an addition, of all convolutions and matrix products of a forecast.

    All else is not counted: biases, gates, activations, norms, interpolation. Arguments and errors are those
    of `training_bytes`.
    """
    from torch.utils.flop_counter import FlopCounterMode  # which costs a fifth of a second

    with _translated(model), torch.device("meta"):
        counted = with_engine(without_values(model), "auto").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _call(counted, frames)()
        return int(counter.get_total_flops() // 2)


def parameters(model: nn.Module) -> int:
    """Number of weights that are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def without_values(model: Any) -> Any:
    """A copy of a model whose weights and buffers are on the meta device."""
    return _copy(model, nn.Parameter)


def with_engine(model: Any, engine: str, save: str | None = None) -> Any:
    """The same model, with all its layers set to an engine, and to what they save where that is given."""
    for module in model.modules():
        if isinstance(module, Stack):
            options = module._convlstm_options
            scan = options.scan if save is None else replace(options.scan, save=save)
            module._convlstm_options = replace(options, engine=engine, scan=scan)
        for name, value in (("engine", engine), ("save", save)):
            if value is not None and isinstance(getattr(module, name, None), str):
                setattr(module, name, value)
    return model


def allocator_share() -> float:
    """`ALLOCATOR_SHARE` for this process."""
    return 1.0 if any(name in os.environ for name in _FIXED_LIMITS) else ALLOCATOR_SHARE


def gibibytes(count: float) -> str:
    """Bytes as text of three digits, in GiB or MiB."""
    value, unit = (count / 2**30, "GiB") if count >= 1000 * 2**20 else (count / 2**20, "MiB")
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"


def _call(model: nn.Module, frames: CallSizes) -> Callable[[], Tensor]:
    """The call of a model with frames of zeros."""
    batch, size = frames.batch_size, frames.size
    if isinstance(model, Stack):
        sequence = torch.zeros(batch, frames.past, model.input_dim, *size)
        sequence = sequence if model.batch_first else sequence.transpose(0, 1)
        return lambda: model(sequence)[0][-1]
    assert isinstance(model, Forecaster)
    past = torch.zeros(batch, frames.past, getattr(model, "channels", 1), *size)
    extra = model.extra_channels
    inputs = torch.zeros(batch, frames.past + frames.steps, extra, *size) if extra else None
    return lambda: run_forecaster(model, past, frames.steps, inputs)


@contextmanager
def _dry(model: nn.Module, *, training: bool) -> Iterator[tuple[DryRun, Any]]:
    """A dry run, and a copy of the model without elements for it."""
    dry = _copy(model, DryTensor).train(training)
    with _translated(model), DryRun() as run:
        yield run, dry


def _copy(model: nn.Module, made: Callable[..., Tensor]) -> Any:
    """A copy of a model whose weights and buffers are made from ones on the meta device."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = made(tensor.detach().to("meta"), tensor.requires_grad)
    return copy.deepcopy(model, memo)


@contextmanager
def _translated(model: nn.Module) -> Iterator[None]:
    """Context in which errors of a model that needs values become one sentence."""
    try:
        yield
    except ConvLSTMError:
        raise
    except Exception as error:  # of torch or the model's own code
        raise OptionError(
            f"a plan needs a model whose operations do not depend on the values of frames; "
            f"{type(model).__name__} gave '{first_line(error)}': measure it on a small frame instead"
        ) from error
