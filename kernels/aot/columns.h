/* Passes over the columns of a matrix by rows, with what belongs to a column in registers.
 *
 * Up to four vectors of columns go side by side: as many chains hide the latency of an addition, and
 * a narrow matrix is read in one run.
 */
#ifndef FASTNN_COLUMNS_H
#define FASTNN_COLUMNS_H

#include "simd.h"

enum { SUM_OF_DIFFERENCES, SUM_OF_PRODUCTS, BOTH_SUMS, CENTER, SCALE, AFFINE, STANDARDIZE, ADJUST };
#define SIDE_BY_SIDE 4

FASTNN_INLINE void columns_body(const int WHAT, const int NV, const int PARTIAL, const real *a,
                                const real *b, int64_t rows, int64_t ld, const real *p,
                                const real *q, const real *s, real *out, int64_t ld_out, real *more,
                                int last) {
    vreal u[SIDE_BY_SIDE], v[SIDE_BY_SIDE], w[SIDE_BY_SIDE], sum[SIDE_BY_SIDE];
    vreal second[SIDE_BY_SIDE];
    const int SUMS = WHAT == SUM_OF_DIFFERENCES || WHAT == SUM_OF_PRODUCTS || WHAT == BOTH_SUMS;
#define LOAD(from, i)                                                                              \
    (PARTIAL && (i) == NV - 1 ? v_load_n((from) + (i) * VLEN, last) : v_load((from) + (i) * VLEN))
#define STORE(to, i, x)                                                                            \
    do {                                                                                           \
        if (PARTIAL && (i) == NV - 1) v_store_n((to) + (i) * VLEN, x, last);                       \
        else v_store((to) + (i) * VLEN, x);                                                        \
    } while (0)
#pragma GCC unroll 4
    for (int i = 0; i < NV; i++) {
        sum[i] = second[i] = (vreal){0};
        if (WHAT != SUM_OF_PRODUCTS && WHAT != BOTH_SUMS) u[i] = LOAD(p, i);
        if (WHAT == CENTER || WHAT == AFFINE || WHAT == STANDARDIZE || WHAT == ADJUST)
            v[i] = LOAD(q, i);
        if (WHAT == STANDARDIZE || WHAT == ADJUST) w[i] = LOAD(s, i);
    }
    for (int64_t r = 0; r < rows; r++, a += ld) {
#pragma GCC unroll 4
        for (int i = 0; i < NV; i++) {
            vreal x = LOAD(a, i);
            if (WHAT == SUM_OF_DIFFERENCES) sum[i] += x - u[i];
            if (WHAT == SUM_OF_PRODUCTS) sum[i] += x * LOAD(b, i);
            if (WHAT == BOTH_SUMS) {
                sum[i] += x;
                second[i] += x * LOAD(b, i);
            }
            if (WHAT == CENTER) {
                x = x - u[i] - v[i];
                STORE(out, i, x);
                sum[i] += x * x;
            }
            if (WHAT == SCALE) STORE(out, i, x * u[i]);
            if (WHAT == AFFINE) STORE(out, i, x * u[i] + v[i]);
            if (WHAT == STANDARDIZE) {
                x *= u[i];
                STORE(more, i, x);
                STORE(out, i, x * v[i] + w[i]);
            }
            if (WHAT == ADJUST) STORE(out, i, (x - u[i] - LOAD(b, i) * v[i]) * w[i]);
        }
        if (WHAT == SUM_OF_PRODUCTS || WHAT == BOTH_SUMS || WHAT == ADJUST) b += ld;
        if (!SUMS) out += ld_out;
        if (WHAT == STANDARDIZE) more += ld;
    }
#pragma GCC unroll 4
    for (int i = 0; i < NV; i++) {
        if (SUMS) STORE(out, i, sum[i]);
        if (WHAT == BOTH_SUMS) STORE(more, i, second[i]);
        if (WHAT == CENTER) STORE(more, i, sum[i]);
    }
#undef LOAD
#undef STORE
}

