"""States of cells and of stacks: initial, for one or both directions, with a spatiotemporal memory."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from convlstm.cells.base import (
    Cell,
    allow_loading,
    check_initial,
    like_frame,
    map_state,
    register_state,
)
from convlstm.errors import OptionError
from convlstm.validation import autocast


class BothDirections(NamedTuple):
    """State of a bidirectional layer: of the forward and of the backward direction."""

    forward: Any
    backward: Any


class MemoryState(NamedTuple):
    """State of a cell with a spatiotemporal memory that runs outside a stack.

    Attributes:
        state: the cell's state.
        memory: the spatiotemporal memory, (B, C, *S), which goes from each step to the next; None for the
            initial one.
    """

    state: Any
    memory: Tensor | None

    @property
    def h(self) -> Tensor:
        """The output, (B, hidden_dim, *S)."""
        return output_of(self.state)


def output_of(state: Any) -> Tensor:
    """A state's output: its field ``h``, or the first tensor of the plain tuple of a foreign cell."""
    h: Tensor = state.h if hasattr(state, "h") else state[0]
    return h


def has_memory(cell: nn.Module) -> bool:
    """True if a cell has a spatiotemporal memory."""
    return isinstance(cell, Cell) and cell.spatiotemporal_memory


def initial_state(cell: nn.Module, frame: Tensor) -> Any:
    """The state before the first frame, also of a module with the original's ``init_hidden``.

    Under autocast it has 32 bits also where frames have 16, as cell states add up many small numbers.
    """
    frame = _widened(frame)
    if isinstance(cell, Cell):
        return check_initial(cell, cell.initial_state(frame))
    foreign: Any = cell
    h_c = foreign.init_hidden(frame.shape[0], tuple(frame.shape[2:]))
    return tuple(like_frame(tensor, frame) for tensor in h_c)


def initial_states(
    cells: Sequence[nn.Module], widths: Sequence[int], x: Tensor, size: Sequence[int]
) -> list[tuple[Tensor, Any]]:
    """Frame of each layer's input (B, C, *S), of arbitrary values, and the layer's initial state.

    Args:
        cells: one per layer.
        widths: channels into each layer.
        x: (B, ...), with the dtype and device of the frames.
        size: of the frames that reach the first layer; outputs have the size of the state.
    """
    layers = []
    for cell, width in zip(cells, widths, strict=True):
        frame = x.new_empty(x.shape[0], width, *size)
        state = initial_state(cell, frame)
        layers.append((frame, state))
        size = output_of(state).shape[2:]
    return layers


def initial_memory(cell: Any, frame: Tensor) -> Tensor:
    """The spatiotemporal memory before the first frame, of a cell that has one."""
    memory: Tensor = cell.initial_memory(_widened(frame))
    return memory


def _widened(frame: Tensor) -> Tensor:
    narrow = frame.is_floating_point() and frame.itemsize < 4 and autocast(frame)
    return frame.float() if narrow else frame


def of_kind(initial: Any, state: Any) -> Any:
    """Convert a list or tuple to the class of state that the cell makes; return anything else unchanged."""
    kind = type(initial)
    if type(state) is kind or not isinstance(state, (tuple, list)) or len(state) != len(initial):
        return state
    return kind(*state) if hasattr(initial, "_fields") else kind(state)


class StackState(list[Any]):
    """The states that a call returns: those the original returns, and with them those of all layers.

    It is the original's list: one state per layer with ``return_all_layers``, else the last layer's alone,
    so that ``states[-1][0]`` is the last h. Passed back as ``hidden_state`` it resumes the whole stack in
    either case, from what the list holds then.

    Args:
        all_layers: one state per layer.
        shown: how many of them, counted from the last, are the list.
        memory: the spatiotemporal memory above the top layer, (B, C, *S), where cells have such a memory.
    """

    def __init__(self, all_layers: Sequence[Any], shown: int, memory: Tensor | None = None) -> None:
        hidden = len(all_layers) - shown
        self._hidden, self.memory = list(all_layers[:hidden]), memory
        self._made_by: tuple[Any, list[Any]] | None = None
        super().__init__(all_layers[hidden:])
        for state in all_layers:
            for half in state if isinstance(state, BothDirections) else (state,):
                allow_loading(type(half))

    @property
    def all_layers(self) -> list[Any]:
        """One state per layer: those that are not shown, and the list."""
        return [*self._hidden, *self]

    def made_by(self, call: Any) -> Self:
        """Note the kind of the call that returns these states, so that the next one need not check them."""
        self._made_by = call, [*self.all_layers, self.memory]
        return self

    def fits(self, call: Any) -> bool:
        """True if a call of this kind has made these states, and none was replaced since."""
        if self._made_by is None:
            return False
        made_by, states = self._made_by
        now = [*self.all_layers, self.memory]
        return made_by == call and len(now) == len(states) and all(map(operator.is_, now, states))

    def detach(self) -> "StackState":
        """The same values, cut from the graph that computed them."""
        return self.map(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> "StackState":
        """With another dtype or on another device, as `torch.nn.Module.to` takes them.

        A dtype is that of floating-point tensors; integers, flags and complex tensors keep theirs.

        Raises:
            OptionError: a dtype that is not floating-point.
        """
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise OptionError(f"states are converted to a floating-point dtype; received {dtype}")

        def convert(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            if layout is not None and tensor.ndim in (4, 5):
                return tensor.to(device, kind, non_blocking, memory_format=layout)
            return tensor.to(device, kind, non_blocking)

        return self.map(convert)

    def map(self, function: Callable[[Tensor], Tensor]) -> "StackState":
        """Apply a function to every tensor."""
        layers = [map_state(function, state) for state in self.all_layers]
        return StackState(layers, len(self), None if self.memory is None else function(self.memory))

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: what the constructor takes."""
        return StackState, (self.all_layers, len(self), self.memory)

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return _pytree.tree_leaves(self)


def _parts(state: StackState) -> list[Any]:
    return [state.all_layers] if state.memory is None else [state.all_layers, state.memory]


# torch.compile and torch.export take containers apart; this is how ours are taken apart and rebuilt.
torch.serialization.add_safe_globals([StackState])
register_state(BothDirections, "convlstm.layers")
register_state(MemoryState, "convlstm.layers")
_pytree.register_pytree_node(
    StackState,
    lambda state: (_parts(state), len(state)),
    lambda parts, shown: StackState((content := list(parts))[0], shown, *content[1:]),
    serialized_type_name="convlstm.layers.StackState",
    flatten_with_keys_fn=lambda state: (
        list(zip(map(_pytree.GetAttrKey, ("all_layers", "memory")), _parts(state), strict=False)),
        len(state),
    ),
)
