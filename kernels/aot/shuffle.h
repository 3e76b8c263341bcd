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

/* `order` and `scratch` have room for n < 2^32 numbers each, `keys` for n. A key and its row number
 * move as one number. Two passes sort by the keys' upper bits: more than tell n numbers apart, up to
 * 22. What they leave in disorder is a neighbour here and there, of more than 2^22 rows some
 * n / 2^24 neighbours of each; an insertion sort puts these in their places. */
static void shuffle_rows(uint64_t seed, uint32_t epoch, int64_t n, uint32_t *keys, int64_t *order,
                         int64_t *scratch) {
    int bits = 4;
    while (bits < RADIX_BITS && (int64_t)1 << 2 * bits < 16 * n) bits++;
    const int upper = 64 - bits, lower = 64 - 2 * bits;
    const uint64_t digits = (uint64_t)1 << bits;
    uint32_t by_lower[1 << RADIX_BITS], by_upper[1 << RADIX_BITS];
    uint64_t *const rows = (uint64_t *)order, *const other = (uint64_t *)scratch;
    memset(by_lower, 0, digits * sizeof *by_lower);
    memset(by_upper, 0, digits * sizeof *by_upper);
    philox_words(seed, STREAM_SHUFFLE, epoch, 0, n, keys);
    for (int64_t i = 0; i < n; i++) {
        rows[i] = (uint64_t)keys[i] << 32 | (uint64_t)i;
        by_lower[rows[i] >> lower & (digits - 1)]++;
        by_upper[rows[i] >> upper]++;
    }
    uint32_t sum_of_lower = 0, sum_of_upper = 0;
    for (uint64_t d = 0; d < digits; d++) { /* counts become places */
        const uint32_t lower_ones = by_lower[d], upper_ones = by_upper[d];
        by_lower[d] = sum_of_lower;
        by_upper[d] = sum_of_upper;
        sum_of_lower += lower_ones;
        sum_of_upper += upper_ones;
    }
    for (int64_t i = 0; i < n; i++) other[by_lower[rows[i] >> lower & (digits - 1)]++] = rows[i];
    for (int64_t i = 0; i < n; i++) rows[by_upper[other[i] >> upper]++] = other[i];
    for (int64_t i = 1; i < n; i++) {
        const uint64_t row = rows[i];
        int64_t place = i;
        for (; place > 0 && rows[place - 1] > row; place--) rows[place] = rows[place - 1];
        rows[place] = row;
    }
    for (int64_t i = 0; i < n; i++) rows[i] &= 0xFFFFFFFFu;
}

#endif
