/* Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
 *
 * Random numbers are a function of (seed, stream, step, row, column), so a mask is the same on every
 * backend, for any number of threads, and need not be stored. Of `n` words of one row, counter j
 * gives words j, j + q, j + 2q and j + 3q with q = ceil(n / 4): contiguous, so that loops vectorise.
 *
 * The products of 32 bits are written out per target: compilers widen whole registers for them.
 */
#ifndef FASTNN_PHILOX_H
#define FASTNN_PHILOX_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define PHILOX_LANES 16
typedef __m512i philox_vector;
#define PHILOX_SET(x) _mm512_set1_epi32((int)(x))
#define PHILOX_XOR3(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0x96)
static inline void philox_product(philox_vector a, philox_vector m, philox_vector *high,
                                  philox_vector *low) {
    const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
    *low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    *high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}
#elif defined(__AVX2__)
#include <immintrin.h>
#define PHILOX_LANES 8
typedef __m256i philox_vector;
#define PHILOX_SET(x) _mm256_set1_epi32((int)(x))
#define PHILOX_XOR3(a, b, c) _mm256_xor_si256(_mm256_xor_si256(a, b), c)
static inline void philox_product(philox_vector a, philox_vector m, philox_vector *high,
                                  philox_vector *low) {
    const __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}
#else
#define PHILOX_LANES 4
typedef uint32_t philox_vector __attribute__((vector_size(16)));
#define PHILOX_SET(x) ((philox_vector){x, x, x, x})
#define PHILOX_XOR3(a, b, c) ((a) ^ (b) ^ (c))
static inline void philox_product(philox_vector a, philox_vector m, philox_vector *high,
                                  philox_vector *low) {
    for (int i = 0; i < PHILOX_LANES; i++) {
        const uint64_t p = (uint64_t)a[i] * m[i];
        (*high)[i] = (uint32_t)(p >> 32);
        (*low)[i] = (uint32_t)p;
    }
}
#endif

#define PHILOX_MOST 64 /* counters of one call */

/* The words of counters first .. first + n - 1 of each of `rows` rows, one row behind the other:
 * rows * n <= PHILOX_MOST of each of the four. */
static inline void philox_rows(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row,
                               int64_t rows, uint32_t first, int64_t n, uint32_t *w0, uint32_t *w1,
                               uint32_t *w2, uint32_t *w3) {
    uint32_t counter[PHILOX_MOST], number[PHILOX_MOST], made[4][PHILOX_MOST];
    const int64_t count = rows * n;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++) {
            counter[r * n + j] = first + (uint32_t)j;
            number[r * n + j] = row + (uint32_t)r;
        }
    for (int64_t i = count; i % PHILOX_LANES; i++) counter[i] = number[i] = 0;
    const philox_vector m0 = PHILOX_SET(0xD2511F53u), m1 = PHILOX_SET(0xCD9E8D57u);
    for (int64_t i = 0; i < count; i += PHILOX_LANES) {
        philox_vector a, b, c = PHILOX_SET(step), d = PHILOX_SET(stream);
        memcpy(&a, counter + i, sizeof a);
        memcpy(&b, number + i, sizeof b);
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            philox_vector p_high, p_low, q_high, q_low;
            philox_product(a, m0, &p_high, &p_low);
            philox_product(c, m1, &q_high, &q_low);
            a = PHILOX_XOR3(q_high, b, PHILOX_SET(k0));
            c = PHILOX_XOR3(p_high, d, PHILOX_SET(k1));
            b = q_low;
            d = p_low;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        memcpy(made[0] + i, &a, sizeof a);
        memcpy(made[1] + i, &b, sizeof b);
        memcpy(made[2] + i, &c, sizeof c);
        memcpy(made[3] + i, &d, sizeof d);
    }
    memcpy(w0, made[0], count * sizeof *w0);
    memcpy(w1, made[1], count * sizeof *w1);
    memcpy(w2, made[2], count * sizeof *w2);
    memcpy(w3, made[3], count * sizeof *w3);
}

/* The words of n counters of one row. */
static inline void philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row,
                                uint32_t first, int64_t n, uint32_t *w0, uint32_t *w1,
                                uint32_t *w2, uint32_t *w3) {
    for (int64_t j = 0; j < n; j += PHILOX_MOST)
        philox_rows(seed, stream, step, row, 1, first + (uint32_t)j,
                    n - j < PHILOX_MOST ? n - j : PHILOX_MOST, w0 + j, w1 + j, w2 + j, w3 + j);
}

#endif
