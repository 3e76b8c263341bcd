# Matrix products C = epilogue(A B + bias), all three forms of a training step in one driver:
#
#   forward          Y  = X W      A by rows,    B by rows
#   input gradient   dX = dZ W^T   A by rows,    B transposed
#   weight gradient  dW = X^T dZ   A by columns, B by rows
#
# Small products run straight from the matrices: packing costs more than it saves while a panel of B
# stays in the caches. (A small B that comes transposed is turned first.) Larger ones go by blocks
# of K: a few panels of B at a time are copied to contiguous memory, and transposed on the way where
# needed. So is A for many panels, if it is read by columns or tiles are tall (see packs_a).
#
# Each element of C is summed over k in order whatever the tile, or by blocks of K, or by lanes, as
# the whole product has it: results depend neither on the number of threads nor on how a matrix is
# cut into tiles.

cdef enum:
    K_BLOCK = 512            # rows of a panel of B: 64 KiB in either type
    PANELS = 4               # of B packed at a time: they stay in the L2 cache
    M_BLOCK = 19 * 14        # rows of A packed at a time: half a MiB
    N_BLOCK = 512            # columns of a weight array that are updated together
    PACK_COLUMNS = 128       # of a weight array from which its update packs
    X_TILES = 4              # of it whose input is packed together
    A_PANELS = 8             # panels of B from which packing A pays
    FAR_BYTES = 1 << 23      # of a B that comes from the memory
    DIRECT_BYTES = 1 << 19   # of B up to which it is read as it is, if by rows that are not apart
    SMALL_BYTES = 1 << 14    # of a B that stays in the L1 cache

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
    # Epilogue, each part or NULL: c = f(c), then dropped = c mask; or c = c mask, then c = c f'(y).
    activation_loop forward
    activation_grad_loop gradient
    const real* y
    const real* mask
    real* dropped
    const double* constants
    real* scratch


