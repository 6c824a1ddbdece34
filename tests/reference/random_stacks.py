"""Random stacks over all options together, and the same stacks made of the reference's plain loops."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import reference_loops
import torch
from hypothesis import strategies as st

from convlstm import ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell

CELLS = {"lstm": ConvLSTMCell, "gru": ConvGRUCell, "rnn": ConvRNNCell}
SMOOTH = ("sigmoid", "tanh", "silu", "gelu", "softsign", "identity")


@dataclass
class Case:
    """Options of a random stack, the library's stack, and its input."""

    options: dict[str, Any]
    cells: list[tuple[str, dict[str, Any]]]
    layer: ConvLSTM
    x: torch.Tensor  # (B, T, C, *S) float64
    flags: dict[str, torch.Tensor]  # mask, lengths, reset: those that were drawn

    def __repr__(self) -> str:
        flags = {name: value.tolist() for name, value in self.flags.items()}
        return f"Case({self.options}, cells={self.cells}, x={tuple(self.x.shape)}, {flags})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def call(
        self, x: torch.Tensor | None = None, states: Any = None, **flags: torch.Tensor
    ) -> tuple[list[torch.Tensor], Any]:
        """The library's outputs batch first, and states, in its own layout."""
        x = self.x if x is None else x
        outputs, states = self.layer(
            x if self.layer.batch_first else x.transpose(0, 1), states, **(flags or self.flags)
        )
        return [y if self.layer.batch_first else y.transpose(0, 1) for y in outputs], states

    def but(self, **changes: Any) -> "Case":
        """The same weights and input in a stack with other options that leave the parameters as they are."""
        factories = [functools.partial(CELLS[kind], **cell) for kind, cell in self.cells]
        layer = ConvLSTM(**(self.options | changes), cell=factories).double().train(self.layer.training)
        layer.load_state_dict(self.layer.state_dict())
        return replace(self, options=self.options | changes, layer=layer)

    def random_states(self) -> Any:
        """States of the kind the stack returns, each tensor random."""
        return self.call()[1].map(torch.randn_like)

    def reference(self, sample: int, states: Sequence[Any] | None = None) -> tuple[list[Any], list[Any]]:
        """The plain loops over one sample run alone: outputs (T' long, no padding) and states by layer."""
        steps = int(self.flags["lengths"][sample]) if "lengths" in self.flags else self.x.shape[1]
        mask = self.flags.get("mask", torch.ones(self.x.shape[:2], dtype=torch.bool))[sample]
        starts = self.flags.get("reset", torch.zeros(self.x.shape[:2], dtype=torch.bool))[sample]
        frames = [self.x[sample, t].numpy() if mask[t] else None for t in range(steps)]
        return self.plain()(frames, starts[:steps].tolist(), states)

    def plain(self) -> reference_loops.Stack:
        """The same stack made of plain loops, from nothing but the options and the state dict."""
        weights = {name: w.detach().numpy() for name, w in self.layer.state_dict().items()}

        def under(prefix: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}

        o = self.options

        def cells(name: str) -> list[reference_loops.Cell]:
            axes = self.x.ndim - 3
            return [
                reference_loops.Cell(kind, hidden, axes, under(f"{name}.{n}."), options, o["zoneout"])
                for n, ((kind, options), hidden) in enumerate(
                    zip(self.cells, self.options["hidden_dim"], strict=True)
                )
            ]

        return reference_loops.Stack(
            cells("cell_list"),
            cells("reverse_cell_list") if o["bidirectional"] else None,
            o["merge"],
            o["residual"],
            o["norm"],
            [under(f"norm_list.{n}.") for n in range(len(self.cells))],
            [w for n in range(len(self.cells)) for w in under(f"skip_list.{n}.weight").values()],
            o["target_size"],
            o["restore_size"],
            o["last_only"],
        )


def per_axis(draw: st.DrawFn, axes: int, values: Sequence[int]) -> tuple[int, ...]:
    return tuple(draw(st.sampled_from(values)) for _ in range(axes))


def fitting_mode(draw: st.DrawFn, kernel: int, dilation: int, size: int) -> str:
    """A padding mode that this kernel can have on an axis of this size."""
    behind = dilation * (kernel - 1) - dilation * (kernel - 1) // 2
    reaching = {"circular": behind <= size, "reflect": behind < size}
    modes = ["zeros", "replicate", *(mode for mode, fits in reaching.items() if fits)]
    return draw(st.sampled_from(modes))


@st.composite
def cell_options(
    draw: st.DrawFn,
    kind: str,
    kernel: tuple[int, ...],
    size: tuple[int, ...],
    activations: Sequence[str] = tuple(reference_loops.ACTIVATIONS),
) -> dict[str, Any]:
    """Options of one cell, any of them present, for frames of ``size``."""
    dilation = per_axis(draw, len(kernel), [1, 1, 2])
    options: dict[str, Any] = {
        "dilation": dilation,
        "padding_mode": tuple(
            fitting_mode(draw, k, d, s) for k, d, s in zip(kernel, dilation, size, strict=True)
        ),
        "attention": draw(st.sampled_from([None, "spatial", "channel"])),
        "recurrent_init": draw(st.sampled_from(["default", "orthogonal"])),
    }
    activation = st.sampled_from(activations)
    if kind == "rnn":
        return options | {"activation": draw(activation)}
    options |= {"gate_activation": draw(activation), "candidate_activation": draw(activation)}
    if kind == "gru":
        return options | {"reset_after": draw(st.booleans())}
    peephole = draw(st.sampled_from([None, "channel", "pixel"]))
    options |= {"output_activation": draw(activation), "peephole": peephole}
    return options | ({"image_size": size} if peephole == "pixel" else {})


