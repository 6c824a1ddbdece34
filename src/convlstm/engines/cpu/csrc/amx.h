// A step fused with its convolution, for processors with Intel AMX in bfloat16.
//
// The convolution of x and h together is an implicit GEMM: for each tap of the kernel, a tile of sixteen adjacent
// pixels by thirty-two channels times a tile of thirty-two channels by sixteen pre-activations. The pre-activations
// stay in the L1 cache, where the pointwise part of the step (the epilogue of the GEMM) reads them.

#pragma once

#include "simd.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define CONVLSTM_AMX
#endif

namespace {

// B frames of H by W pixels, C_in channels of x and C of h, of which the first C_h are convolved (all, or none if h is
// zero); a kernel of KH by KW taps with dilations DH and DW.
struct ConvShape {
    int64_t B, H, W, C_in, C, C_h, KH, KW, DH, DW;
};

// Attributes:
//   x, h: (B, H, W, C_in) and (B, H, W, C).
//   weight: as `pack` writes it.
//   bias: (4, C).
//   rows, columns: index in the frame of each row and column of the padded frame, -1 for zero padding.
struct Convolution {
    const bfloat16 *x, *h, *weight;
    const float* bias;
    const int32_t *rows, *columns;
    ConvShape shape;
};

constexpr int64_t DEPTH = 32;  // elements of the reduction in a tile
constexpr int64_t TILE = LANES * DEPTH;  // elements of a tile

// A tap of the kernel and a channel of x and h together; channel -1 for zero padding.
struct ReductionIndex {
    int64_t tap, channel;
};

// The reduction dimension K of the GEMM, in steps of DEPTH: for each tap the channels of h, or of x and h
// concatenated; then, where that takes fewer steps, the few channels of x at all taps, in im2col form.
struct Reduction {
    int64_t taps, depth, im2col;

    explicit Reduction(const ConvShape& s) {
        taps = s.KH * s.KW;
        const int64_t separate = taps * ceil_div(s.C_h, DEPTH) + ceil_div(taps * s.C_in, DEPTH);
        const bool use_im2col = separate < taps * ceil_div(s.C_in + s.C_h, DEPTH);
        depth = ceil_div(use_im2col ? s.C_h : s.C_in + s.C_h, DEPTH) * DEPTH;
        im2col = use_im2col ? ceil_div(taps * s.C_in, DEPTH) * DEPTH : 0;
    }

    int64_t length() const { return taps * depth + im2col; }

    int64_t packed_block_size() const { return 4 * LANES * length(); }  // of the weights of sixteen channels

