/* The register tile of the matrix product: C[m, n] (+)= sum over k of A[m, k] * B[k, n].
 *
 * A tile of MR rows by NV vectors of C stays in registers while k runs; each step loads NV vectors
 * of B and multiplies them by MR scalars of A. 14 x 2 accumulators leave room for two vectors of B
 * in the 32 registers of AVX-512 and NEON, 6 x 2 in the 16 of AVX2 and SSE2.
 *
 * A is read in one of two layouts: by rows (A[m * lda + k]) or by columns (A[k * lda + m]). B's rows
 * are contiguous with stride ldb. `columns` is the number of columns of C in this tile: the last
 * vector may be partial. Neither A nor B needs padding: nothing outside the matrices is read.
 *
 * A tile's loads and stores leave the memory idle, so whole tiles with A by columns can carry data
 * for what comes next: ask for cache lines, or copy the rows of B that they read.
 */
#ifndef FASTNN_TILE_H
#define FASTNN_TILE_H

#include "simd.h"

/* Bytes of a matrix up to which it is best read again for every block of rows, because most of it
 * is still in the second cache: of this, processors with AVX-512 mostly have 1 MiB or more, others
 * 256 to 512 KiB. */
#if defined(__AVX512F__)
#define STAYING_BYTES (1 << 19)
#else
#define STAYING_BYTES (1 << 18)
#endif
/* Bytes of weights up to which an update does not ask for them and their state, and makes many rows of
 * their gradient at a time: 784-128 takes 0.91 of the time so on Zen 3, 0.97 with AVX-512 on Zen 4. */
#define NEAR_BYTES (1 << 19)

#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_ROWS 14
#else
#define TILE_ROWS 6
#endif
#define TILE_VECTORS 2
#define TILE_COLUMNS (TILE_VECTORS * VLEN)
#define LOW_ROWS 8                      /* places in a set of a first cache: 8, or 12 */
#define HALF_PAGE (1 << 11)             /* bytes: rows that lie a multiple of it apart share sets */
#define LINE ((int)(64 / sizeof(real))) /* numbers of a cache line */
#define TILE_NEXT 3                     /* cache lines asked for at a time */

/* sum += x y for vectors, and the steps of k in one turn of the loop: TILE_FETCH_TURN while cache
 * lines are asked for, else TILE_TURN. With one step a turn, AVX2's tile has 12 multiplications and 12
 * other instructions. Alone, a core issues them in the six cycles of the multiplications; while
 * another thread has its other half, three a cycle, so that each one less is time. Longer turns have
 * fewer, if GCC does not copy sums between registers: hence the instruction by name. On Zen 3, tiles
 * of 64 to 400 terms take 0.90 to 0.96 of the time. With AVX-512, where a step has 28 multiplications,
 * turns of two take 0.96 on Zen 4 if the tile has 12 or 13 rows, 1.00 if it has 14, and 1.1 if it is
 * one vector wide. */
#if defined(__x86_64__) && defined(__FMA__) && !defined(__AVX512F__)
#if FASTNN_DOUBLE
#define ADD_PRODUCT(sum, x, y) __asm__("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y))
#else
#define ADD_PRODUCT(sum, x, y) __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y))
#endif
#define TILE_TURN(vectors) 4
#define TILE_FETCH_TURN 2
#else
#define ADD_PRODUCT(sum, x, y) ((sum) += (x) * (y))
#ifdef __AVX512F__
#define TILE_TURN(vectors) (vectors)
#else
#define TILE_TURN(vectors) 1
#endif
#define TILE_FETCH_TURN 4
#endif

typedef struct {
    int64_t k, lda, ldb, ldc;
    const real *bias;               /* one value per column to add, or NULL */
    int accumulate;                 /* add to C, which has its bias */
    int epilogue;                   /* what to do to the finished sums */
    int64_t to_y;                   /* bytes from a number of C to the one of y in its place */
    const real *next[TILE_NEXT];    /* cache lines to ask for first; all move on by next_stride */
    int64_t next_stride;
    int64_t gap;                    /* steps of k from one request to the next: whole turns */
    real *panel;                    /* where to copy the rows of B, without gaps */
} TileShape;

