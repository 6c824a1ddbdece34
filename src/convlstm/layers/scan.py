"""The only loop over time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import convlstm.engines as engines
from convlstm.cells.base import (
    Cell,
    autocast,
    check_initial,
    check_projection,
    check_step,
    like_frame,
    map_state,
)
from convlstm.engines import Call
from convlstm.errors import OptionError
from convlstm.layers.parts import has_batch_statistics, spare_statistics, spread


@dataclass(frozen=True)
class SequenceFlags:
    """What is known about the frames of a batch besides their values.

    Attributes:
        valid: (B, T) bool, which frames are there; None for all. Where one is not, the state is carried
            through and the output is that of the frame before.
        starts: (B, T) bool, which frames begin a new sequence, from the initial state; None for none.
    """

    valid: Tensor | None = None
    starts: Tensor | None = None

    def at(self, t: int) -> "SequenceFlags":
        """The timeline of frame ``t`` alone."""
        return SequenceFlags(
            *(None if flags is None else flags[:, t : t + 1] for flags in (self.valid, self.starts))
        )


@dataclass(frozen=True)
class ScanOptions:
    """What is kept of a long sequence, in memory and in the graph.

    Attributes:
        last_only: whether only the output after the last frame is returned, as T = 1.
        detach_every: steps after which gradients are cut (truncated back-propagation); None for never.
        checkpoint_every: steps per segment whose insides are computed again in the backward pass rather than
            kept; None for never.
        zoneout: probability with which an element of the state keeps its old value in training; otherwise
            each gets the expected value.
        save: what a fast engine keeps of each step for the backward pass, one of `convlstm.engines.SAVES`.
    """

    last_only: bool = False
    detach_every: int | None = None
    checkpoint_every: int | None = None
    zoneout: float = 0.0
    save: str = "auto"


def scan(
    cell: nn.Module,
    x: Tensor,
    state: Any = None,
    timeline: SequenceFlags = SequenceFlags(),
    *,
    reverse: bool = False,
    keep: ScanOptions = ScanOptions(),
    engine: str = "reference",
    inner: bool = False,
) -> tuple[Tensor, Any]:
    """Run a cell over a sequence.

    The input's part of all steps is one call of `Cell.project` where that is faster; what is left in the loop
    is `Cell.step`. A cell with hooks or a ``forward`` of its own, and any module with the single-file
    original's cell call, is called step by step instead, so that these always run.

    Batch normalisation inside a cell takes its statistics in training, on every device, from the frames that
    are there: in `Cell.project` over all frames of the call, in `Cell.step` and in a cell that is called step
    by step over the samples of each step.

    Args:
        cell: the recurrence.
        x: (B, T, C, *S), T at least 1. Frames that are not valid may hold anything, NaN too.
        state: the state before the first frame (the last one, if reversed); None for the initial one.
        timeline: which frames are there and where sequences begin.
        reverse: whether to run from the last frame to the first; outputs stay in the order of the frames.
        keep: what is kept.
        engine: what does the arithmetic, one of `convlstm.engines.ENGINES`.
        inner: whether only another cell reads the outputs, which a fast engine may then hand on as it holds
            them: in another memory layout, under autocast in 16 bits.

    Returns:
        The outputs (B, T, hidden_dim, *S), each at the place of its frame, and the state at the end.

    Raises:
        OptionError: an engine named that cannot serve this call.
    """
    valid, starts = timeline.valid, timeline.starts
    if valid is not None:
        x = torch.where(spread(valid, x), x, 0)
    steps = x.shape[1]
    initial = initial_state(cell, x[:, 0])
    from_initial = state is None
    state = initial if state is None else of_kind(initial, state)
    if reverse and starts is not None:  # going backwards, a sequence ends where the next one starts
        starts = torch.cat([starts[:, 1:], starts.new_zeros(len(starts), 1)], dim=1)
    checkpoint_every = keep.checkpoint_every if torch.is_grad_enabled() else None
    special = {
        "zoneout": keep.zoneout,
        "detach_every together with missing frames or checkpoint": keep.detach_every
        and (valid is not None or checkpoint_every),
    }
    call = Call(
        cell,
        x,
        state,
        valid,
        starts,
        reverse=reverse,
        last_only=keep.last_only,
        any_layout=inner,
        zero_state=from_initial,
        save=keep.save,
        reference_only=tuple(name for name, value in special.items() if value),
    )
    chosen = engines.select(engine, call)
    if chosen == "reference" or (engine == "auto" and engines.loop_is_faster(call)):
        chosen = "reference"
        # The fast engine of a layer below hands on channels last, which outputs would inherit.
        x = x if x[:, 0].is_contiguous() else x.contiguous()
    # Not elsewhere, as a list by frame would bind a compiled graph to the number of frames.
    cuts = gradient_cuts(valid, keep.detach_every, steps, reverse) if chosen == "reference" else ()
    weights = _places(cell) if checkpoint_every else []
    step = _call_by_step(cell)
    statistics = chosen == "reference" and has_batch_statistics(cell)
    if statistics and step is None:
        owned: Any = cell
        x, step = _projected(owned, x, valid), owned.step
    some = valid if statistics else None  # the samples over which a step takes its statistics

    def run(x: Tensor, state: Any, begin: int) -> tuple[Tensor, Any]:
        """The frames ``x``, of which the first is frame ``begin`` of the sequence."""
        if checkpoint_every and weights != _places(cell):
            raise OptionError(
                "checkpoint computes steps again with the module's own weights; these were swapped since, as "
                "torch.func.functional_call does: leave checkpoint out there"
            )
        if chosen != "reference":
            return engines.run(call.segment(begin, x, state), chosen)
        inputs, next_state = _inputs_and_step(cell, x) if step is None else (x, step)
        outputs = list(inputs.unbind(1))
        for place in reversed(range(len(outputs))) if reverse else range(len(outputs)):
            t, first = begin + place, place == (len(outputs) - 1 if reverse else 0)
            if cut := cuts[t]:
                state = map_state(cut, state)
            if starts is not None:
                state = map_state(_chooser(starts[:, t]), initial, state)
            new = _step_of(next_state, outputs[place], state, None if some is None else some[:, t])
            new = check_step(cell, new, state) if first else new
            if keep.zoneout:
                new = map_state(_zone_out(keep.zoneout, draws=cell.training), new, state)
            state = new if valid is None else map_state(_chooser(valid[:, t]), new, state)
            outputs[place] = output_of(state)
        if keep.last_only:
            outputs = [output_of(state)]
        return torch.stack(outputs, dim=1), state

    length = checkpoint_every or (keep.detach_every if chosen != "reference" else None)
    if not length:
        return run(x, state, 0)
    again = _recompute(cell, statistics) if checkpoint_every else None
    pieces, state = _in_segments(run, x, state, length, reverse, again)
    return pieces[-1] if keep.last_only else torch.cat(pieces[::-1] if reverse else pieces, dim=1), state


def _places(cell: nn.Module) -> list[int]:
    return [id(parameter) for parameter in cell.parameters()]


def _in_segments(
    run: Callable[..., tuple[Tensor, Any]],
    x: Tensor,
    state: Any,
    length: int,
    reverse: bool,
    recompute: Callable[..., Any] | None,
) -> tuple[list[Tensor], Any]:
    """Outputs of segments of some steps, in the order of running, and the state at the end.

    With ``recompute`` the insides of a segment are computed again in the backward pass; without it gradients
    are cut between two segments.
    """
    pieces: list[Tensor] = []
    steps = x.shape[1]
    for done in range(0, steps, length):
        begin = max(0, steps - done - length) if reverse else done
        part = x[:, begin : steps - done if reverse else done + length]
        if recompute is not None:
            outputs, state = recompute(run, part, state, begin)
        else:
            outputs, state = run(part, map_state(Tensor.detach, state) if pieces else state, begin)
        pieces.append(outputs)
    return pieces, state


def _recompute(cell: nn.Module, statistics: bool) -> Callable[..., Any]:
    """`torch.utils.checkpoint` under which batch statistics are counted in the forward pass only."""
    if not statistics:
        return partial(checkpoint, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), spare_statistics(cell)

    return partial(checkpoint, use_reentrant=False, context_fn=contexts)


def step_with_memory(
    cell: nn.Module,
    x: Tensor,
    state: Any,
    memory: Tensor | None,
    timeline: SequenceFlags,
    *,
    lowest: bool,
    keep: ScanOptions = ScanOptions(),
    engine: str = "reference",
) -> tuple[Tensor, Any, Tensor | None]:
    """One step of a layer in a stack with a spatiotemporal memory.

    Args:
        cell: one with a spatiotemporal memory, or any other, past which the memory goes unchanged.
        x: (B, 1, C, *S), one frame.
        state: before it; None for the initial one.
        memory: from the layer below, or for the lowest layer from the top of the step before; None for the
            initial one.
        timeline: of the one frame.
        lowest: whether this is the lowest layer, where a new sequence starts with a new memory.
        keep: see `scan`; one frame has nothing to cut, and zoneout leaves the memory alone.
        engine: see `scan`.

    Returns:
        The output (B, 1, hidden_dim, *S), the state, and the memory for the layer above.
    """
    if not isinstance(cell, Cell) or not cell.spatiotemporal_memory:
        keep = replace(keep, detach_every=None)  # the stack cuts
        return *scan(cell, x, state, timeline, keep=keep, engine=engine), memory
    frame = x[:, 0]
    initial, bottom = cell.initial_state(frame), cell.initial_memory(frame)
    state = initial if state is None else of_kind(initial, state)
    memory = bottom if memory is None else memory
    options = ("zoneout",) if keep.zoneout else ()
    engines.select(engine, Call(cell, x, state, reference_only=options))  # such a cell runs by its own step
    if timeline.starts is not None:
        choose = _chooser(timeline.starts[:, 0])
        state, memory = map_state(choose, initial, state), choose(bottom, memory) if lowest else memory
    kind, some = type(state), None
    if timeline.valid is not None and has_batch_statistics(cell):
        some = timeline.valid[:, 0]

    def step(frame: Tensor, before: Any) -> Any:
        memory, *state = before
        new, risen = cell(frame, kind(*state), memory)
        return risen, *new

    risen, *parts = _step_of(step, frame, (memory, *state), some)
    new = kind(*parts)
    if keep.zoneout:
        new = map_state(_zone_out(keep.zoneout, draws=cell.training), new, state)
    if timeline.valid is not None:
        choose = _chooser(timeline.valid[:, 0])
        new, risen = map_state(choose, new, state), choose(risen, memory)
    return output_of(new).unsqueeze(1), new, risen


def gradient_cuts(
    valid: Tensor | None, every: int | None, steps: int, reverse: bool = False
) -> Sequence[Callable[[Tensor], Tensor] | None]:
    """By frame, what cuts gradients in a state before it: after every so many frames that are there."""
    if not every:
        return [None] * steps
    if valid is None:
        alike = [Tensor.detach if done and done % every == 0 else None for done in range(steps)]
        return alike[::-1] if reverse else alike
    order = valid.flip(1) if reverse else valid
    done = order.cumsum(dim=1) - order.long()
    flags = order & (done > 0) & (done % every == 0)
    return [_cutter(flags_B) for flags_B in (flags.flip(1) if reverse else flags).unbind(1)]


def _cutter(where_B: Tensor) -> Callable[[Tensor], Tensor]:
    """What cuts the gradients of the samples whose flag is set."""
    choose = _chooser(where_B)
    return lambda tensor: choose(tensor.detach(), tensor)


def output_of(state: Any) -> Tensor:
    """A state's output: its field ``h``, or the first tensor of the plain tuple of a foreign cell."""
    h: Tensor = state.h if hasattr(state, "h") else state[0]
    return h


