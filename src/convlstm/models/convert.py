"""Weights of public models, as models of this library."""

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from convlstm.cells import ConvLSTMCell, LSTMState, lstm_weights
from convlstm.errors import OptionError, RunError, ShapeError, first_line, reading
from convlstm.models.base import Forecaster
from convlstm.models.predrnn import PredRNN
from convlstm.models.predrnn_plus_plus import PredRNNPlusPlus
from convlstm.models.predrnn_v2 import PredRNNv2
from convlstm.models.stacked import StackForecaster
from convlstm.models.swin_lstm import SwinLSTM
from convlstm.validation import check_path, check_positive, received

Weights = dict[str, Tensor]


def from_published(
    weights: str | os.PathLike[str] | Mapping[str, Any],
    patch_size: int,
    *,
    published_bug: str | None = None,
) -> Forecaster:
    """The forecaster of published weights, which gives the numbers of the code that they were trained with.

    The model is recognised by the names of its weights, and its sizes are read off them:

    | weights of                | become          | gates, as stacked there                               |
    | ------------------------- | --------------- | ----------------------------------------------------- |
    | OpenSTL ConvLSTM          | StackForecaster | conv_x, conv_h: i f g o                               |
    | OpenSTL, thuml PredRNN    | PredRNN         | conv_x: i f g i' f' g' o; conv_h: i f g o;            |
    |                           |                 | conv_m: i' f' g'                                      |
    | OpenSTL, thuml PredRNN-V2 | PredRNNv2       | as PredRNN                                            |
    | OpenSTL PredRNN++         | PredRNNPlusPlus | as PredRNN, but conv_m: i' f' m; conv_c: i f g;       |
    |                           |                 | conv_c2m: i' g' f' o; x_concat, z_concat: p u         |
    | SwinLSTM-B, SwinLSTM-D    | SwinLSTM        | one gate                                              |

    thuml is thuml/predrnn-pytorch, SwinLSTM is SongTang-x/SwinLSTM. Names may have a prefix, such as
    ``model.`` or ``module.``. Weights that never have an effect there (``conv_o`` of ConvLSTM and PredRNN++,
    ``red`` of odd blocks of SwinLSTM) are left out. Variants with layer normalisation, whose weights are tied
    to one size of frames, and with actions are refused. One cell of SA-ConvLSTM-Pytorch is converted by
    `convlstm.cells.sa_convlstm_weights`.

    Args:
        weights: a state dict, a checkpoint's content with one in it, or a file of either (safetensors, or
            what ``torch.save`` wrote, of which nothing is executed).
        patch_size: pixels along the side of a patch that the model was trained with; OpenSTL has 4 for
            Moving MNIST and 2 for most other data.
        published_bug: ``no_memory`` for OpenSTL's ConvLSTM up to version 0.3.0, all its published ones, in
            which the output was o tanh(g) and the cell state had no effect; ``memory`` for its PredRNN++ of
            these versions (see `CausalLSTMCell`); None for the equations.

    Returns:
        The model, with the dtype of the weights, the widest of several.

    Raises:
        OptionError: weights of another model or variant; a bug that the model does not have.
        ShapeError: a patch size that does not fit the weights.
        RunError: a file that cannot be read.

    Example:
        >>> model = from_published("predrnn_mmnist.ckpt", patch_size=4)  # doctest: +SKIP
    """
    check_positive(patch_size, "patch_size")
    given = _state_dict(weights)
    for family in FAMILIES:
        marked = [name for name in given if f".{name}".endswith(f".{family.mark}")]
        if marked:
            prefix = marked[0].removesuffix(family.mark)
            if len(marked) > 1:
                raise OptionError(
                    f"weights must be of one model; received {family.name} {len(marked)} times, with "
                    f"{marked[0]} and {marked[1]}: give those of one, without the others"
                )
            own = {name.removeprefix(prefix): w for name, w in given.items() if name.startswith(prefix)}
            if published_bug is not None and published_bug != family.bug:
                remedy = (
                    f"write published_bug={family.bug}, or leave it out" if family.bug else "leave it out"
                )
                raise OptionError(
                    f"published_bug must be one that {family.name} has; received {published_bug!r}: {remedy}"
                )
            _refuse_variants(family.name, own)
            try:
                return _loaded(family, *family.build(own, patch_size, published_bug))
            except (KeyError, IndexError) as error:
                raise OptionError(
                    f"weights of {family.name} must be whole; received {len(own)}, without {error}: give the "
                    "state dict of the whole model"
                ) from error
            except RuntimeError as error:
                raise OptionError(
                    f"weights of {family.name} must have the shapes that its code gives them, and values; "
                    f"converting gave '{first_line(error)}': give the state dict of the whole model"
                ) from error
    known = ", ".join(family.name for family in FAMILIES)
    names = ", ".join(list(given)[:3]) + (", ..." if len(given) > 3 else "")
    ours = any(
        re.search(r"(^|\.)(layers|encoder|forecaster)\.|cell_list\.\d+\.conv\.", name) for name in given
    )
    raise OptionError(
        f"weights must be of {known}; received {names or 'no tensors'}: "
        f"{_OUR_OWN if ours else 'there is no converter for other models'}"
    )


