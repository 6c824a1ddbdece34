"""The contract battery of layers over sequences."""

import copy
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from convlstm.errors import ConvLSTMError

#: Builds a layer with ``batch_first=True`` and ``return_all_layers=True`` from its number of input channels.
LayerFactory = Callable[[int], nn.Module]

#: Channels of all frames.
CHANNELS = 2


def built(make: Callable[..., Any], *sizes: Any, dtype: torch.dtype = torch.float64) -> Any:
    """A module in evaluation mode, with the same weights at every call."""
    torch.manual_seed(0)
    return make(*sizes).to(dtype).eval()


def normal(*shape: int) -> Tensor:
    """Normal random numbers, float64, the same at every call."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tensors(states: Any) -> list[Tensor]:
    """All tensors of a nested structure, in order."""
    return [leaf for leaf in tree_leaves(states) if isinstance(leaf, Tensor)]


def _trained(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}


def _draw_anew(layer: nn.Module, seed: int) -> None:
    """Add random numbers to the parameters that are not frozen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in _trained(layer).values():
            parameter.add_(0.3 * torch.randn_like(parameter))


def _frames(batch: int = 3, length: int = 5, size: tuple[int, ...] = (6, 5)) -> Tensor:
    return normal(batch, length, CHANNELS, *size)


def _is_causal(layer: Any) -> bool:
    """True if no output depends on a later frame."""
    x = _frames()
    with torch.no_grad():
        return torch.allclose(layer(x)[0][-1][:, :-1], layer(x[:, :-1])[0][-1])


def shapes_follow_the_input(make: LayerFactory) -> None:
    """Outputs have the batch, length and size of the input, for several of each."""
    layer = built(make, CHANNELS)
    for batch, length, size in ((1, 1, (4, 4)), (3, 7, (5, 9)), (2, 2, (8, 3))):
        outputs, _ = layer(_frames(batch, length, size))
        shape = outputs[-1].shape
        given = (batch, length, *size)
        assert (*shape[:2], *shape[3:]) == given, f"{tuple(shape)} for {given}"


def samples_do_not_touch_each_other(make: LayerFactory) -> None:
    """A batch gives what its samples give alone, in their order."""
    layer, x = built(make, CHANNELS), _frames()
    together = layer(x)[0][-1]
    assert_close(together, torch.cat([layer(x[b : b + 1])[0][-1] for b in range(len(x))]))


def a_state_resumes_the_sequence(make: LayerFactory) -> None:
    """T calls of one frame, each with the state of the one before, are one call of T frames.

    The state that is given stays as it is.
    """
    layer, x = built(make, CHANNELS), _frames()
    whole, end = layer(x)
    state, pieces = None, []
    for t in range(x.shape[1]):
        given = tensors(state)
        before = [tensor.clone() for tensor in given]
        outputs, state = layer(x[:, t : t + 1], state)
        assert all(map(torch.equal, given, before)), "a call must leave the state given as it is"
        pieces.append(outputs[-1])
    assert_close(torch.cat(pieces, dim=1), whole[-1])
    assert_close(tensors(state), tensors(end))


def nothing_is_remembered_between_calls(make: LayerFactory) -> None:
    """The same input gives the same output, whatever was seen in between."""
    layer, x = built(make, CHANNELS), _frames()
    before = layer(x)[0][-1]
    layer(_frames(2, 3))
    assert_close(layer(x)[0][-1], before, rtol=0, atol=0)


def a_missing_frame_is_not_read(make: LayerFactory) -> None:
    """A masked frame may hold NaN: neither outputs nor gradients change, and the state is carried through."""
    layer, x = built(make, CHANNELS), _frames()
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[0, 2] = mask[1, 0] = mask[2, 4] = False
    results = []
    for fill in (0.0, torch.nan):
        filled = torch.where(mask[..., None, None, None], x, fill).requires_grad_()
        outputs, _ = layer(filled, mask=mask)
        gradients = torch.autograd.grad(outputs[-1].square().sum(), [filled, *_trained(layer).values()])
        results.append((outputs[-1], *gradients))
    assert_close(results[0], results[1])
    if _is_causal(layer):
        alone = layer(x[:1, [0, 1, 3, 4]])[0][-1]
        assert_close(results[0][0][0, [0, 1, 3, 4]], alone[0])


