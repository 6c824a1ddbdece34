"""What holds for every stack whatever its options: streaming, masks, resets, truncation, recomputation."""

from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_stacks import CELLS, SMOOTH, cases
from torch.testing import assert_close

from convlstm import ConvGRU, ConvLSTM, ConvLSTMCell
from convlstm.layers import BothDirections, ScanOptions, SequenceFlags, StackState, scan

QUICK = settings(max_examples=30, deadline=None)


def flat(states):
    """Every tensor of a state, of all layers."""
    if isinstance(states, torch.Tensor):
        return [states]
    return [t for part in getattr(states, "all_layers", states) for t in flat(part)]


def close(a, b):
    assert_close(a, b, rtol=1e-9, atol=1e-9)


def per_frame(case):
    """A mask of the frames whose outputs do not hang on what a connection adds at a missing frame."""
    everywhere = torch.ones(case.x.shape[:2], dtype=torch.bool)
    return (
        everywhere
        if case.options["residual"] not in (True, "project")
        else case.flags.get("mask", everywhere)
    )


@QUICK
@given(
    case=cases(bidirectional=False, last_only=False, detach_every=None),
    all_layers=st.booleans(),
    data=st.data(),
)
def test_calls_of_some_frames_each_are_one_call_of_all(case, all_layers, data):
    """Also with masks and resets, cut anywhere, and whatever `return_all_layers` says of the states."""
    case.flags.pop("lengths", None)
    case = case.but(return_all_layers=all_layers)
    state = case.random_states() if data.draw(st.booleans()) else None
    whole, end = case.call(states=state)
    pieces, begin, steps = [], 0, case.x.shape[1]
    while begin < steps:
        n = data.draw(st.integers(1, steps - begin))
        part = slice(begin, begin + n)
        flags = {name: value[:, part] for name, value in case.flags.items()}
        x = case.x[:, part] if case.layer.batch_first else case.x[:, part].transpose(0, 1)
        outputs, state = case.layer(x, state, **flags)
        assert isinstance(state, StackState)
        pieces.append([y if case.layer.batch_first else y.transpose(0, 1) for y in outputs])
        begin += n
    for y, *parts in zip(whole, *pieces, strict=True):
        close(torch.cat(parts, dim=1)[per_frame(case)], y[per_frame(case)])
    close(flat(state), flat(end))


@QUICK
@given(case=cases(activations=SMOOTH, detach_every=None))
def test_each_sample_gives_what_it_gives_alone(case):
    """Outputs, states and the gradient of its frames, which are none beyond its length or under the mask."""
    assume("lengths" in case.flags or "mask" in case.flags)
    case.flags.pop("reset", None)
    x = case.x.requires_grad_()
    outputs, states = case.call()
    lengths = case.flags.get("lengths", torch.full(x.shape[:1], x.shape[1])).tolist()
    weights = [torch.randn_like(y) for y in outputs]
    (gradient,) = torch.autograd.grad(sum((w * y).sum() for w, y in zip(weights, outputs, strict=True)), x)
    for b, n in enumerate(lengths):
        kept = case.flags["mask"][b, :n] if "mask" in case.flags else torch.ones(n, dtype=torch.bool)
        own = x[b : b + 1, :n].detach().requires_grad_()
        flags = {"mask": kept[None]}
        alone, end = case.layer(own if case.layer.batch_first else own.transpose(0, 1), **flags)
        alone = [y if case.layer.batch_first else y.transpose(0, 1) for y in alone]
        loss = sum((w[b : b + 1, : y.shape[1]] * y).sum() for w, y in zip(weights, alone, strict=True))
        close(torch.autograd.grad(loss, own)[0], gradient[b : b + 1, :n])
        assert not gradient[b, n:].any()
        assert not gradient[b, :n][~kept].any()
        for y, z in zip(outputs, alone, strict=True):
            close(y[b : b + 1, : z.shape[1]], z)
        close([t[b : b + 1] for t in flat(states)], flat(end))


