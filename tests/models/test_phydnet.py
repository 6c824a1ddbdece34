"""PhyDNet: numbers of the authors' code on the same weights, the moment loss in training.

Made with EncoderRNN of vincent-leguen/PhyDNet 23a992d, float64, on weights and frames of the formulas below
and a ConvLSTM of 6 and 64 channels.
"""

import math
import re

import pytest
import torch
from torch.testing import assert_close

from convlstm import PhyDNet
from convlstm.errors import OptionError


def formula(name, shape):
    wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + sum(map(ord, name)))
    if len(shape) > 1:
        return wave.view(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.1 * wave + name.endswith("weight")


def authors_name(name):
    """The authors' name of a weight of ours, but for the gain of the PhyCell."""
    for ours, theirs in (("encoder.", "encoder_E."), ("decoder.", "decoder_D.")):
        name = name.replace(ours, theirs)
    name = re.sub(r"encoder_([pr])\.", r"encoder_E\1.", name).replace("layers.cell", "convcell.cell")
    name = re.sub(r"decoder_([pr])\.", r"decoder_D\1.", name)
    kind = "upc" if name.startswith("decoder") else "c"
    name = re.sub(r"^((?:en|de)coder_\w+)\.(\d)", lambda m: f"{m[1]}.{kind}{int(m[2]) + 1}", name)
    name = re.sub(r"^((?:en|de)coder_\w+\.\w+)\.(\d)", r"\1.main.\2", name)
    parts = {"derivatives": "F.conv1", "norm": "F.bn1", "combine": "F.conv2"}
    return re.sub(r"^phycell\.(\w+)", lambda m: f"phycell.cell_list.0.{parts.get(m[1], m[1])}", name)


def with_weights_by_formula():
    model = PhyDNet(hidden_dim=[6, 64]).double()
    state = {name: formula(authors_name(name), w.shape) for name, w in model.state_dict().items()}
    gate = "phycell.cell_list.0.convgate"
    state["phycell.gain_x.weight"], state["phycell.gain_h.weight"] = formula(
        f"{gate}.weight", (64, 128, 3, 3)
    ).chunk(2, dim=1)
    state["phycell.gain_x.bias"] = formula(f"{gate}.bias", (64,))
    model.load_state_dict(state)
    return model


def test_forecasts_are_those_of_the_authors_code():
    past = torch.sin(0.3 * torch.arange(2 * 3 * 12 * 16, dtype=torch.float64)).view(2, 3, 1, 12, 16) / 2 + 0.5
    with torch.no_grad():
        forecast, penalty = with_weights_by_formula().with_penalty(past, 2)
    expected = torch.tensor(
        [0.834339184025, 0.872446822297, 0.825431873892, 0.869200858932], dtype=torch.float64
    )
    assert_close(forecast.flatten()[::192], expected, rtol=1e-10, atol=0)
    assert_close(forecast.square().sum().item(), 341.121116045, rtol=1e-10, atol=0)
    assert_close(19 * penalty.item(), 9.43661132533, rtol=1e-10, atol=0)


def test_the_published_size():
    """3.092 million."""
    assert sum(p.numel() for p in PhyDNet().parameters()) == 3_091_732


def test_training_on_the_penalty_alone_makes_filters_derivatives():
    """The first filter becomes the identity, the fourth one the derivative along rows."""
    torch.manual_seed(0)
    model = PhyDNet(latent_dim=2, hidden_dim=[2], kernel_size=3, moment_weight=1)
    past, weight = torch.rand(1, 1, 1, 4, 4), model.phycell.derivatives.weight
    optimizer = torch.optim.LBFGS([weight], max_iter=50)

    def loss():
        optimizer.zero_grad()
        penalty = model.with_penalty(past, 1)[1]
        penalty.backward()
        return penalty

    optimizer.step(loss)
    weight = weight.detach()[:, 0]
    assert_close(weight[0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]), rtol=0, atol=1e-3)
    assert_close(weight[3], torch.tensor([[0, -0.5, 0], [0, 0, 0], [0, 0.5, 0]]), rtol=0, atol=1e-3)


def test_a_last_layer_of_other_channels_is_refused():
    with pytest.raises(OptionError, match=r"must be even and .* received latent_dim=8, hidden_dim=\[8, 6\]"):
        PhyDNet(latent_dim=8, hidden_dim=[8, 6])
