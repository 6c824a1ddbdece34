"""CUDA graphs of whole calls: a sequence is launched once instead of kernel by kernel.

A step is a few small kernels, each of which takes a GPU less time than its launch takes Python.
"""

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import convlstm.engines.config as config
from convlstm.engines.backward import backward
from convlstm.engines.forward import forward
from convlstm.engines.plan import Inputs, Plan


class GraphedFunction:
    """A function of tensors as a CUDA graph, with arguments and results in static buffers.

    On a CPU, which has no graphs, each replay calls the function.

    Args:
        function: of the tensors, without gradients; it may read other tensors, at unchanging addresses.
        inputs: the arguments, None for none.
        warm: the function has run before; it is not run for warm-up, as it changes what it reads.

    Attributes:
        inputs: the static copies of the arguments.
        results: of the function, overwritten by the next `replay`.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Sequence[Tensor | None], *, warm: bool = False
    ) -> None:
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        self.results: Any = None
        self._function, self._graph = function, None
        device = next(tensor.device for tensor in inputs if tensor is not None)
        if device.type != "cuda":
            if not warm:
                self.results = function(*self.inputs)
            return
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            if not warm:  # compilation and autotuning cannot be captured
                side.wait_stream(current)
                with torch.cuda.stream(side):
                    function(*self.inputs)
                current.wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # Torch's default capture stream stays on the device of the first capture, also after a failure.
            with (
                torch.cuda.stream(side),
                torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"),
            ):
                self.results = function(*self.inputs)

    def replay(self, inputs: Sequence[Tensor | None]) -> Any:
        """The results for other arguments of the same shapes; None in place of a tensor is zero."""
        for static, tensor in zip(self.inputs, inputs, strict=True):
            if static is not None:
                static.zero_() if tensor is None else static.copy_(tensor)
        if self._graph is None:
            self.results = self._function(*self.inputs)
        else:
            self._graph.replay()
        return self.results


class GraphedCall:
    """`convlstm.engines.forward` with its backward pass, as two CUDA graphs.

    Saved tensors stay in the graphs' buffers: between its forward and its backward pass a graphed call is
    busy, and cannot run another call.

    Args:
        plan: of the call.
        inputs: of the call.
        needed: gradients needed, see `convlstm.engines.backward`; None for no backward pass.
    """

    def __init__(self, plan: Plan, inputs: Inputs, needed: tuple[bool, ...] | None) -> None:
        self.busy, self.bytes = False, _bytes(plan, inputs)

        def run(*tensors: Any) -> Any:
            return forward(plan, Inputs.of(tensors), keep=needed is not None)

        graph = self.forward_graph = GraphedFunction(run, inputs.tensors())
        if needed is not None:
            static = Inputs.of(graph.inputs)

            def run_backward(*gradients: Any) -> Any:
                return backward(plan, static, graph.results[2], needed, gradients)

            outputs, state, _ = graph.results
            results = state if outputs is None else (outputs, *state)
            self.backward_graph = GraphedFunction(run_backward, [torch.zeros_like(t) for t in results])

    def forward(self, inputs: Inputs) -> tuple[Tensor | None, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs and state in new tensors, and a token to save, which is freed with the autograd graph."""
        outputs, state, saved = self.forward_graph.replay(inputs.tensors())
        token = () if saved is None else (self._token(),)
        return None if outputs is None else outputs.clone(), tuple(t.clone() for t in state), token

    def backward(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of the last call, in new tensors."""
        return [None if d is None else d.clone() for d in self.backward_graph.replay(gradients)]

    def _token(self) -> Tensor:
        """A tensor whose storage, when freed, ends the busy state."""
        self.busy = True
        storage = np.empty(1, dtype=np.uint8)
        weakref.finalize(storage, setattr, self, "busy", False).atexit = False
        return torch.from_numpy(storage)


_graphed: OrderedDict[Any, GraphedCall | None] = OrderedDict()
_counts: Counter[Any] = Counter()


def get_graphed_call(plan: Plan, inputs: Inputs, needed: tuple[bool, ...] | None) -> GraphedCall | None:
    """A graphed call for these inputs, captured if like calls came before; None if there is none to use."""
    x = inputs.x
    if x.device.type not in config.graph_devices or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    # Such hooks, checkpointing's among them, replace the token: when it is freed says nothing then.
    top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # not in torch 2.7
    if needed is not None and (top_hooks is None or top_hooks(False) is not None):
        return None
    if _bytes(plan, inputs) > config.max_graph_bytes:
        return None
    stream = torch.cuda.current_stream(x.device) if x.is_cuda else None
    kinds = tuple(None if t is None else (t.shape, t.dtype) for t in inputs.tensors())
    modes = torch.is_inference_mode_enabled(), threading.get_ident(), *_convolution_modes()
    key = (plan, kinds, x.device, stream, needed, modes)
    if key not in _graphed:
        if len(_counts) > 1000:
            _counts.clear()
        _counts[key] += 1
        if _counts[key] <= config.graph_after:
            return None
        try:
            _graphed[key] = GraphedCall(plan, inputs, needed)
        except RuntimeError:  # out of memory, for example; any other error comes again in the call itself
            _graphed[key] = None
        while len(_graphed) > config.max_graphs or _total_bytes() > config.max_graphs_bytes:
            evicted, _ = _graphed.popitem(last=False)
            _counts[evicted] = -config.graph_after_eviction
    _graphed.move_to_end(key)
    found = _graphed[key]
    return None if found is None or found.busy else found


def clear() -> None:
    """Free all graphed calls."""
    _graphed.clear()
    _counts.clear()


def _bytes(plan: Plan, inputs: Inputs) -> int:
    return inputs.x.shape[1] * plan.step_bytes(inputs)


def _total_bytes() -> int:
    return sum(graphed.bytes for graphed in _graphed.values() if graphed is not None)


def _convolution_modes() -> tuple[Any, ...]:
    """Settings of torch on which cuDNN's choice of an algorithm depends."""
    cudnn = torch.backends.cudnn
    conv = getattr(cudnn, "conv", None)  # since torch 2.9; the older name may not be read once this is set
    precision = cudnn.allow_tf32 if conv is None else conv.fp32_precision
    deterministic = cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    return cudnn.enabled, cudnn.benchmark, precision, *deterministic
