"""What is compared: the loop that everyone writes, Keras, the bare convolutions, and our layers."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import HELD_TO_AVX2
from convlstm import ConvLSTM
from convlstm.engines import available

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: By whether autocast is on; without AVX-512 a processor has no arithmetic of bfloat16.
PRECISIONS = {False: "fp32", True: "bf16"}
if DEVICE == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
    del PRECISIONS[True]


class Case(NamedTuple):
    """Frames (batch, steps, inputs, size, width) through layers of hidden channels; width 0 for size."""

    batch: int
    steps: int
    inputs: int
    hidden: list[int]
    kernel: int
    size: int
    width: int = 0

    @property
    def space(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return self.size, self.width or self.size

    def __str__(self) -> str:
        channels = "-".join(map(str, [self.inputs, *self.hidden]))
        return (
            f"B{self.batch} T{self.steps} {channels} {self.kernel}x{self.kernel} {self.size}x{self.space[1]}"
        )


CASES = (
    Case(batch=4, steps=10, inputs=1, hidden=[64, 64, 64], kernel=3, size=64),
    Case(batch=8, steps=20, inputs=16, hidden=[32], kernel=3, size=32),
    Case(batch=1, steps=12, inputs=32, hidden=[32], kernel=3, size=256),
    Case(batch=16, steps=19, inputs=16, hidden=[128, 128, 128, 128], kernel=5, size=16),  # OpenSTL's
    # Small and odd ones, which a processor without AVX-512 once ran slower than the loop.
    Case(batch=3, steps=8, inputs=3, hidden=[48, 48], kernel=3, size=48, width=80),
    Case(batch=8, steps=6, inputs=16, hidden=[32], kernel=5, size=24),
    Case(batch=1, steps=10, inputs=1, hidden=[64], kernel=3, size=96),
)


class TextbookLSTM(nn.Module):
    """The equations as everyone writes them: concatenate, convolve, split, step by step."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        inputs = [case.inputs, *case.hidden]
        self.hidden = case.hidden
        self.convs = nn.ModuleList(
            nn.Conv2d(n + m, 4 * m, case.kernel, padding=case.kernel // 2)
            for n, m in zip(inputs, case.hidden, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to the last layer's outputs."""
        for conv, hidden in zip(self.convs, self.hidden, strict=True):
            h = c = x.new_zeros(x.shape[0], hidden, *x.shape[3:])
            outputs = []
            for t in range(x.shape[1]):
                i, f, o, g = torch.split(conv(torch.cat([x[:, t], h], dim=1)), hidden, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            x = torch.stack(outputs, dim=1)
        return x


class BareConvolutions(nn.Module):
    """The convolutions of a ConvLSTM and nothing else, each in its best layout and already in its dtype.

    Step by step, of input and hidden state, so that results stay in the cache; backwards the gradients of
    each step's input and hidden state, and those of the weights at once.
    """

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers: list[dict[str, Tensor]] = []
        self.steps, self.padding = case.steps, case.kernel // 2
        for n, m in zip([case.inputs, *case.hidden], case.hidden, strict=False):
            shapes = {
                "x": (case.steps * case.batch, n, *case.space),
                "h": (case.steps * case.batch, m, *case.space),
                "gates": (case.steps * case.batch, 4 * m, *case.space),
                "w_x": (4 * m, n, case.kernel, case.kernel),
                "w_h": (4 * m, m, case.kernel, case.kernel),
            }
            self.layers.append(
                {
                    name: torch.randn(shape, device=DEVICE).to(dtype, memory_format=torch.channels_last)
                    for name, shape in shapes.items()
                }
            )

    def forward(self) -> None:
        """Convolutions of the forward pass."""
        for layer in self.layers:
            for x, h in zip(layer["x"].chunk(self.steps), layer["h"].chunk(self.steps), strict=True):
                F.conv2d(x, layer["w_x"], padding=self.padding)
                F.conv2d(h, layer["w_h"], padding=self.padding)

    def backward(self) -> None:
        """Convolutions of the backward pass; none for the frames themselves, whose gradient nobody asks."""
        for n, layer in enumerate(self.layers):
            steps = (layer[name].chunk(self.steps) for name in ("x", "h", "gates"))
            for x, h, gates in zip(*steps, strict=True):
                self._gradient(gates, h, layer["w_h"], [True, False, False])
                if n:
                    self._gradient(gates, x, layer["w_x"], [True, False, False])
            self._gradient(layer["gates"], layer["h"], layer["w_h"], [False, True, False])
            self._gradient(layer["gates"], layer["x"], layer["w_x"], [False, True, True])

    def _gradient(self, gates: Tensor, x: Tensor, weight: Tensor, needed: list[bool]) -> None:
        pair, ones, zeros = [self.padding] * 2, [1, 1], [0, 0]
        torch.ops.aten.convolution_backward(
            gates, x, weight, [len(weight)], ones, pair, ones, False, zeros, 1, needed
        )


class Rival(NamedTuple):
    """What is timed.

    Attributes:
        forward: without gradients.
        train: forward and backward pass.
    """

    forward: Callable[[], object]
    train: Callable[[], object]


def autocast(mixed: bool) -> AbstractContextManager[object]:
    """The precision that a rival runs in."""
    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=mixed)


def rival(layer: nn.Module, x: Tensor, mixed: bool) -> Rival:
    """A layer of torch's."""

    def outputs() -> Tensor:
        result = layer(x)
        return result if isinstance(result, Tensor) else result[0][-1]

    def forward() -> None:
        with torch.no_grad(), autocast(mixed):
            outputs()

    def train() -> None:
        layer.zero_grad()
        with autocast(mixed):
            y = outputs()
        torch.autograd.backward(y.sum())

    return Rival(forward, train)


def floor(case: Case, mixed: bool) -> Rival:
    """The bare convolutions."""
    bare = BareConvolutions(case, torch.bfloat16 if mixed else torch.float32)

    def forward() -> None:
        with torch.no_grad():
            bare()

    def train() -> None:
        with torch.no_grad():
            bare()
            bare.backward()

    return Rival(forward, train)


def keras_rival(case: Case, mixed: bool) -> Rival | None:
    """ConvLSTM2D of Keras, with the backend that KERAS_BACKEND names; None where there is none."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError:
        return None
    policy = "mixed_bfloat16" if mixed else "float32"
    model = keras.Sequential(
        [
            keras.layers.ConvLSTM2D(n, case.kernel, padding="same", return_sequences=True, dtype=policy)
            for n in case.hidden
        ]
    )
    shape = (case.batch, case.steps, *case.space, case.inputs)
    frames = torch.randn(shape).numpy()
    x = keras.ops.convert_to_tensor(frames)
    model(x)
    if keras.backend.backend() == "torch":

        def forward() -> None:
            with torch.no_grad():
                model(x)

        def train() -> None:
            model.zero_grad()
            model(x).sum().backward()

        return Rival(forward, train)
    if keras.backend.backend() != "jax":
        return None
    import jax

    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    run = jax.jit(lambda w, x: model.stateless_call(w, others, x)[0].sum())
    slopes = jax.jit(jax.grad(lambda w, x: model.stateless_call(w, others, x)[0].sum()))
    return Rival(
        lambda: jax.block_until_ready(run(weights, x)), lambda: jax.block_until_ready(slopes(weights, x))
    )


def engine(case: Case, name: str, save: str = "auto") -> ConvLSTM:
    """Our layers."""
    options: Any = {"batch_first": True, "engine": name, "save": save}
    return ConvLSTM(case.inputs, case.hidden, case.kernel, len(case.hidden), **options).to(DEVICE)


def rivals(case: Case, everything: bool) -> dict[str, Rival]:
    """What is timed, by name."""
    x = torch.randn(case.batch, case.steps, case.inputs, *case.space, device=DEVICE)
    found: dict[str, Rival | None] = {}
    for mixed, precision in PRECISIONS.items():
        loop = TextbookLSTM(case).to(DEVICE)
        found[f"textbook loop, {precision}"] = rival(loop, x, mixed)
        if everything:
            if not HELD_TO_AVX2:  # torch.compile would write code without vectors
                compiled: Any = torch.compile(TextbookLSTM(case).to(DEVICE))
                found[f"textbook loop, torch.compile, {precision}"] = rival(compiled, x, mixed)
            found[f"Keras ConvLSTM2D, {precision}"] = keras_rival(case, mixed) if DEVICE == "cpu" else None
            found[f"engine reference, {precision}"] = rival(engine(case, "reference"), x, mixed)
        for name in ("fused", "compiled", "auto"):
            if available().get(name) is None:
                found[f"engine {name}, {precision}"] = rival(engine(case, name), x, mixed)
        found[f"bare convolutions, {precision}"] = floor(case, mixed)
    return {name: each for name, each in found.items() if each is not None}
