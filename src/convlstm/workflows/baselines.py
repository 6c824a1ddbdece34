"""The baselines that suit a data source."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from convlstm.data.archive import Archive
from convlstm.data.base import Source
from convlstm.data.climatology import Anomaly, fit_anomaly
from convlstm.data.specification import Specification
from convlstm.data.transforms import Linear
from convlstm.data.units import conversion
from convlstm.errors import check_name
from convlstm.models.base import Forecaster
from convlstm.models.baselines import BASELINES, Advection, Climatology, DampedPersistence
from convlstm.models.optical_flow import OpticalFlow, StepsMean

_YEAR_S = 365 * 86400
_MOST_VALUES = 2**25  # of the training frames that a climatology and its damping are computed from

#: Baselines that need pysteps and take long.
FURTHER: dict[str, type[Forecaster]] = {"optical_flow": OpticalFlow, "steps_mean": StepsMean}


def baselines_of(source: Source, further: Sequence[str] = ()) -> dict[str, Callable[[], Forecaster]]:
    """Baselines of a source by name, each as a function without arguments that builds it.

    They are those of `BASELINES`. Where the zero of the scale is dry, nothing comes in from outside.
    Other frames of at least a year of training have a climatology and a damped persistence of anomalies
    instead of advection, both from training frames alone.

    Args:
        source: the data.
        further: names of `FURTHER`, for rain.

    Raises:
        OptionError: an unknown name, or pysteps is not installed.
    """
    names = [check_name(name, FURTHER, "a further baseline") for name in further]
    found: dict[str, Callable[[], Forecaster]] = dict(BASELINES)
    specification = source.specification
    if specification is not None and _zero_is_dry(specification):
        found["advection"] = partial(Advection, zero_outside=True)
    elif isinstance(source, Archive) and _lasts_a_year(source):
        del found["advection"], found["blank"]
        climatology, damping = anomaly_statistics(source)
        found["climatology"] = partial(Climatology, climatology)
        found["damped_persistence"] = partial(DampedPersistence, damping, climatology)
    for name in names:
        FURTHER[name]()  # says at once what is not installed
        found[name] = FURTHER[name]
    if "steps_mean" in found and specification is not None:
        found["steps_mean"] = partial(StepsMean, *_rates(specification))
    return found


def _zero_is_dry(specification: Specification) -> bool:
    """True if the zero of the network's scale is measured and dry, and not a mean."""
    transform, dry = specification.built_transform(), specification.dry_value
    if isinstance(transform, Linear) and dry is not None:
        return bool((transform.offset == dry).all())
    return transform.dry is not None


def _rates(specification: Specification) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Functions from the scale of the network to rain rates in mm/h and back."""
    transform, units = specification.built_transform(), specification.units
    relation = specification.relation()
    to_mmh = conversion(units, "mm/h", step_s=specification.covered_s, zr=relation)
    from_mmh = conversion("mm/h", units, step_s=specification.covered_s, zr=relation)
    return (
        lambda frames: torch.from_numpy(to_mmh(transform.inverse(frames).numpy())),
        lambda rates: transform.forward(torch.from_numpy(from_mmh(rates.numpy()))),
    )


def _lasts_a_year(source: Archive) -> bool:
    used = source.times[source.window_frames("train").max(1)]
    return source.specification.dated and bool(used.max() - used.min() >= _YEAR_S)


def anomaly_statistics(source: Archive) -> tuple[Callable[[Tensor | None, Tensor], Tensor] | None, Tensor]:
    """Climatology and damping (C, H, W) of training frames in the scale of the network.

    The damping is the regression of an anomaly on the one a step before it, from 0 to 1. The climatology is
    None where the scale is that of anomalies already.
    """
    pairs = source.window_frames("train")[:, :2]
    pairs = pairs[(pairs >= 0).all(1)]
    pairs = pairs[:: math.ceil(2 * len(pairs) * math.prod(source.store.shape) / _MOST_VALUES)]
    transform = source.specification.built_transform()
    frames = []
    for column in pairs.T:
        read = np.stack([frame for frame in source.store.read(column.tolist()) if frame is not None])
        frames.append(transform.forward(torch.from_numpy(read), torch.from_numpy(source.times[column])))
    climatology = None
    if not isinstance(transform, Anomaly):
        climatology = fit_anomaly(frames[0].numpy(), source.times[pairs[:, 0]]).climatology
        for place, column in enumerate(pairs.T):
            frames[place] -= climatology(torch.from_numpy(source.times[column]), frames[place])
    before, after = frames
    both = before.isfinite() & after.isfinite()
    before, after = (torch.where(both, x, 0).double() for x in (before, after))
    power = before.square().sum(0).clamp(min=torch.finfo(torch.float32).tiny)
    return climatology, ((before * after).sum(0) / power).clamp(0, 1).float()
