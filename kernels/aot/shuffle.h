/* The order of an epoch: rows sorted by a random key each, ties by row number.
 *
 * Unlike a Fisher-Yates shuffle, every step of it can be written in NumPy too, so the reference
 * backend gives the same order at a sensible speed. Keys of 32 bits collide now and then; a
 * collision only fixes which of two rows comes first.
 */
#ifndef FASTNN_SHUFFLE_H
#define FASTNN_SHUFFLE_H

#include <stdint.h>
#include <string.h>

#include "philox.h"

#define STREAM_SHUFFLE 0xFFFFFFFFu
#define RADIX_BITS 11
#define RADIX (1 << RADIX_BITS)

static void shuffle_rows(uint64_t seed, uint32_t epoch, int64_t n, uint32_t *keys, int64_t *order,
                         uint32_t *keys_scratch, int64_t *order_scratch) {
    philox_words(seed, STREAM_SHUFFLE, epoch, 0, n, keys);
    for (int64_t i = 0; i < n; i++) order[i] = i;
    /* Three passes, least significant digits first; an odd number ends in the scratch. */
    for (int pass = 0; pass < 3; pass++) {
        int64_t start[RADIX], sum = 0;
        memset(start, 0, sizeof start);
        for (int64_t i = 0; i < n; i++) start[(keys[i] >> (pass * RADIX_BITS)) & (RADIX - 1)]++;
        for (int d = 0; d < RADIX; d++) {
            const int64_t count = start[d];
            start[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++) {
            const int64_t to = start[(keys[i] >> (pass * RADIX_BITS)) & (RADIX - 1)]++;
            keys_scratch[to] = keys[i];
            order_scratch[to] = order[i];
        }
        uint32_t *k = keys;
        int64_t *o = order;
        keys = keys_scratch;
        order = order_scratch;
        keys_scratch = k;
        order_scratch = o;
    }
    memcpy(order_scratch, order, (size_t)n * sizeof *order);
}

#endif
