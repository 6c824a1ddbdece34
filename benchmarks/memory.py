"""Memory that our layers and the loop that everyone writes keep for the backward pass, and take at most."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import Table
from benchmarks._rivals import CASES, DEVICE, PRECISIONS, Case, TextbookLSTM, autocast, engine, rival
from convlstm.engines import buffer_pool, config


def run() -> Iterator[Table]:
    """Every case."""
    torch.manual_seed(0)
    devices, config.graph_devices = config.graph_devices, set()  # a graph keeps its memory between calls
    try:
        for case in CASES:
            yield memory(case)
    finally:
        config.graph_devices = devices


def memory(case: Case) -> Table:
    """Memory between the forward and the backward pass, and the most that both take, in MiB."""
    x = torch.randn(case.batch, case.steps, case.inputs, *case.space, device=DEVICE)
    rows: dict[str, list[list[float] | None]] = {}
    for mixed, precision in PRECISIONS.items():
        layers: dict[str, nn.Module] = {"textbook loop": TextbookLSTM(case).to(DEVICE)}
        for save in ("gates", "state"):
            layers[f"engine auto, save={save}"] = engine(case, "auto", save)
        loop = None
        for name, layer in layers.items():
            kept, most = held(layer, x, mixed), peak(rival(layer, x, mixed).train)
            loop = loop or (kept, most)
            rows[f"{name}, {precision}"] = [[kept], [kept / loop[0]], [most], [most / loop[1]]]
    columns = ("MiB held for the backward pass", "of the loop's", "MiB at most", "of the loop's at most")
    return Table(f"memory, {case}", columns, rows)


def held(layer: nn.Module, x: Tensor, mixed: bool) -> float:
    """MiB that are kept between the forward and the backward pass besides parameters and frames."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(mixed):
        outputs = layer(x)
    for tensor in (x, *layer.parameters()):
        found.pop(tensor.untyped_storage().data_ptr(), None)
    del outputs
    return sum(found.values()) / 2**20


def peak(work: Callable[[], object]) -> float:
    """MiB that a call takes at most, above what was taken before; nothing that waits from calls before."""
    buffer_pool.pool.clear()
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # of Linux: the most begins here again
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / 1024


def status(name: str) -> int:
    """A line of this process's status, in KiB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))
