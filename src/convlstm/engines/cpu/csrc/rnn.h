// The plain recurrence: h' = output(x), x a pre-activation.

#pragma once

#include "simd.h"

namespace {

template <class T>
struct RNN {
    static void forward(const T* x, float* state, T* h, T* saved, int64_t P, int64_t C, int threads) {
        for_each_pixel(P, C, threads, [=](int64_t p, int64_t k, auto n) {
            const int64_t m = p * C + k;
            const vfloat in = load(x + m, n), after = OUTPUT<T>::at(in).divide();
            if (saved) store(saved + m, in, n);
            if (h) store(h + m, after, n);
            store(state + m, after, n);
        });
    }

    static void backward(const T* saved, const T* d_output, const T* d_h, float* d_state, T* d_x, int64_t P, int64_t C,
                         int threads) {
        for_each_pixel(P, C, threads, [=](int64_t p, int64_t k, auto n) {
            const int64_t m = p * C + k;
            const vfloat in = load(saved + m, n), out = OUTPUT<T>::at(in).divide();
            const vfloat d = load(d_state + m, n) + load(d_output + m, n) + load(d_h + m, n);
            store(d_x + m, d * OUTPUT<T>::derivative(in, out), n);
            store(d_state + m, vfloat{}, n);
        });
    }
};

}  // namespace

extern "C" {

#define RNN_KERNELS(T, NAME)                                                                                        \
    void rnn_forward_##NAME(const T* preactivations, float* state, T* h, T* saved, int64_t P, int64_t C,            \
                            int threads) {                                                                          \
        RNN<T>::forward(preactivations, state, h, saved, P, C, threads);                                            \
    }                                                                                                               \
    void rnn_recompute_##NAME(const T* saved, float* new_state, int64_t P, int64_t C, int threads) {                \
        RNN<T>::forward(saved, new_state, nullptr, nullptr, P, C, threads);                                         \
    }                                                                                                               \
    void rnn_backward_##NAME(const T* saved, const T* d_output, const T* d_h, float* d_state, T* d_preactivations,  \
                             int64_t P, int64_t C, int threads) {                                                   \
        RNN<T>::backward(saved, d_output, d_h, d_state, d_preactivations, P, C, threads);                           \
    }

RNN_KERNELS(float, float32)
RNN_KERNELS(bfloat16, bfloat16)
}
