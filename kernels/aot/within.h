/* Whether all numbers of an array are within [-limit, limit]; NaN is not. As fast as memory is read. */
#ifndef FASTNN_WITHIN_H
#define FASTNN_WITHIN_H

#include <stdint.h>

/* The executor is compiled for the oldest processors: here the compiler makes versions for newer
 * ones too, and the right one is chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTNN_VERSIONS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTNN_VERSIONS
#endif

/* By blocks that stay in the first cache, so that a search may end early and sums up in registers.
 * The sum is as wide as the numbers: with an int, doubles are not vectorised. */
#define WITHIN(NAME, TYPE, WHOLE)                                                                  \
    FASTNN_VERSIONS static int NAME(const TYPE *p, int64_t n, double limit) {                      \
        const TYPE highest = (TYPE)limit;                                                          \
        for (int64_t start = 0; start < n; start += 4096) {                                        \
            const int64_t stop = start + 4096 < n ? start + 4096 : n;                              \
            WHOLE outside = 0;                                                                     \
            for (int64_t i = start; i < stop; i++)                                                 \
                outside |= (WHOLE)!(p[i] <= highest) | (WHOLE)!(p[i] >= -highest);                 \
            if (outside) return 0;                                                                 \
        }                                                                                          \
        return 1;                                                                                  \
    }
WITHIN(within_f32, float, int32_t)
WITHIN(within_f64, double, int64_t)
#undef WITHIN

#endif
