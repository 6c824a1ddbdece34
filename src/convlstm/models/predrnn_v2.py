"""PredRNN-V2: PredRNN with a loss that keeps its two memories apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells import STLSTMCell, register_state
from convlstm.models.options import equal_widths
from convlstm.models.stacked import StackForecaster
from convlstm.validation import check_number


class IncrementState(NamedTuple):
    """State of an ST-LSTM, and what the step added to its two memories, each (B, hidden_dim, *S)."""

    h: Tensor
    c: Tensor
    add_c: Tensor
    add_m: Tensor


register_state(IncrementState, "convlstm.models.predrnn_v2")


class IncrementCell(STLSTMCell):
    """An ST-LSTM whose state tells what the step added to its two memories."""

    def initial_state(self, x: Tensor) -> Any:
        """Zeros, (B, hidden_dim, *S)."""
        h, c = super().initial_state(x)
        return IncrementState(h, c, h.clone(), h.clone())

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[Any, Tensor]:  # type: ignore[override]
        """The new state, with the increments, and the spatiotemporal memory."""
        new, memory, added = self.update(p, state[:2], memory)
        return IncrementState(*new, *added), memory


class PredRNNv2Carry(NamedTuple):
    """Carry of `PredRNNv2`.

    Attributes:
        layers: states of the layers; None for the initial ones.
        similarity: (B, 2), the sum over steps of the similarity of the memories' increments, and the number
            of steps; None where no gradients are taken.
    """

    layers: Any
    similarity: Tensor | None


class PredRNNv2(StackForecaster):
    """PredRNN trained with memory decoupling (Wang et al. 2022, arXiv:2103.09504).

    The two memories of an ST-LSTM are to hold different things: with delta c and delta m what a step adds to
    each, and A a 1x1 convolution that all layers share, the `penalty` of training is::

        decoupling mean |cos(A * delta c, A * delta m)|

    the cosine over the pixels of each channel, the mean over steps (past and future), layers, sequences and
    channels. It is computed in training mode while gradients are taken, and A has no effect on forecasts.

    By default as the authors train it on Moving MNIST: four layers of 128, kernels of 5, patches of 4, no
    biases. They train with reverse scheduled sampling over all next frames, Adam at 1e-4.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer, all equal.
        kernel_size: of the recurrent layers.
        patch_size, output, bias, extra_channels, engine: as for `StackForecaster`.
        decoupling: weight of the penalty, above 0.
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (128, 128, 128, 128),
        kernel_size: int = 5,
        patch_size: int = 4,
        output: str = "linear",
        *,
        bias: bool = False,
        extra_channels: int = 0,
        engine: str = "auto",
        decoupling: float = 0.1,
    ) -> None:
        widths = equal_widths(hidden_dim)
        super().__init__(
            channels,
            widths,
            kernel_size,
            patch_size,
            output,
            IncrementCell,
            bias=bias,
            extra_channels=extra_channels,
            engine=engine,
        )
        self.decoupling = check_number(decoupling, "decoupling", above=0)
        self.adapter = nn.Conv2d(widths[0], widths[0], 1, bias=False)

    def start(self, past: Tensor) -> Any:
        """The carry after all frames of the past (B, K, C, H, W) but the last."""
        if not (self.training and torch.is_grad_enabled()):
            return PredRNNv2Carry(super().start(past), None)
        carry = PredRNNv2Carry(None, past.new_zeros(past.shape[0], 2))
        for frame in past[:, :-1].unbind(1):
            carry = self.observe(frame, carry)
        return carry

    def step(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        forecast, layers = super().step(frame, carry.layers)
        return forecast, PredRNNv2Carry(layers, self._compared(layers, carry.similarity))

    def observe(self, frame: Tensor, carry: Any) -> Any:
        """The carry after an observed frame (B, C, H, W)."""
        layers = super().observe(frame, carry.layers)
        return PredRNNv2Carry(layers, self._compared(layers, carry.similarity))

    def penalty(self, carry: Any) -> Tensor | None:
        """The decoupling loss, of the steps that led to the carry; None where no gradients are taken."""
        if carry.similarity is None:
            return None
        similarity: Tensor = carry.similarity
        total, steps = similarity.unbind(1)
        return self.decoupling * (total / steps).mean()

    def _compared(self, layers: Any, similarity: Tensor | None) -> Tensor | None:
        """The similarities so far (B, 2), with that of a step: its mean over layers and channels."""
        if similarity is None:
            return None
        added = torch.stack(
            [torch.stack([s.add_c, s.add_m]) for s in layers.all_layers]
        )  # (layers, 2, B, ...)
        unit = F.normalize(self.adapter(added.flatten(0, 2)).flatten(2).to(similarity), dim=2)
        cosines = unit.view(*added.shape[:4], -1).prod(dim=1).sum(dim=-1)
        mean = cosines.abs().mean(dim=(0, 2))
        return similarity + torch.stack([mean, torch.ones_like(mean)], dim=1)
