"""What is checked before a stack is built, and before it does any arithmetic."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from convlstm.cells.base import check_positive, check_same_kind, check_tensor, is_count
from convlstm.cells.conv_cell import ConvCell
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.layers.scan import SequenceFlags, initial_state, output_of

#: More would fill the memory before the first layer is built.
_MOST_LAYERS = 10_000


def check_input(layer: nn.Module, x: Tensor, input_dim: int, axes: int, batch_first: bool) -> None:
    """Check the rank, channels, dtype and device of a layer's input.

    Raises:
        ShapeError: what is wrong, before any arithmetic.
    """
    layout = ", ".join(["B, T" if batch_first else "T, B", "C", *"DHW"[3 - axes :]])
    check_tensor(x, f"input_tensor ({layout})")
    if x.ndim != 3 + axes:
        raise ShapeError(
            f"input_tensor must be ({layout}); received shape {tuple(x.shape)}: "
            + ("add the missing batch or time axis" if x.ndim == 2 + axes else "permute it to this order")
        )
    if x.shape[2] != input_dim:
        places = [axis for axis, size in enumerate(x.shape) if size == input_dim and axis != 2]
        place = next((axis for axis in (1, x.ndim - 1, *places) if axis in places), None)
        hint = "" if place is None else f": channels seem to be on axis {place}, use movedim({place}, 2)"
        raise ShapeError(
            f"input_tensor must have input_dim={input_dim} channels on axis 2 of ({layout}); "
            f"received shape {tuple(x.shape)}{hint}"
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


def timeline_of(
    x: Tensor, mask: Tensor | None, lengths: Tensor | None, reset: Tensor | None
) -> tuple[SequenceFlags, Tensor | None]:
    """What mask, lengths and reset say of the frames of ``x``; and (B, T), which lie within the lengths."""
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
    within = None
    if lengths is not None:
        lengths = torch.as_tensor(lengths, device=x.device)
        check_tensor(lengths, "lengths (B,)")
        if tuple(lengths.shape) != shape[:1] or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ShapeError(
                f"lengths must be integers (B,) = ({shape[0]},); received {lengths.dtype} "
                f"{tuple(lengths.shape)}"
            )
        _check_range(lengths, shape[1])
        within = torch.arange(shape[1], device=x.device) < lengths[:, None]
    valid = within if mask is None else mask if within is None else mask & within
    starts = reset if reset is None or within is None else reset & within
    return SequenceFlags(valid, starts), within


def _check_range(lengths: Tensor, steps: int) -> None:
    """Check that lengths lie between 1 and T: here and now, or in a traced graph whenever it runs.

    Raises:
        ShapeError: they do not. A graph raises a RuntimeError (on CUDA at the next synchronisation).
    """
    if torch.compiler.is_compiling():  # a message with T in it would bind the graph to that number of frames
        inside = ((lengths >= 1) & (lengths <= steps)).all()
        torch._assert_async(inside, "lengths must lie between 1 and T, the number of frames")
    elif not lengths.is_meta and (lengths.min() < 1 or lengths.max() > steps):
        raise ShapeError(f"lengths must lie between 1 and T = {steps}; received {lengths.tolist()}")


def check_is_list(given: Any, x: Tensor, cell: nn.Module, width: int, size: Sequence[int]) -> None:
    """Check that ``hidden_state`` has one state per layer and is not one state's tensors.

    Args:
        given: what the caller passed.
        x: (B, T, C, *S).
        cell: of the first layer.
        width: channels into it.
        size: of the frames that reach it.

    Raises:
        ShapeError: a tensor, or tensors where states should be.
    """
    if not isinstance(given, Iterable):
        raise ShapeError(
            f"hidden_state must be a list with one state per layer; received {given!r}: None begins anew"
        )
    one = isinstance(given, Tensor)
    if one or (isinstance(given, tuple | list) and any(isinstance(part, Tensor) for part in given)):
        fields = getattr(initial_state(cell, x.new_empty(x.shape[0], width, *size)), "_fields", ("h", "c"))
        state = f"({', '.join(fields)}{',' * (len(fields) == 1)})"
        what = "a tensor" if one else f"a {type(given).__name__} with tensors in it"
        raise ShapeError(
            f"hidden_state must be a list with one state per layer; received {what}: for one layer pass "
            f"[{state}]"
        )


def check_residual(x: Tensor, size: Sequence[int], cells: Sequence[nn.Module], widths: Sequence[int]) -> None:
    """Check that the cells of a stack with connections around its layers keep the frames' size.

    Args:
        x: (B, T, C, *S).
        size: of the frames that reach the first layer.
        cells: one per layer.
        widths: channels into each layer.

    Raises:
        ShapeError: a cell whose state has another size than its input.
    """
    for layer, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        if isinstance(cell, ConvCell) and type(cell).initial_state is ConvCell.initial_state:
            continue
        found = output_of(initial_state(cell, x.new_empty(x.shape[0], width, *size))).shape[2:]
        if tuple(found) != tuple(size):
            raise ShapeError(
                "residual joins each layer's input and output, which must have one size; received "
                f"{tuple(size)} in and {tuple(found)} out of layer {layer}: leave residual out"
            )


def number_of_layers(num_layers: int | None, **values: Any) -> int:
    """The number of layers, given or read off the lists."""
    if num_layers is not None:
        if check_positive(num_layers, "num_layers") > _MOST_LAYERS:
            raise OptionError(f"num_layers must be at most {_MOST_LAYERS}; received {num_layers}")
        return int(num_layers)
    lengths = {name: len(value) for name, value in values.items() if _is_per_layer(value, name)}
    for name, length in lengths.items():
        if not length:
            raise OptionError(f"{name} must hold one entry per layer; received {values[name]!r}")
    if len(set(lengths.values())) > 1:
        raise OptionError(f"lists must have one entry per layer; received lengths {lengths}")
    return next(iter(lengths.values()), 1)


def _is_per_layer(value: Any, name: str) -> bool:
    """Whether a value holds one entry per layer: a list; or a tuple that is not one layer's kernel."""
    if isinstance(value, tuple) and name == "kernel_size":
        return any(not isinstance(entry, Integral) for entry in value)
    return isinstance(value, Sequence) and not isinstance(value, str)


