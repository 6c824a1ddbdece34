"""Contract battery for forecasters."""

import copy
import inspect
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from convlstm.errors import RunError
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.base import Forecaster
from convlstm.testing.layers import CHANNELS, built, judge, tensors
from convlstm.trust import packages_in

ForecasterFactory = Callable[[int], Forecaster]


def _frames(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _past(batch: int = 2, length: int = 4, size: tuple[int, int] = (16, 12)) -> Tensor:
    return _frames(batch, length, CHANNELS, *size)


def _takes_truth(model: Forecaster) -> bool:
    return {"future", "forced"} <= inspect.signature(model.forward).parameters.keys()


def any_number_of_frames_and_any_size(make: ForecasterFactory) -> None:
    """Forecasts are (B, L, C, H, W) for any K, L, H and W, and finite."""
    model = built(make, CHANNELS)
    for length, steps, size in ((1, 1, (16, 16)), (3, 5, (17, 30)), (6, 2, (8, 9)), (2, 9, (12, 5))):
        forecast = model(_past(1, length, size), steps)
        assert forecast.shape == (1, steps, CHANNELS, *size), (
            f"{steps} steps after {length} frames of {size} must be (1, {steps}, {CHANNELS}, *{size}), not "
            f"{tuple(forecast.shape)}"
        )
        assert forecast.isfinite().all(), "a forecast of finite frames must be finite"


def dtype_and_device_are_those_of_the_past(make: ForecasterFactory) -> None:
    """In float64, float32 and bfloat16, on the CPU and on a GPU if there is one, with like numbers."""
    expected = built(make, CHANNELS)(_past(), 2)
    for device in ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
        for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-3), (torch.bfloat16, 0.2)):
            forecast = built(make, CHANNELS, dtype=dtype).to(device)(_past().to(device, dtype), 2)
            found = forecast.device.type, forecast.dtype
            assert found == (device, dtype), f"a forecast must be {dtype} on {device}, not {found}"
            assert_close(forecast.cpu().double(), expected, rtol=tolerance, atol=tolerance)


def more_steps_continue_fewer(make: ForecasterFactory) -> None:
    """The first frames of a forecast do not depend on how many are asked for."""
    model, past = built(make, CHANNELS), _past()
    assert_close(model(past, 6)[:, :3], model(past, 3))


def sequences_are_independent(make: ForecasterFactory) -> None:
    """In evaluation mode a sequence has the same forecast alone as in a batch."""
    model, past = built(make, CHANNELS), _past(3)
    assert_close(model(past, 3), torch.cat([model(one[None], 3) for one in past]))


def calls_are_independent(make: ForecasterFactory) -> None:
    """A call leaves nothing behind that changes the next one, and does not change the past.

    In training mode a call may change buffers and draw random numbers; with both set back, the next one is
    the same.
    """
    model, past = built(make, CHANNELS), _past()
    before, held = past.clone(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model(past, 4)
    assert torch.equal(past, before), "a call must leave the past as it is"
    for other in (1 - past, _past(1, 3, (9, 8))):
        model(other, 2)
        assert_close(model(past, 4), first, rtol=0, atol=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, held[name]), f"a call in evaluation mode must leave {name} as it is"
    forecasts = []
    for _ in range(2):
        model.load_state_dict(held)
        torch.manual_seed(0)
        forecasts.append(model.train()(past, 4).detach())
        model(1 - past, 2)
    assert_close(*forecasts, rtol=0, atol=0, msg=lambda m: f"in training mode: {m}")


def every_frame_of_the_past_is_in_its_place(make: ForecasterFactory) -> None:
    """Reversing the past changes the forecast, unless the model is a constant or a mean."""
    model, past = built(make, CHANNELS), _past()
    if any(parameter.requires_grad for parameter in model.parameters()):
        same = torch.allclose(model(past.flip(1), 3), model(past, 3))
        assert not same, "the order of the past has no effect"


def every_parameter_has_a_gradient(make: ForecasterFactory) -> None:
    """In training mode the loss, with its penalty, gives every parameter not frozen a finite gradient."""
    model = built(make, CHANNELS).train()
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not parameters:
        return
    penalty: Tensor | None = None
    if isinstance(model, AutoregressiveForecaster):
        forecast, penalty = model.with_penalty(_past(), 4)
    else:
        forecast = model(_past(), 4)
    loss: Tensor = forecast.square().sum() if penalty is None else forecast.square().sum() + penalty
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in parameters.items():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} must be finite"
        assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"


