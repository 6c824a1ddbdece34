// Transposes of matrices: frames between channels-first and channels-last.

#pragma once

#include "simd.h"

namespace {

// Lanes `from`, `from` + 1, ... of a and b, alternating.
template <int64_t from, int64_t... n>
inline vfloat interleaved(vfloat a, vfloat b, std::integer_sequence<int64_t, n...>) {
    return vfloat{(n % 2 ? b : a)[from + n / 2]...};
}

// Transpose a square of LANES rows: each round interleaves the first half of the rows with the second. Unrolled, it stays
// in registers.
inline void transpose_square(vfloat rows[LANES]) {
    const std::make_integer_sequence<int64_t, LANES> all;
#pragma GCC unroll 4
    for (int64_t round = 1; round < LANES; round *= 2) {
        vfloat next[LANES];
#pragma GCC unroll 8
        for (int64_t n = 0; n < LANES / 2; n++) {
            next[2 * n] = interleaved<0>(rows[n], rows[n + LANES / 2], all);
            next[2 * n + 1] = interleaved<LANES / 2>(rows[n], rows[n + LANES / 2], all);
        }
        std::memcpy(rows, next, sizeof(next));
    }
}

template <class S, class T, class Rows, class Columns>
inline void transpose_block(const S* x, T* y, int64_t R, int64_t K, Rows rows, Columns columns) {
    vfloat block[LANES] = {};
    for (int64_t r = 0; r < rows; r++) block[r] = load(x + r * K, columns);
    transpose_square(block);
    for (int64_t k = 0; k < columns; k++) store(y + k * R, block[k], rows);
}

// Rows `first` to `last` of a matrix (R, K), to columns of one (K, R).
template <class S, class T>
inline void transpose_rows(const S* x, T* y, int64_t R, int64_t K, int64_t first, int64_t last) {
    for_each_vector(K, [=](int64_t k, auto columns) {
        for (int64_t r = first; r < last; r += LANES) {
            if (last - r < LANES)
                transpose_block(x + r * K + k, y + k * R + r, R, K, last - r, columns);
            else
                transpose_block(x + r * K + k, y + k * R + r, R, K, AllLanes(), columns);
        }
    });
}

// N matrices (R, K), with a stride in elements, to N matrices (K, R).
template <class S, class T>
void transpose(const S* x, T* y, int64_t N, int64_t R, int64_t K, int64_t x_stride, int64_t y_stride, int threads) {
    const int64_t block_rows = 4 * LANES;  // a column of a block is some cache lines
#pragma omp parallel for collapse(2) num_threads(num_threads_for(N * R * K, threads)) schedule(static)
    for (int64_t n = 0; n < N; n++)
        for (int64_t b = 0; b < (R + block_rows - 1) / block_rows; b++)
            transpose_rows(x + n * x_stride, y + n * y_stride, R, K, b * block_rows, min_of(R, (b + 1) * block_rows));
}

}  // namespace
