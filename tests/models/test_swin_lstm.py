"""SwinLSTM: numbers of the authors' code on the same weights, which a converter reads.

Made with SwinLSTM_D.SwinLSTM and SwinLSTM_B.SwinLSTM of SongTang-x/SwinLSTM 4425bcf, float64, in evaluation
mode, on weights and frames of the formulas below.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from convlstm import SwinLSTM
from convlstm.errors import OptionError, ShapeError
from convlstm.models import from_published

DEEP = {"hidden_dim": 4, "depths": [2, 3], "depths_up": [3, 2], "heads": [2, 4], "window": 2}
BASE = {"hidden_dim": 4, "depths": [3], "depths_up": [], "heads": [2], "window": 4}


def formula(name, shape):
    wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + sum(map(ord, name)))
    if len(shape) > 1:
        return wave.view(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.1 * wave + name.endswith("weight")


def cell_shapes(prefix, dim, depth, heads, window):
    """Names and shapes of a cell, those that have no effect included."""
    shapes = {}
    for k in range(depth):
        own = {"norm1": (dim,), "norm2": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
        own |= {"mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim), "red": (dim, 2 * dim)}
        for name, shape in own.items():
            shapes[f"{prefix}.Swin.layers.{k}.{name}.weight"] = shape
            shapes[f"{prefix}.Swin.layers.{k}.{name}.bias"] = shape[:1]
        attention = f"{prefix}.Swin.layers.{k}.attn."
        shapes[f"{attention}relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
        shapes[f"{attention}relative_position_index"] = (window**2, window**2)
        if k % 2:
            shapes[f"{prefix}.Swin.layers.{k}.attn_mask"] = (16, window**2, window**2)
    return shapes


def embedding(prefix):
    shapes = {"proj.weight": (4, 1, 2, 2), "proj.bias": (4,), "norm.weight": (4,), "norm.bias": (4,)}
    return {f"{prefix}.patch_embed.{name}": shape for name, shape in shapes.items()}


def deep_weights(prefix=""):
    shapes = embedding("Downsample") | embedding("Upsample")
    for level, (dim, heads) in enumerate(((4, 2), (8, 4))):
        shapes |= cell_shapes(f"Downsample.layers.{level}", dim, DEEP["depths"][level], heads, 2)
        merge = f"Downsample.downsample.{level}"
        shapes |= {f"{merge}.reduction.weight": (2 * dim, 4 * dim)}
        shapes |= {f"{merge}.norm.{part}": (4 * dim,) for part in ("weight", "bias")}
        up, wide = 1 - level, 2 * dim
        shapes |= cell_shapes(f"Upsample.layers.{up}", wide, DEEP["depths_up"][level], heads, 2)
        shapes |= {f"Upsample.upsample.{up}.expand.weight": (2 * wide, wide)}
        shapes |= {f"Upsample.upsample.{up}.norm.{part}": (wide // 2,) for part in ("weight", "bias")}
    shapes |= {"Upsample.Unembed.Conv.weight": (4, 1, 3, 3), "Upsample.Unembed.Conv.bias": (1,)}
    return {prefix + name: formula(name, shape) for name, shape in shapes.items()}


def base_weights():
    shapes = embedding("ST") | cell_shapes("ST.layers.0", 4, 3, 2, 4)
    shapes |= {"ST.PatchInflated.ConvT.weight": (4, 1, 3, 3), "ST.PatchInflated.ConvT.bias": (1,)}
    return {name: formula(name, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("weights", "arguments", "size", "values", "squares"),
    [
        (
            deep_weights("module."),
            DEEP,
            32,
            [0.517393410983, 0.517551201015, 0.506505781271, 0.505833291085],
            1125.33858187,
        ),
        (
            base_weights(),
            BASE,
            16,
            [0.504074800721, 0.505122456504, 0.503517629507, 0.504595555663],
            242.207425636,
        ),
    ],
    ids=["deep", "base"],
)
def test_forecasts_are_those_of_the_authors_code(weights, arguments, size, values, squares):
    model = from_published(weights, 2)
    assert isinstance(model, SwinLSTM)
    assert {name: model.hyperparameters[name] for name in arguments} == arguments
    count = 2 * 3 * size**2
    past = torch.sin(0.3 * torch.arange(count, dtype=torch.float64)).view(2, 3, 1, size, size) / 2 + 0.5
    with torch.no_grad():
        forecast = model(past, 2)
    expected = torch.tensor(values, dtype=torch.float64)
    assert_close(forecast.flatten()[:: size**2], expected, rtol=1e-10, atol=0)
    assert_close(forecast.square().sum().item(), squares, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weights", [deep_weights("model."), base_weights()], ids=["deep", "base"])
def test_openstl_has_other_names_of_the_same_weights(weights):
    """Its code (c74deb5, with timm 0.6.11) gave the numbers of the converted model for ten random models."""
    names = {
        "Swin.layers": "STBs",
        "ST.layers.0": "ST.layer",
        "ST.PatchInflated.ConvT": "ST.patch_inflated.Conv",
    }
    renamed = {}
    for name, weight in weights.items():
        for theirs, openstl in names.items():
            name = name.replace(theirs, openstl)
        renamed[name] = weight
    assert renamed.keys() != weights.keys()
    expected = from_published(weights, 2).state_dict()
    assert_close(dict(from_published(renamed, 2).state_dict()), dict(expected), rtol=0, atol=0)


def test_the_published_size():
    """20.19 million in the authors' code, of which 1.35 million have no effect."""
    assert sum(p.numel() for p in SwinLSTM().parameters()) == 20_191_969 - 1_346_560


def test_another_patch_size_is_refused():
    with pytest.raises(ShapeError, match="patch_size must be that of the weights, 2; received 4"):
        from_published(base_weights(), 4)


def test_entries_for_other_levels_are_refused():
    with pytest.raises(OptionError, match=r"entry per level; received \[2, 6\], \[2\] and \[1, 2\]: give"):
        SwinLSTM(depths=[2, 6], depths_up=[2], heads=[1, 2])


@pytest.mark.parametrize("patch_size", range(1, 8))
def test_every_pixel_of_a_forecast_depends_on_the_past(patch_size):
    """And not on the bias of the last layer alone."""
    model = SwinLSTM(hidden_dim=4, depths=[1], depths_up=[1], heads=[1], patch_size=patch_size)
    with torch.no_grad():
        forecast = model(torch.rand(1, 2, 1, 4 * patch_size, 4 * patch_size), steps=1)
        assert (forecast != model.head.bias.sigmoid()).all()
