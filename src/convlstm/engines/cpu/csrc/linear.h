// Recurrences that are linear in their state, h_t = a_t h_{t-1} + b_t: all frames of a sequence.
//
// A frame has N elements in each of the planes that a rule makes a and b of. Frames follow each other in time; blocks
// of elements run in parallel, and the state of a block stays in cache.

#pragma once

#include "simd.h"

namespace {

inline vfloat exp_minus(vfloat x) { return exponential<float>(x, -1, 80).value; }

// The positive function of the candidate, and its derivative.
struct Positive {
    vfloat value, derivative;
    explicit Positive(vfloat n) {
        const vfloat s = 1 / (1 + exp_minus(n));
        value = n < 0 ? s : n + 0.5f;
        derivative = n < 0 ? s * (1 - s) : vfloat{} + 1;
    }
};

// Each rule: a and b from its planes x; and, where d is the gradient of the state after the step and h the state
// before it, the gradients of the planes.

struct affine {
    static constexpr int PLANES = 2;
    vfloat a, b;
    explicit ALWAYS_INLINE affine(const vfloat* x) : a(x[0]), b(x[1]) {}
    ALWAYS_INLINE void gradients(const vfloat*, vfloat d, vfloat h, vfloat* d_x) const { d_x[0] = d * h, d_x[1] = d; }
};

// Weights a and w = 1 - a of the state and the candidate.
struct Weighted {
    vfloat a, w, b;
    Positive n;
    ALWAYS_INLINE Weighted(vfloat a, vfloat w, vfloat x) : a(a), w(w), n(x) { b = w * n.value; }
    ALWAYS_INLINE vfloat of_log_ratio(vfloat d, vfloat h) const { return d * (h - n.value) * a * w; }  // of log(a / w)
    ALWAYS_INLINE vfloat of_candidate(vfloat d) const { return d * w * n.derivative; }
};

struct min_gru : Weighted {
    static constexpr int PLANES = 2;
    explicit ALWAYS_INLINE min_gru(const vfloat* x) : min_gru(exp_minus(x[0]), x[1]) {}
    ALWAYS_INLINE min_gru(vfloat e, vfloat n) : Weighted(e / (1 + e), 1 / (1 + e), n) {}
    ALWAYS_INLINE void gradients(const vfloat*, vfloat d, vfloat h, vfloat* d_x) const {
        d_x[0] = -of_log_ratio(d, h), d_x[1] = of_candidate(d);
    }
};

struct min_lstm : Weighted {
    static constexpr int PLANES = 3;
    static ALWAYS_INLINE vfloat below(vfloat x) { return x < 0 ? x : vfloat{}; }
    static ALWAYS_INLINE vfloat one_plus(vfloat x) { return 1 + exp_minus(x < 0 ? -x : x); }
    // exp(min(x, 0)) / sigmoid(x) of i and f: both sigmoids may be too small for a float, and their ratio is not.
    vfloat p, q;
    explicit ALWAYS_INLINE min_lstm(const vfloat* x)
        : min_lstm(one_plus(x[1]), one_plus(x[0]), exp_minus(below(x[0]) - below(x[1])), x[2]) {}
    ALWAYS_INLINE min_lstm(vfloat p, vfloat q, vfloat e, vfloat n)
        : Weighted(p / (p + q * e), q * e / (p + q * e), n), p(p), q(q) {}
    ALWAYS_INLINE void gradients(const vfloat* x, vfloat d, vfloat h, vfloat* d_x) const {
        const vfloat d_ratio = of_log_ratio(d, h);
        d_x[0] = d_ratio * (x[0] < 0 ? 1 / q : 1 - 1 / q), d_x[1] = -d_ratio * (x[1] < 0 ? 1 / p : 1 - 1 / p);
        d_x[2] = of_candidate(d);
    }
};

struct min_exp_lstm : Weighted {
    static constexpr int PLANES = 3;
    explicit ALWAYS_INLINE min_exp_lstm(const vfloat* x) : min_exp_lstm(exp_minus(x[0] - x[1]), x[2]) {}
    ALWAYS_INLINE min_exp_lstm(vfloat e, vfloat n) : Weighted(1 / (1 + e), e / (1 + e), n) {}
    ALWAYS_INLINE void gradients(const vfloat*, vfloat d, vfloat h, vfloat* d_x) const {
        d_x[0] = of_log_ratio(d, h), d_x[1] = -d_x[0], d_x[2] = of_candidate(d);
    }
};

constexpr int64_t BLOCK = 1024;  // elements

// B samples of `steps` frames. `mask` and `reset` have a flag for each frame, or are null: frames that leave the state as it
// is (0), and frames before which it is set to zero (1).
template <class T>
struct Sequence {
    const T* x;
    const float* state;
    const uint8_t *mask, *reset;
    int64_t B, steps, N;
    bool reverse;

