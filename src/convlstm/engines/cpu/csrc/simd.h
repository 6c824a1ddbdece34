// SIMD vectors, the element types of tensors, and the activations.
//
// Written with the vector extensions that GCC and Clang share, as wide as the widest registers: compilers do not
// vectorise loops with such mixed element types.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
typedef float vfloat __attribute__((vector_size(4 * LANES)));
typedef uint32_t vuint32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t vuint16 __attribute__((vector_size(2 * LANES)));

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "types must have the same size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

struct bfloat16 {
    uint16_t bits;
};

// For functions so small that a call, which spills all vector registers, would cost as much.
#define ALWAYS_INLINE inline __attribute__((always_inline))

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Memory of this thread for a number of elements, reused by the next call.
template <class T>
T* scratch(int64_t elements) {
    static thread_local std::vector<char> memory;
    const size_t bytes = elements * sizeof(T) + 64;
    if (memory.size() < bytes) memory.resize(bytes);
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

// Few elements are processed in less time than another thread takes to start.
inline int num_threads_for(int64_t elements, int threads) { return elements < 16384 ? 1 : threads; }

inline float to_float(float x) { return x; }

inline float to_float(bfloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// Intrinsics where GCC emits more than one instruction for the generic form.

inline vfloat widen(vuint16 x) {
#ifdef __AVX512BW__
    return bit_cast<vfloat>(bit_cast<vuint32>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(x))) << 16);
#else
    return bit_cast<vfloat>(__builtin_convertvector(x, vuint32) << 16);
#endif
}

inline vuint16 narrow(vfloat x) {  // to the nearest, ties to even; NaN stays NaN
#ifdef __AVX512BF16__
    return bit_cast<vuint16>(_mm512_cvtneps_pbh(bit_cast<__m512>(x)));
#else
    const vuint32 bits = bit_cast<vuint32>(x), nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x != x ? vuint32{} + 0x7fc0 : nearest, vuint16);
#endif
}

inline vfloat clamp(float least, vfloat x, float most) {  // NaN stays NaN
#ifdef __AVX512BW__
    const __m512 below = _mm512_min_ps(_mm512_set1_ps(most), bit_cast<__m512>(x));
    return bit_cast<vfloat>(_mm512_max_ps(_mm512_set1_ps(least), below));
#else
    x = x > most ? vfloat{} + most : x;
    return x < least ? vfloat{} + least : x;
#endif
}

// To the nearest bfloat16, ties away from zero, which takes fewer instructions than ties to even. The processor's
// default NaN stays NaN.
inline vfloat round_to_bfloat16(vfloat x) { return bit_cast<vfloat>((bit_cast<vuint32>(x) + 0x8000) & 0xffff0000); }

// Load and store the first `count` lanes; AllLanes is a count known at compile time.

typedef std::integral_constant<int64_t, LANES> AllLanes;

#ifdef __AVX512BW__
inline __mmask16 lane_mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
#endif

inline vfloat load(const float* from, int64_t count) {
#ifdef __AVX512BW__
    return bit_cast<vfloat>(_mm512_maskz_loadu_ps(lane_mask(count), from));
#else
    vfloat x{};
    for (int64_t n = 0; n < count; n++) x[n] = from[n];
    return x;
#endif
}

