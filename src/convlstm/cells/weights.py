"""Weights of other libraries' ConvLSTMs, as ours."""

from typing import Any

import torch
from torch import Tensor

from convlstm.errors import OptionError, ShapeError


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

    ======================  =========  =============  =================
    library                 ``gates``  channels_last  forget_offset
    ======================  =========  =============  =================
    Keras ConvLSTM1D/2D/3D  ifgo       True           0
    flax ConvLSTMCell       igfo       True           1 (added each step)
    OpenSTL, PredRNN        ifgo       False          0
    Equinox                 ifgo       False          0
    ======================  =========  =============  =================

    (Keras writes c for what is g here; the layer must have padding="same" and recurrent_activation="sigmoid":
    ``cell.load_state_dict(lstm_weights(*keras_layer.get_weights(), gates="ifgo", channels_last=True))``.) The
    single-file ConvLSTM needs no conversion: its weights are ours.

    Args:
        input_kernel: array or tensor (4 hidden, input, *kernel), or (*kernel, input, 4 hidden) if
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
    if sorted(gates) != sorted("ifog"):
        raise OptionError(f"gates must be a permutation of 'ifog'; received {gates!r}")
    kernels = [torch.as_tensor(kernel) for kernel in (input_kernel, hidden_kernel)]
    if channels_last:
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
        flat = torch.zeros(4 * hidden, dtype=weight.dtype) if bias is None else torch.as_tensor(bias)
        by_gate = flat.view(4, hidden)[order].clone()
        by_gate[1] += forget_offset
        state["conv.bias"] = by_gate.flatten()
    return state
