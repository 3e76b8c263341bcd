/* Whether all numbers of an array are within [-limit, limit]; NaN is not. As fast as memory is read. */
#ifndef FASTNN_WITHIN_H
#define FASTNN_WITHIN_H

#include <stdint.h>

/* By blocks that stay in the first cache, so that a search may end early and sums up in registers. */
#define WITHIN(NAME, TYPE)                                                                         \
    static int NAME(const TYPE *p, int64_t n, double limit) {                                      \
        const TYPE highest = (TYPE)limit;                                                          \
        for (int64_t start = 0; start < n; start += 4096) {                                        \
            const int64_t stop = start + 4096 < n ? start + 4096 : n;                              \
            int outside = 0;                                                                       \
            for (int64_t i = start; i < stop; i++)                                                 \
                outside |= !(p[i] <= highest) | !(p[i] >= -highest);                               \
            if (outside) return 0;                                                                 \
        }                                                                                          \
        return 1;                                                                                  \
    }
WITHIN(within_f32, float)
WITHIN(within_f64, double)
#undef WITHIN

#endif
