"""PredRNN, PredRNN-V2 and PredRNN++: structure, and the decoupling loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convlstm import CausalLSTMCell, GHUCell, PredRNN, PredRNNPlusPlus, PredRNNv2, StackForecaster
from convlstm.errors import OptionError


def frames(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PredRNNv2(1, [3, 3], 3, 2, decoupling=0.25).double()


@pytest.mark.parametrize(("past_length", "steps"), [(1, 1), (3, 2)])
def test_the_decoupling_loss_is_the_mean_similarity_of_what_the_memories_gain(model, past_length, steps):
    """Against a loop over steps and layers by hand, with the model's own forecasts as inputs."""
    past = frames(2, past_length, 1, 6, 8)
    forecast, penalty = model.with_penalty(past, steps)
    h, c = [frames(2, 3, 3, 4) * 0 for _ in range(2)], [frames(2, 3, 3, 4) * 0 for _ in range(2)]
    memory, terms = frames(2, 3, 3, 4) * 0, []
    for frame in torch.cat([past, forecast[:, :-1]], dim=1).unbind(1):
        x = F.pixel_unshuffle(frame, 2)
        for n, cell in enumerate(model.layers.cell_list):
            (h[n], c[n]), memory, added = cell.update(cell.project(x), (h[n], c[n]), memory)
            x = h[n]
            a, b = (F.conv2d(part, model.adapter.weight).flatten(2) for part in added)
            terms.append(((a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))).abs().mean())
    torch.testing.assert_close(penalty, 0.25 * torch.stack(terms).mean())


def test_the_decoupling_loss_costs_nothing_in_forecasting(model):
    past = frames(2, 3, 1, 6, 8)
    expected = model(past, 2)
    model.adapter.register_forward_hook(lambda *_: pytest.fail("the adapter was called"))
    with torch.no_grad():
        forecast, penalty = model.with_penalty(past, 2)
        assert penalty is None
        torch.testing.assert_close(forecast, expected)
    forecast, penalty = model.eval().with_penalty(past, 2)
    assert penalty is None
    torch.testing.assert_close(forecast, expected)


def test_the_decoupling_loss_is_that_of_each_sequence_on_average(model):
    past = frames(2, 3, 1, 6, 8)
    alone = [model.with_penalty(one[None], 2)[1] for one in past]
    torch.testing.assert_close(model.with_penalty(past, 2)[1], torch.stack(alone).mean())
    assert alone[0] != alone[1]


def test_training_lowers_the_decoupling_loss(model):
    past = frames(2, 3, 1, 6, 8)
    optimizer = torch.optim.Adam(model.layers.parameters(), 0.01)  # with the adapter as it is
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model.with_penalty(past, 2)[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_predrnn_plus_plus_is_a_stack_of_its_cells():
    torch.manual_seed(0)
    model = PredRNNPlusPlus(1, [3, 3, 3], 3, 2)
    kinds = [CausalLSTMCell, GHUCell, CausalLSTMCell, CausalLSTMCell]
    assert [type(cell) for cell in model.layers.cell_list] == kinds
    other = StackForecaster(1, [3] * 4, 3, 2, cell=kinds, bias=False)
    other.load_state_dict(model.state_dict())
    past = frames(1, 3, 1, 6, 8).float()
    torch.testing.assert_close(other(past, 2), model(past, 2), rtol=0, atol=0)
    buggy = PredRNNPlusPlus(1, [3, 3, 3], 3, 2, published_bug="memory")
    buggy.load_state_dict(model.state_dict())
    assert not torch.allclose(buggy(past, 2), model(past, 2), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [(PredRNN, 23_838_720), (PredRNNv2, 23_855_104), (PredRNNPlusPlus, 38_584_320 - 4 * 819_200)],
)
def test_defaults_have_as_many_weights_as_published(kind, weights):
    """OpenSTL's counts for Moving MNIST, without PredRNN++'s convolutions of no effect."""
    with torch.device("meta"):
        model = kind()
    assert sum(p.numel() for p in model.parameters()) == weights
    assert all(p.ndim == 4 for p in model.parameters())
    assert isinstance(model.head, nn.Conv2d)


@pytest.mark.parametrize("kind", [PredRNN, PredRNNv2, PredRNNPlusPlus])
@pytest.mark.parametrize("hidden", [[3, 4], [], 8], ids=str)
def test_widths_that_differ_are_refused(kind, hidden):
    with pytest.raises(OptionError, match="hidden_dim must hold the same number for each layer, .* received"):
        kind(1, hidden)


def test_numbers_in_place_of_lists_and_weights_of_nothing_are_refused():
    with pytest.raises(OptionError, match="hidden_dim must hold the channels of each layer; received 8"):
        StackForecaster(1, 8)
    with pytest.raises(OptionError, match="decoupling must be greater than 0; received 0"):
        PredRNNv2(1, [3], decoupling=0)
