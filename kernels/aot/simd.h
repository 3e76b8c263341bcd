/* Vector registers of the instruction set this file is compiled for.
 *
 * GCC and Clang vector extensions give one source for SSE2, AVX2, AVX-512 and NEON: `a * b + c` on
 * `vreal` is one instruction per operation (fused where the target has FMA). Only what the
 * extensions cannot say, loading and storing the first n elements, is written per target.
 */
#ifndef FASTNN_SIMD_H
#define FASTNN_SIMD_H

#include <stdint.h>
#include <string.h>

#ifndef FASTNN_REAL
#define FASTNN_REAL float
#endif
#ifndef FASTNN_DOUBLE
#define FASTNN_DOUBLE 0 /* 1 when FASTNN_REAL is double */
#endif

typedef FASTNN_REAL real;

#define FASTNN_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>
#define VBYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define VBYTES 32
#else
#define VBYTES 16
#endif

/* Elements of a vector register. */
#define VLEN ((int)(VBYTES / sizeof(real)))

typedef real vreal __attribute__((vector_size(VBYTES)));
/* The same in memory: no alignment is assumed, and any buffer may be read through it. */
typedef real vreal_memory __attribute__((vector_size(VBYTES), aligned(sizeof(real)), may_alias));

FASTNN_INLINE vreal v_load(const real *p) { return *(const vreal_memory *)p; }
FASTNN_INLINE void v_store(real *p, vreal v) { *(vreal_memory *)p = v; }
FASTNN_INLINE vreal v_all(real x) { return x - (vreal){0}; }

