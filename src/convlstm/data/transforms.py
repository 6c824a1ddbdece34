"""Invertible maps between values in their unit and the scale of a network.

Values are (..., T, C, H, W); every transform is finite wherever the values are.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from convlstm.errors import OptionError
from convlstm.hyperparameters import StoresHyperparameters
from convlstm.validation import check_number

Channels = float | Sequence[float]

# Half of the 0.5 dB in which radars store reflectivity: a forecast that is less above the floor is nearer to
# the floor than to the smallest value that is told apart from it.
_HALF_STEP_DB = 0.25


class Transform(StoresHyperparameters):
    """Map from a unit to the scale of a network, elementwise and increasing.

    Attributes:
        dry: value in the unit that the scale's zero and everything below it are mapped back to, where zero
            means "measured, nothing there"; None where the scale has no such floor.
    """

    dry: float | None = None

    @abstractmethod
    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """Values in the scale of a network.

        Args:
            x: (..., T, C, H, W), in the unit.
            times: (..., T), seconds since 1970-01-01, for transforms that depend on the season.
        """

    @abstractmethod
    def inverse(self, y: Tensor, times: Tensor | None = None) -> Tensor:
        """Values in the unit; arguments as of `forward`."""


class Linear(Transform):
    """``(x - offset) / scale``: a range onto [0, 1], or a standard score.

    Args:
        offset: one number, or one per channel: the smallest value, or the mean.
        scale: one number, or one per channel, above 0: largest minus smallest value, or standard deviation.
    """

    def __init__(self, offset: Channels = 0.0, scale: Channels = 1.0) -> None:
        self.offset, self.scale = _per_channel(offset, "offset"), _per_channel(scale, "scale")
        if not bool((self.scale > 0).all()):
            raise OptionError(
                f"scale must be above 0; received {scale}: a constant field has no scale, use 1"
            )

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """``(x - offset) / scale``."""
        return (x - self.offset.to(x)) / self.scale.to(x)

    def inverse(self, y: Tensor, times: Tensor | None = None) -> Tensor:
        """``y scale + offset``."""
        return y * self.scale.to(y) + self.offset.to(y)


class Floored(Transform):
    """``max(x - floor, 0) / (top - floor)``: values at or below a floor, such as dry radar pixels, become 0.

    Back from the scale, what is less than 0.25 above the floor, half of the step in which radars store
    reflectivity, is ``dry``: a network leaves small positive values on dry ground, each of which would be the
    floor otherwise. All that is further above it comes back as it was. In verification truth and baselines
    pass through the scale as well, as reflectivity is usually verified: with one least value of rain for
    observation and forecast.

    Args:
        floor: largest value that is taken for nothing there, 7 dBZ (0.1 mm/h) for reflectivity.
        top: value mapped to 1.
        dry: value that 0 is mapped back to.

    Attributes:
        least: smallest value that comes back; all below it is ``dry``.
    """

    def __init__(self, floor: float = 7.0, top: float = 60.0, dry: float = -32.0) -> None:
        self.floor, self.top = _floor_and_top(floor, top)
        self.dry = self._dry = check_number(dry, "dry", most=self.floor)
        self.least = self.floor + _HALF_STEP_DB

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """``max(x - floor, 0) / (top - floor)``."""
        return (x - self.floor).clamp(min=0) / (self.top - self.floor)

    def inverse(self, y: Tensor, times: Tensor | None = None) -> Tensor:
        """``y (top - floor) + floor``; ``dry`` where that is less than 0.25 above the floor."""
        above = y * (self.top - self.floor)
        return torch.where(above >= _HALF_STEP_DB, above + self.floor, self._dry)


class Logarithm(Transform):
    """``log(1 + x / scale) / log(1 + top / scale)``, for rain rates and amounts.

    It is nearly linear below ``scale`` and nearly logarithmic above it, continuous at 0: the small positive
    values that a network leaves on dry ground come back as next to nothing.

    Args:
        scale: value where one goes over into the other, in the unit; 0.1 mm/h for rain rates.
        top: value mapped to 1.
    """

    dry = 0.0

    def __init__(self, scale: float = 0.1, top: float = 100.0) -> None:
        self.scale, self.top = check_number(scale, "scale", above=0), check_number(top, "top", above=0)
        self._span = math.log1p(self.top / self.scale)

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """``log(1 + x / scale) / log(1 + top / scale)``, negative values as 0."""
        # Without a bound the quotient of the largest numbers would be infinite.
        return torch.log1p(x.clamp(0, 1e30) / self.scale) / self._span

    def inverse(self, y: Tensor, times: Tensor | None = None) -> Tensor:
        """``scale ((1 + top / scale)^y - 1)``, negative values as 0."""
        # Beyond twice the logarithm of the top a forecast has exploded; without a bound it would be infinite.
        return self.scale * torch.expm1(y.clamp(0, 2) * self._span)


class SquareRoot(Transform):
    """``sqrt(x / top)`` for amounts from 0 up.

    Args:
        top: value mapped to 1.
    """

    dry = 0.0

    def __init__(self, top: float = 100.0) -> None:
        self.top = check_number(top, "top", above=0)

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """``sqrt(x / top)``, negative values as 0."""
        return (x.clamp(min=0) / self.top).sqrt()

    def inverse(self, y: Tensor, times: Tensor | None = None) -> Tensor:
        """``y^2 top``, negative values as 0."""
        return y.clamp(min=0).square() * self.top


def _per_channel(value: Channels, name: str) -> Tensor:
    """One number per channel as (C, 1, 1); a single number as (1, 1, 1)."""
    values = [value] if isinstance(value, int | float) else list(value)
    checked = [check_number(item, name) for item in values]
    return torch.tensor(checked, dtype=torch.float64).view(-1, 1, 1)


def _floor_and_top(floor: float, top: float) -> tuple[float, float]:
    floor, top = check_number(floor, "floor"), check_number(top, "top")
    if top <= floor:
        raise OptionError(f"top must be above floor, {floor:g}; received {top:g}: give the largest value")
    return floor, top
