// Convolutions with kernels of 3x3 and 5x5 taps by minimal filtering, in float (Winograd's algorithm; Lavin & Gray
// 2015, arXiv:1509.09308).
//
// Six by six pixels of the input give four by four of the result of a 3x3 kernel, F(4x4, 3x3), with 36 multiplications
// for each pair of channels in place of 144; or two by two of a 5x5 kernel, F(2x2, 5x5), in place of 100. The points of
// interpolation are those, among points whose transforms are exact in float, that lose least:
// `python -m benchmarks winograd` measures the error.
//
// A part of the tiles goes through all stages while it is in the L2 cache: the transform of the input; for each
// position in a tile the product with the transformed weight; the transform back; and an epilogue, which is the
// pointwise part of a step. An output depends neither on the parts nor on the number of threads.

#pragma once

#include "winograd_tile.h"

namespace {

// An input and its weight as `WinogradShape::pack` wrote it; the mask selects the vectors of a block that it adds to.
struct Source {
    const float *x, *weight;
    int64_t channels, block_size;
    int mask;

    int64_t padded_channels() const { return padded(channels); }
};

// Elements between positions: an odd number of cache lines, so that positions do not share the same sets of the cache.
inline int64_t position_stride(int64_t elements) { return (ceil_div(elements, 16) | 1) * 16; }

// A tile with a pre-activation above 4096, which overflows times this scale, is computed by the definition: rounding
// errors are those of its largest numbers, of which minimal filtering leaves some on pixels that these do not reach.
constexpr float SCALE = 0x1p116f;

// The convolution of one or two inputs, summed. Tiles whose results times `scale` overflow are computed by definition.
struct Winograd {
    Frames frames;
    Source sources[2];
    Multiply multiply;  // for whole blocks
    int64_t blocks, last_vectors;  // of outputs; vectors of the last block
    float scale;

    // epilogue(block, tile, pixels) for all blocks of all tiles.
    template <class Epilogue>
    void run(const Epilogue& epilogue, int threads) const {
        const int64_t tiles = frames.tiles(), K = padded_channels();
        if (!tiles) return;
        threads = num_threads_for(32 * tiles * K * blocks, threads);
        const int64_t bytes = sizeof(float) * POSITIONS * (K + COLUMNS);  // of a tile
        const int64_t fitting = max_of(1, (512 << 10) / bytes / ROWS) * ROWS;  // in the L2 cache, beside weights
        const int64_t part = ceil_div(tiles, ceil_div(ceil_div(tiles, fitting), threads) * threads);
        const int64_t parts = ceil_div(tiles, part), groups = min_of(blocks, ceil_div(threads, parts));
        const int64_t group = ceil_div(blocks, groups);
        const int64_t stride = position_stride(part * K), product_stride = position_stride(part * COLUMNS);
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
        for (int64_t n = 0; n < parts; n++)
            for (int64_t g = 0; g < groups; g++) {
                const int64_t first = n * part, last = min_of(first + part, tiles);
                float* inputs = scratch<float>(POSITIONS * (stride + product_stride));
                float* products = inputs + POSITIONS * stride;
                write_inputs(first, last, inputs, stride);
                for (int64_t block = g * group; block < min_of(blocks, (g + 1) * group); block++) {
                    write_products(block, last - first, inputs, stride, products, product_stride);
                    const int64_t vectors = block + 1 < blocks ? VECTORS : last_vectors;
                    for (int64_t t = first; t < last; t++) {
                        const Tile tile(frames, t);
                        const float* from = products + (t - first) * COLUMNS;
                        Pixels pixels;
                        if (!(frames.M == 4 ? read_pixels<4>(from, product_stride, vectors, scale, pixels)
                                            : read_pixels<2>(from, product_stride, vectors, scale, pixels)))
                            convolve_directly(tile, block, pixels);
                        epilogue(block, tile, pixels);
                    }
                }
            }
    }

    int64_t padded_channels() const { return sources[0].padded_channels() + sources[1].padded_channels(); }

