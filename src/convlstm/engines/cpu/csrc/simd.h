// Some numbers at once, the types that tensors store, and the activations.
//
// Written with the vector types that GCC and Clang share, as wide as the widest registers; the loops of the
// kernels are too mixed in their types for a compiler to find that by itself.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

typedef int64_t size;

#if defined(__AVX512F__)
constexpr size LANES = 16;
#elif defined(__AVX__)
constexpr size LANES = 8;
#else
constexpr size LANES = 4;
#endif
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

template <class To, class From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

struct bfloat16 {
    uint16_t bits;
};

// For what is so small that a call, around which all vectors go to memory, would take as long.
#define ALWAYS_INLINE inline __attribute__((always_inline))

// Few numbers are done sooner than a second thread is awake.
inline int worth(size numbers, int threads) { return numbers < 16384 ? 1 : threads; }

inline float number(float x) { return x; }

inline float number(bfloat16 x) { return bits_of<float>(static_cast<uint32_t>(x.bits) << 16); }

// Where GCC makes more than one instruction of it, the one that there is.

inline floats widened(halves x) {
#ifdef __AVX512BW__
    return bits_of<floats>(bits_of<words>(_mm512_cvtepu16_epi32(bits_of<__m256i>(x))) << 16);
#else
    return bits_of<floats>(__builtin_convertvector(x, words) << 16);
#endif
}

inline halves narrowed(floats x) {  // to the nearest, ties to even; NaN stays NaN
#ifdef __AVX512BF16__
    return bits_of<halves>(_mm512_cvtneps_pbh(bits_of<__m512>(x)));
#else
    const words bits = bits_of<words>(x), nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x != x ? words{} + 0x7fc0 : nearest, halves);
#endif
}

inline floats between(float least, floats x, float most) {  // NaN stays NaN
#ifdef __AVX512BW__
    return bits_of<floats>(_mm512_max_ps(_mm512_set1_ps(least), _mm512_min_ps(_mm512_set1_ps(most), bits_of<__m512>(x))));
#else
    x = x > most ? floats{} + most : x;
    return x < least ? floats{} + least : x;
#endif
}

// To the nearest that bfloat16 can be, ties away from zero, which takes fewer instructions than ties to even. NaN as
// processors make it stays NaN.
inline floats nearest(floats x) { return bits_of<floats>((bits_of<words>(x) + 0x8000) & 0xffff0000); }

// The first `count` lanes from memory and to it. All of them are a number that the compiler knows.

typedef std::integral_constant<size, LANES> All;

#ifdef __AVX512BW__
inline __mmask16 first(size count) { return static_cast<__mmask16>((1u << count) - 1); }
#endif

inline floats get(const float* from, size count) {
#ifdef __AVX512BW__
    return bits_of<floats>(_mm512_maskz_loadu_ps(first(count), from));
#else
    floats x{};
    for (size n = 0; n < count; n++) x[n] = from[n];
    return x;
#endif
}