def per_layer(value: Any, num_layers: int, name: str) -> list[Any]:
    """One value per layer, whether one was given for all or a list."""
    values = list(value) if _is_per_layer(value, name) else [value] * num_layers
    if len(values) != num_layers:
        raise OptionError(f"{name} must hold one entry per layer ({num_layers}); received {value!r}")
    return values


def fraction(value: float, name: str) -> float:
    """Return a probability that leaves something over."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise OptionError(f"{name} must be at least 0 and below 1; received {value!r}")
    return float(value)


def count(value: int | None, name: str) -> int | None:
    """Return a number of steps, or None."""
    if value is not None and not is_count(value):
        raise OptionError(f"{name} must be at least 1 step, or None for never; received {value}")
    return value


def space(value: Any, axes: int, name: str) -> tuple[int, ...] | None:
    """Return a size, one integer per space axis, or None."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != axes:
        raise OptionError(f"{name} must have one entry per space axis ({axes}); received {value!r}")
    if not all(map(is_count, value)):
        raise OptionError(f"{name} must hold integers of at least 1; received {value!r}")
    return tuple(map(int, value))


def factory(value: Any, name: str) -> Any:
    """Return what builds modules: something that can be called."""
    kind = type(value).__name__
    if isinstance(value, nn.Module):
        raise OptionError(
            f"{name} must be what builds a module for each layer; received a {kind} that is built: pass the "
            f"class {kind}, or a functools.partial of it"
        )
    if isinstance(value, dict) and "class" in value:
        raise OptionError(
            f"{name} must be a class or a factory; received {value!r}, as hyperparameters describe one: pass "
            "the hyperparameters to rebuild, as in ConvLSTM.rebuild(layer.hyperparameters)"
        )
    if not callable(value):
        raise OptionError(f"{name} must be a class or a factory; received {value!r}")
    return value


def connection_of(residual: bool | str) -> str:
    """Return the connection around layers by name, or empty text for none."""
    if not residual:
        return ""
    return check_name("add" if residual is True else residual, ("add", "project", "dense"), "residual")


def check_merge(merge: str, bidirectional: bool) -> str:
    """Return the way in which two directions are merged."""
    check_name(merge, ("concat", "sum", "mean"), "merge")
    if merge != "concat" and not bidirectional:
        raise OptionError(
            f"merge joins both directions; received '{merge}' without bidirectional=True: pass it, or "
            "leave merge out"
        )
    return merge


def check_dropout(dropout: float, layers: int) -> float:
    """Return the probability of dropping a channel between layers."""
    probability = fraction(dropout, "dropout")
    if probability and layers == 1:
        raise OptionError(f"dropout acts between layers and needs two at least; received {dropout} with one")
    return probability


def check_target(target: Any, axes: int, restore: bool) -> tuple[int, ...] | None:
    """Return the size to which frames are averaged, or None."""
    if restore and target is None:
        raise OptionError("restore_size undoes target_size; received restore_size=True without target_size")
    return space(target, axes, "target_size")


def channels_of_layers(
    input_dim: int, hidden_dim: Sequence[int], doubled: bool, residual: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels into and out of each layer.

    Args:
        input_dim: channels of the frames.
        hidden_dim: channels of each layer's cells.
        doubled: whether a layer's output is both directions side by side.
        residual: connection around each layer, as `connection_of` returns it.

    Raises:
        OptionError: a connection that adds unequal numbers of channels.
    """
    outputs = tuple((2 if doubled else 1) * hidden for hidden in hidden_dim)
    inputs = (input_dim, *outputs[:-1])
    if residual == "dense":
        inputs = tuple(input_dim + sum(outputs[:layer]) for layer in range(len(outputs)))
    if residual == "add" and inputs != outputs:
        raise OptionError(
            f"residual=True needs as many channels out of each layer as into it; received {list(inputs)} in "
            f"and {list(outputs)} out: use residual='project'"
        )
    return inputs, outputs