    // The tap and the channel of element k of the reduction.
    ReductionIndex at(const ConvShape& s, int64_t k) const {
        const int64_t rest = k - taps * depth, first = im2col ? s.C_in : 0;
        const ReductionIndex index =
            rest < 0 ? ReductionIndex{k / depth, first + k % depth} : ReductionIndex{rest / s.C_in, rest % s.C_in};
        return index.tap < taps && index.channel < s.C_in + s.C_h ? index : ReductionIndex{0, -1};
    }
};

// The weight (G C, C_in + C, KH, KW) in the order in which tiles are loaded: by sixteen channels, pairs of gates, steps
// of DEPTH, gate of the pair, and pairs of elements of the reduction. G is 4; or 3 for the gates r, z, n of a GRU, of
// which n has two pre-activations, of x and of h.
template <class T>
void pack(const T* weight, bfloat16* to, const ConvShape& s, int64_t G, int threads) {
    const Reduction reduction(s);
    const int64_t inputs = s.C_in + s.C;
    const auto at = [&](int64_t gate, int64_t channel, ReductionIndex index) -> float {
        const bool other = G == 3 && gate > 1 && (index.channel < s.C_in) != (gate == 2);
        if (channel >= s.C || other) return 0;
        const int64_t row = min_of(gate, G - 1) * s.C + channel;
        return to_float(weight[(row * inputs + index.channel) * reduction.taps + index.tap]);
    };
#pragma omp parallel for num_threads(num_threads_for(4 * s.C * inputs * reduction.taps, threads)) schedule(static)
    for (int64_t block = 0; block < ceil_div(s.C, LANES); block++) {
        bfloat16* next = to + block * reduction.packed_block_size();
        for (int64_t pair = 0; pair < 4; pair += 2)
            for (int64_t step = 0; step < reduction.length(); step += DEPTH)
                for (int64_t gate = pair; gate < pair + 2; gate++)
                    for (int64_t k = step; k < step + DEPTH; k += 2, next += 2 * LANES) {
                        vuint16 both[2];
                        for (int64_t half = 0; half < 2; half++) {
                            vfloat x{};
                            const ReductionIndex index = reduction.at(s, k + half);
                            if (index.channel >= 0)
                                for (int64_t n = 0; n < LANES; n++) x[n] = at(gate, block * LANES + n, index);
                            both[half] = narrow(x);
                        }
                        for (int64_t n = 0; n < 2 * LANES; n++) next[n].bits = both[n % 2][n / 2];
                    }
    }
}

#ifndef CONVLSTM_AMX

bool amx_available() { return false; }

template <class Cell>
void fused_step(const Convolution&, const Cell&, int) {}

#else

// True if the processor has AMX and the operating system permits this process to use it.
bool amx_available() {
    const long permission = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA of Linux
    return syscall(SYS_arch_prctl, permission, tiles) == 0;
}

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, zero[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The blocking of the GEMM: blocks of some rows of one frame, by groups of blocks of sixteen channels.
struct Blocking : Reduction {
    int64_t stride, im2col_stride, tiles_per_row, width, halo, rows, blocks_per_frame, channel_blocks, group, groups;

    Blocking(const ConvShape& s, int threads) : Reduction(s) {
        // An odd number of cache lines, so that pixels do not map to the same few sets of the cache.
        stride = (depth / DEPTH | 1) * DEPTH;
        im2col_stride = (im2col / DEPTH | 1) * DEPTH;
        tiles_per_row = ceil_div(s.W, LANES);
        width = tiles_per_row * LANES + (s.KW - 1) * s.DW;
        halo = (s.KH - 1) * s.DH;
        const int64_t fitting_rows = (384 << 10) / (2 * width * stride) - halo;  // in the L2 cache, beside weights
        rows = min_of(fitting_rows, ceil_div(s.B * s.H, threads));
        rows = max_of(1, min_of(rows, s.H));
        blocks_per_frame = ceil_div(s.H, rows);
        while (blocks_per_frame < s.H && s.B * blocks_per_frame % threads) blocks_per_frame++;
        rows = ceil_div(s.H, blocks_per_frame);
        blocks_per_frame = ceil_div(s.H, rows);
        channel_blocks = ceil_div(s.C, LANES);
        const int64_t fitting_blocks = (1 << 20) / (2 * packed_block_size());
        group = max_of(1, min_of(fitting_blocks, channel_blocks));
        groups = ceil_div(channel_blocks, group);
    }

    int64_t padded_size() const { return (rows + halo) * width * stride; }

    int64_t im2col_size() const { return im2col ? rows * tiles_per_row * LANES * im2col_stride : 0; }
};

// For few elements, for which a call of memcpy would take longer.
inline void copy(bfloat16* to, const bfloat16* from, int64_t n) {
    for (; n >= LANES; n -= LANES, to += LANES, from += LANES) std::memcpy(to, from, sizeof(vuint16));
    for (; n > 0; n--) *to++ = *from++;
}

inline void clear(bfloat16* to, int64_t n) {
    for (; n >= LANES; n -= LANES, to += LANES) std::memset(to, 0, sizeof(vuint16));
    for (; n > 0; n--) *to++ = bfloat16{};
}

// `rows` rows of a frame from row y, copied to the layout of tiles.
struct RowBlock {
    const Convolution& conv;
    const Blocking& blocking;
    int64_t frame, y, rows;
    bfloat16 *padded, *im2col;

    // Copy `channels` of `pixels` pixels of a row of the frame, -1 for zeros, from position `first` of the padded row.
    void copy_row(const bfloat16* from, int64_t row, int64_t first, int64_t pixels, int64_t channels, bfloat16* to,
                  int64_t stride) const {
        const ConvShape& s = conv.shape;
        const int64_t padded = s.W + (s.KW - 1) * s.DW - first;
        for (int64_t q = 0; q < pixels; q++, to += stride) {
            const int64_t column = row >= 0 && q < padded ? conv.columns[first + q] : -1;
            if (column >= 0)
                copy(to, from + ((frame * s.H + row) * s.W + column) * channels, channels);
            else
                clear(to, channels);
        }
    }

    // The padded frame, (rows + halo, width, stride).
    void pad() const {
        const ConvShape& s = conv.shape;
        const int64_t C_in = blocking.im2col ? 0 : s.C_in;
        for (int64_t r = 0; r < rows + blocking.halo; r++) {
            bfloat16* to = padded + r * blocking.width * blocking.stride;
            copy_row(conv.x, conv.rows[y + r], 0, blocking.width, C_in, to, blocking.stride);
            if (s.C_h) copy_row(conv.h, conv.rows[y + r], 0, blocking.width, s.C_h, to + C_in, blocking.stride);
            for (int64_t q = 0; q < blocking.width; q++)
                clear(to + q * blocking.stride + C_in + s.C_h, blocking.depth - C_in - s.C_h);
        }
    }

    // x at all taps, (rows, width without the halo, im2col_stride).
    void copy_im2col() const {
        const ConvShape& s = conv.shape;
        const int64_t width = blocking.tiles_per_row * LANES, used = blocking.taps * s.C_in;
        for (int64_t r = 0; r < rows; r++) {
            bfloat16* to = im2col + r * width * blocking.im2col_stride;
            for (int64_t tap = 0; tap < blocking.taps; tap++) {
                const int64_t row = conv.rows[y + r + tap / s.KW * s.DH];
                copy_row(conv.x, row, tap % s.KW * s.DW, width, s.C_in, to + tap * s.C_in, blocking.im2col_stride);
            }
            for (int64_t q = 0; q < width; q++) clear(to + q * blocking.im2col_stride + used, blocking.im2col - used);
        }
    }

    int64_t tiles() const { return rows * blocking.tiles_per_row; }

    int64_t row(int64_t tile) const { return tile / blocking.tiles_per_row; }

    int64_t column(int64_t tile) const { return tile % blocking.tiles_per_row * LANES; }

    // The first element of a tile at the kernel's first tap.
    const bfloat16* at(int64_t tile) const {
        return padded + (row(tile) * blocking.width + column(tile)) * blocking.stride;
    }

    const bfloat16* im2col_at(int64_t tile) const { return im2col + tile * LANES * blocking.im2col_stride; }

    // First pixel and number of pixels of a tile.
    int64_t first(int64_t tile) const { return (frame * conv.shape.H + y + row(tile)) * conv.shape.W + column(tile); }

    int64_t pixels(int64_t tile) const { return min_of(LANES, conv.shape.W - column(tile)); }
};

// The epilogue of the GEMM: the pointwise part of a step of sixteen channels of up to sixteen pixels of two tiles.
//
// It runs interleaved with the products of the next tiles, as the processor executes both in parallel.
template <class Cell>
class Epilogue {
    const Convolution& conv;
    const Cell& cell;
    int64_t k = 0, first[2] = {}, pixels[2] = {}, done = 2 * LANES;
    vfloat bias[4];
    float accumulators[2][4][2 * LANES][LANES];
    int ready = 0;  // the buffer that the epilogue reads; the GEMM writes to the other

    template <class Count>
    void pixel(int64_t p, Count n) const {
        const auto sum = [&](int64_t gate) {
            return round_to_bfloat16(load(accumulators[ready][gate][done], AllLanes()) + bias[gate]);
        };
        cell.step(p, k, n, sum(0), sum(1), sum(2), sum(3));
    }

   public:
    Epilogue(const Convolution& conv, const Cell& cell) : conv(conv), cell(cell) {}

    // Process up to `count` pixels.
    void advance(int64_t count) {
        for (; count > 0 && done < 2 * LANES; count--, done++) {
            const int64_t tile = done / LANES, m = done % LANES, channels = conv.shape.C - k;
            if (m >= pixels[tile]) continue;
            if (channels < LANES)
                pixel(first[tile] + m, channels);
            else
                pixel(first[tile] + m, AllLanes());
        }
    }

    // The accumulators of a gate for the next tiles.
    float* next_accumulators(int64_t gate, int64_t tile) { return accumulators[1 - ready][gate][tile * LANES]; }

    // Finish the current tiles and start with the next ones, given their first pixels and numbers of pixels.
    void start(int64_t block, int64_t first0, int64_t pixels0, int64_t first1, int64_t pixels1) {
        advance(2 * LANES);
        k = block * LANES, ready = 1 - ready, done = 0;
        first[0] = first0, first[1] = first1, pixels[0] = pixels0, pixels[1] = pixels1;
        const int64_t C = conv.shape.C;
        for (int64_t gate = 0; gate < 4; gate++) bias[gate] = load(conv.bias + gate * C + k, min_of(LANES, C - k));
    }
};

// The pre-activations of sixteen channels at two tiles, interleaved with the epilogue of the previous tiles.
template <class Cell>
void multiply_tiles(const RowBlock& row_block, int64_t tile0, int64_t tile1, const bfloat16* weight,
                    Epilogue<Cell>& epilogue) {
    const ConvShape& s = row_block.conv.shape;
    const Blocking& blocking = row_block.blocking;
    const bfloat16 *a = row_block.at(tile0), *b = row_block.at(tile1);
    const int64_t every = max_of(1, blocking.length() / DEPTH / LANES);  // LANES pixels with each pair of gates
    int64_t done = 0;
    // Products of the tiles of two pixel blocks with those of two gates, unless the weights of one are all zero.
    const auto multiply = [&](const bfloat16* a_tile, const bfloat16* b_tile, int64_t bytes, bool one, bool other) {
        _tile_loadd(4, a_tile, bytes);
        if (one) _tile_loadd(6, weight, 64);
        _tile_loadd(5, b_tile, bytes);
        if (other) _tile_loadd(7, weight + TILE, 64);
        if (one) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 5, 6);
        }
        if (other) {
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        weight += 2 * TILE;
        if (++done % every == 0) epilogue.advance(1);
    };
    const int64_t C_in = blocking.im2col ? 0 : s.C_in;
    for (int64_t pair = 0; pair < 4; pair += 2) {  // of gates: there are registers for four accumulators
        const bool separate = Cell::separate_candidate && pair == 2;  // pre-activations of x and of h
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t y = 0; y < s.KH; y++)
            for (int64_t x = 0; x < s.KW; x++) {
                const int64_t tap = (y * s.DH * blocking.width + x * s.DW) * blocking.stride;
                for (int64_t k = 0; k < blocking.depth; k += DEPTH) {
                    const bool one = !separate || k < C_in, other = !separate || k + DEPTH > C_in;
                    multiply(a + tap + k, b + tap + k, 2 * blocking.stride, one, other);
                }
            }
        for (int64_t k = 0; k < blocking.im2col; k += DEPTH)
            multiply(row_block.im2col_at(tile0) + k, row_block.im2col_at(tile1) + k, 2 * blocking.im2col_stride, true,
                     !separate);
        _tile_stored(0, epilogue.next_accumulators(pair, 0), 64);
        _tile_stored(1, epilogue.next_accumulators(pair, 1), 64);
        _tile_stored(2, epilogue.next_accumulators(pair + 1, 0), 64);
        _tile_stored(3, epilogue.next_accumulators(pair + 1, 1), 64);
    }
}