inline floats get(const float* from, All) {
    floats x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

inline floats get(const bfloat16* from, size count) {
#ifdef __AVX512BW__
    return widened(bits_of<halves>(_mm256_maskz_loadu_epi16(first(count), from)));
#else
    halves x{};
    for (size n = 0; n < count; n++) x[n] = from[n].bits;
    return widened(x);
#endif
}

inline floats get(const bfloat16* from, All) {
    halves x;
    std::memcpy(&x, from, sizeof(x));
    return widened(x);
}

inline void put(float* to, floats x, size count) {
#ifdef __AVX512BW__
    _mm512_mask_storeu_ps(to, first(count), bits_of<__m512>(x));
#else
    for (size n = 0; n < count; n++) to[n] = x[n];
#endif
}

inline void put(float* to, floats x, All) { std::memcpy(to, &x, sizeof(x)); }

inline void put(bfloat16* to, floats x, size count) {
    const halves y = narrowed(x);
#ifdef __AVX512BW__
    _mm256_mask_storeu_epi16(to, first(count), bits_of<__m256i>(y));
#else
    for (size n = 0; n < count; n++) to[n].bits = y[n];
#endif
}

inline void put(bfloat16* to, floats x, All) {
    const halves y = narrowed(x);
    std::memcpy(to, &y, sizeof(y));
}

template <class T>
inline floats rounded(floats x) {  // as T stores it
    return std::is_same<T, float>::value ? x : widened(narrowed(x));
}

template <class Body>
inline void by_lanes(size C, Body body) {  // body(first channel, how many)
    size k = 0;
    for (; k + LANES <= C; k += LANES) body(k, All());
    if (k < C) body(k, C - k);
}

inline floats at_least(float least, floats x) {  // NaN stays NaN
#ifdef __AVX512DQ__
    return bits_of<floats>(_mm512_max_ps(_mm512_set1_ps(least), bits_of<__m512>(x)));
#else
    return x < least ? floats{} + least : x;
#endif
}

// e^(a x) and 1 - e^(a x), for numbers that are stored as T.
struct Exponential {
    floats value, one_less;
};

constexpr float PER_LOG2 = 1.442695041f;

// a x = (k + r) log(2) with |r| <= 1/2, and a polynomial through (2^r - 1) / r, to 3e-8: within two units in the last
// place of 1 - e^x near zero, and 1e-7 |x| of e^x elsewhere. Up to e^44 two of them can be multiplied.
template <class T>
inline Exponential exponential(floats x, float a, float most = 44) {
    x = between(-87, a * x, most);
    const float shift = 12582912.0f;  // 1.5 * 2^23: a sum with it is a whole number, k
    const floats shifted = x * PER_LOG2 + shift, k = shifted - shift, r = x * PER_LOG2 - k;
    floats p = floats{} + 1.535691155e-4f;
    p = p * r + 1.339972818e-3f;
    p = p * r + 9.618430783e-3f;
    p = p * r + 5.550330852e-2f;
    p = p * r + 2.402264793e-1f;
    p = p * r + 6.931472031e-1f;
    const floats power = bits_of<floats>((bits_of<words>(shifted) << 23) + 0x3f800000);  // 2^k
    return {power * (p * r) + power, (1 - power) - power * (p * r)};
}

#ifdef __AVX512DQ__
// With fewer instructions: 2^r with 0 <= r < 1 as a polynomial, to 3e-6; 1 - e^x near zero to 2e-4 of it or to 6e-8,
// where storing the result loses 2e-3 of it. Up to infinity.
template <>
ALWAYS_INLINE Exponential exponential<bfloat16>(floats x, float a, float) {
    const floats power = x * (PER_LOG2 * a);
    const floats r = bits_of<floats>(_mm512_reduce_ps(bits_of<__m512>(power), _MM_FROUND_TO_NEG_INF));
    floats p = floats{} + 1.355575e-2f;
    p = p * r + 5.203237e-2f;
    p = p * r + 2.4137976e-1f;
    p = p * r + 6.9303212e-1f;
    const floats value = bits_of<floats>(_mm512_scalef_ps(bits_of<__m512>(p * r + 1), bits_of<__m512>(power)));
    return {value, 1 - value};
}
#endif

template <class Function>
inline floats each(floats x, Function function) {
    for (size n = 0; n < LANES; n++) x[n] = function(x[n]);
    return x;
}

// Each activation, for numbers that are stored as T: its value at x, as a ratio, as a product of two then takes one
// division; and its slope there, given also the value y.

template <class T>
struct Ratio {
    floats n, d;
    floats exact() const { return n / d; }
    // For bfloat16 to 2^-14: not for what multiplies a memory again and again, nor where a tanh above 1 would harm.
    floats value() const {
#ifdef __AVX512DQ__
        if (std::is_same<T, bfloat16>::value) return n * bits_of<floats>(_mm512_rcp14_ps(bits_of<__m512>(d)));
#endif
        return exact();
    }
    Ratio operator*(Ratio b) const { return {n * b.n, d * b.d}; }
    Ratio operator*(floats b) const { return {n * b, d}; }
};

template <class T>
inline Ratio<T> whole(floats x) {
    return {x, floats{} + 1};
}

template <class T>
struct sigmoid {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return {floats{} + 1, 1 + exponential<T>(x, -1).value}; }
    static floats slope(floats, floats y) { return y * (1 - y); }
};

template <class T>
struct tanh {
    static ALWAYS_INLINE Ratio<T> at(floats x) {
        const Exponential e = exponential<T>(at_least(-22, x), -2);
        return {e.one_less, 1 + e.value};
    }
    static floats slope(floats, floats y) { return 1 - y * y; }
};

template <class T>
struct hard_sigmoid {
    static ALWAYS_INLINE Ratio<T> at(floats x) {
        const floats y = x / 6 + 0.5f;
        return whole<T>(x <= -3 ? floats{} : x >= 3 ? floats{} + 1 : y);
    }
    static floats slope(floats x, floats) { return ((x > -3) & (x < 3)) ? floats{} + 1.0f / 6 : floats{}; }
};

template <class T>
struct hard_tanh {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x < -1 ? floats{} - 1 : x > 1 ? floats{} + 1 : x); }
    static floats slope(floats x, floats) { return ((x > -1) & (x < 1)) ? floats{} + 1 : floats{}; }
};

template <class T>
struct relu {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x < 0 ? floats{} : x); }
    static floats slope(floats x, floats) { return x > 0 ? floats{} + 1 : floats{}; }
};

template <class T>
struct leaky_relu {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x > 0 ? x : 0.01f * x); }
    static floats slope(floats x, floats) { return x > 0 ? floats{} + 1 : floats{} + 0.01f; }
};

template <class T>
struct elu {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x > 0 ? x : -exponential<T>(x, 1).one_less); }
    static floats slope(floats x, floats y) { return x > 0 ? floats{} + 1 : y + 1; }
};

template <class T>
struct silu {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x / (1 + exponential<T>(x, -1, 88).value)); }
    static floats slope(floats x, floats) {
        const floats s = sigmoid<T>::at(x).value();
        return s * (1 + x * (1 - s));
    }
};

template <class T>
struct gelu {
    static floats half(floats x) {
        return 0.5f * each(x * -0.707106781f, [](float y) { return std::erfc(y); });
    }
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x * half(x)); }
    static floats slope(floats x, floats) {
        return half(x) + 0.398942280f * x * exponential<T>(x * x, -0.5f).value;
    }
};

template <class T>
struct softsign {
    static floats size_of(floats x) { return 1 + (x < 0 ? -x : x); }
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x / size_of(x)); }
    static floats slope(floats x, floats) { return 1 / (size_of(x) * size_of(x)); }
};

template <class T>
struct identity {
    static ALWAYS_INLINE Ratio<T> at(floats x) { return whole<T>(x); }
    static floats slope(floats, floats) { return floats{} + 1; }
};

}  // namespace
