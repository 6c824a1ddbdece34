"""Settings of the fast engines: limits chosen by measurement, which tests and measurements may change."""

import torch

#: On a CPU a sequence of up to this many multiplications of its convolutions is one call of C++, where
#: `convlstm.engines.plan.is_one_call`.
one_call_on_cpu = 40_000_000
#: Fewer pixels, of all frames, are not worth the arrangement of many weights for one call.
one_call_pixels = 32
#: A frame of more pixels would make one call take memory, which it keeps, of many times its results'.
one_call_frame_pixels = 1 << 14
#: ``auto`` leaves one call to the loop if a step has more pixels than so many for each channel of h: one call
#: computes the channels of a pixel together, the loop the pixels of a channel.
one_call_pixels_of_channel = 1024
#: Elsewhere on a CPU ``auto`` runs the loop up to this many; up to 2.5 times as many for single frames with
#: gradients, and up to six times as many without compiled kernels. ``fused`` runs it up to half as many.
small_on_cpu = 40_000_000
#: On a GPU the same up to this many elements of a layer's state, for single frames with gradients.
small_on_gpu = 1 << 22
#: On a CPU, pixels of all frames times the number of frames of a call, up to which the loop runs it, whatever
#: its weights: the engines arrange these, and their gradients, anew in each call. In 16 bits twice as
#: many; for single frames in float32 without gradients, whose arranged weights are kept, an eighth.
few_pixels_on_cpu = 1024

#: Bytes of saved pre-activations of the steps that the backward pass computes together, which then fit in
#: cache, by device.
chunk_bytes = {"cpu": 96 << 20, "cuda": 64 << 20}
#: The same for the frames whose input is convolved in one call.
input_chunk_bytes = {"cpu": 8 << 20, "cuda": 64 << 20}
#: Bytes of two coefficients of the frames of a linear recurrence that are computed and scanned together; for
#: up to four frames four times as many, as fewer keep no second core busy.
linear_chunk_bytes = {"cpu": 2 << 20, "cuda": 1 << 30}
#: A weight whose Fourier transform takes more bytes is convolved directly.
max_spectrum_bytes = 1 << 28
#: Convolve directly, never by minimal filtering (Winograd) or Fourier transforms: slower, and with the usual
#: rounding errors of sums. `convlstm.engines.available(layer, frames)` names the algorithm of a layer.
direct_convolution = False
#: Frames with a number beyond this are convolved directly: most of their tiles would have a pre-activation
#: above 4096, with which a tile is computed twice (`winograd.h`).
largest_filtered = 1024.0
#: Bytes of transformed weights that are kept for layers that are called frame by frame.
kept_weight_bytes = 128 << 20
#: Tiles whose transforms the gradient of a weight sums together.
winograd_tiles = 128
#: Pre-activations of a layer above this many bytes are recomputed by ``save="auto"``.
max_saved_bytes = 2 << 30

#: Devices on which calls become CUDA graphs. On a CPU a graphed call runs the same code without a graph.
graph_devices = {"cuda"}
#: Calls of the same kind before a graph is captured: calls of ever changing sizes are never captured.
graph_after = 2
#: The same for a call whose graph was evicted, so that more graphs than fit do not thrash the cache.
graph_after_eviction = 100
#: Graphs in the cache, the least recently used evicted first.
max_graphs = 16
#: Bytes of pre-activations of one graphed call (larger ones are not limited by launches), and of all. A graph
#: holds the memory of its call.
max_graph_bytes, max_graphs_bytes = 512 << 20, 2 << 30

#: On a CPU, reuse buffers of at least so many bytes from call to call; allocators of GPUs do so anyway.
buffer_pool, min_pooled_bytes = True, 1 << 20

#: Flags with which the C++ compiler makes code for this processor: the first that it takes.
cpu_flags: tuple[list[str], ...] = (
    ["-march=native", "-mprefer-vector-width=512"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)

#: Dtypes of h for which Triton fuses a step with its convolution; torch convolves float32 faster.
fused_step_dtypes = (torch.bfloat16, torch.float16)
