"""Weights of other libraries' ConvLSTMs and ConvGRUs, as ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convlstm.errors import OptionError, ShapeError, check_name, first_line
from convlstm.validation import check_bool, check_number, received


def lstm_weights(
    input_kernel: Any,
    hidden_kernel: Any,
    bias: Any = None,
    *,
    gates: str,
    channels_last: bool = False,
    forget_offset: float = 0.0,
) -> dict[str, Tensor]:
    """A state dict for `ConvLSTMCell` from separate kernels over the input and the hidden state.

    What to pass for each library, whose layers keep the size ("same" padding) and have sigmoid and tanh:

    | library               | gates | channels_last | forget_offset       |
    | --------------------- | ----- | ------------- | ------------------- |
    | Keras ConvLSTM 1D-3D  | ifgo  | True          | 0                   |
    | flax ConvLSTMCell     | igfo  | True          | 1 (added each step) |
    | OpenSTL, PredRNN      | ifgo  | False         | 0                   |
    | Equinox               | ifgo  | False         | 0                   |

    (Keras writes c for what is g here; the layer must have padding="same" and recurrent_activation="sigmoid":
    ``cell.load_state_dict(lstm_weights(*keras_layer.get_weights(), gates="ifgo", channels_last=True))``.) The
    single-file ConvLSTM needs no conversion: its weights are ours.

    A Keras layer's ``dilation_rate`` dilates the input's kernel only, where ``dilation`` of a cell here
    dilates both: weights of a Keras layer with a ``dilation_rate`` above 1 give other numbers here, whatever
    the cell's options.

    Args:
        input_kernel: array or tensor ``(4 hidden, input, *kernel)``, or ``(*kernel, input, 4 hidden)`` if
            ``channels_last``.
        hidden_kernel: likewise over the hidden state.
        bias: (4 hidden,) or None.
        gates: the order in which the library stacks the gates, a permutation of ``ifog``.
        channels_last: whether kernels end with input and output channels.
        forget_offset: a constant that the library adds to the forget gate at every step.

    Returns:
        ``conv.weight`` and, if there is a bias or an offset, ``conv.bias``.

    Raises:
        OptionError: ``gates`` is no permutation of i, f, o, g.
        ShapeError: kernels that do not belong together.
    """
    _check_gates(gates, "ifog")
    kernels = [_as_tensor(kernel, "a kernel", axes=3) for kernel in (input_kernel, hidden_kernel)]
    forget_offset = check_number(forget_offset, "forget_offset")
    if check_bool(channels_last, "channels_last"):
        kernels = [kernel.movedim((-1, -2), (0, 1)) for kernel in kernels]
    hidden = kernels[1].shape[1]
    if (
        any(kernel.shape[0] != 4 * hidden for kernel in kernels)
        or kernels[0].shape[2:] != kernels[1].shape[2:]
    ):
        raise ShapeError(
            "kernels must be (4 hidden, input, *kernel) and (4 hidden, hidden, *kernel); received "
            f"{tuple(kernels[0].shape)} and {tuple(kernels[1].shape)}: channels_last says where channels are"
        )
    order = [gates.index(gate) for gate in "ifog"]
    weight = torch.cat(kernels, dim=1)
    blocks = weight.reshape(4, hidden, *weight.shape[1:])
    state = {"conv.weight": blocks[order].flatten(0, 1)}
    if bias is not None or forget_offset:
        flat = (
            torch.zeros(4 * hidden, dtype=weight.dtype) if bias is None else _as_tensor(bias, "bias", axes=1)
        )
        if flat.shape != (4 * hidden,):
            raise ShapeError(
                f"bias must be ({4 * hidden},), one value per row of the kernels; received "
                f"{tuple(flat.shape)}: sum several biases first"
            )
        by_gate = flat.view(4, hidden)[order].clone()
        by_gate[1] += forget_offset
        state["conv.bias"] = by_gate.flatten()
    return state


def gru_weights(
    kernels: Sequence[Any],
    biases: Sequence[Any] = (),
    *,
    gates: str,
    update: str,
    reset_after: bool = False,
    hidden_kernels: Sequence[Any] = (),
    hidden_biases: Sequence[Any] = (),
    hidden_first: bool = False,
) -> dict[str, Tensor]:
    """A state dict for `ConvGRUCell` from the convolutions of another ConvGRU.

    What to pass for each code, whose layers keep the size (zero padding, odd kernels) and whose gates are
    sigmoids; n has tanh unless the table says otherwise:

    | code                         | kernels                           | gates | update | further           |
    | ---------------------------- | --------------------------------- | ----- | ------ | ----------------- |
    | happyjin/ConvGRU-pytorch     | conv_gates, conv_can              | rzn   | new    |                   |
    | jacobkimmel/pytorch_convgru  | reset_gate, update_gate, out_gate | rzn   | new    |                   |
    | RAFT, RAFT-Stereo            | convz, convr, convq               | zrn   | new    | hidden_first=True |
    | DGMR (ReLU in place of tanh) | read, update, output convolution  | rzn   | old    |                   |
    | HKO-7 (leaky ReLU, 0.2)      | i2h; hidden_kernels: h2h          | rzn   | old    | reset_after=True  |

    ``cell.load_state_dict(gru_weights([c.weight for c in convs], [c.bias for c in convs], gates="rzn",
    update="new"))``, with ``cell = ConvGRUCell(..., reset_after=False)``.

    Args:
        kernels: one convolution's kernel or several, (n hidden, input + hidden, *kernel), whose rows in the
            order given are the gates'; over the input alone, (n hidden, input, *kernel), if there are
            ``hidden_kernels``.
        biases: as many, (n hidden,), or none.
        gates: order in which the rows of all kernels stack reset gate, update gate and candidate, a
            permutation of ``rzn``.
        update: what the update gate z multiplies in h': ``old``, the state before, h' = (1 - z) n + z h, as
            here; or ``new``, the candidate, h' = (1 - z) h + z n, whose z is 1 - z here.
        reset_after: whether the reset gate acts after the convolution over the hidden state,
            n = tanh(W * x + r (U * h)), or before it, n = tanh(W * x + U * (r h)); as for the cell.
        hidden_kernels: kernels over the hidden state where these are apart, (n hidden, hidden, *kernel).
        hidden_biases: their biases, or none.
        hidden_first: whether joint kernels take the hidden state before the input, [h, x].

    Returns:
        ``conv.weight``; with biases also ``conv.bias`` and, with ``reset_after``, ``reset_bias``.

    Raises:
        OptionError: ``gates`` is no permutation of r, z, n, or ``update`` is neither old nor new.
        ShapeError: kernels or biases that do not belong together.
    """
    _check_gates(gates, "rzn")
    check_name(update, ("old", "new"), "update")
    reset_after = check_bool(reset_after, "reset_after")
    hidden_first = check_bool(hidden_first, "hidden_first")
    kernels, biases, hidden_kernels, hidden_biases = (
        _as_list(given) for given in (kernels, biases, hidden_kernels, hidden_biases)
    )
    order = [gates.index(gate) for gate in "rzn"]
    weight = _joint(kernels, hidden_kernels, hidden_first)
    hidden = weight.shape[0] // 3
    added = [_rows(given) for given in (biases, hidden_biases) if given]
    if any(bias.shape != (3 * hidden,) for bias in added):
        raise ShapeError(
            f"biases must be ({3 * hidden},) in all; received {[tuple(bias.shape) for bias in added]}: pass "
            "that of each convolution once"
        )

    def ours(tensor: Tensor) -> Tensor:
        """Rows in the order r, z, n, those of z with the sign that they have here."""
        blocks = tensor.reshape(3, hidden, *tensor.shape[1:])[order]
        if update == "new":  # 1 - sigmoid(s) is sigmoid(-s)
            blocks[1] *= -1
        return blocks.flatten(0, 1)

    state = {"conv.weight": ours(weight)}
    if added:
        bias = ours(_rows(biases)) if biases else torch.zeros(3 * hidden, dtype=weight.dtype)
        over_hidden = ours(_rows(hidden_biases)) if hidden_biases else torch.zeros_like(bias)
        if reset_after:
            state["reset_bias"] = over_hidden[2 * hidden :].clone()
            over_hidden[2 * hidden :] = 0
        state["conv.bias"] = bias + over_hidden
    return state


def _joint(kernels: Sequence[Any], hidden_kernels: Sequence[Any], hidden_first: bool) -> Tensor:
    """The kernel (3 hidden, input + hidden, *kernel) of all gates, rows in the order given."""
    weight = _rows(kernels)
    hidden = weight.shape[0] // 3
    fits = weight.shape[0] == 3 * hidden
    if hidden_kernels:
        over_hidden = _rows(hidden_kernels)
        fits = fits and over_hidden.shape == (3 * hidden, hidden, *weight.shape[2:])
    if weight.ndim < 3 or not fits or (not hidden_kernels and weight.shape[1] <= hidden):
        received = [tuple(torch.as_tensor(kernel).shape) for kernel in (*kernels, *hidden_kernels)]
        raise ShapeError(
            "kernels must have 3 hidden rows in all, over input + hidden channels, or over input and hidden "
            f"channels in kernels of one size; received {received}: pass each convolution of the cell once"
        )
    if hidden_kernels:
        return torch.cat([weight, over_hidden], dim=1)
    return weight.roll(-hidden, dims=1) if hidden_first else weight


def _as_list(tensors: Any) -> list[Any]:
    """Kernels or biases of several convolutions; none for None."""
    if tensors is not None and (not isinstance(tensors, Sequence) or isinstance(tensors, (str, bytes))):
        raise ShapeError(
            f"kernels and biases must be lists; received {received(tensors)}: one per convolution"
        )
    return list(tensors or ())


def _rows(tensors: Sequence[Any]) -> Tensor:
    """Kernels or biases of several convolutions, concatenated by rows."""
    rows = [_as_tensor(tensor, "a kernel or bias", axes=1).detach() for tensor in tensors]
    if len({row.shape[1:] for row in rows}) != 1:
        raise ShapeError(
            "kernels, and biases, must differ in their rows alone; received "
            f"{[tuple(row.shape) for row in rows]}: pass those of one cell"
        )
    return torch.cat(rows)


def _check_gates(gates: Any, letters: str) -> None:
    if not isinstance(gates, str) or sorted(gates) != sorted(letters):
        raise OptionError(
            f"gates must be a permutation of {letters!r}; received {received(gates)}: name each once"
        )


def _as_tensor(value: Any, name: str, axes: int) -> Tensor:
    """A weight of another library, an array or a tensor, as a tensor of at least so many axes."""
    if isinstance(value, np.ndarray):  # torch takes no other byte order and no negative strides
        value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.empty(())
    if tensor.ndim < axes or not tensor.is_floating_point():
        raise ShapeError(
            f"{name} must be an array or a tensor of floating-point numbers with at least {axes} axes; "
            f"received {received(value)}: pass the weights"
        )
    return tensor


def sa_convlstm_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for `SAConvLSTMCell` from a cell of tsugumi-sys/SA-ConvLSTM-Pytorch.

    There every attention is followed by a 1x1 convolution of its own, and the two are mixed to twice as many
    channels, which is one affine map here: build the cell with ``mix_dim=2 * hidden_dim``, with
    ``peephole="pixel"`` and the frames' ``image_size``, with ``attention_dim`` and the LSTM's activations as
    there (``candidate_activation`` and ``output_activation``; relu in its example). Gates are stacked i, f,
    g, o in its LSTM and i, g, o in its memory. Weights of its whole forecaster, which normalises over all
    frames of a sequence at once, are for `convlstm.models.from_published`. On a GPU it neither trains nor
    saves the peepholes; they are then zeros, and the cell is built without.

    Args:
        weights: by name, with or without a prefix, such as
            ``sequential.sam-convlstm1.sam_convlstm_cell.convlstm_cell.conv.weight``; those of one cell.

    Returns:
        A state dict.

    Raises:
        OptionError: weights of another model, or of several cells.
    """
    mark = "convlstm_cell.conv.weight"
    if not isinstance(weights, Mapping):
        raise OptionError(f"weights must be a state dict; received {received(weights)}: pass one")
    weights = {str(name): w for name, w in weights.items()}
    found = [name for name in weights if name.removesuffix(mark)[-1:] in (".", "") and name.endswith(mark)]
    if len(found) != 1:
        raise OptionError(
            f"weights must be of one cell of SA-ConvLSTM-Pytorch, with one ...{mark}; received "
            f"{len(found)} of them: pass those whose names begin with one sam_convlstm_cell"
        )
    prefix = found[0].removesuffix(mark)
    own = {
        name.removeprefix(prefix): _as_tensor(w, name, axes=0).detach()
        for name, w in weights.items()
        if name.startswith(prefix)
    }
    try:
        return _sa_convlstm(own)
    except (KeyError, RuntimeError) as error:
        raise OptionError(
            f"weights must be those of a whole cell of SA-ConvLSTM-Pytorch; received {len(own)}, which gave "
            f"{first_line(error)}: pass all whose names begin with one sam_convlstm_cell"
        ) from error


