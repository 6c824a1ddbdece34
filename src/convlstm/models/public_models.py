"""Public models: the names and shapes of their weights, and the models of this library that they become."""

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.cells import ConvLSTMCell, STLSTMCell, lstm_weights, sa_convlstm_weights
from convlstm.cells.published import (
    NoMemoryLSTMCell,
    PublishedE3DLSTMCell,
    PublishedMAUCell,
    PublishedMIMCell,
)
from convlstm.errors import ShapeError
from convlstm.models.base import Forecaster
from convlstm.models.e3d_lstm import E3DLSTM
from convlstm.models.mau import MAU
from convlstm.models.phydnet import PhyDNet
from convlstm.models.predrnn import PredRNN
from convlstm.models.predrnn_plus_plus import PredRNNPlusPlus
from convlstm.models.predrnn_v2 import PredRNNv2
from convlstm.models.sa_convlstm import PublishedSAConvLSTM
from convlstm.models.stacked import StackForecaster
from convlstm.models.swin_lstm import SwinLSTM

Weights = dict[str, Tensor]


class Family(NamedTuple):
    """A public model whose weights are converted.

    Attributes:
        name: of the model.
        mark: name of a weight that no family before it in `FAMILIES` has.
        bug: its ``published_bug``; None if there is none.
        build: makes the model, and its state dict, of the weights, the patch size, the bug asked for and
            options.
        normalised: True if it always has layer normalisation.
        options: of the model, that its weights do not tell.
    """

    name: str
    mark: str
    bug: str | None
    build: Callable[..., tuple[Forecaster, Weights]]
    normalised: bool = False
    options: tuple[str, ...] = ()


