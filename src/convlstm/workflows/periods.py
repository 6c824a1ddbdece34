"""Times of frames, and the windows and splits that they allow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.data.base import SPLITS
from convlstm.data.windows import gaps, split_frames, time_step, window_frames
from convlstm.errors import DataError

#: Past and steps of windows that are tried, the default first.
LENGTHS = ((12, 12), (12, 6), (6, 6), (4, 4), (3, 3), (2, 2), (2, 1))


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times of the frames.

    Attributes:
        frames: number of frames.
        dated: True if they have dates, False if times count from the first frame.
        first: time of the first frame, ISO 8601; or seconds.
        last: of the last one.
        step_s: seconds between frames, the median.
        gaps: number of gaps.
        missing: share of the frames between the first and the last that are not there.
        longest_gap: time of the frame before the longest gap, that of the frame after it, and the number of
            frames missing between them; None without gaps.
        stretches: number of frames of each stretch without a gap.
    """

    frames: int
    dated: bool
    first: str
    last: str
    step_s: float
    gaps: int
    missing: float
    longest_gap: tuple[str, str, int] | None
    stretches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split that training would make.

    Attributes:
        windows: number of windows.
        frames: number of frames in them.
        first: time of the first frame.
        last: time of the last one.
    """

    windows: int
    frames: int
    first: str
    last: str


@dataclass(frozen=True)
class TrainingWindows:
    """Windows and splits by which files can be trained on.

    Attributes:
        past: K.
        steps: L.
        split: ``time`` or ``event``.
        masked: True for windows with missing frames.
        splits: by name; empty if there are too few frames to train.
        notes: sentences on what is not as by default.
    """

    past: int
    steps: int
    split: str
    masked: bool
    splits: dict[str, Split]
    notes: tuple[str, ...]


def times_of(times: NDArray[np.float64], dated: bool) -> Times:
    """The times of frames (T,), in seconds, with dates or without."""
    # Files without dates are put a day apart, which is no gap.
    found = [gap for gap in gaps(times) if dated or times[gap.after + 1] - times[gap.after] < 86400]
    borders = [0, *(gap.after + 1 for gap in gaps(times)), len(times)]
    lost = sum(gap.frames for gap in found)
    longest = max(found, key=lambda gap: gap.frames, default=None)
    around = None
    if longest is not None:
        before, after = (_time_text(times[longest.after + k], dated) for k in (0, 1))
        around = before, after, longest.frames
    return Times(
        frames=len(times),
        dated=dated,
        first=_time_text(times[0], dated),
        last=_time_text(times[-1], dated),
        step_s=time_step(times),
        gaps=len(found),
        missing=lost / (lost + len(times)),
        longest_gap=around,
        stretches=tuple(np.diff(borders).tolist()),
    )


def plan_windows(times: NDArray[np.float64], dated: bool) -> TrainingWindows:
    """The default windows and splits where times (T,) allow them, otherwise shorter ones or whole events.

    Training should have half of the windows; where no choice gives it so many, it gets as many as it can.
    """
    between = gaps(times)
    best, most = None, 0
    for past, steps in LENGTHS:
        apart = sum(gap.frames >= past + steps for gap in between) >= 2
        for masked in (False, True):
            for split in ("event", "time") if apart else ("time", "event"):
                splits = _splits(times, past, steps, split, masked, dated)
                if splits is None or (train := splits["train"].windows) <= most:
                    continue
                notes = _notes(past, steps, split, masked)
                best, most = TrainingWindows(past, steps, split, masked, splits, notes), train
                if 2 * train >= sum(each.windows for each in splits.values()):
                    return best
    longest = max(times_of(times, dated).stretches)
    note = f"too few frames to train: {len(times)}, at most {longest} of them in a row"
    return best or TrainingWindows(*LENGTHS[0], split="time", masked=False, splits={}, notes=(note,))


def _notes(past: int, steps: int, split: str, masked: bool) -> tuple[str, ...]:
    """Differences from the default, in sentences."""
    notes = []
    if (past, steps) != LENGTHS[0]:
        usual = "{} + {}".format(*LENGTHS[0])
        notes.append(f"windows of {past} + {steps} frames: too few follow each other for {usual}")
    if split == "event":
        notes.append("the frames between two gaps, an event, stay in one split")
    if masked:
        notes.append("missing frames inside windows are taken as not measured")
    return tuple(notes)


def _splits(
    times: NDArray[np.float64], past: int, steps: int, split: str, masked: bool, dated: bool
) -> dict[str, Split] | None:
    """The splits as training makes them; None if one would be without a window."""
    splits: dict[str, Split] = {}
    try:
        members = split_frames(times, split, past + steps, guard=steps)
    except DataError:
        return None
    for name in SPLITS:
        inside = times[members[name]]
        windows = window_frames(inside, past + steps, masked=masked, step=time_step(times))
        used = np.unique(windows[windows >= 0])
        if not len(windows):
            return None
        first, last = (_time_text(inside[k], dated) for k in (used[0], used[-1]))
        splits[name] = Split(windows=len(windows), frames=len(used), first=first, last=last)
    return splits


def _time_text(second: float, dated: bool) -> str:
    return str(np.datetime64(round(second), "s")) if dated else f"{second:g}"