def no_frame_is_read_before_its_time(make: ForecasterFactory) -> None:
    """With teacher forcing at all steps, forecast k depends on the true frames before it and on no other."""
    model, past = built(make, CHANNELS), _past()
    if not _takes_truth(model):
        return
    everywhere = torch.ones(2, 4, dtype=torch.bool)

    gradients = jacobian(  # type: ignore[no-untyped-call]
        lambda future: model(past, 4, future=future, forced=everywhere).sum((0, 2, 3, 4)),
        _frames(2, 4, CHANNELS, 16, 12, seed=2),
    )
    for k, reached in enumerate(gradients.abs().sum((1, 3, 4, 5)) > 0):
        late = [j for j in range(k, 4) if reached[j]]
        assert not late, f"forecast {k} depends on the true frame {late[0]}"
        assert not k or reached[k - 1], f"the true frame {k - 1} has no effect on forecast {k}"


def scheduled_sampling_has_an_effect(make: ForecasterFactory) -> None:
    """A forced true frame changes the later forecasts of its sequence alone; the forecast itself none."""
    model, past = built(make, CHANNELS), _past()
    if not _takes_truth(model):
        return
    if isinstance(model, AutoregressiveForecaster):
        past = model.pad(past)  # what is padded again differs from what was forecast there
    free = model(past, 4)
    forced = torch.zeros(2, 4, dtype=torch.bool)
    forced[0, 1] = True
    truth = 1 - free.detach()
    assert_close(model(past, 4, future=truth, forced=torch.zeros_like(forced)), free)
    assert_close(model(past, 4, future=free.detach(), forced=forced), free)
    changed = (model(past, 4, future=truth, forced=forced) != free).flatten(2).any(dim=2)
    assert changed.tolist() == [[False, False, True, True], [False] * 4], (
        f"a true frame forced after step 1 of the first sequence must change its steps 2 and 3; changed: "
        f"{changed.tolist()}"
    )


def steps_one_by_one_are_one_call(make: ForecasterFactory) -> None:
    """`start` and L times `step`, also in a stream of observed frames, are one call of L steps."""
    model = built(make, CHANNELS)
    if not isinstance(model, AutoregressiveForecaster):
        return
    past = _past(2, 5, (13, 10))
    whole = model(past, 4)
    padded = model.pad(past)
    frame, carry, frames = padded[:, -1], model.start(padded), []
    for _ in range(4):
        before = [tensor.clone() for tensor in tensors(carry)]
        frame, new = model.step(frame, carry)
        assert all(map(torch.equal, tensors(carry), before)), "a step must leave its carry as it is"
        assert all(len(tensor) == 2 for tensor in tensors(new)), "a carry must have the batch first"
        carry = new
        frames.append(frame[..., :13, :10])
    assert_close(torch.stack(frames, dim=1), whole)
    session = model.stream()
    for t in range(5):
        session.update(past[:, t])
        assert_close(session.forecast(2), model(past[:, : t + 1], 2))
    assert_close(session.forecast(4), whole)


def it_is_saved_and_loaded(make: ForecasterFactory) -> None:
    """A model folder gives the same forecasts; a copy is independent."""
    model, past = built(make, CHANNELS), _past()
    forecast = model(past, 3)
    assert_close(copy.deepcopy(model)(past, 3), forecast, rtol=0, atol=0)
    try:
        hyperparameters = model.hyperparameters
    except RunError:
        return  # built from a lambda or a module, which no model folder can hold
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        trust = tuple(packages_in(hyperparameters) | {type(model).__module__.split(".")[0]} - {"convlstm"})
        again = type(model).from_pretrained(folder, trust=trust).eval()
    assert_close(again(past, 3), forecast, rtol=0, atol=0)


FORECASTER_CHECKS: tuple[Callable[[ForecasterFactory], None], ...] = (
    any_number_of_frames_and_any_size,
    dtype_and_device_are_those_of_the_past,
    calls_are_independent,
    more_steps_continue_fewer,
    sequences_are_independent,
    every_frame_of_the_past_is_in_its_place,
    every_parameter_has_a_gradient,
    no_frame_is_read_before_its_time,
    scheduled_sampling_has_an_effect,
    steps_one_by_one_are_one_call,
    it_is_saved_and_loaded,
)


def check_forecaster(make: ForecasterFactory) -> None:
    """Run every check of `FORECASTER_CHECKS` on a forecaster.

    Args:
        make: builds the model from its number of channels, two space axes:
            ``lambda n: EncoderForecaster(n, [8, 8])``.

    Raises:
        AssertionError: the first check that fails, by name; also where the model raises an error of its own.
    """
    judge(FORECASTER_CHECKS, make)
