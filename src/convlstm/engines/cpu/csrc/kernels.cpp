// The pointwise halves of the recurrences for a CPU, as convlstm/engines/plain.py writes them in torch; and whole
// steps by amx.h, of the same cells.
//
// Compiled on first use by convlstm/engines/cpu/bindings.py, once for each choice of activations: -DGATE=sigmoid
// -DCANDIDATE=tanh -DOUTPUT=tanh. Everything is stored by pixel, channels last: P pixels of the whole batch, C
// channels, sums (P, 4, C). Stored numbers are float or bfloat16; all arithmetic and the memory are float.

#include "amx.h"
#include "simd.h"

namespace {

// Peepholes: w_i, w_f, w_o, each (Q, C), of every pixel (Q = 1) or of each of the Q pixels of a frame.
struct Peepholes {
    const float* w;
    size pixels;
    template <class Count>
    floats at(size gate, size p, size C, size k, Count n) const {
        return get(w + (gate * pixels + p % pixels) * C + k, n);
    }
};

template <class T, class Count>
inline void keep(T* kept, size C, Count n, floats a, floats b, floats c, floats d) {
    put(kept, a, n), put(kept + C, b, n), put(kept + 2 * C, c, n), put(kept + 3 * C, d, n);
}

// A step of channels k, k + 1, ... of pixel p from their four sums, which are kept if wished.
template <class T, bool KEEP, bool PEEP>
struct LSTM {
    float* c;
    T *h, *kept;
    Peepholes w;
    size C;
    static constexpr bool apart = false;

    template <class Count>
    void step(size p, size k, Count n, floats i, floats f, floats o, floats g) const {
        const size m = p * C + k;
        if (KEEP) keep(kept + p * 4 * C + k, C, n, i, f, o, g);
        const floats before = get(c + m, n);
        if (PEEP) i += w.at(0, p, C, k, n) * before, f += w.at(1, p, C, k, n) * before;
        const floats after = (GATE<T>::at(f) * before).exact() + (GATE<T>::at(i) * CANDIDATE<T>::at(g)).value();
        if (PEEP) o += w.at(2, p, C, k, n) * after;
        put(c + m, after, n);
        put(h + m, (GATE<T>::at(o) * OUTPUT<T>::at(after)).value(), n);
    }
};

// The same, from the sums of r and z and the two parts of n.
template <class T, bool KEEP>
struct GRU {
    float* m;
    T *h, *kept;
    size C;
    static constexpr bool apart = true;  // the last two sums are x's and h's part of one

