// A step with its convolution, on processors whose matrix unit multiplies bfloat16 (Intel's AMX).
//
// The convolution of x and h together is a product of matrices that nobody writes down: for each tap of the
// kernel, sixteen neighbouring pixels by thirty-two channels times thirty-two channels by sixteen sums. The
// sums stay in the nearest cache, where the gates find them.

#pragma once

#include <vector>

#include "simd.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define CONVLSTM_AMX
#endif

namespace {

// B frames of H by W pixels, X channels of x and C of h, of which the first HC are convolved (all, or none where
// they are zero), and a kernel of KH by KW taps, DH and DW apart.
struct Sizes {
    size B, H, W, X, C, HC, KH, KW, DH, DW;
};

// Attributes:
//   x, h: (B, H, W, X) and (B, H, W, C).
//   weight: as `pack` writes it.
//   bias: (4, C).
//   rows, columns: of the frame for each one of the padded frame, or -1 where there are zeros.
struct Convolution {
    const bfloat16 *x, *h, *weight;
    const float* bias;
    const int32_t *rows, *columns;
    Sizes sizes;
};

constexpr size DEPTH = 32;  // channels that the unit multiplies and adds at once
constexpr size TILE = LANES * DEPTH;  // numbers in one of its registers

inline size ratio_up(size a, size b) { return (a + b - 1) / b; }

inline size at_most(size a, size b) { return a < b ? a : b; }

inline size at_least(size a, size b) { return a > b ? a : b; }

// A tap of the kernel and a channel of x and h together; -1 for none, only zeros.
struct Term {
    size tap, input;
};

// What is multiplied, in steps of DEPTH numbers of a pixel: first, for each tap, the channels of h, or of x and h
// beside each other; then, where that takes fewer steps, the few channels of x at all taps, gathered beforehand.
struct Terms {
    size taps, depth, gathered;

    explicit Terms(const Sizes& s) {
        taps = s.KH * s.KW;
        const size apart = taps * ratio_up(s.HC, DEPTH) + ratio_up(taps * s.X, DEPTH);
        const bool gather = apart < taps * ratio_up(s.X + s.HC, DEPTH);
        depth = ratio_up(gather ? s.HC : s.X + s.HC, DEPTH) * DEPTH;
        gathered = gather ? ratio_up(taps * s.X, DEPTH) * DEPTH : 0;
    }

    size numbers() const { return taps * depth + gathered; }  // for each sum, without a tile's zeros

    size block_size() const { return 4 * LANES * numbers(); }  // of the weight, for sixteen channels

