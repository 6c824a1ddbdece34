// Kernels of the recurrences for CPUs.
//
// Compiled on first use by convlstm/engines/cpu/library.py, once for each choice of activations: -DGATE=sigmoid
// -DCANDIDATE=tanh -DOUTPUT=tanh. Tensors are channels-last: P pixels of the whole batch, C channels, pre-activations
// (P, gates, C). They are float or bfloat16; arithmetic and the cell state are float.

#include "amx.h"
#include "gru.h"
#include "linear.h"
#include "lstm.h"
#include "rnn.h"
#include "sequence.h"
#include "transpose.h"
#include "winograd.h"

extern "C" {

// The kernels of a recurrence: `with_NAME` calls a function with it, for steps that save pre-activations or not. The
// parameter has values for each of Q pixels. `b` and `d_b` are read and written if the two parts are not only added.
#define KERNELS(NAME, T, DTYPE)                                                                                     \
    void NAME##_forward_##DTYPE(const T* a, const T* b, float* cell_state, T* h, T* saved, const float* parameter,  \
                                int64_t P, int64_t Q, int64_t C, int threads) {                                     \
        const auto forward = [=](auto cell) { cell.forward(a, b, P, threads); };                                    \
        if (saved)                                                                                                  \
            with_##NAME<true, T>(cell_state, h, saved, parameter, Q, C, forward);                                   \
        else                                                                                                        \
            with_##NAME<false, T>(cell_state, h, saved, parameter, Q, C, forward);                                  \
    }                                                                                                               \
    void NAME##_recompute_##DTYPE(T* saved, float* cell_state, float* new_cell_state, const float* parameter,       \
                                  int64_t P, int64_t Q, int64_t C, int threads) {                                   \
        with_##NAME<true, T>(cell_state, nullptr, saved, parameter, Q, C,                                           \
                             [=](auto cell) { cell.recompute(new_cell_state, P, threads); });                       \
    }                                                                                                               \
    void NAME##_backward_##DTYPE(T* saved, float* cell_state, const T* d_output, const T* d_h, float* d_cell_state, \
                                 T* d_a, T* d_b, const float* parameter, int64_t P, int64_t Q, int64_t C,           \
                                 int threads) {                                                                     \
        with_##NAME<true, T>(cell_state, nullptr, saved, parameter, Q, C, [=](auto cell) {                          \
            cell.backward(d_output, d_h, d_cell_state, d_a, d_b, P, threads);                                       \
        });                                                                                                         \
    }

KERNELS(lstm, float, float32)
KERNELS(lstm, bfloat16, bfloat16)
KERNELS(gru, float, float32)
KERNELS(gru, bfloat16, bfloat16)
KERNELS(rnn, float, float32)
KERNELS(rnn, bfloat16, bfloat16)

// A whole sequence of a small layer.
#define SEQUENCE(NAME)                                                                                              \
    void NAME##_sequence(const float* x, const float* weight, const float* bias, const float* parameter,            \
                         const float* first_h, const float* first_cell_state, float* outputs, float* last_h,        \
                         float* last_cell_state, float* h, float* cell_states, float* saved,                        \
                         const SequenceShape* shape) {                                                              \
        run_pass<ForwardPass>(*shape,                                                                               \
                              ForwardTensors{x, weight, bias, parameter, first_h, first_cell_state, outputs,        \
                                             last_h, last_cell_state, h, cell_states, saved},                       \
                              NAME##_forward_float32);                                                              \
    }                                                                                                               \
    void NAME##_sequence_backward(const float* x, const float* weight, const float* parameter, const float* h,      \
                                  float* cell_states, float* saved, const float* d_outputs, const float* d_last_h,  \
                                  const float* d_last_cell_state, float* d_x, float* d_weight, float* d_bias,       \
                                  float* d_h, float* d_cell_state, float* d_a, float* d_b,                          \
                                  const SequenceShape* shape) {                                                     \
        run_pass<BackwardPass>(*shape,                                                                              \
                               BackwardTensors{x, weight, parameter, h, cell_states, saved, d_outputs, d_last_h,    \
                                               d_last_cell_state, d_x, d_weight, d_bias, d_h, d_cell_state, d_a,    \
                                               d_b},                                                                \
                               NAME##_backward_float32);                                                            \
    }

SEQUENCE(lstm)
SEQUENCE(gru)
SEQUENCE(rnn)

// A step of a recurrence of four pre-activations, fused with its convolution.
#define STEP(NAME)                                                                                                  \
    void NAME##_step(const bfloat16* x, const bfloat16* h, const bfloat16* weight, const float* bias,               \
                     float* cell_state, bfloat16* new_h, bfloat16* saved, const float* parameter,                   \
                     const int32_t* rows, const int32_t* columns, const ConvShape* shape, int64_t Q, int threads) { \
        const Convolution conv{x, h, weight, bias, rows, columns, *shape};                                          \
        const auto step = [&](auto cell) { fused_step(conv, cell, threads); };                                      \
        if (saved)                                                                                                  \
            with_##NAME<true, bfloat16>(cell_state, new_h, saved, parameter, Q, shape->C, step);                    \
        else                                                                                                        \
            with_##NAME<false, bfloat16>(cell_state, new_h, saved, parameter, Q, shape->C, step);                   \
    }

