/* The register tile of the matrix product: C[m, n] (+)= sum over k of A[m, k] * B[k, n].
 *
 * A tile of MR rows by NV vectors of C stays in registers while k runs; each step loads NV vectors
 * of B and multiplies them by MR scalars of A. 14 x 2 accumulators leave room for two vectors of B
 * in the 32 registers of AVX-512 and NEON, 6 x 2 in the 16 of AVX2 and SSE2.
 *
 * A is read in one of two layouts: by rows (A[m * lda + k]) or by columns (A[k * lda + m]). B's rows
 * are contiguous with stride ldb. `columns` is the number of columns of C in this tile: the last
 * vector may be partial. Neither A nor B needs padding: nothing outside the matrices is read.
 */
#ifndef FASTNN_TILE_H
#define FASTNN_TILE_H

#include "simd.h"

#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_ROWS 14
#else
#define TILE_ROWS 6
#endif
#define TILE_VECTORS 2
#define TILE_COLUMNS (TILE_VECTORS * VLEN)

typedef struct {
    int64_t k, lda, ldb, ldc;
    const real *bias;   /* one value per column to start from, or NULL */
    int accumulate;     /* start from C instead */
} TileShape;

typedef void (*tile_fn)(const TileShape *, const real *, const real *, real *, int);

FASTNN_INLINE void tile_body(const int MR, const int NV, const int PARTIAL, const int BY_COLUMNS,
                             const TileShape *shape, const real *a, const real *b, real *c,
                             int columns) {
    const int64_t lda = shape->lda, ldb = shape->ldb, ldc = shape->ldc, K = shape->k;
    const int last = columns - (NV - 1) * VLEN;
    vreal acc[TILE_ROWS][TILE_VECTORS];
#define LOAD_LAST(p, v) (PARTIAL && (v) == NV - 1 ? v_load_n((p) + (v) * VLEN, last) : v_load((p) + (v) * VLEN))
    if (shape->accumulate) {
#pragma GCC unroll 14
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[m][v] = LOAD_LAST(c + m * ldc, v);
    } else {
        vreal start[TILE_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) start[v] = shape->bias ? LOAD_LAST(shape->bias, v) : (vreal){0};
#pragma GCC unroll 14
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[m][v] = start[v];
    }
#pragma GCC unroll 1
    for (int64_t k = 0; k < K; k++) {
        vreal row[TILE_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) row[v] = LOAD_LAST(b, v);
#pragma GCC unroll 14
        for (int m = 0; m < MR; m++) {
            const vreal scalar = v_all(BY_COLUMNS ? a[m] : a[m * lda]);
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[m][v] += scalar * row[v];
        }
        a += BY_COLUMNS ? lda : 1;
        b += ldb;
    }
#pragma GCC unroll 14
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            if (PARTIAL && v == NV - 1) v_store_n(c + m * ldc + v * VLEN, acc[m][v], last);
            else v_store(c + m * ldc + v * VLEN, acc[m][v]);
        }
#undef LOAD_LAST
}

#define TILE_NAME(MR, NV, PARTIAL, BY_COLUMNS) tile_##MR##_##NV##_##PARTIAL##_##BY_COLUMNS
#define TILE(MR, NV, PARTIAL, BY_COLUMNS)                                                          \
    static void TILE_NAME(MR, NV, PARTIAL, BY_COLUMNS)(const TileShape *shape, const real *a,      \
                                                       const real *b, real *c, int columns) {      \
        tile_body(MR, NV, PARTIAL, BY_COLUMNS, shape, a, b, c, columns);                           \
    }
#define EACH_TILE(MR)                                                                              \
    TILE(MR, 1, 0, 0) TILE(MR, 1, 1, 0) TILE(MR, 2, 0, 0) TILE(MR, 2, 1, 0)                        \
    TILE(MR, 1, 0, 1) TILE(MR, 1, 1, 1) TILE(MR, 2, 0, 1) TILE(MR, 2, 1, 1)
#define NAME_EACH_TILE(MR)                                                                         \
    {{{TILE_NAME(MR, 1, 0, 0), TILE_NAME(MR, 1, 1, 0)}, {TILE_NAME(MR, 2, 0, 0), TILE_NAME(MR, 2, 1, 0)}}, \
     {{TILE_NAME(MR, 1, 0, 1), TILE_NAME(MR, 1, 1, 1)}, {TILE_NAME(MR, 2, 0, 1), TILE_NAME(MR, 2, 1, 1)}}}

#if TILE_ROWS == 14
#define ALL_ROWS(DO, SEP) DO(1) SEP DO(2) SEP DO(3) SEP DO(4) SEP DO(5) SEP DO(6) SEP DO(7) SEP \
    DO(8) SEP DO(9) SEP DO(10) SEP DO(11) SEP DO(12) SEP DO(13) SEP DO(14)
#else
#define ALL_ROWS(DO, SEP) DO(1) SEP DO(2) SEP DO(3) SEP DO(4) SEP DO(5) SEP DO(6)
#endif
#define NOTHING
#define COMMA ,

ALL_ROWS(EACH_TILE, NOTHING)

/* [rows - 1][A by columns][vectors - 1][last one partial] */
static const tile_fn tiles[TILE_ROWS][2][TILE_VECTORS][2] = {ALL_ROWS(NAME_EACH_TILE, COMMA)};

FASTNN_INLINE tile_fn tile_for(int rows, int columns, int by_columns) {
    const int vectors = (columns + VLEN - 1) / VLEN;
    return tiles[rows - 1][by_columns][vectors - 1][columns % VLEN != 0];
}

#endif