inline vfloat load(const float* from, AllLanes) {
    vfloat x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

inline vfloat load(const bfloat16* from, int64_t count) {
#ifdef __AVX512BW__
    return widen(bit_cast<vuint16>(_mm256_maskz_loadu_epi16(lane_mask(count), from)));
#else
    vuint16 x{};
    for (int64_t n = 0; n < count; n++) x[n] = from[n].bits;
    return widen(x);
#endif
}

inline vfloat load(const bfloat16* from, AllLanes) {
    vuint16 x;
    std::memcpy(&x, from, sizeof(x));
    return widen(x);
}

inline void store(float* to, vfloat x, int64_t count) {
#ifdef __AVX512BW__
    _mm512_mask_storeu_ps(to, lane_mask(count), bit_cast<__m512>(x));
#else
    for (int64_t n = 0; n < count; n++) to[n] = x[n];
#endif
}

inline void store(float* to, vfloat x, AllLanes) { std::memcpy(to, &x, sizeof(x)); }

inline void store(bfloat16* to, vfloat x, int64_t count) {
    const vuint16 y = narrow(x);
#ifdef __AVX512BW__
    _mm256_mask_storeu_epi16(to, lane_mask(count), bit_cast<__m256i>(y));
#else
    for (int64_t n = 0; n < count; n++) to[n].bits = y[n];
#endif
}

inline void store(bfloat16* to, vfloat x, AllLanes) {
    const vuint16 y = narrow(x);
    std::memcpy(to, &y, sizeof(y));
}

template <class T>
inline vfloat round_to(vfloat x) {  // to the precision of T
    return std::is_same<T, float>::value ? x : widen(narrow(x));
}

template <class Body>
inline void for_each_vector(int64_t C, Body body) {  // body(first channel, number of channels)
    int64_t k = 0;
    for (; k + LANES <= C; k += LANES) body(k, AllLanes());
    if (k < C) body(k, C - k);
}

// body(pixel, first channel, number of channels) for P pixels of C channels.
template <class Body>
inline void for_each_pixel(int64_t P, int64_t C, int threads, Body body) {
#pragma omp parallel for num_threads(num_threads_for(P * C, threads)) schedule(static)
    for (int64_t p = 0; p < P; p++) for_each_vector(C, [=](int64_t k, auto n) { body(p, k, n); });
}

template <class T, class Count>
ALWAYS_INLINE void store_gates(T* to, int64_t C, Count n, vfloat a, vfloat b, vfloat c, vfloat d) {
    store(to, a, n), store(to + C, b, n), store(to + 2 * C, c, n), store(to + 3 * C, d, n);
}

inline vfloat max(float least, vfloat x) {  // NaN stays NaN
#ifdef __AVX512DQ__
    return bit_cast<vfloat>(_mm512_max_ps(_mm512_set1_ps(least), bit_cast<__m512>(x)));
#else
    return x < least ? vfloat{} + least : x;
#endif
}

// e^(a x) and 1 - e^(a x), for results stored as T.
struct Exponential {
    vfloat value, one_minus_value;
};

constexpr float PER_LOG2 = 1.442695041f;

// a x = (k + r) log(2) with |r| <= 1/2, and a polynomial for (2^r - 1) / r, to 3e-8: within two units in the last
// place of 1 - e^x near zero, and 1e-7 |x| of e^x elsewhere. Two results up to e^44 can be multiplied without overflow.
template <class T>
inline Exponential exponential(vfloat x, float a, float most = 44) {
    x = clamp(-87, a * x, most);
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, k
    const vfloat shifted = x * PER_LOG2 + shift, k = shifted - shift, r = x * PER_LOG2 - k;
    vfloat p = vfloat{} + 1.535691155e-4f;
    p = p * r + 1.339972818e-3f;
    p = p * r + 9.618430783e-3f;
    p = p * r + 5.550330852e-2f;
    p = p * r + 2.402264793e-1f;
    p = p * r + 6.931472031e-1f;
    const vfloat power = bit_cast<vfloat>((bit_cast<vuint32>(shifted) << 23) + 0x3f800000);  // 2^k
    return {power * (p * r) + power, (1 - power) - power * (p * r)};
}

#ifdef __AVX512DQ__
// Fewer instructions: 2^r with 0 <= r < 1 as a polynomial, to 3e-6; 1 - e^x near zero to 2e-4 of it or to 6e-8,
// where rounding the result to bfloat16 loses 2e-3 of it. Overflows to infinity.
template <>
ALWAYS_INLINE Exponential exponential<bfloat16>(vfloat x, float a, float) {
    const vfloat power = x * (PER_LOG2 * a);
    const vfloat r = bit_cast<vfloat>(_mm512_reduce_ps(bit_cast<__m512>(power), _MM_FROUND_TO_NEG_INF));
    vfloat p = vfloat{} + 1.355575e-2f;
    p = p * r + 5.203237e-2f;
    p = p * r + 2.4137976e-1f;
    p = p * r + 6.9303212e-1f;
    const vfloat value = bit_cast<vfloat>(_mm512_scalef_ps(bit_cast<__m512>(p * r + 1), bit_cast<__m512>(power)));
    return {value, 1 - value};
}
#endif

template <class Function>
inline vfloat map(vfloat x, Function function) {
    for (int64_t n = 0; n < LANES; n++) x[n] = function(x[n]);
    return x;
}

// Each activation, for results stored as T: its value at x as a ratio, so that a product of two takes one division;
// and its derivative at x, where its value is y.

template <class T>
struct Ratio {
    vfloat n, d;
    vfloat divide() const { return n / d; }
    // To 2^-14 for bfloat16: not for a factor of the cell state at every step, nor where a tanh above 1 is wrong.
    vfloat divide_fast() const {
#ifdef __AVX512DQ__
        if (std::is_same<T, bfloat16>::value) return n * bit_cast<vfloat>(_mm512_rcp14_ps(bit_cast<__m512>(d)));
#endif
        return divide();
    }
    Ratio operator*(Ratio b) const { return {n * b.n, d * b.d}; }
    Ratio operator*(vfloat b) const { return {n * b, d}; }
};

template <class T>
inline Ratio<T> ratio_of(vfloat x) {
    return {x, vfloat{} + 1};
}

template <class T>
struct sigmoid {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return {vfloat{} + 1, 1 + exponential<T>(x, -1).value}; }
    static vfloat derivative(vfloat, vfloat y) { return y * (1 - y); }
};

