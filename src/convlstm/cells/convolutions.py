"""The convolutions of cells."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.functional.conv import must_be_padded


class Conv3d(nn.Conv3d):
    """Torch's convolution over three space axes, also of frames that are shorter than its kernel."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode == "zeros" and not isinstance(padding, str) and must_be_padded(x, weight):
            padded = F.pad(x, [n for n in reversed(padding) for _ in range(2)])
            return F.conv3d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        result: Tensor = super()._conv_forward(x, weight, bias)
        return result


#: The convolution for one, two and three space axes.
CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: Conv3d}
