"""Operations and memory of a model before it is run, and options that lower them."""

import copy
import inspect
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

import convlstm.engines as engines
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.stack import Stack
from convlstm.layers.state import has_memory
from convlstm.models.base import Forecaster
from convlstm.models.memory import (
    CallSizes,
    inference_bytes,
    multiply_adds,
    parameters,
    training_bytes,
    with_engine,
    without_values,
)
from convlstm.system_memory import free_memory
from convlstm.training.run_folder import import_path
from convlstm.validation import check_instance, check_integers, check_positive
from convlstm.workflows.evaluate import load_model
from convlstm.workflows.train import trusted_packages

#: Precisions of `TrainingConfig`, by whether they are mixed; 16-mixed takes what bf16-mixed takes.
PRECISIONS = {"32": False, "bf16-mixed": True}
_MOST = 10**6
_MOST_PIXELS = 10**12  # of all frames; far beyond any memory, and still counted without an overflow
_WORTHWHILE = 0.95  # of the memory that an option at least saves, to be named


@dataclass(frozen=True)
class Need:
    """Memory of a model with an engine, a precision and what training saves of each step.

    Attributes:
        engine: that runs its layers; ``any`` if all engines run them alike.
        precision: as for `convlstm.TrainingConfig`.
        save: as for `convlstm.ConvLSTM`; empty where there is no choice.
        held: bytes between the forward and the backward pass.
        training: bytes of a training step at most, with gradients of the weights, without the weights.
        inference: bytes of a forecast at most, without the weights.
        default: True if this is what runs unless an option says otherwise.
    """

    engine: str
    precision: str
    save: str
    held: int
    training: int
    inference: int
    default: bool = False

    @property
    def figures(self) -> tuple[int, int, int]:
        """Bytes held, of training and of inference."""
        return self.held, self.training, self.inference


@dataclass(frozen=True)
class Remedy:
    """An option that lowers the memory of training.

    Attributes:
        option: as it is typed after ``convlstm train``, or in Python for layers.
        training: bytes of a training step at most with it.
    """

    option: str
    training: int


@dataclass(frozen=True)
class ModelPlan:
    """Parameters, operations and memory of a model for frames of a size.

    Attributes:
        model: name of its class.
        size: H, W.
        past: K.
        steps: L.
        batch_size: B.
        parameters: number of weights that are trained.
        weights: bytes of all weights and buffers; Adam keeps twice as many bytes again.
        multiply_adds: of all convolutions and matrix products of a forecast of the batch.
        needs: memory, by engine, precision and save.
        remedies: options that lower the memory of training, each alone, from the default.
        free: bytes that are free on this machine now; None if unknown.
    """

    model: str
    size: tuple[int, int]
    past: int
    steps: int
    batch_size: int
    parameters: int
    weights: int
    multiply_adds: int
    needs: tuple[Need, ...]
    remedies: tuple[Remedy, ...]
    free: int | None

    @property
    def default(self) -> Need:
        """The memory with the options as they are, in 32 bits."""
        return next(need for need in self.needs if need.default)

    def to_dict(self) -> dict[str, Any]:
        """Names and values, as JSON has them."""
        return asdict(self)


@import_path()
def plan(
    model: Forecaster | Stack | str | os.PathLike[str],
    *,
    size: str | Sequence[int],
    past: int,
    steps: int = 1,
    batch_size: int = 1,
    trust: str | Sequence[str] = (),
) -> ModelPlan:
    """State parameters, operations and memory of a model for frames of a size, without computing one.

    Memory is that of the buffers of a training step (forward and backward pass) and of a forecast at most, on
    a CPU, by engine, precision and what is saved, counted without arithmetic. The weights are apart, and so
    is what the C library takes on top.

    Args:
        model: name of one of ours or dotted path of a class, whose options follow as --model.hidden_dim
            [32,32]; or a run folder or a model folder; in Python a forecaster, or layers such as
            `convlstm.ConvLSTM`.
        size: height and width of the frames, such as 480x480.
        past: frames that are read; of layers all.
        steps: frames to forecast.
        batch_size: sequences at once.
        trust: names of your own packages, separated by commas, whose classes the model may load beside
            convlstm's.

    Returns:
        The `ModelPlan`.

    Raises:
        OptionError: no size, no past, or a model that cannot be planned.
        ShapeError: a size that the model does not take.
    """
    height, width = _size(size)
    known = {"past": past, "steps": steps, "batch_size": batch_size}
    frames = CallSizes((height, width), *(check_positive(v, n, most=_MOST) for n, v in known.items()))
    _check_pixels(frames)
    given: Any = model
    if isinstance(model, str | os.PathLike):
        given = load_model(model, trusted_packages(trust, model))
    remedy = "pass a forecaster, such as EncoderForecaster(), or layers"
    check_instance(given, (Forecaster, Stack), "model", remedy)
    _check_model(given)
    tensors, light = [*given.parameters(), *given.buffers()], without_values(given)
    needs = _needs(light, frames)
    most = next(need.training for need in needs if need.default)
    free = free_memory(torch.device("cpu"))
    return ModelPlan(
        type(given).__name__,
        (height, width),
        *frames[1:],
        parameters(given),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        multiply_adds(light, frames),
        needs,
        _remedies(light, frames, most),
        None if math.isinf(free) else int(free),
    )