/* n columns; what a pass has no use for is NULL. */
FASTNN_INLINE void columns_pass(const int WHAT, const real *a, const real *b, int64_t rows,
                                int64_t n, int64_t ld, const real *p, const real *q, const real *s,
                                real *out, int64_t ld_out, real *more) {
    const int64_t step = SIDE_BY_SIDE * VLEN;
#define FROM(x) ((x) == NULL ? NULL : (x) + j)
#define PASS(NV, PARTIAL)                                                                          \
    columns_body(WHAT, NV, PARTIAL, a + j, FROM(b), rows, ld, FROM(p), FROM(q), FROM(s), out + j,  \
                 ld_out, FROM(more), (int)(n - j - (NV - 1) * VLEN))
    int64_t j = 0;
    for (; j + step <= n; j += step) PASS(4, 0);
    switch (2 * ((n - j) / VLEN) + ((n - j) % VLEN != 0)) {
    case 1: PASS(1, 1); break;
    case 2: PASS(1, 0); break;
    case 3: PASS(2, 1); break;
    case 4: PASS(2, 0); break;
    case 5: PASS(3, 1); break;
    case 6: PASS(3, 0); break;
    case 7: PASS(4, 1); break;
    }
#undef PASS
#undef FROM
}

/* sums = sum over the rows of x - first */
static void column_differences(const real *x, const real *first, int64_t rows, int64_t n,
                               int64_t ld, real *sums) {
    columns_pass(SUM_OF_DIFFERENCES, x, NULL, rows, n, ld, first, NULL, NULL, sums, 0, NULL);
}
/* sums = sum over the rows of a b */
static void column_products(const real *a, const real *b, int64_t rows, int64_t n, int64_t ld,
                            real *sums) {
    columns_pass(SUM_OF_PRODUCTS, a, b, rows, n, ld, NULL, NULL, NULL, sums, 0, NULL);
}
/* sums = sum over the rows of a, products = of a b */
static void column_sums_and_products(const real *a, const real *b, int64_t rows, int64_t n,
                                     int64_t ld, real *sums, real *products) {
    columns_pass(BOTH_SUMS, a, b, rows, n, ld, NULL, NULL, NULL, sums, 0, products);
}
/* y = x - first - middle, squares = sum over the rows of y^2 */
static void center_columns(const real *x, const real *first, const real *middle, int64_t rows,
                           int64_t n, int64_t ld, real *y, real *squares) {
    columns_pass(CENTER, x, NULL, rows, n, ld, first, middle, NULL, y, ld, squares);
}
/* y = x scale, or x scale + shift */
static void scale_columns(const real *x, const real *scale, const real *shift, int64_t rows,
                          int64_t n, int64_t ld, real *y, int64_t ld_y) {
    if (shift == NULL) columns_pass(SCALE, x, NULL, rows, n, ld, scale, NULL, NULL, y, ld_y, NULL);
    else columns_pass(AFFINE, x, NULL, rows, n, ld, scale, shift, NULL, y, ld_y, NULL);
}
/* standard = x inverse, y = standard scale + shift */
static void standardize_block(const real *x, const real *inverse, const real *scale,
                              const real *shift, int64_t rows, int64_t n, int64_t ld, real *y,
                              int64_t ld_y, real *standard) {
    columns_pass(STANDARDIZE, x, NULL, rows, n, ld, inverse, scale, shift, y, ld_y, standard);
}
/* Rows of n numbers, from contiguous memory that is padded to whole vectors. */
static void put_rows(const real *block, int64_t rows, int64_t n, int64_t ld, real *to) {
    for (int64_t r = 0; r < rows; r++, to += ld) {
        int64_t i = 0;
        for (; i + VLEN <= n; i += VLEN, block += VLEN) v_store(to + i, v_load(block));
        if (i < n) {
            v_store_n(to + i, v_load(block), (int)(n - i));
            block += VLEN;
        }
    }
}
/* dx = (dy - middle - y slope) inverse */
static void adjust_columns(const real *dy, const real *y, const real *middle, const real *slope,
                           const real *inverse, int64_t rows, int64_t n, int64_t ld, real *dx) {
    columns_pass(ADJUST, dy, y, rows, n, ld, middle, slope, inverse, dx, ld, NULL);
}

#endif
