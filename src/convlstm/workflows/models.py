"""The forecasters of this package as a catalogue."""

import inspect
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch

from convlstm import models as package
from convlstm.models.base import Forecaster
from convlstm.models.memory import CallSizes, multiply_adds, parameters

#: The forecast whose operations are counted: one sequence of PAST frames of SIZE x SIZE, and STEPS more.
PAST, STEPS, SIZE = 10, 10, 64
# A citation, "(Shi et al. 2017, arXiv:1706.03458)" or "Shi et al. (2017, arXiv:1706.03458)".
_SOURCE = re.compile(r"([A-Z][\w-]+(?: et al\.| and [A-Z][\w-]+)? )?\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)")


@dataclass(frozen=True)
class Entry:
    """A forecaster with its default arguments.

    Attributes:
        name: of its class in `convlstm.models`.
        parameters: number of weights that are trained.
        multiply_adds: multiplications, each with an addition, of all convolutions and matrix products of a
            forecast of 10 frames of one channel and 64 x 64 pixels after 10 such frames, one sequence. All
            else is not counted: biases, gates, activations, norms, interpolation.
        summary: first line of its documentation.
        source: the paper that it is from; empty for one of our own.
    """

    name: str
    parameters: int
    multiply_adds: int
    summary: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Names and values, as JSON has them."""
        return asdict(self)


def models() -> list[Entry]:
    """List the forecasters to train: name, parameters, operations, a line and the source of each.

    Operations are the multiply-adds of convolutions and matrix products in a forecast of 10 frames of 64 x 64
    pixels after 10 frames, with default arguments; nothing else is counted. Train one by its name: convlstm
    train --model PredRNN.

    Returns:
        An `Entry` of each, by name.
    """
    kinds = (getattr(package, name) for name in sorted(package.__all__))
    entries = (_entry(kind) for kind in kinds if isinstance(kind, type) and issubclass(kind, Forecaster))
    return [entry for entry in entries if entry is not None]


def _entry(kind: type[Forecaster]) -> Entry | None:
    """The entry of a class; None for one that is abstract, has no parameters, or none without arguments."""
    needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    if inspect.isabstract(kind) or any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in needed):
        return None
    with torch.device("meta"):  # shapes without memory
        model = kind()
    if not parameters(model):
        return None
    operations = multiply_adds(model, CallSizes((SIZE, SIZE), PAST, STEPS))
    return Entry(kind.__name__, parameters(model), operations, *_described(kind))


def _described(kind: type[Forecaster]) -> tuple[str, str]:
    """First line of a docstring without a citation, and the first citation before the arguments."""
    text = (inspect.getdoc(kind) or "").partition("\nArgs:")[0].partition("\nExample:")[0]
    found = _SOURCE.search(" ".join(text.split()))
    summary = " ".join(text.partition("\n\n")[0].split()).replace("`", "")
    if found is None:
        return summary, ""
    authors, source = found[1] or "", found[2]
    if source[:2].isdigit():
        return summary, authors + source
    return summary.replace(f" ({source})", ""), source
