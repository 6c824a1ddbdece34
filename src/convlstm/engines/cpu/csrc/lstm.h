// The LSTM: i, f, o, g are pre-activations in this order, w peepholes;
//   c' = gate(f + w_f c) c + gate(i + w_i c) candidate(g),  h' = gate(o + w_o c') output(c').

#pragma once

#include "amx.h"

namespace {

// Peepholes w_i, w_f, w_o, each (Q, C), of each pixel (Q = 1) or of each of the Q pixels of a frame.
struct Peepholes {
    const float* w;
    int64_t pixels;
    template <class Count>
    vfloat at(int64_t gate, int64_t p, int64_t C, int64_t k, Count n) const {
        return load(w + (gate * pixels + p % pixels) * C + k, n);
    }
};

// A step of channels k, k + 1, ... of pixel p.
template <class T, bool SAVE, bool PEEPHOLES>
struct LSTM {
    float* c;
    T *h, *saved;
    Peepholes w;
    int64_t C;
    static constexpr bool separate_candidate = false;

    template <class Count>
    ALWAYS_INLINE void add_peepholes(int64_t p, int64_t k, Count n, vfloat& i, vfloat& f, vfloat before) const {
        if (PEEPHOLES) i += w.at(0, p, C, k, n) * before, f += w.at(1, p, C, k, n) * before;
    }

    // The new cell state; i and f with peepholes.
    static ALWAYS_INLINE vfloat cell_state(vfloat i, vfloat f, vfloat g, vfloat before) {
        return (GATE<T>::at(f) * before).divide() + (GATE<T>::at(i) * CANDIDATE<T>::at(g)).divide_fast();
    }

    template <class Count>
    ALWAYS_INLINE void step(int64_t p, int64_t k, Count n, vfloat i, vfloat f, vfloat o, vfloat g) const {
        const int64_t m = p * C + k;
        if (SAVE) store_gates(saved + p * 4 * C + k, C, n, i, f, o, g);
        const vfloat before = load(c + m, n);
        add_peepholes(p, k, n, i, f, before);
        const vfloat after = cell_state(i, f, g, before);
        if (PEEPHOLES) o += w.at(2, p, C, k, n) * after;
        store(c + m, after, n);
        store(h + m, (GATE<T>::at(o) * OUTPUT<T>::at(after)).divide_fast(), n);
    }

    void forward(const T* preactivations, const T*, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const T* x = preactivations + p * 4 * C + k;
            step(p, k, n, load(x, n), load(x + C, n), load(x + 2 * C, n), load(x + 3 * C, n));
        });
    }

    void recompute(float* new_c, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const T* x = saved + p * 4 * C + k;
            vfloat i = load(x, n), f = load(x + C, n);
            const vfloat g = load(x + 3 * C, n), before = load(c + p * C + k, n);
            add_peepholes(p, k, n, i, f, before);
            store(new_c + p * C + k, cell_state(i, f, g, before), n);
        });
    }

    void backward(const T* d_output, const T* d_h, float* d_c, T* d_preactivations, T*, int64_t P, int threads) const {
        for_each_pixel(P, C, threads, [=, *this](int64_t p, int64_t k, auto n) {
            const int64_t x = p * 4 * C + k, m = p * C + k;
            vfloat i_in = load(saved + x, n), f_in = load(saved + x + C, n), o_in = load(saved + x + 2 * C, n);
            const vfloat g_in = load(saved + x + 3 * C, n), before = load(c + m, n);
            add_peepholes(p, k, n, i_in, f_in, before);
            const vfloat i = GATE<T>::at(i_in).divide(), f = GATE<T>::at(f_in).divide();
            const vfloat g = CANDIDATE<T>::at(g_in).divide(), after = f * before + i * g;
            if (PEEPHOLES) o_in += w.at(2, p, C, k, n) * after;
            const vfloat o = GATE<T>::at(o_in).divide(), out = OUTPUT<T>::at(after).divide();
            const vfloat dh = load(d_output + m, n) + load(d_h + m, n);
            const vfloat d_o = dh * out * GATE<T>::derivative(o_in, o);
            vfloat dc = load(d_c + m, n) + dh * o * OUTPUT<T>::derivative(after, out);
            if (PEEPHOLES) dc += w.at(2, p, C, k, n) * d_o;
            const vfloat d_i = dc * g * GATE<T>::derivative(i_in, i), d_f = dc * before * GATE<T>::derivative(f_in, f);
            const vfloat d_g = dc * i * CANDIDATE<T>::derivative(g_in, g);
            store_gates(d_preactivations + x, C, n, d_i, d_f, d_o, d_g);
            dc *= f;
            if (PEEPHOLES) dc += w.at(0, p, C, k, n) * d_i + w.at(1, p, C, k, n) * d_f;
            store(d_c + m, dc, n);
        });
    }
};

template <bool SAVE, class T, class Function>
void with_lstm(float* c, T* h, T* saved, const float* w, int64_t pixels, int64_t C, Function function) {
    if (w)
        function(LSTM<T, SAVE, true>{c, h, saved, {w, pixels}, C});
    else
        function(LSTM<T, SAVE, false>{c, h, saved, {w, pixels}, C});
}

}  // namespace
