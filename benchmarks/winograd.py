"""Errors of convolutions by minimal filtering, over twenty frames of digits and with trained weights.

A ConvLSTM and a linear layer learn to forecast the next frame; then the layer runs once more, forward and
backward, and is compared with itself in float64. F(2x2, 3x3), which the engines do not use, is written here
in torch's operations, in the loop over time.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convlstm.engines.config as config
from benchmarks import Table
from convlstm import ConvLSTM
from convlstm.data import LabelledWindow, Window
from convlstm.workflows.demo import SUBJECTS

SEEDS = (0, 1, 2)
STEPS, HIDDEN = 150, [32, 32]

# Lavin & Gray 2015, equation 7.
_INPUT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
_KERNEL = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
_BACK = [[1, 1, 1, 0], [0, 1, -1, -1]]


class SmallTiles(nn.Module):
    """A 3x3 convolution by F(2x2, 3x3), for frames of even size."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C_out, H, W)."""
        to_tile, to_kernel, back = (x.new_tensor(rows) for rows in (_INPUT, _KERNEL, _BACK))
        tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)  # (B, C, rows, columns, 4, 4)
        tiles = to_tile @ tiles @ to_tile.mT
        kernel = to_kernel @ self.weight @ to_kernel.mT
        products = torch.einsum("bcyxij,ocij->boyxij", tiles, kernel)
        pixels = back @ products @ back.mT
        y = pixels.transpose(3, 4).reshape(len(x), -1, *x.shape[2:])
        return y if self.bias is None else y + self.bias[:, None, None]


def run() -> Iterator[Table]:
    """Errors of outputs and gradients, and how many times those of direct convolutions they are."""
    errors: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        layer, frames = trained(seed)
        truth = results(layer.double(), frames.double())
        layer = layer.float()
        for name, work in algorithms(layer, frames).items():
            errors.setdefault(name, []).append([relative(a, b) for a, b in zip(work(), truth, strict=True)])
    direct = errors["direct"]
    rows: dict[str, list[list[float] | None]] = {}
    for name, found in errors.items():
        ratios = [
            [a / b for a, b in zip(own, base, strict=True)] for own, base in zip(found, direct, strict=True)
        ]
        rows[name] = [*map(list, zip(*found, strict=True)), *map(list, zip(*ratios, strict=True))]
    columns = ("last output", "gradient of the frames", "of the first weight", "of the last weight")
    title = f"root mean square error in parts of the result's: T {frames.shape[1]}, 1-32-32 channels"
    yield Table(title, (*columns, *(f"{column}, times direct" for column in columns)), rows)


def algorithms(layer: ConvLSTM, frames: Tensor) -> dict[str, Callable[[], list[Tensor]]]:
    """The results of a layer by algorithm."""

    def direct() -> list[Tensor]:
        config.direct_convolution = True
        try:
            return results(layer, frames)
        finally:
            config.direct_convolution = False

    small = copy.deepcopy(layer)
    for cell in small.cell_list:
        conv: Any = cell.conv
        cell.conv = SmallTiles(conv)
    return {
        "direct": direct,
        "F(2x2, 3x3)": lambda: results(small, frames),
        "F(4x4, 3x3)": lambda: results(layer, frames),
    }


def results(layer: ConvLSTM, frames: Tensor) -> list[Tensor]:
    """The last output, and the gradients of a loss over all outputs by the frames and two weights."""
    x = frames.clone().requires_grad_()
    outputs = layer(x)[0][-1]
    first, *_, last = (p for name, p in layer.named_parameters() if name.endswith("conv.weight"))
    loss = (outputs - outputs.detach().roll(1, dims=1)).square().sum()
    return [outputs[:, -1].detach(), *torch.autograd.grad(loss, [x, first, last])]


def relative(found: Tensor, truth: Tensor) -> float:
    """Root mean square of the error, in parts of that of the truth."""
    return float((found - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def trained(seed: int) -> tuple[ConvLSTM, Tensor]:
    """A layer trained on digits, and frames (2, T, 1, H, W) that it has not seen."""
    torch.manual_seed(seed)
    subject = SUBJECTS["digits"]
    source = subject.source(**subject.data | {"train_size": 4 * STEPS})
    layer, readout = ConvLSTM(1, HIDDEN, 3, batch_first=True), nn.Conv2d(HIDDEN[-1], 1, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=2e-3)
    windows = source.split("train")
    for step in range(STEPS):
        frames = torch.stack([sequence(windows[4 * step + n]) for n in range(4)])
        forecast = readout(layer(frames[:, :-1])[0][-1].flatten(0, 1)).sigmoid()
        loss = F.binary_cross_entropy(forecast, frames[:, 1:].flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    test = source.split("test")
    return layer, torch.stack([sequence(test[n]) for n in range(2)])


def sequence(window: Window | LabelledWindow) -> Tensor:
    """Past and future frames of a window, (T, 1, H, W)."""
    return torch.cat([window.past, window.future])
