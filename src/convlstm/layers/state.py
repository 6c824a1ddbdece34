"""The states of a stack: what the original returns, complete."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from convlstm.cells.base import allow_loading, check_state, map_state, register_state
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.scan import initial_state, output_of
from convlstm.layers.validation import check_is_list


class BothDirections(NamedTuple):
    """State of a bidirectional layer: that of the forward half and that of the backward half."""

    forward: Any
    backward: Any


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
        super().__init__(all_layers[hidden:])
        for state in all_layers:
            for half in state if isinstance(state, BothDirections) else (state,):
                allow_loading(type(half))

    @property
    def all_layers(self) -> list[Any]:
        """One state per layer: those that are not shown, and the list."""
        return [*self._hidden, *self]

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
        layers = [_map_layer(function, state) for state in self.all_layers]
        return StackState(layers, len(self), None if self.memory is None else function(self.memory))

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: what the constructor takes."""
        return StackState, (self.all_layers, len(self), self.memory)

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        found: list[Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found


def _map_layer(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    if state is None:  # put there for the initial one
        return None
    if isinstance(state, BothDirections):
        return BothDirections(*(map_state(function, half) for half in state))
    return map_state(function, state)


def _parts(state: StackState) -> list[Any]:
    return [state.all_layers] if state.memory is None else [state.all_layers, state.memory]


# torch.compile and torch.export take containers apart; this is how ours are taken apart and rebuilt.
torch.serialization.add_safe_globals([StackState])
register_state(BothDirections, "convlstm.layers")
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


def check_states(
    x: Tensor,
    size: tuple[int, ...],
    given: Sequence[Any] | None,
    cells: Sequence[nn.Module],
    widths: Sequence[int],
    bidirectional: bool,
) -> tuple[list[Any], Tensor | None]:
    """One state per layer (None for the initial one) and the spatiotemporal memory, checked.

    Of the states of a deeper stack, those in the list are taken if it has one entry per layer.

    Args:
        x: (B, T, C, *S).
        size: of the frames that reach the first layer.
        given: what the caller passed.
        cells: one per layer.
        widths: channels into each layer.
        bidirectional: whether a layer's state is a pair.

    Raises:
        ShapeError: another stack's, batch's or size's states, or another dtype or device.
    """
    if given is None:
        return [None] * len(cells), None
    check_is_list(given, x, cells[0], widths[0], size)
    states, memory = list(given), None
    if isinstance(given, StackState):
        memory = given.memory
        if len(given.all_layers) == len(cells) or len(given) != len(cells):
            states = given.all_layers
    if len(states) != len(cells):
        raise ShapeError(
            f"hidden_state must hold one state per layer ({len(cells)}); received {len(states)}: pass the "
            "list that the call returned, which resumes the whole stack"
        )
    for layer, (state, cell, width) in enumerate(zip(states, cells, widths, strict=True)):
        initial = initial_state(cell, x.new_empty(x.shape[0], width, *size))
        size = tuple(output_of(initial).shape[2:])
        if state is None:
            continue
        what = f"the state of layer {layer}"
        if bidirectional != isinstance(state, BothDirections) and not (
            bidirectional and isinstance(state, tuple | list) and len(state) == 2
        ):
            raise ShapeError(
                f"{what} must be {'a pair, forward and backward' if bidirectional else 'of one direction'}; "
                f"received a {type(state).__name__}: pass what a layer of this kind returned"
            )
        for half in state if bidirectional else (state,):
            check_state(half, initial, what)
    return states, memory
