"""Checks of a call of a stack, before any arithmetic."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import check_state
from convlstm.cells.conv_cell import ConvCell
from convlstm.errors import ShapeError
from convlstm.layers.options import StackOptions
from convlstm.layers.scan import SequenceFlags
from convlstm.layers.state import (
    BothDirections,
    StackState,
    has_memory,
    initial_memory,
    initial_states,
    output_of,
)
from convlstm.validation import autocast, check_same_kind, check_tensor, received

#: Names of the axes of the input, by whether the batch comes first and by the number of space axes.
_LAYOUTS = {
    (batch_first, axes): ", ".join(["B, T" if batch_first else "T, B", "C", *"DHW"[3 - axes :]])
    for batch_first in (True, False)
    for axes in (1, 2, 3)
}


def check_input(layer: nn.Module, x: Tensor, options: StackOptions, batch_first: bool) -> None:
    """Check the rank, channels, dtype and device of the input of a stack, or raise ShapeError."""
    input_dim, axes = options.input_dim, options.axes
    layout = _LAYOUTS[bool(batch_first), axes]
    check_tensor(x, f"input_tensor ({layout})")
    if x.ndim != 3 + axes:
        raise ShapeError(
            f"input_tensor must be ({layout}); received shape {tuple(x.shape)}: "
            + ("add the missing batch or time axis" if x.ndim == 2 + axes else "permute it to this order")
        )
    if x.shape[2] != input_dim:
        places = [axis for axis, size in enumerate(x.shape) if size == input_dim and axis != 2]
        place = next((axis for axis in (1, x.ndim - 1, *places) if axis in places), None)
        hint = f"channels seem to be on axis {place}, use movedim({place}, 2)"
        if place is None:
            hint = f"build the layer with input_dim={x.shape[2]}, or select the channels"
        raise ShapeError(
            f"input_tensor must have input_dim={input_dim} channels on axis 2 of ({layout}); "
            f"received shape {tuple(x.shape)}: {hint}"
        )
    if 0 in x.shape:
        raise ShapeError(
            f"input_tensor must hold at least one frame; received shape {tuple(x.shape)}: "
            "leave empty batches out"
        )
    check_same_kind(layer, x, "input_tensor")


def check_sizes(cells: Sequence[nn.Module], size: tuple[int, ...]) -> None:
    """Check the size of the frames against each cell, up to the first that may change it.

    Raises:
        ShapeError: pixel peepholes of another size, or a border that cannot be taken from inside the frame.
    """
    for cell in cells:
        if not isinstance(cell, ConvCell) or type(cell).project is not ConvCell.project:
            return
        cell.check_size(size)


def sequence_flags(
    x: Tensor, mask: Tensor | None, lengths: Tensor | None, reset: Tensor | None
) -> tuple[SequenceFlags, Tensor | None]:
    """Flags of the frames of ``x``, checked; and (B, T), which lie within the lengths, None without these."""
    shape = tuple(x.shape[:2])
    for name, flags in (("mask", mask), ("reset", reset)):
        if flags is None:
            continue
        check_tensor(flags, f"{name} (B, T)")
        if tuple(flags.shape) != shape or flags.dtype != torch.bool:
            raise ShapeError(
                f"{name} must be bool (B, T) = {shape}, batch first; received {flags.dtype} "
                f"{tuple(flags.shape)}: .bool() turns numbers into flags, .t() time first into (B, T)"
            )
        if flags.device != x.device:
            raise ShapeError(
                f"{name} must be on the device of the frames, {x.device}; received one on {flags.device}: "
                "move it with to(...)"
            )
    within = None
    if lengths is not None:
        rule, remedy = f"lengths must be integers (B,) = ({shape[0]},); received", "give one per sequence"
        try:
            lengths = torch.as_tensor(lengths, device=x.device)
        except (TypeError, ValueError, RuntimeError):
            raise ShapeError(f"{rule} {received(lengths)}: {remedy}, in a list") from None
        check_tensor(lengths, "lengths (B,)")
        other = lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool
        if other or tuple(lengths.shape) != shape[:1]:
            raise ShapeError(f"{rule} {lengths.dtype} {tuple(lengths.shape)}: {remedy}, each a whole number")
        _check_range(lengths, shape[1])
        within = torch.arange(shape[1], device=x.device) < lengths[:, None]
    if within is None:
        return SequenceFlags(mask, reset), None
    mask = within if mask is None else mask & within
    return SequenceFlags(mask, None if reset is None else reset & within), within


def _check_range(lengths: Tensor, steps: int) -> None:
    """Check that lengths lie between 1 and T: here and now, or in a traced graph whenever it runs.

    Raises:
        ShapeError: they do not. A graph raises a RuntimeError (on CUDA at the next synchronisation).
    """
    if torch.compiler.is_compiling():  # a message with T in it would bind the graph to that number of frames
        inside = ((lengths >= 1) & (lengths <= steps)).all()
        torch._assert_async(inside, "lengths must lie between 1 and T, the number of frames")
    elif not lengths.is_meta and (lengths.min() < 1 or lengths.max() > steps):
        raise ShapeError(
            f"lengths must lie between 1 and T = {steps}; received {lengths.tolist()}: leave "
            "sequences without frames out"
        )


def check_residual(x: Tensor, size: Sequence[int], cells: Sequence[nn.Module], options: StackOptions) -> None:
    """Check that the cells of a stack with connections around its layers keep the size of the frames.

    The arguments are those of `check_states`; another size raises ShapeError.
    """
    if all(isinstance(c, ConvCell) and type(c).initial_state is ConvCell.initial_state for c in cells):
        return
    for layer, (_, initial) in enumerate(initial_states(cells, options.inputs, x, size)):
        found = tuple(output_of(initial).shape[2:])
        if found != tuple(size):
            raise ShapeError(
                "residual joins each layer's input and output, which must have one size; received "
                f"{tuple(size)} in and {found} out of layer {layer}: leave residual out"
            )


class _Memory(NamedTuple):
    memory: Tensor


def check_states(
    x: Tensor, size: Sequence[int], given: Any, cells: Sequence[nn.Module], options: StackOptions
) -> tuple[list[Any], Tensor | None]:
    """One state per layer (None for the initial one) and the spatiotemporal memory, checked.

    Of the states of a deeper stack, those in the list are taken if it has one entry per layer.

    Args:
        x: (B, ...), with the dtype and device of the frames.
        size: of the frames that reach the first layer.
        given: what the caller passed.
        cells: one per layer.
        options: of the stack.

    Raises:
        ShapeError: no list of states; another stack's, batch's or size's states, or another dtype or device.
    """
    if given is None:
        return [None] * len(cells), None
    if isinstance(given, StackState) and given.fits(call_kind(x, size, cells)):
        return given.all_layers, given.memory
    initial = initial_states(cells, options.inputs, x, size)
    _check_is_list(given, initial[0][1])
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
    with_memory = [layer for layer, cell in enumerate(cells) if has_memory(cell)]
    if memory is not None and with_memory:
        lowest = with_memory[0]
        expected = _Memory(initial_memory(cells[lowest], initial[lowest][0]))
        check_state((memory,), expected, "the spatiotemporal memory")
    checked = [
        None
        if state is None
        else _layer_state(state, initial[layer][1], f"the state of layer {layer}", options.bidirectional)
        for layer, state in enumerate(states)
    ]
    return checked, memory


def call_kind(x: Tensor, size: Sequence[int], cells: Sequence[nn.Module]) -> Any:
    """All that the states of a call depend on, with arguments as for `check_states`; compared by ``==``."""
    return x.shape[0], tuple(size), x.dtype, x.device, autocast(x), list(cells)


def _layer_state(state: Any, initial: Any, what: str, bidirectional: bool) -> Any:
    """The state of a layer, of one direction or a pair, checked against the initial one of a direction."""
    is_pair = isinstance(state, (tuple, list)) and len(state) == 2
    if not is_pair if bidirectional else isinstance(state, BothDirections):
        raise ShapeError(
            f"{what} must be {'a pair, forward and backward' if bidirectional else 'of one direction'}; "
            f"received a {type(state).__name__}: pass what a layer of this kind returned"
        )
    if bidirectional:
        return BothDirections(*(check_state(direction, initial, what) for direction in state))
    return check_state(state, initial, what)


def _check_is_list(given: Any, initial: Any) -> None:
    """Check that ``hidden_state`` has one state per layer, each like ``initial``, and is not one of them."""
    if not isinstance(given, Iterable):
        raise ShapeError(
            f"hidden_state must be a list with one state per layer; received {received(given)}: None begins "
            "anew"
        )
    one = isinstance(given, Tensor)
    if one or (isinstance(given, (tuple, list)) and any(isinstance(part, Tensor) for part in given)):
        fields = getattr(initial, "_fields", ("h", "c"))
        state = f"({', '.join(fields)}{',' * (len(fields) == 1)})"
        what = "a tensor" if one else f"a {type(given).__name__} with tensors in it"
        raise ShapeError(
            f"hidden_state must be a list with one state per layer; received {what}: for one layer pass "
            f"[{state}]"
        )