@QUICK
@given(case=cases(bidirectional=False, last_only=False))
def test_missing_frames_might_as_well_be_cut_out(case):
    """One way, the frames that are there give what they give in a sequence without the others."""
    assume("mask" in case.flags)
    case.flags = {"mask": case.flags["mask"]}
    case = case.but(detach_every=None)
    outputs, states = case.call()
    for b, kept in enumerate(case.flags["mask"]):
        own = case.x[b : b + 1, kept]
        alone, end = case.layer(own if case.layer.batch_first else own.transpose(0, 1))
        for y, z in zip(outputs, alone, strict=True):
            close(y[b : b + 1, kept], z if case.layer.batch_first else z.transpose(0, 1))
        close([t[b : b + 1] for t in flat(states)], flat(end))


@settings(max_examples=40, deadline=None)
@given(case=cases(activations=SMOOTH), fill=st.sampled_from([torch.nan, torch.inf, -1e300]))
def test_what_lies_under_the_mask_touches_neither_outputs_nor_gradients(case, fill):
    """B45."""
    assume("lengths" in case.flags or "mask" in case.flags)
    lengths = case.flags.get("lengths", torch.full(case.x.shape[:1], case.x.shape[1]))
    there = torch.arange(case.x.shape[1]) < lengths[:, None]
    there &= case.flags.get("mask", there)
    results = []
    for value in (0.0, fill):
        x = torch.where(there[(..., *(None,) * (case.x.ndim - 2))], case.x, value).requires_grad_()
        outputs, states = case.call(x)
        loss = sum(y.sin().sum() for y in [*outputs, *flat(states)])
        gradients = torch.autograd.grad(loss, [x, *case.layer.parameters()], allow_unused=True)
        results.append([*outputs, *flat(states), *(g for g in gradients if g is not None)])
    assert_close(results[0], results[1], rtol=0, atol=0)
    assert all(t.isfinite().all() for t in results[1])


@QUICK
@given(case=cases(flags=False, last_only=False, length=(2, 4)), data=st.data())
def test_a_reset_separates_sequences_both_ways(case, data):
    """One sample with resets is several sequences: forwards and backwards, outputs and states at the ends."""
    case = case.but(return_all_layers=True, detach_every=None)
    steps = case.x.shape[1]
    cuts = sorted({0, *data.draw(st.lists(st.integers(1, steps - 1), min_size=1))})
    reset = torch.zeros(case.x.shape[:2], dtype=torch.bool)
    reset[:, cuts] = True
    outputs, states = case.call(reset=reset)
    apart = [
        case.layer(part if case.layer.batch_first else part.transpose(0, 1))
        for part in (case.x[:, a:b] for a, b in zip(cuts, [*cuts[1:], steps], strict=True))
    ]
    for layer, y in enumerate(outputs):
        close(
            y,
            torch.cat(
                [z[layer] if case.layer.batch_first else z[layer].transpose(0, 1) for z, _ in apart], 1
            ),
        )
        first, last, end = apart[0][1][layer], apart[-1][1][layer], states[layer]
        if isinstance(end, BothDirections):
            close(flat(end.backward), flat(first.backward))
            last, end = last.forward, end.forward
        close(flat(end), flat(last))


def test_a_reset_differs_by_sample():
    layer, x = ConvLSTM(1, 2, 3, 2, True), torch.randn(2, 4, 1, 3, 3)
    reset = torch.tensor([[False, False, True, False], [False] * 4])
    (y,), _ = layer(x, reset=reset)
    assert_close(y[1:], layer(x[1:])[0][0])
    assert_close(y[:1, 2:], layer(x[:1, 2:])[0][0])


def test_a_first_frame_marked_by_reset_drops_the_state_that_was_given():
    layer, x = ConvLSTM(1, 2, 3, 1, True), torch.randn(2, 2, 1, 3, 3)
    states = layer(x)[1]
    reset = torch.tensor([[True, False], [False, False]])
    (y,), _ = layer(x, states, reset=reset)
    assert_close(y[:1], layer(x[:1])[0][0])
    assert_close(y[1:], layer(x[1:], states.map(lambda t: t[1:]))[0][0])


