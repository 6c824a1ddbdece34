"""The states of a stack: what the original returns, complete."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from convlstm.cells.base import map_state
from convlstm.cells.parts import ConvCell
from convlstm.errors import ShapeError


class BothDirections(NamedTuple):
    """State of a bidirectional layer: that of the forward half and that of the backward half."""

    forward: Any
    backward: Any


class StackState(list[Any]):
    """The states that a call returns: those the original returns, and with them those of all layers.

    It is the original's list: one state per layer with ``return_all_layers``, else the last layer's alone,
    so that ``states[-1][0]`` is the last h. Passed back as ``hidden_state`` it resumes the whole stack in
    either case.

    Args:
        all_layers: one state per layer.
        shown: how many of them, counted from the last, are the list.
        memory: what climbed out of the top layer, (B, C, *S), where cells have such a memory.
    """

    def __init__(self, all_layers: Sequence[Any], shown: int, memory: Tensor | None = None) -> None:
        self.all_layers = list(all_layers)
        self.memory = memory
        super().__init__(self.all_layers[len(self.all_layers) - shown :])

    def detach(self) -> "StackState":
        """The same values, cut from the graph that computed them."""
        return self.map(Tensor.detach)

    def map(self, function: Callable[[Tensor], Tensor]) -> "StackState":
        """Apply a function to every tensor."""
        layers = [_map_layer(function, state) for state in self.all_layers]
        return StackState(layers, len(self), None if self.memory is None else function(self.memory))


def _map_layer(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    if isinstance(state, BothDirections):
        return BothDirections(*(map_state(function, half) for half in state))
    return map_state(function, state)


# torch.compile and torch.export take containers apart; this is how one of ours is taken apart and rebuilt.
_pytree.register_pytree_node(
    StackState,
    lambda state: ([state.all_layers, state.memory], len(state)),
    lambda parts, shown: StackState((content := list(parts))[0], shown, content[1]),
    serialized_type_name="convlstm.layers.StackState",
)


def check_states(
    x: Tensor,
    size: tuple[int, ...],
    given: Sequence[Any] | None,
    cells: Sequence[nn.Module],
    bidirectional: bool,
) -> list[Any]:
    """One state per layer (None for the initial one), checked against the input and the cells.

    Args:
        x: (B, T, C, *S).
        size: of the frames that reach the first layer.
        given: what the caller passed.
        cells: one per layer.
        bidirectional: whether a layer's state is a pair.

    Raises:
        ShapeError: another stack's, batch's or size's states, or another dtype or device.
    """
    if given is None:
        return [None] * len(cells)
    states = given.all_layers if isinstance(given, StackState) else list(given)
    if len(states) != len(cells):
        raise ShapeError(
            f"hidden_state must hold one state per layer ({len(cells)}); received {len(states)}: pass the "
            "list that the call returned, which resumes the whole stack"
        )
    for layer, (state, cell) in enumerate(zip(states, cells, strict=True)):
        if state is None:
            continue
        if bidirectional and (not isinstance(state, tuple | list) or len(state) != 2):
            raise ShapeError(f"the state of bidirectional layer {layer} must be a pair, forward and backward")
        for half in state if bidirectional else (state,):
            for tensor in half:
                _check_tensor(tensor, x, size, cell, layer)
    return states


def _check_tensor(tensor: Tensor, x: Tensor, size: tuple[int, ...], cell: nn.Module, layer: int) -> None:
    hidden = getattr(cell, "hidden_dim", tensor.shape[1])
    expected = (x.shape[0], hidden, *size)
    if tensor.ndim != len(expected) or tuple(tensor.shape[:2]) != expected[:2]:
        raise ShapeError(
            f"the state of layer {layer} must be (B, hidden_dim, *S) = {expected}; received "
            f"{tuple(tensor.shape)}: it belongs to another batch or stack"
        )
    if isinstance(cell, ConvCell) and tuple(tensor.shape) != expected:
        raise ShapeError(
            f"the state of layer {layer} must have the size of the frames, {expected[2:]}; received "
            f"{tuple(tensor.shape[2:])}: start from None when the size changes"
        )
    same = tensor.dtype == x.dtype or torch.is_autocast_enabled(x.device.type)
    if not same or tensor.device != x.device:
        raise ShapeError(
            f"the state of layer {layer} must have the input's dtype and device, {x.dtype} on {x.device}; "
            f"received {tensor.dtype} on {tensor.device}: use state.map(lambda t: t.to(...))"
        )
