"""One frame in, one frame out: a stack on a sequence that is still going on."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_map_only

from convlstm.cells.base import autocast, check_positive, check_tensor, like_frame
from convlstm.engines import Call, GraphedFunction, Stepper, has_hooks, select
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.scan import initial_state, of_kind
from convlstm.layers.state import StackState, check_states
from convlstm.layers.validation import check_input, check_sizes, space

if TYPE_CHECKING:
    from convlstm.layers.stack import Stack

#: Hooks on the calls of all modules.
GLOBAL_HOOKS = (hooks._global_forward_hooks, hooks._global_forward_pre_hooks)


class Stream:
    """A stack that is given one frame at a time; `Stack.stream` makes it.

    It gives the numbers of the stack on the whole sequence, without gradients; in training mode dropout is
    drawn anew for each frame. Buffers are made at the first frame, and again when weights, buffers, dtype,
    autocast or modes have changed (changes through ``.data`` go unnoticed). On CUDA the second frame is
    recorded as a graph, which later ones replay. With cells and options that the fast engines do not know,
    and where a subclass, a hook or the instance changes the call, each frame is a `Stack.step`.
    """

    def __init__(self, stack: "Stack", batch_size: int, size: Sequence[int]) -> None:
        options = stack._convlstm_options
        if options.bidirectional:
            raise OptionError(
                "a stream reads frames as they come; received a stack with bidirectional=True, which needs "
                "the last frame first: build one without"
            )
        if not (takes_two(stack.forward) or state_by_name(stack.forward)):
            raise OptionError(
                "a stream passes states from call to call, which takes hidden_state; received a "
                f"{type(stack).__name__} whose forward has no second argument: add hidden_state=None to it"
            )
        known = space(size, options.axes, "size")
        if known is None:
            raise OptionError(f"size must have one entry per space axis ({options.axes}); received None")
        check_sizes(list(stack.cell_list), options.target_size or known)
        self._stack = stack
        self.shape = (check_positive(batch_size, "batch_size"), options.input_dim, *known)
        self._steppers: Stepper | None = None
        self._graph: GraphedFunction | None = None
        self._made_for: Any = None
        # The states where no steppers hold them, or those that these are to load at the next frame.
        self._states: Any = None
        self._held_here = True

    def __call__(self, frame: Tensor) -> Tensor:
        """The last layer's output (B, hidden_dim, *S) at the next frame (B, input_dim, *S).

        The next call may overwrite it: clone what is to be kept.

        Raises:
            ShapeError: a frame of another shape than `Stack.stream` was told, or of another dtype or device
                than the stack.
            OptionError: an engine named that cannot serve the call.
        """
        check_tensor(frame, "a frame (B, C, *S)")
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
                return self._by_step(frame) if self._steppers is None else self._steppers(frame)
            if self._steppers is None:
                return self._by_step(frame)
            if self._held_here:
                self._steppers.load(self._filled(frame, self._states))
                self._states, self._held_here = None, False
            if not frame.is_cuda:
                return self._steppers(frame)
            if self._graph is None:
                self._graph = GraphedFunction(self._steppers, [frame], warm=True)
            output: Tensor = self._graph.replay([frame])
            return output

    @property
    def state(self) -> Any:
        """The states of all layers in tensors of their own, as `Stack.step` returns them; None at the start.

        Set, it is where the next frame goes on from: the states that a stream or the stack returned, or None
        for the initial ones.
        """
        if self._steppers is None or self._held_here:
            return tree_map_only(Tensor, torch.clone, self._states)
        return StackState(self._steppers.states, self._shown)

    @state.setter
    def state(self, states: Any) -> None:
        given = None
        if states is not None and self._stack._convlstm_is_customised():  # its states may be of any kind
            given = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), states)
        elif states is not None:
            stack, cells = self._stack, list(self._stack.cell_list)
            options = stack._convlstm_options
            size = options.target_size or self.shape[2:]
            weight = next(stack.parameters(), torch.empty(()))
            like = weight.new_empty(self.shape)
            sized = weight.new_empty(self.shape[0], 1, self.shape[1], *size)
            checked, memory = check_states(sized, size, states, cells, options.inputs, bidirectional=False)
            with torch.no_grad():
                filled = self._filled(like, StackState(checked, self._shown))
                given = StackState(filled, self._shown, memory).map(torch.clone)
        self._states, self._held_here = given, True

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickle, in which the next frame makes anew what holds addresses."""
        fresh = {"_steppers": None, "_graph": None, "_made_for": None, "_held_here": True}
        return self.__dict__ | fresh | {"_states": self.state}

    @property
    def _shown(self) -> int:
        return len(self._stack.cell_list) if self._stack.return_all_layers else 1

    def _situation(self, frame: Tensor) -> Any:
        """What steppers are made for: where it is not as it was, they are made anew."""
        stack, kind = self._stack, frame.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        modes = stack.training, stack._convlstm_options.engine, torch.is_inference_mode_enabled()
        tensors = [*stack.parameters(), *stack.buffers()]
        versions = [0 if t.is_inference() else t._version for t in tensors]
        changed = [has_hooks(cell) or getattr(cell, "calls_conv", False) for cell in stack.cell_list]
        changed.append(stack._convlstm_is_customised())
        return frame.dtype, frame.device, mixed, modes, versions, [t.data_ptr() for t in tensors], changed

    def _make(self, frame: Tensor) -> None:
        stack = self._stack
        options = stack._convlstm_options
        check_input(stack, frame.unsqueeze(1), options.input_dim, options.axes, batch_first=True)
        engines, states = self._engines(frame), self.state
        if not autocast(frame):
            states = tree_map_only(Tensor, partial(like_frame, frame=frame), states)
        self._graph, self._steppers = None, None
        self._states, self._held_here = states, True
        if "reference" not in engines:
            cells, filled = list(stack.cell_list), self._filled(frame, states)
            self._steppers = Stepper(cells, frame, filled, "compiled" in engines)
            self._states, self._held_here = None, False

    def _engines(self, frame: Tensor) -> set[str]:
        """Engines of the layers; the reference where each frame is a call of the stack."""
        stack, options = self._stack, self._stack._convlstm_options
        more = options.residual or options.normed or options.target_size or options.keep.zoneout
        more = more or options.time_major or (stack.training and options.dropout)
        if more or stack._convlstm_is_customised():
            return {"reference"}
        return {
            select(options.engine, Call(cell, x.unsqueeze(1), initial_state(cell, x)))
            for cell, x in zip(stack.cell_list, self._inputs(frame), strict=True)
        }

    def _inputs(self, frame: Tensor) -> list[Tensor]:
        """What each layer reads, but for the values."""
        options = self._stack._convlstm_options
        size = options.target_size or frame.shape[2:]
        return [frame.new_empty(frame.shape[0], width, *size) for width in options.inputs]

    def _filled(self, frame: Tensor, states: StackState | None) -> list[Any]:
        """One state per layer, initial ones where there is none."""
        given = [None] * len(self._stack.cell_list) if states is None else states.all_layers
        initial = map(initial_state, self._stack.cell_list, self._inputs(frame))
        return [i if s is None else of_kind(i, s) for i, s in zip(initial, given, strict=True)]

    def _by_step(self, frame: Tensor) -> Tensor:
        output, self._states = self._stack._convlstm_step(frame, self._states)
        return output


def takes_two(function: Any) -> bool:
    """True if something can be called with two arguments by position: frames, and states."""
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def state_by_name(forward: Any) -> bool:
    """True if a ``forward`` takes ``hidden_state`` elsewhere than in second place."""
    parameters = inspect.signature(forward).parameters
    found = parameters.get("hidden_state")
    return found is not None and (
        found.kind is found.KEYWORD_ONLY or list(parameters).index("hidden_state") != 1
    )
