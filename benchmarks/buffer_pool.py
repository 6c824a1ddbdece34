"""Processor time of layers on a CPU with and without the reuse of buffers from call to call, in turn."""

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks import Table
from benchmarks._rivals import CASES, DEVICE, Case, engine, rival
from convlstm.engines import config

REPETITIONS = 7
#: Two real sizes: three layers of 64 channels, and one of 32 whose frames fit in the cache.
SIZES = CASES[:2]


def run() -> Iterator[Table]:
    """Both sizes in fp32; nothing on a GPU, whose allocator reuses memory by itself."""
    torch.manual_seed(0)
    for case in SIZES if DEVICE == "cpu" else ():
        yield compared(case)


def compared(case: Case) -> Table:
    """Seconds of processor time, and the time without reuse relative to that with it, by repetition."""
    x = torch.randn(case.batch, case.steps, case.inputs, *case.space)
    works = rival(engine(case, "auto"), x, mixed=False)
    rows: dict[str, list[list[float] | None]] = {}
    for name, work in (("forward", works.forward), ("training", works.train)):
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for repetition in range(REPETITIONS + 1):
            for reuse in (True, False) if repetition % 2 else (False, True):
                seconds[reuse].append(seconds_of(work, reuse))
        with_reuse, without = (values[1:] for values in seconds.values())  # the first warms up
        gain = [a / b for a, b in zip(without, with_reuse, strict=True)]
        rows[name] = [gain, with_reuse, without]
    return Table(f"buffer pool, {case}", ("gain", "s with reuse", "s without"), rows)


def seconds_of(work: Callable[[], object], reuse: bool) -> float:
    """Processor time of a call, the system's included."""
    before, config.buffer_pool = config.buffer_pool, reuse
    try:
        start = time.process_time()
        work()
        return time.process_time() - start
    finally:
        config.buffer_pool = before
