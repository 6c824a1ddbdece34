// The plain recurrence: h' = output(x), x a pre-activation.

#pragma once

#include "simd.h"

namespace {

template <class T, bool SAVE>
struct RNN {
    float* state;
    T *h, *saved;
    int64_t C;

    void forward(const T* x, const T*, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const int64_t m = p * C + k;
            const vfloat in = load(x + m, n), after = OUTPUT<T>::at(in).divide();
            if (SAVE) store(saved + m, in, n);
            store(h + m, after, n), store(state + m, after, n);
        });
    }

    void recompute(float* out, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            store(out + p * C + k, OUTPUT<T>::at(load(saved + p * C + k, n)).divide(), n);
        });
    }

    void backward(const T* d_output, const T* d_h, float* d_state, T* d_x, T*, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const int64_t m = p * C + k;
            const vfloat in = load(saved + m, n), out = OUTPUT<T>::at(in).divide();
            const vfloat d = load(d_state + m, n) + load(d_output + m, n) + load(d_h + m, n);
            store(d_x + m, d * OUTPUT<T>::derivative(in, out), n);
            store(d_state + m, vfloat{}, n);
        });
    }
};

template <bool SAVE, class T, class Function>
void with_rnn(float* state, T* h, T* saved, const float*, int64_t, int64_t C, Function function) {
    function(RNN<T, SAVE>{state, h, saved, C});
}

}  // namespace
