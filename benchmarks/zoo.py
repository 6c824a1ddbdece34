"""Time of layers of the model zoo in one run with their equations as public code has them, on equal weights.

Every repetition times both in turn; on a processor it counts processor time, as other programs may run.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from benchmarks import Table
from benchmarks._public_cells import (
    LINKS,
    TAU,
    PublicCausalLSTM,
    PublicE3DLSTM,
    PublicGHU,
    PublicLayers,
    PublicMAU,
    PublicMIM,
    PublicPhyCell,
    PublicSAConvLSTM,
    PublicStack,
    PublicSTLSTM,
    PublicTrajGRU,
)
from benchmarks._rivals import DEVICE, PRECISIONS, Case, rival
from benchmarks.layers import REPETITIONS, WARM_UPS
from convlstm import (
    CausalLSTMCell,
    Cell,
    ConvLSTM,
    E3DLSTMCell,
    GHUCell,
    MAUCell,
    MIMCell,
    PhyCell,
    SAConvLSTMCell,
    STLSTMCell,
    TrajGRUCell,
)

CASE = Case(batch=2, steps=10, inputs=16, hidden=[64, 64, 64, 64], kernel=5, size=16)
#: Calls of operations and modules take a good part of its time.
SMALL = Case(batch=1, steps=10, inputs=1, hidden=[8, 8, 8, 8], kernel=3, size=8)

#: Our cells, and a network of the public equations of as many; with its inputs, n and kernel.
Network = tuple[list[Callable[..., Cell]], Callable[[int, int, int], nn.Module]]


def alike(ours: Callable[..., Cell], public: Callable[..., nn.Module], count: int = 4) -> Network:
    """A network of equal layers."""
    return [ours] * count, partial(PublicStack, [public] * count)


PREDRNN = alike(STLSTMCell, PublicSTLSTM)
PREDRNN_PLUS_PLUS: Network = (
    [CausalLSTMCell, GHUCell, *[CausalLSTMCell] * 3],
    partial(PublicStack, [PublicCausalLSTM, PublicGHU, *[PublicCausalLSTM] * 3]),
)
MIM: Network = [STLSTMCell, *[MIMCell] * 3], partial(PublicStack, [PublicSTLSTM, *[PublicMIM] * 3])
MAU = alike(partial(MAUCell, tau=TAU), PublicMAU)
E3D_LSTM = alike(partial(E3DLSTMCell, history=CASE.steps), PublicE3DLSTM)
SA_CONVLSTM = alike(SAConvLSTMCell, PublicSAConvLSTM)
PHYCELL = alike(PhyCell, PublicPhyCell, 1)
NETWORKS: list[tuple[str, Case, *Network]] = [
    ("PredRNN", CASE, *PREDRNN),
    ("PredRNN++", CASE, *PREDRNN_PLUS_PLUS),
    (
        "TrajGRU",
        CASE._replace(hidden=[64, 64], kernel=3, size=32),
        [partial(TrajGRUCell, links=LINKS)] * 2,
        partial(PublicLayers, PublicTrajGRU, count=2),
    ),
    ("MIM", CASE, *MIM),
    ("MAU", CASE, *MAU),
    ("E3D-LSTM", CASE, *E3D_LSTM),
    ("SA-ConvLSTM", CASE._replace(kernel=3), *SA_CONVLSTM),
    ("PhyCell", CASE._replace(inputs=64, hidden=[64], kernel=7), *PHYCELL),
    ("PredRNN", SMALL, *PREDRNN),
    ("PredRNN++", SMALL, *PREDRNN_PLUS_PLUS),
    ("MIM", SMALL, *MIM),
    ("MAU", SMALL, *MAU),
    ("E3D-LSTM", SMALL, *E3D_LSTM),
    ("SA-ConvLSTM", SMALL, *SA_CONVLSTM),
    ("PhyCell", SMALL._replace(inputs=8, hidden=[8]), *PHYCELL),
]


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time that it takes, or with all that it asks of a GPU the time."""
    if DEVICE == "cpu":
        clock = time.process_time
    else:
        clock = time.perf_counter
        torch.cuda.synchronize()
    start = clock()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def run() -> Iterator[Table]:
    """Forward and backward pass of each stack."""
    torch.manual_seed(0)
    for name, case, cells, public in NETWORKS:
        n = case.hidden[0]
        x = torch.randn(case.batch, case.steps, case.inputs, *case.space, device=DEVICE)
        theirs = public(case.inputs, n, case.kernel).to(DEVICE)
        layers = partial(ConvLSTM, case.inputs, n, case.kernel, len(cells), True, bias=False)
        ours = layers(cell=cells).to(DEVICE)
        weights = theirs.state_dict()
        ours.load_state_dict({name: weights[name].view_as(x) for name, x in ours.state_dict().items()})
        if unknown := weights.keys() - ours.state_dict().keys():
            raise ValueError(f"weights must have our names; received {sorted(unknown)}")
        torch.testing.assert_close(ours(x)[0][0], theirs(x), rtol=1e-3, atol=1e-4)
        works = {
            f"{who}, {precision}": rival(layer, x, mixed).train
            for mixed, precision in PRECISIONS.items()
            for who, layer in (("public equations", theirs), ("ours", ours))
        }
        seconds: dict[str, list[float]] = {who: [] for who in works}
        for repetition in range(WARM_UPS + REPETITIONS):
            for who, work in works.items():
                taken = seconds_of(work)
                if repetition >= WARM_UPS:
                    seconds[who].append(taken)
        rows = {}
        for who, own in seconds.items():
            others = seconds[f"public equations, {who.rsplit(', ', 1)[1]}"]
            rows[who] = [[1000 * s for s in own], [a / b for a, b in zip(own, others, strict=True)]]
        yield Table(f"{name}, {case}, forward+backward", ("ms", "times the public equations' time"), rows)
