/* Conversion of one row of the user's numbers: a contiguous one vectorises, a strided one works. */
#ifndef FASTNN_ROWS_H
#define FASTNN_ROWS_H

#include "simd.h"

/* Contiguous numbers of the model's own type. */
FASTNN_INLINE void scale_row(const real *from, real *to, int64_t n, real scale, real offset) {
    const vreal a = v_all(scale), b = v_all(offset);
    int64_t i = 0;
#pragma GCC unroll 4
    for (; i + VLEN <= n; i += VLEN) v_store(to + i, v_load(from + i) * a + b);
    if (i < n) v_store_n(to + i, v_load_n(from + i, (int)(n - i)) * a + b, (int)(n - i));
}

#define CONVERT(TYPE)                                                                              \
    if (stride == (int64_t)sizeof(TYPE)) {                                                         \
        const TYPE *from = (const TYPE *)source;                                                   \
        for (int64_t i = 0; i < n; i++) to[i] = (real)from[i] * scale + offset;                    \
    } else {                                                                                       \
        for (int64_t i = 0; i < n; i++) {                                                          \
            TYPE value;                                                                            \
            memcpy(&value, source + i * stride, sizeof value);                                     \
            to[i] = (real)value * scale + offset;                                                  \
        }                                                                                          \
    }

/* Codes: 0 uint8, 1 float32, 2 float64. */
FASTNN_INLINE void convert_row(int code, const char *source, int64_t stride, real *to, int64_t n,
                               real scale, real offset) {
    if (code == 1 + FASTNN_DOUBLE && stride == (int64_t)sizeof(real)) {
        scale_row((const real *)source, to, n, scale, offset);
    } else if (code == 0) {
        CONVERT(uint8_t)
    } else if (code == 1) {
        CONVERT(float)
    } else {
        CONVERT(double)
    }
}
#undef CONVERT

/* The first lines of a row; the processor sees by itself how a longer one goes on. */
FASTNN_INLINE void prefetch_row(const char *row, int64_t octets) {
    for (int64_t i = 0; i < octets && i < 256; i += 64) __builtin_prefetch(row + i, 0, 3);
}

#endif
