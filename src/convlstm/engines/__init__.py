"""The same recurrences, faster: exchangeable implementations of the loop over time, never another model.

The way of a call, from `convlstm.layers.scan` down:

* ``selection``: which engine serves it, ``reference`` being the loop of ``scan`` itself.
* ``fused``: the layer as one differentiable function; under ``torch.compile`` by way of ``custom_op``.
* ``plans``: how it is computed, from the cell, the frames and the precision.
* ``sequence`` and ``backward``: the passes over time, in buffers from ``rooms``, by ``convolution``.
* ``families``: what differs between ConvLSTM and ConvGRU.
* Kernels, the arithmetic of a step: ``plain`` in torch's operations, which ``native`` (C++, in ``cpp/``) and
  ``gpu`` (Triton, in ``triton_kernels``) do faster where they can.
* ``compiler`` and ``library_cache``: how the C++ is compiled, and where the result is kept.
* ``graphs``: on a GPU, a call that comes again is replayed. ``stepper``: the same for streams.
"""

import convlstm.engines.custom_op  # noqa: F401 - registers the operators
from convlstm.engines.autograd import run
from convlstm.engines.call import SAVES, Call
from convlstm.engines.cuda_graphs import GraphedFunction
from convlstm.engines.dispatch import ENGINES, available, has_hooks, has_own_forward, loop_is_faster, select
from convlstm.engines.streaming import Stepper

__all__ = [
    "ENGINES",
    "SAVES",
    "Call",
    "GraphedFunction",
    "Stepper",
    "available",
    "has_hooks",
    "has_own_forward",
    "loop_is_faster",
    "run",
    "select",
]