def each_length_is_its_own_sequence(make: LayerFactory) -> None:
    """With lengths, each sample gives what it gives alone at that length."""
    layer, x = built(make, CHANNELS), _frames()
    lengths = torch.tensor([2, 5, 3])
    together, states = layer(x, lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        alone, end = layer(x[b : b + 1, :n])
        assert_close(together[-1][b : b + 1, :n], alone[-1])
        assert_close([t[b : b + 1] for t in tensors(states)], tensors(end))


def a_reset_starts_afresh(make: LayerFactory) -> None:
    """A frame marked by reset begins a sequence that depends on nothing before it."""
    layer, x = built(make, CHANNELS), _frames()
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[:, 3] = True
    outputs = layer(x, reset=reset)[0][-1]
    assert_close(outputs, torch.cat([layer(x[:, :3])[0][-1], layer(x[:, 3:])[0][-1]], dim=1))


def padding_does_not_reach_training(make: LayerFactory) -> None:
    """In training mode, frames beyond the lengths change no output, no gradient and no buffer.

    Not judged where training draws at random at each step, as zoneout does: other frames, other draws.
    """
    x, lengths, results = _frames(length=7), torch.tensor([2, 5, 3]), []
    for steps in (5, 7):
        layer = built(make, CHANNELS).train()
        torch.manual_seed(1)  # for dropout
        outputs, _ = layer(x[:, :steps], lengths=lengths)
        there = outputs[-1][:, :5]
        parameters = list(_trained(layer).values())
        gradients = torch.autograd.grad(there.square().sum(), parameters, allow_unused=True)
        results.append([there, *(g for g in gradients if g is not None), *layer.buffers()])
    try:
        assert_close(*results)
    except AssertionError:
        layer = built(make, CHANNELS).train()
        drawn = [layer(x[:, :5], lengths=lengths)[0][-1] for _ in range(2)]
        if torch.equal(*drawn):
            raise


def every_parameter_learns(make: LayerFactory) -> None:
    """Every parameter that is not frozen gets a gradient that is not zero."""
    learns: set[str] = set()
    # Drawn anew, as a weight that starts at zero or a unit that is off hides those behind it.
    for seed in range(8):
        layer = built(make, CHANNELS)
        _draw_anew(layer, seed)
        layer(_frames())[0][-1].square().sum().backward()
        learns |= {n for n, p in layer.named_parameters() if p.grad is not None and bool(p.grad.any())}
    silent = _trained(layer).keys() - learns
    assert not silent, f"no gradient reaches {sorted(silent)}"


def gradients_are_right(make: LayerFactory) -> None:
    """Gradients agree with finite differences, those of frames also of second order."""
    layer = built(make, CHANNELS)
    x = (0.5 * _frames(1, 2, (3, 2))).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        check(lambda x: layer(x)[0][-1], (x,), fast_mode=True)
    # Away from the zeros that parameters may start at, where activations may have kinks.
    _draw_anew(layer, 0)
    trained = _trained(layer)

    def output(*values: Tensor) -> Any:
        parameters = dict(zip(trained, values, strict=True))
        return torch.func.functional_call(layer, parameters, (x.detach(),))[0][-1]

    torch.autograd.gradcheck(output, tuple(trained.values()), fast_mode=True)


def copies_are_equal(make: LayerFactory) -> None:
    """deepcopy, pickle and a state dict, also one loaded after a call, give the same function again."""
    layer, x = built(make, CHANNELS), _frames()
    expected = layer(x)[0][-1]
    assert_close(copy.deepcopy(layer)(x)[0][-1], expected, rtol=0, atol=0)
    assert_close(pickle.loads(pickle.dumps(layer))(x)[0][-1], expected, rtol=0, atol=0)
    torch.manual_seed(99)
    other = make(CHANNELS).double().eval()
    with torch.no_grad():
        other(x)
        other.load_state_dict(layer.state_dict())
        assert_close(other(x)[0][-1], expected)
    assert_close(other(x)[0][-1], expected, rtol=0, atol=0)


def every_dtype_runs(make: LayerFactory) -> None:
    """float64, float32, bfloat16 and float16 stay what they are; autocast stays close to float32.

    Whole numbers and flags of a state keep their dtype; as they may turn with a rounding, one output in
    twenty may then differ under autocast. With complex numbers among them only float64 and float32 are tried,
    without autocast, as torch has no others that it computes with.
    """
    kinds = [t.dtype for t in tensors(built(make, CHANNELS)(_frames())[1])]
    has_complex = any(kind.is_complex for kind in kinds)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)[: 2 if has_complex else 4]:
        layer = built(make, CHANNELS).to(dtype)
        outputs, states = layer(_frames().to(dtype))
        expected = [dtype, *(_in_precision_of(dtype, kind) for kind in kinds)]
        found = [t.dtype for t in (outputs[-1], *tensors(states))]
        assert found == expected, f"{dtype} is not kept: output and states are {found}, not {expected}"
    if has_complex:
        return
    layer, x = built(make, CHANNELS).float(), _frames().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)[0][-1]
    share = torch.isclose(mixed.float(), layer(x)[0][-1], rtol=0.05, atol=0.05).float().mean().item()
    least = 1.0 if all(kind.is_floating_point for kind in kinds) else 0.95
    assert share >= least, f"under autocast {share:.1%} of the outputs are within 0.05 of those in float32"