    template <class Count>
    void step(size p, size k, Count n, floats r, floats z, floats x, floats y) const {
        if (KEEP) keep(kept + p * 4 * C + k, C, n, r, z, x, y);
        const floats old = GATE<T>::at(z).exact(), proposal = CANDIDATE<T>::at(x + (GATE<T>::at(r) * y).value()).value();
        const floats after = (1 - old) * proposal + old * get(m + p * C + k, n);
        put(m + p * C + k, after, n), put(h + p * C + k, after, n);
    }
};

template <class T, bool KEEP, bool PEEP>
void lstm_forward_(const T* sums, float* c, T* h, T* kept, Peepholes w, size P, size C, int threads) {
    const LSTM<T, KEEP, PEEP> cell{c, h, kept, w, C};
#pragma omp parallel for num_threads(worth(P * C, threads)) schedule(static)
    for (size p = 0; p < P; p++)
        by_lanes(C, [=](size k, auto n) {
            const T* s = sums + p * 4 * C + k;
            cell.step(p, k, n, get(s, n), get(s + C, n), get(s + 2 * C, n), get(s + 3 * C, n));
        });
}

template <class T, bool PEEP>
void lstm_replay_(const T* sums, const float* c, float* new_c, Peepholes w, size P, size C, int threads) {
#pragma omp parallel for num_threads(worth(P * C, threads)) schedule(static)
    for (size p = 0; p < P; p++)
        by_lanes(C, [=](size k, auto n) {
            const size s = p * 4 * C + k, m = p * C + k;
            floats i = get(sums + s, n), f = get(sums + s + C, n);
            const floats g = get(sums + s + 3 * C, n), before = get(c + m, n);
            if (PEEP) i += w.at(0, p, C, k, n) * before, f += w.at(1, p, C, k, n) * before;
            put(new_c + m, (GATE<T>::at(f) * before).exact() + (GATE<T>::at(i) * CANDIDATE<T>::at(g)).value(), n);
        });
}

template <class T, bool PEEP>
void lstm_backward_(const T* sums, const float* c, const T* d_output, const T* d_h, float* d_c, T* d_sums,
                    Peepholes w, size P, size C, int threads) {
#pragma omp parallel for num_threads(worth(P * C, threads)) schedule(static)
    for (size p = 0; p < P; p++)
        by_lanes(C, [=](size k, auto n) {
            const size s = p * 4 * C + k, m = p * C + k;
            floats si = get(sums + s, n), sf = get(sums + s + C, n), so = get(sums + s + 2 * C, n);
            const floats sg = get(sums + s + 3 * C, n), before = get(c + m, n);
            if (PEEP) si += w.at(0, p, C, k, n) * before, sf += w.at(1, p, C, k, n) * before;
            const floats i = GATE<T>::at(si).exact(), f = GATE<T>::at(sf).exact(), g = CANDIDATE<T>::at(sg).exact();
            const floats after = f * before + i * g;
            if (PEEP) so += w.at(2, p, C, k, n) * after;
            const floats o = GATE<T>::at(so).exact(), out = OUTPUT<T>::at(after).exact();
            const floats dh = get(d_output + m, n) + get(d_h + m, n);
            const floats d_o = dh * out * GATE<T>::slope(so, o);
            floats dc = get(d_c + m, n) + dh * o * OUTPUT<T>::slope(after, out);
            if (PEEP) dc += w.at(2, p, C, k, n) * d_o;
            const floats d_i = dc * g * GATE<T>::slope(si, i), d_f = dc * before * GATE<T>::slope(sf, f);
            put(d_sums + s, d_i, n), put(d_sums + s + C, d_f, n), put(d_sums + s + 2 * C, d_o, n);
            put(d_sums + s + 3 * C, dc * i * CANDIDATE<T>::slope(sg, g), n);
            dc *= f;
            if (PEEP) dc += w.at(0, p, C, k, n) * d_i + w.at(1, p, C, k, n) * d_f;
            put(d_c + m, dc, n);
        });
}

template <class T, bool KEEP>
void gru_forward_(const T* a, const T* b, const float* bias, float* m, T* h, T* kept, size P, size C, int threads) {
    const GRU<T, KEEP> cell{m, h, kept, C};
#pragma omp parallel for num_threads(worth(P * C, threads)) schedule(static)
    for (size p = 0; p < P; p++)
        by_lanes(C, [=](size k, auto n) {
            const T *x = a + p * 3 * C + k, *y = b + p * 3 * C + k;
            const floats r = rounded<T>(get(x, n) + get(y, n)), z = rounded<T>(get(x + C, n) + get(y + C, n));
            cell.step(p, k, n, r, z, get(x + 2 * C, n), rounded<T>(get(y + 2 * C, n) + get(bias + k, n)));
        });
}

template <class T>
void gru_replay_(const T* sums, const float* m, float* new_m, size P, size C, int threads) {
#pragma omp parallel for num_threads(worth(P * C, threads)) schedule(static)
    for (size p = 0; p < P; p++)
        by_lanes(C, [=](size k, auto n) {
            const size q = p * 4 * C + k;
            const floats r = get(sums + q, n), old = GATE<T>::at(get(sums + q + C, n)).exact();
            const floats x = get(sums + q + 2 * C, n), y = get(sums + q + 3 * C, n);
            const floats proposal = CANDIDATE<T>::at(x + (GATE<T>::at(r) * y).value()).value();
            put(new_m + p * C + k, (1 - old) * proposal + old * get(m + p * C + k, n), n);
        });
}

template <class T>
void gru_backward_(const T* sums, const float* m, const T* d_output, const T* d_h, float* d_m, T* d_a, T* d_b,
                   size P, size C, int threads) {
#pragma omp parallel for num_threads(worth(P * C, threads)) schedule(static)
    for (size p = 0; p < P; p++)
        by_lanes(C, [=](size k, auto n) {
            const size s = p * 3 * C + k, q = p * 4 * C + k, at = p * C + k;
            const floats sr = get(sums + q, n), sz = get(sums + q + C, n), y = get(sums + q + 3 * C, n);
            const floats r = GATE<T>::at(sr).exact(), z = GATE<T>::at(sz).exact();
            const floats sn = get(sums + q + 2 * C, n) + r * y, proposal = CANDIDATE<T>::at(sn).exact();
            const floats d = get(d_m + at, n) + get(d_output + at, n) + get(d_h + at, n);
            const floats d_z = d * (get(m + at, n) - proposal) * GATE<T>::slope(sz, z);
            const floats d_n = d * (1 - z) * CANDIDATE<T>::slope(sn, proposal), d_r = d_n * y * GATE<T>::slope(sr, r);
            put(d_a + s, d_r, n), put(d_a + s + C, d_z, n), put(d_a + s + 2 * C, d_n, n);
            put(d_b + s, d_r, n), put(d_b + s + C, d_z, n), put(d_b + s + 2 * C, d_n * r, n);
            put(d_m + at, d * z, n);
        });
}

// Lanes `from`, `from` + 1, ... of a and b by turns.
template <size from, size... n>
inline floats interleaved(floats a, floats b, std::integer_sequence<size, n...>) {
    return floats{(n % 2 ? b : a)[from + n / 2]...};
}

// Rows of numbers become columns: again and again the first half of the rows is interleaved with the second.
inline void transpose(floats rows[LANES]) {
    const std::make_integer_sequence<size, LANES> all;
    for (size round = 1; round < LANES; round *= 2) {
        floats mixed[LANES];
        for (size n = 0; n < LANES / 2; n++) {
            mixed[2 * n] = interleaved<0>(rows[n], rows[n + LANES / 2], all);
            mixed[2 * n + 1] = interleaved<LANES / 2>(rows[n], rows[n + LANES / 2], all);
        }
        std::memcpy(rows, mixed, sizeof(mixed));
    }
}

template <class S, class T, class Rows, class Columns>
inline void transpose_block(const S* x, T* y, size R, size K, Rows rows, Columns columns) {
    floats block[LANES] = {};
    for (size r = 0; r < rows; r++) block[r] = get(x + r * K, columns);
    transpose(block);
    for (size k = 0; k < columns; k++) put(y + k * R, block[k], rows);
}

// N matrices (R, K), `from` numbers apart, to N matrices (K, R), `to` numbers apart.
template <class S, class T>
void transpose_(const S* x, T* y, size N, size R, size K, size from, size to, int threads) {
    const size together = 4 * LANES;  // rows, so that each column is written some cache lines at a time
#pragma omp parallel for collapse(2) num_threads(worth(N * R * K, threads)) schedule(static)
    for (size n = 0; n < N; n++)
        for (size b = 0; b < (R + together - 1) / together; b++)
            by_lanes(K, [=](size k, auto columns) {
                const size end = R < (b + 1) * together ? R : (b + 1) * together;
                for (size r = b * together; r < end; r += LANES) {
                    const S* a = x + n * from + r * K + k;
                    T* c = y + n * to + k * R + r;
                    if (end - r < LANES)
                        transpose_block(a, c, R, K, end - r, columns);
                    else
                        transpose_block(a, c, R, K, All(), columns);
                }
            });
}

}  // namespace

