"""Extra input channels of forecasters: hour, season, land masks, masks of measured pixels."""

import pytest
import torch

from convlstm import EncoderForecaster
from convlstm.errors import ShapeError
from convlstm.models import Persistence
from convlstm.models.base import run_forecaster


def model(**options):
    torch.manual_seed(0)
    return EncoderForecaster(2, [4, 6], patch_size=2, extra_channels=3, **options).eval().double()


def frames(size=(10, 13), past=4, steps=3):
    draw = torch.Generator().manual_seed(1)
    shape = {"generator": draw, "dtype": torch.float64}
    return torch.rand(2, past, 2, *size, **shape), torch.rand(2, past + steps, 3, *size, **shape)


def test_every_extra_input_but_that_of_the_last_frame_matters():
    """The forecast of a frame reads the inputs of the frames before it."""
    net, (past, inputs) = model(), frames()
    with torch.no_grad():
        forecast = net(past, 3, inputs=inputs)
        assert forecast.shape == (2, 3, 2, 10, 13)
        for k in range(7):
            changed = inputs.clone()
            changed[:, k] += 1
            differs = (net(past, 3, inputs=changed) != forecast).flatten(2).any(2)
            assert differs.tolist() == [[k <= 3 + step for step in range(3)]] * 2


def test_inputs_are_channels_beside_the_frames():
    """Against a model without extra inputs, whose frames hold them as further channels."""
    net, (past, inputs) = model(filter_radius=0), frames(steps=1)
    wide = EncoderForecaster(5, [4, 6], patch_size=2, filter_radius=0).eval().double()
    state = net.state_dict()
    mine = {name: state.get(name) for name in wide.state_dict() if not name.startswith("head")}
    head = wide.head.weight.detach().clone(), wide.head.bias.detach().clone()
    head[0][:8], head[1][:8] = state["head.weight"], state["head.bias"]
    wide.load_state_dict(mine | {"head.weight": head[0], "head.bias": head[1]})
    both = torch.cat([past, inputs[:, :4]], dim=2)
    torch.testing.assert_close(net(past, 1, inputs=inputs), wide(both, 1)[:, :, :2])


def test_a_stream_reads_them_too():
    net, (past, inputs) = model(), frames()
    session = net.stream()
    for k in range(4):
        session.update(past[:, k], inputs[:, k])
    assert session.shape == (2, 2, 10, 13)
    with torch.no_grad():
        expected = net(past, 3, inputs=inputs)
    torch.testing.assert_close(session.forecast(3, inputs[:, 4:]), expected)
    with pytest.raises(ShapeError, match=r"inputs must be \(2, 3, 3, 10, 13\)"):
        session.forecast(3)
    with pytest.raises(ShapeError, match=r"inputs must be \(2, 1, 3, 10, 13\)"):
        session.update(past[:, 0])
    with pytest.raises(ShapeError, match=r"inputs \(B, E, \*S\) must be a tensor; received an ndarray"):
        session.update(past[:, 0], inputs[:, 0].numpy())


def test_teacher_forcing_pixel_by_pixel():
    """All pixels flagged is the flag of the step; pixels that were not measured keep the forecast."""
    net, (past, inputs) = model(), frames()
    future = torch.rand(2, 3, 2, 10, 13, dtype=torch.float64)
    flags = torch.tensor([[True, True, False], [False, True, True]])
    pixels = flags[:, :, None, None, None].expand(future.shape)
    with torch.no_grad():
        whole = net(past, 3, inputs=inputs, future=future, forced=flags)
        torch.testing.assert_close(net(past, 3, inputs=inputs, future=future, forced=pixels), whole)
        holes = pixels.clone()
        holes[..., :2, :2] = False
        filled = torch.where(holes, future, 1e3)
        partly = net(past, 3, inputs=inputs, future=filled, forced=holes)
    assert partly.abs().max() < 100
    assert (partly != whole).any()


def test_wrong_inputs_are_refused():
    net, (past, inputs) = model(), frames()
    with pytest.raises(
        ShapeError, match=r"\(2, 7, 3, 10, 13\) for a model with extra_channels=3; received None"
    ):
        net(past, 3)
    with pytest.raises(ShapeError, match=r"received \(2, 6, 3, 10, 13\)"):
        net(past, 3, inputs=inputs[:, :6])
    with pytest.raises(ShapeError, match="reads 3 extra input channel.s.; received 2: give windows"):
        run_forecaster(net, past, 3, inputs[:, :, :2])
    with pytest.raises(ShapeError, match="left out for a model with extra_channels=0"):
        EncoderForecaster(2, [4])(past.float(), 3, inputs=inputs.float())


def test_models_without_them_are_run_alike():
    past, inputs = frames()
    assert torch.equal(run_forecaster(Persistence(), past, 3, inputs), Persistence()(past, 3))
    assert torch.equal(run_forecaster(model(), past, 3, inputs), model()(past, 3, inputs=inputs))