    // body(first element of a block, its size, sample)
    template <class Body>
    void for_each_block(int threads, Body body) const {
        const int64_t blocks = (N + BLOCK - 1) / BLOCK;
#pragma omp parallel for collapse(2) num_threads(num_threads_for(B * steps * N, threads)) schedule(static)
        for (int64_t b = 0; b < B; b++)
            for (int64_t k = 0; k < blocks; k++) body(k * BLOCK, N - k * BLOCK < BLOCK ? N - k * BLOCK : BLOCK, b);
    }

    int64_t frame(int64_t b, int64_t step) const { return b * steps + (reverse ? steps - 1 - step : step); }
    bool valid(int64_t frame) const { return !mask || mask[frame]; }
    bool resets(int64_t frame) const { return reset && reset[frame]; }

    template <class Rule, class Count>
    ALWAYS_INLINE void load_planes(int64_t frame, int64_t element, Count n, vfloat* planes) const {
        for (int g = 0; g < Rule::PLANES; g++) planes[g] = load(x + (frame * Rule::PLANES + g) * N + element, n);
    }

    template <class Rule>
    void forward(float* h, float* last, int threads) const {
        for_each_block(threads, [=, *this](int64_t first, int64_t size, int64_t b) {
            float* s = last + b * N + first;
            std::memcpy(s, state + b * N + first, sizeof(float) * size);
            for (int64_t step = 0; step < steps; step++) {
                const int64_t t = frame(b, step);
                float* out = h + t * N + first;
                if (resets(t)) std::memset(s, 0, sizeof(float) * size);
                if (valid(t))
                    for_each_vector(size, [=, *this](int64_t k, auto n) {
                        vfloat planes[Rule::PLANES];
                        load_planes<Rule>(t, first + k, n, planes);
                        const Rule rule(planes);
                        store(s + k, rule.a * load(s + k, n) + rule.b, n);
                    });
                std::memcpy(out, s, sizeof(float) * size);
            }
        });
    }

    // `h` are the states of the forward pass; `d_h` and `d_last`, gradients of its results, may be null.
    template <class Rule>
    void backward(const float* h, const float* d_h, const float* d_last, T* d_x, float* d_state, int threads) const {
        for_each_block(threads, [=, *this](int64_t first, int64_t size, int64_t b) {
            static const float zeros[BLOCK] = {};
            float* d = d_state + b * N + first;
            std::memcpy(d, d_last ? d_last + b * N + first : zeros, sizeof(float) * size);
            for (int64_t step = steps; step-- > 0;) {
                const int64_t t = frame(b, step);
                const float* before = resets(t) ? zeros : step ? h + frame(b, step - 1) * N + first
                                                               : state + b * N + first;
                const float* d_out = d_h ? d_h + t * N + first : zeros;
                const bool changes = valid(t);
                T* out = d_x + t * Rule::PLANES * N + first;
                for_each_vector(size, [=, *this](int64_t k, auto n) {
                    vfloat planes[Rule::PLANES], d_planes[Rule::PLANES] = {}, sum = load(d + k, n) + load(d_out + k, n);
                    if (changes) {
                        load_planes<Rule>(t, first + k, n, planes);
                        const Rule rule(planes);
                        rule.gradients(planes, sum, load(before + k, n), d_planes);
                        sum *= rule.a;
                    }
                    for (int g = 0; g < Rule::PLANES; g++) store(out + g * N + k, d_planes[g], n);
                    store(d + k, sum, n);
                });
                if (resets(t)) std::memset(d, 0, sizeof(float) * size);
            }
        });
    }
};

}  // namespace
