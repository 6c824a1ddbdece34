"""Modules that show values of their computation to a recorder."""

from collections.abc import Callable
from functools import partial
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
    """Give a module one more recorder for its values, which its copies and pickles are made without."""
    recorders: Any = getattr(module, "_recorders", ())
    module._recorders = (*recorders, recorder)  # type: ignore[assignment]
    # On the object, where copy and pickle look before they ask its class.
    vars(module)["__reduce_ex__"] = partial(_reduced, module)


def detach(module: nn.Module, recorder: Any) -> None:
    """Undo `attach`, if it was done."""
    recorders = vars(module).pop("_recorders", ())
    vars(module).pop("__reduce_ex__", None)
    if left := tuple(other for other in recorders if other is not recorder):
        module._recorders = left  # type: ignore[assignment]
        vars(module)["__reduce_ex__"] = partial(_reduced, module)


def _reduced(module: nn.Module, protocol: Any) -> Any:
    """The form that pickle and deepcopy make a module from, without recorders and their hooks."""
    made = type(module).__reduce_ex__(module, protocol)
    if not isinstance(made, tuple) or len(made) < 3 or not isinstance(made[2], dict):
        return made
    state = {name: value for name, value in made[2].items() if name not in ("_recorders", "__reduce_ex__")}
    recorders = {id(recorder) for recorder in vars(module).get("_recorders", ())}
    known = state.get("_forward_hooks", {})
    own = {key for key, hook in known.items() if id(getattr(hook, "__self__", None)) in recorders}
    for name in ("_forward_hooks", "_forward_hooks_always_called"):
        if name in state:
            state[name] = type(known)((k, hook) for k, hook in state[name].items() if k not in own)
    return (*made[:2], state, *made[3:])
