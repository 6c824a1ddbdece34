"""The layers: ConvLSTM and ConvGRU."""

from convlstm.cells import ConvGRUCell, ConvLSTMCell
from convlstm.layers.stack import Stack


class ConvLSTM(Stack):
    """Layers of a convolutional LSTM (Shi et al. 2015, arXiv:1506.04214) over a sequence of frames.

    Constructor, call and return value are those of the widely copied single-file ConvLSTM, and weights
    trained with it load by `load_state_dict`. One thing differs, where the original is wrong: with
    ``batch_first=False`` time comes first in the input *and* in the output.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of each layer; one integer for all or one per layer.
        kernel_size: one for all layers or a list with one per layer; each an integer (square, two space
            axes) or a tuple with one integer per space axis, one to three.
        num_layers: number of layers; may be left to the lists.
        batch_first: sequences are (B, T, C, *S), not (T, B, C, *S).
        bias: add a bias to the gates.
        return_all_layers: return every layer's outputs and state, not the last layer's only.
        cell: what each layer runs: a cell class, a `functools.partial` of one (for its options, see
            `ConvLSTMCell`), or a list with one per layer; called with (input_dim, hidden_dim, kernel_size,
            bias).
        bidirectional: add a second cell per layer, with weights of its own, that reads the sequence from its
            end; its outputs stand at the place of their frames. With ``last_only`` see there.
        merge: of both directions: ``concat`` (hidden_dim doubles), ``sum`` or ``mean``.
        residual: connection around each layer: True (adds its input, at a missing frame the last one that was
            there in this call; channels must be equal), ``project`` (adds a 1x1 convolution of it), or
            ``dense`` (each layer reads the input and all layers below).
        norm: of each layer's output: ``group``, ``layer`` (over channels, per pixel), or what builds a
            module from a number of channels. Batch normalisation takes its statistics in training from the
            frames that are there, those beyond ``lengths`` or missing in ``mask`` left out.
        dropout: probability of dropping a channel between layers, the same at all times (Gal and Ghahramani
            2016, arXiv:1512.05287); in training only.
        zoneout: probability with which an element of the state keeps its old value (Krueger et al. 2017,
            arXiv:1606.01305) in training; otherwise old and new are mixed in that proportion. Only the
            reference engine has it.
        target_size: size to which frames are averaged before the first layer, whatever size they have.
        restore_size: interpolate outputs back to the size of the input.
        last_only: return the last layer's output after the last step only, as T = 1. The last step of the
            backward direction is the first frame: with ``bidirectional`` the result joins the forward output
            at the last frame and the backward output at the first, as in Keras, and is not
            ``outputs[:, -1:]``.
        detach_every: steps after which gradients are cut (truncated back-propagation through time). Frames
            that a sequence has are counted: one that has ended (``lengths``) is not cut again.
        checkpoint: steps per segment that is computed again in the backward pass rather than kept in memory.
        engine: what does the arithmetic, with the same numbers: ``reference`` (the loop over time as it is
            written), ``fused`` (one function for the whole sequence with its backward pass by hand; on a CPU
            small calls are left to the loop), ``compiled`` (the same, whatever the size, with kernels that a
            C++ compiler, for a GPU Triton, makes in some seconds when a machine first needs them) or ``auto``
            (the fastest that can serve the call; the loop in float64, and for small sequences with missing
            frames). On a GPU ``fused`` and ``compiled`` replay a CUDA graph from the third call of the same
            sizes on. An engine named that cannot serve a call says why; cells that it does not know keep
            their own ``step``.
        save: what ``fused`` and ``compiled`` keep of each step for the backward pass: ``gates``, ``state``
            (a quarter to a third of that; the gates are computed again, which takes one more convolution) or
            ``auto`` (gates, up to 2 GiB a layer).

    Raises:
        OptionError: an option out of its range, or options that exclude each other.

    Example:
        >>> import torch
        >>> layer = ConvLSTM(1, [16, 8], 3, batch_first=True)
        >>> outputs, states = layer(torch.zeros(2, 5, 1, 24, 32))
        >>> outputs[-1].shape, states[-1].c.shape
        (torch.Size([2, 5, 8, 24, 32]), torch.Size([2, 8, 24, 32]))
    """

    default_cell = ConvLSTMCell


class ConvGRU(Stack):
    """Layers of a convolutional GRU over a sequence of frames.

    It takes the arguments of `ConvLSTM`, is called like it and returns the same; each layer runs a
    `ConvGRUCell`, whose options go through ``cell``, and has the state (h,).

    Example:
        >>> import torch
        >>> outputs, states = ConvGRU(1, 8, 3, 2, batch_first=True)(torch.zeros(2, 5, 1, 24, 32))
        >>> outputs[-1].shape, states[-1].h.shape
        (torch.Size([2, 5, 8, 24, 32]), torch.Size([2, 8, 24, 32]))
    """

    default_cell = ConvGRUCell
