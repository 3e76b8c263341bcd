/* Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
 *
 * Random numbers are a function of (seed, stream, step, row, column), so a mask is the same on every
 * backend, for any number of threads, and need not be stored. Of `n` words of one row, counter j
 * gives words j, j + q, j + 2q and j + 3q with q = ceil(n / 4): contiguous, so that loops vectorise.
 */
#ifndef FASTNN_PHILOX_H
#define FASTNN_PHILOX_H

#include <stdint.h>

static inline void philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row,
                                uint32_t first, int64_t n, uint32_t *w0, uint32_t *w1,
                                uint32_t *w2, uint32_t *w3) {
    for (int64_t j = 0; j < n; j++) {
        uint32_t a = first + (uint32_t)j, b = row, c = step, d = stream;
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            const uint64_t p = (uint64_t)a * 0xD2511F53u, q = (uint64_t)c * 0xCD9E8D57u;
            const uint32_t a2 = (uint32_t)(q >> 32) ^ b ^ k0, c2 = (uint32_t)(p >> 32) ^ d ^ k1;
            b = (uint32_t)q;
            d = (uint32_t)p;
            a = a2;
            c = c2;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        w0[j] = a;
        w1[j] = b;
        w2[j] = c;
        w3[j] = d;
    }
}

#endif