STEP(lstm)
STEP(gru)

// The same by minimal filtering; h is null for zero.
#define WINOGRAD_STEP(NAME)                                                                                         \
    void NAME##_winograd_step(const float* x, const float* h, const float* weight_x, const float* weight_h,         \
                              const float* bias, float* cell_state, float* new_h, float* saved,                     \
                              const float* parameter, const int32_t* rows, const int32_t* columns,                  \
                              const FrameShape* frames, const WinogradShape* shape_x, const WinogradShape* shape_h, \
                              int64_t Q, int threads) {                                                             \
        const int64_t C = shape_h->inputs;                                                                          \
        const auto step = [&](auto cell) {                                                                          \
            winograd_step({*frames, rows, columns}, x, h, weight_x, weight_h, *shape_x, *shape_h, bias, cell,       \
                          threads);                                                                                 \
        };                                                                                                          \
        if (saved)                                                                                                  \
            with_##NAME<true, float>(cell_state, new_h, saved, parameter, Q, C, step);                              \
        else                                                                                                        \
            with_##NAME<false, float>(cell_state, new_h, saved, parameter, Q, C, step);                             \
    }

WINOGRAD_STEP(lstm)
WINOGRAD_STEP(gru)

int64_t winograd_packed_size(const WinogradShape* shape) { return shape->blocks() * shape->block_size(); }

void winograd_pack(const float* weight, float* packed, const WinogradShape* shape, int threads) {
    shape->pack(weight, packed, threads);
}

void winograd_convolve(const float* x, const float* packed, const float* bias, float* out, const int32_t* rows,
                       const int32_t* columns, const FrameShape* frames, const WinogradShape* shape, int add,
                       int threads) {
    winograd_convolve({*frames, rows, columns}, x, packed, *shape, bias, out, add != 0, threads);
}

// Elements of memory for the gradient of a weight, `part` tiles at a time.
int64_t winograd_gradient_size(const WinogradShape* shape, int64_t part) { return gradient_size(*shape, part); }

void winograd_weight_gradient(const float* x, const float* d_out, float* gradient, float* memory, const int32_t* rows,
                              const int32_t* columns, const FrameShape* frames, const WinogradShape* shape,
                              int64_t part, int threads) {
    winograd_weight_gradient({*frames, rows, columns}, x, d_out, *shape, gradient, memory, part, threads);
}

// The scan over time of a recurrence that is linear in its state.
#define LINEAR(RULE, T, DTYPE)                                                                                      \
    void RULE##_scan_##DTYPE(const T* planes, const float* state, const uint8_t* mask, const uint8_t* reset,        \
                             float* h, float* last, int64_t B, int64_t steps, int64_t N, int reverse, int threads) { \
        const Sequence<T> sequence{planes, state, mask, reset, B, steps, N, reverse != 0};                          \
        sequence.forward<RULE>(h, last, threads);                                                                   \
    }                                                                                                               \
    void RULE##_scan_backward_##DTYPE(const T* planes, const float* state, const uint8_t* mask,                     \
                                      const uint8_t* reset, const float* h, const float* d_h, const float* d_last,  \
                                      T* d_planes, float* d_state, int64_t B, int64_t steps, int64_t N,             \
                                      int reverse, int threads) {                                                   \
        const Sequence<T> sequence{planes, state, mask, reset, B, steps, N, reverse != 0};                          \
        sequence.backward<RULE>(h, d_h, d_last, d_planes, d_state, threads);                                        \
    }

LINEAR(affine, float, float32)
LINEAR(affine, bfloat16, bfloat16)
LINEAR(min_gru, float, float32)
LINEAR(min_gru, bfloat16, bfloat16)
LINEAR(min_lstm, float, float32)
LINEAR(min_lstm, bfloat16, bfloat16)
LINEAR(min_exp_lstm, float, float32)
LINEAR(min_exp_lstm, bfloat16, bfloat16)

#define TRANSPOSE(S, FROM, T, TO)                                                                               \
    void transpose_##FROM##_##TO(const S* x, T* y, int64_t matrices, int64_t rows, int64_t columns,             \
                                 int64_t x_stride, int64_t y_stride, int threads) {                             \
        transpose<S, T>(x, y, matrices, rows, columns, x_stride, y_stride, threads);                            \
    }

TRANSPOSE(float, float32, float, float32)
TRANSPOSE(float, float32, bfloat16, bfloat16)
TRANSPOSE(bfloat16, bfloat16, float, float32)
TRANSPOSE(bfloat16, bfloat16, bfloat16, bfloat16)

int has_amx() { return amx_available(); }

int64_t packed_size(const ConvShape* shape) {
    return ceil_div(shape->C, LANES) * Reduction(*shape).packed_block_size();
}

#define PACK(T, NAME)                                                                                           \
    void pack_##NAME(const T* weight, bfloat16* packed, const ConvShape* shape, int64_t gates, int threads) {   \
        pack(weight, packed, *shape, gates, threads);                                                           \
    }

PACK(float, float32)
PACK(bfloat16, bfloat16)
}
