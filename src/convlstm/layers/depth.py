"""Depth: one layer after another, with both directions, normalisation and connections around layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.layers.parts import by_frame, dropout_mask, fill_forward, has_batch_statistics
from convlstm.layers.scan import ScanOptions, SequenceFlags, gradient_cuts, scan, step_with_memory
from convlstm.layers.state import BothDirections, StackState


@dataclass(frozen=True)
class StackOptions:
    """Validated options of a stack.

    Attributes:
        input_dim: channels of the frames.
        inputs: channels into each layer.
        kernels: size of each layer's kernel, one integer per space axis.
        axes: number of space axes.
        bidirectional: whether each layer has a backward direction.
        merge: of both directions: concat, sum or mean.
        residual: connection around each layer: add, project, dense, or empty for none.
        dropout: probability of dropping a channel between layers.
        target_size: size to which frames are averaged; None for their own.
        restore_size: whether outputs are interpolated back.
        engine: one of `convlstm.engines.ENGINES`.
        keep: see `scan`.
        normed: whether outputs of layers are normalised.
        time_major: whether all layers read a frame before the next one, which a spatiotemporal memory needs.
    """

    input_dim: int
    inputs: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    axes: int
    bidirectional: bool
    merge: str
    residual: str
    dropout: float
    target_size: tuple[int, ...] | None
    restore_size: bool
    engine: str
    keep: ScanOptions
    normed: bool
    time_major: bool = False


class LayerOutputs(NamedTuple):
    """Results of all layers.

    Attributes:
        outputs: one (B, T, C_out, *S) per layer.
        states: one per layer, after the last frame.
        memory: the spatiotemporal memory above the top layer, (B, C, *S); None where there is none.
    """

    outputs: list[Tensor]
    states: list[Any]
    memory: Tensor | None


@dataclass(frozen=True)
class Depth:
    """The layers of a stack, as one call runs them.

    Attributes:
        options: of the stack.
        cells: one per layer.
        backward_cells: the same for the backward direction; None without one.
        norms: one per layer, or None.
        projections: 1x1 convolutions of the connections around layers, or None.
        inner: whether nothing but the next cell reads the outputs of a layer that is not the last.
    """

    options: StackOptions
    cells: Sequence[nn.Module]
    backward_cells: Sequence[nn.Module] | None
    norms: Sequence[nn.Module] | None
    projections: Sequence[nn.Module] | None
    inner: bool

    def run(
        self, x: Tensor, states: list[Any], memory: Tensor | None, timeline: SequenceFlags, *, training: bool
    ) -> LayerOutputs:
        """Outputs and states of all layers for frames (B, T, C, *S).

        Args:
            x: the frames.
            states: one per layer, None for the initial one.
            memory: the spatiotemporal memory at the start; None for the initial one.
            timeline: which frames are there and where sequences begin.
            training: whether dropout acts.
        """
        drops: list[Tensor | None] = [None] * len(self.cells)
        if training and self.options.dropout:
            p = self.options.dropout
            drops[1:] = [dropout_mask(x, channels, p) for channels in self.options.inputs[1:]]
        if not self.options.time_major:
            return self._layer_by_layer(x, states, memory, timeline, drops, {})
        return self._frame_by_frame(x, states, memory, timeline, drops)

    def _layer_by_layer(
        self,
        x: Tensor,
        states: list[Any],
        memory: Tensor | None,
        timeline: SequenceFlags,
        drops: list[Tensor | None],
        shown: dict[tuple[str, int], Tensor],
    ) -> LayerOutputs:
        """Each layer reads all frames before the next layer.

        ``shown`` holds, by connection and layer, the last frame of the call before, and receives this one's.
        """
        features, ends = [x], []
        for layer, (state, drop) in enumerate(zip(states, drops, strict=True)):
            x = torch.cat(features, dim=2) if self.options.residual == "dense" else features[-1]
            x = x if drop is None else x * drop
            y, end, memory = self._layer(layer, x, state, memory, timeline, shown)
            features.append(y)
            ends.append(end)
        return LayerOutputs(features[1:], ends, memory)

    def _frame_by_frame(
        self,
        x: Tensor,
        states: list[Any],
        memory: Tensor | None,
        timeline: SequenceFlags,
        drops: list[Tensor | None],
    ) -> LayerOutputs:
        """All layers read each frame before the next frame."""
        keep = self.options.keep
        frames: list[list[Tensor]] = []
        shown: dict[tuple[str, int], Tensor] = {}
        for t, cut in enumerate(gradient_cuts(timeline.valid, keep.detach_every, x.shape[1])):
            if cut:
                before = StackState(states, len(states), memory).map(cut)
                states, memory = before.all_layers, before.memory
            frame, flags = x[:, t : t + 1], timeline.at(t)
            outputs, states, memory = self._layer_by_layer(frame, states, memory, flags, drops, shown)
            frames.append(outputs)
        joined = [torch.cat(of_layer, dim=1) for of_layer in zip(*frames, strict=True)]
        return LayerOutputs(
            [*joined[:-1], frames[-1][-1].clone()] if keep.last_only else joined, states, memory
        )

    def _layer(
        self,
        layer: int,
        x: Tensor,
        state: Any,
        memory: Tensor | None,
        timeline: SequenceFlags,
        shown: dict[tuple[str, int], Tensor],
    ) -> tuple[Tensor, Any, Tensor | None]:
        """One layer: both directions, merged and normalised, with its connection around them."""
        options = self.options
        y, end, memory = self._recurrence(layer, x, state, memory, timeline)
        if self.norms is not None:
            y = _normalised(self.norms[layer], y, timeline, shown, layer)
        if options.residual in ("add", "project"):
            if timeline.valid is not None:  # at a missing frame, what was added at the frame before is again
                x = fill_forward(x, timeline.valid, timeline.starts, shown.get(("residual", layer)))
                shown["residual", layer] = x[:, -1:]
            x = x[:, -y.shape[1] :]
            y = y + (x if self.projections is None else by_frame(self.projections[layer], x))
        return y, end, memory

    def _recurrence(
        self, layer: int, x: Tensor, state: Any, memory: Tensor | None, timeline: SequenceFlags
    ) -> tuple[Tensor, Any, Tensor | None]:
        """One layer's cells over the frames, both directions merged."""
        options, cell, last = self.options, self.cells[layer], layer + 1 == len(self.cells)
        keep = options.keep if last else replace(options.keep, last_only=False)
        if options.time_major:
            how: Any = {"lowest": not layer, "keep": keep, "engine": options.engine}
            return step_with_memory(cell, x, state, memory, timeline, **how)
        how = {"keep": keep, "engine": options.engine, "inner": self.inner and not last}
        if self.backward_cells is None:
            return *scan(cell, x, state, timeline, **how), memory
        forward, backward = (None, None) if state is None else state
        y, forward = scan(cell, x, forward, timeline, **how)
        z, backward = scan(self.backward_cells[layer], x, backward, timeline, reverse=True, **how)
        y = torch.cat([y, z], dim=2) if options.merge == "concat" else y + z
        return y / 2 if options.merge == "mean" else y, BothDirections(forward, backward), memory


def _normalised(
    norm: nn.Module, y: Tensor, timeline: SequenceFlags, shown: dict[tuple[str, int], Tensor], layer: int
) -> Tensor:
    """Outputs (B, T, C, *S) normalised frame by frame.

    Statistics over the batch are those of the frames that are there; a missing frame then has the normalised
    output of the frame before (zeros where there is none).
    """
    valid = timeline.valid
    if valid is None or not has_batch_statistics(norm):
        return by_frame(norm, y)
    starts = timeline.starts
    if y.shape[1] != valid.shape[1]:  # of the last frame alone
        valid, starts = valid.any(dim=1, keepdim=True), None
    places = valid.flatten().nonzero().squeeze(1)
    flat = y.flatten(0, 1)
    normed = norm(flat[places]) if len(places) else flat[places]
    filled = normed.new_zeros(len(flat), *normed.shape[1:]).index_copy(0, places, normed)
    y = fill_forward(filled.view(*y.shape[:2], *normed.shape[1:]), valid, starts, shown.get(("norm", layer)))
    shown["norm", layer] = y[:, -1:]
    return y
