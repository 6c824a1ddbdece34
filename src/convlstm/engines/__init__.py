"""Faster implementations of the recurrences, with the numbers and gradients of `convlstm.layers.scan`'s loop.

A call passes through, from `convlstm.layers.scan` down:

* ``call``: its frames, state and options.
* ``dispatch``: the engine that runs it; ``reference`` is the loop of ``scan`` itself.
* ``autograd``: the layer as one differentiable function; ``custom_op``: its operators for ``torch.compile``.
* ``plan``: its dtypes, kernels and chunks.
* ``forward`` and ``backward``: the passes over time, by ``convolution``, in buffers of ``buffer_pool``;
  ``fourier``: large kernels.
* ``recurrences``: the arithmetic of a step in torch's operations, one file each; ``cpu`` has the same in C++,
  ``triton`` for NVIDIA GPUs.
* ``linear``: recurrences that are linear in their state, by a scan over time in place of the passes above.
* ``cuda_graphs``: on a GPU, calls that come again are replayed. ``streaming``: frames one by one.
* ``config``: limits and switches.
"""

import convlstm.engines.custom_op  # noqa: F401 - registers the operators
from convlstm.cells.overrides import has_hooks
from convlstm.engines.autograd import run
from convlstm.engines.call import SAVES, Call
from convlstm.engines.cuda_graphs import GraphedFunction
from convlstm.engines.dispatch import ENGINES, available, has_own_forward, loop_is_faster, select, supported
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
    "supported",
]
