// The GRU whose reset gate acts after the convolution: r, z are pre-activations, x and y the two parts of n's;
//   n = candidate(x + gate(r) y),  h' = (1 - gate(z)) n + gate(z) h.

#pragma once

#include "amx.h"

namespace {

// A step of channels k, k + 1, ... of pixel p.
template <class T, bool SAVE>
struct GRU {
    float* state;
    T *h, *saved;
    const float* bias;  // of y, (C,)
    int64_t C;
    static constexpr bool separate_candidate = true;

    static ALWAYS_INLINE vfloat new_state(vfloat r, vfloat z, vfloat x, vfloat y, vfloat before) {
        const vfloat old = GATE<T>::at(z).divide();
        const vfloat candidate = CANDIDATE<T>::at(x + (GATE<T>::at(r) * y).divide_fast()).divide_fast();
        return (1 - old) * candidate + old * before;
    }

    template <class Count>
    ALWAYS_INLINE void step(int64_t p, int64_t k, Count n, vfloat r, vfloat z, vfloat x, vfloat y) const {
        if (SAVE) store_gates(saved + p * 4 * C + k, C, n, r, z, x, y);
        const vfloat after = new_state(r, z, x, y, load(state + p * C + k, n));
        store(state + p * C + k, after, n), store(h + p * C + k, after, n);
    }

    void forward(const T* a, const T* b, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const T *x = a + p * 3 * C + k, *y = b + p * 3 * C + k;
            const vfloat r = round_to<T>(load(x, n) + load(y, n)), z = round_to<T>(load(x + C, n) + load(y + C, n));
            step(p, k, n, r, z, load(x + 2 * C, n), round_to<T>(load(y + 2 * C, n) + load(bias + k, n)));
        });
    }

    void recompute(float* out, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const T* x = saved + p * 4 * C + k;
            const vfloat r = load(x, n), z = load(x + C, n), before = load(state + p * C + k, n);
            store(out + p * C + k, new_state(r, z, load(x + 2 * C, n), load(x + 3 * C, n), before), n);
        });
    }

    void backward(const T* d_output, const T* d_h, float* d_state, T* d_a, T* d_b, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const int64_t s = p * 3 * C + k, m = p * C + k;
            const T* in = saved + p * 4 * C + k;
            const vfloat r_in = load(in, n), z_in = load(in + C, n), y = load(in + 3 * C, n);
            const vfloat r = GATE<T>::at(r_in).divide(), z = GATE<T>::at(z_in).divide();
            const vfloat n_in = load(in + 2 * C, n) + r * y, candidate = CANDIDATE<T>::at(n_in).divide();
            const vfloat d = load(d_state + m, n) + load(d_output + m, n) + load(d_h + m, n);
            const vfloat d_z = d * (load(state + m, n) - candidate) * GATE<T>::derivative(z_in, z);
            const vfloat d_n = d * (1 - z) * CANDIDATE<T>::derivative(n_in, candidate);
            const vfloat d_r = d_n * y * GATE<T>::derivative(r_in, r);
            store(d_a + s, d_r, n), store(d_a + s + C, d_z, n), store(d_a + s + 2 * C, d_n, n);
            store(d_b + s, d_r, n), store(d_b + s + C, d_z, n), store(d_b + s + 2 * C, d_n * r, n);
            store(d_state + m, d * z, n);
        });
    }
};

template <bool SAVE, class T, class Function>
void with_gru(float* state, T* h, T* saved, const float* bias, int64_t, int64_t C, Function function) {
    function(GRU<T, SAVE>{state, h, saved, bias, C});
}

}  // namespace
