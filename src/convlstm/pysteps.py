"""Models as nowcasting methods of pysteps, and as nowcasts for its blending with weather forecasts."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import DataError, OptionError
from convlstm.extras import check_installed
from convlstm.forecasting import rollout
from convlstm.models.base import Forecaster
from convlstm.validation import check_path, check_positive, received
from convlstm.workflows.evaluate import load_model

Model = Forecaster | str | os.PathLike[str]


def register(name: str, model: Model, **options: Any) -> Callable[..., NDArray[Any]]:
    """Make a model a method of ``pysteps.nowcasts.get_method``.

    pysteps keeps its methods in a table. Versions that read the entry points ``pysteps.plugins.nowcasts``
    find `forecast` without this, as ``convlstm``.

    Args:
        name: of the method, in lower case; none of pysteps' own.
        model: a run folder, a model folder or a loaded model.
        options: of `forecast`, such as ``units``.

    Returns:
        `forecast` of the model, which is what pysteps returns for the name.

    Raises:
        OptionError: pysteps is not installed, or has a method of that name.
    """
    check_installed("pysteps", "methods of pysteps need it")
    from pysteps.nowcasts import interface

    methods: dict[str, Any] = interface._nowcast_methods
    if not isinstance(name, str) or not name or name != name.lower():
        raise OptionError(f"the name of a method must be in lower case; received {received(name)}: change it")
    if name in methods and getattr(methods[name], "func", None) is not forecast:
        raise OptionError(f"the name of a method must be new to pysteps; it has {name}: choose another")
    methods[name] = partial(forecast, model=_loaded(model), **options)
    method: Callable[..., NDArray[Any]] = methods[name]
    return method


def forecast(
    precip: ArrayLike,
    velocity: object,
    timesteps: int | Sequence[int],
    *,
    model: Model,
    units: str | None = None,
    static: str | os.PathLike[str] | None = None,
    tile: int | None = None,
    **ignored: Any,
) -> NDArray[Any]:
    """Nowcast by a model, called as methods of pysteps are.

    Args:
        precip: (T, m, n), the last T fields, at least as many as the model reads, in ``units``, not
            transformed; NaN where not measured.
        velocity: not used; the model sees the motion.
        timesteps: L, or the steps that are wanted, in ascending order.
        model: a run folder, a model folder or a loaded model.
        units: of the fields; that of the training if None.
        static: file of the static fields that the model reads.
        tile: as for `convlstm.forecasting.rollout.forecast`.
        ignored: arguments of other methods.

    Returns:
        (L, m, n), in the unit and dtype of the fields; NaN where none of those that were read was measured.

    Raises:
        DataError: fields that are not those that the model was trained on.
        OptionError: steps that are no ascending whole numbers from 1 up.
    """
    fields, wanted = _fields(precip), _steps(timesteps)
    planes = None if static is None else check_path(static, "static")
    made: NDArray[Any] = rollout.forecast(
        _loaded(model), fields[:, None], wanted[-1], units=units, static=planes, tile=tile
    )
    return made[[k - 1 for k in wanted], 0]


def blending_nowcast(
    precip: ArrayLike, timesteps: int, *, model: Model, units: str | None = None, **options: Any
) -> NDArray[Any]:
    """Nowcast as ``precip_nowcast`` of ``pysteps.blending.steps.forecast``, lead time 0 included.

    Pass it with ``nowcasting_method="external_nowcast"`` and ``noise_method="nonparametric"``, as it has one
    member, after the transform that the other fields have.

    Args:
        precip: as for `forecast`.
        timesteps: L.
        model: as for `forecast`.
        units: as for `forecast`.
        options: as for `forecast`.

    Returns:
        (1, L + 1, m, n): the newest field and L forecasts of it; NaN where not measured.

    Raises:
        DataError: as `forecast`; a newest field of which nothing was measured, which cannot be blended.
    """
    newest = _fields(precip)[-1:]
    if not np.isfinite(newest).any():
        raise DataError(
            "a nowcast for blending needs a newest field with measured pixels; received none: use the "
            "weather forecast alone"
        )
    made = forecast(precip, None, timesteps, model=model, units=units, **options)
    return np.concatenate([newest, made])[None]


def _loaded(model: Model) -> Forecaster:
    return model if isinstance(model, Forecaster) else load_model(check_path(model, "model"))


def _fields(precip: ArrayLike) -> NDArray[Any]:
    """Fields (T, m, n), masked values as NaN, of which integers have none."""
    fields = np.asanyarray(precip)
    if isinstance(fields, np.ma.MaskedArray):
        fields = np.ma.filled(fields.astype(np.promote_types(fields.dtype, np.float32)), np.nan)
    fields = fields[None] if fields.ndim == 2 else fields
    if fields.ndim != 3:
        raise DataError(f"precip must be (T, m, n); received {fields.shape}: give the last fields")
    return fields


def _steps(timesteps: object) -> list[int]:
    """The steps that are wanted."""
    if isinstance(timesteps, int | np.integer) and not isinstance(timesteps, bool):
        return list(range(1, int(check_positive(timesteps, "timesteps")) + 1))
    listed = isinstance(timesteps, Sequence) or (isinstance(timesteps, np.ndarray) and timesteps.ndim > 0)
    wanted: list[Any] = list(timesteps) if listed else []  # type: ignore[call-overload]
    numbers = all(isinstance(k, int | float | np.integer | np.floating) for k in wanted)
    whole = wanted and numbers and all(float(k).is_integer() for k in wanted)
    if not whole or wanted[0] < 1 or sorted(set(wanted)) != wanted:
        raise OptionError(
            f"timesteps must be ascending whole numbers from 1 up; received {received(timesteps)}: give 12, "
            "or [3, 6]"
        )
    return [int(k) for k in wanted]