class Family(NamedTuple):
    """A public model whose weights are converted.

    Attributes:
        name: of the model.
        mark: name of a weight that no family before it in `FAMILIES` has.
        bug: its ``published_bug``; None if there is none.
        build: makes the model, and its state dict, of the weights, the patch size and the bug asked for.
    """

    name: str
    mark: str
    bug: str | None
    build: Callable[[Weights, int, str | None], tuple[Forecaster, Weights]]


class NoMemoryLSTMCell(ConvLSTMCell):
    """A ConvLSTM whose output h' = o tanh(g) leaves out its cell state, as in OpenSTL up to version 0.3.0."""

    def update(self, gates: Tensor, state: LSTMState) -> LSTMState:
        """The new state from the pre-activations i, f, o, g and the old state."""
        _, _, o, g = gates.chunk(4, dim=1)
        return LSTMState(torch.sigmoid(o) * torch.tanh(g), super().update(gates, state).c)


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


def _swin_lstm(weights: Weights, patch_size: int, bug: str | None) -> tuple[Forecaster, Weights]:
    state: Weights = {}
    for name, weight in weights.items():
        if not re.search(_SWIN_UNUSED, name):
            for theirs, ours in _SWIN_NAMES:
                name = re.sub(theirs, ours, name)
            state[name] = weight
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


#: What to do with weights of this library.
_OUR_OWN = (
    "a model folder of this library is loaded by its class's from_pretrained, a state dict by load_state_dict"
)
#: Weights of SwinLSTM that have no effect there, and what follows from sizes.
_SWIN_UNUSED = r"relative_position_index|attn_mask|Upsample\.patch_embed|\d*[13579]\.red\."
#: Parts of the authors' names, and ours.
_SWIN_NAMES = (
    (r"^(Downsample|ST)\.patch_embed\.proj", "embed.0"),
    (r"^(Downsample|ST)\.patch_embed\.norm", "embed.1"),
    (r"^(Downsample|ST)\.layers", "down"),
    (r"^Upsample\.layers", "up"),
    (r"^Downsample\.downsample", "merge"),
    (r"^Upsample\.upsample", "expand"),
    (r"^(Upsample\.Unembed|ST\.PatchInflated)\.ConvT?", "head"),
    (r"Swin\.layers", "blocks"),
    (r"attn\.relative_position_bias_table", "position_bias"),
    (r"(attn|mlp)\.", ""),
)
#: In the order in which they are tried.
FAMILIES = (
    Family("PredRNN++", "gradient_highway.x_concat.0.weight", "memory", _predrnn_plus_plus),
    Family("PredRNN", "cell_list.0.conv_m.0.weight", None, _predrnn),
    Family("ConvLSTM", "cell_list.0.conv_x.0.weight", "no_memory", _convlstm),
    Family("SwinLSTM-D", "Downsample.patch_embed.proj.weight", None, _swin_lstm),
    Family("SwinLSTM-B", "ST.patch_embed.proj.weight", None, _swin_lstm),
)


def _inside_layers(name: str) -> str:
    return f"layers.{name}" if name.startswith("cell_list.") else name


