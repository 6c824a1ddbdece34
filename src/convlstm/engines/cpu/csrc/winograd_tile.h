// Tiles of frames and their transforms for convolutions by minimal filtering (see winograd.h).

#pragma once

#include "winograd_weight.h"

namespace {

// Transforms along one axis, in place, from the point 0 to infinity.

ALWAYS_INLINE void transform_input(vfloat x[SIDE]) {
    constexpr float near = NEAR * NEAR, far = FAR * FAR;
    const vfloat even_near = x[4] - far * x[2], odd_near = NEAR * x[3] - NEAR * far * x[1];
    const vfloat even_far = x[4] - near * x[2], odd_far = FAR * x[3] - FAR * near * x[1];
    x[0] = near * far * x[0] - (near + far) * x[2] + x[4];
    x[5] = near * far * x[1] - (near + far) * x[3] + x[5];
    x[1] = even_near + odd_near, x[2] = even_near - odd_near;
    x[3] = even_far + odd_far, x[4] = even_far - odd_far;
}

// To M pixels of the result.
template <int M>
ALWAYS_INLINE void transform_back(vfloat x[SIDE]) {
    constexpr float near = NEAR * NEAR, far = FAR * FAR;
    const vfloat even_near = x[1] + x[2], odd_near = x[1] - x[2], even_far = x[3] + x[4], odd_far = x[3] - x[4];
    x[0] += even_near + even_far;
    x[1] = NEAR * odd_near + FAR * odd_far;
    if (M == 4) {
        x[2] = near * even_near + far * even_far;
        x[3] = near * NEAR * odd_near + far * FAR * odd_far;
    }
    x[M - 1] += x[5];
}

// Of the gradient of four pixels of the result: the transpose of `transform_back`.
ALWAYS_INLINE void transform_gradient(vfloat x[SIDE]) {
    constexpr float near = NEAR * NEAR, far = FAR * FAR;
    const vfloat even_near = x[0] + near * x[2], odd_near = NEAR * x[1] + near * NEAR * x[3];
    const vfloat even_far = x[0] + far * x[2], odd_far = FAR * x[1] + far * FAR * x[3];
    x[5] = x[3];
    x[1] = even_near + odd_near, x[2] = even_near - odd_near;
    x[3] = even_far + odd_far, x[4] = even_far - odd_far;
}

// B frames of H by W pixels, in tiles of M by M.
struct FrameShape {
    int64_t B, H, W, M;
};

// The same with the index in the frame of each row and column of the padded frame, -1 for zero padding.
struct Frames : FrameShape {
    const int32_t *rows, *columns;

    int64_t tile_rows() const { return ceil_div(H, M); }
    int64_t tile_columns() const { return ceil_div(W, M); }
    int64_t tiles() const { return B * tile_rows() * tile_columns(); }
};

struct Tile {
    const Frames& frames;
    int64_t first, height, width;  // first pixel of the result, rows and columns
    int64_t rows[SIDE], columns[SIDE];  // of the input: pixels before them, negative for zero padding

    Tile(const Frames& f, int64_t n) : frames(f) {
        const int64_t x = n % f.tile_columns() * f.M, row = n / f.tile_columns();
        const int64_t y = row % f.tile_rows() * f.M, frame = row / f.tile_rows() * f.H * f.W, none = -(1LL << 60);
        first = frame + y * f.W + x, height = min_of(f.M, f.H - y), width = min_of(f.M, f.W - x);
        for (int64_t i = 0; i < SIDE; i++) {
            const int64_t reach = SIDE - f.M, m = y + i < f.H + reach ? f.rows[y + i] : -1;
            const int64_t n = x + i < f.W + reach ? f.columns[x + i] : -1;
            rows[i] = m < 0 ? none : frame + m * f.W, columns[i] = n < 0 ? none : n;
        }
    }

    int64_t pixel(int64_t i, int64_t j) const { return first + i * frames.W + j; }

    // The pixel of the input under pixel (i, j) of the result and the kernel's first tap; null for zero padding.
    const float* input(const float* from, int64_t channels, int64_t i, int64_t j) const {
        const int64_t pixel = rows[i] + columns[j];
        return pixel < 0 ? nullptr : from + pixel * channels;
    }

    // Write the transform of the input: all channels, in whole vectors, for each position.
    void write_input(const float* from, int64_t channels, float* to, int64_t position_stride) const {
        const float* pixels[SIDE][SIDE];
        for (int64_t i = 0; i < SIDE; i++)
            for (int64_t j = 0; j < SIDE; j++) pixels[i][j] = input(from, channels, i, j);
        for_each_vector(channels, [&](int64_t k, auto n) {
            vfloat v[SIDE][SIDE];
            for (int i = 0; i < SIDE; i++) {
                for (int j = 0; j < SIDE; j++) {
                    v[i][j] = pixels[i][j] ? load(pixels[i][j] + k, n) : vfloat{};
                    __builtin_prefetch(pixels[i][j] + k + 2 * LANES);  // channels are too short for the processor's own
                }
                transform_input(v[i]);
            }
            write_columns(v, transform_input, to + k, position_stride);
        });
    }

    // The same of the gradient of the result.
    void write_gradient(const float* from, int64_t channels, float* to, int64_t position_stride) const {
        for_each_vector(channels, [&](int64_t k, auto n) {
            vfloat v[SIDE][SIDE] = {};
            for (int i = 0; i < height; i++) {
                for (int j = 0; j < width; j++) v[i][j] = load(from + pixel(i, j) * channels + k, n);
                transform_gradient(v[i]);
            }
            write_columns(v, transform_gradient, to + k, position_stride);
        });
    }

    template <class Transform>
    static ALWAYS_INLINE void write_columns(const vfloat v[SIDE][SIDE], Transform along_axis, float* to,
                                            int64_t position_stride) {
        for (int j = 0; j < SIDE; j++) {
            vfloat column[SIDE];
            for (int i = 0; i < SIDE; i++) column[i] = v[i][j];
            along_axis(column);
            for (int i = 0; i < SIDE; i++) store(to + (i * SIDE + j) * position_stride, column[i], AllLanes());
        }
    }
};

// Pixels of a tile of the result for a block of outputs.
typedef vfloat Pixels[16][VECTORS];

// The first vectors of M by M pixels, from the products at all positions. True if all are finite times a scale.
template <int M>
bool read_pixels(const float* from, int64_t position_stride, int64_t vectors, float scale, Pixels& to) {
    vfloat zero{};
    for (int64_t vector = 0; vector < vectors; vector++, from += LANES) {
        vfloat v[SIDE][M];
        for (int i = 0; i < SIDE; i++) {
            vfloat row[SIDE];
            for (int j = 0; j < SIDE; j++) row[j] = load(from + (i * SIDE + j) * position_stride, AllLanes());
            transform_back<M>(row);
            for (int j = 0; j < M; j++) v[i][j] = row[j];
        }
        for (int j = 0; j < M; j++) {
            vfloat column[SIDE];
            for (int i = 0; i < SIDE; i++) column[i] = v[i][j];
            transform_back<M>(column);
            for (int i = 0; i < M; i++) to[i * M + j][vector] = column[i], zero += column[i] * scale * 0;
        }
    }
    bool finite = true;
    for (int64_t n = 0; n < LANES; n++) finite &= zero[n] == 0;
    return finite;
}

}  // namespace
