// The pointwise halves of the recurrences for a CPU, as convlstm/engines/plain.py writes them in torch.
//
// Compiled on first use by convlstm/engines/native.py, once for each choice of activations: -DGATE=sigmoid
// -DCANDIDATE=tanh -DOUTPUT=tanh. Everything is stored by pixel, channels last: P pixels of the whole batch, C
// channels, sums (P, 4, C). Stored numbers are float or bfloat16; all arithmetic and the memory are float.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float get(float x) { return x; }

inline float get(bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

inline void put(float& to, float x) { to = x; }

inline void put(bfloat16& to, float x) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to.bits = static_cast<uint16_t>(x != x ? 0x7fc0 : nearest);
}

template <class T>
inline float rounded(float x) {
    T y;
    put(y, x);
    return get(y);
}

// To within two units in the last place, without a branch so that it runs in vector registers: 2^k e^r with
// |r| <= log(2) / 2, and the series of e^r up to r^7.
inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float k = std::nearbyint(x * 1.442695041f);
    const float r = (x - k * 0.693145752f) - k * 1.428606765e-6f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

// Each activation: its value at x, and its slope there, given also the value y.

struct sigmoid {
    static float value(float x) { return 1.0f / (1.0f + exponential(-x)); }
    static float slope(float, float y) { return y * (1.0f - y); }
};

struct tanh {
    static float value(float x) {
        const float far = 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f;
        const float s = x * x;  // near zero the difference above would lose digits that the series keeps
        const float near = x + x * s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835))));
        return std::fabs(x) < 0.25f ? near : far;
    }
    static float slope(float, float y) { return 1.0f - y * y; }
};

struct hard_sigmoid {
    static float value(float x) { return x <= -3 ? 0.0f : x >= 3 ? 1.0f : x / 6 + 0.5f; }
    static float slope(float x, float) { return x > -3 && x < 3 ? 1.0f / 6 : 0.0f; }
};

struct hard_tanh {
    static float value(float x) { return x < -1 ? -1.0f : x > 1 ? 1.0f : x; }
    static float slope(float x, float) { return x > -1 && x < 1 ? 1.0f : 0.0f; }
};

struct relu {
    static float value(float x) { return x < 0 ? 0.0f : x; }
    static float slope(float x, float) { return x > 0 ? 1.0f : 0.0f; }
};

struct leaky_relu {
    static float value(float x) { return x > 0 ? x : 0.01f * x; }
    static float slope(float x, float) { return x > 0 ? 1.0f : 0.01f; }
};

struct elu {
    static float value(float x) { return x > 0 ? x : std::expm1(x); }
    static float slope(float x, float y) { return x > 0 ? 1.0f : y + 1; }
};

struct silu {
    static float value(float x) { return x * sigmoid::value(x); }
    static float slope(float x, float) {
        const float s = sigmoid::value(x);
        return s * (1 + x * (1 - s));
    }
};

struct gelu {
    static float value(float x) { return 0.5f * x * std::erfc(-x * 0.707106781f); }
    static float slope(float x, float) {
        return 0.5f * std::erfc(-x * 0.707106781f) + 0.398942280f * x * exponential(-0.5f * x * x);
    }
};

struct softsign {
    static float value(float x) { return x / (1 + std::fabs(x)); }
    static float slope(float x, float) { return 1 / ((1 + std::fabs(x)) * (1 + std::fabs(x))); }
};

struct identity {
    static float value(float x) { return x; }
    static float slope(float, float) { return 1.0f; }
};

typedef int64_t size;

// Peepholes: w_i, w_f, w_o, each (Q, C), of every pixel (Q = 1) or of each of the Q pixels of a frame.
struct Peepholes {
    const float* w;
    size pixels;
    const float* at(size gate, size p, size C) const { return w + (gate * pixels + p % pixels) * C; }
};

template <class T, bool KEEP, bool PEEP>
void lstm_forward_(const T* sums, float* c, T* h, T* kept, Peepholes w, size P, size C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size p = 0; p < P; p++) {
        const size s = p * 4 * C, n = p * C;
        const float *wi = nullptr, *wf = nullptr, *wo = nullptr;
        if (PEEP) wi = w.at(0, p, C), wf = w.at(1, p, C), wo = w.at(2, p, C);
#pragma omp simd
        for (size k = 0; k < C; k++) {
            float i = get(sums[s + k]), f = get(sums[s + C + k]), o = get(sums[s + 2 * C + k]);
            const float g = get(sums[s + 3 * C + k]);
            if (KEEP) {
                put(kept[s + k], i), put(kept[s + C + k], f);
                put(kept[s + 2 * C + k], o), put(kept[s + 3 * C + k], g);
            }
            const float before = c[n + k];
            if (PEEP) i += wi[k] * before, f += wf[k] * before;
            const float after = GATE::value(f) * before + GATE::value(i) * CANDIDATE::value(g);
            c[n + k] = after;
            if (PEEP) o += wo[k] * after;
            put(h[n + k], GATE::value(o) * OUTPUT::value(after));
        }
    }
}

template <class T, bool PEEP>
void lstm_replay_(const T* sums, const float* c, float* new_c, Peepholes w, size P, size C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size p = 0; p < P; p++) {
        const size s = p * 4 * C, n = p * C;
        const float *wi = nullptr, *wf = nullptr;
        if (PEEP) wi = w.at(0, p, C), wf = w.at(1, p, C);
#pragma omp simd
        for (size k = 0; k < C; k++) {
            float i = get(sums[s + k]), f = get(sums[s + C + k]);
            const float before = c[n + k];
            if (PEEP) i += wi[k] * before, f += wf[k] * before;
            new_c[n + k] = GATE::value(f) * before + GATE::value(i) * CANDIDATE::value(get(sums[s + 3 * C + k]));
        }
    }
}

