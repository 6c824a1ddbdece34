"""The recurrences that the fast engines support: one file each, its specification beside its torch form."""

from typing import Any

from torch import nn

from convlstm.engines.recurrences.base import Recurrence, Weight
from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.recurrences.rnn import RNN

__all__ = ["RECURRENCES", "Recurrence", "Weight", "recurrence_of"]

#: Recurrences by name.
RECURRENCES: dict[str, type[Recurrence]] = {kind.name: kind for kind in (LSTM, GRU, RNN)}

# Methods of a cell that define its recurrence.
_RULES = (
    *("forward", "project", "project_hidden", "_convolve", "step", "update", "preactivations"),
    *("initial_state", "init_hidden"),
)


def recurrence_of(cell: nn.Module) -> type[Recurrence] | None:
    """The recurrence of a cell, or None if it has another or overrides a method that defines it."""
    # Lists, as torch.compile of torch 2.7 does not trace next() of a generator with a default.
    known = [kind for kind in RECURRENCES.values() if isinstance(cell, kind.cell_class)]
    found = known[0] if known else None
    if found is None or any(rule in cell.__dict__ for rule in _RULES):
        return None
    own: Any = type(cell)
    base: Any = found.cell_class
    overrides = own is not base and any(
        getattr(own, rule, None) is not getattr(base, rule, None) for rule in _RULES
    )
    return None if overrides else found
