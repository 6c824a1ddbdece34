"""A stack applied to one frame at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from convlstm.cells.base import like_frame
from convlstm.engines import Call, GraphedFunction, Stepper, has_hooks, supported
from convlstm.engines.recurrences import recurrence_of
from convlstm.errors import ShapeError
from convlstm.layers.schedules import Layers
from convlstm.layers.state import StackState, initial_states, of_kind
from convlstm.layers.validation import check_input, check_states
from convlstm.validation import autocast, check_tensor

#: `Stack.step`: a frame (B, C, *S) and the state before it; the output (B, C_out, *S) and the state after it.
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Stream:
    """A stack that is given one frame at a time; `Stack.stream` makes it.

    It gives the numbers of the stack on the whole sequence, without gradients; in training mode dropout is
    drawn anew for each frame. Each frame is a `Stack.step`, or the same step in preallocated buffers
    (`Stepper`) where cells and options have a fast engine and neither a subclass, a hook nor the instance
    changes the call. Buffers are made at the first frame, and again when weights, buffers, the rules of
    cells, dtype, autocast or modes have changed (changes through ``.data`` go unnoticed). On CUDA a graph is
    replayed from the next frame on.

    Args:
        stack: the module whose weights and modes are watched.
        step: returns the step through all layers, and True while a subclass, a hook or the instance changes
            what a call does.
        layers: returns the layers as they are at the moment.
        shape: of the frames, (B, C, *S).
    """

    def __init__(
        self,
        stack: nn.Module,
        step: Callable[[], tuple[Step, bool]],
        layers: Callable[[], Layers],
        shape: tuple[int, ...],
    ) -> None:
        self.shape = shape
        self._stack, self._step, self._layers = stack, step, layers
        self._stepper: Stepper | None = None
        self._graph: GraphedFunction | None = None
        self._made_for: Any = None
        self._storages: list[Any] = []  # of weights: no others get an address that is in use
        self._state: Any = None  # the stepper itself while its buffers hold the state

    def __call__(self, frame: Tensor) -> Tensor:
        """The last layer's output (B, hidden_dim, *S) at the next frame (B, input_dim, *S).

        The next call may overwrite it: clone what is to be kept.

        Raises:
            ShapeError: a frame of another shape than `Stack.stream` was told, or of another dtype or device
                than the stack.
            OptionError: an engine named that cannot run the call.
        """
        check_tensor(frame, "a frame (B, C, *S)")
        if tuple(frame.shape) != self.shape:
            raise ShapeError(
                f"a frame must be (B, C, *S) = {self.shape}, as agreed with stream(); received "
                f"{tuple(frame.shape)}: for another batch or size make another stream"
            )
        with torch.no_grad():
            step, customised = self._step()
            conditions = self._conditions(frame, customised)
            changed = conditions != self._made_for
            if changed:
                self._prepare(frame, customised)
                self._made_for = conditions
            if self._stepper is None:
                # A copy: a state may keep the frame, and the caller write the next one into the same memory.
                output, self._state = step(frame.clone(), self._state)
                return output
            if self._state is not self._stepper:
                self._stepper.load(_filled(self._layers(), frame, self._state))
                self._state = self._stepper
            if changed or not frame.is_cuda:
                return self._stepper(frame)
            self._graph = self._graph or GraphedFunction(self._stepper, [frame], warm=True)
            replayed: Tensor = self._graph.replay([frame])
            return replayed

    @property
    def state(self) -> Any:
        """The states of all layers in tensors of their own, as `Stack.step` returns them; None at the start.

        Assign the states that a stream or the stack returned, or None for the initial ones, to continue from
        there.
        """
        if isinstance(self._state, Stepper):
            return StackState(self._state.states, self._layers().shown)
        return tree_map_only(Tensor, torch.clone, self._state)

    @state.setter
    def state(self, states: Any) -> None:
        if states is None or self._step()[1]:  # such a call may have states of any kind
            self._state = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), states)
            return
        layers = self._layers()
        size = layers.options.target_size or self.shape[2:]
        frame = next(self._stack.parameters(), torch.empty(())).new_empty(self.shape)
        checked, memory = check_states(frame, size, states, layers.cells, layers.options)
        with torch.no_grad():
            filled = _filled(layers, frame, StackState(checked, layers.shown))
            self._state = StackState(filled, layers.shown, memory).map(torch.clone)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickle: without buffers, which the next frame makes anew."""
        return self.__dict__ | {
            "_stepper": None,
            "_graph": None,
            "_made_for": None,
            "_storages": [],
            "_state": self.state,
        }

    def _conditions(self, frame: Tensor, customised: bool) -> Any:
        """All that buffers depend on, compared from frame to frame."""
        stack, layers, kind = self._stack, self._layers(), frame.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        modes = stack.training, layers.options.engine, torch.is_inference_mode_enabled()
        own = [*map(vars, stack.modules())]
        tensors = [
            t for a in own for t in (*a["_parameters"].values(), *a["_buffers"].values()) if t is not None
        ]
        versions = [0 if t.is_inference() else t._version for t in tensors]
        rules = [_rule(cell) for cell in layers.cells]
        addresses = [t.data_ptr() for t in tensors]
        return frame.dtype, frame.device, mixed, modes, versions, addresses, rules, customised

    def _prepare(self, frame: Tensor, customised: bool) -> None:
        """Choose how the frames that follow are run, and make buffers for them."""
        layers, state = self._layers(), self.state
        check_input(self._stack, frame.unsqueeze(1), layers.options, batch_first=True)
        if not autocast(frame):
            state = tree_map_only(Tensor, partial(like_frame, frame=frame), state)
        self._state, self._stepper, self._graph = state, None, None
        tensors = *self._stack.parameters(), *self._stack.buffers()
        self._storages = [tensor.untyped_storage() for tensor in tensors]
        engines = {"reference"} if customised else _engines(layers, frame, self._stack.training)
        if "reference" not in engines:
            filled = _filled(layers, frame, state)
            self._state = self._stepper = Stepper(list(layers.cells), frame, filled, "compiled" in engines)


def _engines(layers: Layers, frame: Tensor, training: bool) -> set[str]:
    """Engines of the layers; the reference where each frame is a call of the stack."""
    options = layers.options
    between = options.residual or options.normed or (training and options.dropout)
    if between or options.target_size or options.scan.zoneout:
        return {"reference"}
    return {
        supported(options.engine, Call(cell, x.unsqueeze(1), state))
        for cell, (x, state) in zip(layers.cells, _initial(layers, frame), strict=True)
    }


def _rule(cell: nn.Module) -> Any:
    """The rule of a cell, whatever its weights, to compare from frame to frame."""
    found = recurrence_of(cell)
    if found is None or has_hooks(cell):
        return type(cell)
    return found, found.activations(cell), found.not_supported_reasons(cell)


def _initial(layers: Layers, frame: Tensor) -> list[tuple[Tensor, Any]]:
    """A frame of the input and the initial state of each layer."""
    options = layers.options
    return initial_states(layers.cells, options.inputs, frame, options.target_size or frame.shape[2:])


def _filled(layers: Layers, frame: Tensor, states: StackState | None) -> list[Any]:
    """One state per layer, the initial one in place of None."""
    initial = [state for _, state in _initial(layers, frame)]
    given = [None] * len(initial) if states is None else states.all_layers
    return [i if s is None else of_kind(i, s) for i, s in zip(initial, given, strict=True)]
