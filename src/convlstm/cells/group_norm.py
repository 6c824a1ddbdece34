"""Group normalisation of frames of any size."""

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018, arXiv:1803.08494) that takes a single value too.

    Frames of one pixel, as the coarsest levels and streams of small frames have them, are refused by torch's.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (N, C, *S)."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
