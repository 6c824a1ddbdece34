"""One frame in, one frame out: a stack on a sequence that is still going on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convlstm.cells.base import Cell, autocast, check_positive
from convlstm.engines import Recording, Steppers, select
from convlstm.engines.fused import has_hooks
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.checks import check_input, check_sizes, space
from convlstm.layers.scan import initial_state, of_kind
from convlstm.layers.state import StackState, check_states

if TYPE_CHECKING:
    from convlstm.layers.stack import Stack


class Stream:
    """A stack that is given one frame at a time; `Stack.stream` makes it.

    It gives the numbers of the stack on the whole sequence, without gradients; in training mode dropout is
    drawn anew for each frame. Buffers are made at the first frame, and again when weights, buffers, dtype,
    autocast or modes have changed (changes through ``.data`` go unnoticed). On CUDA the second frame is
    recorded as a graph, which later ones replay. With cells and options that the fast engines do not know,
    each frame is an ordinary call of the stack.
    """

    def __init__(self, stack: "Stack", batch_size: int, size: Sequence[int]) -> None:
        if stack.bidirectional:
            raise OptionError(
                "a stream reads frames as they come; received a stack with bidirectional=True, which needs "
                "the last frame first: build one without"
            )
        known = space(size, stack.axes, "size")
        if known is None:
            raise OptionError(f"size must have one entry per space axis ({stack.axes}); received None")
        check_sizes(list(stack.cell_list), stack.target_size or known)
        self._stack = stack
        self.shape = (check_positive(batch_size, "batch_size"), stack.input_dim, *known)
        self._steppers: Steppers | None = None
        self._recording: Recording | None = None
        self._made_for: Any = None
        # The states where no steppers hold them, or those that these are to load at the next frame.
        self._states: StackState | None = None
        self._held_here = True

    def __call__(self, frame: Tensor) -> Tensor:
        """The last layer's output (B, hidden_dim, *S) at the next frame (B, input_dim, *S).

        The next call may overwrite it: clone what is to be kept.

        Raises:
            ShapeError: a frame of another shape than `Stack.stream` was told, or of another dtype or device
                than the stack.
            OptionError: an engine named that cannot serve the call.
        """
        if tuple(frame.shape) != self.shape:
            raise ShapeError(
                f"a frame must be (B, C, *S) = {self.shape}, as agreed with stream(); received "
                f"{tuple(frame.shape)}: for another batch or size make another stream"
            )
        with torch.no_grad():
            situation = self._situation(frame)
            if situation != self._made_for:
                self._make(frame)
                self._made_for = situation
                return self._by_stack(frame) if self._steppers is None else self._steppers(frame)
            if self._steppers is None:
                return self._by_stack(frame)
            if self._held_here:
                self._steppers.load(self._filled(frame, self._states))
                self._states, self._held_here = None, False
            if not frame.is_cuda:
                return self._steppers(frame)
            if self._recording is None:
                self._recording = Recording(self._steppers, [frame], ready=True)
            output: Tensor = self._recording.replay([frame])
            return output

    @property
    def state(self) -> StackState | None:
        """The states of all layers in tensors of their own, as the stack returns them; None at the start.

        Set, it is where the next frame goes on from: the states that a stream or the stack returned, or None
        for the initial ones.
        """
        if self._steppers is None or self._held_here:
            return None if self._states is None else self._states.map(torch.clone)
        return StackState(self._steppers.states, self._shown)

    @state.setter
    def state(self, states: Sequence[Any] | None) -> None:
        given = None
        if states is not None:
            stack, cells = self._stack, list(self._stack.cell_list)
            size = stack.target_size or self.shape[2:]
            weight = next(stack.parameters(), torch.empty(()))
            like = weight.new_empty(self.shape)
            sized = weight.new_empty(self.shape[0], 1, self.shape[1], *size)
            checked = check_states(sized, size, states, cells, stack.inputs, bidirectional=False)
            memory = states.memory if isinstance(states, StackState) else None
            with torch.no_grad():
                filled = self._filled(like, StackState(checked, self._shown))
                given = StackState(filled, self._shown, memory).map(torch.clone)
        self._states, self._held_here = given, True

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickle, in which the next frame makes anew what holds addresses."""
        fresh = {"_steppers": None, "_recording": None, "_made_for": None, "_held_here": True}
        return self.__dict__ | fresh | {"_states": self.state}

    @property
    def _shown(self) -> int:
        return self._stack.num_layers if self._stack.return_all_layers else 1

    def _situation(self, frame: Tensor) -> Any:
        """What steppers are made for: where it is not as it was, they are made anew."""
        stack, kind = self._stack, frame.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        modes = stack.training, stack.engine, torch.is_inference_mode_enabled()
        tensors = [*stack.parameters(), *stack.buffers()]
        versions = [0 if t.is_inference() else t._version for t in tensors]
        hooks = [has_hooks(cell) or getattr(cell, "calls_conv", False) for cell in stack.cell_list]
        return frame.dtype, frame.device, mixed, modes, versions, [t.data_ptr() for t in tensors], hooks

    def _make(self, frame: Tensor) -> None:
        stack = self._stack
        for cell in stack.cell_list:
            if isinstance(cell, Cell):
                cell.prepare()
        check_input(stack, frame.unsqueeze(1), stack.input_dim, stack.axes, batch_first=True)
        engines, states = self._engines(frame), self.state
        if states is not None and not autocast(frame):
            states = states.map(lambda tensor: tensor.to(frame))
        self._recording, self._steppers = None, None
        self._states, self._held_here = states, True
        if "reference" not in engines:
            cells, filled = list(stack.cell_list), self._filled(frame, states)
            self._steppers = Steppers(cells, frame, filled, "compiled" in engines)
            self._states, self._held_here = None, False

    def _engines(self, frame: Tensor) -> set[str]:
        """What runs the layers; the reference also where there is more than layers."""
        stack = self._stack
        drops = stack.keep.zoneout or (stack.training and stack.dropout)
        if stack.climbs or stack.residual or stack.norm_list is not None or stack.target_size or drops:
            return {"reference"}
        return {
            select(stack.engine, cell, x.unsqueeze(1), initial_state(cell, x), {})
            for cell, x in zip(stack.cell_list, self._inputs(frame), strict=True)
        }

    def _inputs(self, frame: Tensor) -> list[Tensor]:
        """What each layer reads, but for the values."""
        size = self._stack.target_size or frame.shape[2:]
        return [frame.new_empty(frame.shape[0], width, *size) for width in self._stack.inputs]

    def _filled(self, frame: Tensor, states: StackState | None) -> list[Any]:
        """One state per layer, initial ones where there is none."""
        given = [None] * self._stack.num_layers if states is None else states.all_layers
        initial = map(initial_state, self._stack.cell_list, self._inputs(frame))
        return [i if s is None else of_kind(i, s) for i, s in zip(initial, given, strict=True)]

    def _by_stack(self, frame: Tensor) -> Tensor:
        axis = 1 if self._stack.batch_first else 0
        outputs, self._states = self._stack(frame.unsqueeze(axis), self._states)
        output: Tensor = outputs[-1].select(axis, 0)
        return output
