"""Settings of the fast engines: limits chosen by measurement, which tests and measurements may change."""

#: On a CPU ``auto`` runs the loop up to this many elements of a layer's state, summed over all frames.
small_on_cpu = 1 << 16
#: The same on a GPU, for single frames with gradients.
small_on_gpu = 1 << 22

#: Bytes of saved pre-activations of the steps that the backward pass computes together, which then fit in
#: cache, by device.
chunk_bytes = {"cpu": 96 << 20, "cuda": 64 << 20}
#: The same for the frames whose input is convolved in one call.
input_chunk_bytes = {"cpu": 8 << 20, "cuda": 64 << 20}
#: Pre-activations of a layer above this many bytes are recomputed by ``save="auto"``.
max_saved_bytes = 2 << 30