def initial_state(cell: nn.Module, frame: Tensor) -> Any:
    """The state before the first frame, also of a module with the original's ``init_hidden``.

    Under autocast it has 32 bits also where frames have 16, as memories add up many small numbers.
    """
    if frame.is_floating_point() and frame.itemsize < 4 and autocast(frame):
        frame = frame.float()
    if isinstance(cell, Cell):
        return check_initial(cell, cell.initial_state(frame))
    foreign: Any = cell
    h_c = foreign.init_hidden(frame.shape[0], tuple(frame.shape[2:]))
    return tuple(like_frame(tensor, frame) for tensor in h_c)


def of_kind(initial: Any, state: Any) -> Any:
    """A state given as a list or tuple, as the kind of state that the cell makes; all else as it is."""
    kind = type(initial)
    if type(state) is kind or not isinstance(state, tuple | list) or len(state) != len(initial):
        return state
    return kind(*state) if hasattr(kind, "_fields") else kind(state)


def _chooser(where_B: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """What takes, for each sample, the first of two tensors where the flag is set, else the second."""

    def choose(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(where_B[(..., *(None,) * (no.ndim - 1))], yes, no)

    return choose


def _zone_out(probability: float, draws: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """What keeps elements of a state: at random, or all in expectation; none of whole numbers or flags."""

    def kept(new: Tensor, old: Tensor) -> Tensor:
        if not (new.is_floating_point() or new.is_complex()):
            return new
        if draws:
            return torch.where(torch.rand_like(new.real) < probability, old, new)
        return new.lerp(old.to(new), probability)

    return kept


def _call_by_step(cell: nn.Module) -> Callable[[Tensor, Any], Any] | None:
    """The call of a cell that is run by it: one with hooks or a ``forward`` of its own, or a foreign one."""
    if isinstance(cell, Cell) and not (engines.has_own_forward(cell) or engines.has_hooks(cell)):
        return None
    return lambda frame, state: of_kind(state, cell(frame, state))


def _inputs_and_step(cell: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor, Any], Any]]:
    """Projected frames and `Cell.step`; on a CPU the frames, projected by the step."""
    if _on_cpu(x):  # where the memory of one large result costs more than many calls
        return x, lambda frame, state: cell.step(check_projection(cell, cell.project(frame)), state)
    return _projected(cell, x, None), cell.step


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _projected(cell: Any, x: Tensor, valid: Tensor | None) -> Tensor:
    """`Cell.project` of all frames (B, T, C, *S) that are there at once; zeros for the others."""
    frames = x.flatten(0, 1)
    places = None if valid is None else valid.flatten().nonzero().squeeze(1)
    if places is None:
        p = check_projection(cell, cell.project(frames))
    elif len(places):
        some = cell.project(frames[places])
        p = some.new_zeros(len(frames), *some.shape[1:]).index_copy(0, places, some)
    else:
        p = frames  # which no step reads
    sequence: Tensor = p.view(*x.shape[:2], *p.shape[1:])
    return sequence


def _step_of(step: Callable[[Tensor, Any], Any], frame: Tensor, state: Any, valid_B: Tensor | None) -> Any:
    """The state after a step, taken by the samples that are there alone where flags are given."""
    if valid_B is None:
        return step(frame, state)
    places = valid_B.nonzero().squeeze(1)
    if not len(places):
        return state
    new = step(frame[places], map_state(lambda tensor: tensor[places], state))

    def put(part: Tensor, whole: Tensor) -> Tensor:
        dtype = torch.promote_types(part.dtype, whole.dtype)
        return whole.to(dtype).index_copy(0, places, part.to(dtype))

    return map_state(put, new, state)