    // The transforms of tiles `first` to `last`: for each position (tiles, channels of both inputs).
    void write_inputs(int64_t first, int64_t last, float* to, int64_t stride) const {
        for (int64_t t = first; t < last; t++) {
            const Tile tile(frames, t);
            for (const Source& source : sources) {
                tile.write_input(source.x, source.channels, to, stride);
                to += source.padded_channels();
            }
        }
    }

    // Their products with a block of the weights: for each position (tiles, COLUMNS).
    void write_products(int64_t block, int64_t tiles, const float* inputs, int64_t stride, float* to,
                        int64_t to_stride) const {
        const Multiply multiply_block = block + 1 < blocks || last_vectors == VECTORS ? multiply : multiply_of(last_vectors);
        for (int64_t position = 0; position < POSITIONS; position++) {
            Factors factors[2];
            const float* a = inputs + position * stride;
            for (int n = 0; n < 2; a += sources[n].padded_channels(), n++) {
                const int64_t K = sources[n].channels;
                const float* b = sources[n].weight + block * sources[n].block_size + position * K * COLUMNS;
                factors[n] = {a, padded_channels(), 1, b, COLUMNS, K};
            }
            multiply_block(factors[0], factors[1], tiles, to + position * to_stride, COLUMNS, false);
        }
    }

    // The pixels of a tile by the definition: minimal filtering mixes pixels, of which some may not be finite.
    void convolve_directly(const Tile& tile, int64_t block, Pixels& to) const {
        const int64_t M = frames.M, taps = SIDE + 1 - M;
        std::memset(to, 0, sizeof(to));
        for (const Source& source : sources)
            for (int64_t tap = 0; tap < taps * taps; tap++) {
                const int64_t K = source.channels;
                const float* w = source.weight + block * source.block_size + (POSITIONS + tap) * K * COLUMNS;
                for (int64_t i = 0; i < M; i++) {
                    const float* x[4];
                    for (int64_t j = 0; j < M; j++) x[j] = tile.input(source.x, K, i + tap / taps, j + tap % taps);
                    if (M == 4)
                        add_tap<4>(source.mask, x, w, K, to + i * M);
                    else
                        add_tap<2>(source.mask, x, w, K, to + i * M);
                }
            }
    }

    // Add the products of N pixels, of those that are not null, with a tap of the weight.
    template <int N>
    static void add_tap(int mask, const float* const* x, const float* w, int64_t K, vfloat (*to)[VECTORS]) {
        vfloat sum[N][VECTORS];
        std::memcpy(sum, to, sizeof(sum));
        for (int64_t k = 0; k < K; k++, w += COLUMNS) {
            vfloat columns[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) columns[v] = load(w + v * LANES, AllLanes());
#pragma GCC unroll 4
            for (int n = 0; n < N; n++)
                if (x[n])
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; v++) sum[n][v] += x[n][k] * columns[v];
        }
        for (int n = 0; n < N; n++)
            for (int v = 0; v < VECTORS; v++)
                if (mask >> v & 1) to[n][v] = sum[n][v];
    }
};

// A step of a recurrence of four pre-activations with its convolution; h is null for zero, biases are (4, C).
template <class Cell>
void winograd_step(const Frames& frames, const float* x, const float* h, const float* weight_x, const float* weight_h,
                   const WinogradShape& shape_x, const WinogradShape& shape_h, const float* bias, const Cell& cell,
                   int threads) {
    constexpr bool separate = Cell::separate_candidate;  // the last two pre-activations are of x and of h
    constexpr int mask_x = separate ? 7 : 15, mask_h = separate ? 11 : 15;
    const Source sources[] = {{x, weight_x, shape_x.inputs, shape_x.block_size(), mask_x},
                              {h, weight_h, h ? shape_h.inputs : 0, shape_h.block_size(), mask_h}};
    const Winograd conv{frames, {sources[0], sources[1]}, multiply<mask_x, mask_h>, shape_x.blocks(), VECTORS,
                        SCALE};
    const auto epilogue = [&](int64_t block, const Tile& tile, const Pixels& y) {
        const int64_t k = block * LANES, C = cell.C;
        const auto step = [&](auto n) {
            vfloat b[4];
            for (int gate = 0; gate < 4; gate++) b[gate] = load(bias + gate * C + k, n);
            for (int64_t i = 0; i < tile.height; i++)
                for (int64_t j = 0; j < tile.width; j++) {
                    const vfloat* a = y[i * frames.M + j];
                    cell.step(tile.pixel(i, j), k, n, a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]);
                }
        };
        if (C - k < LANES)
            step(C - k);
        else
            step(AllLanes());
    };
    conv.run(epilogue, threads);
}

