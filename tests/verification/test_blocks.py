"""Blocks of cases that bootstrap intervals are drawn from."""

import pytest
import torch

from convlstm.verification.blocks import BlockSums

HOUR, DAY = 3600.0, 86400.0


def windows(starts, length=6, step=600.0):
    return torch.tensor(starts, dtype=torch.float64)[:, None] + step * torch.arange(length)


def test_cases_less_than_a_day_apart_are_one_event():
    blocks = BlockSums()
    assert blocks.assign(3, windows([0, HOUR, 5 * HOUR])).tolist() == [0, 0, 0]
    end = 5 * HOUR + 3000
    assert blocks.assign(3, windows([end + DAY - 1, 0, 5 * DAY])).tolist() == [1, 2, 3]
    assert blocks.count == 4


def test_a_continuous_record_is_cut_after_four_windows_and_a_day():
    """Daily windows of 10 days, each a day after the one before: the 32nd ends after more than 36 days."""
    blocks = BlockSums()
    found = blocks.assign(100, windows([k * DAY for k in range(100)], 10, DAY))
    assert found.tolist() == [k // 28 for k in range(100)]
    hourly = BlockSums()
    found = hourly.assign(60, windows([k * HOUR for k in range(60)], 2, HOUR))
    assert found.tolist() == [k // 24 for k in range(60)]


def test_cases_without_times_are_blocks_of_their_own():
    assert BlockSums().assign(4, None).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_neighbours_merge_and_no_sum_is_lost(batch):
    blocks, terms = BlockSums(most=8), torch.rand(2, 50, 3, dtype=torch.float64)
    for start in range(0, 50, batch):
        part = terms[:, start : start + batch]
        blocks.add("model", "mse", blocks.assign(part.shape[1], None), part)
    sums = blocks.sums("model", "mse")
    assert blocks.count == len(sums) == 7  # of 8 cases each, the last of 2
    expected = torch.stack([terms[:, k : k + 8].sum(1) for k in range(0, 50, 8)])
    torch.testing.assert_close(sums, expected)
