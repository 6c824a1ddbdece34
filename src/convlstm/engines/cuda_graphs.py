"""CUDA graphs: what a GPU does for a call, recorded once and then replayed without the host's part in it.

A convolutional recurrence asks for a few small kernels a step, each of which takes a GPU less time than it
takes Python to ask for it. A recording asks once for the whole sequence.
"""

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convlstm.engines.backward import Backward, Gradients
from convlstm.engines.forward import Given, Plan, forward

#: Where sequences are recorded. Anywhere else a recording works as well, by calling the function again.
_DEVICES = {"cuda"}
#: A call is recorded once this many like it have been seen: those of changing sizes never are.
_SEEN_BEFORE = 2
#: Recordings that are kept, those used last.
_MOST = 16
#: Calls after which one that was given up is recorded again, or more than fit would push each other out.
_AGAIN = 100
#: A recording holds on to the memory that its call needs, some times the sums of its gates. In bytes, those
#: of one (of larger calls the GPU's work takes longer than asking for it) and of all at most.
_LARGE, _LARGE_TOGETHER = 512 << 20, 2 << 30


class Recording:
    """A function of tensors, with its arguments and results always in the same places.

    Args:
        function: of the tensors, without gradients; may use others, which it then finds where they were.
        inputs: the arguments, None for none.
        ready: whether it has run before, and must not run in vain as it changes what it uses.

    Attributes:
        inputs: the copies that the function reads.
        results: what it returned; the next `replay` writes them again.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Sequence[Tensor | None], *, ready: bool = False
    ) -> None:
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        self.results: Any = None
        self._function, self._graph = function, None
        device = next(tensor.device for tensor in inputs if tensor is not None)
        if device.type != "cuda":
            if not ready:
                self.results = function(*self.inputs)
            return
        with torch.cuda.device(device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            if not ready:  # what compiles and chooses at its first call must have done so
                aside.wait_stream(here)
                with torch.cuda.stream(aside):
                    function(*self.inputs)
                here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            # Torch's own stream is on the device where it captured first, and after a failure it stays there.
            with (
                torch.cuda.stream(aside),
                torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"),
            ):
                self.results = function(*self.inputs)

    def replay(self, inputs: Sequence[Tensor | None]) -> Any:
        """The results for other arguments of the same kind; a missing one that was there is zero."""
        for own, tensor in zip(self.inputs, inputs, strict=True):
            if own is not None:
                own.zero_() if tensor is None else own.copy_(tensor)
        if self._graph is None:
            self.results = self._function(*self.inputs)
        else:
            self._graph.replay()
        return self.results


class Recorded:
    """A call of `convlstm.engines.forward` with its backward pass.

    Args:
        plan: of the call.
        given: to it.
        needed: whether gradients of x, weight, bias, states are asked for; None if there is no backward pass.
    """

    def __init__(self, plan: Plan, given: Given, needed: tuple[bool, bool, bool, bool] | None) -> None:
        self.plan, self.busy, self.bytes = plan, False, _sums_bytes(plan, given)

        def run(*tensors: Any) -> Any:
            return forward(plan, Given.of(tensors), keep=needed is not None)

        first = self.forward_graph = Recording(run, given.tensors())
        outputs, ends, _ = self.forward_graph.results
        if needed is not None:
            copies = Given.of(self.forward_graph.inputs)

            def back(*gradients: Any) -> Gradients:
                d_outputs, d_ends = (None, gradients) if outputs is None else (gradients[0], gradients[1:])
                return Backward(plan, copies, first.results[2], needed).run(d_outputs, d_ends)

            like = [*([] if outputs is None else [outputs]), *ends]
            self.backward_graph = Recording(back, [torch.zeros_like(tensor) for tensor in like])

    def forward(self, given: Given) -> tuple[Tensor | None, tuple[Tensor, ...], Tensor | None]:
        """Outputs and states in tensors of their own; and a token: until it is freed, this is busy."""
        outputs, ends, kept = self.forward_graph.replay(given.tensors())
        token = None if kept is None else self._token()
        return None if outputs is None else outputs.clone(), tuple(end.clone() for end in ends), token

    def backward(self, d_outputs: Tensor | None, d_ends: Sequence[Tensor | None]) -> Gradients:
        """Of the call before, in tensors of their own."""
        inputs = d_ends if self.forward_graph.results[0] is None else (d_outputs, *d_ends)
        *others, states = self.backward_graph.replay(inputs)
        x, weight, bias, extra, *of_states = (None if d is None else d.clone() for d in (*others, *states))
        return Gradients(x, weight, bias, extra, tuple(of_states))

    def _token(self) -> Tensor:
        """A tensor: as long as anybody holds its storage, what was kept is needed and this is busy."""
        self.busy = True
        memory = np.empty(1, dtype=np.uint8)
        weakref.finalize(memory, self._free).atexit = False
        return torch.from_numpy(memory)

    def _free(self) -> None:
        self.busy = False


_seen: Counter[Any] = Counter()
_recorded: OrderedDict[Any, Recorded | None] = OrderedDict()


def recorded(plan: Plan, given: Given, needed: tuple[bool, bool, bool, bool] | None) -> Recorded | None:
    """A recording that can take a call, or None: too large, too new, or all like it are in use."""
    x = given.x
    if x.device.type not in _DEVICES or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    # Hooks on what is saved (checkpoints are made of them) see each tensor and decide how long it lives.
    if needed is not None and torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return None
    if _sums_bytes(plan, given) > _LARGE:
        return None
    stream = torch.cuda.current_stream(x.device) if x.is_cuda else None
    kinds = tuple(None if t is None else (t.shape, t.dtype) for t in given.tensors())
    modes = torch.is_inference_mode_enabled(), threading.get_ident(), *_choices()
    key = (plan, kinds, x.device, stream, needed, modes)
    if key not in _recorded:
        if len(_seen) > 1000:
            _seen.clear()
        _seen[key] += 1
        if _seen[key] <= _SEEN_BEFORE:
            return None
        try:
            _recorded[key] = Recorded(plan, given, needed)
        except RuntimeError:  # no memory for it, say; whatever else is wrong, the call itself will tell
            _recorded[key] = None
        while len(_recorded) > _MOST or sum(r.bytes for r in _recorded.values() if r) > _LARGE_TOGETHER:
            given_up, _ = _recorded.popitem(last=False)
            _seen[given_up] = -_AGAIN
    _recorded.move_to_end(key)
    found = _recorded[key]
    return None if found is None or found.busy else found


def _sums_bytes(plan: Plan, given: Given) -> int:
    return given.x.shape[1] * plan.family.kept * given.states[-1].numel() * plan.compute.itemsize


def _choices() -> tuple[Any, ...]:
    """Of torch's own settings those that decide which convolution is recorded."""
    cudnn = torch.backends.cudnn
    conv = getattr(cudnn, "conv", None)  # since torch 2.9; the older name may not be read once this is set
    precision = cudnn.allow_tf32 if conv is None else conv.fp32_precision
    deterministic = cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    return cudnn.enabled, cudnn.benchmark, precision, *deterministic