def _sa_convlstm(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a cell, from its weights by the names that they have within it."""
    lstm = {name.removeprefix("convlstm_cell."): w for name, w in own.items() if "convlstm_cell." in name}
    memory = {name.removeprefix("attention_memory."): w for name, w in own.items() if "attention" in name}
    hidden = lstm["conv.weight"].shape[0] // 4
    kernel = lstm["conv.weight"]
    state = lstm_weights(kernel[:, :-hidden], kernel[:, -hidden:], lstm["conv.bias"], gates="ifgo")
    state = {f"lstm.{name}": w for name, w in state.items()}
    if "W_ci" in lstm:
        state["lstm.peephole_weight"] = torch.stack([lstm[f"W_c{gate}"] for gate in "ifo"])
    names = {"query": "query_h", "key": "key_h", "value": "value_h", "key_m": "key_m", "value_m": "value_m"}
    for ours, theirs in (names | {"gates": "w"}).items():
        state[f"{ours}.weight"] = memory[f"{theirs}.weight"].flatten(2)
        state[f"{ours}.bias"] = memory[f"{theirs}.bias"]
    of_h, of_m = memory["w_z.weight"].flatten(1).chunk(2, dim=1)
    mix = torch.cat([of_h @ memory["z_h.weight"].flatten(1), of_m @ memory["z_m.weight"].flatten(1)], dim=1)
    state["mix.weight"] = mix.unsqueeze(2)
    state["mix.bias"] = of_h @ memory["z_h.bias"] + of_m @ memory["z_m.bias"] + memory["w_z.bias"]
    return state
