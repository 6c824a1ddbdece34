"""The only loop over time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import convlstm.engines as engines
from convlstm.cells.base import (
    Cell,
    check_projection,
    check_step,
    check_step_with_memory,
    map_state,
    run_step,
)
from convlstm.cells.recordable import recorders_of
from convlstm.engines import Call
from convlstm.errors import OptionError, check_name
from convlstm.layers.frames import expand_flags, map_frames, where_samples
from convlstm.layers.norm import has_batch_statistics, preserve_statistics
from convlstm.layers.state import (
    MemoryState,
    has_memory,
    initial_memory,
    initial_state,
    of_kind,
    output_of,
)
from convlstm.validation import check_bool, check_instance, check_number, check_tensor, is_integer

#: A function of the input of one frame and a state: the next state.
Step = Callable[[Tensor, Any], Any]
#: A function of frames (B, T, ...), the state before them and the index of the first: outputs and state.
Run = Callable[[Tensor, Any, int], tuple[Tensor, Any]]

#: Devices on which `Cell.project` is called frame by frame, elsewhere once for all: on a CPU the memory
#: traffic of one large result costs more than many calls. Tests may change it.
frame_by_frame_on = {"cpu"}


@dataclass(frozen=True)
class SequenceFlags:
    """Flags of the frames of a batch.

    Attributes:
        mask: (B, T) bool, which frames are present; None for all. At a missing one the state is carried
            through and the output is that of the frame before.
        reset: (B, T) bool, which frames begin a new sequence, from the initial state; None for none.
    """

    mask: Tensor | None = None
    reset: Tensor | None = None

    def at(self, t: int) -> "SequenceFlags":
        """The flags of frame ``t`` alone."""
        mask, reset = (None if flags is None else flags[:, t : t + 1] for flags in (self.mask, self.reset))
        return SequenceFlags(mask, reset)


@dataclass(frozen=True)
class ScanOptions:
    """Options of the loop over time.

    Attributes:
        detach_every: steps after which gradients are cut (truncated back-propagation); None for never.
        checkpoint_every: steps per segment that is computed again in the backward pass rather than saved;
            None for never.
        zoneout: probability with which an element of the state keeps its old value in training; otherwise
            each gets the expected value.
        save: what a fast engine saves of each step for the backward pass, one of `convlstm.engines.SAVES`.

    Raises:
        OptionError: one out of its range.
    """

    detach_every: int | None = None
    checkpoint_every: int | None = None
    zoneout: float = 0.0
    save: str = "auto"

    def __post_init__(self) -> None:
        """Check the options, under the names that they have in a stack."""
        for name, steps in (("detach_every", self.detach_every), ("checkpoint", self.checkpoint_every)):
            if steps is not None and not (is_integer(steps) and steps >= 1):
                raise OptionError(f"{name} must be at least 1 step, or None for never; received {steps}")
        check_number(self.zoneout, "zoneout", least=0, below=1)
        check_name(self.save, engines.SAVES, "save")


def scan(
    cell: nn.Module,
    x: Tensor,
    state: Any = None,
    flags: SequenceFlags = SequenceFlags(),
    *,
    reverse: bool = False,
    last_only: bool = False,
    options: ScanOptions = ScanOptions(),
    engine: str = "reference",
    any_layout: bool = False,
) -> tuple[Tensor, Any]:
    """Run a cell over a sequence.

    A cell with hooks or a ``forward`` of its own, one with a spatiotemporal memory, and any module with the
    single-file original's cell call, is called step by step. Otherwise the loop is over `Cell.step`, and
    `Cell.project` is one call for all frames where that is faster.

    The memory of a cell with a spatiotemporal memory goes from each step to the next; the state is a
    `MemoryState`.

    Batch normalisation inside a cell takes its statistics in training, on every device, from the frames that
    are present: in `Cell.project` over all frames of the call, in `Cell.step` and in a cell that is called
    step by step over the samples of each step.

    Args:
        cell: the recurrence.
        x: (B, T, C, *S), T at least 1. Frames that are missing may hold anything, NaN too.
        state: the state before the first frame (the last one, if reversed); None for the initial one.
        flags: missing frames and beginnings of sequences.
        reverse: run from the last frame to the first; outputs stay in the order of the frames.
        last_only: return only the output after the last step, as T = 1.
        options: truncation, recomputation, zoneout.
        engine: one of `convlstm.engines.ENGINES`.
        any_layout: outputs are read by other modules only: they may have another memory format, under
            autocast 16 bits from a fast engine, and share memory with the state.

    Returns:
        The outputs (B, T, hidden_dim, *S), each at the index of its frame, and the state at the end.

    Raises:
        OptionError: an engine named that cannot run this call.
    """
    check_instance(cell, nn.Module, "cell")
    check_tensor(x, "x (B, T, C, *S)")
    reverse = check_bool(reverse, "reverse")
    mask, reset = flags.mask, flags.reset
    if mask is not None:
        x = torch.where(expand_flags(mask, x), x, 0)
    if reverse and reset is not None:  # in reverse order, a sequence ends where the next one begins
        reset = torch.cat([reset[:, 1:], reset.new_zeros(len(reset), 1)], dim=1)
    checkpoint_every = options.checkpoint_every if torch.is_grad_enabled() else None
    reference_only = ["zoneout"] if options.zoneout else []
    if options.detach_every and (mask is not None or checkpoint_every):
        reference_only.append("detach_every together with missing frames or checkpoint")
    needed = state is None or reset is not None or has_memory(cell)
    initial = _initial(cell, x[:, 0] if needed else x[:1, 0])  # elsewhere its kind alone is read
    call = Call(
        cell,
        x,
        _first_state(initial, state),
        mask,
        reset,
        reverse=reverse,
        last_only=last_only,
        any_layout=any_layout,
        zero_state=state is None,
        save=options.save,
        reference_only=tuple(reference_only),
    )
    chosen = engines.select(engine, call)
    if chosen == "reference" or has_batch_statistics(cell):
        x, run = _loop(call, initial, options)
        segment = checkpoint_every
    else:
        run = lambda x, state, begin: engines.run(call.segment(begin, x, state), chosen)  # noqa: E731
        segment = checkpoint_every or options.detach_every
    if checkpoint_every:
        run = _recomputed(run, cell)
    if not segment:
        return run(x, call.state, 0)
    return _in_segments(run, x, call, segment, detach=not checkpoint_every)


def _initial(cell: nn.Module, frame: Tensor) -> Any:
    """The state before the first frame, with the spatiotemporal memory of a cell that has one."""
    state = initial_state(cell, frame)
    if not has_memory(cell):
        return state
    return MemoryState(state, initial_memory(cell, frame))


def _first_state(initial: Any, state: Any) -> Any:
    """A given state (None or parts that are None: the initial one) as the kind of state of the cell."""
    if state is None:
        return initial
    if isinstance(initial, MemoryState):
        own, memory = state
        return MemoryState(_first_state(initial.state, own), initial.memory if memory is None else memory)
    return of_kind(initial, state)


def _loop(call: Call, initial: Any, options: ScanOptions) -> tuple[Tensor, Run]:
    """The reference: the inputs of the loop over time, and the loop over some; resets restore ``initial``."""
    cell, mask, reset, reverse = call.cell, call.mask, call.reset, call.reverse
    # Outputs would inherit the channels-last format that the fast engine of a layer below returns.
    x = call.x if call.any_layout or call.x[:, 0].is_contiguous() else call.x.contiguous()
    with_statistics = has_batch_statistics(cell)
    samples = mask if with_statistics else None
    x, project, step = _inputs_and_step(cell, x, mask, with_statistics)
    cuts = gradient_cuts(mask, options.detach_every, x.shape[1], reverse)
    recorders = recorders_of(cell)
    for recorder in recorders:
        recorder.begin(x.shape[1])

    def run(x: Tensor, state: Any, begin: int) -> tuple[Tensor, Any]:
        frames = list((x if project is None else project(x)).unbind(1))
        order = range(len(frames))
        for done, k in enumerate(reversed(order) if reverse else order):
            t = begin + k
            if cut := cuts[t]:
                state = map_state(cut, state)
            if reset is not None:
                state = map_state(where_samples(reset[:, t]), initial, state)
            for recorder in recorders:
                recorder.place(t, None if mask is None else mask[:, t])
            frame = frames[k]
            new = step(frame, state) if samples is None else _step_samples(step, frame, state, samples[:, t])
            if not done and not isinstance(new, MemoryState):
                new = check_step(cell, new, state)
            if options.zoneout:
                new = _zoneout(new, state, options.zoneout, random=cell.training)
            state = new if mask is None else map_state(where_samples(mask[:, t]), new, state)
            frames[k] = output_of(state)
            for recorder in recorders:
                recorder.keep(state)
        outputs = [output_of(state)] if call.last_only else frames
        if call.any_layout and len(outputs) == 1:
            return outputs[0].unsqueeze(1), state
        return torch.stack(outputs, dim=1), state

    return x, run


def _in_segments(run: Run, x: Tensor, call: Call, length: int, *, detach: bool) -> tuple[Tensor, Any]:
    """Run segments of ``length`` steps one after the other, with gradients cut between them if asked."""
    outputs: list[Tensor] = []
    steps, state = x.shape[1], call.state
    for done in range(0, steps, length):
        begin = max(0, steps - done - length) if call.reverse else done
        part = x[:, begin : steps - done if call.reverse else done + length]
        y, state = run(part, map_state(Tensor.detach, state) if detach and done else state, begin)
        outputs.append(y)
    if call.last_only:
        return outputs[-1], state
    return torch.cat(outputs[::-1] if call.reverse else outputs, dim=1), state


def _recomputed(run: Run, cell: nn.Module) -> Run:
    """`torch.utils.checkpoint` around a run; running statistics are updated in the forward pass only."""
    from torch.utils.checkpoint import checkpoint  # it loads sympy in torch 2.7

    parameters = [id(parameter) for parameter in cell.parameters()]

    def checked(x: Tensor, state: Any, begin: int) -> tuple[Tensor, Any]:
        if parameters != [id(parameter) for parameter in cell.parameters()]:
            raise OptionError(
                "checkpoint computes steps again with the module's own weights; these were swapped since, as "
                "torch.func.functional_call does: leave checkpoint out there"
            )
        return run(x, state, begin)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), preserve_statistics(cell)

    if has_batch_statistics(cell):
        return partial(checkpoint, checked, use_reentrant=False, context_fn=contexts)
    return partial(checkpoint, checked, use_reentrant=False)


def _inputs_and_step(
    cell: Any, x: Tensor, mask: Tensor | None, with_statistics: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor] | None, Step]:
    """The inputs of the loop, a projection of those of a segment if one is due, and the step."""
    if has_memory(cell):
        return x, None, partial(_step_with_memory, cell)
    # The hook of a recorder must not change the frames that batch normalisation takes its statistics from.
    hooked = engines.has_hooks(cell, recorders=not with_statistics)
    if not isinstance(cell, Cell) or engines.has_own_forward(cell) or hooked:
        return x, None, lambda frame, state: of_kind(state, cell(frame, state))

    def project(frames: Tensor) -> Tensor:
        return check_projection(cell, cell.project(frames))

    step = partial(run_step, cell)
    if with_statistics:
        return map_frames(project, x, mask), None, step
    if x.device.type in frame_by_frame_on:
        return x, None, lambda frame, state: step(project(frame), state)
    return x, partial(map_frames, project), step


def _step_with_memory(cell: Any, frame: Tensor, state: Any) -> MemoryState:
    """One call of a cell with a spatiotemporal memory."""
    result = cell(frame, state.state, state.memory)
    return MemoryState(*check_step_with_memory(cell, result, state.state))


def _step_samples(step: Step, frame: Tensor, state: Any, mask_B: Tensor) -> Any:
    """The state after a step, for which only the samples that are present are read."""
    present = mask_B.nonzero().squeeze(1)
    if not len(present):
        return state
    new = step(frame[present], map_state(lambda tensor: tensor[present], state))

    def put(part: Tensor, whole: Tensor) -> Tensor:
        dtype = torch.promote_types(part.dtype, whole.dtype)
        return whole.to(dtype).index_copy(0, present, part.to(dtype))

    return map_state(put, new, state)


def gradient_cuts(
    mask: Tensor | None, every: int | None, steps: int, reverse: bool = False
) -> Sequence[Callable[[Tensor], Tensor] | None]:
    """Per frame, None or a function that detaches the state before it: after every so many frames present."""
    if not every:
        return [None] * steps
    if mask is None:
        cuts = [Tensor.detach if done and done % every == 0 else None for done in range(steps)]
        return cuts[::-1] if reverse else cuts
    present = mask.flip(1) if reverse else mask
    done = present.cumsum(dim=1) - present.long()
    flags = present & (done > 0) & (done % every == 0)
    choices = map(where_samples, (flags.flip(1) if reverse else flags).unbind(1))
    return [partial(_detach_samples, choose) for choose in choices]


def _detach_samples(choose: Callable[[Tensor, Tensor], Tensor], tensor: Tensor) -> Tensor:
    return choose(tensor.detach(), tensor)


def _zoneout(new: Any, old: Any, probability: float, *, random: bool) -> Any:
    """The new state, whose elements keep their old value at random or in expectation.

    Integers, flags and a spatiotemporal memory are always new.
    """
    if isinstance(new, MemoryState):
        return MemoryState(_zoneout(new.state, old.state, probability, random=random), new.memory)

    def mix(new: Tensor, old: Tensor) -> Tensor:
        if not (new.is_floating_point() or new.is_complex()):
            return new
        if random:
            return torch.where(torch.rand_like(new.real) < probability, old, new)
        return new.lerp(old.to(new), probability)

    return map_state(mix, new, old)
