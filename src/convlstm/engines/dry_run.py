"""Calls without arithmetic, which count the memory that they would allocate.

A `DryTensor` has everything that a tensor on a CPU has but elements. Operators compute the shapes, strides
and aliases of their results on torch's meta device, autograd keeps and frees them as it does any tensor, and
kernels of our own do nothing.
"""

import threading
import weakref
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

#: What is computed inside, also as a decorator, has elements.
disable_current_modes = _python_dispatch._disable_current_modes
_META = torch.device("meta")
_active = threading.local()


class DryTensor(Tensor):
    """A tensor on a CPU without elements.

    Args:
        shape_only: on the meta device, of the same shape, strides and dtype.
        requires_grad: as for any tensor.
    """

    shape_only: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shape_only: Tensor, requires_grad: bool = False) -> "DryTensor":
        """A tensor of the shape of another."""
        make: Any = Tensor._make_wrapper_subclass
        new: DryTensor = make(
            cls,
            shape_only.size(),
            strides=shape_only.stride(),
            storage_offset=shape_only.storage_offset(),
            dtype=shape_only.dtype,
            device="cpu",
            requires_grad=requires_grad,
        )
        new.shape_only = shape_only
        return new

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operator, args, kwargs or {})


class DryRun(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, all new tensors are `DryTensor` and their bytes are counted, each storage once.

    Attributes:
        bytes: of the tensors that are alive.
        most_bytes: at once so far, with the free buffers of `convlstm.engines.buffer_pool`, which keeps as
            many as were in use at once.
        kept: what calls keep for later ones, by name; freed at the end.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.most_bytes = 0
        self.kept: dict[str, Any] = {}
        self._pooled = self._most_pooled = 0
        self._sizes: dict[int, tuple[int, bool]] = {}

    def __enter__(self) -> "DryRun":
        self._outer, _active.run = active(), self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _active.run = self._outer
        self.kept.clear()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _takes_device(operator):
            kwargs["device"] = _META
        return _run(operator, args, kwargs)

    def empty_of_pool(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor in place of one of the buffer pool."""
        with disable_current_modes():
            new = torch.empty(shape, dtype=dtype, device=_META)
        self.count(new, pooled=True)
        return DryTensor(new)

    def count(self, new: Tensor, *, pooled: bool = False) -> None:
        """Count the storage of a tensor on the meta device until it is freed."""
        storage = new.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size, pooled
        self.bytes += size
        self._pooled += size * pooled
        self._most_pooled = max(self._most_pooled, self._pooled)
        self.most_bytes = max(self.most_bytes, self.bytes - self._pooled + self._most_pooled)
        weakref.finalize(storage, self._free, key).atexit = False

    def add_temporary(self, size: int) -> None:
        """Count bytes that an operator takes while it runs."""
        self.most_bytes = max(self.most_bytes, self.bytes - self._pooled + self._most_pooled + size)

    def _free(self, key: int) -> None:
        size, pooled = self._sizes.pop(key)
        self.bytes -= size
        self._pooled -= size * pooled


def active() -> DryRun | None:
    """The dry run that this thread is in."""
    run: DryRun | None = getattr(_active, "run", None)
    return run


@cache
def _takes_device(operator: Any) -> bool:
    return any(argument.name == "device" for argument in operator._schema.arguments)


def _run(operator: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operator; a tensor that it changes in place is returned as it is."""
    known: dict[int, DryTensor] = {}
    named = {name: _shape_only(value, known) for name, value in kwargs.items() if name != "generator"}
    given = [_shape_only(value, known) for value in args]
    result = _dry(operator(*given, **named), known)
    if (run := active()) is not None:
        if operator is torch.ops.aten.convolution.default:
            run.add_temporary(_columns(given, result))
        elif torch.Tag.pointwise in operator.tags:
            run.add_temporary(_converted(given))
    return result


def _converted(given: Any) -> int:
    """Bytes of the operands of a pointwise operator that torch first converts to the dtype of another."""
    operands = [x for x in given if isinstance(x, Tensor) and x.ndim and x.is_floating_point()]
    if len(operands) < 2:
        return 0
    common = reduce(torch.promote_types, (x.dtype for x in operands))
    return sum(x.numel() * common.itemsize for x in operands if x.dtype != common)


def _columns(given: Any, result: Tensor) -> int:
    """Bytes of the image columns of a convolution in 16 bits, where oneDNN has none in 16 bits."""
    x, weight, transposed = given[0], given[1], given[6]
    if x.dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported() or weight[0, 0].numel() == 1:
        return 0
    pixels = (x if transposed else result)[0, 0].numel()
    return int(len(x) * weight[0].numel() * pixels * x.element_size())


# Not inside one another: functions that call themselves are cycles, which would keep tensors alive.
def _shape_only(value: Any, known: dict[int, DryTensor]) -> Any:
    """An argument of an operator on the meta device; dry tensors are noted."""
    if isinstance(value, DryTensor):
        known[id(value.shape_only)] = value
        return value.shape_only
    if isinstance(value, Tensor):
        return value.to(_META)
    if isinstance(value, list | tuple):
        return [_shape_only(item, known) for item in value]
    return _META if isinstance(value, torch.device) else value


def _dry(value: Any, known: dict[int, DryTensor]) -> Any:
    """A result of an operator on the meta device as dry tensors, new ones counted."""
    if isinstance(value, Tensor):
        same = known.get(id(value))
        if same is None and (run := active()) is not None:
            run.count(value)
        return DryTensor(value) if same is None else same
    return type(value)([_dry(item, known) for item in value]) if isinstance(value, list | tuple) else value
