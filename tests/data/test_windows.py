"""Windows by time stamps, and splits that share nothing."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convlstm.data.base import SPLITS
from convlstm.data.windows import MISSING, fingerprint, gaps, split_frames, time_step, window_frames
from convlstm.errors import DataError, OptionError

MINUTES = np.array([0, 5, 10, 15, 30, 35, 40, 45, 50]) * 60.0


def test_a_gap_is_where_frames_lie_more_than_one_and_a_half_steps_apart():
    assert time_step(MINUTES) == 300
    assert [tuple(gap) for gap in gaps(MINUTES)] == [(3, 2)]
    months = np.array(np.arange("2001-01", "2003-01", dtype="M8[M]"), "M8[s]").astype(float)
    assert gaps(months) == []


def test_no_window_lies_across_a_gap():
    assert window_frames(MINUTES, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [5, 6, 7, 8]]
    assert window_frames(MINUTES, 6).shape == (0, 6)


def test_missing_frames_are_marked_on_request():
    found = window_frames(MINUTES, 5, masked=True).tolist()
    assert [1, 2, 3, MISSING, MISSING] not in found  # which ends in the gap
    assert [2, 3, MISSING, MISSING, 4] in found
    assert [3, MISSING, MISSING, 4, 5] in found
    assert [4, 5, 6, 7, 8] in found
    assert len(found) == 3
    assert window_frames(MINUTES, 2, masked=True).tolist() == window_frames(MINUTES, 2).tolist()


@given(st.lists(st.sampled_from([1, 1, 1, 2, 3, 7]), min_size=3, max_size=40), st.integers(1, 6))
def test_windows_are_those_that_their_times_say(steps, length):
    """Against a slow search by time: a window is every run of times one step apart."""
    times = np.cumsum([0, 1, 1, 1, *steps]) * 60.0
    if np.median(np.diff(times)) != 60:
        return
    there = {time: index for index, time in enumerate(times)}
    slow = [
        [there[start + 60 * k] for k in range(length)]
        for start in times
        if all(start + 60 * k in there for k in range(length))
    ]
    assert window_frames(times, length).tolist() == slow
    masked = [
        [there.get(start + 60 * k, MISSING) for k in range(length)]
        for start in times
        if start + 60 * (length - 1) in there
    ]
    assert window_frames(times, length, masked=True).tolist() == masked


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ([86400, 86700, 86700, 87000], "times must increase; frame 2 is at 1970-01-02T00:05:00"),
        ([0, 600, 300], "times must increase; frame 2 is at 300 s, after 600 s"),  # without dates
        ([0, 300, 600, 660, 960], "one time step, 300 s here; 600 s and 660 s are 60 s apart"),
    ],
)
def test_disordered_times_are_refused(times, sentence):
    with pytest.raises(DataError, match=sentence):
        time_step(np.array(times, float))


def test_a_split_by_time_keeps_its_order_and_a_guard():
    found = split_frames(np.arange(100) * 300.0, "time", 10, guard=4)
    assert [np.flatnonzero(found[name])[[0, -1]].tolist() for name in found] == [[0, 61], [66, 80], [85, 99]]


def test_a_split_by_event_cuts_none():
    times = np.concatenate([start + np.arange(20) * 300.0 for start in np.arange(10) * 1e6])
    found = split_frames(times, "event", 5, guard=0)
    for frames in found.values():
        assert set(frames.reshape(10, 20).sum(1).tolist()) <= {0, 20}
    assert sum(frames.sum() for frames in found.values()) == 200
    assert (found["validation"].sum(), found["test"].sum()) == (40, 40)


@pytest.mark.parametrize("events", [3, 4, 5])
def test_every_split_has_an_event(events):
    times = np.concatenate([start + np.arange(36) * 300.0 for start in np.arange(events) * 1e6])
    found = split_frames(times, "event", 8, guard=4)
    assert [int(found[name].sum()) // 36 for name in found] == [events - 2, 1, 1]


def test_given_periods():
    times = np.array(np.arange("2001-01-01", "2001-01-11", dtype="M8[D]"), "M8[s]").astype(float)
    periods = {
        "train": ["2001-01-01/2001-01-04", "2001-01-09"],
        "validation": "2001-01-05/2001-01-06",
        "test": "2001-01-07",
    }
    found = split_frames(times, periods, 2, guard=9)
    assert np.flatnonzero(found["train"]).tolist() == [0, 1, 2, 3, 8]
    assert np.flatnonzero(found["validation"]).tolist() == [4, 5]
    assert np.flatnonzero(found["test"]).tolist() == [6]
    with pytest.raises(OptionError, match="splits must share no frame; 2001-01-06T00:00:00 is in two"):
        split_frames(times, periods | {"test": "2001-01-06/2001-01-08"}, 2, guard=0)
    with pytest.raises(OptionError, match="a period must be start/end"):
        split_frames(times, periods | {"test": "yesterday"}, 2, guard=0)
    for open_end in ("2001-01-07/", "/2001-01-07", "/", "", "2001-01-08/2001-01-07"):
        with pytest.raises(OptionError, match=f"a period must be start/end, .*received '{open_end}'"):
            split_frames(times, periods | {"test": open_end}, 2, guard=0)
    zulu = {name: f" {period} ".replace("/", "Z / ") for name, period in periods.items() if name != "train"}
    again = split_frames(times, periods | zulu, 2, guard=9)  # without a warning of NumPy's
    assert all(np.array_equal(again[name], found[name]) for name in found)
    late = split_frames(times + 86399.5, periods, 2, guard=0)  # in the last second of each day
    assert all((late[name] == frames).all() for name, frames in found.items())
    with pytest.raises(DataError, match="every split needs frames; test has none of the 10"):
        split_frames(times, periods | {"test": "2005"}, 2, guard=0)
    dates = {"train": date(2001, 1, 1), "validation": [date(2001, 1, 2)]}  # as YAML reads them
    found = split_frames(times, dates, 2, guard=0)
    assert [found[name].nonzero()[0].tolist() for name in SPLITS] == [[0], [1], []]
    for wrong in ({"train": "2001", "a": "2001"}, {"test": "2001"}):
        with pytest.raises(OptionError, match="periods must be given of train, and of validation and test"):
            split_frames(times, wrong, 2, guard=0)
    with pytest.raises(OptionError, match="split must be 'time', 'event' or periods"):
        split_frames(times, "random", 2, guard=0)


def test_too_few_frames_are_refused():
    with pytest.raises(DataError, match="20 frames are too few for windows of 8, past . steps"):
        split_frames(np.arange(20) * 300.0, "time", 8, guard=4)


def test_a_fingerprint_tells_times_apart():
    assert fingerprint(MINUTES) == fingerprint(MINUTES.copy()) != fingerprint(MINUTES + 1)


def test_windows_at_a_stride_begin_anew_after_a_gap():
    times = np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15], float)
    found = window_frames(times, 2, stride=3)
    assert found[:, 0].tolist() == [0, 3, 5, 8]
    masked = window_frames(np.array([0, 1, 2, 4, 5, 6, 7, 8], float), 3, stride=2, masked=True)
    assert masked.tolist() == [[0, 1, 2], [2, -1, 3], [3, 4, 5], [5, 6, 7]]


@pytest.mark.parametrize("events", [1, 2])
def test_a_split_by_event_needs_three(events):
    times = np.arange(60.0) + 1000 * (np.arange(60) // (60 // events))
    with pytest.raises(
        DataError, match=f"needs three events or more, .* are {events}: use --data.split time"
    ):
        split_frames(times, "event", 5, 2)