def _sizes(weights: Weights, patch_size: int) -> tuple[int, list[int], int]:
    """Channels of frames, hidden channels of each layer and the kernel size, of a stack in ``cell_list``."""
    kernels = {
        name: w for name, w in weights.items() if re.fullmatch(r"cell_list\.\d+\.conv_h\.0\.weight", name)
    }
    hidden = [kernels[f"cell_list.{n}.conv_h.0.weight"].shape[1] for n in range(len(kernels))]
    pixels = weights["conv_last.weight"].shape[0]
    if pixels % patch_size**2:
        raise ShapeError(
            f"patch_size must divide the {pixels} channels of the weights' patches, channels times "
            f"patch_size squared; received {patch_size}: give that of the training"
        )
    return pixels // patch_size**2, hidden, next(iter(kernels.values())).shape[-1]


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


def _refuse_variants(name: str, weights: Weights) -> None:
    """Refuse weights of layer normalisation and of actions.

    Raises:
        OptionError: some are there.
    """
    for words, pattern in (
        ("layer normalisation (layer_norm=1), which is tied to one size of frames", r"\.1\.(weight|bias)$"),
        ("actions", r"\.conv_a\."),
    ):
        found = next((key for key in weights if re.search(pattern, key)), None)
        if found:
            raise OptionError(
                f"weights of {name} must be of the plain model; received a variant with {words}, as {found} "
                "shows: take weights trained without"
            )


def _loaded(family: Family, model: Forecaster, state: Weights) -> Forecaster:
    """The model with the state dict, if the names of all weights and their shapes fit."""
    expected = {name: w.shape for name, w in model.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        if name not in expected or name not in state or expected[name] != state[name].shape:
            found = tuple(state[name].shape) if name in state else "none"
            which = "such a weight" if name not in expected else "a weight of another shape"
            remedy = f"they are of a variant with {which}, which has no converter"
            raise OptionError(
                f"weights of {family.name} must have {name} {tuple(expected.get(name, ())) or 'left out'}; "
                f"received {found}: {remedy if name in state else 'give the state dict of the whole model'}"
            )
        if not state[name].is_floating_point():
            raise OptionError(
                f"weights must be real floating-point numbers; received {name} of {state[name].dtype}: give "
                "the weights as they were trained"
            )
    model.to(reduce(torch.promote_types, (w.dtype for w in state.values()))).load_state_dict(state)
    return model


def _state_dict(weights: Any) -> Weights:
    """The tensors of a state dict, of a checkpoint's content or of a file.

    Raises:
        OptionError: anything else.
        RunError: a file that cannot be read.
    """
    if isinstance(weights, (str, os.PathLike)):
        path = check_path(weights, "weights")
        if path.is_dir():
            raise OptionError(
                f"weights must be a state dict or a file; received the folder {path}: {_OUR_OWN}"
            )
        if not path.is_file():
            raise RunError(f"{path} must be a file of weights; there is none: correct the path")
        with reading(path, "be a safetensors file or a checkpoint", "copy it again", RunError):
            weights = _read(path)
    if not isinstance(weights, Mapping):
        raise OptionError(f"weights must be a state dict or a file; received {received(weights)}: pass one")
    for name in ("state_dict", "net_param"):
        if isinstance(weights.get(name), Mapping):
            weights = weights[name]
    if not _holds_tensors(weights):
        inside = {str(name): part for name, part in weights.items() if _holds_tensors(part)}
        if len(inside) > 1:
            raise OptionError(
                f"weights must be one state dict; received a checkpoint of several, {', '.join(inside)}: "
                "pass one of them"
            )
        weights = next(iter(inside.values()), weights)
    return {str(name): w.detach() for name, w in weights.items() if isinstance(w, Tensor)}


def _holds_tensors(part: Any) -> bool:
    """True for a mapping with tensors among its values."""
    return isinstance(part, Mapping) and any(isinstance(value, Tensor) for value in part.values())


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise RunError(
            f"{path} must hold tensors and plain data alone, so that reading it runs no code; torch.load "
            "refuses it: load it yourself if you trust it, and pass its state dict"
        ) from error