cdef int64_t gemm_scratch() noexcept nogil:
    """Numbers of scratch that a thread needs: for a product, for one with an update, or for these
    without zeros."""
    return max(PANELS * TILE_COLUMNS * K_BLOCK
               + (blocks_of(M_BLOCK, TILE_ROWS) + 1) * a_stride() * K_BLOCK,
               (N_BLOCK + x_stride()) * K_BLOCK + N_BLOCK * TILE_ROWS,
               (SPARSE_DEPTH + SPARSE_ROWS) * SPARSE_VECTORS * VLEN
               + SPARSE_MASKS * <int64_t>sizeof(uint64_t) // <int64_t>sizeof(real),
               (SPARSE_DEPTH + 2 * SPARSE_ROWS) * SPARSE_VECTORS * VLEN
               + SPARSE_ROWS * (SPARSE_BATCH + VLEN)
               + SPARSE_ROWS * (SPARSE_BATCH // SPARSE_DEPTH)
               * <int64_t>sizeof(uint64_t) // <int64_t>sizeof(real))


cdef inline int64_t panels_of(int64_t width) noexcept nogil:
    """Panels of so many columns, the last of which may be partial."""
    return blocks_of(width, TILE_COLUMNS)


cdef inline int64_t a_stride() noexcept nogil:
    """Numbers of one k in a packed tile of A: whole vectors."""
    return blocks_of(TILE_ROWS, VLEN) * VLEN


cdef inline int64_t x_stride() noexcept nogil:
    """Numbers of one k in x^T as dense_update packs it, X_TILES tiles together: whole vectors."""
    return blocks_of(X_TILES * TILE_ROWS, VLEN) * VLEN


cdef inline void masked(const real* x, const real* mask, int64_t n, real* y) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        y[i] = x[i] * mask[i]


cdef inline int tile_epilogue(const Product* p) noexcept nogil:
    """What tiles do of the epilogue."""
    if p.forward == activation_relu:
        return TILE_RELU
    if p.gradient == activation_relu_grad and p.mask == NULL:
        return TILE_RELU_GRADIENT
    return TILE_SUMS


cdef void finish(const Product* p, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                 int done) noexcept nogil:
    """Apply the epilogue, but for what tiles have done of it, to a block of C that has just been
    written and is still in the cache."""
    cdef int64_t at, i, n = j1 - j0
    cdef int forward = p.forward != NULL and done != TILE_RELU
    cdef int gradient = p.gradient != NULL and done != TILE_RELU_GRADIENT
    if not forward and not gradient and p.mask == NULL:
        return
    # Whole rows are one run, if each begins a vector: a number's place in a vector must not depend
    # on which rows a thread has (see rows_at_once).
    if n == p.ldc and n % VLEN == 0:
        n = n * (i1 - i0)
        i1 = i0 + 1
    for i in range(i0, i1):
        at = i * p.ldc + j0
        if forward:
            p.forward(p.c + at, n, p.constants)
        if p.mask != NULL:
            masked(p.c + at, p.mask + at, n, (p.c if p.dropped == NULL else p.dropped) + at)
        if gradient:
            p.gradient(p.c + at, NULL, p.y + at, n, p.constants)


cdef inline int apart(const Product* p) noexcept nogil:
    """Whether the rows of a panel of B fall into few cache sets, too few for all of them."""
    cdef int64_t octets = p.ldb * <int64_t>sizeof(real)
    return octets % HALF_PAGE == 0 and p.k * octets > SMALL_BYTES


cdef inline int64_t parts_of(const Product* p, int direct) noexcept nogil:
    """Parts of K, nearly equal, of which each is summed by itself."""
    cdef int64_t octets = p.k * p.n * <int64_t>sizeof(real)
    if not direct:
        return max(blocks_of(p.k, K_BLOCK), <int64_t>1)
    if p.m > TILE_ROWS and STAYING_BYTES < octets <= DIRECT_BYTES and not apart(p):
        return blocks_of(octets, STAYING_BYTES)
    return 1


cdef void multiply_direct(const Product* p, int64_t i0, int64_t i1, int64_t j0,
                          int64_t j1) noexcept nogil:
    """Rows i0 to i1, columns j0 to j1, straight from the matrices.

    A B that would just push itself out of the second cache goes by parts of K, so that all blocks
    of rows but the first find it there; how many depends on the whole product only.
    """
    cdef TileShape shape
    cdef FewRows few
    cdef int64_t block, blocks, height = tile_height(p.lda, p.a_by_columns)
    cdef int64_t top, bottom, first, j, panel, part, k0, parts = parts_of(p, 1)
    cdef int width
    cdef const real* a
    cdef const real* b
    cdef int64_t octets = p.k * p.n * <int64_t>sizeof(real)
    cdef int small = octets <= SMALL_BYTES
    cdef int are_few = parts == 1 and not p.a_by_columns and i1 - i0 <= (1 if small else MOST_FEW)
    # Of a B that stays in the first cache many rows go by each panel: as many as stay there too
    # until they are finished.
    if small:
        height = max(CHUNK // (j1 - j0), height)
    elif are_few:
        height = FEW_ROWS
    blocks = blocks_of(i1 - i0, height)
    shape.lda = p.lda
    shape.ldb = p.ldb
    shape.ldc = p.ldc
    shape.to_y = <int64_t>p.y - <int64_t>p.c
    for part in range(parts):
        k0 = p.k * part // parts
        shape.k = p.k * (part + 1) // parts - k0
        shape.accumulate = part > 0
        shape.epilogue = tile_epilogue(p) if part == parts - 1 else TILE_SUMS
        b = p.b + k0 * p.ldb
        for block in range(blocks):
            top = i0 + (i1 - i0) * block // blocks
            bottom = i0 + (i1 - i0) * (block + 1) // blocks
            a = p.a + (k0 * p.lda + top if p.a_by_columns else top * p.lda + k0)
            first = j0
            if are_few:
                few = few_rows[bottom - top - 1]
                while j1 - first >= few.columns:
                    shape.bias = p.bias + first if p.bias != NULL else NULL
                    few.run(&shape, a, b + first, p.c + top * p.ldc + first)
                    first += few.columns
            for panel in range(panels_of(j1 - first)):
                j = first + panel * TILE_COLUMNS
                width = <int>min(j1 - j, <int64_t>TILE_COLUMNS)
                shape.bias = p.bias + j if p.bias != NULL else NULL
                strip(&shape, a, b + j, p.c + top * p.ldc + j, bottom - top, width,
                      p.a_by_columns)
            if part == parts - 1:
                if first > j0:
                    finish(p, top, bottom, j0, first, TILE_SUMS)
                finish(p, top, bottom, first, j1, shape.epilogue)


cdef void multiply_by_a_column(const Product* p, int64_t i0, int64_t i1) noexcept nogil:
    """The product with a B of one column, whose tiles would be all but empty: a sum by row."""
    cdef int64_t i
    cdef real bias = 0 if p.bias == NULL else p.bias[0]
    for i in range(i0, i1):
        p.c[i * p.ldc] = row_dot(p.a + i * p.lda, p.b, p.k) + bias
    finish(p, i0, i1, 0, 1, TILE_SUMS)


cdef void multiply_by_a_row(const Product* p, int64_t i0, int64_t i1, int64_t j0,
                            int64_t j1) noexcept nogil:
    """The product with a B of one row, which has nothing to sum."""
    cdef TileShape shape
    cdef int64_t top = i0, bottom
    shape.lda = 1 if p.a_by_columns else p.lda
    shape.ldc = p.ldc
    shape.bias = p.bias + j0 if p.bias != NULL else NULL
    shape.epilogue = tile_epilogue(p)
    shape.to_y = <int64_t>p.y - <int64_t>p.c
    while top < i1:  # by blocks of rows that stay in the first cache
        bottom = min(top + max(CHUNK // (j1 - j0), <int64_t>1), i1)
        rank_one(&shape, p.a + top * shape.lda, p.b + j0, p.c + top * p.ldc + j0, bottom - top,
                 j1 - j0)
        finish(p, top, bottom, j0, j1, shape.epilogue)
        top = bottom


cdef inline void pack_a(const Product* p, int64_t top, int64_t bottom, int64_t k0, int64_t k,
                        real* to, int64_t ld) noexcept nogil:
    """Copy rows top to bottom of A by columns; each k begins ld numbers after the one before."""
    cdef int64_t i
    cdef int part, parts = <int>blocks_of(bottom - top, VLEN), first, width
    cdef const real* a
    for part in range(parts):
        first = part * VLEN
        width = min(VLEN, <int>(bottom - top) - first)
        if p.a_by_columns:
            a = p.a + k0 * p.lda + top + first
            if width == VLEN:
                for i in range(k):
                    v_store(to + i * ld + first, v_load(a + i * p.lda))
            else:
                for i in range(k):
                    v_store(to + i * ld + first, v_load_n(a + i * p.lda, width))
        else:
            transpose_rows(p.a + (top + first) * p.lda + k0, p.lda, width, k, to + first, ld, 0)


cdef inline int fetch_b(const Product* p, TileShape* shape, int64_t number, int64_t j,
                        int64_t width, int64_t k0, int64_t k) noexcept nogil:
    """Let tile `number` ask for its share of B's columns j to j + width, which come next.

    Returns 0 if the tiles before it have asked for all of them.
    """
    cdef int64_t i, groups, steps, row, column
    if p.b_transposed:  # whole rows
        row = number * TILE_NEXT
        if row >= width:
            return 0
        shape.gap = blocks_of(LINE, TILE_FETCH_TURN) * TILE_FETCH_TURN
        shape.next_stride = shape.gap
        for i in range(TILE_NEXT):
            shape.next[i] = p.b + (j + min(row + i, width - 1)) * p.ldb + k0
    else:  # a few lines of each of a range of rows
        shape.gap = blocks_of(4, TILE_FETCH_TURN) * TILE_FETCH_TURN
        shape.next_stride = p.ldb
        groups = blocks_of(width, TILE_NEXT * LINE)
        steps = max(k // shape.gap, <int64_t>1)
        row = number // groups * steps
        if row >= k:
            return 0
        row = min(row, k - steps)
        column = number % groups * TILE_NEXT * LINE
        for i in range(TILE_NEXT):
            shape.next[i] = p.b + (k0 + row) * p.ldb + j + min(column + i * LINE, width - 1)
    return 1


cdef inline void pack_b(const Product* p, int64_t j, int64_t width, int64_t k0, int64_t k,
                        real* to) noexcept nogil:
    """Columns j to j + width of B as panels, one behind the other: rows of TILE_COLUMNS numbers.

    Rows of B are read side by side over all the panels: a panel alone touches two cache lines of
    every row, too little for the prefetchers, and its time is the memory's latency.
    """
    cdef int64_t i, part, v, panel
    cdef int columns
    cdef const real* row
    cdef real* place
    for part in range(blocks_of(width, VLEN)):
        v = part * VLEN
        columns = <int>min(<int64_t>VLEN, width - v)
        if p.b_transposed:
            transpose_rows(p.b + (j + v) * p.ldb + k0, p.ldb, columns, k,
                           to + v // TILE_COLUMNS * TILE_COLUMNS * k + v % TILE_COLUMNS,
                           TILE_COLUMNS, 0)
    if p.b_transposed:
        return
    for i in range(k):
        row = p.b + (k0 + i) * p.ldb + j
        place = to + i * TILE_COLUMNS
        for panel in range(width // TILE_COLUMNS):
            v = panel * TILE_COLUMNS
            for part in range(TILE_VECTORS):
                v_store(place + part * VLEN, v_load(row + v + part * VLEN))
            place += k * TILE_COLUMNS
        v = width // TILE_COLUMNS * TILE_COLUMNS
        while v < width:
            v_store(place, v_load_n(row + v, <int>min(width - v, <int64_t>VLEN)))
            place += VLEN
            v += VLEN


cdef void multiply_packed(const Product* p, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                          int with_a) noexcept nogil:
    cdef TileShape shape
    cdef real* panels = p.scratch
    cdef real* rows = p.scratch + PANELS * TILE_COLUMNS * K_BLOCK
    cdef int64_t k_block, k0, k, m_block, m0, m1, block, blocks, top, bottom, j_block, j, width
    cdef int64_t panel, first, chunk, ahead, since
    cdef int columns, last, by_columns = with_a or p.a_by_columns
    # The first rows of tiles can copy B's rows as they read them, unless these lie a multiple of a
    # page apart: then they all want the same few places of the first cache, and the tiles wait.
    cdef int tiles_pack = by_columns and not p.b_transposed and (
        p.ldb * <int64_t>sizeof(real) % (2 * HALF_PAGE) != 0)
    cdef const real* a
    cdef const real* b
    cdef tile_fn tile
    shape.ldc = p.ldc
    shape.to_y = <int64_t>p.y - <int64_t>p.c
    # Blocks of nearly equal size: a thin one would pack as much as a thick one and use it less.
    cdef int64_t k_blocks = parts_of(p, 0)
    cdef int64_t m_blocks = blocks_of(i1 - i0, M_BLOCK)
    for k_block in range(k_blocks):
        k0 = p.k * k_block // k_blocks
        k = p.k * (k_block + 1) // k_blocks - k0
        last = k0 + k == p.k
        shape.k = k
        shape.accumulate = k0 > 0
        shape.epilogue = tile_epilogue(p) if last else TILE_SUMS
        for m_block in range(m_blocks):
            m0 = i0 + (i1 - i0) * m_block // m_blocks
            m1 = i0 + (i1 - i0) * (m_block + 1) // m_blocks
            blocks = blocks_of(m1 - m0, tile_height(p.lda, by_columns))
            if with_a:
                for block in range(blocks):
                    top = m0 + (m1 - m0) * block // blocks
                    bottom = m0 + (m1 - m0) * (block + 1) // blocks
                    pack_a(p, top, bottom, k0, k, rows + block * k * a_stride(), a_stride())
            # As many panels as fit where whole blocks of K do: with few terms, rows of C are then
            # written in long runs.
            chunk = max(PANELS * K_BLOCK // max(k, <int64_t>1), <int64_t>1) * TILE_COLUMNS
            for j_block in range(blocks_of(j1 - j0, chunk)):
                j = j0 + j_block * chunk
                width = min(j1 - j, chunk)
                ahead = min(j1 - j - width, chunk)
                if not tiles_pack:
                    pack_b(p, j, width, k0, k, panels)
                elif width % TILE_COLUMNS:  # the last panel, which no tile fills
                    first = width // TILE_COLUMNS * TILE_COLUMNS
                    pack_b(p, j + first, width - first, k0, k, panels + first * k)
                since = m0
                for block in range(blocks):
                    top = m0 + (m1 - m0) * block // blocks
                    bottom = m0 + (m1 - m0) * (block + 1) // blocks
                    if with_a:
                        shape.lda = a_stride()
                        a = rows + block * k * shape.lda
                    else:
                        shape.lda = p.lda
                        a = p.a + (k0 * p.lda + top if p.a_by_columns else top * p.lda + k0)
                    for panel in range(panels_of(width)):
                        first = panel * TILE_COLUMNS
                        columns = <int>min(width - first, <int64_t>TILE_COLUMNS)
                        shape.bias = p.bias + j + first if p.bias != NULL else NULL
                        shape.ldb = TILE_COLUMNS
                        b = panels + first * k
                        tile = tile_for(<int>(bottom - top), columns, by_columns)
                        if not by_columns or columns < TILE_COLUMNS:
                            pass
                        elif tiles_pack and block == 0:
                            shape.panel = panels + first * k
                            shape.ldb = p.ldb
                            b = p.b + k0 * p.ldb + j + first
                            tile = tile_with_duty(<int>(bottom - top), TILE_PACKS)
                        elif ahead > 0 and fetch_b(
                                p, &shape, (block - tiles_pack) * panels_of(width) + panel,
                                j + width, ahead, k0, k):
                            tile = tile_with_duty(<int>(bottom - top), TILE_READS)
                        tile(&shape, a, b, p.c + top * p.ldc + j + first, columns, 1)
                    if last and (block == blocks - 1 or (bottom - since) * width >= CHUNK):
                        finish(p, since, bottom, j, j + width, shape.epilogue)
                        since = bottom


cdef inline void divide(int64_t m, int64_t n, int by_columns, int thread, int threads, int64_t* i0,
                        int64_t* i1, int64_t* j0, int64_t* j1) noexcept nogil:
    """A thread's rows i0 to i1 and columns j0 to j1 of an m x n result."""
    if by_columns:
        j0[0] = share(n, TILE_COLUMNS, thread, threads)
        j1[0] = share(n, TILE_COLUMNS, thread + 1, threads)
    else:
        i0[0] = share(m, 1, thread, threads)
        i1[0] = share(m, 1, thread + 1, threads)


cdef inline int packs_a(const Product* p, int64_t columns) noexcept nogil:
    """Whether to copy the rows of A to the order of a tile, for so many columns of C."""
    if columns < A_PANELS * TILE_COLUMNS:
        return 0
    # A low tile reads rows as they are, unless there is something to fetch as it goes by columns.
    return p.a_by_columns or TILE_ROWS > LOW_ROWS or (
        p.b_transposed and p.k * p.n * <int64_t>sizeof(real) > FAR_BYTES)


cdef void multiply(const Product* p, int thread, int threads) noexcept nogil:
    """This thread's part of the product."""
    cdef int64_t i, i0 = 0, i1 = p.m, j0 = 0, j1 = p.n, rows, columns, block, unpacked
    cdef int direct
    cdef Product turned
    # Each thread reads all of the operand whose side is not divided: let that be the smaller one.
    divide(p.m, p.n, p.n >= max(p.m, <int64_t>(threads * TILE_COLUMNS)), thread, threads,
           &i0, &i1, &j0, &j1)
    if i0 >= i1 or j0 >= j1:
        return
    if p.n == 1 and not p.a_by_columns and (p.b_transposed or p.ldb == 1):
        multiply_by_a_column(p, i0, i1)
        return
    if p.k == 1 and (p.ldb == 1 or not p.b_transposed):
        multiply_by_a_row(p, i0, i1, j0, j1)
        return
    if p.b_transposed and p.k * p.n * <int64_t>sizeof(real) <= SMALL_BYTES:
        turned = p[0]
        turned.b_transposed = 0
        turned.ldb = blocks_of(p.n, VLEN) * VLEN
        turned.b = p.scratch
        for block in range(blocks_of(j1 - j0, VLEN)):
            i = j0 + block * VLEN
            transpose_rows(p.b + i * p.ldb, p.ldb, <int>min(j1 - i, <int64_t>VLEN), p.k,
                           p.scratch + i, turned.ldb, 0)
        multiply_direct(&turned, i0, i1, j0, j1)
        return
    # Of a packed product each block of K is summed by itself: where there are several, the way must
    # not depend on a thread's share, or the last bits would.
    if p.k > K_BLOCK:
        rows = p.m
        columns = p.n
    else:
        rows = i1 - i0
        columns = j1 - j0
    # Rows for which B is not worth packing.
    unpacked = 2 * TILE_ROWS
    if not p.a_by_columns and p.k * p.n * <int64_t>sizeof(real) > FAR_BYTES:
        unpacked = FAR_ROWS
    direct = not p.b_transposed and (rows <= unpacked or (
        p.k * columns * <int64_t>sizeof(real) <= DIRECT_BYTES
        and (rows < 8 * TILE_ROWS or not apart(p))))
    if not p.a_by_columns and SPARSE_INPUTS <= p.k <= SPARSE_MOST and (
            not p.b_transposed or i1 - i0 >= SPARSE_TURNS) and (
            density(p.a + i0 * p.lda, p.lda, i1 - i0, p.k) <= sparse_percent(j1 - j0)):
        j0 = multiply_sparse(p, i0, i1, j0, j1, parts_of(p, direct))
        if j0 == j1:
            return
    if not direct:
        multiply_packed(p, i0, i1, j0, j1, packs_a(p, j1 - j0))
        return
    if threads > 1:  # another core may have written B: fetch it faster than tile by tile
        for i in range(p.k):
            prefetch_l2(p.b + i * p.ldb + j0, j1 - j0)
    multiply_direct(p, i0, i1, j0, j1)
