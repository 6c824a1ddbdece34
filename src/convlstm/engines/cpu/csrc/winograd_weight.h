// Weights of convolutions by minimal filtering (see winograd.h): their transform, and its gradient.

#pragma once

#include "matmul.h"

namespace {

constexpr int64_t SIDE = 6, POSITIONS = SIDE * SIDE;  // of a tile of the input
constexpr int64_t MOST_TAPS = 5;  // of a kernel, along an axis
constexpr float NEAR = 0.625f, FAR = 1.5f;  // polynomials are interpolated at 0, +NEAR, -NEAR, +FAR, -FAR and infinity
typedef double vdouble __attribute__((vector_size(8 * LANES)));

// Channels rounded up to vectors.
inline int64_t padded(int64_t channels) { return ceil_div(channels, LANES) * LANES; }

// The rows of the transform of a kernel along an axis: powers of the points, normalised.
struct KernelTransform {
    double factors[SIDE][MOST_TAPS] = {};

    explicit KernelTransform(int64_t taps) {
        const double near = NEAR * NEAR, far = FAR * FAR, points[] = {0, NEAR, -NEAR, FAR, -FAR};
        const double norms[] = {near * far, 2 * near * (near - far), 2 * near * (near - far), 2 * far * (far - near),
                                2 * far * (far - near)};
        for (int64_t n = 0; n < SIDE - 1; n++) {
            double power = 1;
            for (int64_t r = 0; r < taps; r++, power *= points[n]) factors[n][r] = power / norms[n];
        }
        factors[SIDE - 1][taps - 1] = 1;
    }
};

// The shape of a weight (outputs, inputs, taps, taps) with strides in elements; the taps are adjacent, and in reverse
// order if `flipped`.
//
// Its outputs are divided into blocks of four vectors. With G = 0 these are adjacent outputs, else the same channels of
// four pre-activations: of G = 4 gates; or, for the gates r, z, n of a GRU, of r, z, n and n.
struct WinogradShape {
    int64_t outputs, inputs, output_stride, input_stride, taps, flipped, G;

    int64_t blocks() const { return ceil_div(outputs, G ? G * LANES : COLUMNS); }

    // Elements of a block: the transform at all positions of a tile, then all taps, each (inputs, COLUMNS).
    int64_t block_size() const { return (POSITIONS + taps * taps) * inputs * COLUMNS; }

    // The output of a column of a block; -1 for none.
    int64_t output(int64_t block, int64_t column) const {
        if (!G) return block * COLUMNS + column < outputs ? block * COLUMNS + column : -1;
        const int64_t channels = outputs / G, channel = block * LANES + column % LANES;
        return channel < channels ? min_of(column / LANES, G - 1) * channels + channel : -1;
    }

    // The taps of an input for a vector of outputs.
    template <int TAPS>
    void load_taps(const float* weight, int64_t block, int64_t vector, int64_t input, vdouble* to) const {
        constexpr int count = TAPS * TAPS;
        for (int tap = 0; tap < count; tap++) to[tap] = vdouble{};
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t n = output(block, vector * LANES + lane);
            if (n < 0) continue;
            const float* from = weight + n * output_stride + input * input_stride;
            for (int tap = 0; tap < count; tap++) to[tap][lane] = from[flipped ? count - 1 - tap : tap];
        }
    }

    // Write the blocks of a weight.
    void pack(const float* weight, float* to, int threads) const {
        taps == 3 ? pack_as<3>(weight, to, threads) : pack_as<5>(weight, to, threads);
    }

    template <int TAPS>
    void pack_as(const float* weight, float* to, int threads) const {
        const KernelTransform kernel(TAPS);
        const int used = num_threads_for(outputs * inputs * POSITIONS, threads);
#pragma omp parallel for collapse(3) num_threads(used) schedule(static)
        for (int64_t block = 0; block < blocks(); block++)
            for (int64_t input = 0; input < inputs; input++)
                for (int64_t vector = 0; vector < VECTORS; vector++) {
                    vdouble w[TAPS * TAPS];
                    load_taps<TAPS>(weight, block, vector, input, w);
                    pack_taps<TAPS>(kernel, w, to + block * block_size() + input * COLUMNS + vector * LANES);
                }
    }

    template <int TAPS>
    void pack_taps(const KernelTransform& kernel, const vdouble* w, float* to) const {
        const auto append = [&](const vdouble& x) {
            store(to, __builtin_convertvector(x, vfloat), AllLanes());
            to += inputs * COLUMNS;
        };
        for (int64_t n = 0; n < SIDE; n++) {
            vdouble row[TAPS] = {};
#pragma GCC unroll 5
            for (int s = 0; s < TAPS; s++)
#pragma GCC unroll 5
                for (int r = 0; r < TAPS; r++) row[s] += kernel.factors[n][r] * w[r * TAPS + s];
            for (int64_t m = 0; m < SIDE; m++) {
                vdouble sum{};
#pragma GCC unroll 5
                for (int s = 0; s < TAPS; s++) sum += kernel.factors[m][s] * row[s];
                append(sum);
            }
        }
        for (int tap = 0; tap < TAPS * TAPS; tap++) append(w[tap]);
    }

    // The gradient of a 3x3 weight, contiguous, from that of its transform, (POSITIONS, inputs, padded outputs).
    void unpack_gradient(const float* from, float* gradient, int threads) const {
        constexpr int TAPS = 3;
        const KernelTransform kernel(TAPS);
        const int64_t columns = padded(outputs);
        const int used = num_threads_for(outputs * inputs * POSITIONS, threads);
#pragma omp parallel for collapse(2) num_threads(used) schedule(static)
        for (int64_t first = 0; first < columns; first += LANES)
            for (int64_t input = 0; input < inputs; input++) {
                vdouble w[TAPS][TAPS] = {};
                for (int64_t n = 0; n < SIDE; n++) {
                    vdouble row[TAPS] = {};
                    for (int64_t m = 0; m < SIDE; m++) {
                        const float* u = from + ((n * SIDE + m) * inputs + input) * columns + first;
                        const vdouble d = __builtin_convertvector(load(u, AllLanes()), vdouble);
#pragma GCC unroll 3
                        for (int s = 0; s < TAPS; s++) row[s] += kernel.factors[m][s] * d;
                    }
#pragma GCC unroll 3
                    for (int r = 0; r < TAPS; r++)
#pragma GCC unroll 3
                        for (int s = 0; s < TAPS; s++) w[r][s] += kernel.factors[n][r] * row[s];
                }
                float* to = gradient + (first * inputs + input) * TAPS * TAPS;
                for (int64_t lane = 0; lane < min_of(LANES, outputs - first); lane++, to += inputs * TAPS * TAPS)
                    for (int tap = 0; tap < TAPS * TAPS; tap++)
                        to[tap] = static_cast<float>(w[tap / TAPS][tap % TAPS][lane]);
            }
    }
};

}  // namespace
