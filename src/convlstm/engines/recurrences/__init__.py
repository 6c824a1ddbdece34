"""The recurrences that the fast engines support: one file each, its specification beside its torch form."""

from torch import nn

from convlstm.cells.overrides import are_replaced, methods_of
from convlstm.engines.recurrences.base import Recurrence, StepBuffers, StepGradients, Weight, sizes
from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.recurrences.rnn import RNN

__all__ = ["RECURRENCES", "Recurrence", "StepBuffers", "StepGradients", "Weight", "recurrence_of", "sizes"]

#: Recurrences by name.
RECURRENCES: dict[str, type[Recurrence]] = {kind.name: kind for kind in (LSTM, GRU, RNN)}

# Methods of its cell that define a recurrence, by its name.
_METHODS = {
    name: methods_of(
        kind.cell_class,
        *("forward", "project", "project_hidden", "_convolve", "step", "update", "preactivations"),
        *("initial_state", "init_hidden"),
    )
    for name, kind in RECURRENCES.items()
}


def recurrence_of(cell: nn.Module) -> type[Recurrence] | None:
    """The recurrence of a cell, or None if it has another or overrides a method that defines it."""
    # A loop, as torch.compile of torch 2.7 does not trace next() of a generator with a default.
    for name, found in RECURRENCES.items():
        if isinstance(cell, found.cell_class):
            return None if are_replaced(cell, _METHODS[name]) else found
    return None
