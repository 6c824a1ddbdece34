"""Layers of cells: depth, both directions, connections between layers, checks before any arithmetic."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, CellFactory, kernel_tuple
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.layers.parts import (
    NormFactory,
    by_frame,
    dropout_over_time,
    norm_factory,
    pool,
    projection,
    resize,
)
from convlstm.layers.scan import Keep, Timeline, scan
from convlstm.layers.state import BothDirections, StackState, check_states
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
    ) -> None:
        super().__init__()
        cell = type(self).default_cell if cell is None else cell
        self.num_layers = _number_of_layers(
            num_layers, hidden_dim=hidden_dim, kernel_size=kernel_size, cell=cell
        )
        self.input_dim = input_dim
        self.hidden_dim: list[int] = _per_layer(hidden_dim, self.num_layers, "hidden_dim")
        self.kernel_size = [kernel_tuple(k) for k in _per_layer(kernel_size, self.num_layers, "kernel_size")]
        if len({len(kernel) for kernel in self.kernel_size}) > 1:
            raise OptionError(
                f"kernel_size must have the same number of axes in all layers; received {kernel_size}"
            )
        self.axes = len(self.kernel_size[0])
        self.batch_first, self.bias, self.return_all_layers = batch_first, bias, return_all_layers
        self.bidirectional = bidirectional
        self.merge = check_name(merge, ("concat", "sum", "mean"), "merge")
        self.residual = "add" if residual is True else residual
        if self.residual:
            check_name(self.residual, ("add", "project", "dense"), "residual")
        self.dropout = _fraction(dropout, "dropout")
        if dropout and self.num_layers == 1:
            raise OptionError(
                f"dropout acts between layers and needs two at least; received {dropout} with one"
            )
        self.target_size = None if target_size is None else tuple(target_size)
        if self.target_size is not None and len(self.target_size) != self.axes:
            raise OptionError(
                f"target_size must have one entry per space axis ({self.axes}); received {target_size}"
            )
        if restore_size and target_size is None:
            raise OptionError(
                "restore_size undoes target_size; received restore_size=True without target_size"
            )
        self.restore_size = restore_size
        self.keep = Keep(
            last_only=last_only,
            detach_every=_count(detach_every, "detach_every"),
            recompute_every=_count(checkpoint, "checkpoint"),
            zoneout=_fraction(zoneout, "zoneout"),
        )
        self._build(_per_layer(cell, self.num_layers, "cell"), norm)

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

        self.cell_list = layers()
        self.reverse_cell_list = layers() if self.bidirectional else None
        self.norm_list = None if norm is None else nn.ModuleList(norm_factory(norm)(n) for n in outputs)
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
            mask: (B, T) bool, always batch first: which frames are there. A missing one, whatever it holds,
                carries the state through; its output is that of the frame before.
            lengths: (B,) integers, how many frames each sequence has; what lies beyond is not read, and the
                outputs there are zero.
            reset: (B, T) bool: which frames begin a new sequence, from the initial state.

        Returns:
            The outputs of each layer (B, T, C_out, *S), time first if the input was (T = 1 with
            ``last_only``), and the states at the end; of the last layer only unless ``return_all_layers``.

        Raises:
            ShapeError: wrong rank, channels or dtype; an empty sequence; a mask, lengths or states that do
                not fit. Raised before any arithmetic.
        """
        x = input_tensor if self.batch_first else input_tensor.transpose(0, 1)
        self._check(input_tensor)
        timeline, within = _timeline(x, mask, lengths, reset)
        states = check_states(x, hidden_state, list(self.cell_list), self.bidirectional)
        if timeline.valid is not None:
            x = torch.where(timeline.valid[(..., *(None,) * (x.ndim - 2))], x, 0)
        size = tuple(x.shape[3:])
        if self.target_size is not None:
            x = pool(x, self.target_size)
        features, ends = [x], []
        for layer in range(self.num_layers):
            x = torch.cat(features, dim=2) if self.residual == "dense" else features[-1]
            x, state = self._layer(layer, x, states[layer], timeline)
            features.append(x)
            ends.append(state)
        outputs = features[1:] if self.return_all_layers else features[-1:]
        if within is not None:
            outputs = [torch.where(within[(..., *(None,) * (x.ndim - 2))], x, 0) for x in outputs]
        if self.restore_size:
            outputs = [resize(x, size) for x in outputs]
        if not self.batch_first:
            outputs = [x.transpose(0, 1) for x in outputs]
        return outputs, StackState(ends, ends if self.return_all_layers else ends[-1:])

    def _layer(self, layer: int, x: Tensor, state: Any, timeline: Timeline) -> tuple[Tensor, Any]:
        """One layer: both directions, merged and normalised, with its connection around them."""
        last = layer + 1 == self.num_layers
        keep = self.keep if last else replace(self.keep, last_only=False)
        if layer and self.dropout and self.training:
            x = dropout_over_time(x, self.dropout)
        if self.reverse_cell_list is None:
            y, end = scan(self.cell_list[layer], x, state, timeline, keep=keep)
        else:
            there, back = (None, None) if state is None else state
            y, there = scan(self.cell_list[layer], x, there, timeline, keep=keep)
            z, back = scan(self.reverse_cell_list[layer], x, back, timeline, reverse=True, keep=keep)
            y = torch.cat([y, z], dim=2) if self.merge == "concat" else y + z
            y, end = (y / 2 if self.merge == "mean" else y), BothDirections(there, back)
        if self.norm_list is not None:
            y = by_frame(self.norm_list[layer], y)
        if self.residual in ("add", "project"):
            x = _last_frame(x, timeline.valid) if keep.last_only else x
            y = y + (x if self.skip_list is None else by_frame(self.skip_list[layer], x))
        return y, end

    def _check(self, x: Tensor) -> None:
        """Raise what is wrong with the input tensor, before any arithmetic."""
        layout = ", ".join(["B, T" if self.batch_first else "T, B", "C", *"DHW"[3 - self.axes :]])
        if x.ndim != 3 + self.axes:
            raise ShapeError(
                f"input_tensor must be ({layout}); received shape {tuple(x.shape)}: "
                + (
                    "add the missing batch or time axis"
                    if x.ndim == 2 + self.axes
                    else "permute it to this order"
                )
            )
        if x.shape[2] != self.input_dim:
            places = [axis for axis, size in enumerate(x.shape) if size == self.input_dim and axis > 2]
            hint = f": channels seem to be on axis {places[0]}, use movedim({places[0]}, 2)" if places else ""
            raise ShapeError(
                f"input_tensor must have input_dim={self.input_dim} channels on axis 2 of ({layout}); "
                f"received shape {tuple(x.shape)}{hint}"
            )
        if 0 in x.shape:
            raise ShapeError(f"input_tensor must hold at least one frame; received shape {tuple(x.shape)}")
        weight = next(self.parameters(), None)
        if weight is not None and (weight.device != x.device or _clash(weight, x)):
            raise ShapeError(
                f"input_tensor must have the layer's dtype and device, {weight.dtype} on {weight.device}; "
                f"received {x.dtype} on {x.device}: use input_tensor.to(...) or layer.to(...)"
            )


