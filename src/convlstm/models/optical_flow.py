"""Baselines of pysteps for rain: extrapolation by optical flow, and the mean of a STEPS ensemble."""

import contextlib
import io
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.extras import check_installed
from convlstm.models.base import Forecaster, check_past
from convlstm.models.baselines import measured_so_far
from convlstm.validation import check_number, check_positive, check_seed

_FRAMES = 3  # that both methods read
_SCALE_DB, _FLOOR_DB, _DRY_DB = 30.0, -10.0, -15.0  # of rain rates from 0.1 to 100 mm/h, and of dry pixels


class _OfPysteps(Forecaster):
    """Forecaster that calls pysteps for each case and channel, on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        for module in ("pysteps", "cv2"):
            check_installed(module, f"{type(self).__name__} needs {module}")

    def forward(self, past: Tensor, steps: int, *, valid: Tensor | None = None) -> Tensor:
        """Forecast: (B, K, C, H, W) -> (B, steps, C, H, W), K at least 3, arguments as of `Persistence`.

        Zero, and less, is dry; what comes in from outside is.
        """
        check_past(past, steps, least=_FRAMES)
        frames = measured_so_far(past, valid)[:, -_FRAMES:].transpose(1, 2).flatten(0, 1)
        with _silent():
            made = [self._extrapolated(case.double().cpu().numpy(), steps) for case in frames]
        forecast = torch.from_numpy(np.nan_to_num(np.stack(made))).to(past)
        return forecast.view(past.shape[0], past.shape[2], *forecast.shape[1:]).transpose(1, 2)

    @abstractmethod
    def _extrapolated(self, frames: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        """Forecast (L, H, W) of frames (3, H, W), NaN where nothing is known."""


class OpticalFlow(_OfPysteps):
    """The last frame moves on along the optical flow of the last three (Lucas-Kanade), as of pysteps.

    Raises:
        OptionError: pysteps or OpenCV is not installed.
    """

    def _extrapolated(self, frames: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        from pysteps.motion.lucaskanade import dense_lucaskanade
        from pysteps.nowcasts.extrapolation import forecast

        found: NDArray[np.float64] = forecast(frames[-1], dense_lucaskanade(frames), steps)
        return found


class StepsMean(_OfPysteps):
    """The mean of a STEPS ensemble of pysteps along the optical flow of Lucas-Kanade.

    It leaves out what cannot be forecast, as a network trained on squared error does, and is the baseline to
    compare such a network with. Frames must be logarithms of rain rates or reflectivities, 0 where dry.

    Args:
        members: of the ensemble.
        pixel_km: size of a pixel in km.
        step_minutes: time between frames.
        seed: of the ensemble.

    Raises:
        OptionError: pysteps or OpenCV is not installed.
    """

    def __init__(
        self, members: int = 20, pixel_km: float = 1.0, step_minutes: float = 5.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.members, self.seed = check_positive(members, "members"), check_seed(seed)
        self.pixel_km = check_number(pixel_km, "pixel_km", above=0)
        self.step_minutes = check_number(step_minutes, "step_minutes", above=0)

    def _extrapolated(self, frames: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        from pysteps.motion.lucaskanade import dense_lucaskanade
        from pysteps.nowcasts.steps import forecast

        options: dict[str, Any] = {"n_ens_members": self.members, "precip_thr": _FLOOR_DB, "seed": self.seed}
        options |= {"kmperpixel": self.pixel_km, "timestep": self.step_minutes}
        decibels = np.where(frames > 0, frames * _SCALE_DB + _FLOOR_DB, _DRY_DB)
        members = forecast(decibels, dense_lucaskanade(decibels), steps, **options)
        levels = (np.nan_to_num(members, nan=_DRY_DB) - _FLOOR_DB) / _SCALE_DB
        found: NDArray[np.float64] = levels.clip(0).mean(0)
        return found


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing that pysteps prints or warns of is shown."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
