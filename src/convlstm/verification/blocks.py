"""Sums of the terms of scores per block of cases, from which bootstrap intervals are drawn."""

import torch
from torch import Tensor

_DAY = 86400.0
_WINDOWS = 4  # windows that an event lasts before it is cut


class BlockSums:
    """Sums of terms per block, in bounded memory.

    A block is an event: cases in the order of time that lie less than a day apart, from the last frame of one
    to the first of the next. One that lasts longer than a day and than four windows is cut there, so that
    continuous records (sea surface, reanalysis) have blocks too. Cases without times are blocks of their own.
    When there are more blocks than ``most``, each two neighbours become one.

    Args:
        most: number of blocks.
    """

    def __init__(self, most: int = 512) -> None:
        self.most = most
        self._tables: dict[tuple[str, str], Tensor] = {}
        self._event = -1
        self._merged = 1  # events in a block, a power of 2
        self._start = self._end = 0.0  # of the event so far

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self._event // self._merged + 1

    def assign(self, cases: int, times_BT: Tensor | None) -> Tensor:
        """Block of each of the next cases, (B,).

        Args:
            cases: B.
            times_BT: seconds, of all frames of each window; None if unknown.
        """
        events = []
        for case in range(cases):
            if times_BT is None:
                self._event += 1
            else:
                self._join(float(times_BT[case, 0]), float(times_BT[case, -1]))
            events.append(self._event)
        while self.count > self.most:
            self._merged *= 2
            self._tables = {key: _pairs(table) for key, table in self._tables.items()}
        return torch.tensor(events) // self._merged

    def add(self, forecaster: str, key: str, block_B: Tensor, terms_NBL: Tensor) -> None:
        """Add terms of cases to their blocks.

        Args:
            forecaster: name.
            key: of the terms.
            block_B: from `assign`.
            terms_NBL: float64.
        """
        terms_BNL = terms_NBL.movedim(1, 0)
        place = forecaster, key
        table = self._tables.get(place, terms_BNL.new_zeros(0, *terms_BNL.shape[1:]))
        if self.count > len(table):
            rows = max(self.count, 2 * len(table)) - len(table)
            table = torch.cat([table, terms_BNL.new_zeros(rows, *table.shape[1:])])
        self._tables[place] = table.index_add_(0, block_B, terms_BNL)

    def sums(self, forecaster: str, key: str) -> Tensor:
        """Sums of every block, (blocks, N, L)."""
        return self._tables[forecaster, key][: self.count]

    def _join(self, first: float, last: float) -> None:
        """Count the event of a window from its first to its last time."""
        apart = first - self._end >= _DAY or first < self._start
        long = last - self._start > max(_DAY, _WINDOWS * (last - first))
        if self._event < 0 or apart or long:
            self._event += 1
            self._start = first
        self._end = last


def _pairs(table: Tensor) -> Tensor:
    """Sums of each two neighbouring blocks."""
    even, odd = table[::2].clone(), table[1::2]
    even[: len(odd)] += odd
    return even
