"""Layers of cells: construction, call, single steps and streams."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

import convlstm.layers.custom_forward as custom_forward
import convlstm.layers.validation as validation
from convlstm.cells.base import Cell, CellFactory
from convlstm.cells.original import OriginalHelpers, check_built, refuse_input_size, takes_no_input_size
from convlstm.cells.overrides import all_modules_have_hooks, are_replaced, has_hooks, methods_of
from convlstm.engines import ENGINES
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.hub import Pretrained
from convlstm.layers.frames import expand_flags, pool, resize
from convlstm.layers.norm import NormFactory, norm_factory
from convlstm.layers.options import StackOptions, check_factory, layer_sizes, per_layer
from convlstm.layers.scan import ScanOptions
from convlstm.layers.schedules import LayerRun, Layers, check_memory
from convlstm.layers.state import BothDirections, StackState, initial_states
from convlstm.layers.stream import Step, Stream
from convlstm.validation import check_bool, check_integers, check_positive, check_tensor

Kernel = int | tuple[int, ...]


class Stack(OriginalHelpers, Pretrained):
    """Layers of cells over a sequence; `ConvLSTM` and `ConvGRU` say which cell, and document the options.

    A subclass may override `forward` or `step` and set attributes of any other name than these, before or
    after ``super().__init__()``.

    Attributes:
        input_dim: as the argument; so are num_layers and bias, and batch_first and return_all_layers, which
            may be set later.
        hidden_dim: channels of each layer, a list; kernel_size likewise, tuples with one integer per space
            axis.
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
                "the initial state must come from the cells, for resets and streams too; received a "
                f"{kind.__name__} with an _init_hidden of its own: override init_hidden of its cell"
            )
        cell = kind.default_cell if cell is None else cell
        sizes = layer_sizes(input_dim, hidden_dim, kernel_size, num_layers, cell)
        axes = len(sizes[2][0])
        self._convlstm_options = options = StackOptions(
            *sizes,
            bidirectional=(bidirectional := check_bool(bidirectional, "bidirectional")),
            merge=merge,
            residual=residual,
            normed=norm is not None,
            dropout=dropout,
            target_size=None if target_size is None else check_integers(target_size, axes, "target_size"),
            restore_size=check_bool(restore_size, "restore_size"),
            last_only=check_bool(last_only, "last_only"),
            engine=engine,
            scan=ScanOptions(detach_every, checkpoint, zoneout, save),
        )
        self.input_dim, self.num_layers = options.input_dim, len(options.hidden)
        self.hidden_dim, self.kernel_size = list(options.hidden), list(options.kernels)
        self.batch_first, self.bias = check_bool(batch_first, "batch_first"), check_bool(bias, "bias")
        self.return_all_layers = check_bool(return_all_layers, "return_all_layers")
        factories = [check_factory(make, "cell") for make in per_layer(cell, self.num_layers, "cell")]

        def cells() -> nn.ModuleList:
            sizes = zip(factories, options.inputs, options.hidden, options.kernels, strict=True)
            return nn.ModuleList(make(n, hidden, kernel, bias) for make, n, hidden, kernel in sizes)

        self.cell_list = cells()
        check_memory(self.cell_list, bidirectional, checkpoint)
        if bidirectional:
            self.reverse_cell_list = cells()
        if norm is not None:
            make_norm = check_factory(norm_factory(norm), "norm")
            self.norm_list = nn.ModuleList(make_norm(n) for n in options.outputs)
        if options.residual == "project":
            conv = getattr(nn, f"Conv{axes}d")
            channels = zip(options.inputs, options.outputs, strict=True)
            self.skip_list = nn.ModuleList(conv(n, m, 1, bias=False) for n, m in channels)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments as plain data; without a constructor of its own, lists for tuples."""
        check_built(self, "_convlstm_options")
        known = super().hyperparameters
        known |= {name: value for name, value in self._set_later().items() if name in known}
        if type(self).__init__ is not Stack.__init__:
            return known
        kernels = {"kernel_size": [list(kernel) for kernel in self._convlstm_options.kernels]}
        given = {name: self._convlstm_arguments[name] for name in ("hidden_dim", "target_size")}
        return known | kernels | {name: list(v) for name, v in given.items() if isinstance(v, tuple)}

    def extra_repr(self) -> str:
        """The options that are not as they are by default; what `cell` builds is shown by itself."""
        given = self._convlstm_arguments | self._set_later()
        options = list(inspect.signature(Stack.__init__).parameters.values())
        shown = {o.name: given.get(o.name, o.default) for o in options[4:] if o.name != "cell"}
        defaults = {o.name: o.default for o in options}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if value != defaults[name])

    def _set_later(self) -> dict[str, Any]:
        """The arguments that may differ from those of the constructor, as they are now."""
        names = "batch_first", "return_all_layers"
        return {name: getattr(self, name) for name in names} | {"engine": self._convlstm_options.engine}

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
        layers, batch_first = self._convlstm_layers(), self.batch_first
        options, cells = layers.options, layers.cells
        validation.check_input(self, input_tensor, options, batch_first)
        x = input_tensor if batch_first else input_tensor.transpose(0, 1)
        flags, within = validation.sequence_flags(x, mask, lengths, reset)
        full = tuple(x.shape[3:])
        size = options.target_size or full
        validation.check_sizes(cells, size)
        states, memory = validation.check_states(x, size, hidden_state, cells, options)
        if options.residual:
            validation.check_residual(x, size, cells, options)
        if flags.mask is not None:
            x = torch.where(expand_flags(flags.mask, x), x, 0)
        if options.target_size is not None:
            x = pool(x, size)
        run = LayerRun(layers, x, states, memory, self.training)
        outputs = run.run(x, flags)[-layers.shown :]
        if within is not None:  # the single frame that last_only leaves lies within
            outputs = [torch.where(expand_flags(within, y), y, 0) if y.shape[1] > 1 else y for y in outputs]
        if options.restore_size:
            outputs = [resize(y, full) for y in outputs]
        if not batch_first:
            outputs = [y.transpose(0, 1) for y in outputs]
        after = StackState(run.states, layers.shown, run.memory)
        if torch.compiler.is_compiling():
            return outputs, after
        return outputs, after.made_by(validation.call_kind(x, size, cells))

    def _convlstm_layers(self) -> Layers:
        """The modules and options of a call."""
        options, cells = self._convlstm_options, list(self.cell_list)
        between = options.residual or options.normed or options.bidirectional or options.dropout
        return Layers(
            options,
            cells,
            list(self.reverse_cell_list) if options.bidirectional else None,
            list(self.norm_list) if options.normed else None,
            list(self.skip_list) if options.residual == "project" else None,
            any_layout=not (self.return_all_layers or between),
            shown=len(cells) if self.return_all_layers else 1,
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
        check_tensor(frame, "a frame (B, C, *S)")
        options = self._convlstm_options
        if options.bidirectional:
            raise OptionError(
                "a step reads frames as they come; received a stack with bidirectional=True, which needs the "
                "last frame first: call it with the whole sequence"
            )
        if frame.ndim != 2 + options.axes:
            raise ShapeError(
                f"a frame must be (B, C, *S) with {options.axes} space axes; received shape "
                f"{tuple(frame.shape)}: a step takes no time axis"
            )
        axis = 1 if self.batch_first else 0
        frames = frame.unsqueeze(axis)
        if not are_replaced(self, _FORWARD):
            result: Any = self(frames, state)
        else:
            result = custom_forward.call_with_state(self, frames, state)
        return custom_forward.single_output(self, result, axis, frames.ndim), result[1]

    def _convlstm_step(self) -> tuple[Step, bool]:
        """The step of a stream, and True if a subclass, the instance or a hook changes what a call does.

        Anything else of the name ``step``, such as a counter, is the user's.
        """
        own = are_replaced(self, _STEP) and custom_forward.takes_two(self.step)
        called = has_hooks(self) or all_modules_have_hooks() or type(self).__call__ is not nn.Module.__call__
        step = self.step if own else partial(Stack.step, self)
        return step, own or called or are_replaced(self, _FORWARD)

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
        like, size = next(self.parameters()).new_empty(batch_size), options.target_size or image_size
        directions = [
            [state for _, state in initial_states(list(cells), options.inputs, like, size)]
            for cells in [self.cell_list, *([self.reverse_cell_list] if options.bidirectional else [])]
        ]
        return list(map(BothDirections, *directions)) if options.bidirectional else directions[0]

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
        options = self._convlstm_options
        if options.bidirectional:
            raise OptionError(
                "a stream reads frames as they come; received a stack with bidirectional=True, which needs "
                "the last frame first: build one without"
            )
        custom_forward.check_takes_state(self)
        known = check_integers(size, options.axes, "size")
        validation.check_sizes(list(self.cell_list), options.target_size or known)
        shape = (check_positive(batch_size, "batch_size"), options.inputs[0], *known)
        return Stream(self, self._convlstm_step, self._convlstm_layers, shape)


_FORWARD, _STEP = methods_of(Stack, "forward"), methods_of(Stack, "step")