/* What a tile does besides: nothing, ask for cache lines to read or to write, copy B. */
enum { TILE_PLAIN, TILE_READS, TILE_WRITES, TILE_PACKS };
/* What becomes of its sums. Relu and its gradient, one or three instructions, are done in registers:
 * a loop over what has been written takes longer than a small product. They give what the formula's
 * loops give, to the bit. */
enum { TILE_SUMS, TILE_RELU, TILE_RELU_GRADIENT };

typedef void (*tile_fn)(const TileShape *, const real *, const real *, real *, int, int64_t);

/* From here on GCC takes p to be anything. What is worked out from it is not prepared before a loop
 * that needs all registers, nor kept in several of them where adding once would do. */
#define HIDE(p) __asm__ volatile("" : "+r"(p))

/* x in all lanes, made here and not before a loop either. */
FASTNN_INLINE vreal v_late(real x) {
    __asm__ volatile("" : "+m"(x));
    return v_all(x);
}

FASTNN_INLINE void tile_body(const int MR, const int NV, const int PARTIAL, const int BY_COLUMNS,
                             const int DUTY, const TileShape *shape, const real *a, const real *b,
                             real *c, int columns) {
    const int64_t lda = shape->lda, ldb = shape->ldb, ldc = shape->ldc;
    const int last = columns - (NV - 1) * VLEN;
    const int fetch = DUTY == TILE_READS || DUTY == TILE_WRITES;
    const real *bias = shape->accumulate ? NULL : shape->bias;
    vreal acc[TILE_ROWS][TILE_VECTORS], start[TILE_VECTORS];
#define LOAD_LAST(p, v) (PARTIAL && (v) == NV - 1 ? v_load_n((p) + (v) * VLEN, last) : v_load((p) + (v) * VLEN))
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) start[v] = bias ? LOAD_LAST(bias, v) : (vreal){0};
#pragma GCC unroll 14
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            if (DUTY == TILE_READS) __builtin_prefetch(c + m * ldc + v * VLEN, 1, 3);
            acc[m][v] = start[v];
        }
    real *panel = shape->panel;
#define STEP_OF_K                                                                                  \
    do {                                                                                           \
        vreal row[TILE_VECTORS];                                                                   \
        _Pragma("GCC unroll 2") for (int v = 0; v < NV; v++) {                                     \
            row[v] = LOAD_LAST(b, v);                                                              \
            if (DUTY == TILE_PACKS) v_store(panel + v * VLEN, row[v]);                             \
        }                                                                                          \
        _Pragma("GCC unroll 14") for (int m = 0; m < MR; m++) {                                    \
            const vreal scalar = v_all(BY_COLUMNS ? a[m] : a[m * lda]);                            \
            _Pragma("GCC unroll 2") for (int v = 0; v < NV; v++)                                   \
                ADD_PRODUCT(acc[m][v], scalar, row[v]);                                            \
        }                                                                                          \
        a += BY_COLUMNS ? lda : 1;                                                                 \
        b += ldb;                                                                                  \
        panel += TILE_COLUMNS;                                                                     \
    } while (0)
    const uint64_t K = (uint64_t)shape->k;
    if (fetch) {
        const real *next[TILE_NEXT];
        const uint64_t gap = (uint64_t)shape->gap;
        uint64_t k = K;
#pragma GCC unroll 3
        for (int i = 0; i < TILE_NEXT; i++) next[i] = shape->next[i];
#pragma GCC unroll 1
        for (; k >= gap; k -= gap) {
#pragma GCC unroll 3
            for (int i = 0; i < TILE_NEXT; i++) {
                __builtin_prefetch(next[i], DUTY == TILE_WRITES, 2);
                if (DUTY == TILE_WRITES && TILE_COLUMNS > LINE) /* a row of C is two lines */
                    __builtin_prefetch(next[i] + LINE, 1, 2);
                next[i] += shape->next_stride;
            }
#pragma GCC unroll 1
            for (uint64_t turns = gap / TILE_FETCH_TURN; turns > 0; turns--) {
#pragma GCC unroll 4
                for (int step = 0; step < TILE_FETCH_TURN; step++) STEP_OF_K;
            }
        }
#pragma GCC unroll 1
        for (; k > 0; k--) STEP_OF_K;
    } else {
        /* First what makes no whole turn: after the turns it costs short products more. */
#pragma GCC unroll 1
        for (uint64_t rest = K % TILE_TURN(NV); rest > 0; rest--) STEP_OF_K;
#pragma GCC unroll 1
        for (uint64_t turns = K / TILE_TURN(NV); turns > 0; turns--) {
#pragma GCC unroll 4
            for (int step = 0; step < TILE_TURN(NV); step++) STEP_OF_K;
        }
    }
    HIDE(shape);
    const int64_t down = shape->ldc;
    real *row = c;
