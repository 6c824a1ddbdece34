"""The options of a stack: read from the constructor's arguments and checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from torch import nn

from convlstm.cells.base import kernel_tuple
from convlstm.engines import ENGINES
from convlstm.errors import OptionError, check_name
from convlstm.layers.scan import ScanOptions
from convlstm.validation import check_number, check_positive

#: More would fill the memory before the first layer is built.
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class StackOptions:
    """Validated options of a stack, which `convlstm.ConvLSTM` documents under the same names.

    Attributes:
        hidden: channels of the cells of each layer.
        kernels: size of each layer's kernel, one integer per space axis.
        residual: connection around each layer: add (given as True), project, dense, or False for none.
        normed: outputs of layers are normalised.
        scan: options of the loop over time.
        inputs: channels into each layer.
        outputs: channels out of each layer.

    Raises:
        OptionError: an option out of its range, or options that exclude each other.
    """

    input_dim: int
    hidden: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    bidirectional: bool
    merge: str
    residual: bool | str
    normed: bool
    dropout: float
    target_size: tuple[int, ...] | None
    restore_size: bool
    last_only: bool
    engine: str
    scan: ScanOptions
    inputs: tuple[int, ...] = field(init=False)
    outputs: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Check the options, and derive the channels of the layers."""
        check_name(self.engine, ENGINES, "engine")
        residual = "add" if self.residual is True else self.residual
        if residual:
            check_name(residual, ("add", "project", "dense"), "residual")
        if check_name(self.merge, ("concat", "sum", "mean"), "merge") != "concat" and not self.bidirectional:
            raise OptionError(
                f"merge joins both directions; received '{self.merge}' without bidirectional=True: pass it, "
                "or leave merge out"
            )
        doubled = self.bidirectional and self.merge == "concat"
        outputs = tuple((2 if doubled else 1) * hidden for hidden in self.hidden)
        inputs = (self.input_dim, *outputs[:-1])
        if residual == "dense":
            inputs = tuple(self.input_dim + sum(outputs[:layer]) for layer in range(len(outputs)))
        if residual == "add" and inputs != outputs:
            raise OptionError(
                f"residual=True needs as many channels out of each layer as into it; received {list(inputs)} "
                f"in and {list(outputs)} out: use residual='project'"
            )
        if check_number(self.dropout, "dropout", least=0, below=1) and len(self.hidden) == 1:
            raise OptionError(
                f"dropout acts between layers and needs two at least; received {self.dropout} with one"
            )
        if self.restore_size and self.target_size is None:
            raise OptionError(
                "restore_size undoes target_size; received restore_size=True without target_size"
            )
        for name, value in (("residual", residual), ("inputs", inputs), ("outputs", outputs)):
            object.__setattr__(self, name, value)

    @property
    def axes(self) -> int:
        """Number of space axes."""
        return len(self.kernels[0])


def layer_sizes(
    input_dim: Any, hidden_dim: Any, kernel_size: Any, num_layers: Any, cell: Any
) -> tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The channels of the frames, and the channels and the kernel of each layer, checked."""
    layers = _number_of_layers(num_layers, hidden_dim=hidden_dim, kernel_size=kernel_size, cell=cell)
    input_dim = check_positive(input_dim, "input_dim")
    hidden = tuple(check_positive(n, "hidden_dim") for n in per_layer(hidden_dim, layers, "hidden_dim"))
    kernels = tuple(kernel_tuple(k) for k in per_layer(kernel_size, layers, "kernel_size"))
    if len({len(kernel) for kernel in kernels}) > 1:
        raise OptionError(
            f"kernel_size must have the same number of axes in all layers; received {kernel_size}"
        )
    return input_dim, hidden, kernels


def check_factory(value: Any, name: str) -> Any:
    """A class or a function that builds modules."""
    kind = type(value).__name__
    if isinstance(value, nn.Module):
        raise OptionError(
            f"{name} must be what builds a module for each layer; received a {kind} that is built: pass the "
            f"class {kind}, or a functools.partial of it"
        )
    if isinstance(value, dict) and "class" in value:
        raise OptionError(
            f"{name} must be a class or a factory; received {value!r}, as hyperparameters describe one: pass "
            "the hyperparameters to rebuild, as in ConvLSTM.rebuild(layer.hyperparameters)"
        )
    if not callable(value):
        raise OptionError(f"{name} must be a class or a factory; received {value!r}")
    return value


def _number_of_layers(num_layers: int | None, **values: Any) -> int:
    """The number of layers, given or read off the lists."""
    if num_layers is not None:
        return check_positive(num_layers, "num_layers", most=_MOST_LAYERS)
    lengths = {name: len(value) for name, value in values.items() if _is_per_layer(value, name)}
    for name, length in lengths.items():
        if not length:
            raise OptionError(f"{name} must hold one entry per layer; received {values[name]!r}")
    if len(set(lengths.values())) > 1:
        raise OptionError(f"lists must have one entry per layer; received lengths {lengths}")
    return next(iter(lengths.values()), 1)


def _is_per_layer(value: Any, name: str) -> bool:
    """True if a value has one entry per layer: a list, or a tuple other than one layer's kernel."""
    if isinstance(value, tuple) and name == "kernel_size":
        return any(not isinstance(entry, Integral) for entry in value)
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def per_layer(value: Any, num_layers: int, name: str) -> list[Any]:
    """One value per layer, from a list or from one value for all layers."""
    values = list(value) if _is_per_layer(value, name) else [value] * num_layers
    if len(values) != num_layers:
        raise OptionError(f"{name} must hold one entry per layer ({num_layers}); received {value!r}")
    return values
