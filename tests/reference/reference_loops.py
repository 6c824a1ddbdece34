"""The equations of the cells' docstrings in NumPy float64, pixel by pixel, one sample at a time.

Nothing here calls the library. A cell's ``step(x, state)`` takes x (C, *S) and a state that is a tuple of
arrays (hidden, *S), the output first. A stack takes one sample: a list of frames, None where one is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, erf, exp, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
State = tuple[Array, ...]
Frames = list[Array | None]


def sigmoid(x: Array) -> Array:
    y: Array = (1 + np.tanh(x / 2)) / 2  # the same function, without an exponential that overflows
    return y


def elementwise(function: Callable[[float], float]) -> Function:
    return np.vectorize(function, otypes=[np.float64])


ACTIVATIONS: dict[str, Function] = {
    "sigmoid": sigmoid,
    "hard_sigmoid": elementwise(lambda x: min(1.0, max(0.0, x / 6 + 0.5))),
    "tanh": np.tanh,
    "hard_tanh": elementwise(lambda x: min(1.0, max(-1.0, x))),
    "relu": elementwise(lambda x: max(0.0, x)),
    "leaky_relu": elementwise(lambda x: x if x > 0 else 0.01 * x),
    "elu": elementwise(lambda x: x if x > 0 else exp(x) - 1),
    "silu": lambda x: x * sigmoid(x),
    "gelu": elementwise(lambda x: x * (1 + erf(x / 2**0.5)) / 2),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "identity": lambda x: x,
}


def source(place: int, size: int, mode: str) -> int | None:
    """Where the value at ``place`` of a padded axis comes from; None for a zero."""
    if 0 <= place < size:
        return place
    if mode == "zeros":
        return None
    if mode == "replicate":
        return 0 if place < 0 else size - 1
    if mode == "reflect":
        return -place if place < 0 else 2 * (size - 1) - place
    return place % size


def convolve(
    x: Array, weight: Array, bias: Array | None, dilation: Sequence[int], modes: Sequence[str]
) -> Array:
    """Convolution (cross-correlation) that keeps the size; an even kernel reaches further behind."""
    size, kernel = x.shape[1:], weight.shape[2:]
    out = np.zeros((len(weight), *size))
    for pixel in np.ndindex(size):
        total = np.zeros(len(weight)) if bias is None else bias.copy()
        for tap in np.ndindex(kernel):
            place = [
                source(p + d * k - d * (n - 1) // 2, s, mode)
                for p, k, d, n, s, mode in zip(pixel, tap, dilation, kernel, size, modes, strict=True)
            ]
            if None not in place:
                total += weight[(slice(None), slice(None), *tap)] @ x[(slice(None), *place)]
        out[(slice(None), *pixel)] = total
    return out


def pointwise(x: Array, weight: Array, bias: Array | None) -> Array:
    """A 1x1 convolution, pixel by pixel."""
    weight = weight.reshape(len(weight), -1)
    out = np.zeros((len(weight), *x.shape[1:]))
    for pixel in np.ndindex(x.shape[1:]):
        out[(slice(None), *pixel)] = weight @ x[(slice(None), *pixel)] + (0 if bias is None else bias)
    return out


@dataclass
class Cell:
    """One cell: its options, and its weights by the names they have in a state dict."""

    kind: str
    hidden_dim: int
    axes: int
    weights: dict[str, Array]
    options: dict[str, Any] = field(default_factory=dict)
    zoneout: float = 0.0

    def initial(self, size: tuple[int, ...]) -> State:
        zeros = np.zeros((self.hidden_dim, *size))
        return (zeros, zeros) if self.kind == "lstm" else (zeros,)

    def attend(self, h: Array) -> Array:
        w, kind = self.weights, self.options.get("attention")
        if kind is None:
            return h
        if kind == "spatial":
            reduced = np.maximum(pointwise(h, w["attention.reduce.weight"], w["attention.reduce.bias"]), 0)
            return h * sigmoid(pointwise(reduced, w["attention.map.weight"], w["attention.map.bias"]))
        mean = np.array([channel.mean() for channel in h])
        squeezed = np.maximum(w["attention.squeeze.weight"] @ mean + w["attention.squeeze.bias"], 0)
        share = sigmoid(w["attention.excite.weight"] @ squeezed + w["attention.excite.bias"])
        return np.stack([channel * s for channel, s in zip(h, share, strict=True)])

    def sums(self, x: Array, h: Array, gates: slice) -> tuple[Array, Array]:
        """The input's and the hidden state's part of the gates numbered ``gates``, bias in the first."""
        rows = slice(gates.start * self.hidden_dim, gates.stop * self.hidden_dim)
        weight, bias = self.weights["conv.weight"][rows], self.weights.get("conv.bias")
        how = (
            self.options.get("dilation", (1,) * self.axes),
            self.options.get("padding_mode", ("zeros",) * self.axes),
        )
        inputs = len(x)
        return (
            convolve(x, weight[:, :inputs], None if bias is None else bias[rows], *how),
            convolve(self.attend(h), weight[:, inputs:], None, *how),
        )

    def activation(self, name: str, default: str) -> Function:
        return ACTIVATIONS[self.options.get(name, default)]

    def step(self, x: Array, state: State) -> State:
        rules: dict[str, Callable[..., State]] = {"lstm": self.lstm, "gru": self.gru, "rnn": self.rnn}
        new = rules[self.kind](x, *state)
        kept = self.zoneout  # what is to be expected of keeping each element with this probability
        return tuple(kept * old + (1 - kept) * n for old, n in zip(state, new, strict=True))

    def lstm(self, x: Array, h: Array, c: Array) -> State:
        gate = self.activation("gate_activation", "sigmoid")
        of_x, of_h = self.sums(x, h, slice(0, 4))
        i, f, o, g = np.split(of_x + of_h, 4)
        w_i, w_f, w_o = self.weights.get("peephole_weight", np.zeros((3, 1) + (1,) * self.axes))
        i, f = gate(i + w_i * c), gate(f + w_f * c)
        c = f * c + i * self.activation("candidate_activation", "tanh")(g)
        return gate(o + w_o * c) * self.activation("output_activation", "tanh")(c), c

    def gru(self, x: Array, h: Array) -> State:
        gate = self.activation("gate_activation", "sigmoid")
        of_x, of_h = self.sums(x, h, slice(0, 2))
        r, z = np.split(gate(of_x + of_h), 2)
        if self.options.get("reset_after", True):
            of_x, of_h = self.sums(x, h, slice(2, 3))
            b_u = self.weights.get("reset_bias", np.zeros(self.hidden_dim))
            entering = of_x + r * (of_h + b_u.reshape(-1, *(1,) * self.axes))
        else:
            of_x, of_h = self.sums(x, r * h, slice(2, 3))
            entering = of_x + of_h
        n = self.activation("candidate_activation", "tanh")(entering)
        return ((1 - z) * n + z * h,)

    def rnn(self, x: Array, h: Array) -> State:
        of_x, of_h = self.sums(x, h, slice(0, 1))
        return (self.activation("activation", "tanh")(of_x + of_h),)


def run(
    cell: Cell, frames: Frames, starts: Sequence[bool], state: State | None, *, reverse: bool
) -> tuple[list[Array], State]:
    """One direction over one sample: the outputs, in the order of the frames, and the state at the end."""
    size = next(frame for frame in frames if frame is not None).shape[1:]
    state = cell.initial(size) if state is None else state
    outputs = [state[0]] * len(frames)
    for t in range(len(frames))[:: -1 if reverse else 1]:
        # A new sequence begins before the frame that is marked: going backwards, after passing it.
        begins = (t + 1 < len(frames) and starts[t + 1]) if reverse else starts[t]
        if begins:
            state = cell.initial(size)
        if (frame := frames[t]) is not None:
            state = cell.step(frame, state)
        outputs[t] = state[0]
    return outputs, state


def adaptive_pool(x: Array, size: tuple[int, ...]) -> Array:
    """Mean over bins that cover the frame: bin i of m is floor(i n / m) to ceil((i + 1) n / m)."""
    out = np.zeros((len(x), *size))
    for pixel in np.ndindex(size):
        bins = [
            slice(floor(i * n / m), ceil((i + 1) * n / m))
            for i, n, m in zip(pixel, x.shape[1:], size, strict=True)
        ]
        out[(slice(None), *pixel)] = x[(slice(None), *bins)].reshape(len(x), -1).mean(1)
    return out


def interpolate(x: Array, size: tuple[int, ...]) -> Array:
    """Linear interpolation between the centres of pixels, constant beyond the outermost centres."""
    for axis, m in enumerate(size, start=1):
        n = x.shape[axis]
        taken = []
        for i in range(m):
            place = min(max((i + 0.5) * n / m - 0.5, 0), n - 1)
            low = floor(place)
            high = min(low + 1, n - 1)
            taken.append(x.take(low, axis) * (1 - place + low) + x.take(high, axis) * (place - low))
        x = np.stack(taken, axis)
    return x


def normalise(kind: str, x: Array, weights: dict[str, Array]) -> Array:
    """``layer``: over the channels of a pixel; ``group`` (channels here fewer than two groups): over all."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    axes = 0 if kind == "layer" else tuple(range(x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y: Array = (x - mean) / np.sqrt(variance + 1e-5)
    return y * weights["weight"].reshape(shape) + weights["bias"].reshape(shape)


