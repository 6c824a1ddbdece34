"""Weights of public models, as models of this library."""

import os
import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from convlstm.errors import ConvLSTMError, OptionError, RunError, first_line, reading
from convlstm.models.base import Forecaster
from convlstm.models.public_models import FAMILIES, Family, Weights
from convlstm.validation import check_path, check_positive, received


def from_published(
    weights: str | os.PathLike[str] | Mapping[str, Any],
    patch_size: int,
    *,
    published_bug: str | None = None,
    **options: Any,
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
    | OpenSTL MIM               | StackForecaster | lowest layer as PredRNN; conv_x_cc, conv_s_cc,        |
    |                           |                 | conv_x_concat, conv_h_concat: i g f o;                |
    |                           |                 | conv_t_cc: i g o; ct_weight: i f; oc_weight: o        |
    | OpenSTL E3D-LSTM          | E3DLSTM         | conv_x: i g r o i' g' f'; conv_h: i g r o;            |
    |                           |                 | conv_gm: i f g m; conv_new_cell, conv_new_gm: o       |
    | OpenSTL, authors' MAU     | MAU             | conv_t: g t s; conv_s: g t s                          |
    | OpenSTL, authors' PhyDNet | PhyDNet         | convgate: x h; convcell: i f o g                      |
    | SwinLSTM, also OpenSTL's  | SwinLSTM        | one gate (SwinLSTM-B and SwinLSTM-D)                  |
    | SA-ConvLSTM-Pytorch       | a model of its  | convlstm_cell: i f g o; attention_memory: i g o       |
    |                           | clips alone     |                                                       |

    thuml is thuml/predrnn-pytorch, SwinLSTM SongTang-x/SwinLSTM, SA-ConvLSTM-Pytorch tsugumi-sys's; the
    authors' are ZhengChang467/MAU and vincent-leguen/PhyDNet. Names may have a prefix, such as ``model.`` or
    ``module.``. Weights that never have an effect there (``conv_o`` of ConvLSTM and PredRNN++, ``conv_last``
    of MIM's differences, ``merge`` of MAU, ``red`` of odd blocks of SwinLSTM) are left out.

    MIM, MAU, E3D-LSTM and SA-ConvLSTM have weights for every pixel there, so their models take frames of one
    size (`convlstm.cells.published`). Of SA-ConvLSTM-Pytorch they are those of SAMSeq2Seq, which gives one
    frame (`convlstm.cells.sa_convlstm_weights` converts one of its cells). Other variants are refused where
    weights show them: with layer normalisation, unless above, and with actions. Two that weights do not show
    give other numbers: ``cell_mode="residual"`` of MAU, and strides of E3D-LSTM, which OpenSTL has for KTH.

    Args:
        weights: a state dict, a checkpoint's content with one in it, or a file of either (safetensors, or
            what ``torch.save`` wrote, of which nothing is executed).
        patch_size: pixels along the side of a patch that the model was trained with; OpenSTL has 4 for
            Moving MNIST and 2 for most other data (PhyDNet halves frames twice, or once); MAU and SA-ConvLSTM
            have 1.
        published_bug: ``no_memory`` for OpenSTL's ConvLSTM up to version 0.3.0, all its published ones, in
            which the output was o tanh(g) and the cell state had no effect; ``memory`` for its PredRNN++ of
            these versions (see `CausalLSTMCell`); ``memory_and_recall`` for E3D-LSTM, all its published ones,
            in which the memory never changes and the recall mixes channels with positions; None for the
            equations.
        options: of the model, that weights do not tell. MAU: ``tau``, 5 by default, and ``recall``, false;
            E3D-LSTM: ``history``, 20, while the public code recalls all steps, of which a forecast has one
            less than frames in all; SA-ConvLSTM: ``activation``, ``relu``.

    Returns:
        The model, with the dtype of the weights, the widest of several.

    Raises:
        OptionError: weights of another model or variant; a bug or an option that the model does not have.
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
            for option in options.keys() - {*family.options}:
                known = ", ".join(family.options) or "none"
                raise OptionError(
                    f"options must be those that weights of {family.name} do not tell, {known}; received "
                    f"{option}: leave it out"
                )
            _refuse_variants(family, own)
            try:
                return _loaded(family, *family.build(own, patch_size, published_bug, **options))
            except (KeyError, IndexError) as error:
                raise OptionError(
                    f"weights of {family.name} must be whole; received {len(own)}, without {error}: give the "
                    "state dict of the whole model"
                ) from error
            except ConvLSTMError:
                raise
            except (RuntimeError, TypeError, ValueError) as error:
                raise OptionError(
                    f"weights of {family.name} must have the shapes that its code gives them, and values; "
                    f"converting gave '{first_line(error)}': give the state dict of the whole model"
                ) from error
    known = ", ".join(family.name for family in FAMILIES)
    names = ", ".join(list(given)[:3]) + (", ..." if len(given) > 3 else "")
    ours = any(
        re.search(r"(^|\.)(layers|encoder|forecaster|down)\.|cell_list\.\d+\.conv\.", name) for name in given
    )
    raise OptionError(
        f"weights must be of {known}; received {names or 'no tensors'}: "
        f"{_OUR_OWN if ours else 'there is no converter for other models'}"
    )


#: What to do with weights of this library.
_OUR_OWN = (
    "a model folder of this library is loaded by its class's from_pretrained, a state dict by load_state_dict"
)


def _refuse_variants(family: Family, weights: Weights) -> None:
    """Refuse weights of layer normalisation, unless the model always has it, and of actions.

    Raises:
        OptionError: some are there.
    """
    variants = {"actions": r"\.conv_a\."}
    if not family.normalised:
        normalisation = "layer normalisation (layer_norm=1), which is tied to one size of frames"
        variants[normalisation] = r"\.1\.(weight|bias)$"
    for words, pattern in variants.items():
        found = next((key for key in weights if re.search(pattern, key)), None)
        if found:
            raise OptionError(
                f"weights of {family.name} must be of the plain model; received a variant with {words}, as "
                f"{found} shows: take weights trained without"
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
