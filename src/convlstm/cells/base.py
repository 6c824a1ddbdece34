"""The contract of a cell: one step of a recurrence, its state, and checks of what they must be."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, _weights_only_unpickler, nn
from torch.utils import _pytree

from convlstm.cells.recordable import Recordable
from convlstm.errors import OptionError, ShapeError
from convlstm.validation import (
    LARGEST,
    autocast,
    check_positive,
    check_same_kind,
    check_tensor,
    is_integer,
    received,
)


class State(Protocol):
    """The state of a recurrence: a flat NamedTuple of tensors, batch first, with the output as ``h``.

    ``h`` is real; the others may have any dtype, integers, bool and complex numbers included.
    """

    @property
    def h(self) -> Tensor:
        """The hidden state, which is also the cell's output: (B, hidden_dim, *S)."""


class Cell(Recordable, ABC):
    """One step of a convolutional recurrence.

    A subclass writes `initial_state`, `project` and `step`; layers provide stacking, time and masks. They
    build a cell by ``cell(input_dim, hidden_dim, kernel_size, bias)``: its constructor takes these four by
    position, and its own options by keyword. State is passed in and returned, never stored on the module, and
    no parameter depends on the size of the frames.

    A recurrence with a spatiotemporal memory, which passes from layer to layer within a step and from the top
    layer to the lowest one of the next step (PredRNN), sets ``spatiotemporal_memory`` and has
    ``step(p, state, memory) -> (state, memory)``.

    Attributes:
        input_dim: channels of the input.
        hidden_dim: channels of the hidden state.
        kernel_size: one integer for each space axis.
        spatiotemporal_memory: True if the cell has a spatiotemporal memory; a cell around another of any kind
            sets it to that of the other, on the instance.
        reads_output: False if a step does not read ``h`` of the state before, which is then the output alone,
            and other tensors of the state are all that is remembered.
    """

    spatiotemporal_memory: bool = False
    reads_output: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "climbs" in vars(cls):
            warnings.warn(
                f"climbs was renamed; received a {cls.__name__} that sets it: set spatiotemporal_memory",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.spatiotemporal_memory = vars(cls)["climbs"]

    def __init__(self, input_dim: int, hidden_dim: int, kernel_size: int | tuple[int, ...]) -> None:
        super().__init__()
        self.input_dim = check_positive(input_dim, "input_dim")
        self.hidden_dim = check_positive(hidden_dim, "hidden_dim")
        self.kernel_size = kernel_tuple(kernel_size)

    @abstractmethod
    def initial_state(self, x: Tensor) -> Any:
        """The state before the first frame, with the batch, space, dtype and device of ``x`` (B, C, *S).

        A flat NamedTuple of tensors, each with the batch first and of any dtype, whose field ``h`` is the
        output, (B, hidden_dim, *S).
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The part of a step that depends on the input alone, (N, input_dim, *S) -> (N, ?, *S).

        Called with one frame (N = B) or with all frames of a sequence at once (N = B T).
        """

    @abstractmethod
    def step(self, p: Tensor, state: Any) -> Any:
        """One step of the recurrence.

        Args:
            p: `project`'s result for this frame, (B, ?, *S).
            state: of the kind that `initial_state` returns.

        Returns:
            The new state, of the same kind and shapes.
        """

    def initial_memory(self, x: Tensor) -> Tensor:
        """The spatiotemporal memory before the first frame, (B, hidden_dim, *S), if the cell has one."""
        return x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])

    def forward(self, input_tensor: Tensor, cur_state: Any = None, memory: Tensor | None = None) -> Any:
        """The state after a frame (B, input_dim, *S), from the state before it (None: the initial one).

        A cell with a spatiotemporal memory also takes the memory and returns (state, memory).
        """
        check_frame(self, input_tensor)
        initial = check_initial(self, self.initial_state(input_tensor))
        allow_loading(type(initial))
        state = initial if cur_state is None else check_state(cur_state, initial, "the state")
        projected = check_projection(self, self.project(input_tensor))
        if not self.spatiotemporal_memory:
            return check_step(self, run_step(self, projected, state), state)
        step_with_memory: Any = self.step
        if memory is None:
            memory = self.initial_memory(input_tensor)
        else:
            memory = check_memory_fits(self, memory, input_tensor)
        return check_step_with_memory(self, step_with_memory(projected, state, memory), state)


