# Matrix products C = epilogue(A B + bias), all three forms of a training step in one driver:
#
#   forward          Y  = X W      A by rows,    B by rows
#   input gradient   dX = dZ W^T   A by rows,    B transposed
#   weight gradient  dW = X^T dZ   A by columns, B by rows
#
# Small products run straight from the matrices: packing costs more than it saves while a panel of B
# stays in the caches. Larger ones go by blocks of K: one panel of B at a time is copied to
# contiguous memory (and transposed on the way where needed), and so are the rows of A, whose stride
# would otherwise put all rows of a tile into the same few cache sets.
#
# Each element of C is summed over k in order whatever the tile, so results depend neither on the
# number of threads nor on how a matrix is cut into tiles.

cdef enum:
    K_BLOCK = 512            # rows of a panel of B: 64 KiB in either type, it stays in the L2 cache
    M_BLOCK = 18 * 14        # rows of A packed at a time: half a MiB
    N_BLOCK = 512            # columns of a weight array that are updated together
    PACK_COLUMNS = 256       # of a weight array from which its update packs
    PREFETCH_BYTES = 1 << 19  # of a weight array that does not stay in the cache with its state
    A_PADDING = 16           # keeps packed rows of A off a power-of-two stride
    A_PANELS = 8             # panels of B from which packing A pays
    DIRECT_BYTES = 1 << 19    # of B up to which nothing is packed

cdef struct Product:
    int64_t m
    int64_t n
    int64_t k
    const real* a
    int64_t lda
    int a_by_columns
    const real* b
    int64_t ldb
    int b_transposed
    real* c
    int64_t ldc
    const real* bias
    activation_loop forward          # epilogue: c = f(c), or NULL
    activation_grad_loop gradient    # epilogue: c = c f'(y), or NULL
    const real* y
    const double* constants
    real* scratch


cdef int64_t gemm_scratch() noexcept nogil:
    """Numbers of scratch that a thread needs: for a product, or for one with an update."""
    return max(TILE_COLUMNS * K_BLOCK + M_BLOCK * (K_BLOCK + A_PADDING),
               (N_BLOCK + TILE_ROWS) * K_BLOCK + N_BLOCK * TILE_ROWS)


cdef inline void finish(const Product* p, int64_t i0, int64_t i1, int64_t j0,
                        int64_t j1) noexcept nogil:
    """Apply the epilogue to a block of C that has just been written and is still in the cache."""
    cdef int64_t at, i, n = j1 - j0
    if p.forward == NULL and p.gradient == NULL:
        return
    if n == p.ldc:  # whole rows: one contiguous run
        n = n * (i1 - i0)
        i1 = i0 + 1
    for i in range(i0, i1):
        at = i * p.ldc + j0
        if p.forward != NULL:
            p.forward(p.c + at, n, p.constants)
        else:
            p.gradient(p.c + at, NULL, p.y + at, n, p.constants)


cdef void multiply_direct(const Product* p, int64_t i0, int64_t i1, int64_t j0,
                          int64_t j1) noexcept nogil:
    cdef TileShape shape
    cdef int64_t block, blocks = blocks_of(i1 - i0, TILE_ROWS)
    cdef int64_t top, bottom, j, panel
    cdef int width
    cdef const real* a
    shape.k = p.k
    shape.lda = p.lda
    shape.ldb = p.ldb
    shape.ldc = p.ldc
    shape.accumulate = 0
    for block in range(blocks):  # of nearly equal height, so that none is left too low to be fast
        top = i0 + (i1 - i0) * block // blocks
        bottom = i0 + (i1 - i0) * (block + 1) // blocks
        a = p.a + (top if p.a_by_columns else top * p.lda)
        for panel in range(blocks_of(j1 - j0, TILE_COLUMNS)):
            j = j0 + panel * TILE_COLUMNS
            width = <int>min(j1 - j, <int64_t>TILE_COLUMNS)
            shape.bias = p.bias + j if p.bias != NULL else NULL
            tile_for(<int>(bottom - top), width, p.a_by_columns)(
                &shape, a, p.b + j, p.c + top * p.ldc + j, width)
        finish(p, top, bottom, j0, j1)


cdef inline void pack_a(const Product* p, int64_t top, int64_t bottom, int64_t k0, int64_t k,
                        real* to, int64_t ld) noexcept nogil:
    """Rows top to bottom of A: by rows with stride ld, or by columns without gaps."""
    cdef int64_t i, rows = bottom - top
    cdef int part, width
    cdef const real* a = p.a + k0 * p.lda + top
    if p.a_by_columns:
        for i in range(k):
            for part in range(<int>blocks_of(rows, VLEN)):
                width = min(VLEN, <int>rows - part * VLEN)
                v_store_n(to + part * VLEN, v_load_n(a + part * VLEN, width), width)
            to += rows
            a += p.lda
    else:
        for i in range(rows):
            memcpy(to + i * ld, p.a + (top + i) * p.lda + k0, k * sizeof(real))