// The convolution (B, H, W, outputs), with a bias unless it is null, added to `out` or written to it.
inline void winograd_convolve(const Frames& frames, const float* x, const float* weight, const WinogradShape& shape,
                              const float* bias, float* out, bool add, int threads) {
    const Source source{x, weight, shape.inputs, shape.block_size(), 15}, none{x, weight, 0, 0, 0};
    const int64_t blocks = shape.blocks(), C = shape.outputs;
    const int64_t last_vectors = ceil_div(C - (blocks - 1) * COLUMNS, LANES);
    const auto epilogue = [&](int64_t block, const Tile& tile, const Pixels& y) {
        const int64_t first = block * COLUMNS;
        for (int64_t i = 0; i < tile.height; i++)
            for (int64_t j = 0; j < tile.width; j++) {
                float* to = out + tile.pixel(i, j) * C + first;
                for_each_vector(min_of(COLUMNS, C - first), [&](int64_t k, auto n) {
                    vfloat sum = y[i * frames.M + j][k / LANES];
                    if (bias) sum += load(bias + first + k, n);
                    store(to + k, add ? sum + load(to + k, n) : sum, n);
                });
            }
    };
    const float scale = shape.flipped ? 1 : SCALE;  // gradients have any size
    Winograd{frames, {source, none}, multiply_of(VECTORS), blocks, last_vectors, scale}.run(epilogue, threads);
}

inline int64_t gradient_size(const WinogradShape& shape, int64_t part) {
    const int64_t X = padded(shape.inputs), Y = padded(shape.outputs);
    return POSITIONS * (shape.inputs * Y + position_stride(part * X) + position_stride(part * Y));
}

// The gradient of a 3x3 weight from the input (B, H, W, inputs) and the gradient of the result (B, H, W, outputs).
// `memory` has `gradient_size` elements: the gradient of the weight's transform, (POSITIONS, inputs, outputs rounded up
// to vectors), and the transforms of `part` tiles.
inline void winograd_weight_gradient(const Frames& frames, const float* x, const float* y, const WinogradShape& shape,
                                     float* gradient, float* memory, int64_t part, int threads) {
    const int64_t X = padded(shape.inputs), Y = padded(shape.outputs);
    const int64_t x_stride = position_stride(part * X), y_stride = position_stride(part * Y);
    float *of_x = memory + POSITIONS * shape.inputs * Y, *of_y = of_x + POSITIONS * x_stride;
    const int64_t tiles = frames.tiles();
#pragma omp parallel num_threads(num_threads_for(32 * tiles * X, threads))
    for (int64_t first = 0; first < tiles; first += part) {
        const int64_t count = min_of(part, tiles - first);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < count; t++) {
            const Tile tile(frames, first + t);
            tile.write_input(x, shape.inputs, of_x + t * X, x_stride);
            tile.write_gradient(y, shape.outputs, of_y + t * Y, y_stride);
        }
#pragma omp for collapse(2) schedule(static)
        for (int64_t position = 0; position < POSITIONS; position++)
            for (int64_t k = 0; k < Y; k += COLUMNS) {
                const float *a = of_x + position * x_stride, *b = of_y + position * y_stride + k;
                const Factors factors{a, 1, X, b, Y, count}, none{a, 1, X, b, Y, 0};
                float* to = memory + position * shape.inputs * Y + k;
                multiply_of(min_of(VECTORS, (Y - k) / LANES))(factors, none, shape.inputs, to, Y, first > 0);
            }
    }
    shape.unpack_gradient(memory, gradient, threads);
}

}  // namespace