#: What builds a cell: a class or `functools.partial`, called with (input_dim, hidden_dim, kernel_size, bias).
CellFactory = Callable[[int, int, tuple[int, ...], bool], Cell]


def register_state(kind: Any, module: str | None = None) -> Any:
    """Let a kind of state pass through `torch.export.save` and, in any program, `torch.load`; a decorator.

    The program that made a state reads it with `torch.load` without this; another program first imports the
    module that registers it.

    Args:
        kind: a NamedTuple class, at the top of a module.
        module: the module that the class is imported from; its own module if None.

    Returns:
        ``kind``.

    Raises:
        OptionError: anything but a NamedTuple class.
    """
    if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise OptionError(
            f"a kind of state must be a NamedTuple class; received {received(kind)}: derive it from that"
        )
    if module is not None and not isinstance(module, str):
        raise OptionError(
            f"module must be a module's name; received {received(module)}: give its dotted name"
        )
    if kind not in _pytree.SUPPORTED_NODES:
        _pytree._register_namedtuple(
            kind, serialized_type_name=f"{module or kind.__module__}.{kind.__qualname__}"
        )
    allow_loading(kind)
    return kind


#: Kinds of states that `torch.load` reads, by their names.
_LOADABLE: dict[str, type] = {}


def allow_loading(kind: type) -> None:
    """Let `torch.load` read a kind of state, unless a compiler is tracing or the class cannot be imported."""
    if torch.compiler.is_compiling() or kind in _LOADABLE.values() or not hasattr(kind, "_fields"):
        return
    name = f"{kind.__module__}.{kind.__qualname__}"
    if "<locals>" in name:
        return
    if name in _LOADABLE:  # defined again, for example by running a notebook's cell twice
        _weights_only_unpickler._remove_safe_globals([_LOADABLE[name]])
    _LOADABLE[name] = kind
    torch.serialization.add_safe_globals([kind])


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply a function to the corresponding tensors of states of one kind, nested or not; None stays None."""
    first = states[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else function(*states)
    if not isinstance(first, (tuple, list)) or not callable(function):
        wrong = first if callable(function) else function
        raise OptionError(
            f"map_state must get a function and states; received {received(wrong)}: pass tuples"
        )
    return _as_kind(first, [map_state(function, *group) for group in zip(*states, strict=True)])


def kernel_tuple(kernel_size: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """One integer per space axis; a single integer is a square kernel in two dimensions."""
    whole: Any = (kernel_size, kernel_size) if is_integer(kernel_size) else kernel_size
    kernel = tuple(whole) if isinstance(whole, (tuple, list)) else ()
    if not 1 <= len(kernel) <= 3 or not all(map(is_count, kernel)):
        raise OptionError(
            "kernel_size must be a positive integer or a tuple of one to three of them (one per space axis); "
            f"received {received(kernel_size)}: 3 is a kernel of 3 x 3"
        )
    return tuple(map(int, kernel))


def is_count(value: Any) -> bool:
    """True for an integer of at least 1."""
    return is_integer(value) and bool(1 <= value <= LARGEST)


def check_state(state: Any, initial: Any, what: str) -> Any:
    """A state given as any sequence of tensors, as the cell's kind of state.

    Args:
        state: the tensors.
        initial: the cell's initial state for the same frame.
        what: name of the state, to open the message.

    Raises:
        ShapeError: the number of tensors, or the shape, dtype or device of one differs.
    """
    kind = type(initial)
    parts = state if isinstance(state, (tuple, list)) else [state]
    if parts is not state or len(parts) != len(initial) or not all(isinstance(p, Tensor) for p in parts):
        found = " and ".join(type(part).__name__ for part in parts) or "nothing"
        remedy = "pass the state that the call before returned"
        if len(parts) == 2 and isinstance(parts[0], tuple) and isinstance(parts[1], Tensor):
            remedy = "a spatiotemporal memory is passed apart, state, memory = cell(frame, state, memory)"
        raise ShapeError(
            f"{what} must hold the tensors {', '.join(_fields(initial))} of a {kind.__name__}; received "
            f"{found}: {remedy}"
        )
    for name, tensor, like in zip(_fields(initial), parts, initial, strict=True):
        check_tensor(tensor, f"{what}, {name},")
        if tensor.shape != like.shape:
            raise ShapeError(
                f"{what} must fit batch, cell and frames, {name} {tuple(like.shape)}; received "
                f"{tuple(tensor.shape)}: it belongs to another batch, stack or size, start from None"
            )
        mixed = autocast(like) and tensor.is_floating_point() and tensor.dtype != torch.float64
        if tensor.device != like.device or not (tensor.dtype == like.dtype or mixed):
            raise ShapeError(
                f"{what} must have the dtype and device of the frames, {like.dtype} on {like.device}; "
                f"received {tensor.dtype} on {tensor.device}: convert it with to(...)"
            )
    return _as_kind(initial, parts)


def check_memory_fits(cell: Cell, memory: Any, frame: Tensor) -> Tensor:
    """A spatiotemporal memory that is passed to a cell, of the batch and size of its frame.

    Cells check its channels themselves, as they may take what another layer has added to it.

    Raises:
        ShapeError: no tensor, or of another batch or size, from which it would be broadcast.
    """
    tensor = check_tensor(memory, "the spatiotemporal memory (B, C, *S)")
    if (tensor.shape[:1], tensor.shape[2:]) == (frame.shape[:1], frame.shape[2:]):
        return tensor
    expected = cell.initial_memory(frame).shape
    if (tensor.shape[:1], tensor.shape[2:]) != (expected[:1], expected[2:]):
        raise ShapeError(
            f"the spatiotemporal memory must fit batch and frames, {tuple(expected)}; received "
            f"{tuple(tensor.shape)}: pass the one that the step before returned, or None for the first frame"
        )
    return tensor


def check_initial(cell: nn.Module, state: Any) -> Any:
    """The result of `Cell.initial_state`.

    Raises:
        OptionError: no flat NamedTuple of tensors with a field ``h``.
    """
    if not hasattr(state, "h") or not hasattr(state, "_fields") or None in _shapes(state):
        raise OptionError(
            "initial_state must return a NamedTuple of tensors, the output as its field h; the "
            f"{type(cell).__name__}'s returned {described(state)}: put all tensors into one flat NamedTuple"
        )
    return state


def check_projection(cell: nn.Module, projected: Any) -> Tensor:
    """The result of `Cell.project`.

    Raises:
        OptionError: anything but one tensor.
    """
    if not isinstance(projected, Tensor):
        raise OptionError(
            f"project must return one tensor; the {type(cell).__name__}'s returned {described(projected)}: "
            "join the parts with torch.cat, and split them in step"
        )
    return projected


def run_step(cell: Cell, p: Tensor, state: Any) -> Any:
    """`Cell.step` of a cell without a spatiotemporal memory.

    Raises:
        OptionError: there is such a memory after all, in the cell or in one that it calls, and not declared.
    """
    try:
        return cell.step(p, state)
    except TypeError as error:
        if "step() missing 1 required positional argument" not in str(error):
            raise
        raise OptionError(
            "a cell must declare its spatiotemporal memory, or that of a cell inside it; received a "
            f"{type(cell).__name__} that does not ({error}): set spatiotemporal_memory = True and write "
            "step(p, state, memory) -> (state, memory)"
        ) from error


def check_step(cell: nn.Module, new: Any, state: Any) -> Any:
    """The result ``new`` of `Cell.step` from a state; not checked while torch.compile traces.

    Raises:
        OptionError: no flat state of the same kind.
        ShapeError: tensors of other shapes.
    """
    name, kind = type(cell).__name__, type(state)
    same = type(new) is kind and len(new) == len(state)
    if torch.compiler.is_compiling() or (same and _shapes(new) == _shapes(state)):
        return new
    if not same or None in _shapes(new):
        raise OptionError(
            f"step must return what initial_state does, tensors {', '.join(_fields(state))} in a "
            f"{kind.__name__}; the {name}'s returned {described(new)}: return a {kind.__name__}"
        )
    parts = zip(_fields(state), new, state, strict=True)
    field, tensor, like = next((f, new, old) for f, new, old in parts if new.shape != old.shape)
    raise ShapeError(
        f"step must keep the shapes of the state, {field} {tuple(like.shape)}; the {name}'s returned "
        f"{tuple(tensor.shape)}: pad its convolutions, or give initial_state the same shape"
    )


def check_step_with_memory(cell: Cell, result: Any, state: Any) -> Any:
    """The result of the step of a cell with a spatiotemporal memory.

    Raises:
        OptionError: anything but (state, memory).
    """
    pair = isinstance(result, (tuple, list)) and not hasattr(result, "_fields") and len(result) == 2
    if not pair or not isinstance(result[1], Tensor):
        raise OptionError(
            f"the step of a cell with a spatiotemporal memory must return (state, memory); the "
            f"{type(cell).__name__}'s returned {described(result)}: return both"
        )
    return check_step(cell, result[0], state), result[1]


def _fields(state: Any) -> tuple[str, ...]:
    """Names of a state's tensors, numbers for a plain tuple."""
    return tuple(map(str, getattr(type(state), "_fields", range(len(state)))))