cdef inline void pack_b(const Product* p, int64_t j, int width, int64_t k0, int64_t k,
                        real* to) noexcept nogil:
    """Columns j to j + width of B as rows of TILE_COLUMNS numbers, filled up with zeros."""
    cdef int64_t i
    cdef int part, v, columns
    for part in range(<int>blocks_of(width, VLEN)):
        v = part * VLEN
        columns = min(VLEN, width - v)
        if p.b_transposed:
            transpose_rows(p.b + (j + v) * p.ldb + k0, p.ldb, columns, k, to + v, TILE_COLUMNS, 0)
        elif columns == VLEN:
            for i in range(k):
                v_store(to + i * TILE_COLUMNS + v, v_load(p.b + (k0 + i) * p.ldb + j + v))
        else:
            for i in range(k):
                v_store(to + i * TILE_COLUMNS + v,
                        v_load_n(p.b + (k0 + i) * p.ldb + j + v, columns))


cdef void multiply_packed(const Product* p, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                          int with_a) noexcept nogil:
    cdef TileShape shape
    cdef real* panel = p.scratch
    cdef real* rows = p.scratch + TILE_COLUMNS * K_BLOCK
    cdef int64_t k_block, k0, k, m_block, m0, m1, block, blocks, top, bottom, j_block, j
    cdef int width, last
    cdef const real* a
    shape.ldb = TILE_COLUMNS
    shape.ldc = p.ldc
    for k_block in range(max(blocks_of(p.k, K_BLOCK), <int64_t>1)):
        k0 = k_block * K_BLOCK
        k = min(p.k - k0, <int64_t>K_BLOCK)
        last = k0 + k == p.k
        shape.k = k
        shape.accumulate = k0 > 0
        for m_block in range(blocks_of(i1 - i0, M_BLOCK)):
            m0 = i0 + m_block * M_BLOCK
            m1 = min(m0 + M_BLOCK, i1)
            blocks = blocks_of(m1 - m0, TILE_ROWS)
            if with_a:
                for block in range(blocks):
                    top = m0 + (m1 - m0) * block // blocks
                    bottom = m0 + (m1 - m0) * (block + 1) // blocks
                    pack_a(p, top, bottom, k0, k,
                           rows + (top - m0) * (k if p.a_by_columns else k + A_PADDING),
                           k + A_PADDING)
            for j_block in range(blocks_of(j1 - j0, TILE_COLUMNS)):
                j = j0 + j_block * TILE_COLUMNS
                width = <int>min(j1 - j, <int64_t>TILE_COLUMNS)
                pack_b(p, j, width, k0, k, panel)
                shape.bias = p.bias + j if p.bias != NULL else NULL
                for block in range(blocks):
                    top = m0 + (m1 - m0) * block // blocks
                    bottom = m0 + (m1 - m0) * (block + 1) // blocks
                    if not with_a:
                        shape.lda = p.lda
                        a = p.a + (k0 * p.lda + top if p.a_by_columns else top * p.lda + k0)
                    elif p.a_by_columns:
                        shape.lda = bottom - top
                        a = rows + (top - m0) * k
                    else:
                        shape.lda = k + A_PADDING
                        a = rows + (top - m0) * shape.lda
                    tile_for(<int>(bottom - top), width, p.a_by_columns)(
                        &shape, a, panel, p.c + top * p.ldc + j, width)
                if last:
                    finish(p, m0, m1, j, j + width)


cdef inline void divide(int64_t m, int64_t n, int thread, int threads, int64_t* i0, int64_t* i1,
                        int64_t* j0, int64_t* j1) noexcept nogil:
    """A thread's rows i0 to i1 and columns j0 to j1 of an m x n result.

    Rows where there are enough. Giving each thread its own columns of the weights, in forward and
    in update, would keep them in its cache; tried, it took 1.4 times as long (784-128-10, two
    threads): runs of columns of two threads lie side by side in every page, and each core's
    prefetcher takes away lines that the other is about to write.
    """
    if m < threads * TILE_ROWS:
        j0[0] = share(n, TILE_COLUMNS, thread, threads)
        j1[0] = share(n, TILE_COLUMNS, thread + 1, threads)
    else:
        i0[0] = share(m, 1, thread, threads)
        i1[0] = share(m, 1, thread + 1, threads)


cdef void multiply(const Product* p, int thread, int threads) noexcept nogil:
    """This thread's part of the product."""
    cdef int64_t i0 = 0, i1 = p.m, j0 = 0, j1 = p.n
    divide(p.m, p.n, thread, threads, &i0, &i1, &j0, &j1)
    if i0 >= i1 or j0 >= j1:
        return
    if threads > 1 and not p.b_transposed:
        prefetch_l2(p.b, p.k * p.n)
    if not p.b_transposed and (i1 - i0 <= 2 * TILE_ROWS
                               or p.k * (j1 - j0) * <int64_t>sizeof(real) <= DIRECT_BYTES):
        multiply_direct(p, i0, i1, j0, j1)
    else:
        multiply_packed(p, i0, i1, j0, j1, j1 - j0 >= A_PANELS * TILE_COLUMNS)
