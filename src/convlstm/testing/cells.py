"""Contract battery for cells."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm.cells.base import Cell, CellFactory, check_initial, check_projection, check_step
from convlstm.layers import ConvLSTM
from convlstm.testing.layers import built, check_layer, judge, normal, tensors
from convlstm.trust import packages_in

_SIZES: tuple[int, int, tuple[int, ...], bool] = (2, 3, (3, 3), True)


def _frame(batch: int = 2, size: tuple[int, int] = (5, 4)) -> Tensor:
    return normal(batch, 2, *size)


def _after(cell: Cell, p: Tensor, state: Any, memory: Tensor | None = None) -> tuple[Any, ...]:
    """State after a step, and the spatiotemporal memory of a cell that has one."""
    step: Any = cell.step
    if not cell.spatiotemporal_memory:
        return (step(p, state),)
    new, memory = step(p, state, cell.initial_memory(state.h) if memory is None else memory)
    return new, memory


def state_is_named_and_fits(make: CellFactory) -> None:
    """The state is a flat NamedTuple of tensors with the output as ``h``, whose shapes and dtypes stay.

    ``h`` has the batch, size and dtype of the frame; other tensors may have any dtype.
    """
    cell, x = built(make, *_SIZES), _frame()
    initial = check_initial(cell, cell.initial_state(x))
    new = check_step(cell, _after(cell, check_projection(cell, cell.project(x)), initial)[0], initial)
    for state in (initial, new):
        assert state.h.shape == (2, 3, 5, 4), f"h must be (B, hidden_dim, *S), not {tuple(state.h.shape)}"
        assert state.h.dtype == x.dtype, f"h must have the frames' dtype {x.dtype}, not {state.h.dtype}"
    for name, old, tensor in zip(initial._fields, initial, new, strict=True):
        assert old.dtype == tensor.dtype, f"step must keep the dtype of {name}: {old.dtype}, {tensor.dtype}"


def projection_is_frame_by_frame(make: CellFactory) -> None:
    """`project` of many frames at once is that of each, and a call is a `step` of it."""
    cell, x = built(make, *_SIZES), _frame(4)
    together = cell.project(x)
    assert_close(together, torch.cat([cell.project(frame[None]) for frame in x]))
    called = cell(x)
    assert_close(
        tensors(_after(cell, together, cell.initial_state(x))),
        tensors(called if cell.spatiotemporal_memory else (called,)),
    )


def output_depends_on_input_and_state(make: CellFactory) -> None:
    """The frame, every tensor of the state and a spatiotemporal memory reach the new state.

    Not so the output of a cell that sets ``reads_output = False``, which must have no effect.
    Real and complex tensors are drawn at random and show it by a gradient. Others may only have some values:
    those that the cell gives them in its first steps are put in each other's place.
    """
    cell, x = built(make, *_SIZES), _frame().requires_grad_()
    reached, memory = [cell.initial_state(x.detach())], None
    for _ in range(3):
        new, *rest = _after(cell, cell.project(x.detach()), reached[-1], memory)
        reached.append(new)
        memory = rest[0] if rest else None
    smooth = [t.is_floating_point() or t.is_complex() for t in reached[-1]]
    drawn = [
        torch.rand_like(t, requires_grad=True) if s else t for t, s in zip(reached[-1], smooth, strict=True)
    ]
    state = type(reached[0])(*drawn)
    inputs = {"the frame": x} | {name: t for name, t in state._asdict().items() if t.requires_grad}
    if memory is not None:
        inputs["the spatiotemporal memory"] = memory = torch.rand_like(memory, requires_grad=True)
    projected = cell.project(x)
    new = tensors(_after(cell, projected, state, memory))
    results = [t.abs().square().sum() for t in new if t.requires_grad]
    assert results, "the frame has no effect"
    total = torch.stack(results).sum()
    gradients = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    for name, gradient in zip(inputs, gradients, strict=True):
        has_effect = gradient is not None and bool(gradient.any())
        if name == "h" and not cell.reads_output:
            assert not has_effect, "h has an effect: leave reads_output = False out"
        else:
            assert has_effect, f"{name} has no effect"
    for name in set(state._fields) - inputs.keys():
        values = [getattr(earlier, name) for earlier in reached]
        other = next((t for t in values if not torch.equal(t, values[-1])), None)
        if other is None:  # it never changes: no other value is known
            continue
        changed = tensors(_after(cell, projected, state._replace(**{name: other}), memory))
        alike = all(torch.equal(a, b) for a, b in zip(new, changed, strict=True))
        assert not alike, f"{name} has no effect"


def any_size_without_new_parameters(make: CellFactory) -> None:
    """One cell takes frames of any size."""
    cell = built(make, *_SIZES)
    for size in ((1, 1), (3, 8), (10, 6)):
        frame = _frame(size=size)
        assert _after(cell, cell.project(frame), cell.initial_state(frame))[0].h.shape[2:] == size


def layers_of_it_keep_their_contract(make: CellFactory) -> None:
    """Stacks of it pass `check_layer`, and read sequences of different lengths from both ends.

    A spatiotemporal memory has one direction.
    """
    check_layer(lambda n: ConvLSTM(n, 3, 3, 2, True, True, True, cell=make))
    if make(*_SIZES).spatiotemporal_memory:
        return
    both = ConvLSTM(2, 3, 3, 2, True, True, True, cell=make, bidirectional=True).double().eval()
    x = torch.randn(2, 4, 2, 5, 4, dtype=torch.float64)
    lengths = torch.tensor([4, 2])
    outputs, _ = both(x, lengths=lengths)
    assert_close(outputs[-1][1:, :2], both(x[1:, :2])[0][-1])


def layers_of_it_can_be_saved(make: CellFactory) -> None:
    """A layer of it is written to a folder and read back; the cell must be importable for that."""
    layer = ConvLSTM(2, 3, 3, 2, cell=make)
    with tempfile.TemporaryDirectory() as folder:
        own = tuple(packages_in(layer.hyperparameters))
        again = ConvLSTM.from_pretrained(layer.save_pretrained(folder), trust=own)
    x = torch.randn(3, 1, 2, 5, 4)
    assert_close(again.eval()(x)[0], layer.eval()(x)[0], rtol=0, atol=0)


def segments_train_alike(make: CellFactory) -> None:
    """In training mode, steps recomputed in the backward pass change no gradient and no buffer.

    A stack with a spatiotemporal memory keeps all steps.
    """
    if make(*_SIZES).spatiotemporal_memory:
        return
    x, results = torch.randn(2, 4, 2, 5, 4, dtype=torch.float64), []
    for checkpoint in (None, 2):
        torch.manual_seed(0)
        layer = ConvLSTM(2, 3, 3, 1, True, cell=make, checkpoint=checkpoint).double()
        outputs, _ = layer(x)
        outputs[0].square().sum().backward()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        results.append([outputs[0], *gradients, *layer.buffers()])
    assert_close(*results)


CELL_CHECKS: tuple[Callable[[CellFactory], None], ...] = (
    state_is_named_and_fits,
    projection_is_frame_by_frame,
    output_depends_on_input_and_state,
    any_size_without_new_parameters,
    layers_of_it_keep_their_contract,
    layers_of_it_can_be_saved,
    segments_train_alike,
)


def check_cell(make: CellFactory, options: Mapping[str, Any] | None = None) -> None:
    """Run every check of `CELL_CHECKS` on a cell, and see that each of its options has an effect.

    Args:
        make: a cell class or factory, called with (input_dim, hidden_dim, kernel_size, bias).
        options: for each keyword option a value other than its default; with it, the cell must have other
            parameters or give another state.

    Raises:
        AssertionError: the first check that fails, by name; also where the cell raises an error of its own.
    """
    judge(CELL_CHECKS, make)
    for name, value in (options or {}).items():
        assert _differs(make, partial(make, **{name: value})), f"{name}={value!r} has no effect"


def _differs(make: CellFactory, other: CellFactory) -> bool:
    """True if two cells built from one seed have other parameters or give other states after two steps."""
    cells, x = (built(make, *_SIZES), built(other, *_SIZES)), _frame(size=(9, 8))
    weights = [{name: t.shape for name, t in cell.state_dict().items()} for cell in cells]
    if weights[0] != weights[1]:
        return True
    ends = []
    for cell in cells:
        p = cell.project(x)
        ends.append(tensors(_after(cell, p, *_after(cell, p, cell.initial_state(x)))))
    return len(ends[0]) != len(ends[1]) or any(not torch.equal(a, b) for a, b in zip(*ends, strict=True))