#define CHOOSE(condition, yes, no) \
    if (condition) {               \
        yes;                       \
    } else {                       \
        no;                        \
    }

#define KERNELS(T, NAME)                                                                                          \
    void lstm_forward_##NAME(const T* sums, float* c, T* h, T* kept, const float* w, size pixels, size P, size C, \
                             int threads) {                                                                       \
        const Peepholes v{w, pixels};                                                                             \
        CHOOSE(w, CHOOSE(kept, (lstm_forward_<T, 1, 1>(sums, c, h, kept, v, P, C, threads)),                      \
                         (lstm_forward_<T, 0, 1>(sums, c, h, kept, v, P, C, threads))),                           \
               CHOOSE(kept, (lstm_forward_<T, 1, 0>(sums, c, h, kept, v, P, C, threads)),                         \
                      (lstm_forward_<T, 0, 0>(sums, c, h, kept, v, P, C, threads))))                              \
    }                                                                                                             \
    void lstm_replay_##NAME(const T* sums, const float* c, float* new_c, const float* w, size pixels, size P,     \
                            size C, int threads) {                                                                \
        const Peepholes v{w, pixels};                                                                             \
        CHOOSE(w, (lstm_replay_<T, 1>(sums, c, new_c, v, P, C, threads)),                                         \
               (lstm_replay_<T, 0>(sums, c, new_c, v, P, C, threads)))                                            \
    }                                                                                                             \
    void lstm_backward_##NAME(const T* sums, const float* c, const T* d_output, const T* d_h, float* d_c,         \
                              T* d_sums, const float* w, size pixels, size P, size C, int threads) {              \
        const Peepholes v{w, pixels};                                                                             \
        CHOOSE(w, (lstm_backward_<T, 1>(sums, c, d_output, d_h, d_c, d_sums, v, P, C, threads)),                  \
               (lstm_backward_<T, 0>(sums, c, d_output, d_h, d_c, d_sums, v, P, C, threads)))                     \
    }                                                                                                             \
    void gru_forward_##NAME(const T* a, const T* b, const float* bias, float* m, T* h, T* kept, size P, size C,   \
                            int threads) {                                                                        \
        CHOOSE(kept, (gru_forward_<T, 1>(a, b, bias, m, h, kept, P, C, threads)),                                 \
               (gru_forward_<T, 0>(a, b, bias, m, h, kept, P, C, threads)))                                       \
    }                                                                                                             \
    void gru_replay_##NAME(const T* sums, const float* m, float* new_m, size P, size C, int threads) {            \
        gru_replay_<T>(sums, m, new_m, P, C, threads);                                                            \
    }                                                                                                             \
    void gru_backward_##NAME(const T* sums, const float* m, const T* d_output, const T* d_h, float* d_m, T* d_a,  \
                             T* d_b, size P, size C, int threads) {                                               \
        gru_backward_<T>(sums, m, d_output, d_h, d_m, d_a, d_b, P, C, threads);                                   \
    }

