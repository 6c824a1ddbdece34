"""The layers of a stack over a sequence: layer by layer, or frame by frame."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import convlstm.engines as engines
from convlstm.cells.base import (
    Cell,
    check_projection,
    check_step,
    check_step_with_memory,
    map_state,
    run_step,
)
from convlstm.cells.recordable import recorders_of
from convlstm.engines.recurrences import recurrence_of
from convlstm.errors import OptionError
from convlstm.layers.frames import dropout_mask, fill_forward, map_frames, where_samples
from convlstm.layers.norm import has_batch_statistics
from convlstm.layers.options import StackOptions
from convlstm.layers.scan import SequenceFlags, gradient_cuts, scan
from convlstm.layers.state import (
    BothDirections,
    MemoryState,
    has_memory,
    initial_memory,
    initial_state,
    of_kind,
    output_of,
)


class Layers(NamedTuple):
    """The modules, one per layer, and the options of a stack.

    Attributes:
        options: of the stack.
        cells: recurrences; reverse_cells: those of the backward direction, or None.
        norms: normalisations of the outputs, or None.
        projections: 1x1 convolutions of the connections around the layers, or None.
        any_layout: outputs of a layer that is not the last are read by the next cell only.
        shown: number of layers, counted from the last, whose outputs and states are returned.
    """

    options: StackOptions
    cells: Sequence[nn.Module]
    reverse_cells: Sequence[nn.Module] | None
    norms: Sequence[nn.Module] | None
    projections: Sequence[nn.Module] | None
    any_layout: bool
    shown: int


def check_memory(cells: Iterable[nn.Module], bidirectional: bool, checkpoint: int | None) -> bool:
    """True if some cell has a spatiotemporal memory.

    Raises:
        OptionError: one in a stack with a backward direction or recomputed segments.
    """
    if not any(map(has_memory, cells)):
        return False
    if bidirectional or checkpoint:
        raise OptionError(
            "a spatiotemporal memory runs forward in time and is kept; received a cell with one, "
            f"bidirectional={bidirectional}, checkpoint={checkpoint}: leave these out"
        )
    return True


class LayerRun:
    """One call of a stack: its layers, and their states from frame to frame.

    Args:
        layers: of the stack.
        x: (B, T, C, *S), the frames of the call.
        states: one per layer, None for the initial one.
        memory: the spatiotemporal memory at the start; None for the initial one.
        training: draw dropout.

    Attributes:
        states: one per layer, after the frames run so far.
        memory: the spatiotemporal memory from the top layer; None where no cell has one.
    """

    def __init__(
        self, layers: Layers, x: Tensor, states: list[Any], memory: Tensor | None, training: bool
    ) -> None:
        options = layers.options
        self.layers, self.options, self.states, self.memory = layers, options, list(states), memory
        self.by_frame = check_memory(layers.cells, options.bidirectional, options.scan.checkpoint_every)
        self.scan_options = options.scan
        if self.by_frame and options.scan.detach_every:  # gradients are cut in all layers together
            self.scan_options = replace(options.scan, detach_every=None)
        self.dropped: list[Tensor | None] = [None] * len(states)
        if training and options.dropout:
            self.dropped[1:] = [dropout_mask(x, n, options.dropout) for n in options.inputs[1:]]
        #: By layer, what `_is_plain` found, and the plain ones whose step was seen to return what it must.
        self.plain: dict[int, bool] = {}
        self.checked: set[int] = set()
        #: Last outputs of norms and connections, (B, 1, C, *S), repeated at missing frames.
        self.previous: dict[tuple[str, int], Tensor] = {}

    def run(self, x: Tensor, flags: SequenceFlags) -> list[Tensor]:
        """Outputs of the layers that are shown at least, (B, T, C_out, *S) each, for frames (B, T, C, *S)."""
        return self._frame_by_frame(x, flags) if self.by_frame else self.step(x, flags)

    def step(self, x: Tensor, flags: SequenceFlags) -> list[Tensor]:
        """Outputs of all layers for the next frames; each layer reads all of them before the next layer."""
        features = [x]
        for layer, dropped in enumerate(self.dropped):
            x = torch.cat(features, dim=2) if self.options.residual == "dense" else features[-1]
            features.append(self._layer(layer, x if dropped is None else x * dropped, flags))
        return features[1:]

    def _frame_by_frame(self, x: Tensor, flags: SequenceFlags) -> list[Tensor]:
        """Outputs of the layers that are shown, each frame through all layers before the next."""
        frames: list[list[Tensor]] = []
        cuts = gradient_cuts(flags.mask, self.options.scan.detach_every, x.shape[1])
        for t, (frame, cut) in enumerate(zip(torch.split(x, 1, dim=1), cuts, strict=True)):
            if cut:
                self.states, self.memory = map_state(cut, self.states), map_state(cut, self.memory)
            frames.append(self.step(frame, flags.at(t))[-self.layers.shown :])
        outputs = [torch.cat(of_layer, dim=1) for of_layer in zip(*frames, strict=True)]
        if self.options.last_only:
            outputs[-1] = frames[-1][-1].clone()
        return outputs

    def _layer(self, layer: int, x: Tensor, flags: SequenceFlags) -> Tensor:
        """Outputs of one layer: its cells, normalised, with the connection around them."""
        y = self._recurrence(layer, x, flags)
        if self.layers.norms is not None:  # which may change their input in place, and that may be the state
            y = self._normalised(layer, y.clone() if self.by_frame else y, flags)
        if self.options.residual in ("add", "project"):
            if flags.mask is not None:  # at a missing frame, the one before is added again
                x = self._filled("residual", layer, x, flags)
            x = x[:, -y.shape[1] :]
            projections = self.layers.projections
            y = y + (x if projections is None else map_frames(projections[layer], x))
        return y

    def _recurrence(self, layer: int, x: Tensor, flags: SequenceFlags) -> Tensor:
        """Outputs of one layer's cells, both directions merged."""
        layers, options, cell, state = self.layers, self.options, self.layers.cells[layer], self.states[layer]
        if layer and x.shape[1] == 1 and type(cell).__module__.partition(".")[0] != "convlstm":
            x = x.clone()  # a user's cell may change it, and it may be the state of the layer below
        if self.by_frame and self._is_plain(layer, flags):
            return self._plain_step(layer, x)
        if has_memory(cell):
            return self._recurrence_with_memory(layer, x, flags)
        last = layer + 1 == len(layers.cells)
        run = partial(
            scan,
            flags=flags,
            last_only=last and options.last_only and not self.by_frame,
            options=self.scan_options,
            engine=options.engine,
            any_layout=layers.any_layout and not last,
        )
        if layers.reverse_cells is None:
            y, self.states[layer] = run(cell, x, state)
            return y
        forward, backward = (None, None) if state is None else state
        y, forward = run(cell, x, forward)
        z, backward = run(layers.reverse_cells[layer], x, backward, reverse=True)
        self.states[layer] = BothDirections(forward, backward)
        if options.merge == "concat":
            return torch.cat([y, z], dim=2)
        return (y + z) / 2 if options.merge == "mean" else y + z

    def _recurrence_with_memory(self, layer: int, x: Tensor, flags: SequenceFlags) -> Tensor:
        """Output of one frame through a cell with a spatiotemporal memory, which the layer below has updated.

        The lowest such layer reads the memory of the frame before, which a reset sets to the initial one.
        """
        cell: Any = self.layers.cells[layer]
        state = self.states[layer]
        if flags.reset is not None and any(map(has_memory, self.layers.cells[:layer])):
            if state is not None:
                initial = initial_state(cell, x[:, 0])
                state = map_state(where_samples(flags.reset[:, 0]), initial, of_kind(initial, state))
            flags = SequenceFlags(flags.mask)
        before, engine = MemoryState(state, self.memory), self.options.engine
        y, after = scan(cell, x, before, flags, options=self.scan_options, engine=engine)
        self.states[layer], self.memory = after
        return y

    def _is_plain(self, layer: int, flags: SequenceFlags) -> bool:
        """True if a frame of a layer is a step of its cell and nothing else; the same for all of a call."""
        if layer not in self.plain:
            cell: Any = self.layers.cells[layer]
            self.plain[layer] = (
                isinstance(cell, Cell)
                and flags.mask is None
                and flags.reset is None
                and not self.scan_options.zoneout
                and recurrence_of(cell) is None
                and not (engines.has_own_forward(cell) or engines.has_hooks(cell) or recorders_of(cell))
            )
        return self.plain[layer]

    def _plain_step(self, layer: int, x: Tensor) -> Tensor:
        """Output of one frame, as `scan` gives it, without its choices, which cost small frames much."""
        cell: Any = self.layers.cells[layer]
        frame, state = x.squeeze(1).contiguous(), self.states[layer]
        if state is None:
            state = initial_state(cell, frame)
        projected = check_projection(cell, cell.project(frame))
        if cell.spatiotemporal_memory:
            memory = initial_memory(cell, frame) if self.memory is None else self.memory
            result = cell.step(projected, state, memory)
            if layer not in self.checked:
                result = check_step_with_memory(cell, result, state)
            new, self.memory = result
        else:
            new = run_step(cell, projected, state)
            if layer not in self.checked:
                new = check_step(cell, new, state)
        self.checked.add(layer)
        self.states[layer] = new
        return output_of(new).unsqueeze(1)

    def _normalised(self, layer: int, y: Tensor, flags: SequenceFlags) -> Tensor:
        """Outputs (B, T, C, *S) normalised frame by frame.

        Statistics over the batch are those of the frames that are present; a missing frame then has the
        normalised output of the frame before (zeros where there is none).
        """
        norms: Any = self.layers.norms
        norm, mask, reset = norms[layer], flags.mask, flags.reset
        if mask is None or not has_batch_statistics(norm):
            return map_frames(norm, y)
        if y.shape[1] != mask.shape[1]:  # the output of the last frame alone
            mask, reset = mask.any(dim=1, keepdim=True), None
        return self._filled("norm", layer, map_frames(norm, y, mask), SequenceFlags(mask, reset))

    def _filled(self, name: str, layer: int, x: Tensor, flags: SequenceFlags) -> Tensor:
        """Frames of which missing ones repeat those before, of the step before too."""
        mask: Any = flags.mask
        x = fill_forward(x, mask, flags.reset, self.previous.get((name, layer)))
        self.previous[name, layer] = x[:, -1:]
        return x
