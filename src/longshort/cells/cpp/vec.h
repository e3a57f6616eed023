// Vectors of W floats and the functions of the gates on them. Compiled once for each instruction set.
//
// Each is right to 4 units in the last place (exp: 2) wherever the result is a normal float, exp's at most 2.4e38;
// tests/cells/test_native.py measures it. Infinities and NaN go in and come out as they should.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef VARIANT
#error "compile with -DVARIANT=name -DWIDTH=floats"
#endif

namespace VARIANT {

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, VI{__VA_ARGS__})
#endif
#define INLINED __attribute__((always_inline))
#define ALWAYS inline INLINED
// Before a loop whose count is known: an array it runs over can be registers only if nothing of the loop is left.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

constexpr int W = WIDTH;
typedef float V __attribute__((vector_size(WIDTH * 4)));
typedef int32_t VI __attribute__((vector_size(WIDTH * 4)));
typedef float Unaligned __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

ALWAYS V load(const float* p) { return *(const Unaligned*)p; }
ALWAYS void store(float* p, V x) { *(Unaligned*)p = x; }
inline V splat(float x) { return x - V{}; }

constexpr float NOTHING = -__builtin_inff();  // the logarithm of no weight at all

constexpr int64_t LARGE = 1 << 19;  // floats: more than a core's own cache holds
// Past the caches, for what they would not hold until it is read; p at a multiple of the vector's size.
ALWAYS void store_past(float* p, V x) {
#if WIDTH == 16 && defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)x);
#elif WIDTH == 8 && defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)x);
#elif defined(__x86_64__)
    _mm_stream_ps(p, (__m128)x);
#else
    store(p, x);
#endif
}
// Asks for a line, into the second cache: what is at work fills the first.
ALWAYS void ask_for(const float* p) { __builtin_prefetch(p, 0, 2); }
// Whether rows of `width` numbers, the first at x, go there: whole lines, and more than `most` numbers in all.
inline bool goes_past(const float* x, int64_t width, int64_t size, int64_t most = LARGE) {
    return (uintptr_t)x % 64 == 0 && width % 16 == 0 && size > most;
}
inline void fence() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// The first n of W lanes; the others are 0, or stay as they are in memory.
inline V load_some(const float* p, int64_t n) {
    if (n >= W) return load(p);
    V x = {};
    for (int64_t j = 0; j < n; j++) x[j] = p[j];
    return x;
}
inline void store_some(float* p, V x, int64_t n) {
    if (n >= W) return store(p, x);
    for (int64_t j = 0; j < n; j++) p[j] = x[j];
}

// Where one is NaN they give b: with the constant first, NaN stays NaN.
inline V vmax(V a, V b) { return a > b ? a : b; }
inline V vmin(V a, V b) { return a < b ? a : b; }
inline V vabs(V x) { return (V)((VI)x & 0x7fffffff); }
inline V with_sign_of(V x, V sign) { return (V)(((VI)x & 0x7fffffff) | ((VI)sign & (int32_t)0x80000000)); }

// e^x = 2^n (1 + p): n, and p = e^r - 1 on |r| <= log(2)/2, both to full precision.
struct Exponential { V scale, p, n; };
ALWAYS Exponential exponential(V x) {
    const V magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
    V t = x * 1.44269504088896341f + magic;
    V n = t - magic;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440054690583e-4f;
    V q = splat(0.0013882516650483012f);
    q = q * r + 0.008366547524929047f;
    q = q * r + 0.04166720062494278f;
    q = q * r + 0.1666654348373413f;
    q = q * r + 0.4999999701976776f;
    V scale = (V)(((VI)t - (VI)magic + 127) << 23);
    return {scale, r + r * r * q, n};
}

// On x86-64 0 where the result would be subnormal; infinite above 88.72, or 88.38 where the power of two overflows by itself.
ALWAYS V exp(V x) {
#if WIDTH == 16 && defined(__AVX512F__)
    const Exponential e = exponential(vmin(splat(128.f), vmax(splat(-128.f), x)));  // scales to 0 and infinity by itself
    return (V)_mm512_scalef_ps((__m512)(e.p + 1.f), (__m512)e.n);
#else
    const Exponential e = exponential(vmin(splat(88.9f), vmax(splat(-88.f), x)));
    return e.scale * (e.p + 1.f);
#endif
}

// Through e^y - 1, so that small x keep their precision.
ALWAYS V tanh(V x) {
    V y = vmax(splat(-40.f), vabs(x) * -2.f);
    Exponential e = exponential(y);
    V less = e.scale * e.p + (e.scale - 1.f);  // e^y - 1
    return with_sign_of(less / (less + 2.f), x);
}

ALWAYS V sigmoid(V x) { return 1.f / (1.f + exp(-x)); }

// min(x, 0) - log(1 + e^-|x|), and its slope sigmoid(-x), from one exponential.
struct LogSigmoid { V value, slope; };
ALWAYS LogSigmoid log_sigmoid(V x) {
    V e = exp(-vabs(x));
    V s = (e + e) / (e + 2.f);  // log(1 + e) = 2 atanh(s / 2): where e is small, s is the result, flushed no sooner
    V u = s * s;
    V p = splat(0.2802446484565735f / 512);
    p = p * u + 0.27999138832092285f / 128;
    p = p * u + 0.4002169966697693f / 32;
    p = p * u + 0.6666641235351562f / 8;
    V log1p = s + s * u * p;
    V part = 1.f / (1.f + e);
    return {vmin(x, V{}) - log1p, x > V{} ? e * part : part};
}

// The lanes 0 .. W-1, for patterns of shuffles.
template <int... at> struct Lanes {};
template <int n, int... at> struct UpTo : UpTo<n - 1, n - 1, at...> {};
template <int... at> struct UpTo<0, at...> { typedef Lanes<at...> type; };
typedef UpTo<W>::type AllLanes;
template <int... at> ALWAYS VI numbered(Lanes<at...>) { return VI{at...}; }
ALWAYS VI lane_numbers() { return numbered(AllLanes()); }

// Adds up each of W vectors: lane j of the answer is the sum of x[j].
template <int N> struct Fold {
    template <int... at> static V even(V a, V b, Lanes<at...>) { return SHUFFLE(a, b, (2 * at)...); }
    template <int... at> static V odd(V a, V b, Lanes<at...>) { return SHUFFLE(a, b, (2 * at + 1)...); }
    static V pair(V a, V b) { return even(a, b, AllLanes()) + odd(a, b, AllLanes()); }
    static V all(const V* x) { return pair(Fold<N / 2>::all(x), Fold<N / 2>::all(x + N / 2)); }
};
template <> struct Fold<1> {
    static V all(const V* x) { return x[0]; }
};
inline V sums(const V* x) { return Fold<W>::all(x); }

// Turns W x W numbers over, in their registers.
template <int S> struct Turn {
    template <int... at> static void swap(V& a, V& b, Lanes<at...>) {
        const V low = SHUFFLE(a, b, ((at & S) ? W + at - S : at)...);
        b = SHUFFLE(a, b, ((at & S) ? W + at : at + S)...);
        a = low;
    }
    static void all(V* x) {
        for (int i = 0; i < W; i++)
            if (!(i & S)) swap(x[i], x[i + S], AllLanes());
        Turn<S / 2>::all(x);
    }
};
template <> struct Turn<0> {
    static void all(V*) {}
};
inline void turn(V* x) { Turn<W / 2>::all(x); }

}  // namespace VARIANT
