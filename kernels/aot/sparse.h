/* Sums of products over the numbers of a matrix that are not zero.
 *
 * Pixels around a digit, counts of words, categories as ones among zeros: of such an input most
 * numbers are zero, and so is what they add; of what leaves a layer of relu, or comes back through
 * it, about half are. A mask of 64 bits says which of 64 are not; a sum goes through its ones, in
 * the order in which a tile goes through all of them, and so is the same to the bit (of finite
 * numbers, but for the sign of a sum that is zero). A part of the other operand, 64 rows by a few
 * vectors, stays in the first cache meanwhile.
 */
#ifndef FASTNN_SPARSE_H
#define FASTNN_SPARSE_H

#include "tile.h"

#define SPARSE_DEPTH 64   /* numbers of a mask */
#define SPARSE_VECTORS 8  /* of a row of sums that stay in registers */
#define SPARSE_SAMPLE 4   /* rows that are looked at */
#define SPARSE_FETCHED 4  /* matrices that are fetched meanwhile */

/* A bit for each number of a vector: whether it is not zero. */
FASTNN_INLINE uint64_t v_nonzero(vreal v) {
#if defined(__AVX512F__) && FASTNN_DOUBLE
    return _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NEQ_UQ);
#elif defined(__AVX512F__)
    return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#elif defined(__AVX2__) && FASTNN_DOUBLE
    return (uint64_t)_mm256_movemask_pd(_mm256_cmp_pd(v, _mm256_setzero_pd(), _CMP_NEQ_UQ));
#elif defined(__AVX2__)
    return (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ));
#else
    uint64_t mask = 0;
    for (int i = 0; i < VLEN; i++) mask |= (uint64_t)(v[i] != 0) << i;
    return mask;
#endif
}

/* The same for n numbers, at most SPARSE_DEPTH. */
FASTNN_INLINE uint64_t nonzeros(const real *p, int n) {
    uint64_t mask = 0;
    int i = 0;
    if (n == SPARSE_DEPTH) {
#pragma GCC unroll 32
        for (int v = 0; v < SPARSE_DEPTH; v += VLEN) mask |= v_nonzero(v_load(p + v)) << v;
        return mask;
    }
    for (; i + VLEN <= n; i += VLEN) mask |= v_nonzero(v_load(p + i)) << i;
    if (i < n) mask |= v_nonzero(v_load_n(p + i, n - i)) << i;
    return mask;
}

/* Of a hundred numbers of x how many are not zero, in a few of its rows. */
static int density(const real *x, int64_t ld, int64_t rows, int64_t columns) {
    const int64_t step = rows > SPARSE_SAMPLE ? rows / SPARSE_SAMPLE : 1;
    int64_t seen = 0, found = 0;
    for (int64_t row = 0; row < rows && seen < SPARSE_SAMPLE; row += step) {
        seen++;
        for (int64_t j = 0; j < columns; j += SPARSE_DEPTH) {
            const int64_t left = columns - j;
            found += __builtin_popcountll(
                nonzeros(x + row * ld + j, left < SPARSE_DEPTH ? (int)left : SPARSE_DEPTH));
        }
    }
    return seen ? (int)(100 * found / (seen * columns)) : 100;
}

/* Each of `mask`'s ones, from the lowest on, as `i`. */
#define EACH_ONE(mask, i)                                                                          \
    for (uint64_t ones = (mask), i; ones && (i = (uint64_t)__builtin_ctzll(ones), 1); ones &= ones - 1)

/* For each SPARSE_DEPTH of the k numbers of some rows, which of them are not zero: masks of the same
 * numbers lie side by side, those of the next come `ld_masks` further. Rows are read whole, so that
 * they come from the memory in long runs: the sums read a little of each. */
static void row_masks(const real *a, int64_t lda, int64_t k, int64_t rows, uint64_t *masks,
                      int64_t ld_masks) {
    for (int64_t row = 0; row < rows; row++, a += lda) {
        uint64_t *mask = masks + row;
        int64_t i = 0;
        for (; i + SPARSE_DEPTH <= k; i += SPARSE_DEPTH, mask += ld_masks)
            *mask = nonzeros(a + i, SPARSE_DEPTH);
        if (i < k) *mask = nonzeros(a + i, (int)(k - i));
    }
}

/* Some rows of so many numbers each: to be fetched meanwhile. */
typedef struct {
    const real *rows;
    int64_t ld, count, numbers;
} SparseNext;

FASTNN_INLINE void sparse_rows_body(const int NV, const real *a, int64_t lda,
                                    const uint64_t *masks, const real *b, int64_t ldb,
                                    const real *start, int again, real *sums, int64_t ld,
                                    int64_t rows, const SparseNext *next, int nexts) {
    int64_t due[SPARSE_FETCHED] = {0}, fetched[SPARSE_FETCHED] = {0};
    for (int64_t row = 0; row < rows; row++, masks++, a += lda, sums += ld) {
        vreal acc[SPARSE_VECTORS];
        for (int n = 0; n < nexts; n++)
            for (due[n] += next[n].count; due[n] >= rows; due[n] -= rows)
                prefetch_l2(next[n].rows + fetched[n]++ * next[n].ld, next[n].numbers);
        if (again && !*masks) continue;
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++)
            acc[v] = again ? v_load(sums + v * VLEN) : start ? v_load(start + v * VLEN) : (vreal){0};
#pragma GCC unroll 1
        EACH_ONE(*masks, i) {
            const vreal scalar = v_all(a[i]);
            const real *row_of_b = b + (int64_t)i * ldb;
#pragma GCC unroll 8
            for (int v = 0; v < NV; v++) ADD_PRODUCT(acc[v], scalar, v_load(row_of_b + v * VLEN));
        }
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) v_store(sums + v * VLEN, acc[v]);
    }
}

/* Rows of sums over SPARSE_DEPTH numbers of a's rows, with a mask for each, of at most SPARSE_VECTORS
 * vectors: they begin with `start`, or zero where that is NULL, or go on from what is there `again`. */
static void sparse_rows(int vectors, const real *a, int64_t lda, const uint64_t *masks,
                        const real *b, int64_t ldb, const real *start, int again, real *sums,
                        int64_t ld, int64_t rows, const SparseNext *next, int nexts) {
#define SPARSE_ROWS(NV)                                                                            \
    case NV:                                                                                       \
        sparse_rows_body(NV, a, lda, masks, b, ldb, start, again, sums, ld, rows, next, nexts);    \
        break
    switch (vectors) {
        SPARSE_ROWS(1); SPARSE_ROWS(2); SPARSE_ROWS(3); SPARSE_ROWS(4);
        SPARSE_ROWS(5); SPARSE_ROWS(6); SPARSE_ROWS(7); SPARSE_ROWS(8);
    }
#undef SPARSE_ROWS
}

#endif
