"""Layers of cells: depth, both directions, connections between layers, checks before any arithmetic."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, CellFactory, check_positive, kernel_tuple
from convlstm.engines import ENGINES, SAVES
from convlstm.errors import OptionError, check_name
from convlstm.layers.checks import (
    check_input,
    check_sizes,
    count,
    factory,
    fraction,
    number_of_layers,
    per_layer,
    space,
    timeline_of,
)
from convlstm.layers.parts import (
    NormFactory,
    by_frame,
    dropout_mask,
    fill_forward,
    norm_factory,
    pool,
    projection,
    resize,
    spread,
)
from convlstm.layers.scan import Keep, Timeline, climb, gradient_cuts, initial_state, scan
from convlstm.layers.state import BothDirections, StackState, check_states
from convlstm.layers.stream import Stream
from convlstm.pretrained import Pretrained

Kernel = int | tuple[int, ...]


class Stack(Pretrained):
    """Layers of cells over a sequence; `ConvLSTM` and `ConvGRU` say which cell, and document the options."""

    #: What each layer runs where ``cell`` is not given.
    default_cell: ClassVar[type[Cell]]

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | Sequence[int],
        kernel_size: Kernel | Sequence[Kernel],
        num_layers: int | None = None,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
        *,
        cell: CellFactory | Sequence[CellFactory] | None = None,
        bidirectional: bool = False,
        merge: str = "concat",
        residual: bool | str = False,
        norm: str | NormFactory | None = None,
        dropout: float = 0.0,
        zoneout: float = 0.0,
        target_size: Sequence[int] | None = None,
        restore_size: bool = False,
        last_only: bool = False,
        detach_every: int | None = None,
        checkpoint: int | None = None,
        engine: str = "auto",
        save: str = "auto",
    ) -> None:
        super().__init__()
        kind = type(self)
        if kind._init_hidden is not Stack._init_hidden and kind.forward is Stack.forward:
            raise OptionError(
                f"where a sequence begins must be said by the cells, which resets and streams ask; received "
                f"a {kind.__name__} with an _init_hidden of its own: override init_hidden of its cell"
            )
        cell = type(self).default_cell if cell is None else cell
        self.num_layers = number_of_layers(
            num_layers, hidden_dim=hidden_dim, kernel_size=kernel_size, cell=cell
        )
        self.input_dim = check_positive(input_dim, "input_dim")
        widths = per_layer(hidden_dim, self.num_layers, "hidden_dim")
        self.hidden_dim = [check_positive(width, "hidden_dim") for width in widths]
        self.kernel_size = [kernel_tuple(k) for k in per_layer(kernel_size, self.num_layers, "kernel_size")]
        if len({len(kernel) for kernel in self.kernel_size}) > 1:
            raise OptionError(
                f"kernel_size must have the same number of axes in all layers; received {kernel_size}"
            )
        self.axes = len(self.kernel_size[0])
        self.batch_first, self.bias, self.return_all_layers = batch_first, bias, return_all_layers
        self.bidirectional = bidirectional
        self.merge = check_name(merge, ("concat", "sum", "mean"), "merge")
        if merge != "concat" and not bidirectional:
            raise OptionError(
                f"merge joins both directions; received '{merge}' without bidirectional=True: pass it, or "
                "leave merge out"
            )
        self.residual = "add" if residual is True else residual
        if self.residual:
            check_name(self.residual, ("add", "project", "dense"), "residual")
        self.dropout = fraction(dropout, "dropout")
        if dropout and self.num_layers == 1:
            raise OptionError(
                f"dropout acts between layers and needs two at least; received {dropout} with one"
            )
        self.target_size = space(target_size, self.axes, "target_size")
        if restore_size and target_size is None:
            raise OptionError(
                "restore_size undoes target_size; received restore_size=True without target_size"
            )
        self.restore_size = restore_size
        self.engine = check_name(engine, ENGINES, "engine")
        self.keep = Keep(
            last_only=last_only,
            detach_every=count(detach_every, "detach_every"),
            recompute_every=count(checkpoint, "checkpoint"),
            zoneout=fraction(zoneout, "zoneout"),
            save=check_name(save, SAVES, "save"),
        )
        self._build([factory(make, "cell") for make in per_layer(cell, self.num_layers, "cell")], norm)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments as plain data; kernels by layer, as JSON knows no tuples."""
        known = super().hyperparameters
        kernels = {"kernel_size": [list(kernel) for kernel in self.kernel_size]}
        return known | kernels if "kernel_size" in known else known

    def extra_repr(self) -> str:
        """The options that are not as they are by default; what `cell` builds is shown by itself."""
        options = list(inspect.signature(Stack.__init__).parameters.values())[4:]
        shown = [
            o for o in options if o.name != "cell" and self._arguments.get(o.name, o.default) != o.default
        ]
        return ", ".join(f"{o.name}={self._arguments[o.name]!r}" for o in shown)

    def _build(self, cells: list[CellFactory], norm: str | NormFactory | None) -> None:
        twice = 2 if self.bidirectional and self.merge == "concat" else 1
        outputs = [twice * hidden for hidden in self.hidden_dim]
        if self.residual == "dense":
            inputs = [self.input_dim + sum(outputs[:layer]) for layer in range(self.num_layers)]
        else:
            inputs = [self.input_dim, *outputs[:-1]]
        if self.residual == "add" and inputs != outputs:
            raise OptionError(
                f"residual=True needs as many channels out of each layer as into it; received {inputs} in "
                f"and {outputs} out: use residual='project'"
            )

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                make(n, hidden, kernel, self.bias)
                for make, n, hidden, kernel in zip(
                    cells, inputs, self.hidden_dim, self.kernel_size, strict=True
                )
            )

        self.inputs = inputs
        self.cell_list = layers()
        self.climbs = any(getattr(cell, "climbs", False) for cell in self.cell_list)
        if self.climbs and (self.bidirectional or self.keep.recompute_every):
            raise OptionError(
                "a memory that climbs the layers goes one way and is kept; received such a cell with "
                f"bidirectional={self.bidirectional}, checkpoint={self.keep.recompute_every}: leave these out"
            )
        self.reverse_cell_list = layers() if self.bidirectional else None
        make_norm = None if norm is None else factory(norm_factory(norm), "norm")
        self.norm_list = None if make_norm is None else nn.ModuleList(make_norm(n) for n in outputs)
        self.skip_list = (
            nn.ModuleList(projection(n, m, self.axes) for n, m in zip(inputs, outputs, strict=True))
            if self.residual == "project"
            else None
        )

    def forward(
        self,
        input_tensor: Tensor,
        hidden_state: Sequence[Any] | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[list[Tensor], StackState]:
        """Run the stack.

        Args:
            input_tensor: (B, T, C, *S), or (T, B, C, *S) with ``batch_first=False``.
            hidden_state: the states that an earlier call returned, or one state per layer (None for the
                initial one), each tensor (B, hidden_dim, *S); None for the initial states. A bidirectional
                layer's state is a pair, forward and backward.
            mask: (B, T) bool, batch first like the next two whatever ``batch_first`` says: True where a frame
                is there (the opposite of torch's ``key_padding_mask``). A missing one, whatever it holds,
                carries the state through; its output is that of the frame before.
            lengths: (B,) integers, how many frames each sequence has; what lies beyond is not read, and the
                outputs there are zero. With ``last_only`` each sequence gives that after its own last frame.
            reset: (B, T) bool: which frames begin a new sequence, from the initial state.

        Returns:
            The outputs of each layer (B, T, C_out, *S), time first if the input was (T = 1 with
            ``last_only``), and the states at the end; of the last layer only unless ``return_all_layers``.

        Raises:
            ShapeError: wrong rank, channels or dtype; an empty sequence; a mask, lengths or states that do
                not fit. Raised before any arithmetic.
            OptionError: an engine named that cannot serve the call.
        """
        check_input(self, input_tensor, self.input_dim, self.axes, self.batch_first)
        x = input_tensor if self.batch_first else input_tensor.transpose(0, 1)
        timeline, within = timeline_of(x, mask, lengths, reset)
        size = tuple(x.shape[3:])
        inner = self.target_size or size
        check_sizes(list(self.cell_list), inner)
        states = check_states(x, inner, hidden_state, list(self.cell_list), self.inputs, self.bidirectional)
        if timeline.valid is not None:
            x = torch.where(spread(timeline.valid, x), x, 0)
        if self.target_size is not None:
            x = pool(x, self.target_size)
        memory = hidden_state.memory if isinstance(hidden_state, StackState) else None
        run = self._by_frame if self.climbs else self._by_layer
        outputs, ends, memory = run(x, states, memory, timeline, self._drops(x))
        outputs = outputs if self.return_all_layers else outputs[-1:]
        if within is not None:  # the single frame that last_only leaves lies within
            outputs = [torch.where(spread(within, y), y, 0) if y.shape[1] > 1 else y for y in outputs]
        if self.restore_size:
            outputs = [resize(y, size) for y in outputs]
        if not self.batch_first:
            outputs = [y.transpose(0, 1) for y in outputs]
        return outputs, StackState(ends, len(outputs), memory)

    def _init_hidden(self, batch_size: int, image_size: tuple[int, ...]) -> list[Any]:
        """The states before the first frame, by layer, for subclasses whose own ``forward`` asks for them."""
        like, size = next(self.parameters()), self.target_size or image_size
        frames = [like.new_empty(batch_size, width, *size) for width in self.inputs]
        there, back = (
            None if cells is None else list(map(initial_state, cells, frames))
            for cells in (self.cell_list, self.reverse_cell_list)
        )
        assert there is not None
        return there if back is None else list(map(BothDirections, there, back))

    @classmethod
    def _check_argument(cls, name: str, known: list[str]) -> None:
        cell = cls.default_cell
        stack, options = (inspect.signature(kind.__init__).parameters for kind in (Stack, cell))
        if name not in known and name in options and name not in stack:
            raise OptionError(
                f"an argument of {cls.__name__} must be one of the layers; received {name!r}, which is one "
                f"of the cell: pass cell=functools.partial({cell.__name__}, {name}=...)"
            )
        super()._check_argument(name, known)

    def stream(self, batch_size: int, size: Sequence[int]) -> Stream:
        """A session that is given one frame at a time and gives the output at once, without gradients.

        The next call may overwrite an output (B, hidden_dim, *S): clone what you keep.

        Args:
            batch_size: sequences side by side.
            size: of the frames, one integer per space axis.

        Example:
            >>> import torch
            >>> from convlstm import ConvLSTM
            >>> session = ConvLSTM(1, [16, 8], 3).stream(batch_size=2, size=(24, 32))
            >>> session(torch.zeros(2, 1, 24, 32)).shape
            torch.Size([2, 8, 24, 32])
            >>> kept = session.state  # to go on from here later: session.state = kept
        """
        return Stream(self, batch_size, size)

    def _drops(self, x: Tensor) -> list[Tensor | None]:
        """By what the input of each layer is multiplied, at all times alike; nothing for the first."""
        if not (self.training and self.dropout):
            return [None] * self.num_layers
        return [None, *(dropout_mask(x, channels, self.dropout) for channels in self.inputs[1:])]

    def _by_layer(
        self,
        x: Tensor,
        states: list[Any],
        memory: Tensor | None,
        timeline: Timeline,
        drops: list[Tensor | None],
        shown: dict[int, Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Any], Tensor | None]:
        """Each layer reads the whole sequence before the next: outputs and states of all layers, memory.

        By layer, ``shown`` is what a connection around it showed last, and becomes what it shows at the end.
        """
        shown = {} if shown is None else shown
        features, ends = [x], []
        for layer, (state, drop) in enumerate(zip(states, drops, strict=True)):
            x = torch.cat(features, dim=2) if self.residual == "dense" else features[-1]
            x = x if drop is None else x * drop
            y, end, memory = self._layer(layer, x, state, memory, timeline, shown)
            features.append(y)
            ends.append(end)
        return features[1:], ends, memory

    def _by_frame(
        self,
        x: Tensor,
        states: list[Any],
        memory: Tensor | None,
        timeline: Timeline,
        drops: list[Tensor | None],
    ) -> tuple[list[Tensor], list[Any], Tensor | None]:
        """All layers read each frame before the next: what a memory that climbs the layers needs."""
        frames: list[list[Tensor]] = []
        shown: dict[int, Tensor] = {}
        cuts = gradient_cuts(timeline.valid, self.keep.detach_every, x.shape[1])
        for t, cut in enumerate(cuts):
            if cut:
                before = StackState(states, self.num_layers, memory).map(cut)
                states, memory = before.all_layers, before.memory
            frame, flags = x[:, t : t + 1], timeline.at(t)
            outputs, states, memory = self._by_layer(frame, states, memory, flags, drops, shown)
            frames.append(outputs)
        joined = [torch.cat(of_layer, dim=1) for of_layer in zip(*frames, strict=True)]
        return ([*joined[:-1], frames[-1][-1].clone()] if self.keep.last_only else joined), states, memory

    def _layer(
        self,
        layer: int,
        x: Tensor,
        state: Any,
        memory: Tensor | None,
        timeline: Timeline,
        shown: dict[int, Tensor],
    ) -> tuple[Tensor, Any, Tensor | None]:
        """One layer: both directions, merged and normalised, with its connection around them."""
        cell = self.cell_list[layer]
        keep = self.keep if layer + 1 == self.num_layers else replace(self.keep, last_only=False)
        # Between two layers with nothing in between, outputs need not be as the caller wants them.
        between = (self.return_all_layers, self.residual, self.norm_list, self.bidirectional, self.dropout)
        inner = layer + 1 < self.num_layers and not any(between)
        how: Any = {"keep": keep, "engine": self.engine, "inner": inner}
        end: Any
        if self.climbs:
            climbing: Any = {"lowest": not layer, "keep": keep, "engine": self.engine}
            y, end, memory = climb(cell, x, state, memory, timeline, **climbing)
        elif self.reverse_cell_list is None:
            y, end = scan(cell, x, state, timeline, **how)
        else:
            there, back = (None, None) if state is None else state
            y, there = scan(cell, x, there, timeline, **how)
            z, back = scan(self.reverse_cell_list[layer], x, back, timeline, reverse=True, **how)
            y = torch.cat([y, z], dim=2) if self.merge == "concat" else y + z
            y, end = (y / 2 if self.merge == "mean" else y), BothDirections(there, back)
        if self.norm_list is not None:
            y = by_frame(self.norm_list[layer], y)
        if self.residual in ("add", "project"):
            if timeline.valid is not None:  # at a missing frame, what was added at the frame before is again
                x = fill_forward(x, timeline.valid, timeline.starts, shown.get(layer))
                shown[layer] = x[:, -1:]
            x = x[:, -y.shape[1] :]
            y = y + (x if self.skip_list is None else by_frame(self.skip_list[layer], x))
        return y, end, memory