@st.composite
def cases(
    draw: st.DrawFn,
    /,
    *,
    flags: bool = True,
    activations: Sequence[str] = tuple(reference_loops.ACTIVATIONS),
    channels: tuple[int, int] = (1, 3),
    length: tuple[int, int] = (1, 4),
    smallest: int = 1,
    kinds: tuple[str, ...] = tuple(CELLS),
    plain_cells: bool = False,
    **fixed: Any,
) -> Case:
    """A stack with any options, all at once, and an input for it.

    Args:
        draw: hypothesis's.
        flags: whether mask, lengths and reset may be there.
        activations: names to draw from.
        channels: fewest and most of the input and of each layer.
        length: fewest and most frames.
        smallest: pixels of the shortest axis.
        kinds: of cells to draw from.
        plain_cells: whether cells have their default activations and no attention.
        fixed: stack options that are not drawn.
    """
    axes = draw(st.integers(1, 3))
    layers, inputs, batch = draw(st.integers(1, 3)), draw(st.integers(*channels)), draw(st.integers(1, 3))
    steps = draw(st.integers(*length))
    size = tuple(draw(st.integers(smallest, 4 if axes < 3 else 2)) for _ in range(axes))
    residual = fixed.get("residual", draw(st.sampled_from([False, False, True, "project", "dense"])))
    bidirectional = fixed.get("bidirectional", draw(st.booleans()))
    merges = ["sum", "mean"] if residual is True else ["concat", "sum", "mean"]
    merge = draw(st.sampled_from(merges if bidirectional else ["concat"]))
    target_size = fixed.get("target_size", draw(st.none() | st.tuples(*[st.integers(1, 3)] * axes)))
    inner = size if target_size is None else target_size
    kernels = [per_axis(draw, axes, [1, 2, 3, 4] if axes < 3 else [1, 2, 3]) for _ in range(layers)]
    cells = []
    for kernel in kernels:
        kind = draw(st.sampled_from(kinds))
        cell = draw(cell_options(kind, kernel, inner, activations))
        if plain_cells:
            cell = {n: v for n, v in cell.items() if n != "attention" and not n.endswith("activation")}
        cells.append((kind, cell))
    options = {
        "input_dim": inputs,
        "hidden_dim": [inputs if residual is True else draw(st.integers(*channels)) for _ in range(layers)],
        "kernel_size": kernels,
        "num_layers": draw(st.sampled_from([None, layers])),
        "batch_first": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "return_all_layers": draw(st.booleans()),
        "bidirectional": bidirectional,
        "merge": merge,
        "residual": residual,
        "norm": draw(st.sampled_from([None, None, "group", "layer"])),
        "dropout": draw(st.sampled_from([0.0, 0.5])) if layers > 1 else 0.0,
        "zoneout": draw(st.sampled_from([0.0, 0.5])),
        "target_size": target_size,
        "restore_size": target_size is not None and draw(st.booleans()),
        "last_only": draw(st.booleans()),
        "detach_every": draw(st.sampled_from([None, 1, 2, 3])),
        "checkpoint": draw(st.sampled_from([None, 1, 2, 3])),
    } | fixed
    if options["norm"] == "group" and 1 in options["hidden_dim"] and set(inner) == {1}:
        options["norm"] = "layer"  # torch refuses to normalise a single value; tested by itself
    torch.manual_seed(draw(st.integers(0, 99)))
    factories = [functools.partial(CELLS[kind], **cell) for kind, cell in cells]
    layer = ConvLSTM(**options, cell=factories).double().eval()
    randomise(layer)
    x = torch.randn(batch, steps, inputs, *size, dtype=torch.float64)
    drawn = draw(timelines(batch, steps)) if flags else {}
    return Case(options, cells, layer, x, drawn)


@st.composite
def timelines(draw: st.DrawFn, batch: int, steps: int) -> dict[str, torch.Tensor]:
    """Any of mask, lengths and reset; every sample has a frame within its length."""
    flags, length = {}, np.full(batch, steps)
    if draw(st.booleans()):
        length = np.array([draw(st.integers(1, steps)) for _ in range(batch)])
        flags["lengths"] = torch.from_numpy(length)
    if draw(st.booleans()):
        mask = torch.tensor([[draw(st.booleans()) for _ in range(steps)] for _ in range(batch)])
        mask[range(batch), [draw(st.integers(0, n - 1)) for n in length]] = True
        flags["mask"] = mask
    if draw(st.booleans()):
        flags["reset"] = torch.tensor([[draw(st.booleans()) for _ in range(steps)] for _ in range(batch)])
    return flags


def randomise(layer: torch.nn.Module) -> None:
    """Uniform weights everywhere, also where the library starts from zeros or ones."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.6, 0.6)
