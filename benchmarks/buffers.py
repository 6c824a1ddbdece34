"""Gain of buffers that are reused from call to call on a CPU: of the buffer pool, and of streams.

Processor time, the system's for new memory included; both ways in turn in every repetition. On an
AMD EPYC with AVX-512, one thread, torch 2.13, fp32, medians; 1 is no gain:

| gain | forward | training | stream, frame by frame |
|---|---:|---:|---:|
| B4 T10 1-64-64-64 3x3 64x64 | 1.04 | 1.11 | 1.10 |
| B8 T20 16-32 3x3 32x32 | 1.03 | 1.27 | 1.25 |
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import Table
from benchmarks._rivals import CASES, DEVICE, Case, engine, rival
from convlstm.engines import config

REPETITIONS = 7
#: Three layers of 64 channels, and one of 32 whose frames fit in the cache.
SIZES = CASES[:2]
#: Frames that a stream is timed over.
FRAMES = 20


def run() -> Iterator[Table]:
    """Both sizes in fp32; nothing on a GPU, whose allocator reuses memory by itself."""
    torch.manual_seed(0)
    for case in SIZES if DEVICE == "cpu" else ():
        yield pool(case)
        yield stream(case)


def pool(case: Case) -> Table:
    """Calls with and without the buffer pool."""
    x = torch.randn(case.batch, case.steps, case.inputs, *case.space)
    works = rival(engine(case, "auto"), x, mixed=False)
    rows = {}
    for name, work in (("forward", works.forward), ("training", works.train)):
        rows[name] = gain(partial(with_pool, True, work), partial(with_pool, False, work))
    return Table(f"buffer pool, {case}", COLUMNS, rows)


def stream(case: Case) -> Table:
    """Frames of one sequence through a stream, and through calls that are given the state."""
    case = case._replace(batch=1, steps=1)
    layer, frame = engine(case, "auto"), torch.randn(1, case.inputs, *case.space)
    session = layer.stream(1, case.space)

    def streamed() -> None:
        for _ in range(FRAMES):
            session(frame)

    def called() -> None:
        state = None
        with torch.no_grad():
            for _ in range(FRAMES):
                _, state = layer(frame[:, None], state)

    return Table(f"stream, {FRAMES} frames of {case}", COLUMNS, {"forward": gain(streamed, called)})


COLUMNS = ("gain", "s with reuse", "s without")


def gain(with_reuse: Callable[[], object], without: Callable[[], object]) -> list[list[float] | None]:
    """Time without reuse relative to that with it, and both, by repetition."""
    seconds: dict[Callable[[], object], list[float]] = {with_reuse: [], without: []}
    for repetition in range(REPETITIONS + 1):
        for work in (with_reuse, without) if repetition % 2 else (without, with_reuse):
            start = time.process_time()
            work()
            seconds[work].append(time.process_time() - start)
    ours, others = seconds[with_reuse][1:], seconds[without][1:]  # the first warms up
    return [[b / a for a, b in zip(ours, others, strict=True)], ours, others]


def with_pool(switch: bool, work: Callable[[], object]) -> None:
    """Call with the buffer pool on or off."""
    before, config.buffer_pool = config.buffer_pool, switch
    try:
        work()
    finally:
        config.buffer_pool = before