@dataclass
class Stack:
    """Layers of cells for one sample."""

    cells: list[Cell]
    reverse_cells: list[Cell] | None = None
    merge: str = "concat"
    residual: bool | str = False
    norm: str | None = None
    norm_weights: list[dict[str, Array]] = field(default_factory=list)
    skips: list[Array] = field(default_factory=list)
    target_size: tuple[int, ...] | None = None
    restore_size: bool = False
    last_only: bool = False

    def __call__(
        self, frames: Frames, starts: Sequence[bool], states: Sequence[Any] | None = None
    ) -> tuple[list[Frames], list[Any]]:
        """Every layer's outputs, and every layer's state at the end (a pair for two directions).

        Args:
            frames: arrays (C, *S) or None for a missing one; all frames of the sequence, no more.
            starts: which frames begin a new sequence.
            states: one a layer or None.
        """
        there = next(frame for frame in frames if frame is not None)
        if self.target_size is not None:
            frames = [f if f is None else adaptive_pool(f, self.target_size) for f in frames]
        features: list[Frames] = [frames]
        ends: list[Any] = []
        for layer in range(len(self.cells)):
            x = features[-1]
            if self.residual == "dense":
                x = [
                    None if frames[t] is None else np.concatenate([f[t] for f in features])
                    for t in range(len(frames))
                ]
            x = [None if frames[t] is None else x[t] for t in range(len(frames))]
            last = self.last_only and layer + 1 == len(self.cells)
            y, end = self.layer(layer, x, starts, None if states is None else states[layer], last)
            features.append(y)
            ends.append(end)
        outputs = features[1:]
        if self.restore_size:
            outputs = [[f if f is None else interpolate(f, there.shape[1:]) for f in y] for y in outputs]
        return outputs, ends

    def layer(
        self, number: int, x: Frames, starts: Sequence[bool], state: Any, last: bool
    ) -> tuple[Frames, Any]:
        end: Any
        if self.reverse_cells is None:
            y, end = run(self.cells[number], x, starts, state, reverse=False)
            y = [end[0]] if last else y
        else:
            state = (None, None) if state is None else state
            y, forth = run(self.cells[number], x, starts, state[0], reverse=False)
            z, back = run(self.reverse_cells[number], x, starts, state[1], reverse=True)
            y, z = ([forth[0]], [back[0]]) if last else (y, z)
            if self.merge == "concat":
                y = [np.concatenate([a, b]) for a, b in zip(y, z, strict=True)]
            else:
                y = [(a + b) / (2 if self.merge == "mean" else 1) for a, b in zip(y, z, strict=True)]
            end = (forth, back)
        if self.norm is not None:
            y = [normalise(self.norm, frame, self.norm_weights[number]) for frame in y]
        if self.residual in (True, "project"):
            if self.residual == "project":
                x = [f if f is None else pointwise(f, self.skips[number], None) for f in x]
            # At a missing frame, what was added at the frame before is added again, within a sequence.
            added: list[Any] = []
            for frame, begins in zip(x, starts, strict=True):
                before = 0.0 if begins or not added else added[-1]
                added.append(before if frame is None else frame)
            y = [frame + before for frame, before in zip(y, added[-len(y) :], strict=True)]
        return [*y], end