extern "C" {

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)

#define TRANSPOSE(S, FROM, T, TO)                                                                             \
    void transpose_##FROM##_##TO(const S* x, T* y, size N, size R, size K, size from, size to, int threads) { \
        transpose_<S, T>(x, y, N, R, K, from, to, threads);                                                   \
    }

TRANSPOSE(float, float32, float, float32)
TRANSPOSE(float, float32, bfloat16, bfloat16)
TRANSPOSE(bfloat16, bfloat16, float, float32)
TRANSPOSE(bfloat16, bfloat16, bfloat16, bfloat16)

int amx_ready() { return amx(); }

size packed_size(const Sizes* sizes) { return ratio_up(sizes->C, LANES) * Terms(*sizes).block_size(); }

void pack_float32(const float* weight, bfloat16* to, const Sizes* sizes, size G, int threads) {
    pack(weight, to, *sizes, G, threads);
}

void pack_bfloat16(const bfloat16* weight, bfloat16* to, const Sizes* sizes, size G, int threads) {
    pack(weight, to, *sizes, G, threads);
}

void lstm_step(const bfloat16* x, const bfloat16* h, const bfloat16* weight, const float* bias, float* c,
               bfloat16* new_h, bfloat16* kept, const float* w, const int32_t* rows, const int32_t* columns,
               const Sizes* sizes, size pixels, int threads) {
    const Convolution conv{x, h, weight, bias, rows, columns, *sizes};
    const Peepholes v{w, pixels};
    const size C = sizes->C;
    CHOOSE(w, CHOOSE(kept, (step(conv, LSTM<bfloat16, 1, 1>{c, new_h, kept, v, C}, threads)),
                     (step(conv, LSTM<bfloat16, 0, 1>{c, new_h, kept, v, C}, threads))),
           CHOOSE(kept, (step(conv, LSTM<bfloat16, 1, 0>{c, new_h, kept, v, C}, threads)),
                  (step(conv, LSTM<bfloat16, 0, 0>{c, new_h, kept, v, C}, threads))))
}

void gru_step(const bfloat16* x, const bfloat16* h, const bfloat16* weight, const float* bias, float* m,
              bfloat16* new_h, bfloat16* kept, const int32_t* rows, const int32_t* columns, const Sizes* sizes,
              int threads) {
    const Convolution conv{x, h, weight, bias, rows, columns, *sizes};
    CHOOSE(kept, (step(conv, GRU<bfloat16, 1>{m, new_h, kept, sizes->C}, threads)),
           (step(conv, GRU<bfloat16, 0>{m, new_h, kept, sizes->C}, threads)))
}
}
