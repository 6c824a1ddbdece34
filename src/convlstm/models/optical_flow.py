"""Baselines of pysteps for rain: extrapolation by optical flow, and the mean of a STEPS ensemble."""

import contextlib
import io
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
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
_LEAST, _LEAST_DB, _DRY_DB = 0.1, -10.0, -15.0  # mm/h; the same in decibels; of dry pixels


class _OfPysteps(Forecaster):
    """Forecaster that calls pysteps for each case and channel, on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        for module in ("pysteps", "cv2"):
            check_installed(module, f"{type(self).__name__} needs {module}")

    def forward(self, past: Tensor, steps: int, *, valid: Tensor | None = None) -> Tensor:
        """Forecast: (B, K, C, H, W) -> (B, steps, C, H, W), K at least 3, arguments as of `Persistence`.

        Values up to zero are dry, and so is what moves in from outside the frame.
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
    compare such a network with: the mean is taken in the scale of the frames.

    Args:
        to_rates: rain rates in mm/h of frames (T, 1, H, W); the frames are rates if None.
        from_rates: its inverse.
        members: of the ensemble.
        pixel_km: size of a pixel in km.
        step_minutes: time between frames.
        seed: of the ensemble.

    Raises:
        OptionError: pysteps or OpenCV is not installed.
    """

    def __init__(
        self,
        to_rates: Callable[[Tensor], Tensor] | None = None,
        from_rates: Callable[[Tensor], Tensor] | None = None,
        *,
        members: int = 20,
        pixel_km: float = 1.0,
        step_minutes: float = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.to_rates, self.from_rates = to_rates or torch.clone, from_rates or torch.clone
        self.members, self.seed = check_positive(members, "members"), check_seed(seed)
        self.pixel_km = check_number(pixel_km, "pixel_km", above=0)
        self.step_minutes = check_number(step_minutes, "step_minutes", above=0)

    def _extrapolated(self, frames: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        from pysteps.motion.lucaskanade import dense_lucaskanade
        from pysteps.nowcasts.steps import forecast

        options: dict[str, Any] = {"n_ens_members": self.members, "precip_thr": _LEAST_DB, "seed": self.seed}
        options |= {"kmperpixel": self.pixel_km, "timestep": self.step_minutes}
        rates = self.to_rates(torch.from_numpy(frames).unsqueeze(1)).squeeze(1).numpy()
        decibels = np.where(rates >= _LEAST, 10 * np.log10(rates.clip(_LEAST)), _DRY_DB)
        members = np.nan_to_num(
            forecast(decibels, dense_lucaskanade(decibels), steps, **options), nan=_DRY_DB
        )
        wet = torch.from_numpy(np.where(members >= _LEAST_DB, 10 ** (members / 10), 0)).unsqueeze(2)
        found: NDArray[np.float64] = self.from_rates(wet).squeeze(2).mean(0).numpy()
        return found


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide what pysteps prints and warns of within the block."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
