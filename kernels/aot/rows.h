/* Rows of the user's numbers: contiguous ones vectorise, strided ones work. */
#ifndef FASTNN_ROWS_H
#define FASTNN_ROWS_H

#include "simd.h"

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
    if (code == 0) {
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

#define OWN_CODE (1 + FASTNN_DOUBLE)
#define ROWS_AHEAD 16 /* how many rows before it is read a row is asked for */

/* Rows first to end of an order (NULL: as they are) of contiguous numbers of the model's own type. */
static void gather_rows(const char *rows, const int64_t *order, int64_t stride, int64_t first,
                        int64_t end, int64_t n, real scale, real offset, real *to) {
    const vreal a = v_all(scale), b = v_all(offset);
    const int64_t whole = n / VLEN * VLEN;
    const int rest = (int)(n - whole), lines = (int)((n * (int64_t)sizeof(real) + 63) / 64);
    for (int64_t r = first; r < end; r++, to += n) {
        const int64_t later = r + ROWS_AHEAD < end ? r + ROWS_AHEAD : end - 1;
        const char *next = rows + (order ? order[later] : later) * stride;
        const real *from = (const real *)(rows + (order ? order[r] : r) * stride);
        __builtin_prefetch(next, 0, 3);
        if (lines > 1) __builtin_prefetch(next + 64, 0, 3);
        if (lines > 2) __builtin_prefetch(next + 128, 0, 3);
        if (lines > 3) __builtin_prefetch(next + 192, 0, 3);
#pragma GCC unroll 4
        for (int64_t i = 0; i < whole; i += VLEN) v_store(to + i, v_load(from + i) * a + b);
        if (rest) v_store_n(to + whole, v_load_n(from + whole, rest) * a + b, rest);
    }
}

#endif