template <class T, bool PEEP>
void lstm_backward_(const T* sums, const float* c, const T* d_output, const T* d_h, float* d_c, T* d_sums,
                    Peepholes w, size P, size C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size p = 0; p < P; p++) {
        const size s = p * 4 * C, n = p * C;
        const float *wi = nullptr, *wf = nullptr, *wo = nullptr;
        if (PEEP) wi = w.at(0, p, C), wf = w.at(1, p, C), wo = w.at(2, p, C);
#pragma omp simd
        for (size k = 0; k < C; k++) {
            float si = get(sums[s + k]), sf = get(sums[s + C + k]), so = get(sums[s + 2 * C + k]);
            const float sg = get(sums[s + 3 * C + k]), before = c[n + k];
            if (PEEP) si += wi[k] * before, sf += wf[k] * before;
            const float i = GATE::value(si), f = GATE::value(sf), g = CANDIDATE::value(sg);
            const float after = f * before + i * g;
            if (PEEP) so += wo[k] * after;
            const float o = GATE::value(so), out = OUTPUT::value(after);
            const float dh = get(d_output[n + k]) + get(d_h[n + k]);
            const float d_o = dh * out * GATE::slope(so, o);
            float dc = d_c[n + k] + dh * o * OUTPUT::slope(after, out);
            if (PEEP) dc += wo[k] * d_o;
            const float d_i = dc * g * GATE::slope(si, i), d_f = dc * before * GATE::slope(sf, f);
            put(d_sums[s + k], d_i), put(d_sums[s + C + k], d_f), put(d_sums[s + 2 * C + k], d_o);
            put(d_sums[s + 3 * C + k], dc * i * CANDIDATE::slope(sg, g));
            dc *= f;
            if (PEEP) dc += wi[k] * d_i + wf[k] * d_f;
            d_c[n + k] = dc;
        }
    }
}

template <class T, bool KEEP>
void gru_forward_(const T* a, const T* b, const float* bias, float* m, T* h, T* kept, size P, size C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size p = 0; p < P; p++) {
        const size s = p * 3 * C, q = p * 4 * C, n = p * C;
#pragma omp simd
        for (size k = 0; k < C; k++) {
            const float r = rounded<T>(get(a[s + k]) + get(b[s + k]));
            const float z = rounded<T>(get(a[s + C + k]) + get(b[s + C + k]));
            const float x = get(a[s + 2 * C + k]), y = rounded<T>(get(b[s + 2 * C + k]) + bias[k]);
            if (KEEP) put(kept[q + k], r), put(kept[q + C + k], z), put(kept[q + 2 * C + k], x), put(kept[q + 3 * C + k], y);
            const float old = GATE::value(z), proposal = CANDIDATE::value(x + GATE::value(r) * y);
            const float after = (1 - old) * proposal + old * m[n + k];
            m[n + k] = after;
            put(h[n + k], after);
        }
    }
}

template <class T>
void gru_replay_(const T* sums, const float* m, float* new_m, size P, size C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size p = 0; p < P; p++) {
        const size q = p * 4 * C, n = p * C;
#pragma omp simd
        for (size k = 0; k < C; k++) {
            const float r = GATE::value(get(sums[q + k])), old = GATE::value(get(sums[q + C + k]));
            const float proposal = CANDIDATE::value(get(sums[q + 2 * C + k]) + r * get(sums[q + 3 * C + k]));
            new_m[n + k] = (1 - old) * proposal + old * m[n + k];
        }
    }
}

template <class T>
void gru_backward_(const T* sums, const float* m, const T* d_output, const T* d_h, float* d_m, T* d_a, T* d_b,
                   size P, size C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size p = 0; p < P; p++) {
        const size s = p * 3 * C, q = p * 4 * C, n = p * C;
#pragma omp simd
        for (size k = 0; k < C; k++) {
            const float sr = get(sums[q + k]), sz = get(sums[q + C + k]), y = get(sums[q + 3 * C + k]);
            const float r = GATE::value(sr), z = GATE::value(sz), sn = get(sums[q + 2 * C + k]) + r * y;
            const float proposal = CANDIDATE::value(sn);
            const float d = d_m[n + k] + get(d_output[n + k]) + get(d_h[n + k]);
            const float d_z = d * (m[n + k] - proposal) * GATE::slope(sz, z);
            const float d_n = d * (1 - z) * CANDIDATE::slope(sn, proposal), d_r = d_n * y * GATE::slope(sr, r);
            put(d_a[s + k], d_r), put(d_a[s + C + k], d_z), put(d_a[s + 2 * C + k], d_n);
            put(d_b[s + k], d_r), put(d_b[s + C + k], d_z), put(d_b[s + 2 * C + k], d_n * r);
            d_m[n + k] = d * z;
        }
    }
}

// N matrices (R, K), `from` numbers apart, to N matrices (K, R), `to` numbers apart.
template <class S, class T>
void transpose_(const S* x, T* y, size N, size R, size K, size from, size to, int threads) {
    const size block = 32;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (size n = 0; n < N; n++)
        for (size r0 = 0; r0 < R; r0 += block)
            for (size k0 = 0; k0 < K; k0 += block) {
                const size r1 = r0 + block < R ? r0 + block : R, k1 = k0 + block < K ? k0 + block : K;
                for (size k = k0; k < k1; k++)
                    for (size r = r0; r < r1; r++) put(y[n * to + k * R + r], get(x[n * from + r * K + k]));
            }
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
}
