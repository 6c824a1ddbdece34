"""The recurrences that the fast engines support: one file each, its specification beside its torch form."""

from torch import nn

from convlstm.engines.recurrences.base import Recurrence, StepBuffers, StepGradients, Weight, sizes
from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.recurrences.rnn import RNN

__all__ = ["RECURRENCES", "Recurrence", "StepBuffers", "StepGradients", "Weight", "recurrence_of", "sizes"]

#: Recurrences by name.
RECURRENCES: dict[str, type[Recurrence]] = {kind.name: kind for kind in (LSTM, GRU, RNN)}

# Methods of a cell that define its recurrence.
_RULES = (
    *("forward", "project", "project_hidden", "_convolve", "step", "update", "preactivations"),
    *("initial_state", "init_hidden"),
)
# Those that the cell of a recurrence has, as they are here: a user may replace one on the class itself.
_METHODS = {
    name: {rule: getattr(kind.cell_class, rule) for rule in _RULES if hasattr(kind.cell_class, rule)}
    for name, kind in RECURRENCES.items()
}


def recurrence_of(cell: nn.Module) -> type[Recurrence] | None:
    """The recurrence of a cell, or None if it has another or overrides a method that defines it."""
    # A loop, as torch.compile of torch 2.7 does not trace next() of a generator with a default.
    for name, found in RECURRENCES.items():
        if isinstance(cell, found.cell_class):
            own, methods = type(cell), _METHODS[name]
            same = all(getattr(own, rule) is method for rule, method in methods.items())
            return found if same and not any(rule in cell.__dict__ for rule in _RULES) else None
    return None
