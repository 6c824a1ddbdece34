"""Modules that show values of their computation to a recorder."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

#: A tensor, batch first, or a tensor and a function that arranges it, and its gradient, as (B, C, *S).
Value = Tensor | tuple[Tensor, Callable[[Tensor], Tensor]]


class Recordable(nn.Module):
    """A module that shows values of its computation to `convlstm.record`."""

    #: The recorders of the layer that the module is, or is a part of; set inside `convlstm.record` alone.
    _recorders: tuple[Any, ...] = ()

    def record_values(self, **values: Value) -> None:
        """Hand values of this step, such as gates, to the open recorders; without one, do nothing.

        To have their gradients recorded too, hand over the very tensors that the step goes on with.

        Args:
            values: tensors with the batch first, (B, C, *S) to be drawn; or a tensor of another shape and a
                function that arranges it, and its gradient, as (B, C, *S).
        """
        for recorder in self._recorders:
            recorder.receive(self, values)


def recorders_of(cell: nn.Module) -> list[Any]:
    """The open recorders of a layer; not those of a layer that it is a part of."""
    return [recorder for recorder in getattr(cell, "_recorders", ()) if recorder.module is cell]


def attach(module: nn.Module, recorder: Any) -> None:
    """Have a module hand its values to one more recorder."""
    recorders: Any = getattr(module, "_recorders", ())
    module._recorders = (*recorders, recorder)  # type: ignore[assignment]


def detach(module: nn.Module, recorder: Any) -> None:
    """Undo `attach`, if it was done."""
    recorders = vars(module).pop("_recorders", ())
    if left := tuple(other for other in recorders if other is not recorder):
        module._recorders = left  # type: ignore[assignment]
