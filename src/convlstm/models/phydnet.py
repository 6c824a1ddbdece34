"""PhyDNet: a physical and a residual branch in a latent space."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from convlstm.cells.group_norm import GroupNorm
from convlstm.cells.phycell import PhyCell
from convlstm.errors import OptionError, check_name
from convlstm.layers import ConvLSTM, scan
from convlstm.layers.frames import map_frames
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.options import OUTPUTS, check_list
from convlstm.validation import check_integer, check_non_negative, check_number, check_positive

_PUBLISHED_FRAMES = 19


class Carry(NamedTuple):
    """Carry of a `PhyDNet`: states of the PhyCell and of the ConvLSTM's layers; None for initial ones."""

    physical: Any
    residual: Any


class PhyDNet(AutoregressiveForecaster):
    """A `PhyCell` and layers of ConvLSTMs side by side, in the latent space of one encoder and decoder.

    PhyDNet (Le Guen and Thome 2020, arXiv:2003.01460). The encoder halves the resolution; each branch
    has an encoder and a decoder of its own, whose outputs are summed and decoded. By default as the authors
    train it on Moving MNIST: on the squared error of all 19 next frames of a clip, summed over frames, and
    the moment loss of the PhyCell, with Adam at 1e-3 and teacher forcing that falls from 1 by 0.003 an epoch.
    `penalty` is `PhyCell.moment_loss` times ``moment_weight``.

    Args:
        channels: C of the frames.
        latent_dim: channels of the latent space and of the PhyCell, even.
        hidden_dim: channels of the ConvLSTM's layers; the last one has latent_dim.
        kernel_size: of the PhyCell's filters, odd.
        levels: 2 to halve the resolution twice, or 1, as OpenSTL does for small frames and some others.
        output: activation of the forecast: ``linear``, ``sigmoid`` or ``relu``.
        moment_weight: of the moment loss; 1/19 is published, for a loss that is a mean over frames.
        extra_channels: E, extra input channels that are known for the past and the future.
        engine: of the layers, as for `convlstm.ConvLSTM`.

    Example:
        >>> import torch
        >>> model = PhyDNet(latent_dim=8, hidden_dim=[6, 8], kernel_size=3)
        >>> model(torch.rand(2, 4, 1, 18, 21), steps=3).shape
        torch.Size([2, 3, 1, 18, 21])
    """

    def __init__(
        self,
        channels: int = 1,
        latent_dim: int = 64,
        hidden_dim: Sequence[int] = (128, 128, 64),
        kernel_size: int = 7,
        output: str = "sigmoid",
        moment_weight: float = 1 / _PUBLISHED_FRAMES,
        *,
        levels: int = 2,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.channels = check_positive(channels, "channels")
        self.extra_channels = check_non_negative(extra_channels, "extra_channels")
        self.output = check_name(output, OUTPUTS, "output")
        self.moment_weight = check_number(moment_weight, "moment_weight", least=0)
        self.levels = check_integer(levels, "levels", least=1, most=2)
        self.size_multiple = 2**self.levels
        n = check_positive(latent_dim, "latent_dim")
        if n % 2 or not check_list(hidden_dim, "hidden_dim") or hidden_dim[-1] != n:
            raise OptionError(
                "latent_dim must be even and that of the last layer of hidden_dim; received "
                f"latent_dim={latent_dim}, hidden_dim={list(hidden_dim)}: end hidden_dim with latent_dim"
            )
        half, last = n // 2, self.levels  # stride of the last convolution: 2 halves, 1 does not
        self.encoder = nn.Sequential(
            _conv(channels + extra_channels, half, 2), _conv(half, half), _conv(half, n, last)
        )
        self.encoder_p = nn.Sequential(_conv(n, n), _conv(n, n))
        self.encoder_r = nn.Sequential(_conv(n, n), _conv(n, n))
        self.phycell = PhyCell(n, n, kernel_size)
        self.layers = ConvLSTM(n, list(hidden_dim), 3, batch_first=True, engine=engine)
        self.decoder_p = nn.Sequential(_deconv(n, n), _deconv(n, n))
        self.decoder_r = nn.Sequential(_deconv(n, n), _deconv(n, n))
        self.decoder = nn.Sequential(
            _deconv(n, half, 2), _deconv(half, half), _transposed(half, channels, last)
        )

    def start(self, past: Tensor) -> Carry:
        """The carry after all frames of the past (B, K, C, H, W) but the last."""
        carry = Carry(None, None)
        return self._read(past[:, :-1], carry)[1] if past.shape[1] > 1 else carry

    def observe(self, frame: Tensor, carry: Carry) -> Carry:
        """The carry after an observed frame (B, C, H, W)."""
        return self._read(frame.unsqueeze(1), carry)[1]

    def step(self, frame: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        (physical, residual), carry = self._read(frame.unsqueeze(1), carry)
        latent = self.decoder_p(physical[:, 0]) + self.decoder_r(residual[:, 0])
        return OUTPUTS[self.output](self.decoder(latent)), carry

    def penalty(self, carry: Any) -> Tensor:
        """The moment loss of the PhyCell's filters times its weight."""
        return self.moment_weight * self.phycell.moment_loss()

    def _read(self, frames: Tensor, carry: Carry) -> tuple[tuple[Tensor, Tensor], Carry]:
        """Outputs of both branches for frames (B, T, C, H, W), and the carry after them."""
        latent = map_frames(self.encoder, frames)
        physical, p = scan(self.phycell, map_frames(self.encoder_p, latent), carry.physical)
        residual, r = self.layers(map_frames(self.encoder_r, latent), carry.residual)
        return (physical, residual[-1]), Carry(p, r)


def _transposed(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride, padding=1, output_padding=stride - 1)


def _normalised(convolution: nn.Module, channels: int) -> nn.Module:
    """A convolution with the published 16 groups (fewer if these do not divide) and leaky ReLU."""
    return nn.Sequential(convolution, GroupNorm(math.gcd(16, channels), channels), nn.LeakyReLU(0.2))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return _normalised(nn.Conv2d(inputs, outputs, 3, stride, padding=1), outputs)


def _deconv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return _normalised(_transposed(inputs, outputs, stride), outputs)
