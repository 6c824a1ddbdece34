"""Windows of consecutive frames by their times, and their division into splits."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlstm.data.base import SPLITS, Split
from convlstm.data.units import time_text
from convlstm.errors import DataError, OptionError
from convlstm.validation import received

Times = NDArray[np.float64]
#: Frame of a window that is missing.
MISSING = -1
_GAP = -2
_FEW = 5  # frames


class Gap(NamedTuple):
    """Missing frames between two that are there.

    Attributes:
        after: index of the frame before the gap.
        frames: number of missing frames.
    """

    after: int
    frames: int


def time_step(times: Times) -> float:
    """The time step of frames, the median difference in seconds; 1 for a single frame.

    Raises:
        DataError: times are not increasing, or frames lie less than half a step apart.
    """
    steps = np.diff(times)
    if not len(steps):
        return 1.0
    if (steps <= 0).any():
        first = int((steps <= 0).argmax())
        raise DataError(
            f"times must increase; frame {first + 1} is at {_text(times, first + 1)}, after "
            f"{_text(times, first)}: sort the frames and leave duplicates out"
        )
    step = float(np.median(steps))
    if (steps < 0.5 * step).any():
        first = int((steps < 0.5 * step).argmax())
        raise DataError(
            f"frames must have one time step, {time_text(step)} here; {_text(times, first)} and "
            f"{_text(times, first + 1)} are {time_text(steps[first])} apart: open frames of each step apart"
        )
    return step


def check_one_step(files: Mapping[str, NDArray[np.timedelta64]]) -> None:
    """Refuse files without dates whose time steps differ: the frames of some would count as single ones.

    Files of few frames are not looked at, as one of these may be missing.

    Args:
        files: times of each, by its name.

    Raises:
        DataError: such files.
    """
    steps = {
        name: float(np.median(np.diff(np.sort(times))) / np.timedelta64(1, "s"))
        for name, times in files.items()
        if len(times) >= _FEW
    }
    first = next(iter(steps), "")
    for name, step in steps.items():
        if abs(step - steps[first]) > 0.1 * steps[first]:
            raise DataError(
                f"files of one archive must have one time step; {first} has {time_text(steps[first])}, "
                f"{name} has {time_text(step)}: open them apart"
            )


def gaps(times: Times, step: float | None = None) -> list[Gap]:
    """The gaps between frames: differences of more than one and a half time steps.

    Args:
        times: (N,), increasing.
        step: of the archive that the frames are a part of; that of these times if None.
    """
    step = time_step(times) if step is None else step
    missing = np.rint(np.diff(times) / step).astype(np.int64) - 1
    return [Gap(int(k), int(missing[k])) for k in np.flatnonzero(np.diff(times) > 1.5 * step)]


def window_frames(
    times: Times, length: int, *, masked: bool = False, stride: int = 1, step: float | None = None
) -> NDArray[np.int64]:
    """The frames of every window of consecutive times.

    Args:
        times: (N,), increasing.
        length: frames of a window.
        masked: also windows with missing frames, but the first and the last frame of each is there.
        stride: frames from the start of a window to that of the next, from the first frame after a gap on.
        step: as for `gaps`.

    Returns:
        (W, length), indices of frames, `MISSING` for those that are missing, in the order of time.
    """
    slots: list[NDArray[np.int64]] = []
    start = 0
    for gap in gaps(times, step):
        slots.append(np.arange(start, gap.after + 1))
        # A gap longer than a window cannot lie inside one.
        fill = MISSING if masked and gap.frames < length else _GAP
        slots.append(np.full(min(gap.frames, length), fill))
        start = gap.after + 1
    line = np.concatenate([*slots, np.arange(start, len(times))])
    if len(line) < length:
        return np.empty((0, length), np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(line, length)
    place = np.arange(len(line))
    first = np.maximum.accumulate(np.where(line == _GAP, place + 1, 0))  # of the frames without such a gap
    kept: NDArray[np.bool_] = (windows != _GAP).all(1) & (windows[:, 0] >= 0) & (windows[:, -1] >= 0)
    kept &= ((place - first) % stride == 0)[: len(windows)]
    found: NDArray[np.int64] = windows[kept]
    return found


def split_frames(
    times: Times,
    split: str | Mapping[str, object],
    length: int,
    guard: int,
    dates: Times | None = None,
) -> dict[Split, NDArray[np.bool_]]:
    """The frames of each split.

    Args:
        times: (N,), seconds since 1970-01-01, increasing.
        split: ``time``: the last 15 % of the frames (one window at least) for test, as many before them for
            validation, the rest for training; ``event``: the same, but stretches between gaps stay whole; or
            a mapping of splits to periods ``start/end`` (both included; a date alone is the whole day), one
            or a list; validation and test may be left out, and then have no frame.
        length: frames of a window.
        guard: frames left out between neighbouring splits divided by ``time``.
        dates: (N,), which periods refer to instead of ``times``.

    Returns:
        (N,), bool, of each split; a frame is in one split at most.

    Raises:
        DataError: a split that is not left out would have no frame.
        OptionError: another way to split, periods that are none or that overlap.
    """
    if isinstance(split, Mapping):
        times = times if dates is None else dates
        found = _given(times, split)
    elif split in ("time", "event"):
        found = _fractions(times, length, guard, whole_events=split == "event")
    else:
        raise OptionError(
            f"split must be 'time', 'event' or periods of train, validation and test; "
            f"received {received(split)}"
        )
    for name, frames in found.items():
        if not frames.any() and (name in split or isinstance(split, str)):
            first, last = (_text(times, int(place)) for place in (times.argmin(), times.argmax()))
            raise DataError(
                f"every split needs frames; {name} has none of the {len(times)} from {first} to {last}: give "
                "its periods by --data.split"
            )
    return found


def stored_splits(times: Times, splits: Mapping[str, Sequence[object]]) -> dict[Split, NDArray[np.bool_]]:
    """The frames (N,), bool, between the first and the last time of each split of a specification.

    Args:
        times: (N,), seconds since 1970-01-01, or since the first frame where there are no dates; increasing.
        splits: as in `convlstm.data.specification.Specification`.
    """
    found: dict[Split, NDArray[np.bool_]] = {}
    for name in (name for name in SPLITS if name in splits):
        texts = [str(text) for text in splits[name][2:]]
        first, last = (
            float(text[:-2]) if text.endswith(" s") else np.datetime64(text, "us").astype(np.int64) / 1e6
            for text in texts
        )
        whole = 1e-3 if texts[1].endswith(" s") or "." in texts[1] else 1  # else stored to the second
        found[name] = (times > first - 1e-3) & (times < last + whole)
    return found


def fingerprint(times: Times) -> str:
    """SHA-256, shortened to 16 digits, of the times that statistics were computed from."""
    return sha256(np.ascontiguousarray(times, "<f8").tobytes()).hexdigest()[:16]


def _fractions(
    times: Times, length: int, guard: int, *, whole_events: bool
) -> dict[Split, NDArray[np.bool_]]:
    count = len(times)
    share = max(round(0.15 * count), length)
    if whole_events:
        borders = np.array([0, *(gap.after + 1 for gap in gaps(times)), count])
        if len(borders) < 4:
            raise DataError(
                "split event needs three events or more, stretches between gaps, one for each split; the "
                f"{count} frames from {_text(times, 0)} to {_text(times, -1)} are {len(borders) - 1}: use "
                "--data.split time, or give periods by it"
            )
        validation, test = _last_events(borders, share)
        ends, guard = [validation, test, count], 0
    else:
        ends = [count - 2 * (share + guard), count - share - guard, count]
    if ends[0] < length:
        raise DataError(
            f"{count} frames are too few for windows of {length}, past + steps, in three splits: lower "
            "--data.past or --data.steps, or give periods by --data.split"
        )
    place = np.arange(count)
    starts = [0, *(max(end, 0) + guard for end in ends[:2])]
    return {
        name: (place >= start) & (place < end) for name, start, end in zip(SPLITS, starts, ends, strict=True)
    }


def _last_events(borders: NDArray[np.int64], share: int) -> tuple[int, int]:
    """First frames of validation and test: the last events of about ``share`` frames each, at least one.

    Args:
        borders: first frame of every event, and the number of frames.
        share: frames wanted of each.
    """
    first = len(borders) - 1
    starts = []
    for others in (2, 1):  # splits that still need an event
        last = first
        first -= 1
        while first > others and borders[last] - borders[first] < 0.75 * share:
            first -= 1
        starts.append(int(borders[max(first, 0)]))
    return starts[1], starts[0]


def _given(times: Times, split: Mapping[str, object]) -> dict[Split, NDArray[np.bool_]]:
    if "train" not in split or not set(split) <= set(SPLITS):
        raise OptionError(
            "periods must be given of train, and of validation and test; received "
            f"{', '.join(map(str, split)) or 'none'}"
        )
    found: dict[Split, NDArray[np.bool_]] = {}
    for name in SPLITS:
        periods = split.get(name, ())
        inside = np.zeros(len(times), bool)
        for period in periods if isinstance(periods, list | tuple) else [periods]:
            first, after = _period(period)
            inside |= (times >= first) & (times < after)
        found[name] = inside
    overlap = np.sum([found[name] for name in SPLITS], axis=0) > 1
    if overlap.any():
        raise OptionError(
            f"splits must share no frame; {_text(times, int(overlap.argmax()))} is in two: change the periods"
        )
    return found


def _period(text: object) -> tuple[int, int]:
    """First second of ``start/end``, and the first after it."""
    start, slash, end = (part.strip().removesuffix("Z") for part in str(text).partition("/"))  # all are UTC
    try:
        last = np.datetime64(end if slash else start)
        first, after = np.datetime64(start, "s"), (last + 1).astype("datetime64[s]")
        if not first < after:  # nor where one is left out
            raise ValueError("it ends before it begins")
        return int(first.astype(np.int64)), int(after.astype(np.int64))
    except ValueError:
        raise OptionError(
            f"a period must be start/end, such as 2009-01-01/2010-12-31; received {text!r}"
        ) from None


def _text(times: Times, index: int) -> str:
    """The date of a frame; seconds where times count from the first frame, as those without dates do."""
    second = times[index]
    return str(np.datetime64(round(second), "s")) if times.min() else f"{second:.12g} s"