#define NEXT_ROW                                                                                   \
    do {                                                                                           \
        row += down;                                                                               \
        HIDE(row);                                                                                 \
    } while (0)
    if (shape->accumulate) {
#pragma GCC unroll 14
        for (int m = 0; m < MR; m++) {
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[m][v] += LOAD_LAST(row, v);
            NEXT_ROW;
        }
        row = c;
    }
    if (shape->epilogue == TILE_RELU) {
        const vreal zero = v_late(0);
#pragma GCC unroll 14
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[m][v] = v_max(zero, acc[m][v]);
    } else if (shape->epilogue == TILE_RELU_GRADIENT) {
        const vreal zero = v_late(0), one = v_late(1);
        row = (real *)((char *)c + shape->to_y);
#pragma GCC unroll 14
        for (int m = 0; m < MR; m++) {
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[m][v] *= v_if_less(zero, LOAD_LAST(row, v), one, zero);
            NEXT_ROW;
        }
        row = c;
    }
#pragma GCC unroll 14
    for (int m = 0; m < MR; m++) {
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            if (PARTIAL && v == NV - 1) v_store_n(row + v * VLEN, acc[m][v], last);
            else v_store(row + v * VLEN, acc[m][v]);
        }
        NEXT_ROW;
    }
#undef NEXT_ROW
#undef STEP_OF_K
#undef LOAD_LAST
}

/* A few rows of C by more vectors, all whole, and without an epilogue. Rows of B come in longer runs:
 * where B is read once or twice, that is what takes the time. And no sum is waited for. With AVX-512
 * on Zen 4, 2 rows by 1024-512 take 0.63 of the time, 12 rows 0.86. With AVX2 two rows or three gained
 * a quarter where B was in the second cache, and lost as much where it came from farther away. */
#if TILE_ROWS == 14
#define FEW_ROWS 6  /* of the tallest */
#define MOST_FEW 12 /* that are made so */
#define FAR_ROWS 6  /* for which a B from the memory is read as it is */
#define ALL_FEW(DO, SEP) DO(1, 8) SEP DO(2, 8) SEP DO(3, 8) SEP DO(4, 4) SEP DO(5, 4) SEP DO(6, 4)
#else
#define FEW_ROWS 1
#define MOST_FEW 1
#define FAR_ROWS (2 * TILE_ROWS)
#define ALL_FEW(DO, SEP) DO(1, 8)
#endif
FASTNN_INLINE void few_rows_body(const int MR, const int NV, const TileShape *shape, const real *a,
                                 const real *b, real *c) {
    const int64_t lda = shape->lda, ldb = shape->ldb, ldc = shape->ldc;
    const real *bias = shape->bias;
    vreal acc[FEW_ROWS][8];
#pragma GCC unroll 6
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) acc[m][v] = bias ? v_load(bias + v * VLEN) : (vreal){0};
#pragma GCC unroll 1
    for (int64_t k = 0; k < shape->k; k++) {
        vreal scalar[FEW_ROWS];
#pragma GCC unroll 6
        for (int m = 0; m < MR; m++) scalar[m] = v_all(a[m * lda + k]);
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) {
            const vreal numbers = v_load(b + v * VLEN);
#pragma GCC unroll 6
            for (int m = 0; m < MR; m++) acc[m][v] += scalar[m] * numbers;
        }
        b += ldb;
    }