template <class T>
struct tanh {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) {
        const Exponential e = exponential<T>(max(-22, x), -2);
        return {e.one_minus_value, 1 + e.value};
    }
    static vfloat derivative(vfloat, vfloat y) { return 1 - y * y; }
};

template <class T>
struct hard_sigmoid {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) {
        const vfloat y = x / 6 + 0.5f;
        return ratio_of<T>(x <= -3 ? vfloat{} : x >= 3 ? vfloat{} + 1 : y);
    }
    static vfloat derivative(vfloat x, vfloat) { return ((x > -3) & (x < 3)) ? vfloat{} + 1.0f / 6 : vfloat{}; }
};

template <class T>
struct hard_tanh {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x < -1 ? vfloat{} - 1 : x > 1 ? vfloat{} + 1 : x); }
    static vfloat derivative(vfloat x, vfloat) { return ((x > -1) & (x < 1)) ? vfloat{} + 1 : vfloat{}; }
};

template <class T>
struct relu {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x < 0 ? vfloat{} : x); }
    static vfloat derivative(vfloat x, vfloat) { return x > 0 ? vfloat{} + 1 : vfloat{}; }
};

template <class T>
struct leaky_relu {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x > 0 ? x : 0.01f * x); }
    static vfloat derivative(vfloat x, vfloat) { return x > 0 ? vfloat{} + 1 : vfloat{} + 0.01f; }
};

template <class T>
struct elu {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) {
        return ratio_of<T>(x > 0 ? x : -exponential<T>(x, 1).one_minus_value);
    }
    static vfloat derivative(vfloat x, vfloat y) { return x > 0 ? vfloat{} + 1 : y + 1; }
};

template <class T>
struct silu {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x / (1 + exponential<T>(x, -1, 88).value)); }
    static vfloat derivative(vfloat x, vfloat) {
        const vfloat s = sigmoid<T>::at(x).divide_fast();
        return s * (1 + x * (1 - s));
    }
};

template <class T>
struct gelu {
    static vfloat half(vfloat x) {
        return 0.5f * map(x * -0.707106781f, [](float y) { return std::erfc(y); });
    }
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x * half(x)); }
    static vfloat derivative(vfloat x, vfloat) {
        return half(x) + 0.398942280f * x * exponential<T>(x * x, -0.5f).value;
    }
};

template <class T>
struct softsign {
    static vfloat one_plus_abs(vfloat x) { return 1 + (x < 0 ? -x : x); }
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x / one_plus_abs(x)); }
    static vfloat derivative(vfloat x, vfloat) { return 1 / (one_plus_abs(x) * one_plus_abs(x)); }
};

template <class T>
struct identity {
    static ALWAYS_INLINE Ratio<T> at(vfloat x) { return ratio_of<T>(x); }
    static vfloat derivative(vfloat, vfloat) { return vfloat{} + 1; }
};

}  // namespace
