"""Weights of tsugumi-sys/SA-ConvLSTM-Pytorch in our cell: numbers that its code gave on the same weights.

Made with SAMConvLSTMCell at f207344, float64, on weights and frames of the formulas below.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from convlstm import SAConvLSTMCell
from convlstm.cells import sa_convlstm_weights
from convlstm.errors import OptionError

SHAPES = {
    "convlstm_cell.conv": (12, 5, 3, 3),
    "attention_memory.query_h": (2, 3, 1, 1),
    "attention_memory.key_h": (2, 3, 1, 1),
    "attention_memory.value_h": (3, 3, 1, 1),
    "attention_memory.z_h": (3, 3, 1, 1),
    "attention_memory.key_m": (2, 3, 1, 1),
    "attention_memory.value_m": (3, 3, 1, 1),
    "attention_memory.z_m": (3, 3, 1, 1),
    "attention_memory.w_z": (6, 6, 1, 1),
    "attention_memory.w": (9, 9, 1, 1),
}
#: h, c and m after two frames, four values of each and the sum of squares.
NUMBERS = {
    "tanh": [
        ([0.0326575237061, -0.028523569668, 0.0306813973327, -0.0154023649527], 0.076901413907),
        ([-0.178654458899, 0.255792000764, -0.13702944388, 0.118552598337], 5.68450712049),
        ([0.066235647294, -0.0657572756414, 0.0624704266778, -0.0342230704526], 0.391781616046),
    ],
    "relu": [
        ([0.00887684483236, -0.030662511997, 0.00887787510744, -0.017697848085], 0.0692035485414),
        ([0, 0.265245646995, 0, 0.123908245937], 4.4775447565),
        ([0.0186720215348, -0.0709825068193, 0.0186741458429, -0.0394812709535], 0.377426302605),
    ],
}


def formula(name, shape):
    wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + sum(map(ord, name)))
    if len(shape) > 1:
        return wave.view(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.1 * wave + name.endswith("weight")


def public_weights(prefix=""):
    shapes = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()}
    shapes |= {f"convlstm_cell.W_c{gate}": (3, 4, 5) for gate in "ifo"}
    return {prefix + name: formula(name, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("activation", NUMBERS)
def test_a_cell_gives_the_numbers_of_the_public_code(activation):
    options = {"candidate_activation": activation, "output_activation": activation}
    cell = SAConvLSTMCell(
        2, 3, 3, attention_dim=2, mix_dim=6, peephole="pixel", image_size=(4, 5), **options
    ).double()
    weights = public_weights("sequential.sam-convlstm1.sam_convlstm_cell.")
    cell.load_state_dict(sa_convlstm_weights(weights))
    frames = torch.sin(0.3 * torch.arange(160, dtype=torch.float64)).view(2, 2, 2, 4, 5) / 2 + 0.5
    state = None
    for frame in frames:
        state = cell(frame, state)
    for tensor, (values, squares) in zip(state, NUMBERS[activation], strict=True):
        expected = torch.tensor(values, dtype=torch.float64)
        assert_close(tensor.flatten()[::30], expected, rtol=1e-10, atol=1e-12)
        assert_close(tensor.square().sum().item(), squares, rtol=1e-10, atol=0)


def test_without_peepholes_as_saved_on_a_gpu():
    weights = {name: w for name, w in public_weights().items() if "W_c" not in name}
    converted = sa_convlstm_weights(weights)
    SAConvLSTMCell(2, 3, 3, attention_dim=2, mix_dim=6).double().load_state_dict(converted)
    assert not any("peephole" in name for name in converted)


def test_other_weights_are_refused():
    with pytest.raises(OptionError, match=r"one cell of SA-ConvLSTM-Pytorch, .* received 0 of them: pass"):
        sa_convlstm_weights({"conv.weight": torch.zeros(1)})
    with pytest.raises(OptionError, match="received 2 of them"):
        sa_convlstm_weights(public_weights("a.") | public_weights("b."))
    with pytest.raises(OptionError, match="weights must be a state dict; received None: pass one"):
        sa_convlstm_weights(None)
    part = {"convlstm_cell.conv.weight": torch.zeros(12, 5, 3, 3)}
    with pytest.raises(OptionError, match="must be those of a whole cell .* received 1, .* 'conv.bias'"):
        sa_convlstm_weights(part)