template <class Cell>
void fused_step(const Convolution& conv, const Cell& cell, int threads) {
    const ConvShape& s = conv.shape;
    if (s.B * s.H * s.W == 0) return;
    const Blocking blocking(s, threads);
#pragma omp parallel num_threads(threads)
    {
        const TileConfig config;
        __asm__ volatile("" ::: "memory");  // GCC does not model the load of the whole struct
        _tile_loadconfig(&config);
        bfloat16* padded = scratch<bfloat16>(blocking.padded_size() + blocking.im2col_size());
        Epilogue<Cell> epilogue(conv, cell);
#pragma omp for collapse(3) schedule(static)
        for (int64_t group = 0; group < blocking.groups; group++)
            for (int64_t frame = 0; frame < s.B; frame++)
                for (int64_t n = 0; n < blocking.blocks_per_frame; n++) {
                    const int64_t y = n * blocking.rows;
                    const int64_t rows = min_of(blocking.rows, s.H - y);
                    const RowBlock row_block{conv, blocking, frame, y, rows, padded, padded + blocking.padded_size()};
                    row_block.pad();
                    if (blocking.im2col) row_block.copy_im2col();
                    __asm__ volatile("" ::: "memory");  // GCC does not model the loads of tiles
                    const int64_t last = min_of(blocking.channel_blocks, (group + 1) * blocking.group);
                    for (int64_t block = group * blocking.group; block < last; block++) {
                        const bfloat16* weight = conv.weight + block * blocking.packed_block_size();
                        for (int64_t tile = 0; tile < row_block.tiles(); tile += 2) {
                            const bool two = tile + 1 < row_block.tiles();
                            const int64_t next = two ? tile + 1 : tile;
                            multiply_tiles(row_block, tile, next, weight, epilogue);
                            epilogue.start(block, row_block.first(tile), row_block.pixels(tile), row_block.first(next),
                                           two ? row_block.pixels(next) : 0);
                        }
                    }
                }
        epilogue.advance(2 * LANES);
        _tile_release();
    }
}

#endif

}  // namespace
