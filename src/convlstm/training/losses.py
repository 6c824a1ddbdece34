"""Losses: forecast and future, both (B, L, C, *S), with weights, to one number.

Every loss is a mean over all pixels of an error times its weight. Pixels of weight 0 were not measured:
whatever value stands there changes neither a loss nor a gradient, and a batch without any measured pixel has
a loss of 0.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.data.specification import THRESHOLDS, Specification
from convlstm.data.units import conversion
from convlstm.errors import DataError, OptionError
from convlstm.functional.ssim import ssim

#: Loss of a forecast, the future and weights that expand to the future's shape, at least 0; None for 1.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: Rain rates in mm/h from which a pixel counts more in `balanced`, and how much more than below each.
BALANCED = {2.0: 1, 5.0: 3, 10.0: 5, 30.0: 20}
_AREA_COEFFICIENT = 4e-3


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over all elements of errors times weights, which expand to their shape."""
    return error.mean() if weight is None else (error * weight).mean()


def mse(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error per pixel."""
    return weighted_mean((forecast - _filled(forecast, future, weight)).square(), weight)


def mae(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error per pixel."""
    return weighted_mean((forecast - _filled(forecast, future, weight)).abs(), weight)


def mse_mae(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared plus mean absolute error: squares for the bulk, absolutes against blur."""
    return mse(forecast, future, weight) + mae(forecast, future, weight)


def ssim_mix(forecast: Tensor, future: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error mixed with structure, 0.16 MAE + 0.84 (1 - SSIM).

    The weights are those of Zhao et al. (2017, arXiv:1511.08861), equation 14, with SSIM at one scale, over
    windows that were measured whole; a frame without any has no part in it. Values are taken to lie in
    [0, 1].
    """
    valid = None if weight is None else (weight > 0).expand(future.shape)
    similarity = ssim(forecast, future, data_range=1.0, valid=valid)  # (B, L)
    structure = 1 - torch.where(similarity.isnan(), 1.0, similarity) if weight is not None else 1 - similarity
    of_frames = None if weight is None else _of_frames(weight, future).mean(-1)
    return 0.16 * mae(forecast, future, weight) + 0.84 * weighted_mean(structure, of_frames)


def balanced(forecast: Tensor, future: Tensor, weight: Tensor | None = None, *, thresholds: Tensor) -> Tensor:
    """Balanced mean squared plus balanced mean absolute error (Shi et al. 2017, arXiv:1706.03458).

    Pixels count 1, 2, 5, 10 and 30 times by the rain rate of the truth: below 2, 5, 10, 30 mm/h, and above.

    Args:
        forecast: (B, L, C, *S).
        future: (B, L, C, *S).
        weight: of the pixels.
        thresholds: (4, C), these rates in the scale of the network.
    """
    times = torch.ones_like(future)
    for more, threshold in zip(BALANCED.values(), thresholds, strict=True):
        times = times + more * (future >= _channels(threshold, future))
    return mse_mae(forecast, future, times if weight is None else times * weight)


def threshold_mse(
    forecast: Tensor, future: Tensor, weight: Tensor | None = None, *, thresholds: Tensor
) -> Tensor:
    """Mean squared error plus, for each threshold, the part of it that lies above.

    That part is the threshold-weighted squared error (Taggart 2022, doi:10.1002/qj.4206), for which the mean
    is still the best forecast: with p(s) = max(s - threshold, 0)^2 it is p(y) - p(x) - p'(x) (y - x).

    Args:
        forecast: x, (B, L, C, *S).
        future: y, (B, L, C, *S).
        weight: of the pixels.
        thresholds: (N, C), in the scale of the network.
    """
    future = _filled(forecast, future, weight)
    error = (forecast - future).square()
    for threshold in thresholds:
        level = _channels(threshold, future)
        above, truth = (forecast - level).relu(), (future - level).relu()
        error = error + truth.square() - above.square() - 2 * above * (future - forecast)
    return weighted_mean(error, weight)


def mse_area(forecast: Tensor, future: Tensor, weight: Tensor | None = None, *, thresholds: Tensor) -> Tensor:
    """Mean squared error plus 0.004 times the error of the area above each threshold.

    The area of a frame is the sum over its measured pixels of sigmoid((x - threshold) / softness), with a
    softness of a third of the mean distance of the thresholds. Areas are compared by the smooth L1 distance
    of log(1 + area), averaged over thresholds: it does not matter where the rain falls, but how much of it.

    Args:
        forecast: (B, L, C, *S).
        future: (B, L, C, *S).
        weight: of the pixels.
        thresholds: (N, C), N at least 2, in the scale of the network.
    """
    softness = (thresholds[-1] - thresholds[0]) / (3 * (len(thresholds) - 1))

    def log_area(frames: Tensor, threshold: Tensor) -> Tensor:  # (B, L, C)
        frames = frames.float()  # sums of thousands of pixels, also under autocast
        above = torch.sigmoid((frames - _channels(threshold, frames)) / _channels(softness, frames))
        if weight is not None:
            above = torch.where(weight > 0, above, 0)
        return above.flatten(3).sum(-1).log1p()

    future = _filled(forecast, future, weight)
    errors = [
        F.smooth_l1_loss(log_area(forecast, level), log_area(future, level), reduction="none")
        for level in thresholds
    ]
    of_frames = None if weight is None else _of_frames(weight, future)
    area = weighted_mean(torch.stack(errors).mean(0), of_frames)
    return mse(forecast, future, weight) + _AREA_COEFFICIENT * area


#: Losses that need nothing but frames.
LOSSES: dict[str, Loss] = {
    "mse": mse,
    "mae": mae,
    "mse+mae": mse_mae,
    "ssim": ssim_mix,
}


def loss_named(name: str, specification: Specification | None = None) -> Loss:
    """The loss of a name; thresholds in the unit of the data are brought to the scale of the network here.

    Args:
        name: of `LOSSES`, ``balanced``, ``threshold_mse`` or ``mse+area``.
        specification: of the data.

    Raises:
        OptionError: a loss with thresholds for data without units.
        DataError: one for data that are no rain rates or amounts, nor reflectivity.
    """
    if name in LOSSES:
        return LOSSES[name]
    if specification is None:
        raise OptionError(
            f"loss={name} needs data with a unit, mm/h, mm or dBZ, as --data PATH gives them; received data "
            "without one: use mse or mse+mae"
        )
    units, kind = specification.units, specification.transform["kind"]
    try:
        convert = conversion("mm/h", units, step_s=specification.covered_s, zr=specification.relation())
    except DataError:
        convert = None
    if convert is None or kind == "anomaly":
        raise DataError(
            f"loss={name} needs rain rates (mm/h), amounts (mm) or reflectivity (dBZ), not as anomalies; "
            f"received {', '.join(specification.variables)} in {units or 'no unit'}, scaled as {kind}: use "
            "mse or mse+mae"
        )
    if name == "balanced":
        values = convert(np.array(list(BALANCED), np.float32)).tolist()
        return partial(balanced, thresholds=_scaled(values, specification))
    values = THRESHOLDS.get(units) or convert(np.array(THRESHOLDS["mm/h"], np.float32)).tolist()
    if name == "threshold_mse":
        return partial(threshold_mse, thresholds=_scaled(values, specification))
    return partial(mse_area, thresholds=_scaled(values[1:], specification))  # from 1 mm/h on


def _scaled(values: Sequence[float], specification: Specification) -> Tensor:
    """Values (N,) of the unit in the scale of the network, (N, C)."""
    frames = torch.tensor(values).view(-1, 1, 1, 1, 1).expand(-1, 1, len(specification.variables), 1, 1)
    return specification.built_transform().forward(frames)[:, 0, :, 0, 0]


def _filled(forecast: Tensor, future: Tensor, weight: Tensor | None) -> Tensor:
    """The future, with the forecast where it was not measured, so that there is no error."""
    return future if weight is None else torch.where(weight > 0, future, forecast.detach())


def _of_frames(weight: Tensor, future: Tensor) -> Tensor:
    """Weights of frames (B, L, C): means of those of their pixels."""
    return weight.expand(future.shape).flatten(3).mean(-1)


def _channels(values: Tensor, frames: Tensor) -> Tensor:
    """Values (C,) of channels, to be compared with frames (B, L, C, *S)."""
    return values.to(frames).view(-1, *(1,) * (frames.ndim - 3))