def _as_kind(like: Any, tensors: Any) -> Any:
    kind = type(like)
    return kind(*tensors) if hasattr(like, "_fields") else kind(tensors)


def _shapes(state: Any) -> list[torch.Size | None]:
    return [part.shape if isinstance(part, Tensor) else None for part in state]


def described(value: Any) -> str:
    """The type of a value and of its first part that is no tensor."""
    words = "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    parts = value if isinstance(value, (tuple, list)) else ()
    strange = next((part for part in parts if not isinstance(part, Tensor)), None)
    return words if strange is None else f"{words} that holds a {type(strange).__name__}"


def like_frame(tensor: Tensor, frame: Tensor) -> Tensor:
    """A tensor of a state on a frame's device, and in its dtype if both hold real numbers."""
    return tensor.to(frame) if tensor.is_floating_point() else tensor.to(frame.device)


def check_frame(cell: Cell, x: Tensor) -> None:
    """Check that ``x`` is a frame (B, input_dim, *S) for this cell.

    Raises:
        ShapeError: wrong rank, channels, dtype or device.
    """
    axes = ", ".join("DHW"[3 - len(cell.kernel_size) :])
    check_tensor(x, f"a frame (B, C, {axes})")
    if x.ndim != 2 + len(cell.kernel_size):
        raise ShapeError(
            f"a frame must be (B, C, {axes}); received shape {tuple(x.shape)}: a cell takes one step of "
            "time, a layer takes (B, T, ...)"
        )
    if x.shape[1] != cell.input_dim:
        raise ShapeError(
            f"a frame must have input_dim={cell.input_dim} channels on axis 1 of (B, C, {axes}); "
            f"received shape {tuple(x.shape)}: build the cell with input_dim={x.shape[1]}"
        )
    check_same_kind(cell, x, "a frame")