    // What number k of a pixel is multiplied with.
    Term at(const Sizes& s, size k) const {
        const size among = k - taps * depth, skipped = gathered ? s.X : 0;
        const Term term = among < 0 ? Term{k / depth, skipped + k % depth} : Term{among / s.X, among % s.X};
        return term.tap < taps && term.input < s.X + s.HC ? term : Term{0, -1};
    }
};

// The weight (G C, X + C, KH, KW) as the unit takes it: by sixteen channels, pairs of gates, steps of DEPTH, the
// gate of the pair, and then pairs of numbers that are added. G is 4; or 3 for the gates r, z, n of a GRU, whose
// n is x's and h's part apart.
template <class T>
void pack(const T* weight, bfloat16* to, const Sizes& s, size G, int threads) {
    const Terms terms(s);
    const size inputs = s.X + s.C;
    const auto at = [&](size gate, size channel, Term term) -> float {
        const bool other = G == 3 && gate > 1 && (term.input < s.X) != (gate == 2);
        if (channel >= s.C || other) return 0;
        const size row = at_most(gate, G - 1) * s.C + channel;
        return number(weight[(row * inputs + term.input) * terms.taps + term.tap]);
    };
#pragma omp parallel for num_threads(worth(4 * s.C * inputs * terms.taps, threads)) schedule(static)
    for (size block = 0; block < ratio_up(s.C, LANES); block++) {
        bfloat16* next = to + block * terms.block_size();
        for (size pair = 0; pair < 4; pair += 2)
            for (size step = 0; step < terms.numbers(); step += DEPTH)
                for (size gate = pair; gate < pair + 2; gate++)
                    for (size k = step; k < step + DEPTH; k += 2, next += 2 * LANES) {
                        halves both[2];
                        for (size half = 0; half < 2; half++) {
                            floats x{};
                            const Term term = terms.at(s, k + half);
                            if (term.input >= 0)
                                for (size n = 0; n < LANES; n++) x[n] = at(gate, block * LANES + n, term);
                            both[half] = narrowed(x);
                        }
                        for (size n = 0; n < 2 * LANES; n++) next[n].bits = both[n % 2][n / 2];
                    }
    }
}

#ifndef CONVLSTM_AMX

bool amx() { return false; }

template <class Cell>
void step(const Convolution&, const Cell&, int) {}

#else

// Whether the unit is there, and the system lets this process use it.
bool amx() {
    const long permission = 0x1023, tiles = 18;
    return syscall(SYS_arch_prctl, permission, tiles) == 0;
}

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, zero[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// How the work is cut: into parts of some rows of one frame, and some blocks of sixteen channels.
struct Cut : Terms {
    size stride, stride_gathered, across, width, halo, rows, parts, blocks, group, groups;

    Cut(const Sizes& s, int threads) : Terms(s) {
        // An odd number of cache lines, or all pixels would fall on the same few places of the cache.
        stride = (depth / DEPTH | 1) * DEPTH;
        stride_gathered = (gathered / DEPTH | 1) * DEPTH;
        across = ratio_up(s.W, LANES);
        width = across * LANES + (s.KW - 1) * s.DW;
        halo = (s.KH - 1) * s.DH;
        const size near = (384 << 10) / (2 * width * stride) - halo;  // what the second cache holds beside weights
        rows = at_most(near, ratio_up(s.B * s.H, threads));
        rows = at_least(1, at_most(rows, s.H));
        parts = ratio_up(s.H, rows);
        while (parts < s.H && s.B * parts % threads) parts++;
        rows = ratio_up(s.H, parts);
        parts = ratio_up(s.H, rows);
        blocks = ratio_up(s.C, LANES);
        const size fitting = (1 << 20) / (2 * block_size());
        group = at_least(1, at_most(fitting, blocks));
        groups = ratio_up(blocks, group);
    }

    size padded_size() const { return (rows + halo) * width * stride; }

    size gathered_size() const { return gathered ? rows * across * LANES * stride_gathered : 0; }
};

// Few numbers, for which a call would take longer than the work.

inline void copy(bfloat16* to, const bfloat16* from, size n) {
    for (; n >= LANES; n -= LANES, to += LANES, from += LANES) std::memcpy(to, from, sizeof(halves));
    for (; n > 0; n--) *to++ = *from++;
}

inline void clear(bfloat16* to, size n) {
    for (; n >= LANES; n -= LANES, to += LANES) std::memset(to, 0, sizeof(halves));
    for (; n > 0; n--) *to++ = bfloat16{};
}

// A part of a frame for the unit: `rows` rows from row y.
struct Part {
    const Convolution& conv;
    const Cut& cut;
    size frame, y, rows;
    bfloat16 *padded, *gathered;

    // Copy `channels` of each pixel of a row of the frame, -1 for zeros, from place `first` of the padded row.
    void copy_row(const bfloat16* from, size row, size first, size number, size channels, bfloat16* to, size stride) const {
        const Sizes& s = conv.sizes;
        const size padded = s.W + (s.KW - 1) * s.DW - first;
        for (size q = 0; q < number; q++, to += stride) {
            const size column = row >= 0 && q < padded ? conv.columns[first + q] : -1;
            if (column >= 0)
                copy(to, from + ((frame * s.H + row) * s.W + column) * channels, channels);
            else
                clear(to, channels);
        }
    }

    // The padded frame, (rows + halo, width, stride).
    void pad() const {
        const Sizes& s = conv.sizes;
        const size X = cut.gathered ? 0 : s.X;
        for (size r = 0; r < rows + cut.halo; r++) {
            bfloat16* to = padded + r * cut.width * cut.stride;
            copy_row(conv.x, conv.rows[y + r], 0, cut.width, X, to, cut.stride);
            if (s.HC) copy_row(conv.h, conv.rows[y + r], 0, cut.width, s.HC, to + X, cut.stride);
            for (size q = 0; q < cut.width; q++) clear(to + q * cut.stride + X + s.HC, cut.depth - X - s.HC);
        }
    }

    // x at all taps, (rows, width without the halo, stride_gathered).
    void gather() const {
        const Sizes& s = conv.sizes;
        const size width = cut.across * LANES, known = cut.taps * s.X;
        for (size r = 0; r < rows; r++) {
            bfloat16* to = gathered + r * width * cut.stride_gathered;
            for (size tap = 0; tap < cut.taps; tap++) {
                const size row = conv.rows[y + r + tap / s.KW * s.DH];
                copy_row(conv.x, row, tap % s.KW * s.DW, width, s.X, to + tap * s.X, cut.stride_gathered);
            }
            for (size q = 0; q < width; q++) clear(to + q * cut.stride_gathered + known, cut.gathered - known);
        }
    }

    size tiles() const { return rows * cut.across; }

    size row(size tile) const { return tile / cut.across; }

    size column(size tile) const { return tile % cut.across * LANES; }

    // What the unit reads of a tile, at the kernel's first tap.
    const bfloat16* at(size tile) const { return padded + (row(tile) * cut.width + column(tile)) * cut.stride; }

    const bfloat16* gathered_at(size tile) const { return gathered + tile * LANES * cut.stride_gathered; }

    // A tile's first pixel, and how many it has.
    size first(size tile) const { return (frame * conv.sizes.H + y + row(tile)) * conv.sizes.W + column(tile); }

    size pixels(size tile) const { return at_most(LANES, conv.sizes.W - column(tile)); }
};

// The cell's steps that are still to be done: sixteen channels of two times up to sixteen pixels, from their sums.
//
// They are done between the next products, a few at a time, as the processor does both at once.
template <class Cell>
class Steps {
    const Convolution& conv;
    const Cell& cell;
    size k = 0, first[2] = {}, pixels[2] = {}, done = 2 * LANES;
    floats bias[4];
    float sums[2][4][2 * LANES][LANES];
    int full = 0;  // of the two buffers, the one with the sums of these steps

    template <class Count>
    void one(size p, Count n) const {
        const auto sum = [&](size gate) { return nearest(get(sums[full][gate][done], All()) + bias[gate]); };
        cell.step(p, k, n, sum(0), sum(1), sum(2), sum(3));
    }

   public:
    Steps(const Convolution& conv, const Cell& cell) : conv(conv), cell(cell) {}

    // Do some of them.
    void some(size number) {
        for (; number > 0 && done < 2 * LANES; number--, done++) {
            const size tile = done / LANES, m = done % LANES, channels = conv.sizes.C - k;
            if (m >= pixels[tile]) continue;
            if (channels < LANES)
                one(first[tile] + m, channels);
            else
                one(first[tile] + m, All());
        }
    }

    // Where the next sums of a gate go.
    float* room(size gate, size tile) { return sums[1 - full][gate][tile * LANES]; }

    // Do the rest, and go on with what is in the room now: tiles of so many pixels, of which these are the first.
    void next(size block, size first0, size pixels0, size first1, size pixels1) {
        some(2 * LANES);
        k = block * LANES, full = 1 - full, done = 0;
        first[0] = first0, first[1] = first1, pixels[0] = pixels0, pixels[1] = pixels1;
        for (size gate = 0; gate < 4; gate++) bias[gate] = get(conv.bias + gate * conv.sizes.C + k, at_most(LANES, conv.sizes.C - k));
    }
};

// The sums of sixteen channels at two tiles, with steps of the cell, from earlier sums, between.
template <class Cell>
void sum(const Part& part, size tile0, size tile1, const bfloat16* weight, Steps<Cell>& steps) {
    const Sizes& s = part.conv.sizes;
    const Cut& cut = part.cut;
    const bfloat16 *a = part.at(tile0), *b = part.at(tile1);
    const size every = at_least(1, cut.numbers() / DEPTH / LANES);  // for LANES steps with each pair of gates
    size done = 0;
    // Four products: numbers of the two tiles by the weights of two gates, unless those of one are all zero.
    const auto multiply = [&](const bfloat16* numbers0, const bfloat16* numbers1, size bytes, bool one, bool other) {
        _tile_loadd(4, numbers0, bytes);
        if (one) _tile_loadd(6, weight, 64);
        _tile_loadd(5, numbers1, bytes);
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
        if (++done % every == 0) steps.some(1);
    };
    const size X = cut.gathered ? 0 : s.X;
    for (size pair = 0; pair < 4; pair += 2) {  // of gates: the unit has room for four sums
        const bool apart = Cell::apart && pair == 2;  // x's and h's part of the last sums
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size y = 0; y < s.KH; y++)
            for (size x = 0; x < s.KW; x++) {
                const size tap = (y * s.DH * cut.width + x * s.DW) * cut.stride;
                for (size k = 0; k < cut.depth; k += DEPTH) {
                    const bool one = !apart || k < X, other = !apart || k + DEPTH > X;
                    multiply(a + tap + k, b + tap + k, 2 * cut.stride, one, other);
                }
            }
        for (size k = 0; k < cut.gathered; k += DEPTH)
            multiply(part.gathered_at(tile0) + k, part.gathered_at(tile1) + k, 2 * cut.stride_gathered, true, !apart);
        _tile_stored(0, steps.room(pair, 0), 64);
        _tile_stored(1, steps.room(pair, 1), 64);
        _tile_stored(2, steps.room(pair + 1, 0), 64);
        _tile_stored(3, steps.room(pair + 1, 1), 64);
    }
}

// Memory of this thread, for the next call too.
bfloat16* scratch(size numbers) {
    static thread_local std::vector<bfloat16> memory;
    const size more = 64 / sizeof(bfloat16);
    if (memory.size() < static_cast<size_t>(numbers + more)) memory.resize(numbers + more);
    return reinterpret_cast<bfloat16*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

template <class Cell>
void step(const Convolution& conv, const Cell& cell, int threads) {
    const Sizes& s = conv.sizes;
    if (s.B * s.H * s.W == 0) return;
    const Cut cut(s, threads);
#pragma omp parallel num_threads(threads)
    {
        const TileConfig config;
        __asm__ volatile("" ::: "memory");  // GCC does not know that all of it is read
        _tile_loadconfig(&config);
        bfloat16* padded = scratch(cut.padded_size() + cut.gathered_size());
        Steps<Cell> steps(conv, cell);
#pragma omp for collapse(3) schedule(static)
        for (size group = 0; group < cut.groups; group++)
            for (size frame = 0; frame < s.B; frame++)
                for (size n = 0; n < cut.parts; n++) {
                    const size y = n * cut.rows;
                    const Part part{conv, cut, frame, y, at_most(cut.rows, s.H - y), padded, padded + cut.padded_size()};
                    part.pad();
                    if (cut.gathered) part.gather();
                    __asm__ volatile("" ::: "memory");  // GCC does not know that the unit reads memory
                    const size last = at_most(cut.blocks, (group + 1) * cut.group);
                    for (size block = group * cut.group; block < last; block++)
                        for (size tile = 0; tile < part.tiles(); tile += 2) {
                            const bool two = tile + 1 < part.tiles();
                            const size next = two ? tile + 1 : tile;
                            sum(part, tile, next, conv.weight + block * cut.block_size(), steps);
                            steps.next(block, part.first(tile), part.pixels(tile), part.first(next), two ? part.pixels(next) : 0);
                        }
                }
        steps.some(2 * LANES);
        _tile_release();
    }
}

#endif

}  // namespace