def _convlstm(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    sizes = _sizes(weights, patch_size)
    cell = NoMemoryLSTMCell if bug else ConvLSTMCell
    state = _in_our_patches(weights, patch_size)
    for n in range(len(sizes[1])):
        kernels = [state.pop(f"cell_list.{n}.conv_{part}.weight") for part in "xh"]
        state[f"layers.cell_list.{n}.conv.weight"] = lstm_weights(*kernels, gates="ifgo")["conv.weight"]
        for unused in ("conv_o", "conv_last"):
            state.pop(f"cell_list.{n}.{unused}.weight", None)
    return StackForecaster(*sizes, patch_size, cell=cell, bias=False), state


def _predrnn(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    kind = PredRNNv2 if "adapter.weight" in weights else PredRNN
    model = kind(*_sizes(weights, patch_size), patch_size)
    return model, {_inside_layers(name): w for name, w in _in_our_patches(weights, patch_size).items()}


def _predrnn_plus_plus(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    model = PredRNNPlusPlus(*_sizes(weights, patch_size), patch_size, published_bug=bug)
    state: Weights = {}
    for name, weight in _in_our_patches(weights, patch_size).items():
        if name.startswith("cell_list.") and name.endswith("conv_o.weight"):
            continue
        name = re.sub(r"cell_list\.([1-9]\d*)", lambda found: f"cell_list.{int(found[1]) + 1}", name)
        name = name.replace("gradient_highway.x_concat", "cell_list.1.conv_x")
        state[_inside_layers(name.replace("gradient_highway.z_concat", "cell_list.1.conv_h"))] = weight
    return model, state


def _mim(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    named: Weights = {}
    for name, weight in weights.items():
        if not re.fullmatch(_MIM_UNUSED, name):
            name = re.sub(
                r"^stlstm_layer_diff\.(\d+)", lambda n: f"cell_list.{int(n[1]) + 1}.non_stationary.lstm", name
            )
            named[_renamed(name, _MIM_NAMES)] = weight
    sizes, state = _sizes(named, patch_size), _in_our_patches(named, patch_size)
    layers, size = len(sizes[1]), torch.Size()
    for n in range(1, layers):
        for module in ("stationary", "non_stationary.lstm"):
            of_cell = f"cell_list.{n}.{module}"
            old, new = (state.pop(f"{of_cell}.{part}_weight") for part in ("ct", "oc"))  # i and f, and o
            state[f"{of_cell}.peephole"] = torch.cat([old, new]).view(3, *new.shape)
            size = new.shape[1:]
    cells = [
        partial(PublishedMIMCell, image_size=tuple(size), below=n > 1, above=n < layers - 1)
        for n in range(1, layers)
    ]
    model = StackForecaster(*sizes, patch_size, cell=[STLSTMCell, *cells], bias=False)
    return model, {_inside_layers(name): w for name, w in state.items()}


def _e3d_lstm(
    weights: Weights, patch_size: int, bug: str | None, **options: Any
) -> tuple[Forecaster, Weights]:
    named = {_renamed(name, _E3D_NAMES): w for name, w in weights.items()}
    sizes, state = _sizes(named, patch_size), _in_our_patches(named, patch_size)
    for n in range(len(sizes[1])):
        halves = [state.pop(f"cell_list.{n}.conv_new_{part}.weight") for part in ("cell", "gm")]
        state[f"cell_list.{n}.conv_o.weight"] = torch.cat(halves, dim=1)
    size = tuple(state["cell_list.0.norm.weight"].shape[1:])
    cell = partial(PublishedE3DLSTMCell, image_size=size, published_bug=bug)
    model = E3DLSTM(*sizes, patch_size, window=size[0], cell=cell, **options)
    return model, {_inside_layers(name): w for name, w in state.items()}


def _mau(weights: Weights, patch_size: int, bug: str | None, **options: Any) -> tuple[Forecaster, Weights]:
    if patch_size != 1:
        raise ShapeError(
            f"patch_size of MAU must be 1; received {patch_size}: weights with patches have no converter"
        )
    state = {_renamed(name, _MAU_NAMES): w for name, w in weights.items() if not re.match(_MAU_UNUSED, name)}
    kernels, levels = (
        _each(state, "layers.cell_list.{}.conv_t_next.0.weight"),
        _each(state, "decoder.{}.weight"),
    )
    sizes = (
        len(state["head.weight"]),
        [len(kernel) for kernel in kernels],
        kernels[0].shape[-1],
        len(levels),
    )
    size = tuple(state["layers.cell_list.0.conv_t.1.weight"].shape[1:])
    return MAU(*sizes, cell=partial(PublishedMAUCell, image_size=size), **options), state


def _phydnet(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    levels = {2: 1, 4: 2}.get(patch_size)
    if levels is None:
        raise ShapeError(
            f"patch_size of PhyDNet must be 4, as its authors have it, or 2; received {patch_size}: give "
            "that of the training"
        )
    state = {_renamed(name, _PHYDNET_NAMES): w for name, w in weights.items()}
    gain = state.pop("phycell.convgate.weight")
    state["phycell.gain_x.weight"], state["phycell.gain_h.weight"] = gain.chunk(2, dim=1)
    hidden = [len(kernel) // 4 for kernel in _each(state, "layers.cell_list.{}.conv.weight")]
    channels, kernel = state["encoder.0.0.weight"].shape[1], state["phycell.derivatives.weight"].shape[-1]
    return PhyDNet(channels, hidden[-1], hidden, kernel, levels=levels), state


def _sa_convlstm(
    weights: Weights, patch_size: int, bug: str | None, **options: Any
) -> tuple[Forecaster, Weights]:
    if patch_size != 1:
        raise ShapeError(
            f"patch_size of SA-ConvLSTM must be 1, as it has none; received {patch_size}: give 1"
        )
    state: Weights = {}
    hidden: list[int] = []
    while of_cell := [name for name in weights if name.startswith(f"sam-convlstm{len(hidden) + 1}.")]:
        n = len(hidden)
        cell = sa_convlstm_weights({name: weights[name] for name in of_cell})
        state |= {f"layers.{n}.cell_list.0.{name}": w for name, w in cell.items()}
        state |= {f"norms.{n}.{part}": weights[f"layernorm{n + 1}.{part}"] for part in ("weight", "bias")}
        hidden.append(cell["value.weight"].shape[0])
    state |= {f"head.{part}": weights[f"conv3d.{part}"] for part in ("weight", "bias")}
    _, past, *size = state["norms.0.weight"].shape
    kernel, width = cell["lstm.conv.weight"].shape[-1], len(cell["key.weight"])
    sizes = (len(state["head.bias"]), hidden, kernel, width, past, size)
    return PublishedSAConvLSTM(*sizes, peephole="lstm.peephole_weight" in cell, **options), state


def _swin_lstm(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    state: Weights = {}
    for name, weight in weights.items():
        if not re.search(_SWIN_UNUSED, name):
            state[_renamed(name, _SWIN_NAMES)] = weight
    embed = state["embed.0.weight"]
    if embed.shape[-1] != patch_size:
        raise ShapeError(
            f"patch_size must be that of the weights, {embed.shape[-1]}; received {patch_size}: give that"
        )
    depths: dict[str, list[int]] = {"down": [], "up": []}
    for way, found in depths.items():
        while blocks := {n.split(".")[3] for n in state if n.startswith(f"{way}.{len(found)}.blocks.")}:
            found.append(len(blocks))
    tables = [state[f"down.{n}.blocks.0.position_bias"] for n in range(len(depths["down"]))]
    heads, window = [table.shape[1] for table in tables], (math.isqrt(len(tables[0])) + 1) // 2
    sizes = (state["head.weight"].shape[1], len(embed), depths["down"], depths["up"][::-1])
    return SwinLSTM(*sizes, heads, window, patch_size), state


#: Weights that have no effect there, and what follows from sizes.
_MIM_UNUSED, _MAU_UNUSED = r"stlstm_layer_diff\.\d+\.conv_last\.weight", r"merge\.|conv_last_sr\."
_SWIN_UNUSED = r"relative_position_index|attn_mask|Upsample\.patch_embed|\d*[13579]\.red\."
#: Parts of the authors' names, and ours.
_MIM_NAMES = (
    (r"^stlstm_layer\.", "cell_list."),
    (r"^(cell_list\.\d+)\.(conv_[hx]_concat|ct_weight|oc_weight)", r"\1.stationary.\2"),
    (r"_concat", ""),
    (r"conv_t_cc", "conv_h"),
    (r"conv_s_cc", "conv_m"),
    (r"conv_x_cc", "conv_x"),
)
_E3D_NAMES = ((r"\.conv3d", ""), (r"conv_gm", "conv_m"), (r"_norm_c_t", "norm"))
_MAU_NAMES = (
    (r"^cell_list", "layers.cell_list"),
    (r"^encoders\.(\d+)\.encoder_t(_conv)?-?\d+", r"encoder.\1.0"),
    (r"^decoders\.(\d+)\.c_decoder\d+", r"decoder.\1"),
    (r"^srcnn\.0", "head"),
)
_PHYDNET_NAMES = (
    (r"^phycell\.cell_list\.0\.", "phycell."),
    (r"F\.conv1", "derivatives"),
    (r"F\.bn1", "norm"),
    (r"F\.conv2", "combine"),
    (r"convgate\.bias", "gain_x.bias"),
    (r"^convcell", "layers"),
    (r"^encoder_E\.", "encoder."),
    (r"^(en|de)coder_[ED]([pr])\.", r"\1coder_\2."),
    (r"^decoder_D\.", "decoder."),
    (r"\.(?:up)?c(\d)(?:\.main)?\.", lambda found: f".{int(found[1]) - 1}."),
)
_SWIN_NAMES = (
    (r"^(Downsample|ST)\.patch_embed\.proj", "embed.0"),
    (r"^(Downsample|ST)\.patch_embed\.norm", "embed.1"),
    (r"^(Downsample|ST)\.layers", "down"),
    (r"^ST\.layer", "down.0"),
    (r"^Upsample\.layers", "up"),
    (r"^Downsample\.downsample", "merge"),
    (r"^Upsample\.upsample", "expand"),
    (r"^(Upsample\.Unembed|ST\.PatchInflated|ST\.patch_inflated)\.ConvT?", "head"),
    (r"Swin\.layers|STBs", "blocks"),
    (r"attn\.relative_position_bias_table", "position_bias"),
    (r"(attn|mlp)\.", ""),
)
#: In the order in which they are tried.
FAMILIES = (
    Family("MIM", "stlstm_layer.0.conv_x.0.weight", None, _mim),
    Family("E3D-LSTM", "cell_list.0._norm_c_t.weight", "memory_and_recall", _e3d_lstm, options=("history",)),
    Family("MAU", "srcnn.0.weight", None, _mau, True, ("tau", "recall")),
    Family("PhyDNet", "encoder_Ep.c1.main.0.weight", None, _phydnet, True),
    Family("PredRNN++", "gradient_highway.x_concat.0.weight", "memory", _predrnn_plus_plus),
    Family("PredRNN", "cell_list.0.conv_m.0.weight", None, _predrnn),
    Family("ConvLSTM", "cell_list.0.conv_x.0.weight", "no_memory", _convlstm),
    Family("SwinLSTM-D", "Downsample.patch_embed.proj.weight", None, _swin_lstm),
    Family("SwinLSTM-B", "ST.patch_embed.proj.weight", None, _swin_lstm),
    Family(
        "SA-ConvLSTM",
        "sam-convlstm1.sam_convlstm_cell.convlstm_cell.conv.weight",
        None,
        _sa_convlstm,
        False,
        ("activation",),
    ),
)


def _renamed(name: str, pairs: Iterable[tuple[str, Any]]) -> str:
    """A name whose parts are replaced in turn, by what the second of each pair is or returns."""
    for theirs, ours in pairs:
        name = re.sub(theirs, ours, name)
    return name


def _inside_layers(name: str) -> str:
    return f"layers.{name}" if name.startswith("cell_list.") else name


def _each(weights: Weights, name: str) -> list[Tensor]:
    """The weights of all layers, lowest first, whose name is one with the number of the layer in it."""
    pattern = re.escape(name).replace(r"\{\}", r"\d+")
    count = sum(re.fullmatch(pattern, key) is not None for key in weights)
    return [weights[name.format(n)] for n in range(count)]


def _sizes(weights: Weights, patch_size: int) -> tuple[int, list[int], int]:
    """Channels of frames, hidden channels of each layer and the kernel size, of a stack in ``cell_list``."""
    kernels = _each(weights, "cell_list.{}.conv_h.0.weight")
    pixels = weights["conv_last.weight"].shape[0]
    if pixels % patch_size**2:
        raise ShapeError(
            f"patch_size must divide the {pixels} channels of the weights' patches, channels times "
            f"patch_size squared; received {patch_size}: give that of the training"
        )
    return pixels // patch_size**2, [kernel.shape[1] for kernel in kernels], kernels[0].shape[-1]


def _in_our_patches(weights: Weights, patch_size: int) -> Weights:
    """Weights of a stack with our order of the channels of patches, without the ``.0`` of sequential modules.

    There a patch's channels are (row, column, channel), here (channel, row, column).
    """
    state = {re.sub(r"\.0\.weight$", ".weight", name): weight for name, weight in weights.items()}
    state["head.weight"] = state.pop("conv_last.weight")
    for name, axis in (("cell_list.0.conv_x.weight", 1), ("head.weight", 0)):
        weight = state[name]
        split = weight.reshape(*weight.shape[:axis], patch_size**2, -1, *weight.shape[axis + 1 :])
        state[name] = split.transpose(axis, axis + 1).flatten(axis, axis + 1)
    return state
