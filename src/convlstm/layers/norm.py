"""Normalisation of the outputs of layers, and of what cells compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from convlstm.cells.group_norm import GroupNorm
from convlstm.errors import check_name

NormFactory = Callable[[int], nn.Module]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel (Ba et al. 2016, arXiv:1607.06450), at any size."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (N, C, *S)."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def _group_norm(channels: int) -> nn.Module:
    groups = next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
    return GroupNorm(groups, channels)


def norm_factory(norm: str | NormFactory) -> NormFactory:
    """``group`` (of up to 16 channels, Wu and He 2018, arXiv:1803.08494), ``layer``, or a given factory."""
    if not isinstance(norm, str):
        return norm
    return ChannelNorm if check_name(norm, ("group", "layer"), "norm") == "layer" else _group_norm


def has_batch_statistics(module: nn.Module) -> bool:
    """True if a module in training mode normalises by statistics of the batch, or updates such statistics."""
    if isinstance(module, _NormBase) and module.training:
        return isinstance(module, _BatchNorm) or bool(module.track_running_stats)
    return any(part is not None and has_batch_statistics(part) for part in module._modules.values())


@contextmanager
def preserve_statistics(module: nn.Module) -> Iterator[None]:
    """Let the normalisations of a module update copies of their running statistics, dropped at the end."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase)]
    saved = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({k: None if b is None else b.clone() for k, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            norm._buffers.update(buffers)
