// Products of matrices whose sums stay in registers.

#pragma once

#include "simd.h"

namespace {

constexpr int64_t VECTORS = 4, COLUMNS = VECTORS * LANES;  // of a block of columns of the product
constexpr int64_t ROWS = 6;  // of the product that are computed together

// A product: rows of `a`, with elements a[row * stride + k * step], times b, of which row k is at b + k * b_stride.
struct Factors {
    const float* a;
    int64_t stride, step;
    const float* b;
    int64_t b_stride, K;

    Factors from_row(int64_t row) const { return {a + row * stride, stride, step, b, b_stride, K}; }
};

// Add a product of R rows by the columns that a mask selects, a bit for each vector.
template <int R, int MASK>
ALWAYS_INLINE void add_product(vfloat sum[R][VECTORS], const Factors& f) {
    const float *a = f.a, *b = f.b;
    for (int64_t k = 0; k < f.K; k++, a += f.step, b += f.b_stride) {
        vfloat columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            if (MASK >> v & 1) columns[v] = load(b + v * LANES, AllLanes());
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                if (MASK >> v & 1) sum[r][v] += a[r * f.stride] * columns[v];
    }
}

// R rows of the sum of two products, each by the columns of its mask; added to `out`, or written to it.
template <int R, int X, int H>
void multiply_rows(Factors x, Factors h, float* out, int64_t stride, bool add) {
    vfloat sum[R][VECTORS] = {};
    add_product<R, X>(sum, x);
    add_product<R, H>(sum, h);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            if ((X | H) >> v & 1) {
                float* to = out + r * stride + v * LANES;
                store(to, add ? load(to, AllLanes()) + sum[r][v] : sum[r][v], AllLanes());
            }
}

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool THIRTY_TWO_REGISTERS = true;  // enough for the sums of six rows of four vectors
#else
constexpr bool THIRTY_TWO_REGISTERS = false;
#endif

template <int R, int X, int H>
void multiply_vectors(const Factors& x, const Factors& h, float* out, int64_t stride, bool add) {
    if (THIRTY_TWO_REGISTERS) {
        multiply_rows<R, X, H>(x, h, out, stride, add);
    } else {
        multiply_rows<R, X & 3, H & 3>(x, h, out, stride, add);
        if ((X | H) & 12) multiply_rows<R, X & 12, H & 12>(x, h, out, stride, add);
    }
}

// `rows` rows of the same.
template <int X, int H>
void multiply(const Factors& x, const Factors& h, int64_t rows, float* out, int64_t stride, bool add) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        multiply_vectors<ROWS, X, H>(x.from_row(r), h.from_row(r), out + r * stride, stride, add);
    const Factors last_x = x.from_row(r), last_h = h.from_row(r);
    out += r * stride;
    switch (rows - r) {
        case 1: return multiply_vectors<1, X, H>(last_x, last_h, out, stride, add);
        case 2: return multiply_vectors<2, X, H>(last_x, last_h, out, stride, add);
        case 3: return multiply_vectors<3, X, H>(last_x, last_h, out, stride, add);
        case 4: return multiply_vectors<4, X, H>(last_x, last_h, out, stride, add);
        case 5: return multiply_vectors<5, X, H>(last_x, last_h, out, stride, add);
    }
}

typedef void (*Multiply)(const Factors&, const Factors&, int64_t, float*, int64_t, bool);

// For the first vectors of a block.
inline Multiply multiply_of(int64_t vectors) {
    switch (vectors) {
        case 1: return multiply<1, 1>;
        case 2: return multiply<3, 3>;
        case 3: return multiply<7, 7>;
    }
    return multiply<15, 15>;
}

}  // namespace
