"""The ConvLSTM stack."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from convlstm.cells import Cell, CellFactory, ConvLSTMCell
from convlstm.errors import OptionError, ShapeError
from convlstm.layers.scan import scan
from convlstm.pretrained import Pretrained

Kernel = int | tuple[int, ...]


class ConvLSTM(Pretrained):
    """Layers of a convolutional recurrence over a sequence of frames.

    Constructor, call and return value are those of the widely copied single-file ConvLSTM, and weights
    trained with it load by `load_state_dict`. With ``batch_first=False`` time comes first in the input *and*
    in the output.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of each layer; one integer for all or one per layer.
        kernel_size: one for all layers or a list with one per layer; each an integer or a tuple with one
            integer per space axis.
        num_layers: number of layers.
        batch_first: whether sequences are (B, T, C, *S) rather than (T, B, C, *S).
        bias: whether the gates have a bias.
        return_all_layers: whether to return every layer's outputs and state, or the last layer's only.
        cell: what each layer runs: a cell class or a `functools.partial` of one, called with
            (input_dim, hidden_dim, kernel_size, bias).

    Example:
        >>> import torch
        >>> layer = ConvLSTM(1, [16, 8], 3, num_layers=2, batch_first=True)
        >>> outputs, states = layer(torch.zeros(2, 5, 1, 24, 32))
        >>> outputs[-1].shape, states[-1].c.shape
        (torch.Size([2, 5, 8, 24, 32]), torch.Size([2, 8, 24, 32]))
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | Sequence[int],
        kernel_size: Kernel | list[Kernel],
        num_layers: int,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
        *,
        cell: CellFactory = ConvLSTMCell,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = _per_layer(hidden_dim, num_layers, "hidden_dim")
        self.kernel_size = _per_layer(kernel_size, num_layers, "kernel_size")
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bias = bias
        self.return_all_layers = return_all_layers
        inputs = [input_dim, *self.hidden_dim[:-1]]
        self.cell_list = nn.ModuleList(
            cell(n, hidden, kernel, bias)
            for n, hidden, kernel in zip(inputs, self.hidden_dim, self.kernel_size, strict=True)
        )

    def forward(
        self, input_tensor: Tensor, hidden_state: Sequence[Any] | None = None
    ) -> tuple[list[Tensor], list[Any]]:
        """Run the stack.

        Args:
            input_tensor: (B, T, C, *S), or (T, B, C, *S) with ``batch_first=False``.
            hidden_state: one state (h, c) per layer, each (B, hidden_dim, *S); None for zeros.

        Returns:
            The outputs of each layer (B, T, hidden_dim, *S), time first if the input was; and the state of
            each layer after the last frame. Only those of the last layer unless ``return_all_layers``.

        Raises:
            ShapeError: wrong rank or channels, an empty sequence, or states that do not fit the stack.
        """
        self._check(input_tensor, hidden_state)
        x = input_tensor if self.batch_first else input_tensor.transpose(0, 1)
        outputs, states = [], []
        for cell, state in zip(self.cell_list, hidden_state or [None] * self.num_layers, strict=True):
            x, state = scan(cast(Cell, cell), x, state)
            outputs.append(x if self.batch_first else x.transpose(0, 1))
            states.append(state)
        return (outputs, states) if self.return_all_layers else (outputs[-1:], states[-1:])

    def _check(self, x: Tensor, hidden_state: Sequence[Any] | None) -> None:
        space = len(self.kernel_size[0])
        layout = ", ".join(["B, T" if self.batch_first else "T, B", "C", *"DHW"[3 - space :]])
        if x.ndim != 3 + space:
            raise ShapeError(
                f"input_tensor must be ({layout}); received shape {tuple(x.shape)}: "
                + (
                    "add the missing batch or time axis"
                    if x.ndim == 2 + space
                    else "permute it to this order"
                )
            )
        if x.shape[2] != self.input_dim:
            raise ShapeError(
                f"input_tensor must have input_dim={self.input_dim} channels on axis 2 of ({layout}); "
                f"received shape {tuple(x.shape)}"
            )
        if 0 in x.shape:
            raise ShapeError(f"input_tensor must hold at least one frame; received shape {tuple(x.shape)}")
        if hidden_state is not None and len(hidden_state) != self.num_layers:
            raise ShapeError(
                f"hidden_state must hold one state per layer ({self.num_layers}); received "
                f"{len(hidden_state)}: build the layer with return_all_layers=True to get them all"
            )


def _per_layer(value: Any, num_layers: int, name: str) -> list[Any]:
    """One value per layer, kernels as tuples; a list or (for sizes) a tuple already holds one per layer."""
    if num_layers < 1:
        raise OptionError(f"num_layers must be at least 1; received {num_layers}")
    per_layer = isinstance(value, list) or (name == "hidden_dim" and not isinstance(value, int))
    values = list(value) if per_layer else [value] * num_layers
    if len(values) != num_layers:
        raise OptionError(f"{name} must hold one entry per layer ({num_layers}); received {value!r}")
    return [(v, v) if name == "kernel_size" and isinstance(v, int) else v for v in values]