def _clash(weight: Tensor, x: Tensor) -> bool:
    """Whether two tensors cannot enter one convolution."""
    return weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type)


def _timeline(
    x: Tensor, mask: Tensor | None, lengths: Tensor | None, reset: Tensor | None
) -> tuple[Timeline, Tensor | None]:
    """What mask, lengths and reset say of the frames of ``x``; and (B, T), which lie within the lengths."""
    shape = tuple(x.shape[:2])
    for name, flags in (("mask", mask), ("reset", reset)):
        if flags is not None and (tuple(flags.shape) != shape or flags.dtype != torch.bool):
            raise ShapeError(
                f"{name} must be bool (B, T) = {shape}, batch first; received {flags.dtype} "
                f"{tuple(flags.shape)}"
            )
    within = None
    if lengths is not None:
        lengths = torch.as_tensor(lengths, device=x.device)
        if tuple(lengths.shape) != shape[:1] or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ShapeError(
                f"lengths must be integers (B,) = ({shape[0]},); received {lengths.dtype} "
                f"{tuple(lengths.shape)}"
            )
        if not torch.compiler.is_compiling() and (lengths.min() < 1 or lengths.max() > shape[1]):
            raise ShapeError(f"lengths must lie between 1 and T = {shape[1]}; received {lengths.tolist()}")
        within = torch.arange(shape[1], device=x.device) < lengths[:, None]
    valid = within if mask is None else mask if within is None else mask & within
    return Timeline(valid, reset), within


def _last_frame(x: Tensor, valid: Tensor | None) -> Tensor:
    """The last valid frame of each sequence (B, T, C, *S), as T = 1."""
    if valid is None:
        return x[:, -1:]
    steps = torch.arange(x.shape[1], device=x.device)
    last = torch.where(valid, steps, 0).amax(dim=1)
    return x[torch.arange(len(x), device=x.device), last].unsqueeze(1)


def _number_of_layers(num_layers: int | None, **values: Any) -> int:
    """The number of layers, given or read off the lists."""
    if num_layers is not None:
        if num_layers < 1:
            raise OptionError(f"num_layers must be at least 1; received {num_layers}")
        return num_layers
    lengths = {name: len(value) for name, value in values.items() if _is_per_layer(value, name)}
    if len(set(lengths.values())) > 1:
        raise OptionError(f"lists must have one entry per layer; received lengths {lengths}")
    return next(iter(lengths.values()), 1)


def _is_per_layer(value: Any, name: str) -> bool:
    """Whether a value holds one entry per layer: a list; or a tuple that is not one layer's kernel."""
    if isinstance(value, tuple) and name == "kernel_size":
        return any(not isinstance(entry, int) for entry in value)
    return isinstance(value, Sequence)


def _per_layer(value: Any, num_layers: int, name: str) -> list[Any]:
    values = list(value) if _is_per_layer(value, name) else [value] * num_layers
    if len(values) != num_layers:
        raise OptionError(f"{name} must hold one entry per layer ({num_layers}); received {value!r}")
    return values


def _fraction(value: float, name: str) -> float:
    if not 0 <= value < 1:
        raise OptionError(f"{name} must be at least 0 and below 1; received {value}")
    return value


def _count(value: int | None, name: str) -> int | None:
    if value is not None and value < 1:
        raise OptionError(f"{name} must be at least 1 step, or None for never; received {value}")
    return value