@pytest.mark.parametrize("kind", list(CELLS))
@pytest.mark.parametrize("every", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("recompute", [None, 2])
def test_detach_every_cuts_gradients_exactly_there(kind, every, reverse, recompute):
    """Counted from where the run begins, frames of one block of n steps reach each other and no others."""
    steps = 7
    cell = CELLS[kind](1, 2, 3).double()
    x = torch.randn(1, steps, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    y, _ = scan(cell, x, reverse=reverse, options=ScanOptions(detach_every=every, checkpoint_every=recompute))
    for t in range(steps):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        reached = gradient[0].flatten(1).any(1).tolist()
        place = {s: (steps - 1 - s if reverse else s) for s in range(steps)}
        assert reached == [
            place[s] <= place[t] and place[s] // every == place[t] // every for s in range(steps)
        ], t


@pytest.mark.parametrize("how", ["lengths", "mask"])
def test_detach_every_lets_a_short_sequence_learn_from_its_last_output(how):
    """Carried through four frames that are not there, the output is still that of the second frame."""
    layer = ConvLSTM(1, 2, 3, 1, True, last_only=True, detach_every=2)
    x = torch.randn(1, 6, 1, 4, 4, requires_grad=True)
    flags = {"lengths": torch.tensor([2]), "mask": torch.tensor([[True, True, False, False, False, False]])}
    (y,), _ = layer(x, **{how: flags[how]})
    (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    (alone,), _ = layer(x[:, :2])
    assert_close(gradient, torch.autograd.grad(alone.sum(), x)[0])


def test_detach_every_leaves_the_given_state_attached_until_its_steps_are_done():
    """An encoder's gradient comes through the state it hands over."""
    layer = ConvLSTM(1, 2, 3, 1, True, detach_every=3)
    h, c = torch.randn(2, 1, 2, 4, 4).requires_grad_().unbind()
    (y,), _ = layer(torch.randn(1, 7, 1, 4, 4), [(h, c)])
    gradients = [
        torch.autograd.grad(y[:, t].sum(), c, retain_graph=True, allow_unused=True)[0] for t in (2, 3)
    ]
    assert gradients[0] is not None
    assert gradients[0].any()
    assert gradients[1] is None or not gradients[1].any()


def test_detach_every_lets_a_learned_initial_state_learn():
    class Learned(ConvLSTMCell):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.start = torch.nn.Parameter(torch.ones(self.hidden_dim, 1, 1))

        def initial_state(self, x):
            h, c = super().initial_state(x)
            return type(super().initial_state(x))(h + self.start, c + self.start)

    layer = ConvLSTM(1, 2, 3, 1, True, cell=Learned, detach_every=4)
    layer(torch.randn(1, 3, 1, 4, 4))[0][0].sum().backward()
    assert layer.cell_list[0].start.grad is not None


@QUICK
@given(case=cases(activations=SMOOTH, checkpoint=None), every=st.integers(1, 4))
def test_recomputing_changes_neither_numbers_nor_gradients(case, every):
    x = case.x.requires_grad_()
    results = []
    for option in (None, every):
        same = case.but(checkpoint=option)
        outputs, states = same.call()
        loss = sum(y.square().sum() for y in [*outputs, *flat(states)])
        gradients = torch.autograd.grad(loss, [x, *same.layer.parameters()], allow_unused=True)
        results.append([*outputs, *flat(states), *gradients])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            close(a, b)


@pytest.mark.parametrize(("every", "again"), [(None, 0), (2, 6), (10, 6)])
def test_recomputing_steps_again_in_the_backward_pass_and_keeps_no_step_until_then(every, again):
    """Six steps forward; with ``checkpoint`` as many again, and only segments' ends saved for them."""
    layer = ConvLSTM(1, 2, 3, 1, True, checkpoint=every)
    cell, counted = layer.cell_list[0], Counter()
    step = cell.step
    cell.step = lambda *a: (counted.update(["step"]), step(*a))[1]
    (y,), _ = layer(torch.randn(1, 6, 1, 4, 4))
    assert counted["step"] == 6
    y.sum().backward()
    assert counted["step"] == 6 + again


def test_recomputing_in_training_draws_the_same_zoneout_again():
    layer = ConvLSTM(1, 2, 3, 2, True, checkpoint=2, zoneout=0.5, dropout=0.5).double()
    plain = ConvLSTM(1, 2, 3, 2, True, zoneout=0.5, dropout=0.5).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    gradients = []
    for each in (layer, plain):
        torch.manual_seed(7)
        (y,), _ = each(x)
        y.square().sum().backward()
        gradients.append([p.grad for p in each.parameters()])
    assert_close(*gradients)


@QUICK
@given(case=cases(last_only=True, bidirectional=False))
def test_last_only_is_the_output_of_the_last_frame_that_is_there(case):
    case.flags.pop("reset", None)
    outputs, states = case.call()
    whole, end = case.but(last_only=False).call()
    lengths = case.flags.get("lengths", torch.full(case.x.shape[:1], case.x.shape[1]))
    there = torch.arange(case.x.shape[1]) < lengths[:, None]
    there &= case.flags.get("mask", there)
    last = [int(flags.nonzero().max()) for flags in there]
    assert outputs[-1].shape[1] == 1
    close(outputs[-1][:, 0], whole[-1][range(len(last)), last])
    close(outputs[:-1], whole[:-1])
    close(flat(states), flat(end))


def test_last_only_of_both_directions_has_each_ones_last_step():
    """B42: what the forward half says after the last frame, and the backward half after the first."""
    torch.manual_seed(0)
    layer = ConvLSTM(1, 2, 3, 1, True, bidirectional=True, last_only=True)
    x = torch.randn(1, 5, 1, 4, 4, requires_grad=True)
    (y,), states = layer(x)
    assert_close(y[:, 0], torch.cat([states[0].forward.h, states[0].backward.h], dim=1))
    (gradient,) = torch.autograd.grad(y[:, :, 2:].sum(), x)
    assert gradient.flatten(2).any(2).all()
    assert gradient[:, 0].abs().sum() > gradient[:, -1].abs().sum()


@QUICK
@given(case=cases(bidirectional=False, last_only=False, length=(2, 4)), data=st.data())
def test_no_option_lets_a_frame_reach_outputs_before_it(case, data):
    at = data.draw(st.integers(1, case.x.shape[1] - 1))
    before, _ = case.call()
    case.x[:, at:] = torch.randn_like(case.x[:, at:])
    after, _ = case.call()
    for a, b in zip(before, after, strict=True):
        assert_close(a[:, :at], b[:, :at], rtol=0, atol=0)


@QUICK
@given(case=cases(), data=st.data())
def test_permuting_the_batch_permutes_the_outputs_only(case, data):
    """B2."""
    order = data.draw(st.permutations(range(len(case.x))))
    outputs, states = case.call()
    case.flags = {name: value[order] for name, value in case.flags.items()}
    permuted, ends = case.call(case.x[order])
    close(permuted, [y[order] for y in outputs])
    close(flat(ends), [t[order] for t in flat(states)])


def test_the_input_is_left_as_it_was():
    layer = ConvLSTM(1, 2, 3, 2, bidirectional=True, residual="project", norm="layer", batch_first=True)
    x, mask = torch.randn(2, 3, 1, 4, 4), torch.tensor([[True, False, True]] * 2)
    x[:, 1] = torch.nan
    states = layer(x.clone(), mask=mask.clone())[1]
    before = [t.clone() for t in (x, mask, *flat(states))]
    layer(x, states, mask=mask, lengths=torch.tensor([2, 3]))
    for a, b in zip(before, (x, mask, *flat(states)), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_the_scan_alone_runs_any_cell_and_reads_its_timeline():
    """The public loop, without a stack: what SequenceFlags says is what happens."""
    cell = CELLS["gru"](1, 2, 3)
    x = torch.randn(2, 4, 1, 3, 3)
    valid = torch.tensor([[True, True, False, True], [True, False, False, False]])
    y, state = scan(cell, x, flags=SequenceFlags(mask=valid))
    assert_close(y[0, 2], y[0, 1])
    assert_close(y[1, 3], y[1, 0])
    assert_close(state.h, y[:, -1])
    back, first = scan(cell, x, reverse=True)
    forth, last = scan(cell, x.flip(1))
    assert_close(back, forth.flip(1))
    assert_close(first.h, last.h)


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
def test_under_autocast_memories_have_32_bits_whatever_the_frames_have(stack, engine):
    layer = stack(1, 2, 3, 2, batch_first=True, return_all_layers=True, engine=engine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, states = layer(torch.randn(1, 3, 1, 4, 4).bfloat16())
    assert {t.dtype for state in states for t in state} == {torch.float32}
