/* Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
 *
 * Random numbers are a function of (seed, stream, step, row, column), so a mask is the same on every
 * backend, for any number of threads, and need not be stored. Words 4j .. 4j + 3 of a row are the
 * result of counter j; the next row begins with a counter of its own.
 *
 * Each word has a lane of 64 bits, whose upper half is never read: the product of two words then
 * needs one instruction, and its upper half one shift.
 */
#ifndef FASTNN_PHILOX_H
#define FASTNN_PHILOX_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define PHILOX_LANES 8
typedef uint64_t philox_vector __attribute__((vector_size(64)));
#define PHILOX_PRODUCT(a, b) ((philox_vector)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#define PHILOX_LOW(a, b) ((philox_vector)_mm512_unpacklo_epi64((__m512i)(a), (__m512i)(b)))
#define PHILOX_HIGH(a, b) ((philox_vector)_mm512_unpackhi_epi64((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
#include <immintrin.h>
#define PHILOX_LANES 4
typedef uint64_t philox_vector __attribute__((vector_size(32)));
#define PHILOX_PRODUCT(a, b) ((philox_vector)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#define PHILOX_LOW(a, b) ((philox_vector)_mm256_unpacklo_epi64((__m256i)(a), (__m256i)(b)))
#define PHILOX_HIGH(a, b) ((philox_vector)_mm256_unpackhi_epi64((__m256i)(a), (__m256i)(b)))
#else
#define PHILOX_LANES 2
typedef uint64_t philox_vector __attribute__((vector_size(16)));
#if defined(__SSE2__)
#include <emmintrin.h>
#define PHILOX_PRODUCT(a, b) ((philox_vector)_mm_mul_epu32((__m128i)(a), (__m128i)(b)))
#else
#define PHILOX_PRODUCT(a, b) (((a) & 0xFFFFFFFFu) * ((b) & 0xFFFFFFFFu))
#endif
#define PHILOX_LOW(a, b) ((philox_vector){(a)[0], (b)[0]})
#define PHILOX_HIGH(a, b) ((philox_vector){(a)[1], (b)[1]})
#endif

typedef __typeof__((philox_vector){0} > (philox_vector){0}) philox_signed;

#define PHILOX_BLOCK 256 /* words made at a time: whole vectors of every width */

/* The next counters of rows that follow each other. Lanes 2l and 2l + 1 hold counters l and
 * l + LANES / 2: interleaved by pairs of lanes, the results lie in order. */
typedef struct {
    philox_vector counter, row;
    uint64_t seed;
    uint32_t stream, step;
    int64_t counters; /* of a row, or of the part of it that is wanted */
    uint64_t first;   /* the number of the first of them */
} Philox;

static inline void philox_start(Philox *p, uint64_t seed, uint32_t stream, uint32_t step,
                                uint32_t row, int64_t counters, int64_t first) {
    p->seed = seed;
    p->stream = stream;
    p->step = step;
    p->counters = counters;
    p->first = (uint64_t)first;
    p->counter = p->row = (philox_vector){0};
    for (int i = 0; i < PHILOX_LANES; i++) {
        const int64_t at = (i & 1) * (PHILOX_LANES / 2) + i / 2;
        p->counter[i] = (uint64_t)(counters > PHILOX_LANES ? at : at % counters);
        p->row[i] = row + (uint64_t)(counters > PHILOX_LANES ? 0 : at / counters);
    }
}

/* The next PHILOX_BLOCK words. */
static inline void philox_next(Philox *p, uint32_t *to) {
    const uint64_t rows = (uint64_t)(PHILOX_LANES / p->counters);
    const uint64_t ahead = (uint64_t)(PHILOX_LANES % p->counters);
    const philox_vector zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
    philox_vector counter = p->counter, row = p->row;
    for (int i = 0; i < PHILOX_BLOCK; i += 4 * PHILOX_LANES) {
        philox_vector a = counter + p->first, b = row, c = zero + p->step, d = zero + p->stream;
        uint32_t k0 = (uint32_t)p->seed, k1 = (uint32_t)(p->seed >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            const philox_vector x = PHILOX_PRODUCT(a, m0), y = PHILOX_PRODUCT(c, m1);
            a = (y >> 32) ^ b ^ (zero + k0);
            c = (x >> 32) ^ d ^ (zero + k1);
            b = y;
            d = x;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        const philox_vector ab = (a & 0xFFFFFFFFu) | (b << 32), cd = (c & 0xFFFFFFFFu) | (d << 32);
        const philox_vector first = PHILOX_LOW(ab, cd), second = PHILOX_HIGH(ab, cd);
        memcpy(to + i, &first, sizeof first);
        memcpy(to + i + 2 * PHILOX_LANES, &second, sizeof second);
        counter += ahead;
        row += rows;
        const philox_vector all = zero + (uint64_t)p->counters;
        const philox_vector beyond = (philox_vector)((philox_signed)counter >= (philox_signed)all);
        counter -= beyond & all;
        row -= beyond; /* -1 where true */
    }
    p->counter = counter;
    p->row = row;
}

/* The first n words of a row. */
static inline void philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row,
                                int64_t n, uint32_t *to) {
    Philox p;
    uint32_t block[PHILOX_BLOCK];
    philox_start(&p, seed, stream, step, row, n / 4 + PHILOX_LANES, 0);
    for (int64_t i = 0; i < n; i += PHILOX_BLOCK) {
        philox_next(&p, block);
        memcpy(to + i, block, (size_t)(n - i < PHILOX_BLOCK ? n - i : PHILOX_BLOCK) * sizeof *to);
    }
}

#endif