def _in_precision_of(dtype: torch.dtype, kind: torch.dtype) -> torch.dtype:
    """The dtype of a tensor of one dtype, in a layer of another."""
    if kind.is_floating_point:
        return dtype
    return dtype.to_complex() if kind.is_complex else kind


def it_can_be_built_without_memory(make: LayerFactory) -> None:
    """On the meta device the layer has shapes and no values."""
    with torch.device("meta"):
        layer = make(CHANNELS)
        outputs, _ = layer(torch.empty(2, 3, CHANNELS, 4, 4))
    assert outputs[-1].device.type == "meta"
    assert all(parameter.is_meta for parameter in layer.parameters())


def it_can_be_exported(make: LayerFactory) -> None:
    """torch.export gives the same numbers at another batch and another size."""
    layer = built(make, CHANNELS)
    free = torch.export.Dim.AUTO
    program = torch.export.export(layer, (_frames(),), dynamic_shapes=({0: free, 3: free, 4: free},))
    x = _frames(2, 5, (9, 7))
    assert_close(tensors(program.module()(x)), tensors(layer(x)))


LAYER_CHECKS: tuple[Callable[[LayerFactory], None], ...] = (
    shapes_follow_the_input,
    samples_do_not_touch_each_other,
    a_state_resumes_the_sequence,
    nothing_is_remembered_between_calls,
    a_missing_frame_is_not_read,
    each_length_is_its_own_sequence,
    a_reset_starts_afresh,
    padding_does_not_reach_training,
    every_parameter_learns,
    gradients_are_right,
    copies_are_equal,
    every_dtype_runs,
    it_can_be_built_without_memory,
    it_can_be_exported,
)


def check_layer(make: LayerFactory) -> None:
    """Run every check of `LAYER_CHECKS` on a layer.

    Args:
        make: builds the layer from its number of input channels, two space axes, with ``batch_first=True``
            and ``return_all_layers=True``: ``lambda n: ConvLSTM(n, 4, 3, 2, True, True, True)``.

    Raises:
        AssertionError: the first check that fails, by name; also where the layer raises an error of its own.
    """
    judge(LAYER_CHECKS, make)


def judge(checks: Iterable[Callable[[Any], None]], make: Any) -> None:
    """Run checks, and name the check that an error comes from.

    Raises:
        AssertionError: the first check that fails, by name.
    """
    for check in checks:
        try:
            check(make)
        except Exception as error:
            ours = isinstance(error, AssertionError | ConvLSTMError)
            reason = str(error) if ours else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{check.__name__}: {reason}") from error
