"""Layers of cells: depth, both directions, connections between layers, checks before any arithmetic."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, CellFactory, check_positive, kernel_tuple
from convlstm.cells.original import OriginalHelpers, check_built, refuse_input_size, takes_no_input_size
from convlstm.engines import ENGINES, SAVES
from convlstm.errors import OptionError, check_name
from convlstm.hub import Pretrained
from convlstm.layers.depth import Depth, StackOptions
from convlstm.layers.parts import NormFactory, norm_factory, pool, projection, resize, spread
from convlstm.layers.scan import ScanOptions, initial_state
from convlstm.layers.state import BothDirections, StackState, check_states
from convlstm.layers.stream import GLOBAL_HOOKS, Stream, state_by_name, takes_two
from convlstm.layers.validation import (
    channels_of_layers,
    check_dropout,
    check_input,
    check_merge,
    check_residual,
    check_sizes,
    check_target,
    connection_of,
    count,
    factory,
    fraction,
    number_of_layers,
    per_layer,
    timeline_of,
)

Kernel = int | tuple[int, ...]


class Stack(OriginalHelpers, Pretrained):
    """Layers of cells over a sequence; `ConvLSTM` and `ConvGRU` say which cell, and document the options.

    A subclass may override `forward` or `step` and set attributes of any other name than these, before or
    after ``super().__init__()``.

    Attributes:
        input_dim: channels of the input.
        hidden_dim: channels of each layer.
        kernel_size: of each layer, one integer per space axis.
        num_layers: number of layers.
        batch_first: whether sequences are (B, T, C, *S) rather than (T, B, C, *S); may be set later.
        bias: whether the gates have a bias.
        return_all_layers: whether every layer's outputs and state are returned; may be set later.
        cell_list: the cells, one per layer; ``reverse_cell_list`` with ``bidirectional``, ``norm_list`` with
            ``norm`` and ``skip_list`` with ``residual="project"`` likewise.
    """

    #: What each layer runs where ``cell`` is not given.
    default_cell: ClassVar[type[Cell]]

    @takes_no_input_size
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
        cell = kind.default_cell if cell is None else cell
        layers = number_of_layers(num_layers, hidden_dim=hidden_dim, kernel_size=kernel_size, cell=cell)
        self.num_layers, self.input_dim = layers, check_positive(input_dim, "input_dim")
        self.hidden_dim = [
            check_positive(width, "hidden_dim") for width in per_layer(hidden_dim, layers, "hidden_dim")
        ]
        self.kernel_size = [kernel_tuple(k) for k in per_layer(kernel_size, layers, "kernel_size")]
        if len({len(kernel) for kernel in self.kernel_size}) > 1:
            raise OptionError(
                f"kernel_size must have the same number of axes in all layers; received {kernel_size}"
            )
        self.batch_first, self.bias, self.return_all_layers = batch_first, bias, return_all_layers
        keep = ScanOptions(
            last_only=last_only,
            detach_every=count(detach_every, "detach_every"),
            checkpoint_every=count(checkpoint, "checkpoint"),
            zoneout=fraction(zoneout, "zoneout"),
            save=check_name(save, SAVES, "save"),
        )
        axes = len(self.kernel_size[0])
        connection = connection_of(residual)
        inputs, outputs = channels_of_layers(
            self.input_dim, self.hidden_dim, bidirectional and merge == "concat", connection
        )
        self._convlstm_options = StackOptions(
            input_dim=self.input_dim,
            inputs=inputs,
            kernels=tuple(self.kernel_size),
            axes=axes,
            bidirectional=bidirectional,
            merge=check_merge(merge, bidirectional),
            residual=connection,
            dropout=check_dropout(dropout, layers),
            target_size=check_target(target_size, axes, restore_size),
            restore_size=restore_size,
            engine=check_name(engine, ENGINES, "engine"),
            keep=keep,
            normed=norm is not None,
        )
        makers = [factory(make, "cell") for make in per_layer(cell, layers, "cell")]

        def cells() -> nn.ModuleList:
            how = zip(makers, inputs, self.hidden_dim, self.kernel_size, strict=True)
            return nn.ModuleList(make(n, hidden, kernel, bias) for make, n, hidden, kernel in how)

        self.cell_list = cells()
        if any(getattr(cell, "spatiotemporal_memory", False) for cell in self.cell_list):
            if bidirectional or checkpoint:
                raise OptionError(
                    "a spatiotemporal memory runs forward in time and is kept; received a cell with one, "
                    f"bidirectional={bidirectional}, checkpoint={checkpoint}: leave these out"
                )
            self._convlstm_options = replace(self._convlstm_options, time_major=True)
        if bidirectional:
            self.reverse_cell_list = cells()
        if norm is not None:
            make_norm = factory(norm_factory(norm), "norm")
            self.norm_list = nn.ModuleList(make_norm(n) for n in outputs)
        if connection == "project":
            self.skip_list = nn.ModuleList(
                projection(n, m, axes) for n, m in zip(inputs, outputs, strict=True)
            )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments as plain data; without a constructor of its own, lists for tuples."""
        check_built(self, "_convlstm_options")
        known = super().hyperparameters
        if type(self).__init__ is not Stack.__init__:
            return known
        kernels = {"kernel_size": [list(kernel) for kernel in self._convlstm_options.kernels]}
        given = {name: self._convlstm_arguments[name] for name in ("hidden_dim", "target_size")}
        return known | kernels | {name: list(v) for name, v in given.items() if isinstance(v, tuple)}

    def extra_repr(self) -> str:
        """The options that are not as they are by default; what `cell` builds is shown by itself."""
        options = list(inspect.signature(Stack.__init__).parameters.values())[4:]
        shown = [
            o
            for o in options
            if o.name != "cell" and self._convlstm_arguments.get(o.name, o.default) != o.default
        ]
        return ", ".join(f"{o.name}={self._convlstm_arguments[o.name]!r}" for o in shown)

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
        check_built(self, "_convlstm_options")
        options, cells, batch_first = self._convlstm_options, list(self.cell_list), self.batch_first
        check_input(self, input_tensor, options.input_dim, options.axes, batch_first)
        x = input_tensor if batch_first else input_tensor.transpose(0, 1)
        timeline, within = timeline_of(x, mask, lengths, reset)
        size = tuple(x.shape[3:])
        inner = options.target_size or size
        check_sizes(cells, inner)
        states, memory = check_states(x, inner, hidden_state, cells, options.inputs, options.bidirectional)
        if options.residual:
            check_residual(x, inner, cells, options.inputs)
        if timeline.valid is not None:
            x = torch.where(spread(timeline.valid, x), x, 0)
        if options.target_size is not None:
            x = pool(x, options.target_size)
        depth = self._convlstm_depth(cells)
        outputs, ends, memory = depth.run(x, states, memory, timeline, training=self.training)
        outputs = outputs if self.return_all_layers else outputs[-1:]
        if within is not None:  # the single frame that last_only leaves lies within
            outputs = [torch.where(spread(within, y), y, 0) if y.shape[1] > 1 else y for y in outputs]
        if options.restore_size:
            outputs = [resize(y, size) for y in outputs]
        if not batch_first:
            outputs = [y.transpose(0, 1) for y in outputs]
        return outputs, StackState(ends, len(outputs), memory)

    def _convlstm_depth(self, cells: list[nn.Module]) -> Depth:
        options = self._convlstm_options
        # Between two layers with nothing in between, outputs need not be as the caller wants them.
        between = (
            self.return_all_layers,
            options.residual,
            options.normed,
            options.bidirectional,
            options.dropout,
        )
        return Depth(
            options,
            cells,
            list(self.reverse_cell_list) if options.bidirectional else None,
            list(self.norm_list) if options.normed else None,
            list(self.skip_list) if options.residual == "project" else None,
            inner=not any(between),
        )

    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One frame through all layers, by a call of the stack with that frame alone.

        What a subclass or a hook changes in the call is therefore in effect. Streams are made of such steps.

        Args:
            frame: (B, C, *S).
            state: what the step before returned; None for the initial states.

        Returns:
            The last layer's output (B, C_out, *S) and the state for the next step.

        Raises:
            ShapeError, OptionError: as `forward`; a ``forward`` of a subclass that does not return outputs
                (a list, or the last layer's alone) and states.
        """
        axis = 1 if self.batch_first else 0
        frames, own = (
            frame.unsqueeze(axis),
            "forward" in vars(self) or type(self).forward is not Stack.forward,
        )
        result: Any = _with_state(self, frames, state) if own else self(frames, state)
        outputs = result[0] if isinstance(result, tuple) and len(result) == 2 else None
        last = outputs[-1] if isinstance(outputs, list | tuple) and outputs else outputs
        if not isinstance(last, Tensor) or last.ndim != frame.ndim + 1 or last.shape[axis] != 1:
            kind = type(self).__name__
            raise OptionError(
                f"a step needs a call that returns (outputs, states), outputs with one frame on axis {axis}; "
                f"the {kind}'s forward returned {_in_words(result)}: return these, or override step"
            )
        return last.select(axis, 0), result[1]

    def _convlstm_is_customised(self) -> bool:
        """True if a subclass, the instance or a hook changes what a call does."""
        kind, calls = type(self), ("__call__", "forward")
        own = any(name in vars(self) or getattr(kind, name) is not getattr(Stack, name) for name in calls)
        hooks = (self._forward_hooks, self._forward_pre_hooks, *GLOBAL_HOOKS)
        return own or self._convlstm_has_own_step() or any(hooks)

    def _convlstm_has_own_step(self) -> bool:
        """True if `step` is overridden; something else of that name, such as a counter, is the user's."""
        own = "step" in vars(self) or type(self).step is not Stack.step
        return own and takes_two(self.step)

    def _convlstm_step(self, frame: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.step(frame, state) if self._convlstm_has_own_step() else Stack.step(self, frame, state)

    def set_engine(self, engine: str) -> Self:
        """Choose the engine of the calls that follow, and return the stack.

        Raises:
            OptionError: no engine of that name.
        """
        name = check_name(engine, ENGINES, "engine")
        self._convlstm_options = replace(self._convlstm_options, engine=name)
        return self

    def _init_hidden(self, batch_size: int, image_size: tuple[int, ...]) -> list[Any]:
        """The states before the first frame, by layer, for subclasses whose own ``forward`` asks for them."""
        options = self._convlstm_options
        like, size = next(self.parameters()), options.target_size or image_size
        frames = [like.new_empty(batch_size, width, *size) for width in options.inputs]
        forward = list(map(initial_state, self.cell_list, frames))
        if not options.bidirectional:
            return forward
        return list(map(BothDirections, forward, map(initial_state, self.reverse_cell_list, frames)))

    @classmethod
    def _check_argument(cls, name: str, known: list[str]) -> None:
        if name == "input_size" and name not in known:
            refuse_input_size(cls)
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
        check_built(self, "_convlstm_options")
        return Stream(self, batch_size, size)


def _with_state(stack: Stack, frames: Tensor, state: Any) -> Any:
    """Call a stack whose ``forward`` is the user's, with the state where that takes it.

    Raises:
        OptionError: it takes none, as the original's, which raises NotImplementedError.
    """
    try:
        return stack(frames, hidden_state=state) if state_by_name(stack.forward) else stack(frames, state)
    except NotImplementedError as error:
        raise OptionError(
            "a step passes the state from call to call; the forward of a "
            f"{type(stack).__name__} raised NotImplementedError: let it begin from hidden_state"
        ) from error


def _in_words(result: Any) -> str:
    """Types and shapes of what a call returned."""
    if isinstance(result, Tensor):
        return f"a tensor {tuple(result.shape)}"
    if isinstance(result, list | tuple):
        return f"a {type(result).__name__} of {', '.join(map(_in_words, result)) or 'nothing'}"
    return f"a {type(result).__name__}"