def _check_pixels(frames: CallSizes) -> None:
    """Refuse frames whose bytes cannot be counted."""
    (height, width), past, steps, batch_size = frames
    if height * width * (past + steps) * batch_size > _MOST_PIXELS:
        raise OptionError(
            f"a plan must have at most 10^12 pixels in all frames; received {past} + {steps} frames of "
            f"{height} x {width}, batch size {batch_size}: lower size, past, steps or batch_size"
        )


def _check_model(model: Forecaster | Stack) -> None:
    """Refuse a model without parameters, of another number of space axes, or in another precision."""
    if not parameters(model):
        raise OptionError(
            f"a plan needs a model with parameters; received {type(model).__name__}, which has none and "
            "takes little: use it as it is"
        )
    if isinstance(model, Stack) and (axes := model._convlstm_options.axes) != 2:
        raise OptionError(
            f"a plan is of layers with two space axes; received a {type(model).__name__} with {axes}: "
            "measure it on a small sequence"
        )
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    if others := dtypes - {torch.float32}:
        raise OptionError(
            f"a plan needs weights in torch.float32; received {', '.join(map(str, others))}: pass "
            "model.float(), whose plan has mixed precision too"
        )


def _size(size: str | Sequence[int]) -> tuple[int, int]:
    """Height and width, of text such as 480x480 too."""
    if isinstance(size, str | int):
        found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", str(size).strip())
        if found is None:
            raise OptionError(
                f"size must be height and width with an x between them; received {str(size)[:80]!r}: write "
                "480x480"
            )
        size = [int(found[1]), int(found[2])]
    height, width = check_integers(size, 2, "size")
    return height, width


def _needs(model: Any, frames: CallSizes) -> tuple[Need, ...]:
    """Memory by engine, precision and save, the default marked; engine ``any`` where all are alike."""
    default = _need(model, frames, "auto", "32")
    rows = _of_engine(model, frames, "reference")
    if rows[0].figures == _need(_with(model, "fused", "gates"), frames, "fused", "32").figures:
        rows = [replace(row, engine="any") for row in rows]
    else:
        rows += [row for engine in ("fused", "compiled") for row in _of_engine(model, frames, engine)]
    same = [n for n, row in enumerate(rows) if row.precision == "32" and row.figures == default.figures]
    if not same:  # layers that run on different engines
        return (replace(default, default=True), *rows)
    rows[same[-1]] = replace(rows[same[-1]], default=True)
    return tuple(rows)


def _of_engine(model: Any, frames: CallSizes, engine: str) -> list[Need]:
    """Memory with an engine; nothing if it cannot run here, or not with these layers."""
    if engines.available()[engine] is not None:
        return []
    saves = engines.SAVES[1:] if engine != "reference" and _takes(model, "save") else ("",)
    found: list[Need] = []
    try:
        for precision in PRECISIONS:
            first = _need(_with(model, engine, saves[0] or None), frames, engine, precision, saves[0])
            found.append(first)
            for save in saves[1:]:  # forecasts save nothing
                changed = _with(model, engine, save)
                held, most = training_bytes(changed, frames, mixed=PRECISIONS[precision])
                found.append(replace(first, save=save, held=held, training=most))
    except OptionError:
        if engine == "reference":
            raise
    return found


def _need(model: Any, frames: CallSizes, engine: str, precision: str, save: str = "") -> Need:
    mixed = PRECISIONS[precision]
    held, most = training_bytes(model, frames, mixed=mixed)
    return Need(engine, precision, save, held, most, inference_bytes(model, frames, mixed=mixed))


def _remedies(model: Any, frames: CallSizes, most: int) -> tuple[Remedy, ...]:
    """Options that lower the memory of training, each alone, the most effective first."""
    layers = isinstance(model, Stack)
    changed: list[tuple[str, dict[str, Any]]] = []
    if _takes(model, "save"):
        changed.append(('save="state"' if layers else "--model.save state", {"save": "state"}))
    if (
        layers
        and _takes(model, "checkpoint")
        and frames.past > 3
        and not any(map(has_memory, model.cell_list))
    ):
        every = math.isqrt(frames.past)
        changed.append((f"checkpoint={every}", {"checkpoint": every}))
    if _takes(model, "patch_size"):
        size = 2 * model.patch_size
        changed.append((f"--model.patch_size {size}", {"patch_size": size}))
    found = [
        ("torch.autocast" if layers else "--precision bf16-mixed", training_bytes(model, frames, mixed=True))
    ]
    for option, arguments in changed:
        with torch.device("meta"):
            other = type(model)(**model._convlstm_arguments | arguments)
        with suppress(ShapeError):  # weights for maps of one size
            found.append((option, training_bytes(other, frames)))
    if frames.batch_size > 1:
        half = frames._replace(batch_size=frames.batch_size // 2)
        option = "half the batch" if layers else f"--batch_size {half.batch_size}"
        found.append((option, training_bytes(model, half)))
    lower = [Remedy(option, need.most) for option, need in found if need.most < _WORTHWHILE * most]
    return tuple(sorted(lower, key=lambda remedy: remedy.training))


def _with(model: Any, engine: str, save: str | None) -> Any:
    """A copy of a model without weights, with another engine."""
    return with_engine(copy.deepcopy(model), engine, save)


def _takes(model: Any, option: str) -> bool:
    """True if a model is built with an option, from arguments that are known."""
    return option in inspect.signature(type(model)).parameters and option in model._convlstm_arguments