#pragma GCC unroll 6
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) v_store(c + m * ldc + v * VLEN, acc[m][v]);
}
#define FEW(MR, NV)                                                                                \
    static void few_##MR(const TileShape *shape, const real *a, const real *b, real *c) {          \
        few_rows_body(MR, NV, shape, a, b, c);                                                     \
    }
#define NAME_FEW(MR, NV) {few_##MR, NV * VLEN}
#define NOTHING
#define COMMA ,
ALL_FEW(FEW, NOTHING)
typedef struct {
    void (*run)(const TileShape *, const real *, const real *, real *);
    int columns;
} FewRows;
static const FewRows few_rows[FEW_ROWS] = {ALL_FEW(NAME_FEW, COMMA)};

FASTNN_INLINE void rank_one_body(const int EPILOGUE, const TileShape *shape, const real *a,
                                 const real *b, real *c, int64_t rows, int64_t columns) {
    const real *bias = shape->bias;
    const int64_t lda = shape->lda, ldc = shape->ldc, whole = columns / VLEN * VLEN;
    const int rest = (int)(columns - whole);
    const vreal zero = {0}, one = v_all(1);
#define NUMBERS_AT(LOAD, STORE, j, ...)                                                            \
    do {                                                                                           \
        vreal made = scalar * LOAD(b + (j), ##__VA_ARGS__);                                        \
        if (bias) made += LOAD(bias + (j), ##__VA_ARGS__);                                         \
        if (EPILOGUE == TILE_RELU) made = v_max(zero, made);                                       \
        if (EPILOGUE == TILE_RELU_GRADIENT)                                                        \
            made *= v_if_less(zero, LOAD(y + (j), ##__VA_ARGS__), one, zero);                      \
        STORE(c + (j), made, ##__VA_ARGS__);                                                       \
    } while (0)
    for (; rows > 0; rows--, a += lda, c += ldc) {
        const vreal scalar = v_all(a[0]);
        const real *y = (const real *)((const char *)c + shape->to_y);
        for (int64_t j = 0; j < whole; j += VLEN) NUMBERS_AT(v_load, v_store, j);
        if (rest) NUMBERS_AT(v_load_n, v_store_n, whole, rest);
    }
#undef NUMBERS_AT
}

/* Rows of C = A B + bias with one step of k, where nothing is summed. Those of A are lda apart. */
static void rank_one(const TileShape *shape, const real *a, const real *b, real *c, int64_t rows,
                     int64_t columns) {
    if (shape->epilogue == TILE_RELU)
        rank_one_body(TILE_RELU, shape, a, b, c, rows, columns);
    else if (shape->epilogue == TILE_RELU_GRADIENT)
        rank_one_body(TILE_RELU_GRADIENT, shape, a, b, c, rows, columns);
    else
        rank_one_body(TILE_SUMS, shape, a, b, c, rows, columns);
}

#define TILE_NAME(MR, NV, PARTIAL, BY_COLUMNS, DUTY) tile_##MR##_##NV##_##PARTIAL##_##BY_COLUMNS##_##DUTY
/* So many tiles, one below the other. */
#define TILE(MR, NV, PARTIAL, BY_COLUMNS, DUTY)                                                    \
    static void TILE_NAME(MR, NV, PARTIAL, BY_COLUMNS, DUTY)(                                      \
        const TileShape *shape, const real *a, const real *b, real *c, int columns,                \
        int64_t tiles) {                                                                           \
        for (;; a += MR * (BY_COLUMNS ? 1 : shape->lda), c += MR * shape->ldc) {                   \
            tile_body(MR, NV, PARTIAL, BY_COLUMNS, DUTY, shape, a, b, c, columns);                 \
            if (--tiles == 0) break;                                                               \
        }                                                                                          \
    }
#define EACH_TILE(MR)                                                                              \
    TILE(MR, 1, 0, 0, TILE_PLAIN) TILE(MR, 1, 1, 0, TILE_PLAIN) TILE(MR, 2, 0, 0, TILE_PLAIN)      \
    TILE(MR, 2, 1, 0, TILE_PLAIN) TILE(MR, 1, 0, 1, TILE_PLAIN) TILE(MR, 1, 1, 1, TILE_PLAIN)      \
    TILE(MR, 2, 0, 1, TILE_PLAIN) TILE(MR, 2, 1, 1, TILE_PLAIN) TILE(MR, 2, 0, 1, TILE_READS)      \
    TILE(MR, 2, 0, 1, TILE_WRITES) TILE(MR, 2, 0, 1, TILE_PACKS)
#define NAME_PLAIN(MR, NV, BY)                                                                     \
    {TILE_NAME(MR, NV, 0, BY, TILE_PLAIN), TILE_NAME(MR, NV, 1, BY, TILE_PLAIN)}
#define NAME_EACH_PLAIN(MR)                                                                        \
    {{NAME_PLAIN(MR, 1, 0), NAME_PLAIN(MR, 2, 0)}, {NAME_PLAIN(MR, 1, 1), NAME_PLAIN(MR, 2, 1)}}
#define NAME_EACH_DUTY(MR)                                                                         \
    {TILE_NAME(MR, 2, 0, 1, TILE_PLAIN), TILE_NAME(MR, 2, 0, 1, TILE_READS),                       \
     TILE_NAME(MR, 2, 0, 1, TILE_WRITES), TILE_NAME(MR, 2, 0, 1, TILE_PACKS)}

#if TILE_ROWS == 14
#define ALL_ROWS(DO, SEP) DO(1) SEP DO(2) SEP DO(3) SEP DO(4) SEP DO(5) SEP DO(6) SEP DO(7) SEP \
    DO(8) SEP DO(9) SEP DO(10) SEP DO(11) SEP DO(12) SEP DO(13) SEP DO(14)
#else
#define ALL_ROWS(DO, SEP) DO(1) SEP DO(2) SEP DO(3) SEP DO(4) SEP DO(5) SEP DO(6)
#endif

ALL_ROWS(EACH_TILE, NOTHING)

/* [rows - 1][A by columns][vectors - 1][last one partial] */
static const tile_fn tiles[TILE_ROWS][2][TILE_VECTORS][2] = {ALL_ROWS(NAME_EACH_PLAIN, COMMA)};
/* [rows - 1][duty]: whole tiles with A by columns */
static const tile_fn tiles_on_duty[TILE_ROWS][4] = {ALL_ROWS(NAME_EACH_DUTY, COMMA)};

FASTNN_INLINE tile_fn tile_for(int rows, int columns, int by_columns) {
    const int vectors = (columns + VLEN - 1) / VLEN;
    return tiles[rows - 1][by_columns][vectors - 1][columns % VLEN != 0];
}

FASTNN_INLINE tile_fn tile_with_duty(int rows, int duty) { return tiles_on_duty[rows - 1][duty]; }

/* Rows of the tallest tile: of an A by rows that share cache sets, as many as have places there. (On
 * Zen 4 64x1024x10 takes 0.63 of the time so, 64x1024x128 0.84.) */
FASTNN_INLINE int64_t tile_height(int64_t lda, int by_columns) {
    const int share_sets = !by_columns && lda * (int64_t)sizeof(real) % HALF_PAGE == 0;
    return share_sets && TILE_ROWS > LOW_ROWS ? LOW_ROWS : TILE_ROWS;
}

/* Rows of C by at most TILE_COLUMNS columns, as tiles of nearly equal height: none is too low to be
 * fast. */
FASTNN_INLINE void strip(const TileShape *shape, const real *a, const real *b, real *c, int64_t rows,
                         int columns, int by_columns) {
    const int lower = tile_height(shape->lda, by_columns) == LOW_ROWS; /* dividing by constants */
    const int64_t tiles = lower ? (rows + LOW_ROWS - 1) / LOW_ROWS : (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t low = rows / tiles, higher = rows - low * tiles, top = higher * (low + 1);
    if (higher) tile_for((int)low + 1, columns, by_columns)(shape, a, b, c, columns, higher);
    a += top * (by_columns ? 1 : shape->lda);
    tile_for((int)low, columns, by_columns)(shape, a, b, c + top * shape->ldc, columns,
                                            tiles - higher);
}

#endif
