"""The convolutional LSTM."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import register_state
from convlstm.cells.conv_cell import ConvCell, activation_function
from convlstm.cells.original import takes_no_input_size
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.functional.gates import Activation, lstm_gates
from convlstm.validation import check_integers, check_number


class LSTMState(NamedTuple):
    """State of an LSTM: output ``h`` and cell state ``c``, each (B, hidden_dim, *S)."""

    h: Tensor
    c: Tensor


register_state(LSTMState, "convlstm.cells")


class ConvLSTMCell(ConvCell):
    """One step of a convolutional LSTM (Shi et al. 2015, arXiv:1506.04214, equation 3).

    With ``*`` a convolution that keeps the size, gates stacked in the order **i, f, o, g**, and optional
    peepholes w::

        i, f, o, g = W * [x, h] + b
        i  = sigmoid(i + w_i c)
        f  = sigmoid(f + w_f c)
        c' = f c + i tanh(g)
        o  = sigmoid(o + w_o c')
        h' = o tanh(c')

    ``conv.weight`` is (4 hidden_dim, input_dim + hidden_dim, *kernel_size) and ``conv.bias`` (4 hidden_dim,):
    the layout of the widely copied single-file ConvLSTM, so that its weights load unchanged.

    With an unbounded ``gate_activation`` such as leaky ReLU, a forget gate above 1 lets the cell state grow
    without limit over time, and one below 0 flips its sign at every step.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h and c.
        kernel_size: one integer per space axis, one to three; a single integer is a square kernel in 2-D.
        bias: True to give the gates a bias.
        gate_activation: of i, f and o: ``sigmoid``, ``hard_sigmoid``, ``tanh``, ``hard_tanh``, ``relu``,
            ``leaky_relu``, ``elu``, ``silu``, ``gelu``, ``softsign`` or ``identity``; a function, a class of
            modules, or a module (copied; `save_pretrained` takes classes and importable functions only).
        candidate_activation: of g.
        output_activation: of c' on its way to h'.
        forget_bias: added to the initial bias of the forget gate; 1 lets a fresh cell remember (Jozefowicz et
            al. 2015), 0 is the initialisation of the single-file original.
        peephole: None, ``channel`` (one weight per channel, any frame size) or ``pixel`` (one weight per
            channel and pixel, as in the paper; frames must then have ``image_size``).
        image_size: size of the frames, for pixel peepholes only.
        options: ``dilation`` and ``padding_mode`` (zeros, replicate, reflect or circular), for all axes or
            per space axis; ``recurrent_init`` (default or orthogonal); ``attention`` on the hidden state
            before the gates (spatial, channel, a module, which is copied, or what builds one of hidden_dim).

    Example:
        >>> import torch
        >>> h, c = ConvLSTMCell(3, 8, (3, 3))(torch.zeros(2, 3, 16, 20))
        >>> h.shape
        torch.Size([2, 8, 16, 20])
    """

    gates = 4
    state_class = LSTMState

    @takes_no_input_size
    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        gate_activation: str | Activation = "sigmoid",
        candidate_activation: str | Activation = "tanh",
        output_activation: str | Activation = "tanh",
        forget_bias: float = 0.0,
        peephole: str | None = None,
        image_size: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias, **options)
        self.gate_activation = activation_function(gate_activation, "gate_activation")
        self.candidate_activation = activation_function(candidate_activation, "candidate_activation")
        self.output_activation = activation_function(output_activation, "output_activation")
        forget_bias = check_number(forget_bias, "forget_bias")
        if forget_bias and not bias:
            raise OptionError(
                f"forget_bias needs bias=True; received forget_bias={forget_bias}, bias=False: leave one out"
            )
        if self.conv.bias is not None:
            with torch.no_grad():
                self.conv.bias.chunk(4)[1].add_(forget_bias)
        self.peephole_weight = self._peepholes(peephole, image_size)
        self.image_size = None if image_size is None else tuple(image_size)

    def _peepholes(self, peephole: str | None, image_size: Sequence[int] | None) -> nn.Parameter | None:
        axes = len(self.kernel_size)
        if (image_size is not None) != (peephole == "pixel"):
            raise OptionError(
                f"image_size and peephole=pixel go together; received image_size={image_size} with "
                f"peephole={peephole}: give both, or peephole=channel, which fits any size"
            )
        if peephole is None:
            return None
        check_name(peephole, ("channel", "pixel"), "peephole")
        size = (1,) * axes if image_size is None else check_integers(image_size, axes, "image_size")
        return nn.Parameter(torch.zeros(3, self.hidden_dim, *size))

    def step(self, p: Tensor, state: Any) -> LSTMState:
        """`update` with the gates of this frame and the hidden state."""
        h, c = state
        return self.update(self.preactivations(p, h), LSTMState(h, c))

    def update(self, gates: Tensor, state: LSTMState) -> LSTMState:
        """The new state from the pre-activations i, f, o, g, (B, 4 hidden_dim, *S), and the old state.

        Override this to change the rule; convolutions, layers and everything else stay.
        """
        peepholes = None
        if self.peephole_weight is not None:
            self._check_image_size(state.c.shape[2:])
            w_i, w_f, w_o = self.peephole_weight.unbind()
            peepholes = (w_i, w_f, w_o)
        h, c = lstm_gates(
            gates,
            state.c,
            peepholes=peepholes,
            gate=self.gate_activation,
            candidate=self.candidate_activation,
            output=self.output_activation,
            record=self.record_values,
        )
        return LSTMState(h, c)

    def check_size(self, size: Sequence[int]) -> None:
        """Check that frames of a size fit the padding and the peepholes."""
        super().check_size(size)
        self._check_image_size(size)

    def _check_image_size(self, size: Sequence[int]) -> None:
        if self.image_size is not None and tuple(size) != self.image_size:
            raise ShapeError(
                f"peephole=pixel fixes the size of frames to {self.image_size}; received {tuple(size)}: "
                "use peephole=channel for frames of any size"
            )