/* The first n elements, 0 < n <= VLEN; the rest are zero on load and left alone on store. */
#if defined(__AVX512F__) && FASTNN_DOUBLE
FASTNN_INLINE vreal v_load_n(const real *p, int n) {
    return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
FASTNN_INLINE void v_store_n(real *p, vreal v, int n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), v);
}
#elif defined(__AVX512F__)
FASTNN_INLINE vreal v_load_n(const real *p, int n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
FASTNN_INLINE void v_store_n(real *p, vreal v, int n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}
#elif defined(__AVX2__)
/* The mask is a window into a row of ones followed by zeros. */
static const int32_t v_mask_window[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
/* Stores go by halves: a masked one takes 3.7 to 6.5 ns on Zen 3, these take 0.8. */
#if FASTNN_DOUBLE
FASTNN_INLINE vreal v_load_n(const real *p, int n) {
    return _mm256_maskload_pd(p, _mm256_loadu_si256((const __m256i *)(v_mask_window + 8 - 2 * n)));
}
FASTNN_INLINE void v_store_n(real *p, vreal v, int n) {
    __m128d half = _mm256_castpd256_pd128(v);
    if (n & 4) {
        v_store(p, v);
        return;
    }
    if (n & 2) {
        _mm_storeu_pd(p, half);
        p += 2;
        half = _mm256_extractf128_pd(v, 1);
    }
    if (n & 1) _mm_store_sd(p, half);
}
#else
FASTNN_INLINE vreal v_load_n(const real *p, int n) {
    return _mm256_maskload_ps(p, _mm256_loadu_si256((const __m256i *)(v_mask_window + 8 - n)));
}
FASTNN_INLINE void v_store_n(real *p, vreal v, int n) {
    __m128 half = _mm256_castps256_ps128(v);
    if (n & 8) {
        v_store(p, v);
        return;
    }
    if (n & 4) {
        _mm_storeu_ps(p, half);
        p += 4;
        half = _mm256_extractf128_ps(v, 1);
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, half);
        p += 2;
        half = _mm_movehl_ps(half, half);
    }
    if (n & 1) _mm_store_ss(p, half);
}
#endif
#else
FASTNN_INLINE vreal v_load_n(const real *p, int n) {
    vreal v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
FASTNN_INLINE void v_store_n(real *p, vreal v, int n) {
    for (int i = 0; i < n; i++) p[i] = v[i];
}
#endif

FASTNN_INLINE void prefetch_l2(const real *p, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(real)) __builtin_prefetch(p + i, 0, 2);
}

/* Lane-wise a > b ? a : b, and so b where one of them is NaN. */
FASTNN_INLINE vreal v_max(vreal a, vreal b) {
#if defined(__AVX512F__) && FASTNN_DOUBLE
    return _mm512_max_pd(a, b);
#elif defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__) && FASTNN_DOUBLE
    return _mm256_max_pd(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    for (int i = 0; i < VLEN; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
#endif
}

/* What formulas need of vectors beyond arithmetic. */
FASTNN_INLINE vreal v_sqrt(vreal x) {
#if defined(__AVX512F__) && FASTNN_DOUBLE
    return _mm512_sqrt_pd(x);
#elif defined(__AVX512F__)
    /* One step of Newton's from 14 bits, off by 1 ulp at most. The divider takes as long for a root
     * as for a quotient, and a rule mostly has one of each: now they go on side by side. Adam over
     * parameters in the cache takes 0.63 of the time (both by Newton's method: 0.73). */
    const vreal inverse = _mm512_rsqrt14_ps(x), root = x * inverse;
    const vreal better = root + (root * 0.5f) * (1.0f - root * inverse);
    const __mmask16 itself = _mm512_fpclass_ps_mask(x, 0x01 | 0x02 | 0x04 | 0x08); /* NaN, 0, inf */
    return _mm512_mask_mov_ps(better, itself, x);
#elif defined(__AVX2__) && FASTNN_DOUBLE
    return _mm256_sqrt_pd(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#else
    for (int i = 0; i < VLEN; i++)
#if FASTNN_DOUBLE
        x[i] = __builtin_sqrt(x[i]);
#else
        x[i] = __builtin_sqrtf(x[i]);
#endif
    return x;
#endif
}

/* x where a < b, else y. */
FASTNN_INLINE vreal v_if_less(vreal a, vreal b, vreal x, vreal y) {
    typedef __typeof__(a < b) mask;
    const mask less = a < b;
    return (vreal)((less & (mask)x) | (~less & (mask)y));
}

/* Over the lanes, in a fixed order: halves are folded together. */
FASTNN_INLINE real v_sum_lanes(vreal v) {
    real t[VLEN];
    v_store(t, v);
#pragma GCC unroll 4
    for (int half = VLEN / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) t[i] += t[i + half];
    return t[0];
}
FASTNN_INLINE real v_max_lanes(vreal v) {
    real t[VLEN];
    v_store(t, v);
#pragma GCC unroll 4
    for (int half = VLEN / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    return t[0];
}

/* Reductions over n contiguous numbers, n >= 1. */
FASTNN_INLINE real row_max(const real *p, int64_t n) {
    if (n < VLEN) {
        real m = p[0];
        for (int64_t i = 1; i < n; i++) m = p[i] > m ? p[i] : m;
        return m;
    }
    vreal m = v_load(p + n - VLEN); /* overlaps the last whole vector: a maximum may count twice */
    for (int64_t i = 0; i + VLEN <= n; i += VLEN) m = v_max(m, v_load(p + i));
    return v_max_lanes(m);
}
FASTNN_INLINE real row_sum(const real *p, int64_t n) {
    vreal sum = {0};
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN) sum += v_load(p + i);
    if (i < n) sum += v_load_n(p + i, (int)(n - i));
    return v_sum_lanes(sum);
}
FASTNN_INLINE real row_dot(const real *p, const real *q, int64_t n) {
    vreal sum = {0};
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN) sum += v_load(p + i) * v_load(q + i);
    if (i < n) sum += v_load_n(p + i, (int)(n - i)) * v_load_n(q + i, (int)(n - i));
    return v_sum_lanes(sum);
}

/* sums[j] = sum over rows of p[row * ld + j] for n columns, rows in order. */
FASTNN_INLINE void column_sums(const real *p, int64_t rows, int64_t n, int64_t ld, real *sums) {
    int64_t j = 0;
    for (; j + 4 * VLEN <= n; j += 4 * VLEN) { /* four chains hide the latency of the addition */
        vreal a = {0}, b = {0}, c = {0}, d = {0};
        const real *row = p + j;
        for (int64_t i = 0; i < rows; i++, row += ld) {
            a += v_load(row);
            b += v_load(row + VLEN);
            c += v_load(row + 2 * VLEN);
            d += v_load(row + 3 * VLEN);
        }
        v_store(sums + j, a);
        v_store(sums + j + VLEN, b);
        v_store(sums + j + 2 * VLEN, c);
        v_store(sums + j + 3 * VLEN, d);
    }
    for (; j < n; j += VLEN) {
        const int width = n - j < VLEN ? (int)(n - j) : VLEN;
        vreal a = {0};
        for (int64_t i = 0; i < rows; i++) a += v_load_n(p + i * ld + j, width);
        v_store_n(sums + j, a, width);
    }
}

/* Interleave the lower, or the upper, halves of two vectors: a0 b0 a1 b1 ... With AVX2 those of each
 * of their 128 bits, for only that is one instruction. */
#define PICK(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#if VBYTES == 64 && !FASTNN_DOUBLE
FASTNN_INLINE vreal v_low(vreal a, vreal b) {
    return PICK(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
FASTNN_INLINE vreal v_high(vreal a, vreal b) {
    return PICK(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif VBYTES == 64
FASTNN_INLINE vreal v_low(vreal a, vreal b) { return PICK(0, 8, 1, 9, 2, 10, 3, 11); }
FASTNN_INLINE vreal v_high(vreal a, vreal b) { return PICK(4, 12, 5, 13, 6, 14, 7, 15); }
#elif VBYTES == 32 && !FASTNN_DOUBLE
FASTNN_INLINE vreal v_low(vreal a, vreal b) { return PICK(0, 8, 1, 9, 4, 12, 5, 13); }
FASTNN_INLINE vreal v_high(vreal a, vreal b) { return PICK(2, 10, 3, 11, 6, 14, 7, 15); }
FASTNN_INLINE vreal v_lower(vreal a, vreal b) { return PICK(0, 1, 2, 3, 8, 9, 10, 11); }
FASTNN_INLINE vreal v_upper(vreal a, vreal b) { return PICK(4, 5, 6, 7, 12, 13, 14, 15); }
#elif VBYTES == 32
FASTNN_INLINE vreal v_low(vreal a, vreal b) { return PICK(0, 4, 2, 6); }
FASTNN_INLINE vreal v_high(vreal a, vreal b) { return PICK(1, 5, 3, 7); }
FASTNN_INLINE vreal v_lower(vreal a, vreal b) { return PICK(0, 1, 4, 5); }
FASTNN_INLINE vreal v_upper(vreal a, vreal b) { return PICK(2, 3, 6, 7); }
#elif !FASTNN_DOUBLE
FASTNN_INLINE vreal v_low(vreal a, vreal b) { return PICK(0, 4, 1, 5); }
FASTNN_INLINE vreal v_high(vreal a, vreal b) { return PICK(2, 6, 3, 7); }
#else
FASTNN_INLINE vreal v_low(vreal a, vreal b) { return PICK(0, 2); }
FASTNN_INLINE vreal v_high(vreal a, vreal b) { return PICK(1, 3); }
#endif
#undef PICK

/* Transpose a square block in registers: log2(n) rounds that interleave row j with row j + n / 2
 * transpose the n numbers of n rows. With AVX2 n is half a vector, and halves change places at last. */
#if VBYTES == 32
#define V_SQUARE (VLEN / 2)
#else
#define V_SQUARE VLEN
#endif
FASTNN_INLINE void transpose_square(vreal rows[VLEN]) {
    vreal next[VLEN];
#pragma GCC unroll 4
    for (int round = 1; round < V_SQUARE; round *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < VLEN / 2; i++) {
            const int j = i / (V_SQUARE / 2) * V_SQUARE + i % (V_SQUARE / 2);
            next[2 * i] = v_low(rows[j], rows[j + V_SQUARE / 2]);
            next[2 * i + 1] = v_high(rows[j], rows[j + V_SQUARE / 2]);
        }
#pragma GCC unroll 16
        for (int j = 0; j < VLEN; j++) rows[j] = next[j];
    }
#if VBYTES == 32
#pragma GCC unroll 8
    for (int j = 0; j < V_SQUARE; j++) {
        const vreal a = rows[j], b = rows[j + V_SQUARE];
        rows[j] = v_lower(a, b);
        rows[j + V_SQUARE] = v_upper(a, b);
    }
#endif
}

/* to[k * ld_to + j] = from[j * ld + k] for n <= VLEN rows j and all k. Whole vectors are written, the
 * columns n to VLEN as zeros, unless `exact`: then nothing outside those n columns is touched. */
FASTNN_INLINE void transpose_rows(const real *from, int64_t ld, int n, int64_t k, real *to,
                                  int64_t ld_to, int exact) {
    for (int64_t k0 = 0; k0 < k; k0 += VLEN) {
        const int width = k - k0 < VLEN ? (int)(k - k0) : VLEN;
        vreal rows[VLEN];
        if (n == VLEN && width == VLEN) {
#pragma GCC unroll 16
            for (int j = 0; j < VLEN; j++) rows[j] = v_load(from + j * ld + k0);
        } else {
#pragma GCC unroll 16
            for (int j = 0; j < VLEN; j++)
                rows[j] = j < n ? v_load_n(from + j * ld + k0, width) : (vreal){0};
        }
        transpose_square(rows);
#pragma GCC unroll 16
        for (int j = 0; j < VLEN; j++) {
            if (j >= width) break;
            if (exact && n < VLEN)
                v_store_n(to + (k0 + j) * ld_to, rows[j], n);
            else
                v_store(to + (k0 + j) * ld_to, rows[j]);
        }
    }
}

#endif
