"""Recording of states, gates and attention maps inside a model, and of their gradients."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convlstm.cells.base import Cell
from convlstm.cells.recordable import Recordable, Value, attach, detach
from convlstm.errors import OptionError, check_name
from convlstm.plots.eager import uncompiled
from convlstm.plots.pick import Pick, checked_names, ends
from convlstm.validation import check_instance, received


class Tape:
    """Tensors kept by `record`, by layer, value and step: on the CPU and detached.

    Attributes:
        nbytes: bytes kept, with those of the gradients that a backward pass may bring.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._layers: dict[str, _Layer] = {}
        self._seen: set[str] = set()  # names of all values, picked or not

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the recorded modules, in the order of their first call."""
        return tuple(self._layers)

    def values(self, layer: str) -> tuple[str, ...]:
        """Names of the recorded values of a layer: the fields of its state, then what it hands over."""
        return tuple(self._layer(layer).kept)

    def steps(self, layer: str) -> list[int]:
        """Indices of the recorded steps of a layer, counted from the start of the recording."""
        return sorted({step for by_step in self._layer(layer).kept.values() for step in by_step})

    def __getitem__(self, layer_and_value: tuple[str, str]) -> Tensor:
        """A value at all recorded steps, (B, T, C, *S), in the order of the frames in both directions.

        At frames that a mask or lengths leave out the state is the one that was carried through, and NaN
        stands for gates and maps, which no step used.

        Args:
            layer_and_value: names of a layer and of one of its values.

        Raises:
            OptionError: one that was not recorded, or steps of different shapes.
        """
        if not isinstance(layer_and_value, tuple) or len(layer_and_value) != 2:
            raise OptionError(
                "a tape must be read as tape[layer, value]; received "
                f"{received(layer_and_value)}: use the names of tape.layers and tape.values(layer)"
            )
        layer, value = layer_and_value
        kept = self._layer(layer).kept
        if not kept:
            raise OptionError(
                f"a value must be recorded before it is read; received none of {layer!r}, which ran "
                f"{self._layers[layer].seen} steps: pick some of these with steps=, or other values="
            )
        by_step = kept[check_name(value, kept, f"a recorded value of {layer!r}")]
        first = next(iter(by_step.values()))
        shapes = {tuple(tensor.shape) for tensor in by_step.values()}
        if len(shapes) > 1:
            raise OptionError(
                f"all steps of a tape must have one batch and size; received {sorted(shapes)} in {value!r} "
                f"of {layer!r}: record each call of the model by itself"
            )
        absent = torch.full_like(first, _nothing(first))
        return torch.stack([by_step.get(step, absent) for step in self.steps(layer)], dim=1)

    def gradient(self, layer: str, value: str) -> Tensor:
        """The gradient by a value, (B, T, C, *S), of the result that ``backward`` was called on.

        Gradients of several backward passes are added up; they are zero for a step that had no influence.

        Raises:
            OptionError: recorded without gradients, or no backward pass has reached the value.
        """
        values, layers = self[layer, value], self._layers
        gradients = layers[layer].gradients.get(value)
        if not gradients:
            raise OptionError(
                f"a gradient must be recorded before it is read; received none of {value!r} of {layer!r}: "
                "call record with gradients=True, the model outside torch.no_grad, and backward on a result"
            )
        zeros = torch.zeros_like(values[:, 0])
        return torch.stack([gradients.get(step, zeros) for step in self.steps(layer)], dim=1)

    def _layer(self, name: str) -> "_Layer":
        if not self._layers:
            raise OptionError(
                "a tape must hold a call of the model; received one in which no layer was called: call the "
                "model inside the block"
            )
        return self._layers[check_name(name, self._layers, "a recorded layer")]


class _Layer:
    """The recorder of one module.

    `convlstm.layers.scan` calls `begin` before a sequence, and `place` and `keep` around each step; the
    module's forward hook does so for a call from elsewhere.

    Args:
        tape: that it writes to.
        name: of the module.
        module: a cell, or any other whose result is a tensor or a tuple of tensors.
        pick: the options of `record`.
    """

    def __init__(self, tape: Tape, name: str, module: nn.Module, pick: Pick) -> None:
        self.tape, self.name, self.module, self.pick = tape, name, module, pick
        self.parts = {id(part): f"{path}." if path else "" for path, part in module.named_modules()}
        self.first = self.seen = self.ahead = 0
        self.position: tuple[int, Tensor | None] | None = None
        self.handed: dict[str, Value] = {}
        self.copies: list[nn.Module] = []  # made by copy.deepcopy in the block
        self.kept: dict[str, dict[int, Tensor]] = {}
        self.gradients: dict[str, dict[int, Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Layer":
        self.copies += [copied] if (copied := memo.get(id(self.module))) is not None else []
        return self

    def end(self, hook: RemovableHandle) -> None:
        """Remove the hook, and whatever copies of the module, which are not recorded, received of it."""
        hook.remove()
        for module in self.copies:
            module._forward_hooks.pop(hook.id, None)
            module._forward_hooks_always_called.pop(hook.id, None)
            for part in module.modules():
                detach(part, self)
        self.copies.clear()

    def receive(self, module: nn.Module, values: dict[str, Value]) -> None:
        """Values that the module or a part of it hands over during a step."""
        path = self.parts.get(id(module))
        if path is not None:  # not a copy made meanwhile
            self.handed |= {path + name: value for name, value in values.items()}

    def begin(self, frames: int) -> None:
        """Announce a sequence of so many frames."""
        if not _in_backward():
            self.first, self.seen = self.seen, self.seen + frames
            self.ahead = sum(map(self.pick.has_step, range(self.first, self.seen)))

    def place(self, frame: int, present: Tensor | None) -> None:
        """Announce the step of a frame of the sequence, which the samples (B,) have, None for all."""
        self.position = self.first + frame, present

    def keep(self, state: Any) -> None:
        """Keep the state after a step, and the values handed over in it."""
        handed, self.handed = self.handed, {}
        position, self.position = self.position, None
        tensors = _tensors(state)
        if position is None or not tensors or _in_backward():
            return
        step, present = position
        self.tape._layers.setdefault(self.name, self)
        if not self.pick.has_step(step):
            return
        output = tensors.get("h", next(iter(tensors.values())))
        if self.pick.channels is not None:
            self._check_channels(output.shape[1])
        pieces: list[tuple[str, Tensor, Any, Tensor | None]]
        pieces = [(name, tensor, None, None) for name, tensor in tensors.items()]
        for name, value in handed.items():
            tensor, arrange = value if isinstance(value, tuple) else (value, None)
            pieces.append((name, tensor, arrange, present))
        self.tape._seen |= {name for name, *_ in pieces}
        views: list[tuple[str, Tensor, Callable[..., Tensor]]] = [
            (name, tensor, partial(self._view, arrange, present, output.shape))
            for name, tensor, arrange, present in pieces
            if self.pick.values is None or name in self.pick.values
        ]
        self._store(step, views)

    def finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """The forward hook: keep the result of a call that no scan made; forget a call that failed."""
        if module is not self.module:
            return
        if output is None:
            self.position, self.handed = None, {}
        elif self.position is None and not _in_backward():
            self.begin(1)
            self.place(0, None)
            self.keep(output)

    def _check_channels(self, width: int) -> None:
        channels = self.pick.channels or ()
        if (highest := max(ends(channels))) >= width:
            raise OptionError(
                f"channels must be below {width}, the number of those of layer {self.name!r}; received "
                f"{highest}: pick others, or pick layers="
            )

    def _store(self, step: int, views: list[tuple[str, Tensor, Callable[..., Tensor]]]) -> None:
        """Keep views of tensors at a step, unless the limit would be passed."""
        found = [
            (name, tensor, view, view(tensor.detach(), _nothing(tensor))) for name, tensor, view in views
        ]
        gradients, tape = self.pick.gradients, self.tape
        size = sum(kept.nbytes * (2 if gradients and t.requires_grad else 1) for _, t, _, kept in found)
        if tape.nbytes + size * self.ahead > self.pick.limit:
            total = tape.nbytes + size * self.ahead
            raise OptionError(
                f"a recording must fit into limit={self.pick.limit:,} bytes; received at least {total:,}, "
                f"of which a step of {self.name!r} takes {size:,}: pick layers=, steps=, channels= or "
                "values=, or raise limit"
            )
        self.ahead -= 1
        tape.nbytes += size
        for name, tensor, view, kept in found:
            self.kept.setdefault(name, {})[step] = kept.to("cpu", copy=True)
            if gradients and tensor.requires_grad:
                tensor.register_hook(partial(self._add_gradient, name, step, view))  # type: ignore[no-untyped-call]

    def _add_gradient(self, name: str, step: int, view: Callable[..., Tensor], gradient: Tensor) -> None:
        new = view(gradient.detach(), 0).to("cpu", copy=True)
        by_step = self.gradients.setdefault(name, {})
        by_step[step] = by_step[step] + new if step in by_step else new

    def _view(
        self,
        arrange: Callable[[Tensor], Tensor] | None,
        present: Tensor | None,
        output: torch.Size,
        tensor: Tensor,
        absent: float,
    ) -> Tensor:
        """A tensor as it is kept: arranged, of all samples of the batch, of the channels picked."""
        tensor = tensor if arrange is None else arrange(tensor)
        if present is not None and len(tensor) == len(present):
            tensor = torch.where(present.view(-1, *(1,) * (tensor.ndim - 1)), tensor, absent)
        elif present is not None:  # a step of the samples that have the frame alone
            whole = tensor.new_full((len(present), *tensor.shape[1:]), absent)
            tensor = whole.index_copy(0, present.nonzero().squeeze(1), tensor)
        if self.pick.channels is not None and tensor.ndim > 2 and tensor.shape[1] == output[1]:
            tensor = tensor[:, list(self.pick.channels)]
        return tensor


@contextmanager
def record(
    model: nn.Module,
    layers: Collection[str] | None = None,
    steps: Collection[int] | None = None,
    channels: Collection[int] | None = None,
    values: Collection[str] | None = None,
    *,
    gradients: bool = False,
    limit: int = 2**30,
) -> Iterator[Tape]:
    """Record what happens inside the cells of a model, within a ``with`` block.

    Of each cell and step the state is kept, and what it hands over by `Cell.record_values`: gates (i, f, o, g
    of an LSTM; r, z, n of a GRU), attention maps, flows. Cells of every engine run step by step meanwhile,
    and models that `torch.compile` made run without it. Other modules than cells are recorded if ``layers``
    names them. One thread at a time may call the model.

    Args:
        model: a layer, a forecaster, a cell, or any module that contains one.
        layers: names of cells, of modules that contain cells, or of other modules, whose result is kept as
            ``output``; None for all cells.
        steps: indices of the frames to keep, counted from the start of the block; None for all.
        channels: of tensors with as many channels as the layer's output; others are kept whole. None for all.
        values: names such as h, c, f, attention; None for all.
        gradients: True to keep gradients by these values as well, of backward passes in or after the block.
        limit: bytes that are never passed.

    Yields:
        The tape, which outlives the block.

    Raises:
        OptionError: a layer or a value that is not there, a channel beyond the layer's, or a recording that
            would pass the limit.

    Example:
        >>> import torch, convlstm
        >>> layers = convlstm.ConvLSTM(1, 8, 3, 2, batch_first=True)
        >>> with convlstm.record(layers, values=["c", "f"]) as tape:
        ...     outputs, states = layers(torch.rand(1, 5, 1, 16, 16))
        >>> tape.layers, tape["cell_list.1", "f"].shape
        (('cell_list.0', 'cell_list.1'), torch.Size([1, 5, 8, 16, 16]))
    """
    check_instance(model, nn.Module, "model")
    pick, tape = Pick(steps, channels, values, gradients, limit), Tape()
    with ExitStack() as undo:
        undo.enter_context(uncompiled())
        for name, module in _chosen(model, layers).items():
            layer = _Layer(tape, name, module, pick)
            hook = module.register_forward_hook(layer.finish, always_call=True)
            undo.callback(layer.end, hook)
            for part in module.modules():
                if isinstance(part, Recordable) or part is module:
                    attach(part, layer)
                    undo.callback(detach, part, layer)
        yield tape
    if tape.layers and not tape._seen:
        ran = max(layer.seen for layer in tape._layers.values())
        raise OptionError(f"steps must be below {ran}, as many as ran; received {received(steps)}: lower one")
    for value in (pick.values or ()) if tape.layers else ():
        check_name(value, tape._seen, "values")


def _chosen(model: nn.Module, names: Collection[str] | None) -> dict[str, nn.Module]:
    """The modules to record, by name: cells that are no part of a cell, and others that were named."""
    modules = {name.replace("_orig_mod.", ""): module for name, module in model.named_modules()}
    modules = {name.removesuffix("_orig_mod").removesuffix("."): m for name, m in modules.items()}
    cells: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in modules.items():
        if isinstance(module, Cell) and module not in inside:
            cells[name] = module
            inside |= set(module.modules())
    if names is None and not cells:
        raise OptionError(
            f"a model must contain a cell to be recorded; received a {type(model).__name__} without any: "
            "name other modules with layers="
        )
    chosen: dict[str, nn.Module] = {}
    for asked in cells if names is None else checked_names(names, "layers"):
        below = {n: c for n, c in cells.items() if n == asked or not asked or n.startswith(f"{asked}.")}
        others = {n: m for n, m in modules.items() if n == asked and m not in inside}
        if not (below or others):
            raise OptionError(
                f"layers must be among {', '.join(cells)}, what contains them or other modules outside them; "
                f"received {received(asked)}: name one of these"
            )
        chosen |= below or others
    return chosen


def _tensors(state: Any) -> dict[str, Tensor]:
    """Tensors of a module's result by name, with ``memory`` for a spatiotemporal one."""
    if isinstance(state, Tensor):
        return {"output": state}
    if not isinstance(state, tuple):
        return {}
    plain = ("h", "c") if all(isinstance(part, Tensor) for part in state) else ("state", "memory")
    fields = getattr(state, "_fields", plain if len(state) == 2 else tuple(map(str, range(len(state)))))
    named: dict[str, Tensor] = {}
    for name, part in zip(fields, state, strict=True):
        named |= {name: part} if isinstance(part, Tensor) else _tensors(part)
    return named


def _nothing(tensor: Tensor) -> float:
    """NaN, or zero in tensors that have none."""
    return torch.nan if tensor.is_floating_point() or tensor.is_complex() else 0


def _in_backward() -> bool:
    """True while a backward pass runs, which computes steps of checkpointed segments again."""
    return torch._C._current_graph_task_id() != -1
